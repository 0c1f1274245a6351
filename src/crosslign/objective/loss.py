"""The objective of Multilingual Self-Distillation: reference path, from logits or from hidden states and heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crosslign.heads import Head
from crosslign.objective.divergences import Divergence, token_divergence
from crosslign.objective.result import WeightedDivergence, combine
from crosslign.objective.weighting import Weighting, token_weight


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
) -> WeightedDivergence:
    """Weighted divergence between student and teacher on the tokens of completions.

        loss = mean_i  (1 / L_i) sum_t  w~_it D_it

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
    return combine(valid_divergence, valid_weight, mask)


@dataclass(frozen=True)
class Objective:
    """`weighted_divergence` with its options fixed, from hidden states and output heads.

    This is what the trainer calls. Only this class knows that logits are made on the way, so a path that never holds
    them can take its place.
    """

    divergence: Divergence = "reverse_kl"
    weighting: Weighting = "dpsw"
    top_k: int = 32
    temperature: float = 1.0
    beta: float = 0.5

    def __call__(
        self, student_hidden: Tensor, teacher_hidden: Tensor, student_head: Head, teacher_head: Head, mask: Tensor
    ) -> WeightedDivergence:
        """Hidden states `[batch, tokens, hidden]` of the completion's positions, and the heads that project them."""
        with torch.no_grad():
            teacher_logits = teacher_head(teacher_hidden)
        return weighted_divergence(
            student_head(student_hidden),
            teacher_logits,
            mask,
            divergence=self.divergence,
            weighting=self.weighting,
            top_k=self.top_k,
            temperature=self.temperature,
            beta=self.beta,
        )
