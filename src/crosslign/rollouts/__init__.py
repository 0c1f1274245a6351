"""Sampling completions, and keeping those that can be used again."""

from crosslign.rollouts.base import Sampler, SamplingParameters, derive_seed
from crosslign.rollouts.cache import CompletionCache, completion_key
from crosslign.rollouts.hf import TransformersSampler
from crosslign.rollouts.scripted import ScriptedSampler

__all__ = [
    "CompletionCache",
    "Sampler",
    "SamplingParameters",
    "ScriptedSampler",
    "TransformersSampler",
    "completion_key",
    "derive_seed",
]
