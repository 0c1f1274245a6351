"""The teacher's choice and its K largest logits from maxima of small groups: exact, and far cheaper than a full top-K.

The logits of a token are cut into groups of GROUP neighbours. Any logit among the K largest lies in one of the K groups
with the largest maxima, or is equal to a value in them: those groups' maxima are K values already, and no other group
has a larger one. So the K largest of these K groups are the K largest of all, as values.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 64


def group_maxima(logits: Tensor) -> Tensor:
    """`[n, V] -> [n, ceil(V / GROUP)]`; the last group may be smaller."""
    whole = logits.shape[1] // GROUP * GROUP
    parts = [logits[:, :whole].unflatten(1, (-1, GROUP)).amax(-1)] if whole else []
    if whole < logits.shape[1]:
        parts.append(logits[:, whole:].amax(-1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _members(logits: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Ids in these groups, `[n, k] -> [n, k * GROUP]`, and their logits, -inf where the last group has no member."""
    vocabulary = logits.shape[1]
    ids = (groups[..., None] * GROUP + torch.arange(GROUP, device=logits.device)).flatten(1)
    values = logits.gather(1, ids.clamp(max=vocabulary - 1))
    return ids, values.masked_fill_(ids >= vocabulary, -torch.inf)


def choice_in(logits: Tensor, maxima: Tensor) -> Tensor:
    """`teacher_choice(logits)`, `[n]`: of several equal maxima the lowest id."""
    count, vocabulary = maxima.shape[1], logits.shape[1]
    best = maxima.amax(-1, keepdim=True)
    number = torch.arange(count, device=logits.device)
    first = torch.where(maxima == best, number, count).amin(-1, keepdim=True).clamp(max=count - 1)
    ids, values = _members(logits, first)
    return torch.where(values == best, ids, vocabulary).amin(-1).clamp(max=vocabulary - 1)


def largest_in(logits: Tensor, maxima: Tensor, k: int) -> Tensor:
    """The `min(k, V)` largest logits of each token, largest first."""
    if k >= maxima.shape[1]:
        return logits.topk(min(k, logits.shape[1])).values
    _, values = _members(logits, maxima.topk(k).indices)
    return values.topk(k).values
