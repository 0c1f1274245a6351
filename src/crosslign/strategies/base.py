"""A strategy decides who samples a completion, from which context, and which contexts are scored.

It knows neither the objective nor how sampling is done. A package can add its own through an entry point:

    [project.entry-points."crosslign.strategies"]
    my_strategy = "my_package:MyStrategy"

and a recipe then says `strategy: {name: my_strategy, options: {...}}`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from crosslign.types import CrosslignError, Query, Role, nearest

ENTRY_POINT_GROUP = "crosslign.strategies"


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What to do with one query at one step.

    Fields:
        sampled_by: whose weights sample the completion: the student of this step, or the frozen teacher.
        sampled_from: whose context they see while sampling.
        student_context, teacher_context: the contexts after which student and teacher are scored.
    """

    sampled_by: Role
    sampled_from: Role
    student_context: Role = "student"
    teacher_context: Role = "teacher"

    @property
    def reusable(self) -> bool:
        """The frozen teacher's completion never goes stale: it is sampled once and cached."""
        return self.sampled_by == "teacher"


@runtime_checkable
class Strategy(Protocol):
    """Pure: the same query and step always give the same plan, so a resumed run repeats it."""

    def plan(self, query: Query, step: int) -> RolloutPlan:
        """The plan for `query` at optimiser step `step` (from 0)."""
        ...


_BUILTIN: dict[str, Callable[..., Strategy]] = {}


def register(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Class decorator: make a strategy of this package known by name."""

    def add(factory: Callable[..., Any]) -> Callable[..., Any]:
        _BUILTIN[name] = factory
        return factory

    return add


def available() -> tuple[str, ...]:
    """Names of all strategies: ours and those of installed packages."""
    return tuple(sorted({*_BUILTIN, *(e.name for e in entry_points(group=ENTRY_POINT_GROUP))}))


def get(name: str, options: Mapping[str, Any] | None = None, *, seed: int = 0) -> Strategy:
    """Make the strategy `name`. A factory that takes `seed` gets the run's, unless the options name one.

    Raises CrosslignError for an unknown name or an option that the strategy does not take.
    """
    factory = _BUILTIN.get(name)
    if factory is None:
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            if entry.name == name:
                try:
                    factory = entry.load()
                except Exception as error:  # a user's package may fail in any way while it is imported
                    raise CrosslignError(
                        f"strategy.name: {name!r} ({entry.value}) could not be imported: "
                        f"{type(error).__name__}: {error}"
                    ) from error
    if factory is None:
        raise CrosslignError(f"strategy.name: unknown strategy {name!r}. {nearest(name, available())}")
    values = dict(options or {})
    parameters = inspect.signature(factory).parameters
    for key in values:
        if key not in parameters:
            raise CrosslignError(
                f"strategy.options: {name!r} takes no option {key!r}. It takes: {', '.join(parameters) or 'none'}."
            )
    if "seed" in parameters:
        values.setdefault("seed", seed)
    try:
        return factory(**values)
    except (TypeError, ValueError) as error:
        raise CrosslignError(f"strategy.options: {error}") from error
