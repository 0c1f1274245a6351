"""Judges by name, as `crosslign eval --help` lists them: `lexicon`, `qwen3guard`, `guard:PATH`, `llm:MODEL`.

A package adds its own through an entry point `crosslign.judges` (see `crosslign.registry`) that names a class or a
function. What stands after the colon is its `argument`, if it takes one; `settings` are the `JudgeSettings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from crosslign.evaluation.endpoint import Endpoint
from crosslign.evaluation.judges.base import Judge
from crosslign.evaluation.judges.guard import guard_judge
from crosslign.evaluation.judges.guard_formats import FORMATS, guess_format
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.judges.llm import LLMJudge, Rubric
from crosslign.models import ModelSource
from crosslign.registry import Registry
from crosslign.types import CrosslignError

registry = Registry("judge", "crosslign.judges")


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
    for spec in specs:
        if not allow_self and judges_itself(spec, tested):
            raise CrosslignError(
                f"judge {spec!r} is the model under test: a model must not grade itself. Use another judge, or "
                "--allow-self-judge if that is what you want to know."
            )
    judges = [registry.from_spec(spec, Judge, settings=settings) for spec in specs]
    names = [judge.name for judge in judges]
    for name in names:
        if names.count(name) > 1:
            raise CrosslignError(
                f"two judges are called {name!r}: their verdicts would share a file. Run crosslign eval once with "
                "each, into two folders."
            )
    return judges


def judges_itself(spec: str, tested: Sequence[str]) -> bool:
    """Whether the judge runs on one of `tested`: folders, hub ids and served names of the model under test."""
    name, _, argument = spec.partition(":")
    if name not in ("guard", "llm", *FORMATS):
        return False
    return _place(argument or _usual(name)) in {_place(t) for t in tested}


registry.register("lexicon")(LexiconJudge)


@registry.register("llm")
def _llm(settings: JudgeSettings, argument: str = "") -> LLMJudge:
    if not argument:
        raise CrosslignError("judge 'llm': name the model after a colon, llm:MODEL.")
    if settings.url is None:
        raise CrosslignError(
            f"judge 'llm:{argument}' needs the URL of its endpoint (judge.url, or --judge-url), such as http://localhost:8000/v1."
        )
    endpoint = Endpoint(settings.url, argument, api_key_env=settings.api_key_env, concurrency=settings.concurrency)
    return LLMJudge(endpoint, rubric=settings.rubric)


def _guard(name: str, settings: JudgeSettings, argument: str = "") -> Judge:
    path = argument or _usual(name)
    if not path:
        raise CrosslignError("judge 'guard': name the model after a colon, guard:PATH_OR_ID.")
    format = FORMATS[name] if name in FORMATS else guess_format(path)
    return guard_judge(ModelSource(path, dtype=settings.dtype), format, batch_size=settings.batch_size)


for _name in ("guard", *FORMATS):
    registry.register(_name)(partial(_guard, _name))


def _usual(name: str) -> str:
    """The published model of a format; "" for what is no format."""
    return FORMATS[name].hub_ids[0] if name in FORMATS else ""


def _place(name: str) -> str:
    """A folder by its real path, a name in lower case: two spellings of one model are the same."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name and path.exists() else name.lower()
