"""Cross-entropy on one answer to each query.

loss = -(1 / N) sum_i sum_t log p_S(y_it | x_i, y_i<t)        N: the tokens of the accumulation window
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from crosslign.baselines.base import Answer, Example, Material, registry
from crosslign.baselines.trainer import ExampleMethod, Scores
from crosslign.types import Completion, Query


class Supervised(ExampleMethod):
    """What supervised methods share: the loss. They differ in where the answer comes from."""

    reference = False

    def loss(self, scores: Scores) -> Tensor:
        return -scores.log_probs[:, 0]

    def items(self, example: Example) -> int:
        return len(example.answers[0].completion)


@registry.register("sft")
@dataclass(frozen=True)
class TeachersAnswers(Supervised):
    """Data: the frozen teacher's answer to each query that the gate let through, the one that the gate has judged.

    What off-policy self-distillation learns from, without its distributions: the difference between the two is what
    they are worth.
    """

    about = "supervised fine-tuning on the answers that the frozen model gives in the teacher's context"

    def examples(self, material: Material) -> Sequence[Example]:
        answers = material.teacher()
        return [answered(material, query, answers[query.key]) for query in material.queries if query.key in answers]


def answered(material: Material, query: Query, completion: Completion) -> Example:
    """The query as a user sends it, with this answer."""
    return Example(query, (Answer(material.contexts.student(query).token_ids, completion.token_ids),))
