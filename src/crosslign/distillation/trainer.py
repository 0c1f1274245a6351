"""Multilingual Self-Distillation on `transformers.Trainer`.

What is overridden: rollouts are sampled when the batches of an accumulation window are fetched
(`get_batch_samples`), a micro-batch is stepped in groups of similar length (`training_step`), the loss compares student
and frozen teacher (`compute_loss`), and log lines get the named parts. Everything else (loops, accumulation, mixed
precision, checkpoints, resuming, trackers, hub) is the Trainer's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import SequentialSampler, default_collate
from transformers import Trainer, TrainingArguments

from crosslign.data.mixture import QueryMixture
from crosslign.distillation.collector import RolloutCollector
from crosslign.distillation.metrics import StepMetrics
from crosslign.distillation.teacher_states import TeacherStates
from crosslign.models import FrozenTeacher, SharedPrefix, SplitModel, StateStore, shared_prefix
from crosslign.models.passes.batching import Batching
from crosslign.models.passes.collate import completion_mask
from crosslign.objective import Objective, WeightedDivergence
from crosslign.objective.head import Head, described
from crosslign.types import CrosslignError, Rollout


class DistillationTrainer(Trainer):
    """Trains a student to give, after its own context, the frozen teacher's token distribution.

    The loss of an optimiser step is the mean over all sequences of its accumulation window, on all processes, that have
    a token: `sum_i loss_i / N` with the global N. So 1x8 and 8x1 accumulation are the same step.

    Args:
        model: the student, a causal language model or a PeftModel.
        mixture: the training queries.
        collector: makes rollouts; its samplers run on `model` and `teacher`.
        teacher: the frozen initial model.
        split: body and head of the model's architecture.
        objective: hidden states to weighted divergence.
        pad_token_id: fills batches; masked.
        languages: to report metrics for, all that the mixture can draw.
        on_rollouts: called with (step, rollouts) of each window on this process.
        store: keeps the teacher's hidden states of rollouts that come again; None for no such store.
        evaluator: called with the number of steps done when the trainer evaluates, on the first process while the
            others wait; returns a log line, whose names begin with `eval_`.
    """

    loss_is_scaled_for_ga = True
    control: Any

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        mixture: QueryMixture,
        collector: RolloutCollector,
        teacher: FrozenTeacher,
        split: SplitModel,
        objective: Objective,
        pad_token_id: int,
        languages: Sequence[str],
        on_rollouts: Callable[[int, list[Rollout]], None] | None = None,
        store: StateStore | None = None,
        evaluator: Callable[[int], Mapping[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=mixture, data_collator=default_collate, **kwargs)
        self.mixture = mixture
        self.collector = collector
        self.teacher = teacher
        self.split = split
        self.objective = objective
        self.pad_token_id = pad_token_id
        self.batching = Batching.of(model, pad_token_id)
        self.teacher_states = TeacherStates(
            teacher,
            split,
            self.batching,
            self.args.device,
            autocast=self.accelerator.autocast,
            prefix=None if self.batching.packed else self._shared_prefix(),
            store=store,
        )
        self.metrics = StepMetrics(languages)
        self.on_rollouts = on_rollouts
        self.evaluator = evaluator

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # The mixture decides the order of every epoch; shuffling positions would undo its balance.
        return SequentialSampler(self.mixture)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Mapping[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Fetch a window's positions, sample all its rollouts at once, and count its sequences on all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        epoch = int(self.state.epoch or 0)
        positions = [batch["position"].tolist() for batch in batches]
        queries = [self.mixture.draw(epoch, p) for batch in positions for p in batch]
        with self._timed("generation"):
            rollouts = self.collector.collect(queries, self.state.global_step, self.args.process_index)
        if self.on_rollouts is not None:
            self.on_rollouts(self.state.global_step, rollouts)
        common = self.teacher_states.common(rollouts)
        # Which micro-batch a sequence is in does not change the step, so similar lengths share one: less padding. The
        # longest come first, so that running out of memory shows at once.
        remaining = iter(sorted(rollouts, key=_length, reverse=True))
        windows = [{"rollouts": [next(remaining) for _ in batch], "common": common} for batch in positions]
        count = torch.tensor(sum(bool(r.completion.token_ids) for r in rollouts), device=device)
        return windows, self.accelerator.reduce(count, reduction="sum").clamp_min(1)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        rollouts: list[Rollout] = inputs["rollouts"]
        result, mask = self.score(model, rollouts, inputs.get("teacher_hidden"), num_items_in_batch)
        self.metrics.add(rollouts, result, mask)
        # Gradients are averaged over processes, hence the factor.
        processes = self.accelerator.num_processes
        loss = result.loss if processes == 1 else result.loss * processes
        return (loss, {"weighted_divergence": result}) if return_outputs else loss

    def score(
        self,
        model: Any,
        rollouts: Sequence[Rollout],
        teacher_hidden: Sequence[Tensor] | None = None,
        sequences: Tensor | int | None = None,
    ) -> tuple[WeightedDivergence, Tensor]:
        """Student and teacher on the rollouts' tokens: the weighted divergence and the mask `[batch, tokens]`.

        `model` is the student, wrapped for distributed training or not; its rows share one forward pass.
        `teacher_hidden` holds the teacher's states `[L, hidden]` of each rollout if they are known already, and
        `sequences` is the number of sequences that the loss is the mean over, None for those of these rollouts.
        """
        mask = completion_mask(rollouts).to(self.args.device)
        student = self.accelerator.unwrap_model(model)
        batch = self.batching.collate(
            [r.student_context.token_ids for r in rollouts], [r.completion.token_ids for r in rollouts]
        ).to(self.args.device)
        if teacher_hidden is None:
            with self._timed("teacher"):
                teacher_hidden = self.teacher_states.compute(rollouts)
        with self.accelerator.autocast():
            student_hidden = _redirected(
                model,
                student,
                self.split.hidden,
                (batch.input_ids, batch.attention_mask, batch.index, batch.position_ids),
            )
            padded = pad_sequence(list(teacher_hidden), batch_first=True)
            heads = self.split.head(student), self._teacher_head()
            result = self.objective(student_hidden, padded, *heads, mask, sequences)
        return result, mask

    def _teacher_head(self) -> Head:
        with self.teacher.view() as frozen:
            head = self.split.head(frozen)
        return head if described(head) else self._inside_view

    def _inside_view(self, hidden: Tensor) -> Tensor:
        # A head that is no plain layer may carry an adapter, which only the view takes off.
        with self.teacher.view() as frozen:
            return self.split.head(frozen)(hidden)

    def _shared_prefix(self) -> SharedPrefix | None:
        with self.teacher.view() as frozen:
            return shared_prefix(frozen, self.split)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Step a micro-batch in groups of similar length, each with its own backward pass.

        Exact: weights are normalised within a sequence and the loss is divided by the count of the whole window, so
        the groups' losses and gradients add up. Of several processes, only the last group's backward synchronises.
        """
        start = time.perf_counter()
        teacher_before = self.metrics.seconds["teacher"]
        # What has no token has no gradient; but a process without any must still take part in the synchronisation.
        rollouts = [r for r in inputs["rollouts"] if r.completion.token_ids] or inputs["rollouts"][:1]
        with self._timed("teacher"):
            hidden = self.teacher_states(rollouts, inputs.get("common", ()))
        lengths = [len(r.student_context.token_ids) + len(r.completion.token_ids) for r in rollouts]
        groups = self.batching.groups(lengths)
        losses = []
        for number, rows in enumerate(groups):
            part = {"rollouts": [rollouts[i] for i in rows], "teacher_hidden": [hidden[i] for i in rows]}
            last = number == len(groups) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, part, num_items_in_batch))
        # Everything but the teacher's forward pass is the student's: forward, objective, backward.
        teacher = self.metrics.seconds["teacher"] - teacher_before
        self.metrics.seconds["student"] += time.perf_counter() - start - teacher
        return torch.stack(losses).sum()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure with the evaluator and log it; every process gets the first one's results.

        The others wait for it, at most `training.ddp_timeout` seconds.
        """
        if self.evaluator is None:
            raise CrosslignError("this run has nothing to evaluate: its recipe has no section `evaluation`.")
        found = [dict(self.evaluator(self.state.global_step)) if self.is_world_process_zero() else {}]
        broadcast_object_list(found)  # where the others wait
        self.log(dict(found[0]))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, found[0])
        return found[0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self.metrics.flush(lambda t: self.accelerator.reduce(t.to(self._sum_device), "sum"))}
        super().log(logs, start_time)

    @property
    def _sum_device(self) -> torch.device:
        # MPS has no float64.
        return torch.device("cpu") if self.args.device.type == "mps" else self.args.device

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Not counted: the Trainer's estimate knows neither the teacher nor sampling."""
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call=_internal_call)
        # A pickle, which nothing of ours reads; the resolved configuration stands in config.yaml.
        Path(output_dir or self.args.output_dir or "", "training_args.bin").unlink(missing_ok=True)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.metrics.seconds[name] += time.perf_counter() - start


def _length(rollout: Rollout) -> int:
    return len(rollout.teacher_context.token_ids) + len(rollout.completion.token_ids)


def _redirected(wrapped: Any, inner: Any, hidden: Callable[..., Tensor], inputs: tuple[Tensor | None, ...]) -> Tensor:
    """Run `hidden(inner, *inputs)` as the forward pass of `wrapped`.

    DistributedDataParallel prepares gradient synchronisation in its own `forward`, which calls `inner.forward`; so that
    one is replaced for the call.
    """
    if wrapped is inner:
        return hidden(inner, *inputs)
    original = inner.forward

    def forward(*args: Tensor | None) -> Tensor:
        inner.forward = original
        return hidden(inner, *args)

    inner.forward = forward
    try:
        return wrapped(*inputs)
    finally:
        inner.forward = original
