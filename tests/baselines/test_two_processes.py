"""Data parallelism: two processes of a method take the steps of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import losses, run, two_processes


@pytest.mark.processes
def test_two_processes_equal_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    raw = {**recipe, "method": "sft", "sampling": {"temperature": 0, "max_completion_length": 8}}
    raw["training"] = {**recipe["training"], "max_steps": 2, "logging_steps": 1}
    one = run({**raw, "output_dir": str(tmp_path / "one")})
    shared = {**raw["training"], "gradient_accumulation_steps": 1, "ddp_backend": "gloo"}
    assert two_processes(tmp_path, {**raw, "output_dir": str(tmp_path / "two"), "training": shared}) == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-3)
    records = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (one, tmp_path / "two")]
    assert records[0]["method"] == records[1]["method"]
