"""An ablation: a teacher whose weights follow the student's, in place of the frozen one.

    theta_T <- theta_T + r (theta_S - theta_T)      after each optimiser step, over the weights that are trained

r = 1 is the student itself. What the collector samples, judgements and off-policy answers, stays the frozen model's.
Source: the ablation of Qin et al., arXiv 2605.02971, with r = 0.05.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from crosslign.distillation.checkpoints import reading

FILE = "moving_teacher.safetensors"  # in a checkpoint


class MovingTeacher:
    """A copy of the student that shares the weights which are not trained with it.

    `view` and `run` are those of `FrozenTeacher`. Make it before the first training step.

    Args:
        rate: r, above 0 and at most 1.
    """

    shared = False

    def __init__(self, student: Any, rate: float) -> None:
        fixed = {id(t): t for t in chain(student.parameters(), student.buffers()) if not t.requires_grad}
        self.model = copy.deepcopy(student, fixed).eval()
        self.rate = rate
        self.weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        for weight in self.weights.values():
            weight.requires_grad_(False)

    @contextmanager
    def view(self) -> Iterator[Any]:
        with torch.no_grad():
            yield self.model

    def run(self, compute: Callable[[Any], Any]) -> Any:
        with self.view() as model:
            return compute(model)

    @torch.no_grad()
    def follow(self, student: Any) -> None:
        """One update towards the student, which is the model that this one was copied from."""
        trained = dict(student.named_parameters())
        for name, weight in self.weights.items():
            weight.lerp_(trained[name], self.rate)

    def save(self, folder: Path) -> None:
        save_file({name: weight.contiguous() for name, weight in self.weights.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Raises CrosslignError if the file is missing or does not fit."""
        with reading(folder), torch.no_grad():
            saved = load_file(folder / FILE)
            for name, weight in self.weights.items():
                weight.copy_(saved[name])


class FollowStudent(TrainerCallback):
    """Moves the teacher after each step, and keeps it in the run's checkpoints."""

    def __init__(self, teacher: MovingTeacher, student: Any) -> None:
        self.teacher = teacher
        self.student = student

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self.teacher.load(_checkpoint(args, state))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.teacher.follow(self.student)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.teacher.save(_checkpoint(args, state))


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
