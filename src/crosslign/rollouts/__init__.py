"""Sampling completions, and keeping those that can be used again."""

from crosslign.rollouts.base import Pinnable, Sampler, SamplingParameters, derive_seed
from crosslign.rollouts.cache import CachedSampler, CompletionCache, completion_key
from crosslign.rollouts.publish import PublishedAdapter, PublishedWeights
from crosslign.rollouts.scripted import ScriptedSampler
from crosslign.rollouts.transformers import TransformersSampler, sampler_of
from crosslign.rollouts.vllm import VllmSampler, VllmServer

__all__ = [
    "CachedSampler",
    "CompletionCache",
    "Pinnable",
    "PublishedAdapter",
    "PublishedWeights",
    "Sampler",
    "SamplingParameters",
    "ScriptedSampler",
    "TransformersSampler",
    "VllmSampler",
    "VllmServer",
    "completion_key",
    "derive_seed",
    "sampler_of",
]
