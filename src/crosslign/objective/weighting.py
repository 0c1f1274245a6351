"""Per-token weights: Dual-Perspective Safety Weighting (DPSW) and its one-sided and uniform variants.

    w_T = 1 - H(pbar_T) / log K      pbar_T: the teacher's K most likely tokens, renormalised; H: entropy in nats
    w_S = 1 - p_S(y*)                y* = argmax_v p_T(v): the token that the teacher would choose

    dpsw: w_T w_S      teacher: w_T      student: w_S      uniform: 1

A confident teacher whom the student does not follow gives a large weight; an unsure teacher, or a student who agrees,
a small one. Weights are constants of the graph. Normalised, they have mean 1 over the valid tokens of a sequence:
`w~_t = L w_t / sum_j w_j`; a sequence whose weights are all 0 keeps zeros, so its loss is 0.

Source: Qin et al., Multilingual Self-Distillation, arXiv 2605.02971.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Weighting = Literal["dpsw", "teacher", "student", "uniform"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


def check_weighting(weighting: str, top_k: int) -> None:
    """Raise ValueError for an unknown weighting or a top_k < 1."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is {weighting!r}; valid: {', '.join(WEIGHTINGS)}")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")


def teacher_confidence(teacher_logits: Tensor, top_k: int) -> Tensor:
    """`w_T`, `[..., V] -> [...]`, in [0, 1]. K = min(top_k, V); for K = 1 there is no entropy and w_T = 1."""
    k = min(top_k, teacher_logits.shape[-1])
    if k == 1:
        return torch.ones_like(teacher_logits[..., 0])
    probabilities = torch.softmax(teacher_logits.topk(k, dim=-1).values, -1)
    entropy = torch.special.entr(probabilities).sum(-1)
    return (1 - entropy / math.log(k)).clamp(0, 1)


def teacher_choice(teacher_logits: Tensor) -> Tensor:
    """`y*`, `[..., V] -> [...]` (int64). Of several equal maxima the lowest id, on every device."""
    vocabulary = teacher_logits.shape[-1]
    ids = torch.arange(vocabulary, device=teacher_logits.device)
    best = teacher_logits.amax(-1, keepdim=True)
    return torch.where(teacher_logits == best, ids, vocabulary).amin(-1).clamp(max=vocabulary - 1)


def student_disagreement(student_logits: Tensor, choice: Tensor) -> Tensor:
    """`w_S = 1 - p_S(y*)`, `[..., V], [...] -> [...]`, in [0, 1].

    Summed over the other tokens: the difference would lose its digits where the student is almost certain.
    """
    return torch.softmax(student_logits, -1).scatter_(-1, choice[..., None], 0).sum(-1).clamp(0, 1)


@torch.no_grad()
def token_weight(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    weighting: Weighting = "dpsw",
    top_k: int = 32,
    temperature: float = 1.0,
) -> Tensor:
    """Unnormalised weight of each position, `[..., V], [..., V] -> [...]`, in [0, 1], outside the graph.

    Both distributions are those that the divergence compares: the logits are divided by `temperature` first.

    Raises ValueError for an unknown weighting or a top_k < 1.
    """
    check_weighting(weighting, top_k)
    dtype = torch.float64 if student_logits.dtype == torch.float64 else torch.float32
    weight = torch.ones(student_logits.shape[:-1], dtype=dtype, device=student_logits.device)
    if weighting in ("dpsw", "teacher"):
        weight = weight * teacher_confidence(teacher_logits.to(dtype) / temperature, top_k)
    if weighting in ("dpsw", "student"):
        weight = weight * student_disagreement(student_logits.to(dtype) / temperature, teacher_choice(teacher_logits))
    return weight


def normalise(weight: Tensor, mask: Tensor) -> Tensor:
    """Scale weights `[batch, tokens]` to mean 1 over each sequence's valid tokens; 0 where `mask` is False.

    `w~_t = L w_t / sum_j w_j` with L the number of valid tokens; all zeros if the sum is 0.
    """
    weight = torch.where(mask, weight, 0)
    total = weight.sum(-1, keepdim=True)
    length = mask.sum(-1, keepdim=True)
    return torch.where(total > 0, weight * length / total.clamp_min(torch.finfo(weight.dtype).tiny), 0)
