"""Evaluation while training: tasks every few steps, with the model in memory, and the best checkpoint.

`make_plan` checks everything that needs no weights. `CheckpointEvaluator` is what the trainer calls: it completes the
tasks, judges and counts with the code of any evaluation (`evaluation.stages`), writes `evaluations/step-N/` and keeps
the best model in `best/`. It leaves the model, its modes and every random state as they were, so that a run with
evaluations has the same trajectory as one without.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from crosslign.contexts import ContextBuilder
from crosslign.evaluation.best import Candidate, Criterion, best_of, candidate, objection
from crosslign.evaluation.completions import SamplerCompleter, check_contexts
from crosslign.evaluation.judges.base import Judge
from crosslign.evaluation.rates import MIN_JUDGED
from crosslign.evaluation.stages import Evaluation, counted_tasks
from crosslign.evaluation.stages import run as run_stages
from crosslign.evaluation.tasks import TaskData
from crosslign.evaluation.training_log import scalars, sentence, summary
from crosslign.models import evaluating
from crosslign.ownership import check_no_link
from crosslign.rollouts import Sampler
from crosslign.runs.config import CheckpointEvaluationConfig
from crosslign.runs.evaluate import checked_judges, checked_tasks, manifest, sampling_parameters
from crosslign.runs.folder import BEST, BEST_RECORD, EVALUATIONS, RunFolder
from crosslign.storage import publish_folder, restore_folder, write_atomically
from crosslign.types import Announce, CrosslignError, Query, silent


@dataclass(frozen=True)
class Plan:
    """A checked evaluation: the recipe's section, its tasks' queries and its judges.

    `notes` are lines for a person: what the tasks say, and which of their queries are trained on.
    """

    config: CheckpointEvaluationConfig
    tasks: tuple[TaskData, ...]
    judges: tuple[Judge, ...]
    notes: tuple[str, ...] = ()


def make_plan(
    config: CheckpointEvaluationConfig,
    contexts: ContextBuilder,
    *,
    languages: Sequence[str],
    source_language: str,
    tested: Sequence[str] = (),
    trained_on: Sequence[Query] = (),
) -> Plan:
    """Load the tasks' queries and check them, the judges, and what the best checkpoint needs.

    `contexts` makes the student's contexts, whose lengths are checked; `languages` are evaluated if the section names
    none; `tested` are names of the model that is trained, which cannot be its own judge; `trained_on` are the run's own
    queries, and a task that asks them too is noted.

    Raises CrosslignError for an unknown task or judge, a language that a task lacks, a query that is too long or speaks
    for another role, or a limit of `best` that these tasks cannot show.
    """
    judges = checked_judges(config.judge, "evaluation.judge", tested=tested)
    tasks = checked_tasks(
        config, "evaluation", languages=config.languages or languages, source_language=source_language
    )
    check_contexts(
        (query for data in tasks for query in data.queries),
        contexts.check_student,
        "Raise student.max_length, or evaluate others (evaluation.tasks).",
    )
    if config.best is not None:
        _check_best(tasks, Criterion(**config.best.model_dump()))
    notes = [f"{data.name}: {note}" for data in tasks for note in data.notes]
    ids = {query.id for query in trained_on}
    texts = {text for query in trained_on for text in (query.text, query.source_text)}
    for data in tasks:
        by_text = {query.key for query in data.queries if not texts.isdisjoint((query.text, query.source_text))}
        by_id = {query.key for query in data.queries if query.id in ids}
        if by_text or by_id:
            notes.append(
                f"{data.name}: {len(by_text | by_id)} of its {len(data.queries)} queries are training rows "
                f"({len(by_text)} by a text, in whatever language, {len(by_id)} by their id): their rates say how well "
                "they were learnt, not how the model answers new ones. Hold others back (evaluation.skip)."
            )
    return Plan(config, tuple(tasks), tuple(judges), tuple(notes))


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
    asked = {code for part in made if part.kind == "harmful" for code in part.data.languages}
    if unknown := sorted(best.max_asr.keys() - asked):
        raise CrosslignError(
            f"evaluation.best.max_asr: no harmful task is asked in {', '.join(unknown)}, only in "
            f"{', '.join(sorted(asked))}."
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
    """Inside the block the model is in evaluation mode and nothing is recorded for gradients; after it every random
    state, and the training mode of every part of the model, is what it was before."""
    python, numbers, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.no_grad(), evaluating(model):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@dataclass
class CheckpointEvaluator:
    """Evaluates the model of a run at a step, records what it found, and keeps the best; on the first process only.

    Fields:
        model: the student, from which `sampler` samples where no server does.
        described: what results state of the model, but for the step.
        trained: languages that the run trains on.
        thinking: whether the student's context lets a thinking model think.
    """

    plan: Plan
    folder: RunFolder
    model: torch.nn.Module
    sampler: Sampler
    contexts: ContextBuilder
    described: Mapping[str, Any]
    trained: Sequence[str] = ()
    source_language: str = "en"
    thinking: bool = False
    seed: int = 0
    announce: Announce = silent

    def __call__(self, step: int, student: Sampler | None = None) -> tuple[dict[str, float], dict[str, Any] | None]:
        """The log line, `eval_TASK/METRIC/LANGUAGE` in %, which trackers show as `eval/TASK/...`; and what is to be
        kept with this model if it is the best so far, else None. `student` samples in place of `sampler`.

        What an earlier attempt at this step, or a later one, has recorded is replaced.
        """
        started = time.perf_counter()
        place = self.folder.path / EVALUATIONS / f"step-{step}"
        check_no_link(place)
        # Completions of an interrupted attempt are those of other weights, unless training is exact to the bit.
        shutil.rmtree(place, ignore_errors=True)
        config = self.plan.config
        described = {**self.described, "step": step}
        stated = manifest(config, described, thinking=self.thinking, seed=self.seed)
        with undisturbed(self.model):
            evaluation = Evaluation(
                place, self.plan.tasks, self.plan.judges, stated, self.trained, self.source_language, self.seed
            )
            completer = SamplerCompleter(
                lambda: student or self.sampler,
                self.contexts,
                sampling_parameters(config),
                described,
                batch_size=config.batch_size,
                seed=self.seed,
            )
            results = run_stages(evaluation, completer)
            seconds = round(time.perf_counter() - started, 2)
            entry = {"step": step, "folder": f"{EVALUATIONS}/{place.name}", "seconds": seconds, **summary(results)}
            logs = scalars(results)
            best, kept = None, None
            if config.best is not None:
                criterion = Criterion(**config.best.model_dump())
                new = candidate(step, results, criterion)
                entry["best"] = {**dataclasses.asdict(new), "objection": objection(new, criterion)}
                if new.value is not None:
                    logs[criterion.metric] = new.value
                best = best_of([c for c in (read_best(self.folder), new) if c is not None], criterion)
                if best is new:
                    kept = {"metric": criterion.metric, **dataclasses.asdict(new), "tasks": entry["tasks"]}
        before = [e for e in self.folder.record().get("evaluations", []) if e["step"] < step]
        self.folder.update({"evaluations": [*before, entry]})
        if config.best is not None and kept is None:
            self._record_best(best)
        self.announce(f"step {step}: {sentence(entry)}.{' Kept as the best so far.' if kept else ''}")
        return {f"eval_{name}": value for name, value in {**logs, "seconds": seconds}.items()}, kept

    def keep(self, kept: Mapping[str, Any], save: Callable[[str], None]) -> None:
        """Replace `best/`; `save` writes model and tokenizer into a folder."""

        def fill(folder: str) -> None:
            save(folder)
            write_atomically(Path(folder) / BEST_RECORD, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")

        publish_folder(self.folder.path / BEST, fill)
        self._record_best(read_best(self.folder))

    def _record_best(self, best: Candidate | None) -> None:
        if best is not None and self.plan.config.best is not None:
            named = {"folder": BEST, "metric": self.plan.config.best.metric, **dataclasses.asdict(best)}
            self.folder.update({"best": named})
        else:
            self.folder.update({"best": None})


def read_best(folder: RunFolder) -> Candidate | None:
    """The best checkpoint so far; None if there is none."""
    restore_folder(folder.path / BEST)
    try:
        kept = json.loads((folder.path / BEST / BEST_RECORD).read_text(encoding="utf-8"))
        return Candidate(**{f.name: kept[f.name] for f in dataclasses.fields(Candidate)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_evaluations(folder: RunFolder, step: int) -> None:
    """Drop evaluations after `step`, and the best checkpoint if it is later: a resumed run makes these steps once more,
    and its weights need not be the same."""
    evaluations = folder.record().get("evaluations", [])
    for entry in evaluations:
        if entry["step"] > step:
            shutil.rmtree(folder.path / EVALUATIONS / f"step-{entry['step']}", ignore_errors=True)
    if any(entry["step"] > step for entry in evaluations):
        folder.update({"evaluations": [entry for entry in evaluations if entry["step"] <= step]})
    best = read_best(folder)
    if best is not None and best.step > step:
        shutil.rmtree(folder.path / BEST)
        folder.update({"best": None})


class EvaluationSchedule(TrainerCallback):
    """Says when the trainer evaluates: every so many optimiser steps, and at the last one.

    The evaluation comes after the step's log line and before its checkpoint, so that a resumed run knows of it.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = self.every_steps > 0 and state.global_step % self.every_steps == 0
        if due or state.global_step >= state.max_steps or control.should_training_stop:
            control.should_evaluate = True
