"""Hostile query tables: files that are none, that grow when they are read, and cells of every wrong kind."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
from inputs import Hostile, written
from pyarrow import parquet

Make = Callable[[Path], Path]
ROWS = ("CROSSLIGN_MAX_ROWS",)
READERS = ("validate",)  # of inputs that take seconds: all commands read tables with the same functions
UNPACKED = ("when it is unpacked", "CROSSLIGN_MAX_UNPACKED_MB")


def _as(suffix: str, content: str | bytes) -> Make:
    return lambda path: written(content)(path.with_suffix(suffix))


def _replaced(make: Callable[[Path], Any], name: str = "table.csv") -> Make:
    def made(path: Path) -> Path:
        path.unlink()
        make(path.with_name(name))
        return path.with_name(name)

    return made


def _socket(path: Path) -> None:
    here = os.getcwd()  # a socket's path may not be long
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _jsonl(*rows: str) -> Make:
    return _as(".jsonl", "\n".join(rows) + "\n")


def _parquet(columns: dict[str, Any]) -> Make:
    def make(path: Path) -> Path:
        parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))
        return path.with_suffix(".parquet")

    return make


def _same_text(text: str, rows: int) -> Any:
    """A column that holds one text in every row and stores it once."""
    indices = pyarrow.array([0] * rows, pyarrow.int8())
    return pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([text]))


def _deep(depth: int) -> Any:
    kind = pyarrow.string()
    for _ in range(depth):
        kind = pyarrow.list_(kind)
    return pyarrow.array([None], kind)


def _sheet(rows: str, before: str = "", more: bytes = b"") -> Make:
    """An Excel file whose first sheet has this XML between its `sheetData` tags, and `before` before the root."""
    blank = io.BytesIO()
    openpyxl.Workbook().save(blank)
    text = (
        f'<?xml version="1.0"?>{before}<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        f'<dimension ref="A1:XFD1048576"/><sheetData>{rows}</sheetData></worksheet>'
    )

    def make(path: Path) -> Path:
        path = path.with_suffix(".xlsx")
        with zipfile.ZipFile(blank) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, text.encode() + more if name.endswith("sheet1.xml") else old.read(name))
        return path

    return make


def _row(number: int, *cells: str) -> str:
    inside = "".join(f'<c r="{c}{number}" t="inlineStr"><is><t>x{number}</t></is></c>' for c in cells)
    return f'<row r="{number}">{inside}</row>'


_LAUGHS = '<!DOCTYPE w [<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
_HEADER = '<row r="1"><c r="A1" t="inlineStr"><is><t>en</t></is></c></row>'
_LAUGHING = '<row r="2"><c r="A2" t="inlineStr"><is><t>&a11;</t></is></c></row>'
_GOOD = json.dumps({"id": "1", "label": "harmful", "en": "question", "sw": "swali"})

TABLES = [
    Hostile("pipe", _replaced(os.mkfifo), ("a pipe",)),
    Hostile("socket", _replaced(_socket), ("a socket",)),
    Hostile("device", _replaced(lambda path: path.symlink_to("/dev/zero")), ("a device",)),
    Hostile("folder", _replaced(Path.mkdir), ("folder",)),
    Hostile("folder called jsonl", _replaced(Path.mkdir, "table.jsonl"), ("folder",)),
    Hostile("empty", written(b""), ("empty",)),
    Hostile("packed", written(gzip.compress(b"id,en,sw\n1,a,b\n")), ("UTF-8",)),
    Hostile("bytes", written(bytes(range(256)) * 100), ("UTF-8",)),
    Hostile("csv of 100,000 columns", written(",".join(f"c{i}" for i in range(100_000))), ("CROSSLIGN_MAX_COLUMNS",)),
    Hostile("csv cell of 11 million characters", written("en,sw\n" + "x" * 11_000_000 + ",b\n"), ("field limit",)),
    Hostile("csv column of a million characters", written("n" * 1_000_000 + "\na\n"), ("no column",)),
    Hostile("csv open quote", written('en,sw\n"a,b\n'), ("well-formed",)),
    Hostile("csv long label", written("en,sw,label\na,b," + "x" * 100_000 + "\n"), ("unknown label",)),
    Hostile("csv escape sequences", written("en,sw,label\na,b,\x1b[2J\x1b]0;owned\x07\n"), ("unknown label",)),
    Hostile("jsonl deep row", _jsonl(_GOOD, '{"en": ' + "[" * 100_000), ("deep", "row 2")),
    Hostile("jsonl rather deep row", _jsonl('{"en": ' + "[" * 80 + "]" * 80 + "}"), ("CROSSLIGN_MAX_DEPTH",)),
    Hostile("jsonl number of 10,000 digits", _jsonl(_GOOD, '{"en": ' + "9" * 10_000 + "}"), ("not JSON", "row 2")),
    Hostile("jsonl id of 10,000 digits", _jsonl('{"en": "a", "sw": "b", "id": ' + "9" * 10_000 + "}"), ("not JSON",)),
    Hostile("jsonl mapping as text", _jsonl('{"en": {"a": 1}, "sw": "b"}'), ("expected text, found dict",)),
    Hostile("jsonl list as text", _jsonl('{"en": "a", "sw": ["b"]}'), ("expected text, found list",)),
    Hostile("jsonl half a row", _jsonl(_GOOD, _GOOD[:20]), ("not JSON", "row 2")),
    Hostile("jsonl many names", _jsonl(*(f'{{"c{i}": 1}}' for i in range(2000))), ("CROSSLIGN_MAX_COLUMNS",)),
    Hostile("parquet of 3 million rows", _parquet({"en": _same_text("a", 3_000_000)}), ("3000000 rows", *ROWS)),
    Hostile("parquet one text in every row", _parquet({"en": _same_text("x" * 1_000_000, 900_000)}), UNPACKED),
    Hostile("parquet number", _parquet({"en": [Decimal("9" * 70)], "sw": ["b"]}), ("found Decimal",)),
    Hostile("parquet deep", _parquet({"en": _deep(200)}), ()),
    Hostile("parquet many columns", _parquet({f"c{i}": ["a"] for i in range(2000)}), ("CROSSLIGN_MAX_COLUMNS",)),
    Hostile("parquet cut off", _as(".parquet", b"PAR1" + b"\x15" * 500), ("cannot be read as Parquet",)),
    Hostile("xlsx that is no zip", _as(".xlsx", b"PK\x03\x04" + b"x" * 500), ("cannot be read as an Excel sheet",)),
    Hostile("xlsx of 600 MB", _sheet(_HEADER, more=b" " * 600_000_000), UNPACKED, only=READERS),
    Hostile("xlsx entities", _sheet(_HEADER + _LAUGHING, _LAUGHS + "]>"), ("cannot be read as an Excel sheet",)),
    Hostile("xlsx row of a billion", _sheet(_HEADER + '<row r="999999999"/>'), ROWS, only=READERS),
    Hostile("xlsx wide rows", _sheet("".join(_row(n, "ZZZ") for n in range(1, 5000))), ("18278 columns",)),
    Hostile(
        "xlsx number of 10,000 digits",
        _sheet(f'{_HEADER}<row r="2"><c r="A2"><v>{"9" * 10_000}</v></c></row>'),
        ("cannot be read as an Excel sheet",),
    ),
]
