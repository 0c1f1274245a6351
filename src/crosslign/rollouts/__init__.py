"""Sampling completions, and keeping those that can be used again."""

from crosslign.rollouts.base import Sampler, SamplingParameters, derive_seed
from crosslign.rollouts.cache import CachedSampler, CompletionCache, completion_key
from crosslign.rollouts.scripted import ScriptedSampler
from crosslign.rollouts.transformers import TransformersSampler, sampler_of

__all__ = [
    "CachedSampler",
    "CompletionCache",
    "Sampler",
    "SamplingParameters",
    "ScriptedSampler",
    "TransformersSampler",
    "completion_key",
    "derive_seed",
    "sampler_of",
]
