"""`import crosslign`: the example of its docstring, run as it stands on a tiny model."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROWS, write_csv
from helpers import terse_model

import crosslign


def example() -> str:
    """The indented lines of the docstring."""
    assert crosslign.__doc__ is not None
    return textwrap.dedent("\n".join(re.findall(r"^ {4}.*$", crosslign.__doc__, re.MULTILINE)))


def test_the_example_of_the_docstring_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    terse_model(tmp_path / "tiny")
    write_csv(tmp_path / "queries.csv", ROWS)
    write_csv(tmp_path / "heldout.csv", [{**row, "id": f"held-out {row['id']}"} for row in ROWS])
    made: dict[str, Any] = {}
    exec(example().replace("Qwen/Qwen2.5-7B-Instruct", "tiny"), made)  # noqa: S102
    assert set(made["results"]["tasks"]) == {"table:heldout.csv harmful", "table:heldout.csv benign"}
    assert (tmp_path / "runs" / "compared" / "report.html").is_file()
    torch.testing.assert_close(made["fused"].loss, made["plain"].loss)
    assert made["student"].grad.abs().sum() > 0


def test_the_package_offers_what_it_names() -> None:
    for name in crosslign.__all__:
        assert getattr(crosslign, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'weighted_divergenc'"):
        crosslign.weighted_divergenc  # noqa: B018
