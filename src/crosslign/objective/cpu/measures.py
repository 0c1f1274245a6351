"""The divergences of `objective.divergences` and their gradients, block by block, in place.

With the logits s of the student and t of the teacher, divided by the temperature, d = s - t, the maxima m_b of a token
in block b, e_s = exp(s - m_b), likewise e_t, and M the largest m_b, each sum over the vocabulary is put together from
sums over blocks, e.g. Z_s = sum_b exp(m_b - M) sum_{v in b} e_s. From then on e_s = exp(s - M_s).

    divergence    value                                      gradient in s
    reverse_kl    c - log(Z_s / Z_t) - (M_s - M_t)           e_s (d - c) / Z_s
                  with c = sum_v e_s d / Z_s
    forward_kl    log(Z_s / Z_t) + (M_s - M_t)               e_s / Z_s - e_t / Z_t
                  - sum_v e_t d / Z_t
    jsd           beta KL(q || m) + (1 - beta) KL(p || m)    (beta - 1) e_s (r - c) / Z_s
                  with c = sum_v p r,
                  r = log(m / p) = log1p(beta expm1(log q - log p)), so that log(m / q) = r - (log q - log p)

A soft-capped student's gradient is multiplied with the slope of the cap, `1 - (logits / c)^2`. Sums over a block are
float32, over blocks float64. Each gradient is exactly zero where the two sides have equal
logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crosslign.objective.cpu.blocks import GROUP, LogitBlocks, Tile
from crosslign.objective.divergences import Divergence

# Of log q - log p: beyond it the smaller probability is below 1e-34 of the larger one.
_LARGEST_EXPONENT = 80.0
# With a token's largest logit from 0 to this, exp(logit) neither overflows nor loses a digit that counts.
_LARGEST_PLAIN = 60.0


class Measure(ABC):
    """A divergence of n tokens: `add` each block once it holds logits, `value`, then `gradient` of each block.

    Args:
        logits: the blocks.
        temperature, beta: of the divergence.
        softcap: of the student's logits.
        infinite: some logits may be -inf.

    Fields after `value`:
        factor: `[n]`, of what `gradient` returns.
        disagreement: `[n]`, `1 - p_S(choice)`, summed over the others: a difference would lose its digits.
    """

    factor: Tensor
    disagreement: Tensor
    _constants: list[tuple[Tensor, ...]]

    def __init__(
        self, logits: LogitBlocks, temperature: float, beta: float, softcap: float | None, infinite: bool
    ) -> None:
        self.logits, self.rows = logits, logits.rows
        self.temperature, self.beta, self.softcap, self.infinite = temperature, beta, softcap, infinite
        memory, count = logits.both(0), len(logits)
        # Of each block, `[blocks, 2, n, ...]`; maxima are before the temperature.
        self._group_maxima = memory.new_empty(count, 2, self.rows, logits.width // GROUP)
        self._maxima = memory.new_empty(count, 2, self.rows, 1)
        self._sums = memory.new_empty(count, 2, self.rows, 1)  # of exponentials
        # Exponentials are of the logits themselves until that is found unsafe.
        self._shifted = temperature != 1 or infinite
        self._places: dict[int, list[tuple[Tensor, ...]]] = {}

    @property
    def teacher_maxima(self) -> Tensor:
        """The maxima of the teacher's groups, `[n, groups]`."""
        return self._group_maxima[:, 1].transpose(0, 1).flatten(1)

    def add(self, number: int) -> None:
        """Take from a block's fresh logits what does not need the others."""
        if number not in self._places:
            self._places[number] = list(zip(*map(self.logits.split, self._results(number)), strict=True))
        for tile, (groups, maxima, sums, *more) in zip(self.logits.tiles(number), self._places[number], strict=True):
            torch.amax(tile.groups, -1, out=groups)
            torch.amax(groups, -1, keepdim=True, out=maxima)
            if self.infinite:
                maxima.clamp_(min=torch.finfo(maxima.dtype).min)  # -inf minus itself is no number
            if self._shifted:
                self._cool(torch.sub(tile.both, maxima, out=tile.work)).exp_()
            else:
                torch.exp(tile.both, out=tile.work)
            torch.sum(tile.work, -1, keepdim=True, out=sums)
            self._add(tile, *more)

    def value(self, choice: Tensor | None) -> Tensor:
        """The divergence, `[n]`; `choice` is the teacher's, `[n]`, or None where no disagreement is wanted."""
        self._largest = self._maxima.amax(0)
        if not self._shifted and not (self._largest.min() >= 0 and self._largest.max() <= _LARGEST_PLAIN):
            self._shifted = True
            for number in range(len(self.logits)):
                self.add(number)
        shift = self._maxima if self._shifted else torch.zeros_like(self._maxima[:1])
        self._scale = torch.exp((shift - self._largest).double() / self.temperature)
        self._parts = self._scale * self._sums
        self._total = self._parts.sum(0)
        shift = (self._largest[:1] - self._largest[1:]).double() / self.temperature
        # log-sum-exp of the student minus that of the teacher
        self._log_ratio = shift + torch.log(self._total[:1] / self._total[1:])
        if choice is not None:
            self.disagreement = self._disagreement(choice)
        return self._value().flatten()

    def _disagreement(self, choice: Tensor) -> Tensor:
        block, place, logits = self.logits.student_around(choice)
        token = torch.arange(self.rows)
        self._cool(logits.sub_(self._largest[0])).exp_().scatter_(1, place[:, None], 0)
        parts = self._parts[:, 0].clone()
        parts[block, token] = logits.sum(-1, keepdim=True).double()
        return (parts.sum(0) / self._total[0]).clamp_(0, 1).flatten()

    @abstractmethod
    def gradient(self, number: int) -> Tensor:
        """`[n, columns]`: times `factor`, the gradient in the logits; overwrites the block."""

    def _slope(self, tile: Tile) -> Tensor | None:
        """Derivative of the soft-cap at the student's logits, in the tile's `spare`."""
        if self.softcap is None:
            return None
        return torch.mul(tile.student, tile.student, out=tile.spare).mul_(-(self.softcap**-2)).add_(1)

    def _cool(self, block: Tensor) -> Tensor:
        return block if self.temperature == 1 else block.div_(self.temperature)

    def _split(self, *constants: Tensor) -> list[tuple[Tensor, ...]]:
        """Constants of each token, by tile."""
        return [self.logits.split(c.to(self._sums.dtype)) for c in constants]

    def _results(self, number: int) -> tuple[Tensor, ...]:
        """Where `add` writes."""
        return self._group_maxima[number], self._maxima[number], self._sums[number]

    @abstractmethod
    def _add(self, tile: Tile, *results: Tensor) -> None:
        """More sums over a tile, whose `work` holds the exponentials; it and `spare` may be overwritten."""

    @abstractmethod
    def _value(self) -> Tensor: ...


class _KL(Measure):
    """With the sum of exponentials times d, of the side that the expectation is over; d is before the temperature."""

    side: slice

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._products = self._sums.new_empty(len(self.logits), 1, self.rows, 1)

    def _results(self, number: int) -> tuple[Tensor, ...]:
        return *super()._results(number), self._products[number]

    def _add(self, tile: Tile, *results: Tensor) -> None:
        exponentials = tile.work[self.side]
        difference = torch.sub(tile.student, tile.teacher, out=tile.spare)
        if self.infinite:
            difference.masked_fill_(exponentials == 0, 0)
        torch.sum(exponentials.mul_(difference), -1, keepdim=True, out=results[0])

    def _value(self) -> Tensor:
        return self._divergence((self._scale[:, self.side] * self._products).sum(0))

    @abstractmethod
    def _divergence(self, product: Tensor) -> Tensor: ...


class _ReverseKL(_KL):
    side = slice(0, 1)

    def _divergence(self, product: Tensor) -> Tensor:
        centre = product / self._total[:1]
        self._constants = self._split(self._largest[:1], centre)
        self.factor = 1 / (self._total[0, :, 0] * self.temperature)
        return centre / self.temperature - self._log_ratio

    def gradient(self, number: int) -> Tensor:
        for tile, largest, centre in zip(self.logits.tiles(number), *self._constants, strict=True):
            slope = self._slope(tile)
            torch.sub(tile.student, tile.teacher, out=tile.teacher)
            self._cool(tile.student.sub_(largest)).exp_()
            if self.infinite:
                tile.teacher.masked_fill_(tile.student == 0, 0)
            tile.student.mul_(tile.teacher.sub_(centre))
            if slope is not None:
                tile.student.mul_(slope)
        return self.logits.both(number)[0]


class _ForwardKL(_KL):
    side = slice(1, 2)

    def _divergence(self, product: Tensor) -> Tensor:
        self._constants = self._split(self._largest, 1 / self._total)
        self.factor = torch.ones_like(product).flatten()
        return self._log_ratio - product / (self._total[1:] * self.temperature)

    def gradient(self, number: int) -> Tensor:
        for tile, largest, inverse in zip(self.logits.tiles(number), *self._constants, strict=True):
            slope = self._slope(tile)
            # Two rounded products: a fused multiply-add would leave the rounding error where they are equal.
            self._cool(tile.both.sub_(largest)).exp_().mul_(inverse)
            tile.student.sub_(tile.teacher)
            if slope is not None:
                tile.student.mul_(slope)
        return self.logits.both(number)[0]


class _JSD(Measure):
    # `value` leaves e_s (times the slope) and r in the blocks.

    def _add(self, tile: Tile, *results: Tensor) -> None:
        pass  # nothing more is known before all blocks are

    def _value(self) -> Tensor:
        constants = self._split(self._log_ratio, *self._largest.split(1))
        sums = torch.zeros_like(self._total)  # of e_s r and of e_t (log q - log m)
        parts = [self.logits.split(part) for part in sums.split(1)]
        for number in range(len(self.logits)):
            for tile, shift, student_max, teacher_max, student_sum, teacher_sum in zip(
                self.logits.tiles(number), *constants, *parts, strict=True
            ):
                ratio, exponentials = tile.work.split(1)
                self._cool(torch.sub(tile.teacher, tile.student, out=ratio)).add_(shift)  # log q - log p
                if self.infinite:
                    ratio.nan_to_num_(nan=0.0)
                ratio.clamp_(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
                self._cool(torch.sub(tile.teacher, teacher_max, out=exponentials)).exp_()
                # expm1(x) = tanh(x / 2) (exp(x) + 1): as exact, in two thirds of the time
                r = torch.mul(ratio, 0.5, out=tile.teacher).tanh_().mul_(self.beta)
                r.addcmul_(r, torch.exp(ratio, out=tile.spare)).log1p_()
                teacher_sum += exponentials.mul_(ratio.sub_(r)).sum(-1, keepdim=True)
                slope = self._slope(tile)
                self._cool(tile.student.sub_(student_max)).exp_()
                student_sum += torch.mul(tile.student, r, out=ratio).sum(-1, keepdim=True)
                if slope is not None:
                    tile.student.mul_(slope)
        student_part, teacher_part = sums / self._total
        self._constants = self._split(student_part[None])
        self.factor = (self.beta - 1) / self._total[0, :, 0]
        return self.beta * teacher_part - (1 - self.beta) * student_part

    def gradient(self, number: int) -> Tensor:
        for tile, centre in zip(self.logits.tiles(number), *self._constants, strict=True):
            tile.student.mul_(tile.teacher.sub_(centre))
        return self.logits.both(number)[0]


MEASURES: Mapping[Divergence, type[Measure]] = {"reverse_kl": _ReverseKL, "forward_kl": _ForwardKL, "jsd": _JSD}
