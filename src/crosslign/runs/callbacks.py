"""Callbacks: log files, progress on a terminal, and the check that the teacher stays frozen."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from crosslign.models import FrozenTeacher
from crosslign.runs.folder import METRICS, ROLLOUTS, RunFolder
from crosslign.types import Rollout


class FrozenTeacherCallback(TrainerCallback):
    """Checks the teacher's fingerprint before every save and at the end: no checkpoint of a moved teacher is kept."""

    def __init__(self, teacher: FrozenTeacher) -> None:
        self.teacher = teacher

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:
            self.teacher.check()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.teacher.check()


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


class ProgressCallback(TrainerCallback):
    """One progress bar with the loss and the languages' divergences; silent where standard error is no terminal."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", disable=None, file=sys.stderr
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.bar is not None and logs and "loss" in logs:
            parts = [f"loss {logs['loss']:.4f}"]
            parts += [f"{k.partition('/')[2]} {v:.3f}" for k, v in logs.items() if k.startswith("divergence/")]
            self.bar.set_postfix_str(" ".join(parts))

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
