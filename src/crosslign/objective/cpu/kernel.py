"""Measures a chunk block by block: what does not need the other blocks is taken from each as soon as it is made."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from crosslign.objective.cpu.blocks import SCRATCH, LogitBlocks, blocks, padded_width, tile_rows
from crosslign.objective.cpu.measures import MEASURES, Measure
from crosslign.objective.head import PlainHead
from crosslign.objective.kernel import Measured, Options
from crosslign.objective.products import Precision
from crosslign.objective.weighting import teacher_confidence


class BlockKernel:
    """As `objective.kernel.Kernel`, for chunks of at most `most` tokens."""

    def __init__(
        self, student_head: PlainHead, teacher_head: PlainHead, options: Options, precision: Precision, most: int
    ) -> None:
        self.student_head, self.teacher_head = student_head, teacher_head
        self.options, self.precision = options, precision
        self.columns = blocks(len(student_head.weight))
        block = padded_width(self.columns)
        self.tile = tile_rows(block, most)
        self.memory = torch.empty(2 * len(self.columns) * most * block, dtype=precision.result)
        self.scratch = torch.empty(SCRATCH * self.tile * block, dtype=precision.result)
        self.shared = _one(student_head, teacher_head)  # so one product serves both
        # A bias of -inf takes entries out of the vocabulary.
        biases = [head.bias for head in (student_head, teacher_head) if head.bias is not None]
        self.infinite = not all(bool(bias.isfinite().all()) for bias in biases)
        self.measures: dict[int, Measure] = {}  # by the number of tokens; kept, so that views are not made again

    def measure(self, student_rows: Tensor, teacher_rows: Tensor) -> Measured:
        """Hidden states of the same tokens, `[n, H]` each."""
        o, count = self.options, len(student_rows)
        if count not in self.measures:
            blocks = LogitBlocks(self.memory, self.scratch, count, self.columns, self.tile)
            arguments = o.temperature, o.beta, self.student_head.softcap, self.infinite
            self.measures[count] = MEASURES[o.divergence](blocks, *arguments)
        measure = self.measures[count]
        logits = measure.logits
        logits.pad()
        stacked = torch.cat([student_rows, teacher_rows]) if self.shared else None
        for number, columns in enumerate(self.columns):
            both = logits.both(number)
            if stacked is not None:
                self.precision.logits(self.student_head, stacked, columns, both.flatten(0, 1))
            else:
                self.precision.logits(self.student_head, student_rows, columns, both[0])
                self.precision.logits(self.teacher_head, teacher_rows, columns, both[1])
            measure.add(number)
        weight = torch.ones(count, dtype=self.precision.result)
        if o.weighting in ("dpsw", "teacher"):
            weight *= teacher_confidence(logits.largest(measure.teacher_maxima, o.top_k) / o.temperature, o.top_k)
        choosing = o.weighting in ("dpsw", "student")
        divergence = measure.value(logits.choice(measure.teacher_maxima) if choosing else None)
        if choosing:
            weight *= measure.disagreement.to(weight.dtype)
        gradient = self._gradient(measure)
        return Measured(divergence.to(weight.dtype), weight, measure.factor.to(weight.dtype), gradient)

    def _gradient(self, measure: Measure) -> Iterator[tuple[slice, Tensor]]:
        return ((columns, measure.gradient(number)) for number, columns in enumerate(self.columns))


def _one(student: PlainHead, teacher: PlainHead) -> bool:
    """Both are one head."""

    def same(a: Tensor | None, b: Tensor | None) -> bool:
        if a is None or b is None:
            return a is b
        return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.dtype == b.dtype

    return (
        same(student.weight, teacher.weight)
        and same(student.bias, teacher.bias)
        and (student.scale, student.softcap) == (teacher.scale, teacher.softcap)
    )
