"""Read query tables: files (CSV, TSV, JSONL, Parquet, Excel), hub datasets, and the table that ships here."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from crosslign.data.schema import DataError, Problem, QueryTable, build_table
from crosslign.data.sheets import read_sheet
from crosslign.languages import is_language
from crosslign.types import CrosslignError, Label

RESERVED = ("id", "label", "category")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
BUILTIN = {"builtin:demo": "demo_queries.csv"}
MOST_CHARACTERS = 10_000_000  # of a CSV cell: the csv module's default, 131,072, is too low for some long prompts
Record = tuple[int, Mapping[str, object]]


@dataclass(frozen=True)
class TableSpec:
    """Which table to read and how; the fields of a recipe's `data.tables` entries.

    `columns` maps a language code, or id / label / category, to a column of another name. `where` keeps rows whose
    column has one of the given values. `skip` and `limit` then cut the kept rows, so that two runs can share one file
    without sharing rows.
    """

    path: str
    columns: Mapping[str, str] = field(default_factory=dict)
    label: Label = "unlabelled"
    weight: float = 1.0
    revision: str | None = None
    split: str = "train"
    config_name: str | None = None
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    skip: int = 0
    limit: int | None = None


def load_table(
    spec: TableSpec,
    source_language: str = "en",
    languages: Sequence[str] | None = None,
    *,
    missing: Literal["error", "skip"] = "error",
) -> tuple[QueryTable | None, list[Problem]]:
    """Read and check one table.

    `languages` None means every column that is a language and holds a text. With `missing="skip"`, a language that the
    table has no column for is left out, for tables that are mixed; other columns are not looked at.

    Returns the table, or None if there are errors, and all problems. Raises CrosslignError if the file cannot be read
    at all.
    """
    records, names = read_records(spec)
    columns = _resolve_columns(spec, names, source_language, languages if missing == "error" else None)
    records = _select(records, names, spec)
    if languages is None:
        present = [c for c in columns if c not in RESERVED]
        wanted = [c for c in present if c == source_language or any(r.get(columns[c]) for _, r in records)]
    else:
        wanted = [c for c in languages if c in columns]
    return build_table(
        spec.path,
        records,
        columns=columns,
        source_language=source_language,
        languages=wanted,
        default_label=spec.label,
        weight=spec.weight,
    )


def require_table(
    spec: TableSpec,
    source_language: str,
    languages: Sequence[str] | None,
    *,
    missing: Literal["error", "skip"] = "error",
) -> QueryTable:
    """`load_table`, raising DataError if the table has errors."""
    table, problems = load_table(spec, source_language, languages, missing=missing)
    if table is None:
        raise DataError([p for p in problems if p.severity == "error"])
    return table


def read_records(spec: TableSpec) -> tuple[list[Record], list[str]]:
    """All records with their row numbers (from 1) and the column names."""
    if spec.path in BUILTIN:
        data = resources.files("crosslign").joinpath("data", BUILTIN[spec.path]).read_bytes()
        return _read_delimited(data, spec.path, ",")
    path = Path(spec.path)
    if path.is_dir():
        raise CrosslignError(f"{spec.path}: is a folder; name a file of it ({', '.join(SUFFIXES)}).")
    if path.exists() or path.suffix.lower() in (*SUFFIXES, ".json", ".txt"):
        return _read_file(path)
    if spec.path.count("/") <= 1 and not spec.path.startswith((".", "/", "~", "builtin:")):
        return _read_hub(spec)
    raise CrosslignError(
        f"{spec.path}: no such file. A table is a file ({', '.join(SUFFIXES)}), a hub dataset id 'owner/name', "
        f"or {', '.join(BUILTIN)}."
    )


def read_texts(path: Path) -> list[str]:
    """The first cell of every row of a .csv, .tsv or .xlsx file that has no header, stripped.

    A row's place is its identity in such a file, so that empty rows stay, as ""; those at the end go. Quoting is read
    leniently: benchmarks that were written by hand have stray quotes. Raises CrosslignError if it cannot be read.
    """
    data = _bytes(path)
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        texts = [row[0].strip() if row else "" for row in read_sheet(data, str(path))]
    elif suffix in (".csv", ".tsv"):
        text = _decode(data, str(path), lambda before: before.count("\n") + 1)
        delimiter = "," if suffix == ".csv" else "\t"
        csv.field_size_limit(MOST_CHARACTERS)
        try:
            cells = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        except csv.Error as error:
            raise CrosslignError(f"{path}: not a well-formed table: {error}.") from error
        texts = [row[0].strip() if row else "" for row in cells]
    else:
        raise CrosslignError(f"{path}: unknown kind of file {suffix!r}; a list of texts is .csv, .tsv or .xlsx.")
    while texts and not texts[-1]:
        texts.pop()
    return texts


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CrosslignError(f"{path}: cannot be read: {error.strerror}.") from error
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise CrosslignError(f"{path}: the file is empty.")
    return data


def _read_file(path: Path) -> tuple[list[Record], list[str]]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        recipe = " A recipe is checked by `crosslign train RECIPE --dry-run`." if suffix in (".yaml", ".yml") else ""
        raise CrosslignError(
            f"{path}: unknown kind of file {suffix!r}; a query table is one of {', '.join(SUFFIXES)}.{recipe}"
        )
    data = _bytes(path)
    if suffix == ".xlsx":
        return _read_sheet(data, str(path))
    if suffix == ".parquet":
        return _read_parquet(data, str(path))
    if suffix == ".jsonl":
        return _read_jsonl(data, str(path))
    return _read_delimited(data, str(path), "," if suffix == ".csv" else "\t")


def _decode(data: bytes, name: str, rows_in: Callable[[str], int]) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        row = rows_in(data[: error.start].decode("utf-8") + "?")
        raise DataError(
            [
                Problem(
                    "error",
                    name,
                    row if row > 0 else None,
                    None,
                    f"invalid UTF-8 (byte 0x{data[error.start]:02x} in line {line}). Save the file as UTF-8.",
                )
            ]
        ) from error


def _read_delimited(data: bytes, name: str, delimiter: str) -> tuple[list[Record], list[str]]:
    csv.field_size_limit(MOST_CHARACTERS)

    def rows_in(text: str) -> int:
        return sum(bool(cells) for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) - 1

    text = _decode(data, name, rows_in)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[Record] = []
    number = 0
    try:
        names = [n.strip() for n in next(reader)]
        for cells in reader:
            if not cells:
                continue
            number += 1
            if len(cells) != len(names):
                raise DataError(
                    [
                        Problem(
                            "error",
                            name,
                            number,
                            None,
                            f"{len(cells)} cells, but the header has {len(names)} columns (near line "
                            f"{reader.line_num}). Is a comma or quote unescaped?",
                        )
                    ]
                )
            records.append((number, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise DataError(
            [
                Problem(
                    "error", name, number + 1, None, f"not a well-formed table: {error} (near line {reader.line_num})."
                )
            ]
        ) from error
    _check_names(names, name)
    return records, names


def _check_names(names: Sequence[str], name: str) -> None:
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError([Problem("error", name, None, twice, "two columns have this name.")])


def _read_sheet(data: bytes, name: str) -> tuple[list[Record], list[str]]:
    rows = [row for row in read_sheet(data, name) if any(row)]
    if not rows:
        raise CrosslignError(f"{name}: the file is empty.")
    names = [n.strip() for n in rows[0]]
    while names and not names[-1]:  # formatted but empty columns at the right
        names.pop()
    _check_names(names, name)
    # read-only sheets give short rows where the cells at their end are empty
    return [(n, dict(zip(names, [*row, *[""] * len(names)], strict=False))) for n, row in enumerate(rows[1:], 1)], names


def _read_jsonl(data: bytes, name: str) -> tuple[list[Record], list[str]]:
    records: list[Record] = []
    names: dict[str, None] = {}
    number = 0
    text = _decode(data, name, lambda before: sum(bool(line.strip()) for line in before.split("\n")))
    for line in text.split("\n"):
        if not line.strip():
            continue
        number += 1
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError([Problem("error", name, number, None, f"not JSON: {error}.")]) from error
        if not isinstance(record, dict):
            raise DataError([Problem("error", name, number, None, "expected a JSON object on the line.")])
        names.update(dict.fromkeys(record))
        records.append((number, record))
    return records, list(names)


def _read_parquet(data: bytes, name: str) -> tuple[list[Record], list[str]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(pyarrow.BufferReader(data))
    except Exception as error:  # pyarrow raises many kinds for a file that is cut off or not Parquet
        raise CrosslignError(f"{name}: cannot be read as Parquet: {error}") from error
    return list(enumerate(table.to_pylist(), start=1)), table.column_names


def _read_hub(spec: TableSpec) -> tuple[list[Record], list[str]]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(spec.path, spec.config_name, split=spec.split, revision=spec.revision)
    except Exception as error:  # the hub client raises many kinds; the cause decides what the user can do
        raise CrosslignError(
            f"{spec.path}: no file of this name here, and the hub dataset could not be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). "
            "Check the id, config_name, split and revision; for a gated set log in with `hf auth login`; without a "
            "network, download the file and name its path."
        ) from error
    return list(enumerate((dict(r) for r in dataset), start=1)), list(dataset.column_names)


def _resolve_columns(
    spec: TableSpec, names: Sequence[str], source: str, languages: Sequence[str] | None
) -> dict[str, str]:
    for key, column in spec.columns.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise CrosslignError(
                f"{spec.path}: columns maps {key!r} to {column!r}, which the table does not have.{hint} "
                f"Its columns: {', '.join(names)}."
            )
    mapped = set(spec.columns.values())
    columns = {n: n for n in names if n in RESERVED or (n not in mapped and is_language(n))}
    columns.update(spec.columns)
    for language in dict.fromkeys((source, *(languages or ()))):
        if language == "id":
            raise CrosslignError(
                f"{spec.path}: 'id' is the column of row ids; for Indonesian use the code 'ind', "
                "and map it if its column has another name: columns: {ind: NAME}."
            )
        if language not in columns:
            near = difflib.get_close_matches(language, names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            role = "source language" if language == source else "language"
            raise CrosslignError(
                f"{spec.path}: no column for the {role} {language!r}.{hint} Its columns: {', '.join(names)}. "
                f"If it has another name, map it: columns: {{{language}: NAME}}."
            )
    return columns


def _select(records: Sequence[Record], names: Sequence[str], spec: TableSpec) -> list[Record]:
    for column in spec.where:
        if column not in names:
            raise CrosslignError(f"{spec.path}: where names the column {column!r}; its columns: {', '.join(names)}.")
    kept = [(n, r) for n, r in records if all(str(r.get(c)) in set(v) for c, v in spec.where.items())]
    kept = kept[spec.skip :]
    kept = kept if spec.limit is None else kept[: spec.limit]
    if not kept and records:
        raise CrosslignError(f"{spec.path}: no row is left after where, skip and limit (the table has {len(records)}).")
    return kept


def summarise(table: QueryTable) -> dict[str, Any]:
    """Counts that a person wants to see: rows, texts a language, labels, categories, length percentiles."""
    lengths = {
        language: sorted(len(r.texts[language]) for r in table.rows if language in r.texts)
        for language in table.languages
    }

    def percentile(values: list[int], share: float) -> int:
        return values[min(len(values) - 1, int(share * len(values)))]

    return {
        "rows": len(table.rows),
        "labels": _counts(r.label for r in table.rows),
        "categories": _counts(r.category or "(none)" for r in table.rows),
        "languages": {
            language: {"texts": len(v), **{f"p{p}": percentile(v, p / 100) for p in (5, 50, 95)}, "max": v[-1]}
            for language, v in lengths.items()
            if v
        },
    }


def _counts(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
