"""How the fused path cuts tokens into chunks and the vocabulary into blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from crosslign.objective.groups import GROUP

MIB = 1 << 20
# Bytes of logits held at a time, both sides together. On a CPU more gains nothing: 100 rows keep the matrix products
# at full rate already. An accelerator wants larger products.
_BUDGET = {"cpu": 128 * MIB}
_ACCELERATOR_BUDGET = 1024 * MIB
# Numbers in a block of one side: with its scratch it stays in a core's second-level cache.
_BLOCK = 1 << 17
_NARROWEST = 512  # columns; the matrix product over a block wants that many
_WIDEST = 1 << 14  # columns; a product sums a block in float32, and shorter sums lose less
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
    """`count` tokens in chunks of at most `rows`, about equally long."""
    chunks = -(-count // rows)
    bounds = [count * i // chunks for i in range(chunks + 1)] if chunks else [0]
    return [Piece(a, b) for a, b in itertools.pairwise(bounds)]


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


def blocks(vocabulary: int, rows: int, device: torch.device) -> list[slice]:
    """Blocks of columns for chunks of `rows` tokens; one block on an accelerator, where each costs a launch."""
    width = vocabulary
    if device.type == "cpu":
        width = min(max(_BLOCK // max(rows, 1), _NARROWEST), _WIDEST) // GROUP * GROUP
    return [slice(a, min(a + width, vocabulary)) for a in range(0, vocabulary, width)]
