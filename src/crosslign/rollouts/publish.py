"""Weights that change, on their way to a vLLM server: each state of them under a name of its own.

The name holds a hash of the weights. So what the server has is never loaded twice, processes that hold the same weights
need not wait for each other, and a name that stayed from an interrupted run stands for the right weights too.

Where the weights lie in parts on several processes, all of them must publish together: what is written is gathered.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from crosslign.models import weights_fingerprint
from crosslign.models.sharding import is_sharded, reshard, whole_tensor
from crosslign.rollouts.vllm import ITS_OWN, VllmServer

KEPT = 2  # the version that is sampled from, and the one before: another process may still sample from that
POLL_SECONDS = 0.2


class _Published:
    """What both kinds share.

    Args:
        server: where to.
        model: the student, as it is before its first step.
        folder: for the files, which the server must be able to read at the same path.
        run: begins the names of this run's versions.
        is_main: of several processes one tidies.
    """

    def __init__(self, server: VllmServer, model: Any, folder: Path, run: str, *, is_main: bool = True) -> None:
        self.server, self.model, self.run, self.is_main = server, model, run, is_main
        self.folder = folder.absolute()
        self._first = self._mark()
        self._kept: list[str] = []

    def check(self) -> None:
        """Raise ServerError if the server's weights are not what was published."""

    def _mark(self) -> str:
        reshard(self.model)  # what a forward pass has gathered would count once for every process
        return weights_fingerprint({n: p for n, p in self.model.named_parameters() if p.requires_grad})

    def _gather(self) -> dict[str, Tensor] | None:
        """What `_write` saves of a sharded model; None of one that every process has whole."""
        if not is_sharded(self.model):
            return None
        found = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if self._is_saved(tensor):
                gathered = whole_tensor(tensor)
                if self._writes():
                    found[name] = gathered.cpu()
        return found

    def _is_saved(self, tensor: Tensor) -> bool:
        return True

    def _writes(self) -> bool:
        """Whether this process saves."""
        return True

    def _write(self, name: str, weights: dict[str, Tensor] | None) -> Path:
        """Save the model, or these weights of it; a reader sees the whole folder or none."""
        place = self.folder / name
        if place.exists():
            return place
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=self.folder))
        try:
            self.model.save_pretrained(unfinished, state_dict=weights, **self._save_options())
            unfinished.chmod(0o755)  # the server may be another user's, and safetensors writes for its own user alone
            for file in unfinished.iterdir():
                file.chmod(0o644)
            with contextlib.suppress(OSError):  # another process was first, with the same weights
                unfinished.rename(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return place

    def _save_options(self) -> dict[str, Any]:
        return {}

    def _files(self) -> list[Path]:
        return [*self.folder.glob(f"{self.run}-*"), *self.folder.glob(f".{self.run}-*")]

    def _forget_files(self, keep: list[str]) -> None:
        for place in self._files():
            if not any(name in place.name for name in keep):
                shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)  # if nothing is left in it


class PublishedAdapter(_Published):
    """A LoRA student: every state an adapter, loaded while the server runs. The first state is the base model."""

    def __call__(self) -> str:
        """Serve the model as it is; the name it has there."""
        mark = self._mark()
        if mark == self._first:
            return self.server.model
        name = f"{self.run}-{mark}"
        if name not in self._kept:
            weights = self._gather()
            served = self.server.served()
            if name not in served:
                self.server.load_adapter(name, self._write(name, weights))
            self._kept = [*self._kept, name][-KEPT:]
            self._tidy(list(served))
        return name

    def _is_saved(self, tensor: Tensor) -> bool:
        return tensor.requires_grad

    def _save_options(self) -> dict[str, Any]:
        return {"save_embedding_layers": False}  # peft would ask the hub for the base model's configuration

    def _tidy(self, served: list[str]) -> None:
        if self.is_main:
            for old in served:
                if old.startswith(f"{self.run}-") and old not in self._kept:
                    self.server.unload_adapter(old)
            self._forget_files(self._kept)

    def release(self) -> None:
        """Leave nothing of this run on the server or the disk. Raises ServerError."""
        self._kept = []
        self._tidy(list(self.server.served()) if self._files() else [])


class PublishedWeights(_Published):
    """A student whose weights are all trained: the server's own are replaced by them."""

    def __call__(self) -> str:
        """Put the model, as it is, in the place of the server's; the name it has there."""
        mark = self._mark()
        version = f"{self.run}-{mark}"
        first = mark == self._first
        if self.is_main:  # to the others the server may already have the next weights, for which they wait
            self.check()
        if self._kept != [version]:
            weights = None if first else self._gather()
            if self.is_main:
                self.server.reload(None if first else self._write(version, weights), version)
                self._forget_files([])  # the server has read them
            else:
                self._wait(lambda: self.server.weight_version() == version, version)
            self._kept = [version]
        return self.server.model

    def check(self) -> None:
        if self._kept and (found := self.server.weight_version()) != self._kept[-1]:
            raise self.server.error(
                f"its weights are {found!r}, not those of this run: another run uses it, or it was started anew"
            )

    def _writes(self) -> bool:
        return self.is_main

    def _wait(self, done: Callable[[], bool], version: str) -> None:
        end = time.monotonic() + self.server.timeout
        while not done():
            if time.monotonic() > end:
                raise self.server.error(f"the first process has not loaded the weights {version} in time")
            time.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Give the server the weights back that it began with, unless another run has put its own there. Raises
        ServerError."""
        if self.is_main and self.server.weight_version().startswith(f"{self.run}-"):
            self.server.reload(None, ITS_OWN)
