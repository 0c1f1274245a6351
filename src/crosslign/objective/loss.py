"""The objective of Multilingual Self-Distillation: reference path from logits, and the choice of a path."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from crosslign.objective.divergences import Divergence, token_divergence
from crosslign.objective.fused import fused_weighted_divergence
from crosslign.objective.head import Head, OutputHead, described
from crosslign.objective.kernel import Options
from crosslign.objective.result import WeightedDivergence, combine
from crosslign.objective.weighting import Weighting, token_weight

logger = logging.getLogger(__name__)


def weighted_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor,
    *,
    divergence: Divergence = "reverse_kl",
    weighting: Weighting = "dpsw",
    top_k: int = 32,
    temperature: float = 1.0,
    beta: float = 0.5,
    sequences: Tensor | int | None = None,
) -> WeightedDivergence:
    """Weighted divergence between student and teacher on the tokens of completions.

        loss = (1 / N) sum_i  (1 / L_i) sum_t  w~_it D_it

    over the sequences i with L_i > 0 valid tokens; `D` is the divergence of `token_divergence` and `w~` the weight of
    `token_weight`, normalised to mean 1 over a sequence. Without any valid token the loss is 0 with zero gradient.

    Args:
        student_logits: `[batch, tokens, vocabulary]`, raw logits (not log-probabilities, which would also do).
        teacher_logits: the same shape; constants.
        mask: `[batch, tokens]`, bool or 0/1; True on the completion's real tokens.
        divergence: `reverse_kl`, `forward_kl` or `jsd`.
        weighting: `dpsw`, `teacher`, `student` or `uniform`.
        top_k: K of DPSW; above the vocabulary it means the vocabulary.
        temperature: divides both sides' logits. Not the sampling temperature.
        beta: share of the teacher in the mixture of `jsd`.
        sequences: N, where the batch is part of more; None for the number of its sequences with a valid token.

    Raises ValueError where shapes do not fit or an option is unknown.

    Source: Qin et al., arXiv 2605.02971.
    """
    if student_logits.dim() != 3:
        raise ValueError(f"logits must be [batch, tokens, vocabulary], not {tuple(student_logits.shape)}")
    if mask.shape != student_logits.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit logits {tuple(student_logits.shape)}")
    mask = mask.bool()
    # Only valid positions are computed: a masked position may hold anything, NaN included.
    student, teacher = student_logits[mask], teacher_logits[mask]
    valid_divergence = token_divergence(student, teacher, divergence=divergence, temperature=temperature, beta=beta)
    valid_weight = token_weight(student, teacher, weighting=weighting, top_k=top_k, temperature=temperature)
    return combine(valid_divergence, valid_weight, mask, sequences)


Implementation = Literal["fused", "reference"]


@dataclass(frozen=True)
class Objective(Options):
    """The weighted divergence with its options fixed, from hidden states and output heads. This is what the trainer
    calls.

    `implementation` says how: `fused` holds the logits of a few tokens at a time (`fused_weighted_divergence`),
    `reference` those of the whole batch (`weighted_divergence`). A head that cannot be taken apart (a LoRA layer, a
    function) needs the reference path; `fused` then takes it too, and warns once.
    """

    implementation: Implementation = "fused"
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.implementation not in get_args(Implementation):
            valid = ", ".join(get_args(Implementation))
            raise ValueError(f"implementation is {self.implementation!r}; valid: {valid}")

    def __call__(
        self,
        student_hidden: Tensor,
        teacher_hidden: Tensor,
        student_head: Head,
        teacher_head: Head,
        mask: Tensor,
        sequences: Tensor | int | None = None,
    ) -> WeightedDivergence:
        """Hidden states `[batch, tokens, hidden]` of the completion's positions, and the heads that project them.

        `sequences` is what the sum of the sequences' losses is divided by, as for `weighted_divergence`.
        """
        options: dict[str, Any] = {option.name: getattr(self, option.name) for option in fields(Options)}
        options["sequences"] = sequences
        if self.implementation == "fused":
            unknown = [head for head in (student_head, teacher_head) if described(head) is None]
            if not unknown:
                return fused_weighted_divergence(
                    student_hidden, teacher_hidden, student_head, teacher_head, mask, **options
                )
            self._warn_once(unknown[0])
        with torch.no_grad():
            teacher_logits = teacher_head(teacher_hidden)
        return weighted_divergence(student_head(student_hidden), teacher_logits, mask, **options)

    def _warn_once(self, head: Head) -> None:
        inner = head.linear if isinstance(head, OutputHead) else head
        name = getattr(inner, "__qualname__", type(inner).__name__)
        if name not in self._warned:
            self._warned.add(name)
            logger.warning(
                "the output head (%s) is not a plain linear layer, so the logits of whole batches are held: more "
                "memory, and slower. objective.implementation: reference does the same without this warning.",
                name,
            )
