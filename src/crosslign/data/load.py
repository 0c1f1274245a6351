"""Read query tables: files, hub datasets, and the tables that ship here."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crosslign.data.files import READERS, Record, Records, check_columns, check_rows, read_delimited, read_file
from crosslign.data.provenance import read_provenance
from crosslign.data.schema import DataError, Problem, QueryTable, build_table, column_warnings
from crosslign.languages import english_name, is_language
from crosslign.types import CrosslignError, Label, cause

RESERVED = ("id", "label", "category")
_SHOWN_COLUMNS, _SHOWN_CHARACTERS = 40, 60  # of a table's column names, in an error
# Harmless queries to train on and to test on are two tables, so that no filter has to be remembered to keep them apart.
BUILTIN = {
    "builtin:demo": "demo_queries.csv",
    "builtin:benign": "benign_queries.csv",
    "builtin:benign-heldout": "benign_heldout_queries.csv",
    "builtin:statements": "statement_queries.csv",
}


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
        wanted = [
            c for c in present if c == source_language or any(str(r.get(columns[c]) or "").strip() for _, r in records)
        ]
    else:
        wanted = [c for c in languages if c in columns]
    table, problems = build_table(
        spec.path,
        records,
        columns=columns,
        source_language=source_language,
        languages=wanted,
        default_label=spec.label,
        weight=spec.weight,
    )
    named = {source_language, *spec.columns, *(languages or ())}
    odd = column_warnings(spec.path, {code: columns[code] for code in wanted}, named)
    provenance, unread = _provenance(spec.path)
    odd += unread
    return table and replace(table, warnings=(*odd, *table.warnings), provenance=provenance), [*odd, *problems]


def _provenance(path: str) -> tuple[Mapping[str, Any] | None, list[Problem]]:
    """What stands beside a table that is a file, and a warning if that cannot be read."""
    if path in BUILTIN or not Path(path).is_file():
        return None, []
    try:
        return read_provenance(Path(path)), []
    except CrosslignError as error:
        return None, [Problem("warning", path, None, None, f"its provenance is not known. {error}")]


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


def read_records(spec: TableSpec) -> Records:
    """All records with their row numbers (from 1) and the column names."""
    if spec.path in BUILTIN:
        data = resources.files("crosslign").joinpath("data", BUILTIN[spec.path]).read_bytes()
        return read_delimited(data, spec.path)
    path = Path(spec.path)
    if path.is_dir():
        raise CrosslignError(f"{spec.path}: is a folder; name a file of it ({', '.join(READERS)}).")
    if path.exists() or path.suffix.lower() in (*READERS, ".json", ".txt"):
        return read_file(path)
    if spec.path.count("/") <= 1 and not spec.path.startswith((".", "/", "~", "builtin:")):
        return _read_hub(spec)
    raise CrosslignError(
        f"{spec.path}: no such file. A table is a file ({', '.join(READERS)}), a hub dataset id 'owner/name', "
        f"or {', '.join(BUILTIN)}."
    )


def _read_hub(spec: TableSpec) -> Records:
    from datasets import load_dataset

    try:
        dataset = load_dataset(spec.path, spec.config_name, split=spec.split, revision=spec.revision)
    except Exception as error:  # the hub client raises many kinds
        raise CrosslignError(
            f"{spec.path}: no file of this name here, and the hub dataset could not be loaded ({cause(error)}). "
            "Check the id, config_name, split and revision; for a gated set log in with `hf auth login`; without a "
            "network, download the file and name its path."
        ) from error
    check_rows(len(dataset), spec.path)
    check_columns(dataset.column_names, spec.path)
    return list(enumerate((dict(r) for r in dataset), start=1)), list(dataset.column_names)


def its_columns(names: Sequence[str], missing: str) -> str:
    """What an error about a missing column ends with: the nearest name, and the first of them."""
    short = [name[:_SHOWN_CHARACTERS] for name in names]
    near = difflib.get_close_matches(missing, short, n=1, cutoff=0.5)
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    columns = ", ".join(short[:_SHOWN_COLUMNS])
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Its columns: {columns}{more}."


def _resolve_columns(
    spec: TableSpec, names: Sequence[str], source: str, languages: Sequence[str] | None
) -> dict[str, str]:
    for key, column in spec.columns.items():
        if key not in RESERVED:
            english_name(key)  # raises if it is no language
        if column not in names:
            raise CrosslignError(
                f"{spec.path}: columns maps {key!r} to {column!r}, which the table does not have. "
                f"{its_columns(names, column)}"
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
            role = "source language" if language == source else "language"
            raise CrosslignError(
                f"{spec.path}: no column for the {role} {language!r}. {its_columns(names, language)} "
                f"If it has another name, map it: columns: {{{language}: NAME}}."
            )
    return columns


def _select(records: Sequence[Record], names: Sequence[str], spec: TableSpec) -> list[Record]:
    for column in spec.where:
        if column not in names:
            raise CrosslignError(f"{spec.path}: where names the column {column!r}. {its_columns(names, column)}")
    kept = [(n, r) for n, r in records if all(str(r.get(c)) in v for c, v in spec.where.items())]
    kept = kept[spec.skip :][: spec.limit]
    if not kept and records:
        raise CrosslignError(f"{spec.path}: no row is left after where, skip and limit (the table has {len(records)}).")
    return kept


def summarise(table: QueryTable) -> dict[str, Any]:
    """Counts that a person wants to see: rows, texts a language, labels, categories, percentiles of the lengths."""
    languages = {}
    for language in table.languages:
        lengths = [len(row.texts[language]) for row in table.rows if language in row.texts]
        if lengths:
            percentiles = {f"p{p}": round(np.percentile(lengths, p)) for p in (5, 50, 95)}
            languages[language] = {"texts": len(lengths), **percentiles, "max": max(lengths)}
    return {
        "rows": len(table.rows),
        "labels": dict(Counter(row.label for row in table.rows).most_common()),
        "categories": dict(Counter(row.category or "(none)" for row in table.rows).most_common()),
        "languages": languages,
    }
