"""The testbed's model: an ordinary Llama-style transformers model and an ordinary tokenizer, only very small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crosslign.testbed.corpus import ASSISTANT, END, OTHER, PAD, SPECIAL_TOKENS

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} " + END + " {% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


@dataclass(frozen=True)
class ModelSpec:
    """The model's shape: 1.2M parameters with the default world's vocabulary."""

    hidden: int = 160
    layers: int = 3
    heads: int = 4
    feed_forward: int = 432
    positions: int = 128


def make_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word, words separated by spaces; the chat template ends every turn with one token."""
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=OTHER))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=END,
        unk_token=OTHER,
        extra_special_tokens=[t for t in SPECIAL_TOKENS if t not in (PAD, END, OTHER)],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(spec: ModelSpec, tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """A model with random weights; the caller's random state is left as it was."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden,
        intermediate_size=spec.feed_forward,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=spec.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model
