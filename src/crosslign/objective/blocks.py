"""The elementwise mathematics of the fused path: in place, in blocks that stay in a core's second-level cache.

A chunk is n tokens and two buffers of logits, `s` and `t`, `[n, V]`. `MEASURES[divergence]` takes the divergence and
the student's disagreement from them and leaves in them what the gradient is made of, block by block; e_s = exp(s -
max s), Z_s = sum_v e_s, likewise for t, all for s and t divided by the temperature, d = s - t:

    divergence    value                                      s becomes   t becomes   gradient in s
    reverse_kl    c - log(Z_s / Z_t) - (max s - max t)       e_s         d           e_s (d - c) / Z_s
                  with c = sum_v e_s d / Z_s
    forward_kl    log(Z_s / Z_t) + (max s - max t)           e_s         e_t         e_s / Z_s - e_t / Z_t
                  - sum_v e_t d / Z_t
    jsd           beta KL(q || m) + (1 - beta) KL(p || m)    p           -r          (1 - beta) p (-r - KL(p || m))
                  with r = log(m / p) = log1p(beta expm1(log q - log p)), so that log(m / q) = r - (log q - log p)

A soft-capped student's `s` is multiplied with the slope of the cap, `1 - (logits / c)^2`, so the gradient carries it.
Sums over a block are float32, over blocks float64 where the device has it. Each gradient is exactly zero where the two
sides have equal logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosslign.objective.divergences import Divergence

# Of the exponent in expm1: beyond it the smaller probability is below 1e-34 of the larger one.
_LARGEST_EXPONENT = 80.0
SCRATCH = 3  # blocks of working memory that a chunk needs beside its logits


@dataclass(frozen=True)
class Chunk:
    """Logits of n tokens and what is known of them.

    Fields:
        student, teacher: `[n, V]`, before the temperature; overwritten.
        student_max, teacher_max: `[n, 1]`, their maxima, before the temperature.
        choice: `[n]`, the teacher's choice y*, or None where the weighting needs none.
        columns: the blocks.
        scratch: `[SCRATCH, n * (widest block)]`.
        infinite: some logits may be -inf.
    """

    student: Tensor
    teacher: Tensor
    student_max: Tensor
    teacher_max: Tensor
    choice: Tensor | None
    columns: Sequence[slice]
    scratch: Tensor
    temperature: float
    beta: float
    softcap: float | None
    infinite: bool

    def blocks(self) -> list[tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
        """(student, teacher, working memory) of each block, views."""
        rows = self.student.shape[0]
        result = []
        for columns in self.columns:
            width = columns.stop - columns.start
            scratch = tuple(part[: rows * width].view(rows, width) for part in self.scratch)
            result.append((self.student[:, columns], self.teacher[:, columns], scratch))
        return result


@dataclass(frozen=True)
class Measured:
    """Fields: `divergence`, `[n]`; `disagreement`, `[n]`, 1 - p_S(y*) (0 if there is no choice); `factor`, `[n]`, of
    the gradient that `gradient(s, t)` then makes in a block of `s`; all before the division by the temperature."""

    divergence: Tensor
    disagreement: Tensor
    factor: Tensor
    gradient: Callable[[Tensor, Tensor], None]


class _StudentSum:
    """Z_s, and the same without the teacher's choice: `1 - p_S(y*)` as a difference would lose its digits."""

    def __init__(self, chunk: Chunk, zeros: Tensor) -> None:
        self.total, self.others = zeros.clone(), zeros.clone()
        self.choice, self.columns = chunk.choice, chunk.columns
        # Blocks with the choice of some token; not worth finding out where there is one block.
        self.occupied = {0}
        if chunk.choice is not None and len(chunk.columns) > 1:
            self.occupied = set((chunk.choice // chunk.columns[0].stop).unique().tolist())

    def add(self, number: int, block: Tensor) -> None:
        total = block.sum(-1)
        self.total += total
        if self.choice is None or number not in self.occupied:
            self.others += total
            return
        local = self.choice - self.columns[number].start
        inside = ((local >= 0) & (local < block.shape[-1]))[:, None]
        index = local.clamp(0, block.shape[-1] - 1)[:, None]
        entry = block.gather(1, index)
        block.scatter_(1, index, entry.masked_fill(inside, 0))
        self.others += block.sum(-1)
        block.scatter_(1, index, entry)

    def disagreement(self) -> Tensor:
        return (self.others / self.total).clamp_(0, 1)


def _zeros(chunk: Chunk) -> Tensor:
    rows, device = chunk.student.shape[0], chunk.student.device
    return torch.zeros(rows, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def _column(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype)[:, None]


def _cool(chunk: Chunk, *blocks: Tensor) -> None:
    if chunk.temperature != 1:
        for block in blocks:
            block.div_(chunk.temperature)


def _slope(chunk: Chunk, student: Tensor, out: Tensor) -> Tensor | None:
    """Derivative of the soft-cap at these (cooled) logits."""
    if chunk.softcap is None:
        return None
    return torch.mul(student, student, out=out).mul_(-((chunk.temperature / chunk.softcap) ** 2)).add_(1)


def _maxima(chunk: Chunk) -> tuple[Tensor, Tensor]:
    return chunk.student_max / chunk.temperature, chunk.teacher_max / chunk.temperature


def _log_ratio(chunk: Chunk, student_sum: Tensor, teacher_sum: Tensor) -> Tensor:
    """log-sum-exp of the student minus that of the teacher, `[n]`."""
    student_max, teacher_max = (m[:, 0].to(student_sum.dtype) for m in _maxima(chunk))
    return (student_max - teacher_max) + torch.log(student_sum / teacher_sum)


def _centred(centre: Tensor) -> Callable[[Tensor, Tensor], None]:
    def gradient(student: Tensor, teacher: Tensor) -> None:
        student.mul_(teacher.sub_(centre))

    return gradient


def _difference(student_factor: Tensor, teacher_factor: Tensor) -> Callable[[Tensor, Tensor], None]:
    def gradient(student: Tensor, teacher: Tensor) -> None:
        # Two rounded products: a fused multiply-add would leave the rounding error where they are equal.
        student.mul_(student_factor).sub_(teacher.mul_(teacher_factor))

    return gradient


def _reverse_kl(chunk: Chunk) -> Measured:
    zeros = _zeros(chunk)
    student_max, teacher_max = _maxima(chunk)
    student_sum, teacher_sum, product = _StudentSum(chunk, zeros), zeros.clone(), zeros.clone()
    for number, (s, t, (work, _, spare)) in enumerate(chunk.blocks()):
        _cool(chunk, s, t)
        teacher_sum += torch.sub(t, teacher_max, out=work).exp_().sum(-1)
        torch.sub(s, t, out=t)
        slope = _slope(chunk, s, spare)
        s.sub_(student_max).exp_()
        if chunk.infinite:
            t.masked_fill_(s == 0, 0)
        student_sum.add(number, s)
        product += torch.mul(s, t, out=work).sum(-1)
        if slope is not None:
            s.mul_(slope)
    total = student_sum.total
    centre = product / total
    value = centre - _log_ratio(chunk, total, teacher_sum)
    return Measured(value, student_sum.disagreement(), 1 / total, _centred(_column(centre, chunk.student)))


def _forward_kl(chunk: Chunk) -> Measured:
    zeros = _zeros(chunk)
    student_max, teacher_max = _maxima(chunk)
    student_sum, teacher_sum, product = _StudentSum(chunk, zeros), zeros.clone(), zeros.clone()
    for number, (s, t, (work, _, spare)) in enumerate(chunk.blocks()):
        _cool(chunk, s, t)
        torch.sub(s, t, out=work)
        slope = _slope(chunk, s, spare)
        s.sub_(student_max).exp_()
        t.sub_(teacher_max).exp_()
        if chunk.infinite:
            work.masked_fill_(t == 0, 0)
        student_sum.add(number, s)
        teacher_sum += t.sum(-1)
        product += work.mul_(t).sum(-1)
        if slope is not None:
            s.mul_(slope)
            t.mul_(slope)
    total = student_sum.total
    value = _log_ratio(chunk, total, teacher_sum) - product / teacher_sum
    factors = (_column(1 / z, chunk.student) for z in (total, teacher_sum))
    return Measured(value, student_sum.disagreement(), torch.ones_like(value), _difference(*factors))


def _jsd(chunk: Chunk) -> Measured:
    zeros = _zeros(chunk)
    student_max, teacher_max = _maxima(chunk)
    student_sum, teacher_sum = _StudentSum(chunk, zeros), zeros.clone()
    for number, (s, t, (work, *_)) in enumerate(chunk.blocks()):
        _cool(chunk, s, t)
        student_sum.add(number, torch.sub(s, student_max, out=work).exp_())
        teacher_sum += torch.sub(t, teacher_max, out=work).exp_().sum(-1)
    total = student_sum.total
    shift = _column(_log_ratio(chunk, total, teacher_sum), chunk.student)
    student_factor, teacher_factor = _column(1 / total, chunk.student), _column(1 / teacher_sum, chunk.student)
    student_part, teacher_part = zeros.clone(), zeros.clone()
    for s, t, (ratio, to_mixture, spare) in chunk.blocks():
        torch.sub(t, s, out=ratio).add_(shift)  # log q - log p
        if chunk.infinite:
            ratio.nan_to_num_(nan=0.0)
        ratio.clamp_(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        slope = _slope(chunk, s, spare)
        s.sub_(student_max).exp_().mul_(student_factor)
        t.sub_(teacher_max).exp_().mul_(teacher_factor)
        torch.expm1(ratio, out=to_mixture).mul_(chunk.beta).log1p_()
        teacher_part -= t.mul_(torch.sub(to_mixture, ratio, out=ratio)).sum(-1)
        torch.neg(to_mixture, out=t)
        student_part += torch.mul(s, t, out=ratio).sum(-1)
        if slope is not None:
            s.mul_(slope)
    value = chunk.beta * teacher_part + (1 - chunk.beta) * student_part
    factor = torch.full_like(value, 1 - chunk.beta)
    return Measured(value, student_sum.disagreement(), factor, _centred(_column(student_part, chunk.student)))


MEASURES: Mapping[Divergence, Callable[[Chunk], Measured]] = {
    "reverse_kl": _reverse_kl,
    "forward_kl": _forward_kl,
    "jsd": _jsd,
}
