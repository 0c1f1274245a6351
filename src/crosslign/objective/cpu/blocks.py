"""Where the logits of a chunk lie: blocks of columns for matrix products, tiles of rows for the rest.

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

# Columns of a block. Wider ones gain nothing; a product sums a block in float32, and shorter sums lose less.
BLOCK = 3072
# Numbers in a tile of one side: five of that, both sides and the working memory, stay in a core's second-level cache.
TILE = 1 << 16
SCRATCH = 3  # numbers of working memory for each of one side's largest tile
GROUP = 64  # neighbours whose largest logit is kept
_FAN = 8


def blocks(vocabulary: int) -> list[slice]:
    """The columns of each block."""
    return [slice(a, min(a + BLOCK, vocabulary)) for a in range(0, vocabulary, BLOCK)]


def padded_width(columns: Sequence[slice]) -> int:
    """Columns that are kept for each block: whole groups."""
    return -(-columns[0].stop // GROUP) * GROUP


def tile_rows(width: int, rows: int) -> int:
    """Rows of a block that elementwise work takes at a time."""
    return max(min(TILE // width, rows), 1)


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

    `choice` and `largest` search the teacher's logits by the maxima of their groups, `[n, groups]`, far cheaper than a
    full search and exact: any logit among the K largest lies in one of the K groups with the largest maxima, or is
    equal to a value in them, for those groups' maxima are K values already, and no other group has a larger one.

    Args:
        memory: at least `blocks * 2 n * width` numbers; overwritten.
        scratch: at least `SCRATCH * tile * width`.
        rows: n.
        columns: the blocks, equally wide but for the last.
        tile: tokens of a tile.
    """

    def __init__(self, memory: Tensor, scratch: Tensor, rows: int, columns: Sequence[slice], tile: int) -> None:
        self.rows, self.width, self.vocabulary = rows, padded_width(columns), columns[-1].stop
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

    def choice(self, maxima: Tensor) -> Tensor:
        """`teacher_choice`, `[n]`: of several equal maxima the lowest id."""
        best = maxima.amax(-1, keepdim=True)
        number = torch.arange(maxima.shape[1])
        first = torch.where(maxima == best, number, number[-1]).amin(-1, keepdim=True)
        ids = first * GROUP + torch.arange(GROUP)
        found = torch.where(self._members(first) == best, ids, self.vocabulary).amin(-1)
        return found.clamp(max=self.vocabulary - 1)

    def largest(self, maxima: Tensor, k: int) -> Tensor:
        """The teacher's `min(k, vocabulary)` largest logits, largest first."""
        chosen = _top(maxima, min(k, maxima.shape[1]))[1]
        return _top(self._members(chosen), min(k, self.vocabulary))[0]

    def _members(self, chosen: Tensor) -> Tensor:
        """The teacher's logits in these groups of each token, `[n, k] -> [n, k * GROUP]`; -inf is padding."""
        in_block = self.width // GROUP
        row = (self._row(chosen // in_block, 1) * in_block + chosen % in_block).flatten()
        return self._blocks.view(-1, GROUP).index_select(0, row).view(len(chosen), -1)

    def student_around(self, choice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The block of each token's choice `[n]`, `[n]`; the place in it, `[n]`; a copy of the logits, `[n, width]`.

        The student's logits, padding included.
        """
        block = choice // self.width
        row = self._row(block[:, None], 0).flatten()
        return block, choice % self.width, self._blocks.view(-1, self.width).index_select(0, row)

    def _row(self, block: Tensor, side: int) -> Tensor:
        return (2 * block + side) * self.rows + torch.arange(self.rows)[:, None]


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`values.topk(k)`, by groups again where there are many values for it."""
    count, groups = values.shape[1], values.shape[1] // _FAN
    if k > groups // 2 or count % _FAN:
        return torch.topk(values, k)
    # Members of a group lie `groups` apart, so their maxima are of whole rows.
    parts = values.unflatten(1, (_FAN, groups))
    chosen = parts.amax(1).topk(k).indices[:, None].expand(-1, _FAN, -1)
    found, place = parts.gather(2, chosen).flatten(1).topk(k)
    return found, chosen.gather(2, (place % k)[:, None])[:, 0] + place // k * groups
