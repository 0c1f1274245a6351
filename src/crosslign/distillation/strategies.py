"""A strategy decides who samples a completion, from which context, and which contexts are scored.

It knows neither the objective nor how sampling is done. Ours are those of Multilingual Self-Distillation (Qin et al.,
arXiv 2605.02971). A package adds its own through an entry point `crosslign.strategies` (see `crosslign.registry`), and
a recipe then says `strategy: {name: my_strategy, options: {...}}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from crosslign.registry import Registry
from crosslign.types import Query, Role


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What to do with one query at one step.

    Fields:
        sampled_by: whose weights sample the completion: the student of this step, or the frozen teacher, whose
            completion never goes stale and is sampled once.
        sampled_from: whose context they see while sampling.
        student_context, teacher_context: the contexts after which student and teacher are scored.
    """

    sampled_by: Role
    sampled_from: Role
    student_context: Role = "student"
    teacher_context: Role = "teacher"


@runtime_checkable
class Strategy(Protocol):
    """Pure: the same query and step always give the same plan, so a resumed run repeats it."""

    def plan(self, query: Query, step: int) -> RolloutPlan:
        """The plan for `query` at optimiser step `step` (from 0)."""
        ...


registry = Registry("strategy", "crosslign.strategies")
available = registry.names


def get(name: str, options: Mapping[str, Any] | None = None, *, seed: int = 0) -> Strategy:
    """Make the strategy `name`. A factory that takes `seed` gets the run's, unless the options name one.

    Raises CrosslignError for an unknown name or an option that the strategy does not take.
    """
    strategy: Strategy = registry.make(name, options, seed=seed)
    return strategy


ON_POLICY = RolloutPlan(sampled_by="student", sampled_from="student")
OFF_POLICY = RolloutPlan(sampled_by="teacher", sampled_from="teacher")


@registry.register("on_policy")
@dataclass(frozen=True)
class OnPolicy:
    """q = p_S: the current student samples from its own context."""

    def plan(self, query: Query, step: int) -> RolloutPlan:
        return ON_POLICY


@registry.register("off_policy")
@dataclass(frozen=True)
class OffPolicy:
    """q = p_T: the frozen teacher samples from the teacher context, once for each query."""

    def plan(self, query: Query, step: int) -> RolloutPlan:
        return OFF_POLICY


@registry.register("mixed")
@dataclass(frozen=True)
class Mixed:
    """On-policy with probability `lambda_on_policy`, else off-policy; drawn anew for each query and step, seeded."""

    lambda_on_policy: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lambda_on_policy <= 1:
            raise ValueError(f"lambda_on_policy is a probability, not {self.lambda_on_policy}")

    def plan(self, query: Query, step: int) -> RolloutPlan:
        digest = hashlib.sha256(f"{self.seed}|{step}|{query.key}".encode("utf-8", "surrogatepass")).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        return ON_POLICY if draw < self.lambda_on_policy else OFF_POLICY
