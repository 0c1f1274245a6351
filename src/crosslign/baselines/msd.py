"""Multilingual Self-Distillation, the method of this package, beside those that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping

from crosslign.baselines.base import Example, Material, Parts, registry
from crosslign.distillation import DistillationTrainer, RunTrainer


@registry.register("msd")
class Msd:
    """See `crosslign.distillation`. The recipe's sections `strategy` and `objective` are its options."""

    about = ""  # a card has a section on it
    judged = False
    sharded = True

    def examples(self, material: Material) -> None:
        return None

    def trainer(self, parts: Parts, examples: Mapping[str, Example]) -> RunTrainer:
        return DistillationTrainer(
            parts.student,
            parts.arguments,
            languages=parts.languages,
            on_rollouts=parts.on_rollouts,
            ahead=parts.ahead,
            **parts.common(),
        )
