"""Callbacks: log files, progress, and the manifest of a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm
from transformers import TrainerCallback

from crosslign.distillation import RunTrainer
from crosslign.rollouts.progress import progress
from crosslign.runs.folder import METRICS, ROLLOUTS, RunFolder
from crosslign.storage import write_manifest
from crosslign.types import Rollout

EVALUATION = "eval_"  # how names in an evaluation's log line begin; trackers show "eval_x" as "eval/x"


class MetricsCallback(TrainerCallback):
    """Appends each step's and each evaluation's log line to metrics.jsonl, under the names that trackers show."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and ("loss" in logs or any(k.startswith(EVALUATION) for k in logs)):
            named = {
                f"eval/{k.removeprefix(EVALUATION)}" if k.startswith(EVALUATION) else k: v for k, v in logs.items()
            }
            self.folder.append(METRICS, {"step": state.global_step, **named})


class CheckpointCallback(TrainerCallback):
    """Gives a checkpoint its manifest, by which `--resume` tells whether it is whole, and records the seconds so far.

    Then all but the newest `keep` checkpoints go; None keeps all. The Trainer would let the older ones go before, and
    by the clock, which may jump.

    The record's `seconds` are those of training, also of what was done before an interruption.
    """

    def __init__(self, folder: RunFolder, keep: int | None) -> None:
        self.folder = folder
        self.keep = keep

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter() - self.folder.record().get("seconds", 0.0)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # every process has written its own random state
        if state.is_world_process_zero:
            write_manifest(Path(args.output_dir) / f"checkpoint-{state.global_step}", step=state.global_step)
            self._tidy()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._tidy()

    def _tidy(self) -> None:
        if self.keep is not None:
            self.folder.forget_before(self.keep)
        self.folder.update({"seconds": round(time.perf_counter() - self.start, 1)})


class AtBegin(TrainerCallback):
    """Calls `then` with the number of steps done, before the first one of this process: by then all of a checkpoint
    that it goes on from is read."""

    def __init__(self, then: Callable[[int], None]) -> None:
        self.then: Callable[[int], None] | None = then

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.then is not None:
            self.then(state.global_step)
            self.then = None


class DivergenceCallback(TrainerCallback):
    """The divergence on some of the run's queries, before training and after, on completions that stay the same.

    They are the frozen model's, from the contexts that the strategy samples from: what the student gave at first.
    """

    def __init__(self, trainer: RunTrainer, folder: RunFolder, queries: int) -> None:
        self.trainer = trainer
        self.folder = folder
        self.queries = min(queries, len(trainer.mixture))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed run has measured before."""
        if state.global_step == 0:
            self.measure("before")

    def measure(self, when: Literal["before", "after"]) -> None:
        """Measure, and record it; every process must call this."""
        first = self.trainer.is_world_process_zero()
        queries = [self.trainer.mixture.draw(0, position) for position in range(self.queries)]
        with self.trainer.whole(teacher=bool(queries)):
            found = [self.trainer.collector.collect_frozen(queries) if first and queries else []]
            broadcast_object_list(found)
        self.trainer.exchange_completions()
        measured = self.trainer.mean_divergence(found[0])
        if first:
            before = self.folder.record().get("divergence", {})
            self.folder.update({"divergence": {**before, "queries": self.queries, when: measured}})


class ProgressCallback(TrainerCallback):
    """One progress bar with the loss and the languages' divergences."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar = progress(state.max_steps, "training", "step", initial=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None and not control.should_log:  # a logged step is shown with its own loss
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.bar is not None and logs and "loss" in logs:
            parts = [f"loss {logs['loss']:.4f}"]
            parts += [f"{k.partition('/')[2]} {v:.3f}" for k, v in logs.items() if k.startswith("divergence/")]
            self.bar.set_postfix_str(" ".join(parts), refresh=False)
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class RolloutLog:
    """Writes the first few rollouts of each step to rollouts.jsonl. The text is a model's: untrusted."""

    def __init__(self, folder: RunFolder, tokenizer: Any, per_step: int) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.per_step = per_step

    def __call__(self, step: int, rollouts: list[Rollout]) -> None:
        # step is the one being made, from 0; log lines count finished steps, so this one will be step + 1.
        for rollout in rollouts[: self.per_step]:
            self.folder.append(
                ROLLOUTS,
                {
                    "step": step + 1,
                    "query": rollout.query.id,
                    "language": rollout.query.language,
                    "sampled_by": rollout.sampled_by,
                    "truncated": rollout.completion.truncated,
                    "tokens": len(rollout.completion.token_ids),
                    "text": self.tokenizer.decode(list(rollout.completion.token_ids), skip_special_tokens=True),
                },
            )
