"""The student as LoRA or full model, the frozen teacher, and the proof that it stays frozen."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from crosslign.models.load import disable_dropout, stored_tensors
from crosslign.models.sharding import as_forward, pieces, reshard, summed, whole, whole_shape
from crosslign.types import CrosslignError

_CHUNK = 1 << 22
# Name, shape, type, and the two sums of `fingerprint`.
Mark = tuple[str, tuple[int, ...], torch.dtype, int, int]
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
            self.model = student
        else:
            self.model = copy.deepcopy(student).requires_grad_(False).eval()
            if dtype is not None:
                self.model.to(dtype)
        self._wrapped = self.model
        self.fingerprint = self._now = self._measure()

    @contextmanager
    def view(self) -> Iterator[Any]:
        with torch.no_grad():
            if self.shared:
                with self.model.disable_adapter():
                    yield self.model
            else:
                yield self.model

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside the block every process has all weights of a sharded copy; a shared base is the student's affair."""
        with nullcontext() if self.shared else whole(self._wrapped):
            yield

    def run(self, compute: Callable[[Any], Any]) -> Any:
        """`compute(frozen)` as a forward pass of the frozen model.

        A sharded teacher that is the student's base runs within the student's forward pass: call this there.
        """
        with self.view() as frozen:
            return compute(frozen) if self.shared else as_forward(self._wrapped, frozen, compute)

    def shard(self, prepare: Callable[[Any], Any]) -> None:
        """Go on with a sharded model. `prepare` shards a frozen copy as the student is; LoRA's base is sharded by then.

        The proof that the teacher does not move goes on: what is measured in parts must be what was measured whole,
        but where the weights were cast meanwhile.
        """
        if not self.shared:
            self._wrapped = prepare(self.model)
            self.model = getattr(self._wrapped, "module", self._wrapped)  # DeepSpeed's engine has it inside
        self.measure_again()

    def settle(self, device: torch.device) -> None:
        """Go on beside a student that DeepSpeed has cast and moved, but not sharded; a copy goes where it is."""
        if not self.shared:
            self.model.to(device)
        self.measure_again()

    def measure_again(self) -> None:
        """What is there now is what must not move: DeepSpeed has cast its weights when it was made."""
        self._now = self._measure()

    def check(self) -> None:
        """Raise TeacherMovedError if a weight differs from the start."""
        now = self._measure()
        if now != self._now:
            raise TeacherMovedError(
                f"the frozen teacher's weights have changed during the run (fingerprint {self._now} at the "
                f"start, {now} now), so the losses since then mean nothing. Something wrote into the base model: an "
                "adapter merged in and out, an optimizer over base weights, or a callback."
            )

    def _measure(self) -> str:
        reshard(self.model)  # what a forward pass has gathered would count once for every process
        return fingerprint(self.model)


def fingerprint(model: torch.nn.Module) -> str:
    """Hash of a model's weights without its LoRA adapters: 16 hexadecimal digits.

    Each tensor's bits, read as integers x_i, give (sum x_i, sum (2 i + 1) x_i) modulo 2^64 on the tensor's own device;
    SHA-256 over names, shapes, dtypes and these sums is the result. The factors are odd, hence invertible: any change
    of a single weight changes it. A model with and without LoRA has the same fingerprint, and so has one whose weights
    lie in parts on several processes, whose sums are added: then every process must call this.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in stored_tensors(model):
        if ".lora_" in name:
            continue
        tensors[name.removeprefix("base_model.model.").replace(".base_layer", "")] = tensor
    return weights_fingerprint(tensors)


def weights_fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """The same of named tensors."""
    names = list(tensors)
    sums = summed(torch.tensor([_sums(*pieces(tensors[name])) for name in names]), list(tensors.values()))
    return fingerprint_of(
        (name, whole_shape(tensors[name]), tensors[name].dtype, first, second)
        for name, (first, second) in zip(names, sums.tolist(), strict=True)
    )


def mark(name: str, tensor: torch.Tensor) -> Mark:
    """What `fingerprint_of` takes of a whole tensor, so that not all of a model's need be in memory at once."""
    return (name, tuple(tensor.shape), tensor.dtype, *_sums(tensor.reshape(-1), 0))


def fingerprint_of(marks: Iterable[Mark]) -> str:
    """`fingerprint` of the tensors with these marks, in any order."""
    digest = hashlib.sha256()
    for name, shape, dtype, first, second in sorted(marks, key=lambda found: found[0]):
        digest.update(f"{name}|{shape}|{dtype}|{first % 2**64}|{second % 2**64}\n".encode())
    return digest.hexdigest()[:16]


def _sums(flat: torch.Tensor, offset: int) -> tuple[int, int]:
    """Both sums of a part whose first element is number `offset` of the whole, as signed integers of 64 bits."""
    flat = flat.detach().contiguous().view(_INTEGER[flat.element_size()])
    sums = torch.zeros(2, dtype=torch.int64, device=flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK].to(torch.int64)
        factor = torch.arange(offset + start, offset + start + part.numel(), device=part.device).mul_(2).add_(1)
        sums += torch.stack([part.sum(), factor.mul_(part).sum()])
    first, second = sums.tolist()
    return first, second
