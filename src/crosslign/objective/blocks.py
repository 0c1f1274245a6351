"""Where the fused path keeps the logits of a chunk: blocks of columns for matrix products, tiles of rows for the rest.

A product wants a wide block; elementwise work wants what fits into a core's second-level cache together with its
working memory. So a product writes a block, and the block is worked on tile by tile. A block is contiguous because rows
of a whole `[tokens, vocabulary]` buffer lie pages apart.

Tensors here are `[sides, tokens, ...]`: 2 sides, the student's logits before the teacher's, or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crosslign.objective.groups import GROUP

SCRATCH = 3  # numbers of working memory for each of one side's largest tile


def padded_width(columns: Sequence[slice]) -> int:
    """Columns that are kept for each block: whole groups."""
    return -(-columns[0].stop // GROUP) * GROUP


class Tile(NamedTuple):
    """Some tokens of a block.

    Fields:
        both: `[2, r, columns]`, logits; a view.
        student, teacher: the same, apart, `[1, r, columns]`.
        groups: `[2, r, groups, GROUP]`, the same, padding included.
        work, spare: working memory, `[2, r, columns]` and `[1, r, columns]`; the same for every tile.
    """

    both: Tensor
    student: Tensor
    teacher: Tensor
    groups: Tensor
    work: Tensor
    spare: Tensor


class LogitBlocks:
    """Logits of n tokens on both sides, before the temperature.

    The last block is padded to the width of the others with -inf, which changes no maximum and no sum of
    exponentials.

    Args:
        memory: at least `blocks * 2 n * width` numbers; overwritten.
        scratch: at least `SCRATCH * tile * width`.
        rows: n.
        columns: the blocks, equally wide but for the last.
        tile: tokens of a tile.
    """

    def __init__(self, memory: Tensor, scratch: Tensor, rows: int, columns: Sequence[slice], tile: int) -> None:
        self.rows, self.width = rows, padded_width(columns)
        self._count, self._scratch, self._tile = len(columns), scratch, tile
        self._blocks = memory[: len(columns) * 2 * rows * self.width].view(len(columns), 2, rows, self.width)
        self._last = columns[-1].stop - columns[-1].start
        self._kept: dict[int, list[Tile]] = {}

    def pad(self) -> None:
        """Write the padding, which others who use the memory do not keep."""
        self._blocks[-1, :, :, self._last :] = -torch.inf

    def __len__(self) -> int:
        return self._count

    def both(self, number: int) -> Tensor:
        """`[2, n, columns]`; a view."""
        block = self._blocks[number]
        return block[:, :, : self._last] if number == self._count - 1 else block

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The tokens of each tile, views."""
        return tensor.split(self._tile, 1)

    def tiles(self, number: int) -> list[Tile]:
        """The parts of a block that fit into a core's cache.

        Kept: making a view costs as much as arithmetic on it.
        """
        if number not in self._kept:
            block = self.both(number)
            groups = self._blocks[number].unflatten(-1, (-1, GROUP))
            views = map(self.split, (block, block[:1], block[1:], groups))
            self._kept[number] = [Tile(a, b, c, d, *self._working(a)) for a, b, c, d in zip(*views, strict=True)]
        return self._kept[number]

    def _working(self, both: Tensor) -> tuple[Tensor, Tensor]:
        memory = self._scratch[: SCRATCH * both[0].numel()].view(SCRATCH, *both.shape[1:])
        return memory[:2], memory[2:]

    def groups(self, chosen: Tensor) -> Tensor:
        """The teacher's logits in these groups of each token, `[n, k] -> [n, k, GROUP]`; -inf is padding."""
        in_block = self.width // GROUP
        row = (self._row(chosen // in_block, 1) * in_block + chosen % in_block).flatten()
        return self._blocks.view(-1, GROUP).index_select(0, row).view(*chosen.shape, GROUP)

    def student_around(self, choice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The block of each token's choice `[n]`, `[n]`; the place in it, `[n]`; a copy of the logits, `[n, width]`.

        The student's logits, padding included.
        """
        block = choice // self.width
        row = self._row(block[:, None], 0).flatten()
        return block, choice % self.width, self._blocks.view(-1, self.width).index_select(0, row)

    def _row(self, block: Tensor, side: int) -> Tensor:
        token = torch.arange(self.rows, device=block.device)[:, None]
        return (2 * block + side) * self.rows + token
