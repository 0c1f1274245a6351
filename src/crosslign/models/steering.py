"""A refusal direction, found in the source language and added while a model answers: nothing is trained.

    d = mean over harmful x of h(x) - mean over harmless x of h(x)
    h + scale d, at every position of every context and completion

with h one layer's output, in d at a context's last token.

Arditi et al. 2024, Refusal in Language Models Is Mediated by a Single Direction, arXiv 2406.11717 (activation
addition); Wang et al. 2025, Refusal Direction is Universal Across Safety-Aligned Languages, arXiv 2505.17306, that a
direction of one language serves in others. They choose layer and position by a search on held-out queries; here the
layer is an option, the position the last, and neither is tuned. What is added to harmless requests too makes the model
refuse those: look at over-refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crosslign.models.forward import causal_lm, evaluating
from crosslign.storage import write_atomically
from crosslign.types import CrosslignError
from crosslign.untrusted import check_file

DEPTH = 0.6  # of the layers, where none is named
_KEY = "direction"


@dataclass(frozen=True, eq=False)
class Steering:
    """Fields:
    direction: `[H]`, float32; the difference of means, so that a scale of 1 is the way from harmless to harmful.
    layer: whose output it is added to, from 0.
    base: `weights_mark` of the model that it was found in.
    """

    direction: Tensor
    layer: int
    base: str

    def save(self, place: Path) -> None:
        metadata = {"layer": str(self.layer), "base": self.base}
        write_atomically(place, save({_KEY: self.direction.contiguous()}, metadata))

    @classmethod
    def load(cls, place: Path) -> Steering:
        """Raises CrosslignError for a file that is missing, or that `save` has not written."""
        try:
            check_file(place, "CONFIG_KB")  # a pipe would be waited for
            with safe_open(place, "pt") as file:
                found = file.metadata() or {}
                direction, layer = file.get_tensor(_KEY), int(found["layer"])
                if direction.ndim == 1 and direction.isfinite().all() and layer >= 0:
                    return cls(direction, layer, found["base"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CrosslignError(f"{place}: is no direction that crosslign steer has written.") from error
        raise CrosslignError(f"{place}: is no direction that crosslign steer has written.")


def layers_of(model: Any) -> Sequence[torch.nn.Module]:
    """A decoder's layers. Raises CrosslignError for a model that has none by that name."""
    layers = getattr(causal_lm(model).get_decoder(), "layers", None)
    if not layers:
        raise CrosslignError(f"{type(causal_lm(model)).__name__}: its layers are not found, so it cannot be steered.")
    found: Sequence[torch.nn.Module] = layers
    return found


def find_direction(
    model: Any, harmful: Sequence[Sequence[int]], harmless: Sequence[Sequence[int]], layer: int | None = None
) -> tuple[Tensor, int]:
    """The direction between contexts, given as token ids, and its layer; neither list is empty. None: at `DEPTH`."""
    layers = layers_of(model)
    layer = round(DEPTH * len(layers)) if layer is None else layer
    if not 0 <= layer < len(layers):
        raise CrosslignError(f"--layer: {layer} is no layer of this model, which has 0 to {len(layers) - 1}.")
    means = [_mean_state(model, layers[layer], contexts) for contexts in (harmful, harmless)]
    return (means[0] - means[1]).cpu(), layer


@torch.no_grad()
def _mean_state(model: Any, layer: torch.nn.Module, contexts: Sequence[Sequence[int]]) -> Tensor:
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: kept.append(_states(output)[0, -1].float()))
    device = model.get_input_embeddings().weight.device
    try:
        with evaluating(model):
            for ids in contexts:
                model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
    finally:
        handle.remove()
    return torch.stack(kept).mean(0)


def steer(model: Any, steering: Steering, scale: float = 1.0) -> Any:
    """From now on the direction is added, until `remove()` of what is returned.

    Raises CrosslignError if it is not one of this model.
    """
    layers, width = layers_of(model), model.get_input_embeddings().weight.shape[1]
    if steering.layer >= len(layers) or len(steering.direction) != width:
        raise CrosslignError(
            f"--steer: a direction of {len(steering.direction)} numbers for layer {steering.layer} is not of this "
            f"model, which has {len(layers)} layers of {width}. Find it anew with crosslign steer."
        )

    def add(_: torch.nn.Module, __: Any, output: Any) -> Any:
        states = _states(output)
        moved = states + (scale * steering.direction).to(states)
        return moved if output is states else (moved, *output[1:])

    return layers[steering.layer].register_forward_hook(add)


def _states(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found
