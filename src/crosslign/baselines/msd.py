"""Multilingual Self-Distillation, the method of this package, beside those that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crosslign.baselines.base import Example, Material, Parts, registry
from crosslign.baselines.preference import check_numbers
from crosslign.distillation import DistillationTrainer, MovingTeacher, RunTrainer


@registry.register("msd")
@dataclass(frozen=True)
class Msd:
    """See `crosslign.distillation`. The recipe's sections `strategy` and `objective` are options of it too.

    Fields:
        teacher_rate: how far the teacher's weights go towards the student's after each step (`MovingTeacher`); 0 for
            the frozen teacher.
    """

    teacher_rate: float = 0.0

    about = ""  # a card has a section on it
    judged = False

    def __post_init__(self) -> None:
        check_numbers(zero=True, teacher_rate=self.teacher_rate)
        if self.teacher_rate > 1:
            raise ValueError(f"teacher_rate must be at most 1, not {self.teacher_rate}")

    @property
    def sharded(self) -> bool:
        return not self.teacher_rate

    def examples(self, material: Material) -> None:
        return None

    def trainer(self, parts: Parts, examples: Mapping[str, Example]) -> RunTrainer:
        return DistillationTrainer(
            parts.student,
            parts.arguments,
            languages=parts.languages,
            on_rollouts=parts.on_rollouts,
            ahead=parts.ahead,
            teacher=MovingTeacher(parts.student, self.teacher_rate) if self.teacher_rate else None,
            **parts.common(),
        )
