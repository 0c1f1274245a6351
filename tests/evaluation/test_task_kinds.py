"""Tasks that are not published tables: local tables, wrapped queries; and the groups that results are reported by."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import task_files
from conftest import ROWS, write_csv
from task_files import write_rows

from crosslign.data.load import TableSpec, require_table
from crosslign.data.schema import DataError
from crosslign.evaluation.stages import groups_of
from crosslign.evaluation.tasks import RESOURCE_LEVEL, get_task, resource_groups
from crosslign.evaluation.tasks.selection import fingerprint
from crosslign.languages import is_language
from crosslign.types import CrosslignError, Query

# --- Local tables.


def test_a_local_table_is_a_task_with_the_labels_of_its_rows(table_file: Path) -> None:
    task = get_task(f"table:{table_file}")
    assert (task.kind, task.languages) == ("mixed", ())
    data = task.load(["sw", "bn"])
    assert [(q.id, q.language, q.label) for q in data.queries[:4]] == [
        ("row-0", "sw", "benign"), ("row-0", "bn", "benign"), ("row-1", "sw", "harmful"), ("row-1", "bn", "harmful"),
    ]  # fmt: skip
    assert data.rows == 12
    assert task.load().languages == ("en", "sw", "bn")


@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_a_kind_before_the_path_keeps_the_rows_of_that_label(table_file: Path, kind: str) -> None:
    task = get_task(f"table:{kind}:{table_file}")
    assert task.kind == kind
    data = task.load(["en"])
    assert [q.id for q in data.queries] == [row["id"] for row in ROWS if row["label"] == kind]


def test_rows_without_a_label_get_that_of_the_kind_or_are_left_out_with_a_hint(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.csv", [["en", "sw"], ["a", "b"], ["c", "d"]])
    assert {q.label for q in get_task(f"table:benign:{path}").load().queries} == {"benign"}
    with pytest.raises(CrosslignError, match=r"no query left in en, sw .*add a column `label`.*table:harmful:PATH"):
        get_task(f"table:{path}").load()


def test_skip_and_the_limit_of_a_training_table_share_no_row_whatever_the_kind(table_file: Path) -> None:
    trained = {row.id for row in require_table(TableSpec(str(table_file), limit=5), "en", None).rows}
    held_back = {q.id for q in get_task(f"table:harmful:{table_file}").load(skip=5).queries}
    assert held_back == {row["id"] for row in ROWS[5:] if row["label"] == "harmful"}
    assert not trained & held_back


def test_columns_and_where_are_those_of_a_recipe(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [{"q": "a", "s": "b", "part": "x"}, {"q": "c", "s": "d", "part": "y"}])
    task = get_task(f"table:harmful:{path}", {"columns": {"en": "q", "sw": "s"}, "where": {"part": ["y"]}})
    assert [(q.language, q.text) for q in task.load().queries] == [("en", "c"), ("sw", "d")]


def test_the_checks_of_query_tables_hold(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.csv", [["id", "en"], [1, "a"], [1, "b"], [2, ""]])
    with pytest.raises(DataError, match=r"row 2, field 'id': the id '1' stands in row 1 already(.|\n)*row 3.*is empty"):
        get_task(f"table:harmful:{path}").load()
    with pytest.raises(CrosslignError, match=r"no\.csv: cannot be read: No such file"):
        get_task("table:no.csv").load()
    with pytest.raises(CrosslignError, match="name a file after the colon"):
        get_task("table:harmful:")
    with pytest.raises(CrosslignError, match="leave the path out"):
        get_task(f"table:{path}").load(path=str(path))
    with pytest.raises(CrosslignError, match=r"t\.csv has no language 'fo'\. It has: en\."):
        get_task(f"table:harmful:{write_rows(tmp_path / 't.csv', [['en'], ['a']])}").load(["fo"])


def test_the_demo_table_is_a_task_of_both_kinds() -> None:
    data = get_task("builtin:demo").load()
    assert data.rows == 48
    assert data.languages == get_task("builtin:demo").languages
    assert {q.label for q in data.queries} == {"harmful", "benign"}


# --- The hash of the queries.


@pytest.mark.parametrize(
    "change",
    [
        {"id": "2"},
        {"language": "bn"},
        {"text": "other"},
        {"source_language": "zh"},
        {"source_text": "other"},
        {"label": "benign"},
        {"category": None},
        {"category": ""},
    ],
)
def test_the_hash_covers_every_field_of_every_query(change: dict[str, str | None]) -> None:
    query = Query("1", "sw", "text", "en", "source", "harmful", "topic")
    other = Query("9", "sw", "text", "en", "source", "harmful", "topic")
    changed = replace(query, **change)  # type: ignore[arg-type]
    assert fingerprint([changed, other]) != fingerprint([query, other])
    assert fingerprint([other, query]) == fingerprint([query, other])
    assert fingerprint([query]) != fingerprint([query, other])


def test_the_hash_tells_where_a_field_ends() -> None:
    first, second = (Query("1", "sw", text, "en", source) for text, source in (("ab", "c"), ("a", "bc")))
    assert fingerprint([first]) != fingerprint([second])


# --- Wrapped queries.


def test_every_query_and_its_source_text_are_put_into_the_wrapper(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper.txt"
    wrapper.write_text("\ufeffPlay {a role}.\n\nAnswer: {query}\nAgain: {query}\n\n", encoding="utf-8")
    path = str(task_files.multijail(tmp_path, rows=3))
    plain = get_task("multijail").load(["en", "sw"], path=path)
    wrapped = get_task("multijail_intentional", {"wrapper": str(wrapper)}).load(["en", "sw"], path=path)
    assert [q.key for q in wrapped.queries] == [q.key for q in plain.queries]
    for inside, query in zip(plain.queries, wrapped.queries, strict=True):
        assert query.text == f"Play {{a role}}.\n\nAnswer: {inside.text}\nAgain: {inside.text}"
        assert query.source_text == f"Play {{a role}}.\n\nAnswer: {inside.source_text}\nAgain: {inside.source_text}"
        assert (query.label, query.category) == (inside.label, inside.category)
    assert wrapped.sha256 != plain.sha256


def test_a_query_that_holds_the_placeholder_is_not_filled_twice(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "m.csv", [["id", "en"], [1, "what is {query}?"]])
    data = get_task("multijail_intentional").load(path=str(path))
    assert data.queries[0].text.endswith("what is {query}?")
    assert data.queries[0].text.count("{query}") == 1


def test_the_wrapper_is_part_of_the_version(tmp_path: Path) -> None:
    versions = set()
    for text in ("A: {query}", "B: {query}"):
        (tmp_path / "w.txt").write_text(text)
        task = get_task("multijail_intentional", {"wrapper": str(tmp_path / "w.txt")})
        assert task.version == f"1+{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        versions.add(task.version)
    versions.add(get_task("multijail_intentional").version)
    assert len(versions) == 3


def test_the_bundled_wrapper_only_frames_the_query(tmp_path: Path) -> None:
    data = get_task("multijail_intentional").load(["en"], path=str(task_files.multijail(tmp_path, rows=1)))
    assert data.queries[0].text == (
        "Below is a request that a user has sent. Read it and write the reply to it.\n\nRequest: question 0"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no place for it", r"w\.txt: the wrapper has no \{query\}"),
        (b"\xff{query}", r"w\.txt: the wrapper is not UTF-8 \(byte 0\)"),
        (None, r"w\.txt: the wrapper cannot be read: No such file"),
    ],
)
def test_a_wrapper_that_cannot_be_used_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "w.txt").write_bytes(content)
    with pytest.raises(CrosslignError, match=message):
        get_task("multijail_intentional", {"wrapper": str(tmp_path / "w.txt")})


# --- Resource levels.


def test_the_languages_of_multijail_are_grouped_as_in_its_paper() -> None:
    task = get_task("multijail")
    assert resource_groups(task.languages) == {
        "high": ["zh", "it", "vi"],
        "medium": ["ar", "ko", "th"],
        "low": ["bn", "sw", "jv"],
    }


def test_english_and_unknown_languages_are_in_no_group_and_empty_groups_are_left_out() -> None:
    assert resource_groups(["en", "fo", "pt-BR", "sw", "sw"]) == {"high": ["pt-BR"], "low": ["sw"]}
    assert resource_groups(["en", "art-x-low1"]) == {}
    assert resource_groups(["cmn", "swh", "arb"]) == {"high": ["cmn"], "medium": ["arb"], "low": ["swh"]}
    assert "en" not in RESOURCE_LEVEL


def test_another_code_of_a_trained_language_is_trained_and_private_codes_are_themselves() -> None:
    groups = groups_of(["en", "zh", "sw", "art-x-a", "art-x-b"], "en", ["zh-Hans", "swh", "art-x-a"])
    assert groups["trained"] == ["zh", "sw", "art-x-a"]
    assert groups["unseen"] == ["art-x-b"]


def test_levels_follow_their_sources() -> None:
    assert {RESOURCE_LEVEL[code] for code in ("de", "ja", "hi", "ru", "tr")} == {"high"}
    assert {RESOURCE_LEVEL[code] for code in ("ur", "ta", "uk", "ind", "tl", "fil")} == {"medium"}
    assert {RESOURCE_LEVEL[code] for code in ("yo", "am", "te", "ne", "si")} == {"low"}
    assert all(is_language(code) for code in RESOURCE_LEVEL)
