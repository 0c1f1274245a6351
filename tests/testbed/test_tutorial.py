"""The tutorial's commands, in order, on a small demo and a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers import terse_model
from small import finished_demo
from test_readme import ROOT, SMALL, paste

from crosslign.runs.recipe import merged, read_recipe


@pytest.mark.processes
def test_the_commands_of_the_tutorial_work_in_order(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    terse_model(Path("tiny"))
    for folder in ("runs", "recipes"):
        Path(folder).mkdir()
    Path("src").symlink_to(ROOT / "src")
    Path("runs/demo").symlink_to(finished_demo(tmp_path_factory) / "out")
    name = "recipes/smollm2_135m_cpu.yaml"
    Path(name).write_text(yaml.safe_dump(merged(read_recipe(ROOT / name), SMALL)))
    paste("docs/tutorial.md")
    assert Path("runs/demo-teacher/report.html").is_file()
    assert Path("runs/off-policy/run.json").is_file()
