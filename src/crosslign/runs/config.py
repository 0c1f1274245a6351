"""What defines a run or an evaluation: plain typed data. `recipe` reads it, `prepare` checks it against the files.

The text under a field is its explanation in `crosslign train --help`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from crosslign.types import Label


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class LoraConfig(Section):
    r: int = Field(16, ge=1)
    """Rank of the adapter."""
    alpha: int = Field(32, ge=1)
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
    """auto: the checkpoint's own on an accelerator, float32 on CPU."""
    attn_implementation: str | None = None
    """sdpa, flash_attention_2, eager, ...; null for transformers' choice."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only if you trust its authors."""
    finetuning: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter, or all weights (the teacher is then a second copy)."""
    lora: LoraConfig = LoraConfig()
    frozen: list[str] = []
    """Full fine-tuning only: parameters whose name matches one of these regular expressions stay as they are."""

    @field_validator("frozen")
    @classmethod
    def _compiles(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    @model_validator(mode="after")
    def _frozen_is_for_full(self) -> ModelConfig:
        if self.frozen and self.finetuning == "lora":
            raise ValueError("frozen is for finetuning: full; with lora the model's own weights are all frozen")
        return self


class StudentConfig(Section):
    messages: list[dict[str, str]] | None = None
    """Template of the student's context; null for one user turn that holds the query."""
    max_length: int = Field(1024, ge=8)
    """Longest student context in tokens."""
    chat_template_kwargs: dict[str, Any] = {"enable_thinking": False}
    """Options of the chat template, for example enable_thinking for Qwen3."""


class TeacherConfig(Section):
    template: str | dict[str, Any] = "instruct"
    """instruct, judged, dialogue, a YAML file, or the template itself."""
    judgement: Literal["none", "generated"] | None = None
    """Whether the frozen teacher writes a judgement first; null for the template's choice."""
    max_length: int = Field(2048, ge=8)
    """Longest teacher context in tokens; independent of the student's."""
    max_judgement_length: int = Field(128, ge=1)
    """Longest generated judgement in tokens."""
    chat_template_kwargs: dict[str, Any] = {"enable_thinking": False}
    """Options of the chat template for the teacher's context and its judgement."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Full fine-tuning only: the type of the teacher's copy; null for the student's."""


class TableConfig(Section):
    path: str
    """CSV, TSV, JSONL or Parquet file, hub dataset id, or builtin:demo."""
    columns: dict[str, str] = {}
    """Columns with other names: {en: prompt, id: row_id, label: kind}."""
    label: Label = "unlabelled"
    """Label of rows that have none: harmful, benign or unlabelled."""
    weight: float = Field(1.0, ge=0)
    """Share of this table in the mix, relative to the other tables."""
    revision: str | None = None
    """Hub datasets: revision."""
    split: str = "train"
    """Hub datasets: split."""
    config_name: str | None = None
    """Hub datasets: configuration."""
    where: dict[str, list[str]] = {}
    """Keep rows whose column has one of these values: {category: [theft, fraud]}."""
    skip: int = Field(0, ge=0)
    """Leave out this many of the kept rows, to hold them back."""
    limit: int | None = Field(None, ge=1)
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
    epoch_size: int | None = Field(None, ge=1)
    """Queries in an epoch; null for the number of texts."""
    on_overflow: Literal["error", "drop"] = "error"
    """A query whose context is too long. error: stop before training; drop: leave it out, and say so."""


class StrategyConfig(Section):
    name: str = "on_policy"
    """on_policy, off_policy, mixed, or one of an installed package."""
    options: dict[str, Any] = {}
    """The strategy's own options, for example {lambda_on_policy: 0.5} for mixed."""


class SamplingConfig(Section):
    temperature: float = Field(1.0, ge=0)
    """Temperature of rollouts (not of the loss); 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens with this share of the probability; 1.0 is off."""
    top_k: int = Field(0, ge=0)
    """Sample from this many likeliest tokens; 0 is off."""
    max_completion_length: int = Field(256, ge=1)
    """Longest completion in tokens."""
    batch_size: int | None = Field(None, ge=1)
    """Most rows in one call of generate, to save memory; null for a whole accumulation window."""


class ObjectiveConfig(Section):
    divergence: Literal["reverse_kl", "forward_kl", "jsd"] = "reverse_kl"
    """reverse_kl: KL(student || teacher); forward_kl: KL(teacher || student); jsd: generalised Jensen-Shannon."""
    weighting: Literal["dpsw", "teacher", "student", "uniform"] = "dpsw"
    """dpsw: teacher's confidence times student's disagreement; teacher or student: one of them; uniform: none."""
    top_k: int = Field(32, ge=1)
    """K of the teacher's confidence in DPSW."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits of both sides in the loss (not the sampling temperature)."""
    beta: float = Field(0.5, gt=0, lt=1)
    """jsd only: share of the teacher in the mixture."""
    implementation: Literal["fused", "reference"] = "fused"
    """fused: logits of a few tokens at a time; reference: of the whole batch, to compare with. The same numbers."""


class JudgeConfig(Section):
    names: list[str] = Field(["lexicon"], min_length=1)
    """lexicon (offline, a proxy), qwen3guard, guard:MODEL, llm:MODEL, ... The first decides; the others are compared
    with it. A name alone may stand for the whole section."""
    url: str | None = None
    """Judge llm: its OpenAI-compatible endpoint, such as http://localhost:8000/v1."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Judge llm: the environment variable that holds the endpoint's key."""
    rubric: Literal["multijail", "strongreject"] = "multijail"
    """Judge llm: what it is asked."""
    concurrency: int = Field(8, ge=1)
    """Judge llm: requests at once."""
    batch_size: int = Field(8, ge=1)
    """Guards: rows at once."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Guards: type of the weights."""
    allow_self: bool = False
    """Let the model under test judge itself."""

    @model_validator(mode="before")
    @classmethod
    def _from_names(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = [name.strip() for name in given.split(",") if name.strip()]
        return {"names": given} if isinstance(given, list) else given


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
    skip: int = Field(0, ge=0)
    """Leave out this many rows of each task: those that were trained on."""
    limit: int | None = Field(None, ge=1)
    """Use at most this many rows of a task, the same in every language and run; null for all."""
    temperature: float = Field(0.0, ge=0)
    """Temperature of the completions; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens with this share of the probability; 1.0 is off."""
    max_completion_length: int = Field(256, ge=1)
    """Longest completion in tokens."""
    batch_size: int = Field(16, ge=1)
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


class CheckpointEvaluationConfig(EvaluationConfig):
    """An evaluation of the model while it is trained."""

    limit: int | None = Field(50, ge=1)
    """Use at most this many rows of a task, the same in every language and run; null for all."""
    max_completion_length: int = Field(128, ge=1)
    """Longest completion in tokens."""
    every_steps: int = Field(0, ge=0)
    """Evaluate after every so many optimiser steps, and at the end; 0 for the end alone."""
    at_start: bool = True
    """Evaluate before the first step too."""
    best: BestConfig | None = BestConfig()
    """Keeps the best checkpoint in best/ of the run's folder; null to keep none."""


class GateConfig(Section):
    min_flip_rate: float = Field(0.5, ge=0, le=1)
    """Of the queries that the student answers unsafely, the teacher must answer this share safely, in each language."""
    queries: int = Field(20, ge=1)
    """Harmful queries a language that are tried, and as many benign ones; a large number means all."""
    judge: JudgeConfig = JudgeConfig()
    """Who judges the answers."""
    drop: Literal["none", "list", "drop"] = "none"
    """Tried rows that the teacher answers unsafely: keep them (none), list them in gate.jsonl, or also drop them."""


class RunConfig(Section):
    """Everything that defines a training run."""

    model: ModelConfig
    data: DataConfig
    output_dir: str = "runs/msd"
    """Where adapter or model, logs and checkpoints go."""
    seed: int = Field(0, ge=0)
    """Seed of mixing, sampling, adapter initialisation and training."""
    cache_dir: str | None = None
    """Where the frozen teacher's completions are kept; null for crosslign's folder in the user's cache."""
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig = TeacherConfig()
    strategy: StrategyConfig = StrategyConfig()
    sampling: SamplingConfig = SamplingConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    log_rollouts: int = Field(2, ge=0)
    """Rollouts of each step that are written to rollouts.jsonl."""
    divergence_queries: int = Field(12, ge=0)
    """Training queries on whose first completions the divergence is measured before and after; 0 for none."""
    evaluation: CheckpointEvaluationConfig | None = None
    """Tasks on which the model is evaluated during training; null for none."""
    gate: GateConfig | None = None
    """Try the teacher before training, and stop if it does not help; null: do not try."""
    training: dict[str, Any] = {}
    """Any field of transformers.TrainingArguments."""
