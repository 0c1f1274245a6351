"""The student as LoRA or full model, the frozen teacher, and the proof that it stays frozen."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from crosslign.models.load import disable_dropout, stored_tensors
from crosslign.types import CrosslignError

_CHUNK = 1 << 22
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class TeacherMovedError(CrosslignError):
    """The teacher's weights are not those of the start any more."""


def add_lora(model: Any, config: LoraConfig, seed: int = 0) -> PeftModel:
    """Wrap a model with a fresh LoRA adapter (B = 0, so the student starts as the teacher), dropout off."""
    config = dataclasses.replace(config, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            peft_model = get_peft_model(model, config)
        except ValueError as error:
            raise CrosslignError(
                f"model.lora: {error}. Name the linear layers in model.lora.target_modules, or 'all-linear'."
            ) from error
    disable_dropout(peft_model)
    return peft_model


class FrozenTeacher:
    """The initial model, unchanged: LoRA's base with the adapter disabled, or a frozen copy.

    Make it before the first training step. `view()` yields the module to run; inside, no gradient is recorded.
    """

    def __init__(self, student: Any, dtype: torch.dtype | None = None) -> None:
        self.shared = isinstance(student, PeftModel)
        if self.shared:
            if dtype is not None:
                logging.getLogger(__name__).warning(
                    "teacher.dtype has no effect with LoRA: the teacher is the base model itself."
                )
            self._model = student
        else:
            self._model = copy.deepcopy(student).requires_grad_(False).eval()
            if dtype is not None:
                self._model.to(dtype)
        self.fingerprint = self._measure()

    @contextmanager
    def view(self) -> Iterator[Any]:
        with torch.no_grad():
            if self.shared:
                with self._model.disable_adapter():
                    yield self._model
            else:
                yield self._model

    def check(self) -> None:
        """Raise TeacherMovedError if a weight differs from the start."""
        now = self._measure()
        if now != self.fingerprint:
            raise TeacherMovedError(
                f"the frozen teacher's weights have changed during the run (fingerprint {self.fingerprint} at the "
                f"start, {now} now), so the losses since then mean nothing. Something wrote into the base model: an "
                "adapter merged in and out, an optimizer over base weights, or a callback."
            )

    def _measure(self) -> str:
        return fingerprint(self._model)


def fingerprint(model: torch.nn.Module) -> str:
    """Hash of a model's weights without its LoRA adapters: 16 hexadecimal digits.

    Each tensor's bits, read as integers x_i, give (sum x_i, sum (2 i + 1) x_i) modulo 2^64 on the tensor's own device;
    SHA-256 over names, shapes, dtypes and these sums is the result. The factors are odd, hence invertible: any change
    of a single weight changes it. A model with and without LoRA has the same fingerprint.
    """
    digest = hashlib.sha256()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in stored_tensors(model):
        if ".lora_" in name:
            continue
        tensors[name.removeprefix("base_model.model.").replace(".base_layer", "")] = tensor
    for name in sorted(tensors):
        weight = tensors[name].detach()
        first, second = _sums(weight)
        digest.update(f"{name}|{tuple(weight.shape)}|{weight.dtype}|{first}|{second}\n".encode())
    return digest.hexdigest()[:16]


def _sums(tensor: torch.Tensor) -> tuple[int, int]:
    flat = tensor.contiguous().view(-1).view(_INTEGER[tensor.element_size()])
    first = second = 0
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK].to(torch.int64)
        factor = torch.arange(start, start + part.numel(), device=part.device).mul_(2).add_(1)
        first += int(part.sum())
        second += int(factor.mul_(part).sum())
    return first % 2**64, second % 2**64
