"""Which models can go on from keys and values that were computed before."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# They take queries that are fewer than keys, under a mask that transformers makes.
_ATTENTION = ("sdpa", "eager")


def cache_argument(lm: Any) -> str | None:
    """What a transformers model calls the cache that it takes, `cache` or `past_key_values`.

    None unless every layer attends to all that came before (no sliding window, no recurrent state) and the attention
    is `sdpa` or `eager`: only then are keys and values all that has to be kept. Raises what a model without the usual
    methods and settings raises: AttributeError, TypeError, ValueError.
    """
    if lm.config._attn_implementation not in _ATTENTION:
        return None
    layers = DynamicCache(config=lm.config).layers
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return None
    taken = inspect.signature(lm.get_decoder().forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in taken), None)
