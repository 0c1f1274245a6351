"""Loading a sequence-to-sequence model, as translation models are: safetensors only, no code of the model's own."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from crosslign.models.load import ModelSource, best_device, check_whole, load_error, location, ready


def load_seq2seq_tokenizer(source: ModelSource) -> Any:
    """The tokenizer. Raises CrosslignError if it cannot be loaded."""
    where, kwargs = location(source)
    try:
        return AutoTokenizer.from_pretrained(where, **kwargs)
    except Exception as error:  # from_pretrained raises many kinds; all mean that this place holds no tokenizer
        raise load_error("tokenizer", source.path, error) from error


def load_seq2seq(source: ModelSource) -> Any:
    """The model on the best device, in evaluation mode; `source.dtype` must be resolved (`evaluation_source`).

    Weights are read here. Raises CrosslignError if they are missing, no numbers, or a pickle.
    """
    where, kwargs = location(source)
    dtype: Any = source.dtype if source.dtype == "auto" else getattr(torch, source.dtype)
    try:
        model, found = AutoModelForSeq2SeqLM.from_pretrained(
            where, dtype=dtype, use_safetensors=True, output_loading_info=True, **kwargs
        )
    except Exception as error:  # see load_seq2seq_tokenizer
        raise load_error("model", source.path, error) from error
    check_whole(found, source.path)
    return ready(model.to(best_device()), source.path)
