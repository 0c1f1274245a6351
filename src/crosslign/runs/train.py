"""A run from its checked configuration to its saved model: gate, training, and what is measured before and after."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from crosslign.distillation import RunTrainer
from crosslign.evaluation.judges.base import release
from crosslign.models import NotFiniteError, load_model
from crosslign.models.forward import attention_of_the_device
from crosslign.runs.arguments import check_processes, has_engine, queries_per_step
from crosslign.runs.build import Distillation, assemble, make_trainer
from crosslign.runs.callbacks import AtBegin, DivergenceCallback
from crosslign.runs.checkpoint_evaluation import forget_evaluations
from crosslign.runs.config import RunConfig
from crosslign.runs.examples import Examples, collect_examples, write_examples
from crosslign.runs.folder import BEST, CONFIG, GATE, RunFolder
from crosslign.runs.gate.gate import Passed, gate
from crosslign.runs.prepare import PreparedRun, describe_provenance, describe_tables, prepare
from crosslign.runs.recipe import dump, parse_config, read_recipe
from crosslign.runs.resume import CHANGE_NO_NUMBER, QUERIES, check_same
from crosslign.runs.sharing.base import base_facts
from crosslign.runs.sharing.card import write_card
from crosslign.runs.sharing.evidence import own_evaluation
from crosslign.runs.sharing.finished import read_finished
from crosslign.runs.summary import write_page
from crosslign.storage import is_disk_full, versions, write_atomically
from crosslign.types import Announce, CrosslignError, Interrupted, silent


def train(run: PreparedRun, announce: Announce = silent, *, again: str | None = None) -> Mapping[str, Any]:
    """Load weights, look at the teacher, train, save. Returns the run's record.

    Raises CrosslignError for what the user can mend (a full disk included); what was saved before stays. `again` says
    how to go on; by default, with which flag of `crosslign train`.
    """
    check_processes(run.arguments)
    begun = False

    def mend() -> str:
        return (again or _how_to_resume(run.folder)) if begun else NOT_BEGUN

    announce = _over_bars(announce) if run.is_main else silent
    with _held(run, announce) as run:
        for note in run.evaluation.notes if run.evaluation is not None else ():
            announce(f"evaluation: {note}")
        announce(f"loading {run.source.path}")
        model = load_model(run.source, stay=has_engine(run.arguments), device=run.arguments.device.type)
        made = assemble(run, model)
        try:
            with attention_of_the_device(made.student), attention_of_the_device(made.teacher.model):
                run, passed = gate(run, made, announce)
                run, examples = collect_examples(run, made, announce)
            release(run.gate_judge)
            begun = True
            return _train(run, made, passed, examples, announce)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted. {mend()}") from None
        except NotFiniteError as error:
            keys = " Keys of training may change then; other changes need a new run." if begun and not again else ""
            raise CrosslignError(f"{error} {mend()}{keys}") from error
        except Exception as error:
            if is_disk_full(error):
                raise CrosslignError(f"the disk is full: {error}. Free some space. {mend()}") from error
            raise
        finally:
            made.close(announce)


def train_or_go_on(config: RunConfig, announce: Announce = silent, *, overwrite: bool = False) -> RunFolder:
    """Train by this recipe, or go on with what an earlier call has left of it; a finished run stays as it is.

    Raises CrosslignError, besides what `train` raises, for a finished run by another recipe or on other data, unless it
    may be overwritten.
    """
    folder, run = RunFolder(config.output_dir), prepare(config, overwrite=True)
    status, same = folder.record().get("status"), _is_same(run)
    if status == "finished" and same:
        return folder
    if status == "finished":
        folder.check(overwrite=overwrite, resume=False)
    resume = status == "running" and same and _can_go_on(folder, announce)
    run = dataclasses.replace(run, overwrite=not resume, resume=resume)
    if resume:
        run.arguments.eval_on_start = False
    train(run, announce, again=SAME_COMMAND)
    return folder


def _is_same(run: PreparedRun) -> bool:
    """Whether the folder's run has this recipe, but for keys that change no number, and these data."""
    place = run.folder.path / CONFIG
    try:
        before = parse_config(read_recipe(place), str(place))
    except CrosslignError:
        return False
    recipe, record = run.config.model_dump(exclude=CHANGE_NO_NUMBER), run.folder.record()
    given = record.get("given", record.get("data"))  # older records have the second alone
    return before.model_dump(exclude=CHANGE_NO_NUMBER) == recipe and given == run.given


def _can_go_on(folder: RunFolder, announce: Announce) -> bool:
    if not folder.checkpoints():
        return False
    try:
        folder.newest_checkpoint()
    except CrosslignError as error:
        announce(f"{error} It starts anew.")
        return False
    return True


@contextmanager
def _held(run: PreparedRun, announce: Announce) -> Iterator[PreparedRun]:
    """The run with its folder locked, and with the checkpoint that it resumes from.

    The first process looks and tells the others, so that all go on, or all stop with the same CrosslignError.
    """
    with ExitStack() as stack:
        found: list[Any] = [None]
        if run.is_main:
            try:
                stack.enter_context(run.folder.lock())
                run.folder.check(overwrite=run.overwrite, resume=run.resume)  # again: others may have been here since
                found = [run.folder.newest_checkpoint(announce) if run.resume else None]
            except CrosslignError as error:
                found = [error]
        broadcast_object_list(found)
        if isinstance(found[0], CrosslignError):
            raise found[0]
        yield dataclasses.replace(run, checkpoint=found[0])


def _train(
    run: PreparedRun, made: Distillation, passed: Passed | None, examples: Examples, announce: Announce
) -> Mapping[str, Any]:
    trainer = make_trainer(run, made, announce, examples.by_key)
    divergence = DivergenceCallback(trainer, run.folder, run.config.divergence_queries)
    trainer.add_callback(divergence)
    if run.is_main and run.checkpoint is not None:
        trainer.add_callback(AtBegin(partial(_note_changes, run)))
    if run.is_main:
        _start(run, made, passed, examples, announce)
    trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    divergence.measure("after")
    trainer.save_through(run.folder.publish)
    if run.is_main:
        cache = made.collector.teacher.cache
        run.folder.update(
            {
                "status": "finished",
                "steps": trainer.state.global_step,
                "final_loss": _last_loss(trainer),
                "cache": {"hits": cache.hits, "misses": cache.misses},
            }
        )
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # a process that ended by itself would be reported as one that failed
    if not run.is_main:
        return {}
    if run.evaluation is not None:
        write_page(run.folder.path)
    _write_cards(run.folder, announce)
    return run.folder.record()


def _write_cards(folder: RunFolder, announce: Announce) -> None:
    """The model cards of the run and of its best checkpoint. The run is finished, whatever becomes of them."""
    for place in (folder.path, folder.path / BEST):
        try:
            if place.is_dir():
                run = read_finished(place)
                write_card(run, own_evaluation(run))
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted. The run is finished; its model card is not: crosslign card {place} writes it."
            ) from None
        except (CrosslignError, OSError) as error:
            announce(f"{place}: no model card was written: {error}")


def _start(run: PreparedRun, made: Distillation, passed: Passed | None, examples: Examples, announce: Announce) -> None:
    """Open the run's folder: a new record, or the one that a resumed run goes on with."""
    record = {
        "model": run.source.path,
        "base": base_facts(run.source).model_dump(),
        "finetuning": run.config.model.finetuning,
        "method": run.config.method.model_dump(mode="json") | dict(examples.record),
        "languages": run.languages,
        "teacher_fingerprint": made.teacher.fingerprint,
        QUERIES: queries_per_step(run.arguments),
        "given": run.given,
        "data": describe_tables(run.tables),
        "provenance": describe_provenance(run.tables),
        "dropped": [
            {"query": o.query.id, "language": o.query.language, "context": o.role, "tokens": o.length}
            for o in run.dropped
        ],
        "versions": versions(),
        **({"gate": dict(passed.record)} if passed is not None else {}),
    }
    if run.checkpoint is None:
        run.folder.start(record, dump(run.config), overwrite=run.overwrite)
        for row in passed.rows if passed is not None else ():
            run.folder.append(GATE, row)
        write_examples(run.folder, examples)
        return
    for key, what in (("teacher_fingerprint", "the model's weights"), ("data", "the data")):
        check_same(run.folder, key, what, record[key])
    announce(f"resuming from {run.checkpoint}")
    step = int(run.checkpoint.name.rpartition("-")[2])
    run.folder.forget_after(step)
    forget_evaluations(run.folder, step)


def _note_changes(run: PreparedRun, step: int) -> None:
    """A resumed run may have other `training` numbers from here on: config.yaml has the newest, run.json tells when."""
    place = run.folder.path / CONFIG
    before, now = parse_config(read_recipe(place), str(place)).training, run.config.training
    changed = {key: [before.get(key), now.get(key)] for key in {**before, **now} if before.get(key) != now.get(key)}
    entry = {"step": step, "training": changed, "versions": versions()}
    run.folder.update({"resumed": [*run.folder.record().get("resumed", []), entry]})
    write_atomically(place, dump(run.config))


def _last_loss(trainer: RunTrainer) -> float | None:
    return next((entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry), None)


NOT_BEGUN = "Training had not begun: the same command starts again, and what was sampled is kept in the cache."
SAME_COMMAND = (
    "What was made so far is kept. The same command goes on from there; with other settings, add --overwrite."
)


def _how_to_resume(folder: RunFolder) -> str:
    checkpoints = folder.checkpoints()
    if not checkpoints:
        return "No checkpoint was complete yet; start anew with --overwrite (or set training.save_steps lower)."
    return f"The last complete checkpoint is {checkpoints[-1]}; continue with --resume."


def _over_bars(announce: Announce) -> Announce:
    """`announce`, without breaking a progress bar's line."""

    def say(text: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            announce(text)

    return say
