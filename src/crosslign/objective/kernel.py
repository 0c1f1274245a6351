"""One chunk of the fused path: from hidden states to divergences, weights and the gradient in the student's logits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from crosslign.objective.divergences import Divergence, check_divergence, divergence_and_gradient
from crosslign.objective.head import PlainHead
from crosslign.objective.products import Precision
from crosslign.objective.weighting import Weighting, check_weighting, token_weight


@dataclass(frozen=True)
class Options:
    """What is computed; see `weighted_divergence`. Raises ValueError for an unknown or impossible value."""

    divergence: Divergence = "reverse_kl"
    weighting: Weighting = "dpsw"
    top_k: int = 32
    temperature: float = 1.0
    beta: float = 0.5

    def __post_init__(self) -> None:
        check_divergence(self.divergence, self.temperature, self.beta)
        check_weighting(self.weighting, self.top_k)


class Measured(NamedTuple):
    """Of n tokens.

    Fields:
        divergence: `[n]`, nats.
        weight: `[n]`, before normalisation.
        factor: `[n]`, or one number for all.
        gradient: columns of the vocabulary and g `[n, columns]` there: `factor * g` is the gradient of the divergence
            in the head's logits, before scale and temperature. To be read once, before the next chunk is measured.
    """

    divergence: Tensor
    weight: Tensor
    factor: Tensor | float
    gradient: Iterable[tuple[slice, Tensor]]


@dataclass(frozen=True)
class Kernel:
    """The objective's equations as the reference path has them, on the logits of one chunk."""

    student_head: PlainHead
    teacher_head: PlainHead
    options: Options
    precision: Precision

    def measure(self, student_rows: Tensor, teacher_rows: Tensor) -> Measured:
        """Hidden states of the same tokens, `[n, H]` each."""
        o, softcap = self.options, self.student_head.softcap
        student = self.precision.logits(self.student_head, student_rows)
        teacher = self.precision.logits(self.teacher_head, teacher_rows)
        weight = token_weight(student, teacher, weighting=o.weighting, top_k=o.top_k, temperature=o.temperature)
        slope = None if softcap is None else 1 - (student / softcap).square()
        # In place of the logits, of which no more is needed.
        student, teacher = ((z / o.temperature).log_softmax(-1) for z in (student, teacher))
        divergence, gradient = divergence_and_gradient(student, teacher, o.divergence, o.beta)
        if slope is not None:
            gradient *= slope
        return Measured(divergence, weight, 1.0, [(slice(None), gradient)])
