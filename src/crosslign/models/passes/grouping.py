"""Which rows share a forward pass, so that little of it is padding; and what rows have in common. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

# On a CPU another pass costs about as much as this many tokens, and a pass of this many runs at the full rate already.
CPU_GROUP_COST, CPU_MAX_TOKENS = 32, 512
# A shorter common start than this costs more than it saves.
MIN_PREFIX = 8


def length_groups(lengths: Sequence[int], *, group_cost: int = 0, max_tokens: int | None = None) -> list[list[int]]:
    """Split rows into groups of similar length, at the least cost.

        cost = sum over groups g of  (rows in g) * (longest row in g) + group_cost

    Rows are sorted by length, longest first, and cut into runs by dynamic programming: exact, since a best grouping is
    contiguous in sorted order.

    Args:
        lengths: tokens of each row.
        group_cost: what another forward and backward pass costs beside its tokens, in tokens: reading the weights,
            adding up gradients, launching kernels.
        max_tokens: a group of several rows has at most this many positions, padding included; None for no limit.

    Returns row indices by group, the group with the longest row first, so that running out of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    best = [0.0] + [float("inf")] * len(order)  # cost of the first n rows in sorted order
    cut = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        for start in range(end - 1, -1, -1):
            positions = (end - start) * lengths[order[start]]
            if max_tokens is not None and end - start > 1 and positions > max_tokens:
                break  # a wider run only has more
            cost = best[start] + positions + group_cost
            if cost < best[end]:
                best[end], cut[end] = cost, start
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[cut[end] : end])
        end = cut[end]
    return groups[::-1]


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with."""
    if not sequences:
        return 0
    # What the smallest and the largest in lexical order share, all share.
    low, high = min(map(tuple, sequences)), max(map(tuple, sequences))
    for position, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return position
    return min(len(low), len(high))
