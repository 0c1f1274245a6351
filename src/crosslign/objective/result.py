"""The result of the objective, put together from the divergences and weights of the valid tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crosslign.objective.weighting import normalise


@dataclass(frozen=True)
class WeightedDivergence:
    """The result of the objective.

    Fields:
        loss: scalar; differentiable in the student.
        divergence: `[batch, tokens]`, nats, 0 where masked; detached.
        weight: `[batch, tokens]`, mean 1 over the valid tokens of a sequence (or all 0), 0 where masked; detached.
        raw_weight: `[batch, tokens]`, the weight before normalisation, in [0, 1], 0 where masked; detached. Its mean
            says how much there is to learn: near 0 once the student follows the teacher.
    """

    loss: Tensor
    divergence: Tensor
    weight: Tensor
    raw_weight: Tensor


def divisor(mask: Tensor, sequences: Tensor | int | None) -> Tensor | int:
    """What the sum of the sequences' losses is divided by."""
    return (mask.any(-1)).sum().clamp_min(1) if sequences is None else sequences


def combine(
    divergence: Tensor, raw_weight: Tensor, mask: Tensor, sequences: Tensor | int | None = None
) -> WeightedDivergence:
    """Normalise the weights and average: sequences' means of `w~ D`, then their mean.

        loss = (1 / N) sum_i  (1 / L_i) sum_t  w~_it D_it       over the sequences i with L_i > 0

    Args:
        divergence, raw_weight: `[n]`, of the True positions of `mask` in its order; differentiable in the divergence.
        mask: `[batch, tokens]`, bool.
        sequences: N; None for the number of sequences with a token.
    """
    position = mask.nonzero(as_tuple=True)
    blank = torch.zeros(mask.shape, dtype=divergence.dtype, device=divergence.device)
    divergence_grid = blank.index_put(position, divergence)
    raw_grid = blank.index_put(position, raw_weight)
    weight = normalise(raw_grid, mask)
    length = mask.sum(-1)
    # A zero weight times an infinite divergence is 0, not NaN.
    product = torch.where(weight > 0, weight * divergence_grid, 0)
    per_sequence = product.sum(-1) / length.clamp_min(1)
    loss = per_sequence.sum() / divisor(mask, sequences)
    return WeightedDivergence(loss, divergence_grid.detach(), weight, raw_grid)
