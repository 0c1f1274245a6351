"""Losses of preference learning, as functions of log-probabilities of whole answers. Pure; one value an example.

For a query x with a chosen answer w and a rejected one l, the model p that is trained and the frozen one p_0:

    ratio(y) = log p(y | x) - log p_0(y | x)          mean(y) = log p(y | x) / |y|

All tensors are `[B]`, float32, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_SURE = -1e-6  # a mean log-probability above it is taken for this one: the odds of 1 are infinite


def dpo(chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (ratio(w) - ratio(l))).

    Rafailov et al. 2023, Direct Preference Optimization, arXiv 2305.18290, equation 7.
    """
    return -logsigmoid(beta * (chosen_ratio - rejected_ratio))


def robust_dpo(chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float, flipped: float) -> Tensor:
    """((1 - e) L(w, l) - e L(l, w)) / (1 - 2 e), with L of DPO and e = `flipped`, the share of pairs that are wrong.

    Its mean over such noise is DPO's loss on the right pairs. It can be negative.

    Chowdhury et al. 2024, Provably Robust DPO, arXiv 2403.00409.
    """
    right, wrong = dpo(chosen_ratio, rejected_ratio, beta), dpo(rejected_ratio, chosen_ratio, beta)
    return ((1 - flipped) * right - flipped * wrong) / (1 - 2 * flipped)


def length_regularised_dpo(
    chosen_ratio: Tensor, rejected_ratio: Tensor, longer: Tensor, beta: float, alpha: float
) -> Tensor:
    """-log sigmoid(beta (ratio(w) - ratio(l)) + alpha (|w| - |l|)); `longer` is |w| - |l| in tokens.

    The optimum of a reward with a penalty alpha |y| has reward beta ratio(y) + alpha |y| + const, hence the sign: of a
    chosen answer that is longer, less is learned.

    Park et al. 2024, Disentangling Length from Quality in DPO, arXiv 2403.19159.
    """
    return -logsigmoid(beta * (chosen_ratio - rejected_ratio) + alpha * longer)


def orpo(chosen_mean: Tensor, rejected_mean: Tensor, weight: float) -> Tensor:
    """-mean(w) - weight log sigmoid(log odds(w) - log odds(l)), with odds(y) = q / (1 - q), q = exp(mean(y)).

    Hong et al. 2024, ORPO, arXiv 2403.07691, equations 6 and 7. No frozen model is needed.
    """
    odds = _log_odds(chosen_mean) - _log_odds(rejected_mean)
    return -chosen_mean - weight * logsigmoid(odds)


def _log_odds(mean: Tensor) -> Tensor:
    mean = mean.clamp(max=_SURE)
    return mean - torch.log(-torch.expm1(mean))


def simpo(chosen_mean: Tensor, rejected_mean: Tensor, beta: float, margin: float) -> Tensor:
    """-log sigmoid(beta (mean(w) - mean(l)) - margin).

    Meng et al. 2024, SimPO, arXiv 2405.14734, equation 6. No frozen model is needed.
    """
    return -logsigmoid(beta * (chosen_mean - rejected_mean) - margin)


def kto(
    chosen_ratio: Tensor,
    rejected_ratio: Tensor,
    unrelated_ratio: Tensor,
    beta: float,
    desirable: float,
    undesirable: float,
) -> Tensor:
    """desirable (1 - sigmoid(beta (ratio(w) - z))) + undesirable (1 - sigmoid(beta (z - ratio(l)))).

    z, the reference point, is max(0, the batch's mean of `unrelated_ratio`), the ratio of answers to other queries: an
    estimate of KL(p || p_0) that no gradient passes. Each pair counts as one desirable and one undesirable answer.

    Ethayarajh et al. 2024, KTO, arXiv 2402.01306, equations 7 and 8.
    """
    reference = unrelated_ratio.detach().mean().clamp(min=0)
    gain = torch.sigmoid(beta * (chosen_ratio - reference))
    loss = torch.sigmoid(beta * (reference - rejected_ratio))
    return desirable * (1 - gain) + undesirable * (1 - loss)


def reward_gap(gap: Tensor, source_gap: Tensor, beta: float) -> Tensor:
    """(beta gap - source_gap)^2: MPO's first term; see `baselines.mpo`."""
    return (beta * gap - source_gap) ** 2


def retention(states: Tensor, frozen_states: Tensor) -> Tensor:
    """Mean square of the change of hidden states `[B, ..., H]`, over all but the first dimension: MPO's second term."""
    return ((states - frozen_states) ** 2).flatten(1).mean(-1)
