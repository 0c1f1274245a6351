"""What a bench file says: plain typed data, checked as a recipe is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from crosslign.evaluation.stages import folder_name
from crosslign.evaluation.tables import short_names
from crosslign.rollouts.base import MOST_TOKENS
from crosslign.runs.config import MANY, EvaluationConfig, Length, RunConfig, Section, TaskConfig
from crosslign.runs.recipe import override, parse_section, read_recipe
from crosslign.runs.resume import CHANGE_NO_NUMBER
from crosslign.types import MAX_SEED, CrosslignError, Role, nearest
from crosslign.untrusted import is_blank

BASE = "base"  # the model as it is, which every bench measures
Name = Annotated[str, Field(max_length=100)]


class BenchTask(TaskConfig):
    """A task, and its place in the tables."""

    title: Name | None = None
    """Its name in the tables; null for the task's own."""
    harder: bool = False
    """A harder version, such as jailbreaks: it has a column of its own, and counts in no other."""


class SteerConfig(Section):
    """A refusal direction that is added at inference (`crosslign steer`)."""

    queries: int = Field(128, ge=1, le=MANY)
    """Harmful queries that it is found with, and as many benign ones."""
    layer: int | None = Field(None, ge=0)
    """Layer from 0; null: at 0.6 of the depth."""
    scale: float = Field(1.0, ge=-1000, le=1000)
    """Times the way from harmless to harmful queries."""


class UntrainedMethod(Section):
    """A method that trains nothing: a prompt, a direction, or both."""

    context: Role = "student"
    """student: what a user sends; teacher: the prompt `template` around it."""
    template: str = "instruct"
    """Teacher template: a name, or a YAML file."""
    max_judgement_length: Length = 128
    """Longest judgement in tokens, where the template wants one."""
    steer: SteerConfig | None = None
    """A direction that is added; null for none."""


class UtilityConfig(Section):
    """What a model can still do, by lm-eval, as `crosslign eval --utility` measures it."""

    tasks: list[str] = Field(min_length=1)
    """mgsm, mmmlu, afrimgsm, global_mmlu."""
    paths: dict[str, str] = Field({})
    """Benchmark: a local parallel table that is read instead of the hub's data."""
    languages: list[str] | None = None
    """Languages; null for those of the bench."""
    limit: int | None = Field(None, ge=1, le=MANY)
    """Rows in each language; null for all."""
    max_new_tokens: int = Field(512, ge=1, le=MOST_TOKENS)
    """Longest answer in free text."""


class PublishedFigure(Section):
    """A number of a publication, which is shown beside ours and counts nowhere."""

    model: str
    """The model's name in `models`."""
    method: str
    """The method's name in `methods`, or base."""
    task: str
    """What it was measured on, in words."""
    value: float
    """In %."""
    language: str | None = None
    """Language code; null for a mean over languages."""
    metric: Literal["asr", "asr_strict", "utility"] = "asr"
    """asr: attack success rate; asr_strict: with invalid answers as successes; utility: accuracy."""


class BenchConfig(EvaluationConfig):
    """Models x methods x seeds, measured on the same tasks by the same judge."""

    models: dict[Name, str | dict[str, Any]] = Field(min_length=1)
    """Name: hub id or folder; or changes to the recipe, of which model.path is one."""
    recipe: str | dict[str, Any]
    """The recipe that all share: a file, or its sections."""
    methods: dict[Name, dict[str, Any] | None] = Field(min_length=1)
    """Name: changes to the recipe (method: sft); or, without training, context, template and steer."""
    seeds: list[Annotated[int, Field(ge=0, le=MAX_SEED)]] = Field([0], min_length=1)
    """Seeds of training; {seed} in any text of the file stands for it."""
    tasks: list[BenchTask] = Field(min_length=1)  # type: ignore[assignment]
    """Tasks whose queries are completed, each with title and harder besides."""
    trained: list[str] | None = None
    """Languages that are trained on, unless a model or a method has data.languages of its own; null for the recipe's
    data.languages. All others are unseen."""
    utility: UtilityConfig | None = None
    """What the models can still do; null: it is not measured."""
    reference: str = "msd"
    """The method that all others are compared with, besides base."""
    published: list[PublishedFigure] = Field([])
    """Numbers of a publication, shown beside ours."""
    published_source: str = ""
    """Where they are from, and what they are worth."""
    out: str = "runs/bench"
    """Folder of all that is made."""

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: list[int]) -> list[int]:
        twice = [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]
        if twice:
            raise ValueError(f"the seed {twice[0]} is there twice")
        return seeds

    @field_validator("models", "methods")
    @classmethod
    def _folders_differ(cls, named: dict[str, Any]) -> dict[str, Any]:
        places: dict[str, str] = {}
        for name in named:
            if is_blank(name):
                raise ValueError("a name is empty")
            other = places.setdefault(folder_name(name).casefold(), name)  # some file systems know no case
            if other != name:
                raise ValueError(f"{other!r} and {name!r} would share a folder. Rename one of them")
        return named

    @field_validator("methods")
    @classmethod
    def _base_is_ours(cls, methods: dict[str, Any]) -> dict[str, Any]:
        if any(name.casefold() == BASE for name in methods):
            raise ValueError(f"{BASE!r} is the model as it is, which is measured anyway. Leave it out, or rename it")
        return methods

    @field_validator("tasks")
    @classmethod
    def _titles_differ(cls, tasks: list[BenchTask]) -> list[BenchTask]:
        if len(set(titles(tasks))) < len(tasks):
            raise ValueError("two tasks have one title")
        return tasks

    @field_validator("reference")
    @classmethod
    def _is_a_method(cls, reference: str, info: ValidationInfo) -> str:
        known = [BASE, *info.data.get("methods", {})]
        if reference not in known:
            raise ValueError(f"there is no method {reference!r}. {nearest(reference, known)} All are compared with it")
        return reference

    @field_validator("published")
    @classmethod
    def _of_this_bench(cls, published: list[PublishedFigure], info: ValidationInfo) -> list[PublishedFigure]:
        for figure in published:
            methods = [BASE, *info.data.get("methods", {})]
            for name, known in ((figure.model, list(info.data.get("models", {}))), (figure.method, methods)):
                if name not in known:
                    raise ValueError(f"there is no {name!r}. {nearest(name, known)} A figure stands beside one of ours")
        return published


# Keys that change no number: of an evaluation; of a bench's tasks; of a recipe, besides `CHANGE_NO_NUMBER`. A recipe's
# sampling.batch_size is none of them: other rows of a batch, other draws.
_JUDGED = dict.fromkeys(("url", "api_key_env", "concurrency", "batch_size", "allow_self"), True)
_HOW_FAST: dict[str, Any] = {"batch_size": True, "judge": _JUDGED}
_SHOWN: dict[str, Any] = {"tasks": {"__all__": {"title", "harder"}}}
_SERVED: dict[str, Any] = {
    "rollouts": dict.fromkeys(("url", "timeout_seconds", "adapter_dir"), True),
    "gate": {"judge": _JUDGED},
    "evaluation": _HOW_FAST,
}


def asks(config: EvaluationConfig) -> dict[str, Any]:
    """What decides an evaluation's numbers."""
    return config.model_dump(mode="json", exclude={**_HOW_FAST, **_SHOWN})


def learns(config: RunConfig) -> dict[str, Any]:
    """What decides a run's numbers; what does not is as if nobody had set it, or left out."""
    return _unset(config, _SERVED).model_dump(mode="json", exclude=CHANGE_NO_NUMBER)


def _unset(section: Section, keys: Mapping[str, Any]) -> Section:
    changes = {}
    for key, inner in keys.items():
        value = getattr(section, key)
        if inner is True:
            changes[key] = type(section).model_fields[key].get_default()
        elif value is not None:
            changes[key] = _unset(value, inner)
    return section.model_copy(update=changes)


def titles(tasks: Sequence[BenchTask]) -> list[str]:
    """The tasks' names in the tables, without the folders of a machine."""
    short = short_names(task.name for task in tasks)
    return [task.title or short[task.name] for task in tasks]


def untrained(name: str, changes: Mapping[str, Any] | None) -> UntrainedMethod | None:
    """What a method does without training; None for one that trains.

    Raises CrosslignError for keys of both kinds, or of neither.
    """
    given = dict(changes or {})
    own = [key for key in given if key in UntrainedMethod.model_fields]
    if not own:
        if unknown := [key for key in given if key not in RunConfig.model_fields]:
            known = [*RunConfig.model_fields, *UntrainedMethod.model_fields]
            raise CrosslignError(f"methods.{name}: unknown key {unknown[0]!r}. {nearest(unknown[0], known)}")
        return None
    if mixed := [key for key in given if key in RunConfig.model_fields]:
        raise CrosslignError(
            f"methods.{name}: {own[0]} is of a method that trains nothing, and {mixed[0]} of one that trains. Make two "
            "methods of them."
        )
    return parse_section(UntrainedMethod, given, f"methods.{name}")


def load_bench(path: str | Path, arguments: Sequence[str] = ()) -> BenchConfig:
    """A bench file with command-line flags laid over it, checked as far as it says all itself."""
    config = parse_section(BenchConfig, override(read_recipe(path), arguments), str(path))
    for name, changes in config.methods.items():
        untrained(name, changes)
    return config
