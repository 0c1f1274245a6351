"""Query tables: rows of parallel text, checked, with stable ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from crosslign.types import LABELS, CrosslignError, Label, Query

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a table: where it stands and what to do."""

    severity: Severity
    file: str
    row: int | None
    field: str | None
    message: str

    def __str__(self) -> str:
        place = self.file
        if self.row is not None:
            place += f", row {self.row}"
        if self.field is not None:
            place += f", field {self.field!r}"
        return f"{self.severity}: {place}: {self.message}"


class DataError(CrosslignError):
    """A query table has errors; the message lists them."""

    def __init__(self, problems: Sequence[Problem], most: int = 20) -> None:
        self.problems = tuple(problems)
        lines = [str(p) for p in problems[:most]]
        if len(problems) > most:
            lines.append(f"... and {len(problems) - most} more")
        super().__init__("\n".join(lines))


@dataclass(frozen=True, slots=True)
class Row:
    """One request in all its languages. `number` counts data rows from 1, the header not included."""

    number: int
    id: str
    texts: Mapping[str, str]
    label: Label
    category: str | None


@dataclass(frozen=True)
class QueryTable:
    """The checked rows of one file or hub dataset. `excluded` holds the keys of queries that are left out."""

    name: str
    source_language: str
    languages: tuple[str, ...]
    rows: tuple[Row, ...]
    warnings: tuple[Problem, ...] = ()
    weight: float = 1.0
    excluded: frozenset[str] = frozenset()

    def queries(self, languages: Sequence[str] | None = None) -> Iterator[Query]:
        """Every (row, language) that has a text, languages in the given order within each row."""
        for row in self.rows:
            for language in languages or self.languages:
                if language not in row.texts:
                    continue
                query = Query(
                    id=row.id,
                    language=language,
                    text=row.texts[language],
                    source_language=self.source_language,
                    source_text=row.texts[self.source_language],
                    label=row.label,
                    category=row.category,
                )
                if query.key not in self.excluded:
                    yield query

    def fingerprint(self) -> str:
        """Hash of everything that training can see of the table."""
        digest = hashlib.sha256()
        for query in self.queries():
            for part in (query.id, query.language, query.text, query.source_text, query.label, query.category or ""):
                digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()[:16]


def content_id(texts: Mapping[str, str], source_language: str) -> str:
    """A stable id for a row that brings none: a hash of its source text."""
    return "q-" + hashlib.sha256(texts[source_language].encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass
class _Check:
    file: str
    problems: list[Problem] = field(default_factory=list)

    def add(self, severity: Severity, row: int | None, name: str | None, message: str) -> None:
        self.problems.append(Problem(severity, self.file, row, name, message))


def build_table(
    name: str,
    records: Sequence[tuple[int, Mapping[str, object]]],
    *,
    columns: Mapping[str, str],
    source_language: str,
    languages: Sequence[str],
    default_label: Label = "unlabelled",
    weight: float = 1.0,
) -> tuple[QueryTable | None, list[Problem]]:
    """Check records and make a table of them.

    Args:
        name: the file or dataset, as problems will name it.
        records: (row number, record) pairs; a record maps column names to cell values.
        columns: language code, or `id`, `label`, `category`, to the column that holds it.
        source_language: its text must be present in every row.
        languages: the languages to read; each must have a text in at least one row.
        default_label: for rows without a label of their own.

    Returns:
        The table (None if there are errors) and all problems, errors and warnings, in row order.
    """
    check = _Check(name)
    if not records:
        check.add("error", None, None, "the table has no rows.")
        return None, check.problems
    rows: list[Row] = []
    ids: dict[str, int] = {}
    seen_texts: dict[tuple[str, str], int] = {}
    for number, record in records:
        texts = _texts(check, number, record, columns, source_language, languages)
        label = _label(check, number, record, columns, default_label)
        if source_language not in texts:
            continue
        raw_id = _cell(record, columns, "id")
        row_id = raw_id or content_id(texts, source_language)
        if row_id in ids:
            what = f"the id {row_id!r}" if raw_id else "the source text (its hash is the row's id)"
            check.add(
                "error",
                number,
                columns.get("id") if raw_id else columns[source_language],
                f"{what} stands in row {ids[row_id]} already; ids must be unique. Remove one of the rows.",
            )
            continue
        ids[row_id] = number
        for language, text in texts.items():
            first = seen_texts.setdefault((language, text), number)
            if first != number:
                check.add("warning", number, columns[language], f"the same text as in row {first}.")
            if language != source_language and text == texts[source_language]:
                check.add(
                    "warning", number, columns[language], f"equals the source text ({source_language}): not translated?"
                )
        rows.append(Row(number, row_id, texts, label, _cell(record, columns, "category") or None))
    counts = Counter(language for row in rows for language in row.texts)
    for language in languages:
        if not counts[language] and rows:
            check.add("error", None, columns[language], f"no row has a text in {language!r}, which was asked for.")
    if any(p.severity == "error" for p in check.problems):
        return None, check.problems
    return QueryTable(
        name, source_language, tuple(languages), tuple(rows), tuple(check.problems), weight
    ), check.problems


def _cell(record: Mapping[str, object], columns: Mapping[str, str], name: str) -> str:
    value = record.get(columns[name]) if name in columns else None
    return "" if value is None else str(value).strip()


def _texts(
    check: _Check,
    number: int,
    record: Mapping[str, object],
    columns: Mapping[str, str],
    source: str,
    languages: Sequence[str],
) -> dict[str, str]:
    texts: dict[str, str] = {}
    for language in dict.fromkeys((source, *languages)):
        value = record.get(columns[language])
        if value is not None and not isinstance(value, str):
            check.add("error", number, columns[language], f"expected text, found {type(value).__name__}.")
            continue
        text = (value or "").strip()
        if text:
            texts[language] = text
        elif language == source:
            check.add(
                "error",
                number,
                columns[language],
                f"the source text ({source}) is {'missing' if value is None else 'empty'}; every row needs one.",
            )
    return texts


def _label(
    check: _Check, number: int, record: Mapping[str, object], columns: Mapping[str, str], default: Label
) -> Label:
    raw = _cell(record, columns, "label")
    if not raw:
        return default
    for label in LABELS:
        if raw.lower() == label:
            return label
    check.add("error", number, columns["label"], f"unknown label {raw!r}; valid: {', '.join(LABELS)}.")
    return default
