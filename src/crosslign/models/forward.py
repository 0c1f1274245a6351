"""Hidden states at chosen positions and the head that projects them, for any causal language model.

The logits of a whole batch are the largest tensors of distillation, so they are never made for positions that are not
scored. Models that do something after their head (soft-capping, scaling) are handled or found out: `split_model`
compares its two halves with the model's own logits once, and falls back to the whole model if they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosslign.models.sharding import gathered_head
from crosslign.objective.head import Head, OutputHead

logger = logging.getLogger(__name__)


def causal_lm(model: Any) -> Any:
    """The transformers model inside, without a PEFT wrapper; LoRA layers stay in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Every module of the model is in evaluation mode inside the block, and as it was after it."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class SplitModel:
    """How to get hidden states and logits out of one architecture.

    Both callables take the model as an argument, so that one split serves student and teacher.

    Fields:
        hidden: (model, input_ids `[B, S]`, attention_mask `[B, S]`, index `[B, T]`, position_ids) -> `[B, T, H]`.
            Padding stands right, and index names none of it.
            Several sequences packed into one row: input_ids `[1, S]`, attention_mask None, position_ids `[1, S]`
            restarting at 0 for each; index is then the position in that row.
        head: model -> function from `[..., H]` to logits `[..., V]`, an OutputHead unless `exact` is False.
        exact: False for the fallback, in which "hidden states" are the model's logits already.
    """

    hidden: Callable[..., Tensor]
    head: Callable[[Any], Head]
    exact: bool = True


def split_model(model: Any) -> SplitModel:
    """Body and head of `model`, checked against its own logits on two short sequences, one of them padded.

    Padding stands right, so a causal model needs no mask to be right where it is asked; and without one, attention
    skips what lies ahead and takes its fastest kernel. A model that turns out to need the mask gets it. Falls back to
    taking positions of the model's logits, with a warning, if they do not agree within rounding.
    """
    for hidden in (_body_hidden, _masked_body_hidden):
        candidate = SplitModel(hidden, output_head)
        try:
            with attention_of_the_device(model):
                ours, theirs = _compare(model, candidate)
        except (AttributeError, TypeError, NotImplementedError) as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        if is_close(ours, theirs, model):
            return candidate
        difference, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
        reason = f"head and body give logits that differ by {difference:.2g} (scale {scale:.2g})"
    logger.warning(
        "%s: cannot be split into body and head (%s); using its full logits, which needs more memory.",
        type(causal_lm(model)).__name__,
        reason,
    )
    return SplitModel(_logits_as_hidden, lambda _: _identity, exact=False)


@contextmanager
def attention_of_the_device(model: Any) -> Iterator[None]:
    """Inside the block attention that needs a GPU is `sdpa` while the weights lie on a CPU, as they do before FSDP and
    DeepSpeed move them."""
    lm = causal_lm(model)
    usual = lm.config._attn_implementation
    if lm.get_input_embeddings().weight.device.type != "cpu" or "flash" not in str(usual):
        yield
        return
    lm.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        lm.set_attn_implementation(usual)


def is_close(ours: Tensor, theirs: Tensor, model: Any) -> bool:
    """Whether two ways of computing the same differ by no more than rounding in the model's precision."""
    difference, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    half = model.get_input_embeddings().weight.dtype in (torch.float16, torch.bfloat16)
    return difference <= 1e-3 * max(scale, 1.0) or (difference <= 0.01 * scale and half)


@torch.no_grad()
def _compare(model: Any, split: SplitModel) -> tuple[Tensor, Tensor]:
    weight = model.get_input_embeddings().weight
    ids = torch.arange(10, device=weight.device).view(2, 5) % weight.shape[0]
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    index = torch.arange(5, device=weight.device).expand(2, 5)
    with evaluating(model):
        ours = split.head(model)(split.hidden(model, ids, mask, index)).float()
        theirs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    return ours[mask.bool()], theirs[mask.bool()]


def gather(states: Tensor, index: Tensor) -> Tensor:
    """States `[B, S, H]`, or `[1, S, H]` of packed sequences, at positions `[B, T]`: `[B, T, H]`."""
    if states.shape[0] == index.shape[0]:
        index = index + torch.arange(states.shape[0], device=index.device)[:, None] * states.shape[1]
    return states.flatten(0, 1)[index]


def _body_hidden(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, index: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    return _masked_body_hidden(model, input_ids, None, index, position_ids)


def _masked_body_hidden(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, index: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    body = causal_lm(model).get_decoder()
    return gather(body(**_arguments(input_ids, attention_mask, position_ids)).last_hidden_state, index)


def _arguments(input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> dict[str, Any]:
    # Not every model takes positions, so they are named only where they are needed.
    positions = {} if position_ids is None else {"position_ids": position_ids}
    return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False, **positions}


def output_head(model: Any) -> Head:
    """Hidden states -> logits, as the model's configuration has it."""
    lm = causal_lm(model)
    config = lm.config.get_text_config()
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    divisor = getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma-2, Gemma-3
    head = OutputHead(lm.get_output_embeddings(), scale=factor / divisor, softcap=softcap or None)
    return gathered_head(head)


def _logits_as_hidden(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, index: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    return gather(model(**_arguments(input_ids, attention_mask, position_ids)).logits, index)


def _identity(hidden: Tensor) -> Tensor:
    return hidden
