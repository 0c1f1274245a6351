"""The tables as files: HTML, Markdown, LaTeX and CSV, out of the cells that are finished."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from crosslign.evaluation.report import render_tables
from crosslign.evaluation.report.figures import Ranges
from crosslign.evaluation.tables import MISSING, Table, escape, latex, markdown, number, one_line
from crosslign.runs.bench.cells import Cell
from crosslign.runs.bench.config import BenchConfig, titles
from crosslign.runs.bench.numbers import Numbers
from crosslign.runs.bench.outcomes import read_blocks
from crosslign.runs.bench.tables import FLAT, Flat, flat_rows, model_charts, model_tables
from crosslign.storage import write_atomically
from crosslign.types import Announce, CrosslignError, silent
from crosslign.untrusted import no_formula

PAGE, TEXT, LATEX, NUMBERS = "tables.html", "tables.md", "tables.tex", "numbers.csv"
HOUR = 3600.0
PARTS = ("training", "evaluating")  # of a cell


def write_tables(bench: BenchConfig, cells: Sequence[Cell], announce: Announce = silent) -> Path:
    """All files, in `out`; returns the page.

    Raises CrosslignError if no cell is finished, or if cells cannot stand in one table.
    """
    if not any(cell.is_ready() for cell in cells):
        raise CrosslignError(f"{bench.out}: no cell is finished yet. crosslign bench FILE makes them.")
    tables: list[Table] = []
    rows: list[Flat] = []
    charts: list[Ranges] = []
    for model in bench.models:
        own = [cell for cell in cells if cell.model == model]
        blocks = read_blocks(bench, own, announce)
        if blocks:
            numbers = Numbers(blocks)
            given = (bench, model, numbers, own[0].trained, own[0].source_language)
            tables += model_tables(*given)
            rows += flat_rows(*given)
            charts += model_charts(*given[1:])
    tables += [_hours(cells), _states(cells)]
    rows += _flat_hours(cells)
    out, title = Path(bench.out), "Methods compared"
    facts = {
        "Models": ", ".join(bench.models),
        "Judge": ", ".join(bench.judge.names),
        "Tasks": ", ".join(titles(bench.tasks)),
        "Seeds": ", ".join(map(str, bench.seeds)),
        "Cells": f"{sum(cell.is_ready() for cell in cells)} of {len(cells)} finished",
    }
    write_atomically(out / TEXT, _markdown(title, facts, tables))
    write_atomically(out / LATEX, "\n\n".join([_PREAMBLE, *map(latex, tables)]) + "\n")
    write_atomically(out / NUMBERS, _csv(rows))
    write_atomically(out / PAGE, render_tables(title, facts, tables, charts))
    return out / PAGE


_PREAMBLE = "% Needs \\usepackage{booktabs}, and for languages in their own scripts XeLaTeX or LuaLaTeX."


def _seconds(cells: Sequence[Cell]) -> dict[tuple[str, str], tuple[list[Cell], dict[str, float]]]:
    """Of each model and method its finished cells, and the mean seconds of their parts."""
    found = {}
    for model, method in dict.fromkeys((cell.model, cell.method) for cell in cells):
        own = [c for c in cells if (c.model, c.method) == (model, method) and c.is_ready()]
        means = {part: sum(c.seconds().get(part, 0.0) for c in own) / len(own) for part in PARTS} if own else {}
        found[model, method] = own, means
    return found


def _hours(cells: Sequence[Cell]) -> Table:
    rows = [["model", "method", "cells", *(f"{part}, h" for part in PARTS), "on"]]
    for (model, method), (own, means) in _seconds(cells).items():
        devices = dict.fromkeys(str(cell.record().get("device", MISSING)) for cell in own)
        hours = [number(means[part] / HOUR, ".3f") if means else MISSING for part in PARTS]
        rows.append([model, method, str(len(own)), *hours, ", ".join(devices) or MISSING])
    note = (
        "Means over finished cells, with what interruptions and failures took. Training is with its gate and data. "
        "Cells share a cache of completions: the first cell that needs an answer takes the time of sampling it."
    )
    return Table("Hours", rows, note, left=(0, 1, 5))


def _flat_hours(cells: Sequence[Cell]) -> list[Flat]:
    """The same for the CSV: in hours, not percent."""
    return [
        {"model": model, "method": method, "seeds": len(own), "scope": "hours", "name": part, "value": seconds / HOUR}
        for (model, method), (own, means) in _seconds(cells).items()
        for part, seconds in means.items()
    ]


def _states(cells: Sequence[Cell]) -> Table:
    rows = [["model", "method", "seed", "state", "error"]]
    for cell in cells:
        error = cell.record().get("error") if cell.state() == "failed" else None
        state = cell.state() + ", with other settings" * bool(cell.differences())
        rows.append([cell.model, cell.method, str(cell.seed), state, str(error or "")])
    note = "Only finished ones, with the settings that the file has now, count in the tables."
    return Table("Cells", rows, note, left=(0, 1, 3, 4))


def _markdown(title: str, facts: dict[str, str], tables: Sequence[Table]) -> str:
    blocks = [f"# {title}", "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts.items())]
    for table in tables:
        blocks.append(f"## {escape(table.title)}")
        blocks.append(markdown([[escape(cell) for cell in row] for row in table.rows], table.left))
        if table.note:
            blocks.append(escape(table.note))
    return "\n\n".join(blocks) + "\n"


def _csv(rows: Sequence[Flat]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FLAT, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: no_formula(one_line(value)) if isinstance(value, str) else value for key, value in row.items()}
        )
    return text.getvalue()
