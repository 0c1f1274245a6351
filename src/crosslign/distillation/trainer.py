"""Multilingual Self-Distillation on `transformers.Trainer`.

Rollouts are sampled when the batches of an accumulation window are fetched (`window`), a micro-batch is stepped in
groups of similar length (`training_step`), and the loss compares student and frozen teacher (`compute_loss`).
Everything else is `RunTrainer`'s, or the Trainer's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import TrainingArguments

from crosslign.distillation.metrics import StepMetrics
from crosslign.distillation.moving import FollowStudent, MovingTeacher
from crosslign.distillation.run_trainer import RunTrainer, loud
from crosslign.types import Rollout

logger = logging.getLogger(__name__)


class DistillationTrainer(RunTrainer):
    """Trains a student to give, after its own context, the frozen teacher's token distribution.

    The loss of an optimiser step is the mean over all sequences of its accumulation window, on all processes, that have
    a token: `sum_i loss_i / N` with the global N. So 1x8 and 8x1 accumulation are the same step.

    Args:
        languages: to report metrics for, all that the mixture can draw.
        on_rollouts: called with (step, rollouts) of each window on this process.
        ahead: sample the next window while a step runs, from the weights before it (`RolloutCollector.begin`).
        teacher: one that moves, which the student learns from in place of the frozen one. `scorer` keeps that.

    The others are `RunTrainer`'s.
    """

    metrics: StepMetrics

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        languages: Sequence[str],
        on_rollouts: Callable[[int, list[Rollout]], None] | None = None,
        ahead: bool = False,
        teacher: MovingTeacher | None = None,
        **kwargs: Any,
    ) -> None:
        if teacher is not None:  # before the callback that lists a checkpoint's files
            kwargs["callbacks"] = [FollowStudent(teacher, model), *kwargs.get("callbacks", ())]
        super().__init__(model, args, metrics=StepMetrics(languages), **kwargs)
        self.loss_scorer = self.scorer if teacher is None else self.scorer.against(teacher)
        self.on_rollouts = on_rollouts
        self.ahead = ahead

    def window(
        self, epoch: int, positions: Sequence[Sequence[int]], device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Sample all rollouts of a window at once, and count its sequences on all processes."""
        queries = [self.mixture.draw(epoch, p) for batch in positions for p in batch]
        asked = self.collector.asked(queries, self.state.global_step)
        student, teacher = self._anywhere("student" in asked), self._anywhere("teacher" in asked)
        with self._timed("generation"), self.whole(teacher=teacher):
            pinned = self._pinned() if student else None
            rollouts = self.collector.collect(queries, self.state.global_step, self.args.process_index, pinned)
        self.exchange_completions()
        if self.on_rollouts is not None:
            self.on_rollouts(self.state.global_step, rollouts)
        if self.ahead:
            self._begin_next(epoch, [p for batch in positions for p in batch])
        common = self.loss_scorer.common_start(rollouts)
        # Which micro-batch a sequence is in does not change the step, so similar lengths share one: less padding. The
        # longest come first, so that running out of memory shows at once.
        remaining = iter(sorted(rollouts, key=_length, reverse=True))
        windows = [{"rollouts": [next(remaining) for _ in batch], "common": common} for batch in positions]
        count = torch.tensor(sum(bool(r.completion.token_ids) for r in rollouts), device=device)
        count = self.accelerator.reduce(count, reduction="sum")
        if not count and self.is_world_process_zero():
            logger.warning("step %d: no completion has a token, so nothing is learned.", self.state.global_step + 1)
        return windows, count.clamp_min(1)

    def _begin_next(self, epoch: int, positions: Sequence[int]) -> None:
        """Let the window after this one be sampled, but not across a checkpoint, so that a resumed run takes the same
        steps, nor across the end of an epoch."""
        step = self.state.global_step + 1
        saved = self.args.save_strategy == "steps" and step % self.state.save_steps == 0
        following = [p + len(positions) * self.args.world_size for p in positions]
        ends = self._anywhere(max(following) >= len(self.mixture))  # what is sharded is published by all together
        if not saved and step < self.state.max_steps and not ends:
            queries = [self.mixture.draw(epoch, p) for p in following]
            self.collector.begin(queries, step, self.args.process_index)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        rollouts: list[Rollout] = inputs["rollouts"]
        student, hidden = self.accelerator.unwrap_model(model), inputs.get("teacher_hidden")
        with self.accelerator.autocast():
            result, mask = self.loss_scorer.in_forward(model, student, rollouts, hidden, num_items_in_batch)
        counts = inputs.get("counts", True)
        if counts:
            self.metrics.add(rollouts, result, mask)
        # Gradients are averaged over processes, hence the factor.
        factor = self.accelerator.num_processes * counts
        loss = result.loss if factor == 1 else result.loss * factor
        loss = loud(loss)
        return (loss, {"weighted_divergence": result}) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Step a micro-batch in groups of similar length, each with its own backward pass.

        Exact: weights are normalised within a sequence and the loss is divided by the count of the whole window, so
        the groups' losses and gradients add up. Of several processes, only the last group's backward synchronises.
        """
        start = time.perf_counter()
        teacher_before = self.metrics.seconds["teacher"]
        # What has no token has no gradient; but a process without any must still take part in the synchronisation.
        rollouts = [r for r in inputs["rollouts"] if r.completion.token_ids] or inputs["rollouts"][:1]
        hidden = None
        if not self.sharded:
            with self._timed("teacher"), self.accelerator.autocast():
                hidden = self.loss_scorer.teacher_hidden(rollouts, inputs.get("common", ()))
        lengths = [len(r.student_context.token_ids) + len(r.completion.token_ids) for r in rollouts]
        groups = self.scorer.batching.groups(lengths)
        own = len(groups)
        if self.sharded:
            # Weights are gathered for each pass by all processes together: those with fewer groups repeat a row, which
            # counts nothing.
            groups += [[0]] * (int(self.accelerator.reduce(torch.tensor(own, device=self.args.device), "max")) - own)
        losses = []
        for number, rows in enumerate(groups):
            part = {"rollouts": [rollouts[i] for i in rows], "counts": number < own}
            if hidden is not None:
                part["teacher_hidden"] = [hidden[i] for i in rows]
            with nullcontext() if number == len(groups) - 1 else self._accumulating(model):
                losses.append(super().training_step(model, part, num_items_in_batch))
        # Everything but the teacher's forward pass is the student's: forward, objective, backward.
        teacher = self.metrics.seconds["teacher"] - teacher_before
        self.metrics.seconds["student"] += time.perf_counter() - start - teacher
        return torch.stack(losses).sum()

    @contextmanager
    def _accumulating(self, model: Any) -> Iterator[None]:
        """Around a backward pass that is not a window's last: its gradients wait."""
        if isinstance(model, FSDPModule):
            yield  # they are summed in parts: waiting, they would be whole on every process
        elif self.is_deepspeed_enabled:
            last = self.accelerator.sync_gradients
            self.accelerator.gradient_state._set_sync_gradients(False)  # the engine makes a step where this is true
            yield
            self.accelerator.gradient_state._set_sync_gradients(last)
        else:
            with self.accelerator.no_sync(model):
                yield

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.metrics.seconds[name] += time.perf_counter() - start


def _length(rollout: Rollout) -> int:
    return len(rollout.teacher_context.token_ids) + len(rollout.completion.token_ids)
