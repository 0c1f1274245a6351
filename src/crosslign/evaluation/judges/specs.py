"""Judges by name, as they stand on a command line: `lexicon`, `qwen3guard`, `guard:PATH`, `llm:MODEL`.

    lexicon             phrases; a proxy, offline
    guard:PATH_OR_ID    a guard model; its format is told from its name
    FORMAT              a published guard of this format (qwen3guard, llama_guard_3, polyguard)
    FORMAT:PATH_OR_ID   a guard whose name does not tell its format
    llm:MODEL           a model behind an OpenAI-compatible endpoint

A package can add its own through an entry point that names a function; what stands after the colon is its argument,
or "":

    [project.entry-points."crosslign.judges"]
    my_judge = "my_package:my_judge"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from crosslign.evaluation.endpoint import Endpoint
from crosslign.evaluation.judges.base import Judge
from crosslign.evaluation.judges.deferred import DeferredGuard
from crosslign.evaluation.judges.guard_formats import FORMATS, guard_format, guess_format
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.judges.llm import LLMJudge, Rubric
from crosslign.models import ModelSource
from crosslign.types import CrosslignError, nearest

ENTRY_POINT_GROUP = "crosslign.judges"


@dataclass(frozen=True)
class JudgeSettings:
    """What judges take besides their names.

    Fields:
        url: of the endpoint, for `llm`.
        api_key_env: the environment variable with the endpoint's key.
        batch_size, dtype: of a guard.
    """

    url: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    rubric: Rubric = "multijail"
    concurrency: int = 8
    batch_size: int = 8
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


def make_judges(
    specs: Sequence[str], settings: JudgeSettings, *, tested: Sequence[str] = (), allow_self: bool = False
) -> list[Judge]:
    """One judge for each spec, in their order. No weights are loaded.

    `tested`: folders, hub ids and served names of the model whose completions are judged; it is not its own judge
    unless `allow_self`.

    Raises CrosslignError for an unknown judge, one that is there twice or under test, or whatever a judge's own checks
    find.
    """
    if not specs:
        raise CrosslignError("no judge: name one, for example lexicon.")
    judges = []
    for spec in specs:
        name, _, argument = spec.partition(":")
        target = _target(name, argument)
        if not allow_self and judges_itself(spec, tested):
            raise CrosslignError(
                f"judge {spec!r} is the model under test: a model must not grade itself. Use another judge, or "
                "--allow-self-judge if that is what you want to know."
            )
        judges.append(_make(spec, name, argument, target, settings))
    for judge in judges:
        if sum(other.name == judge.name for other in judges) > 1:
            raise CrosslignError(
                f"two judges are called {judge.name!r}: their verdicts would share a file. Run crosslign eval once "
                "with each, into two folders."
            )
    return judges


def judges_itself(spec: str, tested: Sequence[str]) -> bool:
    """Whether the judge runs on one of `tested`: folders, hub ids and served names of the model under test."""
    name, _, argument = spec.partition(":")
    target = _target(name, argument)
    return target is not None and _place(target) in {_place(t) for t in tested}


def _target(name: str, argument: str) -> str | None:
    """The model that a judge runs on; None for a judge that runs on none."""
    if name in FORMATS:
        return argument or FORMATS[name].hub_ids[0]
    return argument if name in ("guard", "llm") else None


def _make(spec: str, name: str, argument: str, target: str | None, settings: JudgeSettings) -> Judge:
    if name == "lexicon" and not argument:
        return LexiconJudge()
    if name in ("guard", "llm") and not target:
        raise CrosslignError(f"judge {spec!r}: name the model after a colon, {name}:MODEL.")
    if target is not None and name == "llm":
        return _llm(target, settings)
    if target is not None:
        format = guess_format(target) if name == "guard" else guard_format(name)
        return DeferredGuard(ModelSource(target, dtype=settings.dtype), format, batch_size=settings.batch_size)
    found = next((e for e in entry_points(group=ENTRY_POINT_GROUP) if e.name == name), None)
    if found is None:
        installed = [e.name for e in entry_points(group=ENTRY_POINT_GROUP)]
        raise CrosslignError(
            f"unknown judge {spec!r}. {nearest(spec, ['lexicon', *FORMATS, 'guard:PATH', 'llm:MODEL', *installed])}"
        )
    return _installed(found, argument)


def _llm(model: str, settings: JudgeSettings) -> LLMJudge:
    if settings.url is None:
        raise CrosslignError(
            f"judge 'llm:{model}' needs the URL of its endpoint (judge.url, or --judge-url), such as http://localhost:8000/v1."
        )
    endpoint = Endpoint(settings.url, model, api_key_env=settings.api_key_env, concurrency=settings.concurrency)
    judge = LLMJudge(endpoint, rubric=settings.rubric)
    # Two models, or two rubrics, are two judges: each keeps its verdicts when the other is asked.
    judge.name = f"llm:{model}" if settings.rubric == "multijail" else f"llm:{model}:{settings.rubric}"
    return judge


def _installed(entry: EntryPoint, argument: str) -> Judge:
    try:
        made: Any = entry.load()(argument)
    except CrosslignError:
        raise
    except Exception as error:  # a user's package may fail in any way
        raise CrosslignError(
            f"judge {entry.name!r} ({entry.value}) could not be made: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, Judge):
        raise CrosslignError(f"judge {entry.name!r}: its package makes a {type(made).__name__}, which is no judge.")
    return made


def _place(name: str) -> str:
    """A folder by its real path, a name in lower case: two spellings of one model are the same."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name.lower()
