"""The training objective: divergences, token weights, and their combination."""

from crosslign.objective.divergences import DIVERGENCES, Divergence, token_divergence
from crosslign.objective.fused import fused_weighted_divergence
from crosslign.objective.loss import Implementation, Objective, weighted_divergence
from crosslign.objective.result import WeightedDivergence
from crosslign.objective.weighting import WEIGHTINGS, Weighting, normalise, token_weight

__all__ = [
    "DIVERGENCES",
    "WEIGHTINGS",
    "Divergence",
    "Implementation",
    "Objective",
    "WeightedDivergence",
    "Weighting",
    "fused_weighted_divergence",
    "normalise",
    "token_divergence",
    "token_weight",
    "weighted_divergence",
]
