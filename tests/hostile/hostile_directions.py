"""Hostile refusal directions: files that `crosslign steer` has not written, or not for this model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from inputs import Hostile, written
from safetensors import safe_open
from safetensors.torch import save_file

NO_DIRECTION = ("is no direction that crosslign steer has written",)


def saying(
    layer: str | None = None, direction: torch.Tensor | None = None, key: str = "direction"
) -> Callable[[Path], Path]:
    """The good direction, but for its layer, its values or their name."""

    def make(path: Path) -> Path:
        with safe_open(path, "pt") as file:
            metadata, own = dict(file.metadata()), file.get_tensor("direction")
        if layer is not None:
            metadata["layer"] = layer
        save_file({key: own if direction is None else direction}, path, metadata)
        return path

    return make


def _bare(path: Path) -> Path:
    save_file({"direction": torch.ones(4)}, path)
    return path


def _pipe(path: Path) -> Path:
    path.unlink()
    os.mkfifo(path)
    return path


def _folder(path: Path) -> Path:
    path.unlink()
    path.mkdir()
    return path


def _missing(path: Path) -> Path:
    path.unlink()
    return path


DIRECTIONS = [
    Hostile("empty", written(""), NO_DIRECTION),
    Hostile("text", written("direction: 1\n"), NO_DIRECTION),
    Hostile("endless header", written(b"\xff" * 8 + b"{}"), NO_DIRECTION),
    Hostile("no metadata", _bare, NO_DIRECTION),
    Hostile("other key", saying(key="weights"), NO_DIRECTION),
    Hostile("layer in words", saying(layer="last"), NO_DIRECTION),
    Hostile("layer beyond the model", saying(layer="99"), ("is not of this model",)),
    Hostile("negative layer", saying(layer="-1"), NO_DIRECTION),
    Hostile("other width", saying(direction=torch.ones(5)), ("a direction of 5 numbers",)),
    Hostile("matrix", saying(direction=torch.ones(4, 4)), NO_DIRECTION),
    Hostile("not a number", saying(direction=torch.full((32,), float("nan"))), NO_DIRECTION),
    Hostile("missing", _missing, NO_DIRECTION),
    Hostile("folder", _folder, ("it is a folder",)),
    Hostile("pipe", _pipe, ("it is a pipe",)),
]
