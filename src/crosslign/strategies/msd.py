"""The strategies of Multilingual Self-Distillation (Qin et al., arXiv 2605.02971)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from crosslign.strategies.base import RolloutPlan, register
from crosslign.types import Query

ON_POLICY = RolloutPlan(sampled_by="student", sampled_from="student")
OFF_POLICY = RolloutPlan(sampled_by="teacher", sampled_from="teacher")


@register("on_policy")
@dataclass(frozen=True)
class OnPolicy:
    """q = p_S: the current student samples from its own context."""

    def plan(self, query: Query, step: int) -> RolloutPlan:
        return ON_POLICY


@register("off_policy")
@dataclass(frozen=True)
class OffPolicy:
    """q = p_T: the frozen teacher samples from the teacher context, once for each query."""

    def plan(self, query: Query, step: int) -> RolloutPlan:
        return OFF_POLICY


@register("mixed")
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
