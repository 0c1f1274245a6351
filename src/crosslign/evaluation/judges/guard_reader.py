"""Forward passes of a guard: log-probabilities of what its replies may say next, for a batch of prompts.

The constant prefix of all prompts goes through the model once (`shared_prefix`), each batch then only feeds what
follows it, and each further step of the replies only the new tokens: keys and values are kept in a transformers
`DynamicCache`. Its layers replace their tensors when they grow, so a shallow copy of a cache is an independent branch
that shares the memory so far; the prefix's single row serves a batch as an expanded view. Models whose layers keep
anything else (sliding windows, recurrent states) are read without a cache, whole rows every time: slower, the same
numbers within rounding.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class Prefix(NamedTuple):
    """Token ids that a batch's rows begin with, and their keys and values (one row)."""

    token_ids: tuple[int, ...]
    cache: Any


def shared_prefix(model: Any, token_ids: Sequence[int]) -> Prefix | None:
    """The prefix through the model; None if the model has no cache that batches can share, or there are no ids."""
    name = _cache_argument(model)
    if not token_ids or name is None:
        return None
    device = model.get_input_embeddings().weight.device
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([list(token_ids)], device=device)
    _forward(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": True, name: cache}, keep=1)
    if any(type(layer) is not DynamicLayer or layer.get_seq_length() != len(token_ids) for layer in cache.layers):
        return None
    return Prefix(tuple(token_ids), cache)


class ReplyReader:
    """Replies to a batch of prompts, extended step by step.

    Args:
        model: a causal language model in evaluation mode.
        rows: token ids of each prompt and the beginning of its reply; of different lengths.
        pad: id that fills the left of shorter rows. It is masked, and positions do not count it.
        prefix: from `shared_prefix`; every row must begin with its ids and go on after them. None: no cache at all.
    """

    def __init__(self, model: Any, rows: Sequence[Sequence[int]], pad: int, prefix: Prefix | None) -> None:
        self.model, self.pad = model, pad
        self.device = model.get_input_embeddings().weight.device
        self._cache: Any = None
        self._rows: list[list[int]] = [[] for _ in rows]
        start = 0
        if prefix is not None:
            start = len(prefix.token_ids)
            self._cache = _branch(prefix.cache, len(rows))
            self._mask = torch.ones(len(rows), start, dtype=torch.long, device=self.device)
            self._lengths = torch.full((len(rows), 1), start, device=self.device)
        self._last = self._read([list(row[start:]) for row in rows], keep=1, stay=True)[:, -1]

    def extend(self, blocks: Sequence[Sequence[int]]) -> None:
        """Let each row go on with its block. A row whose block is empty must go on before it is asked for labels."""
        if not any(blocks):
            return
        self._last = self._read(blocks, keep=1, stay=True)[:, -1]

    def label_logprobs(self, labels: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """log p(label | row) = sum over its tokens of log p(token | row, tokens before it), in nats.

        `labels[r]` are the labels of row r, each a sequence of token ids; a row without labels gets zeros. Returns
        `[rows, labels]` in float32 on the CPU. The first tokens of all labels come from the pass that read the rows;
        labels of several tokens take one further short pass each.
        """
        count = max(len(of_row) for of_row in labels)
        scores = torch.zeros(len(labels), count)
        for number in range(count):
            chosen = [of_row[number] if of_row else () for of_row in labels]
            blocks = [list(label[:-1]) for label in chosen]
            width = max(map(len, blocks))
            later = self._read(blocks, keep=width, stay=False) if width else None
            for row, label in enumerate(chosen):
                for place, token in enumerate(label):
                    # Blocks end together: the pass's last position predicts the last token of every label.
                    source = self._last[row] if place == 0 or later is None else later[row, place - len(label)]
                    scores[row, number] += source[token].item()
        return scores

    def _read(self, blocks: Sequence[Sequence[int]], keep: int, stay: bool) -> Tensor:
        """Log-probabilities `[rows, keep, vocabulary]` at the last positions after each row's block."""
        fed = blocks if self._cache is not None else [a + list(b) for a, b in zip(self._rows, blocks, strict=True)]
        ids, mask = _left_padded(fed, self.pad, self.device)
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._cache is None:
            inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0), "use_cache": False}
            if stay:
                self._rows = [list(row) for row in fed]
        else:
            cache = self._cache if stay else _branch(self._cache)
            whole = torch.cat([self._mask, mask], dim=1)
            positions = (self._lengths + mask.cumsum(1) - 1).clamp(min=0)
            name = _cache_argument(self.model)
            inputs |= {"attention_mask": whole, "position_ids": positions, "use_cache": True, str(name): cache}
            if stay:
                self._mask, self._lengths = whole, self._lengths + mask.sum(1, keepdim=True)
        return _forward(self.model, inputs, keep).float().log_softmax(-1)


def _forward(model: Any, inputs: Mapping[str, Any], keep: int) -> Tensor:
    """Logits of the last `keep` positions."""
    fewer = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    with torch.no_grad():
        logits: Tensor = model(**inputs, **fewer).logits
    return logits[:, -keep:]


def _cache_argument(model: Any) -> str | None:
    """How this release of transformers calls the cache."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in parameters), None)


def _branch(cache: Any, rows: int | None = None) -> Any:
    """A copy that grows by itself and shares the tensors so far; with `rows`, a single row seen that many times."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    if rows is not None:
        for layer in branch.layers:
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
    return branch


def _left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, `[rows, longest]`."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        if row:
            ids[number, width - len(row) :] = torch.tensor(list(row), dtype=torch.long)
            mask[number, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
