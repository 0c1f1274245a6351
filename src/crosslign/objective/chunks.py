"""How the fused path cuts tokens into chunks: what bounds the memory of their logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_MIB = 1 << 20
# Bytes of both sides' logits in a chunk. On a CPU, 128 tokens of a vocabulary of 150,000; twice as much gains 4 % there
# and less elsewhere. An accelerator wants larger products, and needs twice the logits again to work in.
_BUDGET = {"cpu": 150 * _MIB}
_ACCELERATOR_BUDGET = 768 * _MIB
_ROUND = 8  # tokens: whole vectors of the matrix product


def tokens_in_budget(vocabulary: int, itemsize: int, device: torch.device, floor: int = 0) -> int:
    """Tokens a chunk: both sides' logits fit into the device's budget, or into `floor` bytes if that is more."""
    budget = max(_BUDGET.get(device.type, _ACCELERATOR_BUDGET), floor)
    tokens = budget // (2 * vocabulary * itemsize)
    return max(tokens // _ROUND * _ROUND, _ROUND)


def pieces(count: int, most: int) -> list[slice]:
    """`count` tokens in as few chunks as hold at most `most`, equally long but for the last."""
    chunks = -(-count // most)
    size = -(-count // chunks) if chunks else 0
    if most % _ROUND == 0:
        size = -(-size // _ROUND) * _ROUND
    return [slice(a, min(a + size, count)) for a in range(0, count, max(size, 1))]


def whole_sequences(lengths: Sequence[int], most: int) -> list[list[slice]]:
    """Groups of chunks that hold whole sequences: one chunk of as many as fit, or the chunks of one that is longer."""
    groups: list[list[slice]] = []
    start = stop = 0
    for length in lengths:
        if stop > start and stop + length - start > most:
            groups.append([slice(start, stop)])
            start = stop
        if length > most:
            groups.append([slice(stop + p.start, stop + p.stop) for p in pieces(length, most)])
            start = stop + length
        stop += length
    return [*groups, [slice(start, stop)]] if stop > start else groups
