"""Hidden states at chosen positions and the head that projects them, for any causal language model.

The logits of a whole batch are the largest tensors of distillation, so they are never made for positions that are not
scored. Models that do something after their head (soft-capping, scaling) are handled or found out: `split_model`
compares its two halves with the model's own logits once, and falls back to the whole model if they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosslign.heads import Head, OutputHead

logger = logging.getLogger(__name__)


def causal_lm(model: Any) -> Any:
    """The transformers model inside, without a PEFT wrapper; LoRA layers stay in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass(frozen=True)
class SplitModel:
    """How to get hidden states and logits out of one architecture.

    Both callables take the model as an argument, so that one split serves student and teacher.

    Fields:
        hidden: (model, input_ids `[B, S]`, attention_mask `[B, S]`, index `[B, T]`) -> `[B, T, H]`.
        head: model -> function from `[..., H]` to logits `[..., V]`, an OutputHead unless `exact` is False.
        exact: False for the fallback, in which "hidden states" are the model's logits already.
    """

    hidden: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    head: Callable[[Any], Head]
    exact: bool = True


def split_model(model: Any) -> SplitModel:
    """Body and head of `model`, checked against its own logits on two short sequences.

    Falls back to taking positions of the model's logits, with a warning, if they do not agree within rounding.
    """
    candidate = SplitModel(_body_hidden, _head)
    try:
        difference, scale = _compare(model, candidate)
    except (AttributeError, TypeError, NotImplementedError) as error:
        reason = f"{type(error).__name__}: {error}"
    else:
        if difference <= 1e-3 * max(scale, 1.0) or (difference <= 0.01 * scale and _is_half(model)):
            return candidate
        reason = f"head and body give logits that differ by {difference:.2g} (scale {scale:.2g})"
    logger.warning(
        "%s: cannot be split into body and head (%s); using its full logits, which needs more memory.",
        type(causal_lm(model)).__name__,
        reason,
    )
    return SplitModel(_logits_as_hidden, lambda _: _identity, exact=False)


def _is_half(model: Any) -> bool:
    return model.get_input_embeddings().weight.dtype in (torch.float16, torch.bfloat16)


@torch.no_grad()
def _compare(model: Any, split: SplitModel) -> tuple[float, float]:
    weight = model.get_input_embeddings().weight
    ids = torch.arange(10, device=weight.device).view(2, 5) % weight.shape[0]
    mask = torch.ones_like(ids)
    index = torch.arange(5, device=weight.device).expand(2, 5)
    was_training = model.training
    model.eval()
    try:
        ours = split.head(model)(split.hidden(model, ids, mask, index)).float()
        theirs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    finally:
        model.train(was_training)
    return (ours - theirs).abs().max().item(), theirs.abs().max().item()


def _gather(states: Tensor, index: Tensor) -> Tensor:
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def _body_hidden(model: Any, input_ids: Tensor, attention_mask: Tensor, index: Tensor) -> Tensor:
    body = causal_lm(model).get_decoder()
    states = body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    return _gather(states, index)


def _head(model: Any) -> Head:
    lm = causal_lm(model)
    config = lm.config.get_text_config()
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    divisor = getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma-2, Gemma-3
    return OutputHead(lm.get_output_embeddings(), scale=factor / divisor, softcap=softcap or None)


def _logits_as_hidden(model: Any, input_ids: Tensor, attention_mask: Tensor, index: Tensor) -> Tensor:
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    return _gather(logits, index)


def _identity(hidden: Tensor) -> Tensor:
    return hidden
