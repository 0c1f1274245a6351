"""Evaluation during training: tasks every few steps, with the model in memory, and the best checkpoint.

`make_plan` checks everything that needs no weights. `Watch` is what the trainer calls: it completes the tasks greedily,
judges and counts with the code of an evaluation of its own (`evaluation.stages`), writes `evaluations/step-N/` and
keeps the best model in `best/`. It leaves the model, its modes and every random state as they were, so that a run with
evaluations has the same trajectory as one without.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.evaluation.best import Candidate, Criterion, best_of, candidate, objection
from crosslign.evaluation.rates import MIN_JUDGED
from crosslign.evaluation.training_log import scalars, sentence, summary
from crosslign.evaluation.completions import SamplerCompleter
from crosslign.evaluation.judges.base import Judge
from crosslign.evaluation.judges.specs import JudgeSettings, make_judges
from crosslign.evaluation.stages import Evaluation, counted_tasks
from crosslign.evaluation.stages import run as evaluate
from crosslign.evaluation.tasks import TaskData, get_task
from crosslign.storage import write_atomically
from crosslign.rollouts import Sampler, SamplingParameters
from crosslign.distillation import DistillationTrainer
from crosslign.runs.folder import BEST, EVALUATIONS, RunFolder
from crosslign.types import CrosslignError, Query

BEST_RECORD = "best.json"

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A checked evaluation. The recipe's section `evaluation` says what the fields mean."""

    tasks: tuple[TaskData, ...]
    judge: Judge
    languages: tuple[str, ...]
    every_steps: int = 0
    at_start: bool = True
    max_completion_length: int = 128
    batch_size: int = 16
    best: Criterion | None = None
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> SamplingParameters:
        """Greedy."""
        return SamplingParameters(temperature=0, max_completion_length=self.max_completion_length)


def make_plan(
    tasks: Sequence[str],
    judge: str,
    languages: Sequence[str],
    contexts: ContextBuilder,
    *,
    limit: int | None,
    source_language: str,
    judge_url: str | None = None,
    tested: Sequence[str] = (),
    trained_on: Sequence[Query] = (),
    best: Criterion | None = None,
    **settings: Any,
) -> Plan:
    """Load the tasks' queries and check them, the judge, and what the best checkpoint needs.

    `contexts` makes the student's contexts, whose lengths are checked; `tested` are names of the model that is trained,
    which cannot be its own judge; `trained_on` are the run's own queries, and a task that asks them too is noted.
    `settings`: the other fields of `Plan`.

    Raises CrosslignError for an unknown task or judge, a language that a task lacks, a query that is too long or speaks
    for another role, or a limit of `best` that these tasks cannot show.
    """
    if judge.startswith("llm:") and judge_url is None:
        raise CrosslignError(f"evaluation.judge: {judge} needs evaluation.judge_url, such as http://localhost:8000/v1.")
    try:
        (made,) = make_judges([judge], JudgeSettings(url=judge_url), tested=tested)
    except CrosslignError as error:
        raise CrosslignError(f"evaluation.judge: {error}") from error
    loaded = []
    for name in tasks:
        try:
            loaded.append(get_task(name).load(languages, limit=limit, source_language=source_language))
        except CrosslignError as error:
            raise CrosslignError(f"evaluation: {error}") from error
    for query in (query for data in loaded for query in data.queries):
        contexts.check_text(query)
        try:
            contexts.student(query)
        except ContextOverflow as overflow:
            raise CrosslignError(
                f"evaluation: query {query.id!r} ({query.language}): its context has {overflow.length} tokens, the "
                f"limit is {overflow.limit}. Raise student.max_length, or evaluate other tasks."
            ) from overflow
    if best is not None:
        _check_best(loaded, best)
    notes = [f"{data.name}: {note}" for data in loaded for note in data.notes]
    known = {query.text for query in trained_on}
    for data in loaded:
        seen = sum(query.text in known for query in data.queries)
        if seen:
            notes.append(
                f"{data.name}: {seen} of its {len(data.queries)} queries are training queries: their rates say how "
                "well they were learnt, not how the model answers new ones."
            )
    return Plan(tuple(loaded), made, tuple(languages), best=best, notes=tuple(notes), **settings)


def _check_best(tasks: Sequence[TaskData], best: Criterion) -> None:
    made = counted_tasks(tasks)
    kinds = {part.kind for part in made}
    if "harmful" not in kinds:
        raise CrosslignError(
            "evaluation.best: needs a harmful task, whose attack success rate it compares. Add one to "
            "evaluation.tasks, or set evaluation.best: null."
        )
    if best.max_over_refusal is not None and "benign" not in kinds:
        raise CrosslignError(
            "evaluation.best.max_over_refusal: no task has benign queries, so over-refusal is not measured. Add one to "
            "evaluation.tasks, or set evaluation.best.max_over_refusal: null."
        )
    for part in made:
        for code in part.data.languages if part.kind == "harmful" else ():
            count = sum(key.rpartition("|")[2] == code for key in part.keys)
            if count < MIN_JUDGED:
                raise CrosslignError(
                    f"evaluation.best: {part.name} has {count} harmful rows in {code}; a rate needs {MIN_JUDGED}. "
                    "Raise evaluation.limit, leave the language out of evaluation.languages, or set "
                    "evaluation.best: null."
                )


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block nothing is recorded for gradients; after it every random state, and the training mode of every
    part of the model, is what it was before."""
    modes = [(module, module.training) for module in model.modules()]
    python, numbers, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@dataclass
class Watch:
    """Evaluates the model of a run at a step, records what it found, and keeps the best; on the first process only.

    Fields:
        model: the student.
        save: writes model and tokenizer into a folder.
        manifest: what results state about the model, at a step.
    """

    plan: Plan
    folder: RunFolder
    sampler: Sampler
    contexts: ContextBuilder
    model: Callable[[], Any]
    save: Callable[[str], None]
    manifest: Callable[[int], Mapping[str, Any]]
    trained: Sequence[str] = ()
    source_language: str = "en"
    seed: int = 0
    announce: Announce = field(default=lambda text: None)

    def __call__(self, step: int) -> dict[str, float]:
        """Returns the log line: `eval_TASK/METRIC/LANGUAGE` in %, which trackers show as `eval/TASK/...`.

        What an earlier attempt at this step, or a later one, has recorded is replaced.
        """
        started = time.perf_counter()
        place = self.folder.path / EVALUATIONS / f"step-{step}"
        # Completions of an interrupted attempt are those of other weights, unless training is exact to the bit.
        shutil.rmtree(place, ignore_errors=True)
        with undisturbed(self.model()):
            results = evaluate(self._evaluation(place, step), self._completer(step))
            seconds = round(time.perf_counter() - started, 2)
            entry = {"step": step, "folder": f"{EVALUATIONS}/{place.name}", "seconds": seconds, **summary(results)}
            logs = scalars(results)
            changes: dict[str, Any] = {}
            if self.plan.best is not None:
                changes = self._keep_best(candidate(step, results, self.plan.best), entry, logs)
        before = [e for e in self.folder.record().get("evaluations", []) if e["step"] < step]
        self.folder.update({"evaluations": [*before, entry], **changes})
        kept = " Kept as the best so far." if changes.get("best", {}) and changes["best"]["step"] == step else ""
        self.announce(f"step {step}: {sentence(entry)}.{kept}")
        return {f"eval_{name}": value for name, value in {**logs, "seconds": seconds}.items()}

    def _evaluation(self, place: Path, step: int) -> Evaluation:
        plan = self.plan
        return Evaluation(
            place,
            plan.tasks,
            [plan.judge],
            {**self.manifest(step), "step": step},
            self.trained,
            self.source_language,
            self.seed,
        )

    def _completer(self, step: int) -> SamplerCompleter:
        identity = {**self.manifest(step), "step": step}
        return SamplerCompleter(
            self.sampler, self.contexts, self.plan.parameters, identity, batch_size=self.plan.batch_size, seed=self.seed
        )

    def _keep_best(self, new: Candidate, entry: dict[str, Any], logs: dict[str, float]) -> dict[str, Any]:
        """Replace `best/` if the new one is better. Adds to the record's entry and the log line; returns what the
        record says of the best."""
        criterion = self.plan.best
        assert criterion is not None
        entry["best"] = {**dataclasses.asdict(new), "objection": objection(new, criterion)}
        if new.value is not None:
            logs[criterion.metric] = new.value
        old = read_best(self.folder)
        best = best_of([c for c in (old, new) if c is not None], criterion)
        if best is new:
            kept = {"metric": criterion.metric, **dataclasses.asdict(new), "tasks": entry["tasks"]}

            def fill(folder: str) -> None:
                self.save(folder)
                write_atomically(Path(folder) / BEST_RECORD, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")

            self.folder.publish_folder(BEST, fill)
        if best is None:
            return {"best": None}
        return {"best": {"folder": BEST, "metric": criterion.metric, **dataclasses.asdict(best)}}


def read_best(folder: RunFolder) -> Candidate | None:
    """The best checkpoint so far; None if there is none."""
    folder.restore_folder(BEST)
    try:
        kept = json.loads((folder.path / BEST / BEST_RECORD).read_text(encoding="utf-8"))
        return Candidate(**{f.name: kept[f.name] for f in dataclasses.fields(Candidate)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


class EvaluationSchedule(TrainerCallback):
    """Says when the trainer evaluates: at the start, every so many optimiser steps, and at the end.

    The evaluation itself is the trainer's `evaluate`: after the step's log line and before its checkpoint, so that a
    resumed run knows of it.
    """

    def __init__(self, plan: Plan, trainer: Callable[[], DistillationTrainer]) -> None:
        self.plan = plan
        self.trainer = trainer
        self.last: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A resumed run has done it before its first checkpoint.
        if self.plan.at_start and state.global_step == 0:
            self.trainer().evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self.plan.every_steps
        due = every > 0 and state.global_step % every == 0
        if due or state.global_step >= state.max_steps or control.should_training_stop:
            control.should_evaluate = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Where another callback has stopped the run after its step; or it was resumed after its last one.
        logged = any(row["step"] == state.global_step and "eval_seconds" in row for row in state.log_history)
        if self.last != state.global_step and not logged:
            self.trainer().evaluate()


def say_over_bar(announce: Announce) -> Announce:
    """`announce`, without breaking a progress bar's line."""

    def say(text: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            announce(text)

    return say
