"""What the finished cells of a model have answered, as arrays: queries x seeds x (task and language)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from crosslign.evaluation.folder import Finished, read_folder
from crosslign.evaluation.rates import METRICS, JudgedRow, Kind
from crosslign.evaluation.stages import ANSWERS
from crosslign.evaluation.stats import Array
from crosslign.runs.bench.cells import EVALUATION, Cell, titles_of
from crosslign.runs.bench.config import BenchConfig
from crosslign.storage import read_rows
from crosslign.types import Announce, CrosslignError, Outcome, silent

What = Literal["harmful", "benign", "utility"]
ANSWERED: tuple[Outcome, ...] = ("safe_complied", "refused_then_answered")


@dataclass(frozen=True, slots=True)
class Column:
    """A task, by its title, in one language."""

    what: What
    task: str
    language: str
    harder: bool = False


@dataclass(frozen=True)
class Block:
    """All outcomes of one kind: of harmful queries, of benign ones, or of utility's questions.

    Fields:
        seeds: of each method, those of its finished cells.
        once: methods of one cell: its answers stand beside those of every seed of another method.
        values: metric -> method -> `[queries, seeds, columns]`, 0, 1 or NaN.
    """

    columns: tuple[Column, ...]
    seeds: Mapping[str, tuple[int, ...]]
    once: frozenset[str]
    values: Mapping[str, Mapping[str, Array]]


Event = Callable[[JudgedRow], bool | None]


def _answered(row: JudgedRow) -> bool | None:
    return None if row.verdict.outcome is None else row.verdict.outcome in ANSWERED


EVENTS: Mapping[Kind, Mapping[str, Event]] = {
    "harmful": {name: METRICS["harmful"][name] for name in ("asr", "asr_strict", "invalid", "fidelity")},
    "benign": {**{name: METRICS["benign"][name] for name in ("over_refusal", "invalid", "fidelity")},
               "answered": _answered},
}  # fmt: skip
Answers = dict[tuple[Column, Any], dict[str, bool | None]]  # by column and query -> metric -> what happened


def read_blocks(bench: BenchConfig, cells: Sequence[Cell], announce: Announce = silent) -> dict[What, Block]:
    """The outcomes of the finished ones of one model's cells; kinds that were not measured are left out.

    Raises CrosslignError if cells were judged by different judges, or asked different queries.
    """
    read: dict[tuple[str, int], Answers] = {}
    first: dict[str, tuple[Cell, Any]] = {}
    for cell in cells:
        if not cell.is_ready():
            continue
        finished = read_folder(cell.folder / EVALUATION)
        for note in finished.notes:
            announce(note)
        _check_alike(cell, finished, first)
        read[cell.method, cell.seed] = {**_judged(bench, cell, finished), **_utility(cell)}
    planned = Counter(cell.method for cell in cells)
    once = frozenset(method for method, number in planned.items() if number == 1)
    blocks = {what: _block(what, read, once) for what in get_args(What)}
    return {what: block for what, block in blocks.items() if block is not None}


def _check_alike(cell: Cell, finished: Finished, first: dict[str, tuple[Cell, Any]]) -> None:
    """Of cells that ask the same tasks, judges and queries are the same."""
    manifest = finished.results["manifest"]
    names = [task.name for task in cell.evaluation.tasks]
    parts = {f"judges of {', '.join(names)}": manifest["judges"]}
    parts |= {f"queries of {name}": manifest["tasks"].get(name, {}).get("sha256") for name in names}
    for what, part in parts.items():
        other, seen = first.setdefault(what, (cell, part))
        if seen != part:
            raise CrosslignError(
                f"{cell.folder} and {other.folder}: their {what} differ, so they cannot stand in one table. Delete the "
                f"folder {EVALUATION} of the older one, and make its cell again."
            )


def _judged(bench: BenchConfig, cell: Cell, finished: Finished) -> Answers:
    """Queries are known by task, id and source text: those of two seeds' worlds are not the same."""
    found: Answers = {}
    for name, (title, harder) in titles_of(bench, cell).items():
        for kind in get_args(Kind):
            rows = finished.tasks.get(name, {}) or finished.tasks.get(f"{name} {kind}", {})
            for row in rows.values():
                query = row.query
                if query.label == kind:
                    column = Column(kind, title, query.language, harder)
                    key = (column, (title, query.id, query.source_text))
                    found[key] = {metric: event(row) for metric, event in EVENTS[kind].items()}
    return found


def _utility(cell: Cell) -> Answers:
    rows = read_rows(cell.folder / EVALUATION / ANSWERS) if cell.utility is not None else ()
    return {
        (Column("utility", str(row["task"]), str(row["language"])), (str(row["task"]), str(row["index"]))): {
            "correct": row["correct"] is True
        }
        for row in rows
        if {"task", "language", "index", "correct"} <= row.keys()
    }


def _block(what: What, read: Mapping[tuple[str, int], Answers], once: frozenset[str]) -> Block | None:
    keys = [key for answers in read.values() for key in answers if key[0].what == what]
    if not keys:
        return None
    columns = _unique(column for column, _ in keys)
    queries = sorted(_unique(query for _, query in keys), key=str)  # so that the order of the cells changes no draw
    at_column, at_query = ({one: i for i, one in enumerate(many)} for many in (columns, queries))
    seeds: dict[str, tuple[int, ...]] = {}
    for method, seed in read:
        seeds[method] = (*seeds.get(method, ()), seed)
    metrics = ("correct",) if what == "utility" else tuple(EVENTS[what])
    values = {
        metric: {method: np.full((len(queries), len(own), len(columns)), np.nan) for method, own in seeds.items()}
        for metric in metrics
    }
    for (method, seed), answers in read.items():
        run = seeds[method].index(seed)
        for (column, query), happened in answers.items():
            if column.what == what:
                for metric, event in happened.items():
                    if event is not None:
                        values[metric][method][at_query[query], run, at_column[column]] = event
    return Block(tuple(columns), seeds, once, values)


def _unique(many: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(many))
