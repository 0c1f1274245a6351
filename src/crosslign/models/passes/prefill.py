"""The keys and values of prompts before sampling begins, computed without padding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from crosslign.models.forward import causal_lm
from crosslign.models.passes.grouping import CPU_GROUP_COST, MIN_PREFIX, common_prefix, length_groups
from crosslign.models.passes.kv_cache import cache_argument

logger = logging.getLogger(__name__)

_TRIAL_TOKENS = 2


def left_padded(prompts: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, `[B, longest]` each."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt), dtype=torch.long)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


class Prefill:
    """Fills the cache with which `generate` goes on, on a CPU.

    `generate` alone runs a batch of prompts left-padded to the longest: of eight prompts in mixed languages half of the
    positions are padding. Here prompts of similar length share a pass, what all begin with is computed once, and
    the keys and values are then put where left-padding has them. Exact: what stands at padding is masked.

    Only where `cache_argument` finds one and a short trial on the first model seen gives the same logits; elsewhere, on
    accelerators and for a single prompt there is no cache.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self._argument: str | None = None  # what transformers calls the cache; None where it cannot be filled
        self._tried = False

    def __call__(self, model: Any, prompts: Sequence[Sequence[int]]) -> dict[str, DynamicCache]:
        """Keyword for `model.generate` with all but the last token of each left-padded prompt, or none."""
        device = model.get_input_embeddings().weight.device
        if device.type != "cpu" or len(prompts) < 2 or max(map(len, prompts)) < 2:
            return {}
        if not self._tried:
            self._argument, self._tried = self._trial(model), True
        return {self._argument: _filled(model, prompts, self._argument)} if self._argument else {}

    def _trial(self, model: Any) -> str | None:
        inner = causal_lm(model)
        try:
            argument = cache_argument(inner)
            if argument is None:
                return None
            rows = (torch.arange(24) % inner.get_input_embeddings().weight.shape[0]).tolist()
            # A common start that is reused, rows of different length, and one that is nothing but the common start.
            prompts = [rows[:20], rows[:16], [*rows[:8], rows[23]]]
            cache = {argument: _filled(model, prompts, argument)}
            ours, theirs = self._logits(model, prompts, cache), self._logits(model, prompts, {})
        except (AttributeError, TypeError, ValueError, IndexError, NotImplementedError, RuntimeError) as error:
            logger.info("prompts are padded for sampling: %s: %s", type(error).__name__, error)
            return None
        half = inner.get_input_embeddings().weight.dtype in (torch.float16, torch.bfloat16)  # logits are float32 here
        # Where rounding decides the first token, the second one's logits have nothing in common.
        same = ours[0].argmax(-1) == theirs[0].argmax(-1)
        ours, theirs = (torch.cat([logits[0], logits[1][same]]).float() for logits in (ours, theirs))
        # A wrong cache changes the logits as a whole; rounding in half precision moves single ones by several percent.
        difference, scale = (float(torch.linalg.vector_norm(x)) for x in (ours - theirs, theirs))
        if difference <= (0.1 if half else 1e-4) * scale:
            return argument
        logger.info("prompts are padded for sampling: without padding the logits differ by %.2g.", difference / scale)
        return None

    def _logits(self, model: Any, prompts: Sequence[Sequence[int]], cache: dict[str, Any]) -> Tensor:
        """Of the first tokens that `generate` would choose: `[tokens, B, V]`."""
        ids, mask = left_padded(prompts, self.pad_token_id, model.get_input_embeddings().weight.device)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=_TRIAL_TOKENS,
            pad_token_id=self.pad_token_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
        # Not every process samples at the same moment.
        output = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, synced_gpus=False, **cache
        )
        return torch.stack(output.logits)


@torch.no_grad()
def _filled(model: Any, prompts: Sequence[Sequence[int]], argument: str) -> DynamicCache:
    """Keys and values `[B, heads, longest - 1, dimension]` a layer: of all tokens but the last, at the right."""
    inner = causal_lm(model)
    device = inner.get_input_embeddings().weight.device
    width = max(map(len, prompts)) - 1
    length = min(common_prefix(prompts), min(map(len, prompts)) - 1)
    common = list(prompts[0][:length]) if length >= MIN_PREFIX else []
    start = DynamicCache(config=inner.config)
    if common:
        _run(inner, [common], start, argument, device)
    rests = [list(p[len(common) : -1]) for p in prompts]
    full: list[tuple[Tensor, Tensor]] = []
    for group in length_groups(list(map(len, rests)), group_cost=CPU_GROUP_COST):
        cache = start
        if not common and not rests[group[0]]:
            continue  # prompts of a single token
        if rests[group[0]]:
            cache = DynamicCache(config=inner.config)
            for layer, given in enumerate(start.layers if common else ()):
                rows = (len(group), -1, -1, -1)
                cache.update(given.keys.expand(rows), given.values.expand(rows), layer)
            _run(inner, [rests[i] for i in group], cache, argument, device)
        if not full:  # shapes and types are known from the first group on
            full = [(_empty(c.keys, len(prompts), width), _empty(c.values, len(prompts), width)) for c in cache.layers]
        for layer, target in zip(cache.layers, full, strict=True):
            for states, into in zip((layer.keys, layer.values), target, strict=True):
                for row, i in enumerate(group):
                    count = len(common) + len(rests[i])
                    into[i, :, width - count :] = states[row % len(states), :, :count]
    result = DynamicCache(config=inner.config)
    for layer, (keys, values) in enumerate(full):
        result.update(keys, values, layer)
    return result


def _run(inner: Any, rows: Sequence[Sequence[int]], cache: DynamicCache, argument: str, device: torch.device) -> None:
    """Rows padded right, without a mask: nothing attends to what comes after it, and that is not read."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
    inner.get_decoder()(input_ids=ids.to(device), use_cache=True, **{argument: cache})


def _empty(like: Tensor, rows: int, width: int) -> Tensor:
    return like.new_zeros(rows, like.shape[1], width, like.shape[3])
