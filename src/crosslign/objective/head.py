"""What stands between hidden states and logits, described so that it can be computed in pieces.

`models` reads it from a model, `objective` computes with it; neither imports the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class OutputHead:
    """An output layer and what a model does to its logits afterwards: `[..., H] -> [..., V]`.

        z = scale (W h + b),   logits = z, or c tanh(z / c) with soft-capping at c

    Fields:
        linear: the output layer; where it is anything but a plain `nn.Linear` (a LoRA layer, a quantised one), the head
            can be called but not taken apart, see `described`.
        scale: factor of the logits: Cohere's `logit_scale`, or the inverse of Granite's `logits_scaling`.
        softcap: `final_logit_softcapping` of Gemma-2 and some Gemma-3; None for none.
    """

    linear: Callable[[Tensor], Tensor]
    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self.linear(hidden)
        if self.scale != 1:
            logits = logits * self.scale
        return torch.tanh(logits / self.softcap) * self.softcap if self.softcap else logits


@dataclass(frozen=True, eq=False)
class PlainHead:
    """An OutputHead over a plain linear layer, taken apart: `weight` is `[V, H]`, `bias` `[V]` or None."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    def __call__(self, hidden: Tensor) -> Tensor:
        linear = functools.partial(torch.nn.functional.linear, weight=self.weight, bias=self.bias)
        return OutputHead(linear, self.scale, self.softcap)(hidden)


def described(head: Head) -> PlainHead | None:
    """The head taken apart, or None if it may do something that is not described.

    A subclass of `nn.Linear`, a layer with hooks (offloading, sharding) or with weights that are no floating-point
    numbers is not plain: its weight alone does not say what it computes.
    """
    if isinstance(head, PlainHead):
        return head
    found = head if isinstance(head, OutputHead) else OutputHead(head)
    linear = found.linear
    if type(linear) is not torch.nn.Linear or not linear.weight.is_floating_point():
        return None
    hooked = linear._forward_hooks or linear._forward_pre_hooks or hasattr(linear, "_hf_hook")
    return None if hooked else PlainHead(linear.weight, linear.bias, found.scale, found.softcap)


def is_linear(head: Head) -> bool:
    """Whether logits are a linear function of hidden states, as far as the head can be taken apart."""
    found = described(head)
    return found is not None and found.bias is None and found.softcap is None
