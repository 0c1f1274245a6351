"""Bench files for tests, and cells that are finished without a model: judged rows that a function decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from conftest import ROWS, write_csv

from crosslign.evaluation.completions import completion_row
from crosslign.evaluation.judges.registry import JudgeSettings, make_judges
from crosslign.evaluation.stages import Evaluation, run
from crosslign.runs.bench.cells import EVALUATION, Cell, cells_of
from crosslign.runs.bench.config import BenchConfig, load_bench
from crosslign.runs.bench.make import open_out
from crosslign.runs.evaluate import checked_tasks
from crosslign.types import Query

REFUSAL = "I'm sorry, but I cannot help with that request."
ANSWER = "Here is a long and friendly answer to what was asked, with all the details that anybody may want to have."
Says = Callable[[str, int, Query], str]  # method, seed, query -> completion


def many_rows(number: int = 24, prefix: str = "row") -> list[dict[str, str]]:
    """Rows of the shared table's kind, half of them harmful, with texts of their own."""
    codes, usual = ("en", "sw", "bn"), [ROWS[i % len(ROWS)] for i in range(number)]
    return [
        {**row, "id": f"{prefix}-{i}", **{code: f"{row[code]} {prefix} {i}" for code in codes}}
        for i, row in enumerate(usual)
    ]


def bench_raw(folder: Path, model: Path | str, **changes: Any) -> dict[str, Any]:
    """A bench whose cells take a second each; its files lie in `folder`."""
    write_csv(folder / "queries.csv", many_rows(prefix="train"))
    write_csv(folder / "heldout.csv", many_rows(prefix="test"))
    return {
        "recipe": {
            "data": {"tables": [{"path": str(folder / "queries.csv")}]},
            "model": {"lora": {"r": 4}},
            "sampling": {"max_completion_length": 4},
            "divergence_queries": 0,
            "training": {
                "max_steps": 2,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 1,
                "learning_rate": 0.01,
                "save_steps": 1,
                "use_cpu": True,
            },
        },
        "models": {"tiny": str(model)},
        "methods": {"msd": {}, "sft": {"method": "sft"}, "prompt": {"context": "teacher", "template": "system"}},
        "seeds": [0, 1],
        "tasks": [{"name": f"table:{folder / 'heldout.csv'}", "title": "held out"}],
        "languages": ["en", "sw", "bn"],
        "trained": ["en", "sw"],
        "max_completion_length": 4,
        "out": str(folder / "out"),
        **changes,
    }


def write_bench(folder: Path, raw: dict[str, Any]) -> Path:
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return path


class Scripted:
    """A completer that says what the function says."""

    def __init__(self, cell: Cell, says: Says) -> None:
        self.cell, self.says = cell, says

    def identity(self) -> dict[str, Any]:
        return {"scripted": self.cell.name}

    def complete(self, queries: Any, on_rows: Any) -> None:
        on_rows([
            completion_row(q, self.says(self.cell.method, self.cell.seed, q), truncated=False, prompt_tokens=1)
            for q in queries
        ])  # fmt: skip


def finish(cell: Cell, says: Says) -> None:
    """The cell as if it had been made, its completions being what `says` says."""
    e = cell.evaluation
    tasks = checked_tasks(e, "", languages=e.languages, source_language="en")
    judges = make_judges(e.judge.names, JudgeSettings())
    run(Evaluation(cell.folder / EVALUATION, tasks, judges, trained=cell.trained), Scripted(cell, says))
    seconds = {"training": 36.0, "evaluating": 18.0}
    cell.update(settings=cell.settings(), status="finished", device="none", seconds=seconds)


def finished_bench(folder: Path, raw: dict[str, Any], says: Says) -> tuple[BenchConfig, list[Cell]]:
    """All cells of the bench, made by `says`."""
    bench = load_bench(write_bench(folder, raw))
    open_out(bench)
    cells = cells_of(bench)
    for cell in cells:
        finish(cell, says)
    return bench, cells
