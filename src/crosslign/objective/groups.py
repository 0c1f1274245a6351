"""The teacher's choice and its K largest logits from maxima of small groups: exact, and far cheaper than a full top-K.

The logits of a token are cut into groups of GROUP neighbours. Any logit among the K largest lies in one of the K groups
with the largest maxima, or is equal to a value in them: those groups' maxima are K values already, and no other group
has a larger one. So the K largest of these K groups are the K largest of all, as values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GROUP = 64
_FAN = 8

# Groups of each token, `[n, k] -> [n, k, GROUP]`, their logits; -inf where the last group has no member.
Members = Callable[[Tensor], Tensor]


def choice_in(members: Members, maxima: Tensor, vocabulary: int) -> Tensor:
    """`teacher_choice` of the logits with these group maxima `[n, groups]`: of several equal ones the lowest id."""
    best = maxima.amax(-1, keepdim=True)
    number = torch.arange(maxima.shape[1], device=maxima.device)
    first = torch.where(maxima == best, number, number[-1]).amin(-1, keepdim=True)
    ids = first * GROUP + torch.arange(GROUP, device=maxima.device)
    return torch.where(members(first)[:, 0] == best, ids, vocabulary).amin(-1).clamp(max=vocabulary - 1)


def largest_in(members: Members, maxima: Tensor, k: int, vocabulary: int) -> Tensor:
    """The `min(k, vocabulary)` largest logits of each token, largest first."""
    chosen = _top(maxima, min(k, maxima.shape[1]))[1]
    return _top(members(chosen).flatten(1), min(k, vocabulary))[0]


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
