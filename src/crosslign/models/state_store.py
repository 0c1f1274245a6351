"""Hidden states of the frozen teacher that are needed again, on disk: one safetensors file a rollout."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crosslign.storage import write_atomically

logger = logging.getLogger(__name__)

_HIDDEN = "hidden"


def state_key(fingerprint: str, context: Sequence[int], completion: Sequence[int], precision: str) -> str:
    """Hash of all that a frozen model's hidden states depend on: weights, context, completion and precision."""
    parts = (fingerprint, precision, ",".join(map(str, context)), ",".join(map(str, completion)))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


class StateStore:
    """Key -> hidden states `[tokens, hidden]` of a completion.

    A file holds the states and, in its header, its key and the SHA-256 of its data. One that is cut off, damaged or
    another's is reported once and made again. Files are written in one move, so several processes may share a folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits = 0
        self.misses = 0

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str, tokens: int) -> Tensor | None:
        """The states of `key`, or None if they are not there or not what `put` wrote for `tokens` tokens."""
        found = self._read(key, tokens) if self.path(key).exists() else None
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def _read(self, key: str, tokens: int) -> Tensor | None:
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                states = file.get_tensor(_HIDDEN)
        except (SafetensorError, OSError) as error:
            logger.warning("%s: cannot be read (%s); its states are computed again.", path, error)
            return None
        if (
            header.get("key") != key
            or states.dim() != 2
            or len(states) != tokens
            or header.get("sha256") != _sum(states)
        ):
            logger.warning("%s: is damaged or holds other states; they are computed again.", path)
            return None
        return states

    def put(self, key: str, states: Tensor) -> None:
        states = states.detach().cpu().contiguous()
        header = {"key": key, "sha256": _sum(states)}
        write_atomically(self.path(key), save({_HIDDEN: states}, metadata=header))


def _sum(states: Tensor) -> str:
    return hashlib.sha256(states.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def free_bytes(folder: Path) -> int:
    """Free space of the disk on which `folder` is or would be."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free
