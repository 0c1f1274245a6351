"""Query tables: alignment and evaluation share no concept, and what is written reads back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from crosslign.data.load import TableSpec, require_table
from crosslign.testbed.tables import SETS, Tables, TableSizes
from crosslign.testbed.world import HELD_OUT_HAZARDS, World


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(World(0), TableSizes())


def test_shares(tables: Tables) -> None:
    counts = Counter(row.request.concept.kind for row in tables.targets)
    assert counts == {"harmful": 378, "lookalike": 126, "out_of_scope": 42, "benign": 294}
    assert len(tables.anchors) == 160


def test_no_concept_is_both_aligned_and_evaluated(tables: Tables) -> None:
    aligned = {row.request.concept for row in (*tables.targets, *tables.anchors)}
    evaluated = {row.request.concept for rows in tables.evaluation.values() for row in rows}
    assert not aligned & evaluated
    assert not {c.category for c in aligned} & set(HELD_OUT_HAZARDS)


def test_evaluation_sets(tables: Tables) -> None:
    sets = tables.evaluation
    assert set(sets) == set(SETS)
    assert {r.request.concept.category for r in sets["held_out"]} == set(HELD_OUT_HAZARDS)
    assert all(r.request.wrapper is not None for r in sets["harder"])
    assert all(r.request.wrapper is None for name in SETS if name != "harder" for r in sets[name])
    kinds = {name: {r.request.concept.kind for r in rows} for name, rows in sets.items()}
    assert kinds == {
        "harmful": {"harmful"},
        "held_out": {"harmful"},
        "harder": {"harmful"},
        "benign": {"benign"},
        "lookalike": {"lookalike"},
    }


def test_alignment_rows_are_plain_and_not_repeated(tables: Tables) -> None:
    for rows in (tables.targets, tables.anchors):
        assert all(r.request.wrapper is None for r in rows)
        assert len({r.request for r in rows}) == len({r.id for r in rows}) == len(rows)


def test_every_category_is_in_alignment_about_as_often_as_in_the_world(tables: Tables) -> None:
    found = Counter(r.request.concept.category for r in tables.targets if r.request.concept.kind == "harmful")
    aligned = Counter(c.category for c in World(0).concepts if c.kind == "harmful" and c.category in found)
    assert len(found) == 7
    for category, count in aligned.items():
        expected = sum(found.values()) * count / sum(aligned.values())
        assert 0.6 * expected < found[category] < 1.4 * expected


def test_too_many_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="harmful rows are asked for"):
        Tables(World(0), TableSizes(targets=5_000)).targets  # noqa: B018


def test_written_table_reads_back(tables: Tables, tmp_path: Path) -> None:
    languages = tables.world.codes("en", "low")
    path = tables.write(tmp_path / "targets.csv", tables.targets, languages)
    read = require_table(TableSpec(str(path)), "en", None)
    assert read.languages == languages
    assert not read.warnings
    assert list(read.queries()) == [tables.query(row, code) for row in tables.targets for code in languages]
