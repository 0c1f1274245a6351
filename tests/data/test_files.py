"""Excel sheets as query tables and as lists of texts, and lists of texts in files without a header."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import openpyxl
import pyarrow
import pytest
from pyarrow import parquet

from crosslign.data.files import READERS, read_file, read_texts, written_table
from crosslign.data.load import TableSpec, read_records, require_table
from crosslign.types import CrosslignError

HARD = ['one, "two"\tand', "সোমবার", "سؤال ١", "line one\nline two", "\u200fright to left"]


def write_sheet(path: Path, rows: list[list[object]]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_a_sheet_is_a_query_table_like_any_other(tmp_path: Path) -> None:
    path = write_sheet(
        tmp_path / "t.xlsx", [["id", "en", "sw", None], [1, "hello", "habari"], [None], [2, "bye", None]]
    )
    records, names = read_records(TableSpec(str(path)))
    assert names == ["id", "en", "sw"]
    assert records == [(1, {"id": "1", "en": "hello", "sw": "habari"}), (2, {"id": "2", "en": "bye", "sw": ""})]
    table = require_table(TableSpec(str(path)), "en", ["sw"])
    assert [(q.id, q.text) for q in table.queries()] == [("1", "habari")]


def test_numbers_of_a_sheet_are_written_as_they_look(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "t.xlsx", [["id", "en"], [5.0, "a"], [2.5, "b"]])
    assert [row.id for row in require_table(TableSpec(str(path)), "en", None).rows] == ["5", "2.5"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx"])
def test_a_list_of_texts_is_the_first_cell_of_every_row_and_keeps_empty_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    texts = [*HARD[:2], "", *HARD[2:]]
    if suffix == ".xlsx":
        write_sheet(path, [*([text or None] for text in texts), [None], [None]])
    else:
        quoted = ['"' + text.replace('"', '""') + '"' if text else "" for text in texts]
        path.write_bytes(b"\xef\xbb\xbf" + ("\n".join(quoted) + "\n\n\n").encode())
    assert read_texts(path) == texts


def test_a_list_of_texts_may_have_stray_quotes_and_further_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('he said "yes" twice, loudly\n second ,x\n"a "" b"\n', encoding="utf-8")
    assert read_texts(path) == ['he said "yes" twice', "second", 'a " b']


def test_a_list_of_texts_may_hold_long_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x" * 200_000 + "\n", encoding="utf-8")
    assert [len(text) for text in read_texts(path)] == [200_000]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the csv module of Python 3.10 refuses NUL bytes")
def test_a_list_of_texts_may_hold_nul_bytes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a\0b\nc\n")
    assert read_texts(path) == ["a\0b", "c"]


def test_a_file_that_is_no_sheet_or_an_empty_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"en\na\n")
    for read in (read_texts, lambda path: read_records(TableSpec(str(path)))):
        with pytest.raises(CrosslignError, match=r"t\.xlsx: cannot be read as an Excel sheet: "):
            read(tmp_path / "t.xlsx")
    write_sheet(tmp_path / "e.xlsx", [])
    with pytest.raises(CrosslignError, match=r"e\.xlsx: the file is empty"):
        read_records(TableSpec(str(tmp_path / "e.xlsx")))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_written_table_is_read_back_whatever_its_cells_hold(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    rows = [{"id": str(i), "en": text} for i, text in enumerate([*HARD, "a\rb", "\r", "a\r\nb"])]
    path.write_bytes(written_table(rows, ("id", "en"), suffix))
    assert [dict(record) for _, record in read_file(path)[0]] == rows


def test_a_cell_beyond_the_header_of_a_sheet_is_told(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "t.xlsx", [["id", "en"], [1, "a", None, " "], [2, "b", None, "lost"]])
    with pytest.raises(CrosslignError, match=r"t\.xlsx, row 2.*4 cells, but the header has 2 columns"):
        read_file(path)


def test_two_columns_of_one_name_in_a_sheet_are_refused(tmp_path: Path) -> None:
    write_sheet(tmp_path / "t.xlsx", [["en", "sw", "sw"], ["a", "b", "c"]])
    with pytest.raises(CrosslignError, match=r"field 'sw': two columns have this name"):
        read_records(TableSpec(str(tmp_path / "t.xlsx")))


@pytest.mark.parametrize("read", [read_texts, lambda path: read_records(TableSpec(str(path)))], ids=["list", "table"])
def test_without_openpyxl_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object
) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(CrosslignError, match=r"t\.xlsx: .*needs openpyxl.*pip install 'crosslign\[xlsx\]'.*as CSV"):
        read(tmp_path / "t.xlsx")  # type: ignore[operator]


def test_a_list_in_another_format_or_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a\n")
    with pytest.raises(
        CrosslignError, match=r"unknown kind of file '\.txt'; a list of texts is \.csv, \.tsv or \.xlsx"
    ):
        read_texts(tmp_path / "t.txt")
    (tmp_path / "t.csv").write_bytes(b"good\nbad \xff\n")
    with pytest.raises(CrosslignError, match=r"invalid UTF-8 \(byte 0xff in line 2\)"):
        read_texts(tmp_path / "t.csv")
    (tmp_path / "e.csv").write_bytes(b"\xef\xbb\xbf\n")
    with pytest.raises(CrosslignError, match=r"e\.csv: the file is empty"):
        read_texts(tmp_path / "e.csv")


def write_rows(path: Path, rows: list[list[str]]) -> Path:
    """A header and rows in the format of the suffix."""
    header, *texts = rows
    if path.suffix == ".xlsx":
        return write_sheet(path, list(rows))
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table({name: list(cells) for name, *cells in zip(*rows, strict=True)}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in texts))
    else:
        path.write_text("".join({".csv": ",", ".tsv": "\t"}[path.suffix].join(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", READERS)
def test_limits_hold_for_every_format_and_can_be_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    rows = [["id", "en"], *([str(n), "a"] for n in range(4))]
    path = write_rows(tmp_path / f"t{suffix}", rows)
    for name, value, most in (("ROWS", "3", "5"), ("COLUMNS", "1", "2")):
        monkeypatch.setenv(f"CROSSLIGN_MAX_{name}", value)
        with pytest.raises(CrosslignError, match=rf"t\{suffix}: has .* {name.lower()}.* CROSSLIGN_MAX_{name} sets"):
            read_file(path)
        monkeypatch.setenv(f"CROSSLIGN_MAX_{name}", most)
        assert len(read_file(path)[0]) == 4


def test_a_list_of_texts_has_the_limit_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLIGN_MAX_ROWS", "2")
    with pytest.raises(CrosslignError, match="CROSSLIGN_MAX_ROWS"):
        read_texts(write_rows(tmp_path / "t.csv", [["a"], ["b"], ["c"]]))


@pytest.mark.parametrize("suffix", [".parquet", ".xlsx"])
def test_what_a_packed_file_unpacks_to_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = write_rows(tmp_path / f"t{suffix}", [["en"], *(["x" * 30_000 + str(n)] for n in range(40))])
    assert path.stat().st_size < 1_000_000
    assert len(read_file(path)[0]) == 40
    monkeypatch.setenv("CROSSLIGN_MAX_UNPACKED_MB", "1")
    with pytest.raises(CrosslignError, match="has 1 MB when it is unpacked; at most 1 are read"):
        read_file(path)


def test_a_column_that_stores_each_text_once_is_read_as_texts(tmp_path: Path) -> None:
    column = pyarrow.DictionaryArray.from_arrays([0, 1, 0], ["a", "b"])
    parquet.write_table(pyarrow.table({"en": column}), tmp_path / "t.parquet")
    assert [record["en"] for _, record in read_file(tmp_path / "t.parquet")[0]] == ["a", "b", "a"]
