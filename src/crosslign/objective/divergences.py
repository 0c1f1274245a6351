"""Divergences between two next-token distributions, per position, over the full vocabulary.

With student logits `s`, teacher logits `t` and temperature `T`:

    p_S = softmax(s / T),  p_T = softmax(t / T),  m = beta p_T + (1 - beta) p_S

    reverse_kl = KL(p_S || p_T) = sum_v p_S (log p_S - log p_T)
    forward_kl = KL(p_T || p_S) = sum_v p_T (log p_T - log p_S)
    jsd        = beta KL(p_T || m) + (1 - beta) KL(p_S || m)          (generalised Jensen-Shannon, as in GKD)

in nats. The gradient in the student's logits is analytic. Written this way it is *exactly* zero where student equals
teacher; automatic differentiation leaves rounding noise there, which Adam turns into drift. No gradient goes to the
teacher.

Source: Qin et al., Multilingual Self-Distillation, arXiv 2605.02971 (reverse KL); Agarwal et al., GKD,
arXiv 2306.13649 (generalised JSD).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Divergence = Literal["reverse_kl", "forward_kl", "jsd"]
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)


def check_divergence(divergence: str, temperature: float, beta: float) -> None:
    """Raise ValueError for an unknown divergence, a temperature <= 0 or a beta outside (0, 1)."""
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence is {divergence!r}; valid: {', '.join(DIVERGENCES)}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
    if divergence == "jsd" and not 0 < beta < 1:
        raise ValueError(f"beta must lie strictly between 0 and 1, not {beta}")


def token_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    divergence: Divergence = "reverse_kl",
    temperature: float = 1.0,
    beta: float = 0.5,
) -> Tensor:
    """Divergence at each position, `[..., V], [..., V] -> [...]`, in nats.

    Computed in float32, or in float64 for float64 logits. Vocabulary entries that are -inf on both sides (padding) are
    outside both distributions. Differentiable once, in `student_logits` only.

    Raises ValueError for shapes that differ, an unknown divergence, a temperature <= 0 or a beta outside (0, 1).
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student and teacher logits differ in shape: {tuple(student_logits.shape)}, {tuple(teacher_logits.shape)}"
        )
    check_divergence(divergence, temperature, beta)
    dtype = torch.float64 if student_logits.dtype == torch.float64 else torch.float32
    return _TokenDivergence.apply(
        student_logits.to(dtype), teacher_logits.detach().to(dtype), divergence, temperature, beta
    )


def _expected(p: Tensor, value: Tensor) -> Tensor:
    """`sum_v p value`, where an entry of probability 0 contributes 0 also if its value is infinite or NaN."""
    return torch.where(p > 0, p * value, 0).sum(-1)


def _log_ratio_to_mixture(difference: Tensor, share: float) -> Tensor:
    """`log((1 - share) + share exp(d))` for d = log q - log p: log(m / p) without cancellation, exactly 0 at d = 0."""
    low = torch.log1p(share * torch.expm1(difference.clamp(max=0)))
    high = difference + torch.log1p((1 - share) * torch.expm1(-difference.clamp(min=0)))
    return torch.where(difference > 0, high, low)


def divergence_and_gradient(log_p: Tensor, log_q: Tensor, divergence: Divergence, beta: float) -> tuple[Tensor, Tensor]:
    """The divergence, `[...]`, and its gradient in the student's logits over T, `[..., V]`.

    Args:
        log_p, log_q: log-probabilities of student and teacher, `[..., V]`.
        divergence, beta: as for `token_divergence`.
    """
    p = log_p.exp()
    if divergence == "forward_kl":
        q = log_q.exp()
        return _expected(q, log_q - log_p), p - q
    if divergence == "reverse_kl":
        ratio = log_p - log_q
        value = _expected(p, ratio)
        return value, torch.where(p > 0, p * (ratio - value[..., None]), 0)
    # NaN where both are -inf, and such entries have p = q = 0.
    difference = log_q - log_p
    from_mixture = -_log_ratio_to_mixture(difference, beta)
    student_part = _expected(p, from_mixture)
    teacher_part = _expected(log_q.exp(), -_log_ratio_to_mixture(-difference, 1 - beta))
    value = beta * teacher_part + (1 - beta) * student_part
    return value, torch.where(p > 0, (1 - beta) * p * (from_mixture - student_part[..., None]), 0)


class _TokenDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, divergence: Divergence, temperature: float, beta: float
    ) -> Tensor:
        log_p, log_q = ((logits / temperature).log_softmax(-1) for logits in (student, teacher))
        value, gradient = divergence_and_gradient(log_p, log_q, divergence, beta)
        ctx.save_for_backward(gradient.div_(temperature))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        factor = grad_output[..., None]
        # Where the divergence is infinite its gradient is NaN; a position that does not count must not spread that.
        return (gradient * factor).masked_fill_(factor == 0, 0), None, None, None, None
