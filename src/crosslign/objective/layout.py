"""How the fused path cuts tokens into chunks and the vocabulary into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

MIB = 1 << 20
# Bytes of logits held at a time, both sides together. On a CPU, 128 tokens of a vocabulary of 150,000; twice as much
# gains 4 % there and less elsewhere. An accelerator wants larger products.
_BUDGET = {"cpu": 150 * MIB}
_ACCELERATOR_BUDGET = 1024 * MIB
# Columns of a block. Wider ones gain nothing; a product sums a block in float32, and shorter sums lose less.
_BLOCK = 3072
# Numbers in a tile of one side: five of that, both sides and the working memory, stay in a core's second-level cache.
_TILE = 1 << 16
_ROUND = 8  # rows: whole vectors of the matrix product


@dataclass(frozen=True)
class Piece:
    """Tokens start:stop, in the order of sequences.

    Fields:
        open: part of a sequence that is cut, so the sum of its weights is not known yet.
        last: the end of such a sequence.
    """

    start: int
    stop: int
    open: bool = False
    last: bool = False


def rows_in_budget(vocabulary: int, itemsize: int, device: torch.device, floor: int = 0) -> int:
    """Tokens a chunk: both sides' logits fit into the device's budget, or into `floor` bytes if that is more."""
    budget = max(_BUDGET.get(device.type, _ACCELERATOR_BUDGET), floor)
    rows = budget // (2 * vocabulary * itemsize)
    return max(rows // _ROUND * _ROUND, _ROUND)


def pieces(count: int, rows: int) -> list[Piece]:
    """`count` tokens in as few chunks as hold at most `rows`, equally long but for the last."""
    chunks = -(-count // rows)
    size = -(-count // chunks) if chunks else 0
    if rows % _ROUND == 0:
        size = -(-size // _ROUND) * _ROUND
    return [Piece(a, min(a + size, count)) for a in range(0, count, max(size, 1))]


def whole_sequences(lengths: Sequence[int], rows: int) -> list[Piece]:
    """Chunks of whole sequences, as many as fit into `rows` tokens; a longer sequence is cut and shares no chunk."""
    result: list[Piece] = []
    start = stop = 0
    for length in lengths:
        if stop > start and stop + length - start > rows:
            result.append(Piece(start, stop))
            start = stop
        if length > rows:
            parts = pieces(length, rows)
            result += [Piece(stop + p.start, stop + p.stop, True, p is parts[-1]) for p in parts]
            start = stop + length
        stop += length
    return [*result, Piece(start, stop)] if stop > start else result


def blocks(vocabulary: int, device: torch.device) -> list[slice]:
    """Blocks of columns for a matrix product; one block on an accelerator, where each costs a launch."""
    width = _BLOCK if device.type == "cpu" else vocabulary
    return [slice(a, min(a + width, vocabulary)) for a in range(0, vocabulary, width)]


def tile_rows(width: int, rows: int, device: torch.device) -> int:
    """Rows of a block that elementwise work takes at a time."""
    return max(min(_TILE // width, rows), 1) if device.type == "cpu" else rows
