"""`crosslign bench`: check, make the cells, write the tables; or only say what would be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crosslign.evaluation.tables import aligned, number
from crosslign.runs.bench.cells import Cell, cells_of, shard_of
from crosslign.runs.bench.check import check_file, check_inputs
from crosslign.runs.bench.config import BenchConfig
from crosslign.runs.bench.make import check_out, make_cells, open_out
from crosslign.runs.bench.write import HOUR, write_tables
from crosslign.types import Announce, CrosslignError, silent


@dataclass(frozen=True)
class Made:
    """How a call ended: how many cells it made, and the page of the tables, if a cell is finished."""

    counts: Counter[str]
    page: Path | None

    @property
    def said(self) -> str:
        parts = {"made": "made", "there": "were there", "elsewhere": "left to other processes", "failed": "failed"}
        told = ", ".join(f"{self.counts[key]} {words}" for key, words in parts.items() if self.counts[key])
        return f"cells: {told or 'none'}"


def run_bench(
    bench: BenchConfig, announce: Announce = silent, *, shard: str | None = None, overwrite: bool = False
) -> Made:
    """Make the cells of a shard (None: all) that are not finished, then the tables of all that are.

    Raises CrosslignError before anything is made for whatever can be seen by then; Interrupted if the user stops it.
    """
    cells = cells_of(bench)
    check_file(bench, cells, overwrite=overwrite)
    mine = shard_of(cells, shard)
    todo = [cell for cell in mine if not cell.is_ready()]
    if todo and (wrong := check_inputs(todo)):
        raise CrosslignError("\n".join(wrong))
    open_out(bench, overwrite=overwrite)
    counts = make_cells(mine, announce, overwrite=overwrite)
    some = any(cell.is_ready() for cell in cells)
    return Made(counts, write_tables(bench, cells, announce) if some else None)


def only_tables(bench: BenchConfig, announce: Announce = silent) -> Path:
    """The tables of the cells that are finished; no model is loaded and no task is read."""
    cells = cells_of(bench)
    check_out(bench)
    return write_tables(bench, cells, announce)


def plan(bench: BenchConfig, *, shard: str | None = None, overwrite: bool = False) -> str:
    """Which cells there are and how far they are, what they may take, and what is missing. Changes nothing."""
    cells = cells_of(bench)
    check_file(bench, cells, overwrite=overwrite)
    mine = shard_of(cells, shard)
    rows = [["cell", "state", "hours"]]
    rows += [[cell.name, _state(cell), number(hours_of(cell), ".2f")] for cell in mine]
    blocks = [aligned(rows, left=(0, 1)), _expected(mine)]
    if missing := check_inputs(mine):
        blocks += [
            "Needed before it can run, or not to be checked from here (of a model that is out of reach, the lengths of "
            "contexts were not looked at either):",
            "\n".join(f"- {text}" for text in missing),
        ]
    else:
        blocks.append("Models, tables, tasks and lengths were looked at: it can run.")
    return "\n\n".join(blocks)


def hours_of(cell: Cell) -> float | None:
    """What the cell has taken so far; None if nothing is known."""
    seconds = cell.seconds()
    return sum(seconds.values()) / HOUR if seconds else None


def _state(cell: Cell) -> str:
    found = cell.state()
    if found == "failed":
        return f"failed: {cell.record().get('error')}"
    return f"{found}, with other settings" if cell.differences() else found


def _expected(cells: Sequence[Cell]) -> str:
    """Hours that are left, by the mean of the finished cells of each kind."""
    left = [cell for cell in cells if not cell.is_ready()]
    text = f"{len(cells)} cells, {len(left)} to make."
    known: dict[bool, list[float]] = {True: [], False: []}
    for cell in cells:
        hours = hours_of(cell)
        if cell.state() == "finished" and hours is not None:
            known[cell.untrained is None].append(hours)
    if not left or not all(known[cell.untrained is None] for cell in left):
        return f"{text} Their hours are known once one of each kind is made." if left else text
    hours = sum(sum(known[cell.untrained is None]) / len(known[cell.untrained is None]) for cell in left)
    return f"{text} At the pace of those that are made: {hours:.1f} hours of one such device."
