"""A clock that is set back, or years ahead, in the middle of the work: no result depends on it."""

from __future__ import annotations

import itertools
import json
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import ROWS, write_csv
from helpers import metrics, run

from crosslign.cli import main
from crosslign.runs import evaluate as evaluating
from crosslign.runs.folder import RunFolder

JUMPS = (0, -1_000_000, 300_000_000, -2_000_000_000, 1)  # seconds


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock finds it elsewhere, and the day too."""
    begin, jumps = time.time(), itertools.cycle(JUMPS)

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=next(jumps))

    monkeypatch.setattr(time, "time", lambda: begin + next(jumps))
    monkeypatch.setattr(evaluating, "datetime", Jumping)


def test_a_run_is_the_same_whatever_the_clock_says(
    recipe: dict[str, Any], whole: dict[str, Any], jumping: None
) -> None:
    folder = run(recipe)
    before = Path(whole["output_dir"])

    def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if "seconds" not in k and "per_second" not in k} for row in rows]

    assert timeless(metrics(folder)) == timeless(metrics(before))
    name = "adapter_model.safetensors"
    assert (folder / name).read_bytes() == (before / name).read_bytes()
    assert 0 <= RunFolder(folder).record()["seconds"] < 1000
    assert all(0 <= value < 1000 for row in metrics(folder) for key, value in row.items() if "seconds" in key)


def evaluated(model: Path, table: Path, out: Path) -> dict[str, Any]:
    flags = ["--languages", "en,sw", "--max-completion-length", "4", "--out", str(out)]
    assert main(["eval", "--model", str(model), "--tasks", f"table:{table}", *flags]) == 0
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    del results["manifest"]["date"]
    return dict(results)


def test_an_evaluation_is_the_same_and_goes_on_whatever_the_clock_says(
    model_folder: Path, tmp_path: Path, sampled: list[int], request: pytest.FixtureRequest
) -> None:
    table = write_csv(tmp_path / "table.csv", ROWS)
    right = evaluated(model_folder, table, tmp_path / "a")
    request.getfixturevalue("jumping")
    assert evaluated(model_folder, table, tmp_path / "b") == right
    sampled.clear()
    assert evaluated(model_folder, table, tmp_path / "a") == right
    assert sampled == []
