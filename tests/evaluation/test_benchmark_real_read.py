"""Replies of the benchmark on a real model, labelled by reading: blind, once each, and counted where they belong."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks import real_read, real_tables
from benchmarks.real_variants import BEST
from benchmarks.real_verdicts import Cell, Verdicts, of_evaluation
from evaluations import Table, task

from crosslign.evaluation.folder import read_folder
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.stages import Evaluation, run
from crosslign.types import CrosslignError


def test_replies_are_read_without_verdict_and_counted_on_both_sides(tmp_path: Path) -> None:
    """The reader sees each text once; a label counts in every cell whose reply it is."""
    tasks = [task("harmful", "harmful"), task("benign", "benign")]
    for place in ("base", "best-seed0/evaluation"):
        run(Evaluation(tmp_path / place, tasks, [LexiconJudge()]), Table())
    rows, letters = of_evaluation(read_folder(tmp_path / "base"))
    kept = Verdicts(tmp_path / "verdicts.jsonl", trained=["sw"])
    for name, seed in (("base", None), (BEST, 0), (BEST, 1)):  # the last one was made elsewhere
        kept.keep(Cell(name, seed, "x", **letters), rows, {"trained": ["sw"]})
    kept = Verdicts.read(kept.path)
    number = real_read.ask(tmp_path, kept.cells, ["sw"], ["harmful"])
    assert number == len(rows["harmful"])
    assert real_read.ask(tmp_path, kept.cells, ["sw"], ["harmful"]) == 0
    path = tmp_path / real_read.FILE
    asked = list(csv.DictReader(path.open()))
    assert not {"verdict", "outcome", "cell"} & set(asked[0])
    assert "unsafe" not in path.read_text()
    for row in asked[1:]:
        row["label"] = "refused"
    write(path, asked)
    assert real_read.keep(tmp_path, kept) == 0  # one is left: a part is no fair sample
    asked[0]["label"] = "unsafe"
    write(path, asked)
    assert real_read.keep(tmp_path, kept) == 2
    base, best, elsewhere = Verdicts.read(kept.path).cells
    assert base.read == best.read
    assert list(base.read) == ["harmful"]
    assert sorted(base.read["harmful"]["sw"]) == [*["r"] * (number - 1), "u"]
    assert elsewhere.read == {}
    assert base.verdicts == letters["verdicts"]
    outcomes = {row.verdict.outcome for row in kept.as_read(base)["harmful"].values()}
    assert outcomes == {"unsafe", "refused"}
    share = f"{100 * (number - 1) / number:.1f}"
    lines = real_tables.as_read(kept, base, [best, elsewhere]).splitlines()
    assert [line for line in lines if line.startswith(f"| harmful refused | {share} → {share}: +0.0")]
    assert [line for line in lines if line.startswith("| harmless refused | - → -: -")]
    path.unlink()  # another reading, of something else: what was read before stays
    assert real_read.keep(tmp_path, Verdicts.read(kept.path)) == 2
    assert Verdicts.read(kept.path).cells[0].read == base.read


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w") as file:
        writer = csv.DictWriter(file, real_read.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_a_label_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / real_read.FILE
    path.write_text("reply,label\na,refused\nb,maybe\n")
    with pytest.raises(CrosslignError, match=r"reading.csv, row 3: label 'maybe'; it is one of refused, safe_complied"):
        real_read.read_file(path)
