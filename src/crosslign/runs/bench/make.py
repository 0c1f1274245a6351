"""Cells one after the other, by what `crosslign train`, `steer` and `eval` do; each goes on where it stopped."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from crosslign.models import ModelSource, free_memory
from crosslign.ownership import check_no_link, check_output_folder, read_mark
from crosslign.runs.bench.cells import DIRECTION, ERROR, EVALUATION, MEASURED, RUN, Cell
from crosslign.runs.bench.config import BenchConfig, UntrainedMethod, asks
from crosslign.runs.evaluate import EvaluationRequest, evaluate
from crosslign.runs.prepare import model_source
from crosslign.runs.sharing.finished import read_finished
from crosslign.runs.steer import SteerRequest, steer
from crosslign.runs.train import SAME_COMMAND, train_or_go_on
from crosslign.storage import LOCK, digest, locked, versions, write_atomically
from crosslign.types import Announce, CrosslignError, Interrupted, cause, silent

MARK = "bench.json"
ASKS = ("tasks", "languages", "trained", "judge", "skip", "limit", "temperature", "top_p", "max_completion_length")


def check_out(bench: BenchConfig, *, overwrite: bool = False) -> None:
    """Raise CrosslignError if `out` holds something else, or, without `overwrite`, a bench that asks other things.
    Changes nothing."""
    out = Path(bench.out)
    found = read_mark(out / MARK)
    check_output_folder(out, "bench", found.get("kind") == "bench", "out")
    before = found.get("asks")
    if isinstance(before, dict):
        now = _asks(bench)
        different = [key for key in ASKS if before.get(key) != now[key]]
        if different and not overwrite:
            raise CrosslignError(
                f"out: {out} holds another bench: {', '.join(different)} differ. Its cells cannot stand in one table "
                "with this file's. Choose another out, or measure what was trained anew with --overwrite."
            )


def open_out(bench: BenchConfig, *, overwrite: bool = False) -> None:
    """`check_out`, and the mark that makes the folder ours."""
    check_out(bench, overwrite=overwrite)
    mark = {"kind": "bench", "schema_version": 1, "asks": _asks(bench), "versions": versions()}
    write_atomically(Path(bench.out) / MARK, json.dumps(mark, indent=1) + "\n")


def _asks(bench: BenchConfig) -> dict[str, str]:
    raw = asks(bench)
    return {key: digest(raw[key]) for key in ASKS}


def make_cells(cells: Sequence[Cell], announce: Announce = silent, *, overwrite: bool = False) -> Counter[str]:
    """Make those that are not finished. Returns how many were made, were there, are made elsewhere, and failed.

    One that fails is recorded with its error, and the others are made. Raises Interrupted when the user stops it.
    """
    counts: Counter[str] = Counter()
    for number, cell in enumerate(cells, start=1):
        head = f"[{number}/{len(cells)}] {cell.name}"
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(cell.folder / LOCK))
            except CrosslignError as error:
                announce(f"{head}: left out: {error}")
                counts["elsewhere"] += 1
                continue
            counts[_made(cell, head, announce, overwrite)] += 1
    return counts


def _made(cell: Cell, head: str, announce: Announce, overwrite: bool) -> str:
    different = bool(cell.differences())
    if cell.state() == "finished" and not different:
        announce(f"{head}: is there")
        return "there"
    if different:
        if not overwrite:
            raise CrosslignError(other_settings(cell))
        _clear(cell)
    announce(f"{head}: begins")
    cell.update(
        model=cell.model,
        method=cell.method,
        seed=cell.seed,
        settings=cell.settings(),
        status="running",
        device=_device(),
        error=None,
    )
    try:
        _make(cell, announce)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(f"interrupted. {SAME_COMMAND}") from None
    except Exception as error:  # whatever a library, or a user's own method, raises: the other cells are not to blame
        what = str(error) if isinstance(error, CrosslignError) else cause(error)
        write_atomically(cell.folder / ERROR, traceback.format_exc())
        cell.update(status="failed", error=what)
        announce(f"{head}: failed: {what} ({cell.folder / ERROR})")
        return "failed"
    finally:
        free_memory()
    (cell.folder / ERROR).unlink(missing_ok=True)
    cell.update(status="finished")
    return "made"


def other_settings(cell: Cell) -> str:
    return (
        f"{cell.folder}: was made with other settings ({', '.join(cell.differences())} differ). Use --overwrite to "
        "make such cells anew (what was trained stays if only what is measured differs), or another out."
    )


def _clear(cell: Cell) -> None:
    """Remove what was made with other settings: nothing of it may be taken for what is made now. Where other things are
    measured, what was trained stays."""
    trained = () if {*cell.differences()} <= {*MEASURED} else (RUN, DIRECTION)
    parts = [cell.folder / name for name in (*trained, EVALUATION)]
    check_no_link(*parts)
    for part in parts:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def _make(cell: Cell, announce: Announce) -> None:
    source, adapter, direction = model_source(cell.config), None, None
    if cell.untrained is None:
        with _timed(cell, "training"):
            place = train_or_go_on(cell.config, announce).kept
        run = read_finished(place)
        adapter = run.adapter
        if not run.is_adapter:
            source = replace(source, path=str(place), revision=None, tokenizer=None)
    without = cell.untrained or UntrainedMethod()
    if without.steer is not None:
        direction = cell.folder / DIRECTION
        request = SteerRequest(direction, without.steer.queries, without.steer.layer, overwrite=direction.exists())
        with _timed(cell, "training"):
            steer(cell.config, request, announce)
    with _timed(cell, "evaluating"):
        _evaluate(cell, source, adapter, direction, announce)


def _evaluate(cell: Cell, source: ModelSource, adapter: str | None, direction: Path | None, announce: Announce) -> None:
    config, without = cell.config, cell.untrained or UntrainedMethod()
    longest = config.teacher.max_length if without.context == "teacher" else config.student.max_length
    request = EvaluationRequest(
        cell.evaluation,
        source,
        cell.folder / EVALUATION,
        adapter,
        source_language=cell.source_language,
        max_length=longest,
        thinking=bool(config.student.chat_template_kwargs.get("enable_thinking")),
        seed=cell.seed,
        trained=cell.trained,
        utility=cell.utility,
        context=without.context,
        template=without.template,
        max_judgement_length=without.max_judgement_length,
        steer=direction,
        steer_scale=1.0 if without.steer is None else without.steer.scale,
    )
    evaluate(request, announce)


@contextmanager
def _timed(cell: Cell, what: str) -> Iterator[None]:
    """Seconds of this part of the cell, over interruptions and failures too, in its record."""
    start, before = time.perf_counter(), cell.seconds()
    try:
        yield
    finally:
        seconds = before.get(what, 0.0) + time.perf_counter() - start
        cell.update(seconds={**before, what: round(seconds, 1)})


def _device() -> str:
    """What the hours are hours of."""
    if torch.cuda.is_available():
        return f"GPU {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads != 1)}"
