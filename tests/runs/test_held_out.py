"""Held-out rows of an evaluation while training that are training rows: told by `train`, also by a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ROWS, write_csv
from helpers import cli_train, no_weights

from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.runs.train import train

NEW = [
    {"id": f"new-{i}", "label": "harmful", "category": "a", "en": f"ask {i}", "sw": f"uliza {i}", "bn": f"জিজ্ঞাসা {i}"}
    for i in range(11)
]


def evaluated(recipe: dict[str, Any], folder: Path, rows: list[dict[str, str]]) -> dict[str, Any]:
    """The recipe, evaluated on these rows in Swahili and Bengali."""
    task = f"table:{write_csv(folder / 'new.csv', rows)}"
    return {**recipe, "evaluation": {"tasks": [task], "best": None, "limit": None}}


TOLD: dict[str, tuple[dict[str, str], str]] = {
    "by id": (
        {"id": "row-1"},
        "2 of its 22 queries are training rows (0 by a text, in whatever language, 2 by their id)",
    ),
    "by text": ({"sw": "swali 3"}, "1 of its 22 queries are training rows (1 by a text"),
    "in the source language": ({"en": "question 3"}, "2 of its 22 queries are training rows (2 by a text"),
    "all": (dict(ROWS[1]), "2 of its 22 queries are training rows (2 by a text, in whatever language, 2 by their id)"),
}


@pytest.mark.parametrize("name", TOLD)
def test_held_out_rows_that_are_trained_on_are_told_before_weights(
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    change, text = TOLD[name]
    raw = evaluated(recipe, tmp_path, [{**NEW[0], **change}, *NEW[1:]])
    no_weights(monkeypatch)
    assert cli_train(tmp_path, raw, "--dry-run") == 0
    assert text in capsys.readouterr().err
    said: list[str] = []
    with pytest.raises(pytest.fail.Exception, match="weights were loaded"):
        train(prepare(parse_config(raw)), said.append)
    assert text in said[0]


def test_new_rows_and_rows_of_a_table_that_is_not_trained_on_are_not(
    recipe: dict[str, Any], tmp_path: Path, table_file: Path
) -> None:
    plan = prepare(parse_config(evaluated(recipe, tmp_path, NEW))).evaluation
    assert plan is not None
    assert plan.notes == ()
    recipe["data"]["tables"] = [{"path": str(tmp_path / "new.csv")}, {"path": str(table_file), "weight": 0}]
    recipe["evaluation"] = {"tasks": [f"table:{table_file}"], "best": None, "limit": None}
    plan = prepare(parse_config(recipe)).evaluation
    assert plan is not None
    assert plan.notes == ()
