"""The losses that the objective is compared with: TRL's, called as its trainers call them, and Liger's.

`dense` and `topk` are `SDFTTrainer`'s modes full_logits and topk_logits: the trainer's own method on the logits that
the head makes, divided by the temperature as it does. `chunked` is the divergence of `DistillationTrainer`, `liger`
Liger's kernel. None of them weighs tokens.
"""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

ALPHA = {"forward_kl": 0.0, "jsd": 0.5, "reverse_kl": 1.0}
TOP_K = 100  # the defaults of SDFTConfig: K = 100, no tail


@dataclass
class States:
    """Hidden states `[batch, tokens, H]`, the two heads, the mask `[batch, tokens]`."""

    student: Tensor
    teacher: Tensor
    student_head: nn.Linear
    teacher_head: nn.Linear
    mask: Tensor

    def forget_gradients(self) -> None:
        self.student.grad = None
        self.student_head.weight.grad = None


def require_trl() -> None:
    """End with a message where TRL is missing."""
    try:
        import trl  # noqa: F401
    except ImportError:
        sys.exit("this benchmark compares with TRL, which is not installed: pip install 'crosslign[bench]'")


def _sdft(states: States, divergence: str, mode: str) -> Callable[[], None]:
    from trl.experimental.sdft.sdft_trainer import DistillationLogits, SDFTTrainer

    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(
            distillation_mode=mode,
            distillation_topk=TOP_K,
            distillation_alpha=ALPHA[divergence],
            distillation_add_tail=False,
            distillation_is_clip=None,
        ),
        accelerator=SimpleNamespace(gather=lambda x: x),
        _log_self_distillation_metric=lambda mode, value: None,
    )
    model = SimpleNamespace(training=True)
    mask = states.mask.long()
    temperature = 1.0

    def run() -> None:
        states.forget_gradients()
        with torch.no_grad():
            teacher = states.teacher_head(states.teacher) / temperature
        student = states.student_head(states.student) / temperature
        logits = DistillationLogits(completion_ids=mask, loss_mask=mask, student_logits=student, teacher_logits=teacher)
        del student, teacher
        inputs: Any = ChainMap()
        SDFTTrainer._compute_self_distillation_loss(trainer, model, inputs, logits).backward()

    return run


def dense(states: States, divergence: str) -> Callable[[], None]:
    return _sdft(states, divergence, "full_logits")


def topk(states: States, divergence: str) -> Callable[[], None]:
    return _sdft(states, divergence, "topk_logits")


def chunked(states: States, divergence: str) -> Callable[[], None]:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def run() -> None:
        states.forget_gradients()
        loss, *_ = _chunked_divergence_loss(
            states.student,
            states.teacher,
            states.student_head.weight,
            states.teacher_head.weight,
            states.mask.long(),
            ALPHA[divergence],
        )
        loss.backward()

    return run


def liger(states: States, divergence: str) -> Callable[[], None]:
    """Liger's fused linear layer and divergence; its kernels are for GPUs."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=ALPHA[divergence])
    labels = torch.where(states.mask, 0, -100).flatten()

    def run() -> None:
        states.forget_gradients()
        student, teacher = states.student.flatten(0, 1), states.teacher.flatten(0, 1)
        loss(student, states.student_head.weight, teacher, states.teacher_head.weight, labels).backward()

    return run


def products(states: States, trained: bool) -> Callable[[], None]:
    """The matrix products that nobody can avoid, on the valid positions, at the machine's own rate."""
    student, teacher = states.student.detach()[states.mask], states.teacher[states.mask]
    weight = states.student_head.weight.detach()

    def run() -> None:
        logits = student @ weight.T
        teacher @ states.teacher_head.weight.detach().T
        logits @ weight
        if trained:
            logits.T @ student

    return run
