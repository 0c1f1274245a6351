"""Query tables: rows of parallel text, checked, with stable ids."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crosslign.languages import english_name, likely_form
from crosslign.types import LABELS, CrosslignError, Label, Query
from crosslign.untrusted import is_blank, shown

Severity = Literal["error", "warning"]
_SHOWN = 60  # characters of a cell or a column's name in a problem
# What columns are often called, and what Windows reserves: each is the code of a language that tables seldom hold.
_WORDS = (
    " ans aux cnt col con doc inp key lab len log msg neg nul num pos prn ptr raw res row set src sys tag tgt txt typ "
    "url val ver "
)


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
            place += f", field {self.field[:_SHOWN]!r}"
        return shown(f"{self.severity}: {place}: {self.message}", one_line=True)


class DataError(CrosslignError):
    """A query table has errors; the message lists them."""

    def __init__(self, problems: Sequence[Problem], most: int = 20) -> None:
        self.problems = tuple(problems)
        lines = [str(p) for p in problems[:most]]
        if len(problems) > most:
            lines.append(f"... and {len(problems) - most} more")
        super().__init__("\n".join(lines))


def row_error(file: str, row: int | None, field: str | None, message: str) -> DataError:
    """The error of one place in a table."""
    return DataError([Problem("error", file, row, field, message)])


LOOK_ALIKE = "look_alike"  # category of a harmless row that only sounds harmful


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
    """The checked rows of one file or hub dataset.

    `excluded` holds the keys of queries that are left out, `provenance` what the file beside a table says of where its
    texts come from (`crosslign.data.provenance`).
    """

    name: str
    source_language: str
    languages: tuple[str, ...]
    rows: tuple[Row, ...]
    warnings: tuple[Problem, ...] = ()
    weight: float = 1.0
    excluded: frozenset[str] = frozenset()
    provenance: Mapping[str, Any] | None = None

    def queries(self, languages: Sequence[str] | None = None) -> Iterator[Query]:
        """Every (row, language) that has a text, languages in the given order within each row."""
        for row in self.rows:
            for language in self.languages if languages is None else languages:
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


def look_alike_hint(rows: Iterable[Row]) -> str | None:
    """What to say of harmless rows none of which only sounds harmful; None if there are no harmless rows either."""
    categories = [row.category for row in rows if row.label == "benign"]
    if not categories or LOOK_ALIKE in categories:
        return None
    return (
        f"no harmless row has the category {LOOK_ALIKE}. Add requests that only sound harmful, such as those of "
        "builtin:benign: a model that refuses by words refuses them first."
    )


def content_id(source_text: str) -> str:
    """A stable id for a row that brings none: a hash of its source text."""
    return "q-" + hashlib.sha256(source_text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def column_warnings(name: str, columns: Mapping[str, str], named: Collection[str]) -> list[Problem]:
    """What is odd about the columns of languages; `columns` has code to column, `named` the codes a user has named."""
    found: dict[str, list[str]] = {}
    for code in columns:
        found.setdefault(likely_form(code), []).append(code)
    problems = [
        Problem("warning", name, None, columns[code], f"the same language as {same[0]!r}: is one of them a mistake?")
        for same in found.values()
        for code in same[1:]
    ]
    for code in columns:
        if f" {code.lower()} " in _WORDS and code not in named:
            message = f"is read as texts in {english_name(code)}. If it is something else, name the languages."
            problems.append(Problem("warning", name, None, columns[code], message))
    return problems


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
    problems: list[Problem] = []

    def add(severity: Severity, row: int | None, key: str | None, message: str) -> None:
        problems.append(Problem(severity, name, row, key and columns[key], message))

    def cell(record: Mapping[str, object], key: str) -> str:
        value = record.get(columns[key]) if key in columns else None
        return "" if value is None else str(value).strip()

    if not records:
        add("error", None, None, "the table has no rows.")
        return None, problems
    rows: list[Row] = []
    ids: dict[str, int] = {}
    seen: dict[tuple[str, str], int] = {}
    for number, record in records:
        texts: dict[str, str] = {}
        for language in dict.fromkeys((source_language, *languages)):
            value = record.get(columns[language])
            if value is not None and not isinstance(value, str):
                add("error", number, language, f"expected text, found {type(value).__name__}.")
            elif text := (value or "").strip():
                texts[language] = text
                if is_blank(text):
                    add("warning", number, language, "the text has no visible character.")
            elif language == source_language:
                what = "missing" if value is None else "empty"
                add("error", number, language, f"the source text ({language}) is {what}; every row needs one.")
        said = cell(record, "label")
        label = next((one for one in LABELS if one == said.lower()), default_label)
        if said and said.lower() not in LABELS:
            add("error", number, "label", f"unknown label {said[:_SHOWN]!r}; valid: {', '.join(LABELS)}.")
        if source_language not in texts:
            continue
        own_id = cell(record, "id")
        row_id = own_id or content_id(texts[source_language])
        if row_id in ids:
            what = f"the id {row_id[:_SHOWN]!r}" if own_id else "the source text (its hash is the row's id)"
            message = f"{what} stands in row {ids[row_id]} already; ids must be unique. Remove one of the rows."
            add("error", number, "id" if own_id else source_language, message)
            continue
        ids[row_id] = number
        for language, text in texts.items():
            first = seen.setdefault((language, text), number)
            if first != number:
                add("warning", number, language, f"the same text as in row {first}.")
            if language != source_language and text == texts[source_language]:
                add("warning", number, language, f"equals the source text ({source_language}): not translated?")
        rows.append(Row(number, row_id, texts, label, cell(record, "category") or None))
    for language in languages:
        if rows and not any(language in row.texts for row in rows):
            add("error", None, language, f"no row has a text in {language!r}, which was asked for.")
    if any(p.severity == "error" for p in problems):
        return None, problems
    return QueryTable(name, source_language, tuple(languages), tuple(rows), tuple(problems), weight), problems
