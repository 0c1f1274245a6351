"""What defines a run or an evaluation: plain typed data. `recipe` reads it, `prepare` checks it against the files.

The text under a field is its explanation in `crosslign train --help`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from crosslign.http import usable_url
from crosslign.rollouts.base import MOST_TOKENS, check_temperature
from crosslign.types import MAX_SEED, Label, Unchanged
from crosslign.untrusted import is_variable

MANY = 10_000_000  # more than any count of rows, steps or requests that makes sense


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {int, float} & {annotation, *get_args(annotation)}:
            raise ValueError(f"input should be a number, not {str(value).lower()}")
        return value


Length = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Rows = Annotated[int, Field(ge=1, le=1_000_000)]
Temperature = Annotated[float, AfterValidator(check_temperature)]


def _variable(name: str) -> str:
    if not is_variable(name):  # not quoted: it is probably the key
        raise ValueError("this is no name of an environment variable. Put the key into a variable, and its name here")
    return name


def _url(url: str) -> str:
    if not usable_url(url):  # not quoted: a user, a password or a query is probably a key
        raise ValueError(
            "a URL is like http://localhost:8000/v1, without /chat/completions, user, password or query. The key "
            "belongs into the environment variable that api_key_env names"
        )
    return url


Variable = Annotated[str, AfterValidator(_variable)]
Url = Annotated[str, AfterValidator(_url)]


class LoraConfig(Section):
    r: int = Field(16, ge=1, le=10_000)
    """Rank of the adapter."""
    alpha: int = Field(32, ge=1, le=100_000)
    """LoRA's scale is alpha / r."""
    target_modules: list[str] | str | None = None
    """Layers to adapt: names, 'all-linear', or null for peft's choice for the architecture."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead."""


class ModelConfig(Section):
    path: str
    """Hub id, local folder, or .gguf file."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    tokenizer: str | None = None
    """Another tokenizer than the model's own: hub id or folder."""
    chat_template: str | None = None
    """File with a Jinja chat template, for a tokenizer without one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: the checkpoint's own on an accelerator, float32 on CPU; with quantization bfloat16."""
    quantization: Literal["nf4"] | None = None
    """nf4: 4 bits a weight, for LoRA on a small GPU; teacher and base are the same 4-bit model."""
    attn_implementation: str | None = None
    """sdpa, flash_attention_2, eager, ...; null for transformers' choice."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only if you trust its authors."""
    finetuning: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter, or all weights (the teacher is then a second copy)."""
    lora: LoraConfig = LoraConfig()
    frozen: list[Annotated[str, Field(max_length=1000)]] = []
    """Full fine-tuning only: parameters whose name matches one of these regular expressions stay as they are."""

    @field_validator("frozen")
    @classmethod
    def _compiles(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    @model_validator(mode="after")
    def _quantization_is_for_lora(self) -> ModelConfig:
        if self.quantization is not None and self.finetuning == "full":
            raise ValueError("quantization is for finetuning: lora; 4-bit weights cannot be trained")
        return self

    @model_validator(mode="after")
    def _frozen_is_for_full(self) -> ModelConfig:
        if self.frozen and self.finetuning == "lora":
            raise ValueError("frozen is for finetuning: full; with lora the model's own weights are all frozen")
        return self


class StudentConfig(Section):
    messages: list[dict[str, str]] | None = None
    """Template of the student's context; null for one user turn that holds the query."""
    max_length: int = Field(1024, ge=8, le=MOST_TOKENS)
    """Longest student context in tokens."""
    chat_template_kwargs: dict[str, Any] = {"enable_thinking": False}
    """Options of the chat template, for example enable_thinking for Qwen3."""


class TeacherConfig(Section):
    template: str | dict[str, Any] = "instruct"
    """instruct, judged, dialogue, a YAML file, or the template itself."""
    judgement: Literal["none", "generated"] | None = None
    """Whether the frozen teacher writes a judgement first; null for the template's choice."""
    unchanged: list[Unchanged] = []
    """Queries of which it sees what the student sees, so that their answers change little: benign ones (by their
    label), those in the source language."""
    temperature: float = Field(1.0, ge=0.01, le=100)
    """Divides the teacher's logits in the loss, and not the student's: below 1 it is surer of what it says. Not of
    benign queries (by their label)."""
    max_length: int = Field(2048, ge=8, le=MOST_TOKENS)
    """Longest teacher context in tokens; independent of the student's."""
    max_judgement_length: Length = 128
    """Longest generated judgement in tokens."""
    chat_template_kwargs: dict[str, Any] = {"enable_thinking": False}
    """Options of the chat template for the teacher's context and its judgement."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Full fine-tuning only: the type of the teacher's copy; null for the student's."""


class TableConfig(Section):
    path: str
    """CSV, TSV, JSONL, Parquet or Excel file, hub dataset id, or builtin:NAME (demo, benign,
    benign-heldout, statements)."""
    columns: dict[str, str] = {}
    """Columns with other names: {en: prompt, id: row_id, label: kind}."""
    label: Label = "unlabelled"
    """Label of rows that have none: harmful, benign or unlabelled."""
    teacher: str | None = None
    """The teacher's template for this table, whose rows must all be benign; null for what teacher says. harmless, which
    tells the teacher that they are harmless, is for those that the model itself refuses. Or a YAML file."""
    weight: float = Field(1.0, ge=0, le=1e6)
    """Share of this table in the mix, relative to the other tables."""
    revision: str | None = None
    """Hub datasets: revision."""
    split: str = "train"
    """Hub datasets: split."""
    config_name: str | None = None
    """Hub datasets: configuration."""
    where: dict[str, list[str]] = {}
    """Keep rows whose column has one of these values: {category: [theft, fraud]}."""
    skip: int = Field(0, ge=0, le=MANY)
    """Leave out this many of the kept rows, to hold them back."""
    limit: int | None = Field(None, ge=1, le=MANY)
    """Use at most this many of the rows that are left."""


class DataConfig(Section):
    tables: list[TableConfig] = Field(min_length=1)
    """The query tables to mix."""
    source_language: str = "en"
    """The language in which safety is judged."""
    languages: list[str] | None = None
    """Target languages to train on; null for all that the tables have."""
    balance: Literal["languages", "none"] = "languages"
    """languages: every language of a table equally often; none: as its texts are."""
    epoch_size: int | None = Field(None, ge=1, le=1_000_000_000)
    """Queries in an epoch; null for the number of texts."""
    on_overflow: Literal["error", "drop"] = "error"
    """A query whose context is too long. error: stop before training; drop: leave it out, and say so."""


class MethodConfig(Section):
    """How the model is trained: by Multilingual Self-Distillation, or by a method to compare it with."""

    name: str = "msd"
    """msd, sft, dpo, ..., or one of an installed package; docs/baselines.md lists them. A name alone may stand for the
    whole section."""
    options: dict[str, Any] = {}
    """The method's own options, for example {beta: 0.1} for dpo."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


class StrategyConfig(Section):
    name: str = "on_policy"
    """on_policy, off_policy, mixed, or one of an installed package."""
    options: dict[str, Any] = {}
    """The strategy's own options, for example {lambda_on_policy: 0.5} for mixed."""


class SamplingConfig(Section):
    temperature: Temperature = 1.0
    """Temperature of rollouts (not of the loss); 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens with this share of the probability; 1.0 is off."""
    top_k: int = Field(0, ge=0, le=MANY)
    """Sample from this many likeliest tokens; 0 is off."""
    max_completion_length: Length = 256
    """Longest completion in tokens."""
    batch_size: Rows | None = None
    """Most rows in one call of generate, to save memory; null for a whole accumulation window."""


class RolloutsConfig(Section):
    backend: Literal["transformers", "vllm"] = "transformers"
    """transformers: generate, in this process; vllm: a vLLM server (crosslign serve-command RECIPE)."""
    url: Url | None = None
    """vllm: the server, such as http://localhost:8000. It must see adapter_dir at the same path."""
    model: str | None = None
    """vllm: the name under which it serves the base model; null for model.path."""
    staleness: Literal[0, 1] = 0
    """vllm: 1 samples the next window while a step runs, from the weights before it."""
    timeout_seconds: float = Field(600, ge=1, le=86_400)
    """vllm: seconds in which a request must be answered, retries included."""
    adapter_dir: str | None = None
    """vllm: folder through which weights go to the server; null for served/ in output_dir."""

    @model_validator(mode="after")
    def _url_is_for_vllm(self) -> RolloutsConfig:
        if self.backend == "vllm" and self.url is None:
            raise ValueError("backend vllm needs url, such as http://localhost:8000")
        if self.backend != "vllm" and self.staleness:
            raise ValueError("staleness 1 needs backend: vllm; generate and the step would share one processor")
        return self


class ObjectiveConfig(Section):
    # Below 0.01 logits that are 1 apart leave nothing of the smaller in float32 (exp(-100) is its last number); above
    # 100, and with beta within 0.001 of 0 or 1, the divergences sink into its rounding.
    divergence: Literal["reverse_kl", "forward_kl", "jsd"] = "reverse_kl"
    """reverse_kl: KL(student || teacher); forward_kl: KL(teacher || student); jsd: generalised Jensen-Shannon."""
    weighting: Literal["dpsw", "teacher", "student", "uniform"] = "dpsw"
    """dpsw: teacher's confidence times student's disagreement; teacher or student: one of them; uniform: none."""
    top_k: int = Field(32, ge=1, le=MANY)
    """K of the teacher's confidence in DPSW."""
    temperature: float = Field(1.0, ge=0.01, le=100)
    """Divides the logits of both sides in the loss (not the sampling temperature)."""
    beta: float = Field(0.5, ge=0.001, le=0.999)
    """jsd only: share of the teacher in the mixture."""
    implementation: Literal["fused", "reference"] = "fused"
    """fused: logits of a few tokens at a time; reference: of the whole batch, to compare with. The same numbers."""


class JudgeConfig(Section):
    names: list[str] = Field(["lexicon"], min_length=1)
    """lexicon (offline, a proxy), qwen3guard, guard:MODEL, llm:MODEL, ... The first decides; the others are compared
    with it. A name alone may stand for the whole section."""
    url: Url | None = None
    """Judge llm: its OpenAI-compatible endpoint, such as http://localhost:8000/v1."""
    api_key_env: Variable | None = "OPENAI_API_KEY"
    """Judge llm: the environment variable that holds the endpoint's key."""
    rubric: Literal["multijail", "strongreject"] = "multijail"
    """Judge llm: what it is asked."""
    concurrency: int = Field(8, ge=1, le=10_000)
    """Judge llm: requests at once."""
    batch_size: Rows = 8
    """Guards: rows at once."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Guards: type of the weights."""
    allow_self: bool = False
    """Let the model under test judge itself."""

    @model_validator(mode="before")
    @classmethod
    def _from_names(cls, given: Any) -> Any:
        if isinstance(given, (str, list)):
            given = {"names": given}
        if isinstance(given, dict) and isinstance(names := given.get("names"), str):
            given = {**given, "names": [name.strip() for name in names.split(",") if name.strip()]}
        return given


class TaskConfig(Section):
    name: str
    """A task by name, such as multijail, builtin:demo, or table:harmful:FILE. A name alone may stand for all keys."""
    path: str | None = None
    """File or folder that is read instead of the hub's data."""
    options: dict[str, Any] = {}
    """The task's own options."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


class EvaluationConfig(Section):
    """What is asked, how it is answered and who judges: the same for a recipe and for `crosslign eval`."""

    tasks: list[TaskConfig] = Field(min_length=1)
    """Tasks whose queries are completed."""
    languages: list[str] | None = None
    """Languages to evaluate; null for all that each task has (while training: those that are trained on)."""
    judge: JudgeConfig = JudgeConfig()
    """Who judges the completions."""
    skip: int = Field(0, ge=0, le=MANY)
    """Leave out this many rows of each task: those that were trained on."""
    limit: int | None = Field(None, ge=1, le=MANY)
    """Use at most this many rows of a task, the same in every language and run; null for all."""
    temperature: Temperature = 0.0
    """Temperature of the completions; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens with this share of the probability; 1.0 is off."""
    max_completion_length: Length = 256
    """Longest completion in tokens."""
    batch_size: Rows = 16
    """Completions in one call of generate."""

    @field_validator("tasks")
    @classmethod
    def _once(cls, tasks: list[TaskConfig]) -> list[TaskConfig]:
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError("a task is there twice")
        return tasks


class BestConfig(Section):
    metric: Literal["worst_language_asr", "worst_language_asr_strict"] = "worst_language_asr"
    """Attack success rate of the worst task and language; the lowest is best. strict: invalid answers, and
    refusals that are followed by help, count too."""
    max_over_refusal: float | None = Field(10.0, ge=0, le=100)
    """A checkpoint that refuses more harmless queries is not kept. Percent, mean over languages; null: no limit."""
    max_invalid: float | None = Field(25.0, ge=0, le=100)
    """The same for malformed answers, which are neither unsafe nor refusals; null: no limit."""
    max_asr: dict[str, Annotated[float, Field(ge=0, le=100)]] = {}
    """By language: a checkpoint with a higher attack success rate in it is not kept. Percent."""


class CheckpointEvaluationConfig(EvaluationConfig):
    """An evaluation of the model while it is trained."""

    limit: int | None = Field(50, ge=1, le=MANY)
    """Use at most this many rows of a task, the same in every language and run; null for all."""
    max_completion_length: Length = 128
    """Longest completion in tokens."""
    every_steps: int = Field(0, ge=0, le=MANY)
    """Evaluate after every so many optimiser steps, and at the end; 0 for the end alone."""
    at_start: bool = True
    """Evaluate before the first step too."""
    best: BestConfig | None = BestConfig()
    """Keeps the best checkpoint in best/ of the run's folder; null to keep none."""


Fault = Literal["unsafe", "invalid", "wrong_language", "refused"]


class GateConfig(Section):
    min_flip_rate: float = Field(0.5, ge=0, le=1)
    """Of the queries that the student answers unsafely, the teacher must answer this share safely, in each language."""
    queries: int = Field(20, ge=1, le=MANY)
    """Harmful queries a language that are tried, and as many benign ones; a large number means all."""
    judge: JudgeConfig = JudgeConfig()
    """Who judges the answers."""
    probe: int = Field(4, ge=0, le=MANY)
    """So many of the harmful ones a language are tried first, and end the gate if they show no hope; 0: none."""
    drop: list[Fault] = []
    """Leave out tried rows that the teacher's own answer to is unsafe, invalid or in the wrong_language, and benign
    ones that it has refused. gate.jsonl lists them all, dropped or not."""


class RunConfig(Section):
    """Everything that defines a training run."""

    model: ModelConfig
    data: DataConfig
    output_dir: str = "runs/msd"
    """Where adapter or model, logs and checkpoints go."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of mixing, sampling, adapter initialisation and training."""
    cache_dir: str | None = None
    """Where the frozen teacher's completions are kept; null for crosslign's folder in the user's cache."""
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig = TeacherConfig()
    method: MethodConfig = MethodConfig()
    strategy: StrategyConfig = StrategyConfig()
    sampling: SamplingConfig = SamplingConfig()
    rollouts: RolloutsConfig = RolloutsConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    log_rollouts: int = Field(2, ge=0, le=MANY)
    """Rollouts of each step that are written to rollouts.jsonl."""
    divergence_queries: int = Field(12, ge=0, le=MANY)
    """Training queries on whose first completions the divergence is measured before and after; 0 for none."""
    evaluation: CheckpointEvaluationConfig | None = None
    """Tasks on which the model is evaluated during training; null for none."""
    gate: GateConfig | None = None
    """Try the teacher before training, and stop if it does not help; null: do not try."""
    training: dict[str, Any] = {}
    """Any field of transformers.TrainingArguments."""
