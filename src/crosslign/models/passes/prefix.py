"""Hidden states after a prefix that many sequences share: the prefix is computed once, its keys and values reused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from crosslign.models.forward import SplitModel, attention_of_the_device, causal_lm, evaluating, gather, is_close
from crosslign.models.passes.kv_cache import cache_argument

logger = logging.getLogger(__name__)


class SharedPrefix:
    """Runs the body of a frozen model on the rest of each sequence, given the keys and values of their common start.

    Exact: the states at a position depend on what comes before it alone, and that is the same. The keys and values of
    the last prefix are kept, so that a prefix which never changes is computed once. They are constants: no gradient
    flows through them.

    Make it with `shared_prefix`, which knows whether a model allows it.
    """

    def __init__(self, argument: str) -> None:
        self._argument = argument
        self._ids: tuple[int, ...] = ()
        self._states: list[tuple[Tensor, Tensor]] = []
        self._mode: tuple[Any, ...] = ()

    @torch.no_grad()
    def hidden(self, model: Any, prefix: Sequence[int], input_ids: Tensor, mask: Tensor, index: Tensor) -> Tensor:
        """`[B, T, H]` at `index`, as `SplitModel.hidden` gives for `prefix` put before each row.

        `input_ids`, `mask` and `index` (`[B, S]`, `[B, S]`, `[B, T]`) are those of the rows without the prefix.
        """
        rows = input_ids.shape[0]
        with evaluating(model):  # in training mode, gradient checkpointing would drop the cache
            states = self._prefix_states(model, tuple(prefix), input_ids.device)
            cache = DynamicCache(config=causal_lm(model).config)
            for layer, (keys, values) in enumerate(states):
                cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
            mask = torch.cat([mask.new_ones(rows, len(prefix)), mask], dim=1)
            body = causal_lm(model).get_decoder()
            output = body(input_ids=input_ids, attention_mask=mask, use_cache=True, **{self._argument: cache})
        return gather(output.last_hidden_state, index)

    def _prefix_states(self, model: Any, prefix: tuple[int, ...], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        mode = (torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))
        if (self._ids, self._mode) != (prefix, mode):
            cache = DynamicCache(config=causal_lm(model).config)
            ids = torch.tensor([prefix], device=device)
            causal_lm(model).get_decoder()(input_ids=ids, use_cache=True, **{self._argument: cache})
            self._states = [(layer.keys, layer.values) for layer in cache.layers]
            self._ids, self._mode = prefix, mode
        return self._states


def shared_prefix(model: Any, split: SplitModel) -> SharedPrefix | None:
    """A SharedPrefix for the model's architecture, or None where keys and values cannot be reused exactly.

    They can where `cache_argument` finds one and the states agree with those of whole sequences on a short trial.
    """
    if not split.exact:
        return None
    try:
        argument = cache_argument(causal_lm(model))
        if argument is None:
            return None
        found = SharedPrefix(argument)
        with attention_of_the_device(model):
            agrees = _agrees(model, split, found)
        if agrees:
            return SharedPrefix(argument)
    except (AttributeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        logger.info("the teacher's common prefix is not reused: %s: %s", type(error).__name__, error)
        return None
    logger.info("the teacher's common prefix is not reused: it gives other hidden states than whole sequences.")
    return None


@torch.no_grad()
def _agrees(model: Any, split: SplitModel, shared: SharedPrefix) -> bool:
    weight = model.get_input_embeddings().weight
    ids = torch.arange(12, device=weight.device) % weight.shape[0]
    prefix, rows = ids[:4], torch.stack([ids[4:8], ids[8:12]])
    mask = torch.ones_like(rows)
    mask[1, 3:] = 0
    index = torch.arange(3, device=weight.device).expand(2, 3)
    with evaluating(model):
        ours = shared.hidden(model, prefix.tolist(), rows, mask, index)
        whole = torch.cat([prefix.expand(2, -1), rows], dim=1)
        theirs = split.hidden(model, whole, torch.cat([torch.ones_like(rows), mask], dim=1), index + 4)
    return is_close(ours, theirs, model)
