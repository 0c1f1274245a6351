"""The table that ships with the package: parallel, balanced, without responses."""

from __future__ import annotations

from collections import Counter

from crosslign.data.load import TableSpec, load_table, read_records
from crosslign.types import LABELS

DEMO = TableSpec("builtin:demo")


def test_demo_table_is_parallel_in_six_languages_or_more_without_a_problem() -> None:
    table, problems = load_table(DEMO)
    assert problems == []
    assert table is not None
    assert len(table.languages) >= 6
    assert {"en", "zh", "bn", "sw"} <= set(table.languages)
    for row in table.rows:
        assert set(row.texts) == set(table.languages), row.id


def test_demo_table_has_24_harmful_and_24_benign_requests() -> None:
    table, _ = load_table(DEMO)
    assert table is not None
    assert Counter(r.label for r in table.rows) == {"harmful": 24, "benign": 24}
    assert all(r.category for r in table.rows)
    assert set(LABELS) >= {r.label for r in table.rows}


def test_demo_table_has_no_responses() -> None:
    _, names = read_records(DEMO)
    table, _ = load_table(DEMO)
    assert table is not None
    assert set(names) == {"id", "category", "label", *table.languages}


def test_demo_languages_are_written_in_their_own_scripts() -> None:
    table, _ = load_table(DEMO)
    assert table is not None
    scripts = {"zh": (0x4E00, 0x9FFF), "bn": (0x0980, 0x09FF), "ar": (0x0600, 0x06FF)}
    for language, (first, last) in scripts.items():
        for row in table.rows:
            letters = [c for c in row.texts[language] if c.isalpha()]
            assert sum(first <= ord(c) <= last for c in letters) > len(letters) / 2, (row.id, language)
