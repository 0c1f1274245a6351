"""What every method's trainer has in common: everything around a step but the loss.

`transformers.Trainer` has loops, accumulation, mixed precision, checkpoints, resuming, trackers. Here is what a run of
crosslign asks beyond that: the mixture decides the order; an evaluation while training; one ordinary model saved, also
of a sharded one; nothing saved that is not finite or trained against a teacher that has moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.utils.data import SequentialSampler, default_collate
from transformers import TrainerCallback, TrainingArguments

from crosslign.data.mixture import QueryMixture
from crosslign.distillation.checkpoints import CheckedCheckpoints
from crosslign.distillation.collector import RolloutCollector
from crosslign.distillation.score import Scorer, mean_divergence
from crosslign.models import NotFiniteError, causal_lm, not_finite
from crosslign.models.sharding import enter, has_plain_output, is_sharded, pieces, prepare_frozen, whole
from crosslign.rollouts import Pinnable, Sampler
from crosslign.types import CrosslignError, Query, Rollout

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


def loud(loss: Tensor) -> Tensor:
    """The same loss; if it is not finite, its gradient is NaN: so it is on all processes, and no step is taken."""
    return loss * (1 + 0 * loss.detach())


class Metrics(Protocol):
    """What a trainer reports of its steps; `not_finite`: queries of the window whose loss was inf or NaN."""

    not_finite: list[Query]

    def flush(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The log line's entries; starts anew. `reduce` sums a tensor over processes."""
        ...


class RunTrainer(CheckedCheckpoints):
    """Trains a student on the queries of a mixture; `window` and `compute_loss` say how.

    Args:
        model: the student, a causal language model or a PeftModel.
        mixture: the training queries.
        collector: makes rollouts; its samplers run on `model` and on the teacher.
        scorer: compares student and frozen teacher, in every method to tell how near they are.
        metrics: what log lines report beyond the loss.
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
        metrics: Metrics,
        evaluator: Evaluator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=mixture, data_collator=default_collate, **kwargs)
        self.mixture = mixture
        self.collector = collector
        self.scorer = scorer
        self.metrics = metrics
        self.evaluator = evaluator
        self.sharded = False
        if args.device.type == "cpu":
            self.accelerator.device_placement = False  # see _move_model_to_device
        self.add_callback(_ShardTeacher(self))

    def window(
        self, epoch: int, positions: Sequence[Sequence[int]], device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Of an accumulation window: the inputs of each micro-batch, whose queries stand at these positions of the
        epoch, and the number, on all processes, that their summed loss is divided by."""
        raise NotImplementedError

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
        """Fetch a window's positions; `window` makes its micro-batches."""
        if 0 < self.state.max_steps <= self.state.global_step:
            # Resumed from the checkpoint of its last step: the Trainer's loop would make one more.
            self.control.should_training_stop = True
            return [], torch.ones((), device=device)
        self._check_weights()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return self.window(int(self.state.epoch or 0), [batch["position"].tolist() for batch in batches], device)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The Trainer's own, which it asks for before each optimiser step: the last moment to refuse one.

        The gradient is that of all processes, so all stop. With float16's loss scaling its overflow is normal, and the
        scaler leaves the step out; then the loss has to tell.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        # DeepSpeed scales by itself, and knows no norm in some of its stages.
        skipped = self.is_deepspeed_enabled and self.accelerator.optimizer_step_was_skipped
        by_loss = self.accelerator.scaler is not None or skipped or norm is None
        measured = self.accelerator.reduce(self._tr_loss.detach().clone(), "sum") if by_loss else norm
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
            if self.is_deepspeed_enabled:  # its engine took the step within the backward pass
                self._check_weights()
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
        if self.sharded and not has_plain_output(causal_lm(self.model)):
            raise CrosslignError(
                "model.lora.target_modules: an adapter on the output layer cannot be trained with FSDP or ZeRO-3. "
                "Leave that layer out, or use data parallelism, or ZeRO-2."
            )
        if self.sharded:
            enter(self.model_wrapped, self.accelerator.unwrap_model(self.model_wrapped))
            self.scorer.teacher.shard(lambda model: prepare_frozen(self.accelerator, model))
        elif self.is_deepspeed_enabled:
            self.scorer.teacher.settle(self.args.device)
        if self.sharded or self.is_deepspeed_enabled:  # weights lie elsewhere now
            self.scorer.settle(self.model, sharded=self.sharded)

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


class _ShardTeacher(TrainerCallback):
    """Tells the trainer when its model is prepared and a checkpoint is loaded."""

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.shard_teacher()
