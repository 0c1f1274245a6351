"""Multilingual Self-Distillation on `transformers.Trainer`.

What is overridden: rollouts are sampled when the batches of an accumulation window are fetched
(`get_batch_samples`), a micro-batch is stepped in groups of similar length (`training_step`), the loss compares student
and frozen teacher (`compute_loss`), and log lines get the named parts. Everything else (loops, accumulation, mixed
precision, checkpoints, resuming, trackers, hub) is the Trainer's.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import SequentialSampler, default_collate
from transformers import TrainerCallback, TrainingArguments

from crosslign.data.mixture import QueryMixture
from crosslign.distillation.checkpoints import CheckedCheckpoints
from crosslign.distillation.collector import RolloutCollector
from crosslign.distillation.metrics import StepMetrics
from crosslign.distillation.score import Scorer, mean_divergence
from crosslign.models import NotFiniteError, not_finite
from crosslign.models.sharding import enter, is_sharded, pieces, prepare_frozen, whole
from crosslign.rollouts import Pinnable, Sampler
from crosslign.types import CrosslignError, Rollout

logger = logging.getLogger(__name__)

SaveModel = Callable[[str], None]


class Evaluator(Protocol):
    """What the trainer evaluates with."""

    def __call__(self, step: int, student: Sampler | None) -> tuple[Mapping[str, float], Any | None]:
        """After so many steps: a log line, whose names begin with `eval_`, and what `keep` gets; None: do not keep.

        `student` samples from a server; None: sample from the model in this process.
        """
        ...

    def keep(self, kept: Any, save: SaveModel) -> None:
        """Keep this model: `save(folder)` saves it."""
        ...


class DistillationTrainer(CheckedCheckpoints):
    """Trains a student to give, after its own context, the frozen teacher's token distribution.

    The loss of an optimiser step is the mean over all sequences of its accumulation window, on all processes, that have
    a token: `sum_i loss_i / N` with the global N. So 1x8 and 8x1 accumulation are the same step.

    Args:
        model: the student, a causal language model or a PeftModel.
        mixture: the training queries.
        collector: makes rollouts; its samplers run on `model` and `teacher`.
        scorer: compares student and frozen teacher on them.
        languages: to report metrics for, all that the mixture can draw.
        on_rollouts: called with (step, rollouts) of each window on this process.
        ahead: sample the next window while a step runs, from the weights before it (`RolloutCollector.begin`).
        evaluator: evaluates on the first process while the others wait.
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
        scorer: Scorer,
        languages: Sequence[str],
        on_rollouts: Callable[[int, list[Rollout]], None] | None = None,
        evaluator: Evaluator | None = None,
        ahead: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=mixture, data_collator=default_collate, **kwargs)
        self.mixture = mixture
        self.collector = collector
        self.scorer = scorer
        self.metrics = StepMetrics(languages)
        self.on_rollouts = on_rollouts
        self.evaluator = evaluator
        self.ahead = ahead
        self.sharded = False
        if args.device.type == "cpu":
            self.accelerator.device_placement = False  # see _move_model_to_device
        self.add_callback(_ShardTeacher(self))

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # The mixture decides the order of every epoch; shuffling positions would undo its balance.
        return SequentialSampler(self.mixture)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        # Of several processes, accelerate calls a CPU "cpu:0": torch copies what it moves there from "cpu", and much of
        # the first copy's memory is not given back.
        if {device.type, *(p.device.type for p in model.parameters())} != {"cpu"}:
            super()._move_model_to_device(model, device)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Mapping[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Fetch a window's positions, sample all its rollouts at once, and count its sequences on all processes."""
        if 0 < self.state.max_steps <= self.state.global_step:
            # Resumed from the checkpoint of its last step: the Trainer's loop would make one more.
            self.control.should_training_stop = True
            return [], torch.ones((), device=device)
        self._check_weights()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        epoch = int(self.state.epoch or 0)
        positions = [batch["position"].tolist() for batch in batches]
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
        common = self.scorer.common_start(rollouts)
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
            result, mask = self.scorer.in_forward(model, student, rollouts, hidden, num_items_in_batch)
        counts = inputs.get("counts", True)
        if counts:
            self.metrics.add(rollouts, result, mask)
        # Gradients are averaged over processes, hence the factor.
        factor = self.accelerator.num_processes * counts
        loss = result.loss if factor == 1 else result.loss * factor
        # A factor of 1, but NaN if the loss is not finite: then so is the gradient, on all processes.
        loss = loss * (1 + 0 * loss.detach())
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
                hidden = self.scorer.teacher_hidden(rollouts, inputs.get("common", ()))
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

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The Trainer's own, which it asks for before each optimiser step: the last moment to refuse one.

        The gradient is that of all processes, so all stop. With float16's loss scaling its overflow is normal, and the
        scaler leaves the step out; then the loss has to tell.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.accelerator.scaler is not None
        measured = self.accelerator.reduce(self._tr_loss.detach().clone(), "sum") if scaled else norm
        if not math.isfinite(measured):
            queries = [f"{query.id!r} ({query.language})" for query in self.metrics.not_finite]
            first = f"the loss of {len(queries)} of its queries ({', '.join(queries[:3])})"
            what = first if queries else "the gradient"
            # DeepSpeed's engine takes its step within the backward pass.
            end = "nothing of the step is saved" if self.is_deepspeed_enabled else "the step was not taken"
            raise NotFiniteError(
                f"step {self.state.global_step + 1}: {what} is inf or NaN, and {end}. Look at "
                "training.learning_rate, at model.dtype (float16 ends at 65504) and at objective.temperature."
            )
        return norm

    def _check_weights(self) -> None:
        """Raise NotFiniteError if a weight that is trained is not finite: before it is sampled from, and before it is
        saved."""
        name = not_finite((n, pieces(p)[0]) for n, p in self.model.named_parameters() if p.requires_grad)
        if self._anywhere(name is not None):  # of a sharded model each process sees a part
            first = name or "another process"
            raise NotFiniteError(
                f"step {self.state.global_step}: weights are inf or NaN after it (the first are in {first}) and are "
                "not saved. Look at training.learning_rate and at model.dtype (float16 ends at 65504)."
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; where the last step has not been evaluated (a callback stopped the run after it, or it
        was resumed from it), that follows."""
        output = super().train(*args, **kwargs)
        step = self.state.global_step
        done = any(row["step"] == step and "eval_seconds" in row for row in self.state.log_history)
        if self.evaluator is not None and not done:
            self.evaluate()
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure with the evaluator and log it; every process gets the first one's results.

        The others wait for it, at most `training.ddp_timeout` seconds.
        """
        evaluator = self.evaluator
        if evaluator is None:
            raise CrosslignError("this run has nothing to evaluate: its recipe has no section `evaluation`.")
        self.collector.wait()  # one thread at a time asks the tokenizer
        step = self.state.global_step
        with self.whole(teacher=False):
            student = self._pinned()
            found: list[Any] = [evaluator(step, student) if self.is_world_process_zero() else None]
            broadcast_object_list(found)  # where the others wait
        logs, kept = found[0]
        if kept is not None:
            self.save_through(lambda save: evaluator.keep(kept, save))
        self.log(dict(logs))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return dict(logs)

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
        """Save the model, and the tokenizer beside it.

        Raises TeacherMovedError if the frozen teacher has moved: what was trained against it means nothing. Raises
        NotFiniteError for weights that are not finite.
        """
        self._check_weights()
        self.scorer.teacher.check()
        super().save_model(output_dir, _internal_call=_internal_call)
        # A pickle, which nothing of ours reads; the resolved configuration stands in config.yaml.
        Path(output_dir or self.args.output_dir or "", "training_args.bin").unlink(missing_ok=True)

    def save_through(self, write: Callable[[SaveModel], None]) -> None:
        """`write(save)` on the first process, where `save(folder)` saves one ordinary model or adapter.

        Every process must call this: each has a part of a sharded model.
        """
        if self.is_world_process_zero():
            write(self._save_whole)
        else:
            self._save_whole("")

    def _save_whole(self, folder: str) -> None:
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        before = None if plugin is None else plugin.state_dict_type
        if plugin is not None:
            plugin.set_state_dict_type("FULL_STATE_DICT")  # in parts, nothing that anyone else can load would be saved
        try:
            self.save_model(folder, _internal_call=True)  # which also means that nothing is pushed to the hub
        finally:
            if plugin is not None:
                plugin.set_state_dict_type(before)

    def shard_teacher(self) -> None:
        """Once the student is prepared: go on in parts, if its weights lie in parts."""
        self.sharded = is_sharded(self.model)
        if self.is_fsdp_enabled and not self.sharded:
            raise CrosslignError("FSDP is configured in version 1; crosslign needs 2 (fsdp_version in its settings).")
        if self.sharded and not self.scorer.split.exact:
            raise CrosslignError(
                "this model cannot be split into body and head, so it cannot be trained with FSDP or ZeRO-3. Use data "
                "parallelism, or ZeRO-2."
            )
        if self.sharded:
            enter(self.model_wrapped, self.accelerator.unwrap_model(self.model_wrapped))
            self.scorer.teacher.shard(lambda model: prepare_frozen(self.accelerator, model))
        elif self.is_deepspeed_enabled:
            self.scorer.teacher.measure_again()

    @contextmanager
    def whole(self, *, teacher: bool) -> Iterator[None]:
        """Inside the block every process has all weights that sampling needs, and may sample by itself; of the frozen
        copy only if it is asked for. Where a server samples, the student stays in its parts."""
        served = isinstance(self.collector.student, Pinnable)
        student = nullcontext() if served else whole(self.model_wrapped)
        with student, self.scorer.teacher.whole() if teacher else nullcontext():
            yield

    def _pinned(self) -> Sampler | None:
        """A server's sampler of the student as it is now, which each process may use by itself; None: no server is
        there. Every process must call this."""
        sampler = self.collector.student
        return sampler.pinned() if isinstance(sampler, Pinnable) else None

    def _anywhere(self, happens: bool) -> bool:
        """Whether it happens in one of the processes, which all must call this."""
        found = torch.tensor(happens, dtype=torch.float, device=self.args.device)
        return bool(self.accelerator.reduce(found, "max") > 0)

    def exchange_completions(self) -> None:
        """Every process gets the teacher's completions that the others have sampled; every process must call this."""
        self.collector.teacher.cache.exchange(gather_object, writes=self.is_world_process_zero())

    def mean_divergence(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """`score.mean_divergence` of the student as it is now; every process must call this."""
        student = self.accelerator.unwrap_model(self.model_wrapped)
        with self.accelerator.autocast():
            return mean_divergence(self.scorer, student, rollouts, self.model_wrapped)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.metrics.seconds[name] += time.perf_counter() - start


def _length(rollout: Rollout) -> int:
    return len(rollout.teacher_context.token_ids) + len(rollout.completion.token_ids)


class _ShardTeacher(TrainerCallback):
    """Tells the trainer when its model is prepared and a checkpoint is loaded."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.shard_teacher()
