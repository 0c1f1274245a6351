"""The testbed's model: an ordinary Llama-style transformers model and an ordinary tokenizer, only very small.

It is pretrained on short sequences, on one core, in about two minutes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crosslign.rollouts.progress import progress
from crosslign.testbed.corpus import ASSISTANT, END, OTHER, PAD, SPECIAL_TOKENS, Example

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} " + END + " {% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)
IGNORED = -100  # the label that cross-entropy leaves out
_POOL = 32  # batches that are sorted by length together


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


@dataclass(frozen=True)
class PretrainSpec:
    """AdamW with a linear warm-up and a cosine decay to a tenth; one pass over the corpus."""

    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


def encode(tokenizer: Any, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
    """(token ids, labels) of each example; a prompt's labels are `IGNORED`."""
    prompts = tokenizer([e.prompt for e in examples], add_special_tokens=False)["input_ids"]
    completions = tokenizer([e.completion for e in examples], add_special_tokens=False)["input_ids"]
    return [(p + c, [IGNORED] * len(p) + c) for p, c in zip(prompts, completions, strict=True)]


def batches(sequences: Sequence[Any], size: int, rng: random.Random) -> list[list[Any]]:
    """Batches of similar lengths in random order; every sequence once, the last incomplete batch included."""
    shuffled = rng.sample(sequences, len(sequences))
    result = []
    for start in range(0, len(shuffled), size * _POOL):
        pool = sorted(shuffled[start : start + size * _POOL], key=lambda s: len(s[0]))
        cut = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(cut)
        result += cut
    return result


def pretrain(model: Any, tokenizer: Any, examples: Sequence[Example], spec: PretrainSpec, seed: int) -> list[float]:
    """Train the model in place; returns the loss of every step in nats per token.

    Equal arguments give equal weights on one kind of machine: it runs in one thread, whatever the caller has set,
    because sums over several threads round differently.
    """
    plan = batches(encode(tokenizer, examples), spec.batch_size, random.Random(f"pretrain {seed}"))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=spec.learning_rate, betas=(0.9, 0.98), weight_decay=spec.weight_decay
    )
    warmup = max(1, round(spec.warmup * len(plan)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, warmup, len(plan)))
    losses = []
    model.train()
    with one_thread(), progress(len(plan), "pretraining the testbed", "step") as bar:
        for batch in plan:
            loss = _loss(model, batch, tokenizer.pad_token_id)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            bar.update(1)
    model.eval()
    return losses


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: for a model this small several are hardly faster, and stall when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rate(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


def _loss(model: Any, batch: Sequence[tuple[list[int], list[int]]], pad: int) -> torch.Tensor:
    """Mean cross-entropy over the labelled tokens; rows are padded on the right, so causal attention needs no mask."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in batch])
    labels = torch.tensor([row + [IGNORED] * (width - len(row)) for _, row in batch])
    # Only labelled positions go through the head: the vocabulary is the largest matrix here.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    chosen = labels[:, 1:] != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[chosen]), labels[:, 1:][chosen])
