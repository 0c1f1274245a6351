"""Sampling completions, and keeping those that can be used again."""

from crosslign.rollouts.base import Sampler, SamplingParameters, derive_seed
from crosslign.rollouts.cache import CompletionCache, completion_key
from crosslign.rollouts.scripted import ScriptedSampler
from crosslign.rollouts.transformers import TransformersSampler

__all__ = [
    "CompletionCache",
    "Sampler",
    "SamplingParameters",
    "ScriptedSampler",
    "TransformersSampler",
    "completion_key",
    "derive_seed",
]
