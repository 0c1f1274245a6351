"""A run's configuration: plain typed data from YAML, with command-line overrides on top.

Nothing here touches a model or a file of the run; `build.py` turns it into objects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from crosslign.types import CrosslignError, Label, nearest


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
    cache_hidden: bool = False
    """Off-policy: keep the teacher's hidden states on disk for later epochs and runs; the size is said at the start."""


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
    """A query whose context is over a limit: stop before training, or leave it out and say so."""


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


class BestConfig(Section):
    metric: Literal["worst_language_asr", "worst_language_asr_strict"] = "worst_language_asr"
    """The lowest is best: highest attack success rate of all tasks and languages; strict: invalid answers count too."""
    max_over_refusal: float | None = Field(10.0, ge=0, le=100)
    """Percent of harmless queries refused, mean over languages, above which nothing is kept; null for no limit."""
    max_invalid: float | None = Field(25.0, ge=0, le=100)
    """Likewise for malformed answers: a broken model is neither unsafe nor over-refusing; null for no limit."""


class EvaluationConfig(Section):
    tasks: list[str] = Field(min_length=1)
    """Tasks by name, such as multijail, builtin:demo, or table:harmful:FILE and table:benign:FILE."""
    languages: list[str] | None = None
    """Languages to evaluate; null for those that are trained on."""
    judge: str = "lexicon"
    """As for crosslign eval: lexicon (offline, a proxy), qwen3guard, guard:MODEL, llm:MODEL, ..."""
    judge_url: str | None = None
    """Judge llm only: its OpenAI-compatible endpoint; the key is in the environment variable OPENAI_API_KEY."""
    every_steps: int = Field(0, ge=0)
    """Evaluate after every so many optimiser steps, and at the end; 0 for the end alone."""
    at_start: bool = True
    """Evaluate before the first step too."""
    limit: int | None = Field(50, ge=1)
    """Use at most this many rows of a task, the same in every language and run; null for all."""
    max_completion_length: int = Field(128, ge=1)
    """Longest answer in tokens; answers are greedy."""
    batch_size: int = Field(16, ge=1)
    """Answers in one call of generate."""
    best: BestConfig | None = BestConfig()
    """Keeps the best checkpoint in best/ of the run's folder; null to keep none."""

    @field_validator("tasks")
    @classmethod
    def _once(cls, tasks: list[str]) -> list[str]:
        if len(set(tasks)) < len(tasks):
            raise ValueError("a task is named twice")
        return tasks


class GateConfig(Section):
    min_flip_rate: float = Field(0.5, ge=0, le=1)
    """Of the queries that the student answers unsafely, the teacher must answer this share safely, in each language."""
    queries: int = Field(20, ge=1)
    """Harmful queries a language that are tried, and as many benign ones; a large number means all."""
    judge: str = "lexicon"
    """Who judges the answers, as in crosslign eval --judge; lexicon is offline and a proxy."""
    judge_url: str | None = None
    """Endpoint of an llm judge, such as http://localhost:8000/v1."""
    drop: Literal["none", "list", "drop"] = "none"
    """Tried rows that the teacher itself answers unsafely: nothing, list them in gate.jsonl, or also drop them."""


class RunConfig(Section):
    """Everything that defines a training run."""

    model: ModelConfig
    data: DataConfig
    output_dir: str = "runs/msd"
    """Where adapter or model, logs and checkpoints go."""
    seed: int = Field(0, ge=0)
    """Seed of mixing, sampling, adapter initialisation and training."""
    cache_dir: str | None = None
    """Frozen teacher's completions; null for crosslign's folder in the user's cache."""
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig = TeacherConfig()
    strategy: StrategyConfig = StrategyConfig()
    sampling: SamplingConfig = SamplingConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    log_rollouts: int = Field(2, ge=0)
    """Rollouts of each step that are written to rollouts.jsonl."""
    probe_queries: int = Field(12, ge=0)
    """Training queries whose first completions are compared before and after; 0 for none."""
    evaluation: EvaluationConfig | None = None
    """Tasks on which the model is evaluated during training; null for none."""
    gate: GateConfig | None = None
    """Try the teacher before training, and stop if it does not help; null for no such check."""
    training: dict[str, Any] = {}
    """Any field of transformers.TrainingArguments."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-5 as text; a learning rate wants the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Safe YAML in which `1e-5` is a number."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file. Raises CrosslignError if it is missing or not a YAML mapping."""
    try:
        raw = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CrosslignError(f"{path}: the recipe cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CrosslignError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise CrosslignError(f"{path}: a recipe is a mapping of sections such as 'model:' and 'data:'.")
    return raw


def override(raw: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Lay command-line flags (`--section.key value` or `--section.key=value`) over a recipe.

    Values are YAML: numbers, lists and mappings are read as such. A number in a key is a list's index:
    `--data.tables.0.path FILE`.
    """
    result: Any = _copy(raw)
    queue = list(arguments)
    while queue:
        flag = queue.pop(0)
        if not flag.startswith("--"):
            raise CrosslignError(f"unexpected argument {flag!r}; configuration flags look like --section.key value.")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not queue:
                raise CrosslignError(f"the flag {flag} has no value.")
            text = queue.pop(0)
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise CrosslignError(f"the value of {flag} is not valid YAML: {error}") from error
        _put(result, _keys(key), value, flag)
    return result


def _keys(text: str) -> list[str]:
    """`top-k` is `top_k`, but the names of languages and columns are the table's own."""
    parts = text.split(".")
    own = next((n + 1 for n, part in enumerate(parts) if part in ("columns", "where")), len(parts))
    return [part.replace("-", "_") for part in parts[:own]] + parts[own:]


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _put(node: Any, keys: list[str], value: Any, flag: str) -> None:
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise CrosslignError(f"{flag}: {key!r} is no index of a list of {len(node)}.")
            if last:
                node[int(key)] = value
            node = node[int(key)]
        elif not isinstance(node, dict):
            raise CrosslignError(f"{flag}: {'.'.join(keys[:position])} is {node!r}, which has no keys.")
        else:
            if last:
                node[key] = value
                return
            if not isinstance(node.get(key), (dict, list)):
                node[key] = {}
            node = node[key]


def parse_config(raw: Mapping[str, Any], where: str = "configuration") -> RunConfig:
    """Check a mapping and make it a RunConfig. Raises CrosslignError that lists every mistake with its key."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise CrosslignError("\n".join(f"{where}: {line}" for line in _explain(error))) from error


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}. {nearest(str(item['loc'][-1]), _valid_keys(item['loc'][:-1]))}")
        elif item["type"] == "missing":
            lines.append(f"the key {key!r} is missing.")
        else:
            hint = " YAML reads no, yes, on and off as true or false: write them in quotes."
            hint = hint if item["type"] == "string_type" and isinstance(item["input"], bool) else ""
            lines.append(f"{key}: {item['msg'][0].lower()}{item['msg'][1:]} (found {item['input']!r}).{hint}")
    return lines


def _valid_keys(location: Sequence[int | str]) -> list[str]:
    model: Any = RunConfig
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        while getattr(annotation, "__args__", None) and not isinstance(annotation, type):
            annotation = annotation.__args__[0]
        args = getattr(annotation, "__args__", ())
        model = args[0] if args else annotation
    return list(model.model_fields)


def describe(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, explanation) of every configuration key, for `--help` and the documentation."""
    rows: list[tuple[str, str, str]] = []
    for name, item in model.model_fields.items():
        annotation: Any = item.annotation
        key = f"{prefix}{name}"
        optional = next((a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, Section)), None)
        if isinstance(annotation, type) and issubclass(annotation, Section):
            rows += describe(annotation, f"{key}.")
        elif annotation == list[TableConfig]:
            rows += describe(TableConfig, f"{key}.N.")
        else:
            default = "required" if item.is_required() else _one_line(item.default)
            rows.append((key, default, (item.description or "").strip()))
            if optional is not None:  # what it means to leave the whole section out comes before its keys
                rows += describe(optional, f"{key}.")
    return rows


def _one_line(value: Any) -> str:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n...\n").strip()


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML; reading it back gives the same run."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
