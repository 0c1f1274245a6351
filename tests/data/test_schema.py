"""Checking rows: every problem names file, row and field; ids are stable; a table yields its queries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from crosslign.data.schema import DataError, Problem, QueryTable, build_table, content_id
from crosslign.types import CrosslignError

COLUMNS = {"id": "key", "label": "kind", "category": "topic", "en": "prompt", "sw": "swahili"}


def check(
    records: Sequence[Mapping[str, object]], languages: Sequence[str] = ("en", "sw"), **options: Any
) -> tuple[QueryTable | None, list[Problem]]:
    columns = options.pop("columns", COLUMNS)
    numbered = list(enumerate(records, start=1))
    return build_table("t.csv", numbered, columns=columns, source_language="en", languages=languages, **options)


def record(key: str = "k1", **changes: object) -> dict[str, object]:
    row = {"key": key, "kind": "harmful", "topic": "theft", "prompt": f"text {key}", "swahili": f"matini {key}"}
    return {**row, **changes}


def problems(*records: Mapping[str, object], **options: Any) -> list[str]:
    return [str(p) for p in check(records, **options)[1]]


def test_good_rows_become_a_table_without_problems() -> None:
    table, found = check([record(), record("k2", kind=" Benign ", topic="", swahili="  matini 2 ")], weight=2.0)
    assert found == []
    assert table is not None
    assert (table.name, table.source_language, table.languages, table.weight) == ("t.csv", "en", ("en", "sw"), 2.0)
    first, second = table.rows
    assert (first.number, first.id, first.label, first.category) == (1, "k1", "harmful", "theft")
    assert first.texts == {"en": "text k1", "sw": "matini k1"}
    assert (second.label, second.category, second.texts["sw"]) == ("benign", None, "matini 2")


@pytest.mark.parametrize(
    ("cell", "what"),
    [({"prompt": None}, "missing"), ({}, "missing"), ({"prompt": ""}, "empty"), ({"prompt": " \n\t"}, "empty")],
    ids=["none", "absent", "empty", "blank"],
)
def test_source_text_that_is_missing_or_empty_is_an_error_with_its_place(cell: dict[str, Any], what: str) -> None:
    row = record("k2")
    del row["prompt"]
    expected = f"error: t.csv, row 2, field 'prompt': the source text (en) is {what}; every row needs one."
    assert problems(record(), {**row, **cell}) == [expected]


def test_missing_translation_is_no_problem_and_gives_no_query() -> None:
    table, found = check([record(), record("k2", swahili=None), record("k3", swahili=" ")])
    assert found == []
    assert table is not None
    assert [q.key for q in table.queries(["sw"])] == ["k1|sw"]


def test_language_nobody_has_is_an_error_that_names_its_column() -> None:
    found = problems(record(swahili=""), record("k2", swahili=None))
    assert found == ["error: t.csv, field 'swahili': no row has a text in 'sw', which was asked for."]


def test_duplicate_source_text_without_ids_is_an_error_in_the_source_column() -> None:
    rows = [record(), record("k1", swahili="nyingine")]
    columns = {k: v for k, v in COLUMNS.items() if k != "id"}
    (found,) = problems(*rows, columns=columns)
    assert found.startswith(
        "error: t.csv, row 2, field 'prompt': the source text (its hash is the row's id) stands in row 1"
    )


def test_duplicate_texts_under_different_ids_are_warnings_in_their_columns() -> None:
    table, found = check([record(), record("k2", prompt="text k1", swahili="matini k1")])
    assert [str(p) for p in found] == [
        "warning: t.csv, row 2, field 'prompt': the same text as in row 1.",
        "warning: t.csv, row 2, field 'swahili': the same text as in row 1.",
    ]
    assert table is not None
    assert table.warnings == tuple(found)


def test_row_without_label_gets_the_tables_label() -> None:
    table, _ = check([record(kind=""), record("k2", kind=None), record("k3")], default_label="benign")
    assert table is not None
    assert [r.label for r in table.rows] == ["benign", "benign", "harmful"]


def test_all_problems_of_a_table_are_found_in_row_order() -> None:
    found = check([record(), record("k2", prompt=""), record("k1", kind="bad"), record("k4", swahili="text k4")])[1]
    assert [(p.severity, p.row) for p in found] == [("error", 2), ("error", 3), ("error", 3), ("warning", 4)]


def test_id_of_a_row_without_one_is_a_hash_of_its_source_text_alone() -> None:
    expected = "q-" + hashlib.sha256(b"text k1").hexdigest()[:12]
    assert content_id("text k1") == expected
    rows = [record("", prompt="text k1"), record("", prompt="text k2")]
    forwards, backwards = check(rows)[0], check([{**r, "swahili": str(i)} for i, r in enumerate(rows[::-1])])[0]
    assert forwards is not None
    assert backwards is not None
    assert [r.id for r in forwards.rows] == [r.id for r in backwards.rows][::-1]
    assert forwards.rows[0].id == expected


@pytest.mark.parametrize(("raw", "expected"), [(0, "0"), (7, "7"), (" k ", "k"), ("0", "0")])
def test_id_and_category_of_any_type_are_read_as_their_text(raw: object, expected: str) -> None:
    table, _ = check([record(key=raw, topic=raw)])  # type: ignore[arg-type]
    assert table is not None
    assert (table.rows[0].id, table.rows[0].category) == (expected, expected)


def test_queries_carry_source_text_label_and_category_in_the_order_asked_for() -> None:
    table, _ = check([record(), record("k2", kind="benign")])
    assert table is not None
    queries = list(table.queries(["sw", "en"]))
    assert [q.key for q in queries] == ["k1|sw", "k1|en", "k2|sw", "k2|en"]
    first = queries[0]
    assert (first.text, first.source_text, first.source_language) == ("matini k1", "text k1", "en")
    assert (first.label, first.category) == ("harmful", "theft")
    assert [q.key for q in table.queries()] == ["k1|en", "k1|sw", "k2|en", "k2|sw"]
    assert list(table.queries([])) == []


def test_fingerprint_changes_with_everything_training_sees_and_with_nothing_else() -> None:
    def fingerprint(*rows: Mapping[str, object], **options: Any) -> str:
        table, _ = check(rows, **options)
        assert table is not None
        return table.fingerprint()

    base = fingerprint(record(), record("k2"))
    assert base == fingerprint(record(), record("k2"), weight=3.0)
    changed = [
        fingerprint(record("k3"), record("k2")),
        fingerprint(record(prompt="x"), record("k2")),
        fingerprint(record(swahili="x"), record("k2")),
        fingerprint(record(kind="benign"), record("k2")),
        fingerprint(record(topic="fraud"), record("k2")),
        fingerprint(record("k2"), record()),
    ]
    assert len({base, *changed}) == 7


def test_data_error_shows_the_first_problems_and_counts_the_rest() -> None:
    many = [Problem("error", "t.csv", n, None, "wrong.") for n in range(1, 26)]
    lines = str(DataError(many)).split("\n")
    assert len(lines) == 21
    assert lines[0] == "error: t.csv, row 1: wrong."
    assert lines[-1] == "... and 5 more"
    assert issubclass(DataError, CrosslignError)
