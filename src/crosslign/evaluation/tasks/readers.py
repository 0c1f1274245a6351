"""Readers of the shapes that benchmarks come in: a column for each language, or a row for each text."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crosslign.data.files import Records, read_file
from crosslign.data.load import its_columns
from crosslign.data.schema import DataError, Problem, content_id, row_error
from crosslign.evaluation.tasks.base import Place, Reading, listing
from crosslign.evaluation.tasks.resources import RESOURCE_LEVEL
from crosslign.languages import is_language
from crosslign.types import LABELS, CrosslignError, Label, Query

LabelOf = Callable[[Mapping[str, object]], Label]
ID_COLUMN = "id"
ENGLISH = "en"


def always(label: Label) -> LabelOf:
    """Every row has this label, unless it brings one of ours in a column `label`."""

    def label_of(record: Mapping[str, object]) -> Label:
        own = text_of(record.get("label")).lower()
        return next((one for one in LABELS if one == own), label)

    return label_of


@dataclass(frozen=True, slots=True)
class ParallelRow:
    """One request in all its languages, before it is checked. An empty id is replaced by a hash of the English text."""

    number: int
    id: str
    texts: Mapping[str, object]
    label: Label
    category: str


def parallel(
    name: str,
    rows: Iterable[ParallelRow],
    source_language: str,
    *,
    columns: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Reading:
    """Check rows of parallel text and give their queries.

    A row without a source text is left out, and so is one that repeats an earlier row word for word; both are counted
    in the notes. `columns` tells which column a language is in, for messages.

    Raises DataError: two rows with one id and different texts; a cell that is no text.
    """
    columns = columns or {}
    languages: dict[str, None] = {source_language: None}
    queries: list[Query] = []
    seen: dict[str, tuple[int, Mapping[str, str]]] = {}
    empty = repeated = 0
    problems: list[Problem] = []
    for row in rows:
        texts: dict[str, str] = {}
        for code, value in row.texts.items():
            if value is not None and not isinstance(value, str):
                message = f"expected text, found {type(value).__name__}."
                problems.append(Problem("error", name, row.number, columns.get(code, code), message))
            elif text := (value or "").strip():
                texts[code] = text
        if source_language not in texts:
            empty += 1
            continue
        languages.update(dict.fromkeys(texts))
        # The hash of the English text, so that ids do not depend on the source language.
        row_id = row.id or content_id(texts.get(ENGLISH, texts[source_language]))
        number, first = seen.setdefault(row_id, (row.number, texts))
        if first is texts:
            source = texts[source_language]
            for code, text in texts.items():
                queries.append(Query(row_id, code, text, source_language, source, row.label, row.category or None))
        elif first == texts or not row.id:
            repeated += 1
        else:
            message = f"the id {row_id!r} stands in row {number} already, with other texts; ids must be unique."
            problems.append(Problem("error", name, row.number, ID_COLUMN, message))
    if problems:
        raise DataError(problems)
    if not queries:
        raise CrosslignError(f"{name}: no row has a text in {source_language!r}, the source language.")
    all_notes = list(notes)
    if empty:
        all_notes.append(f"{empty} rows without a text in {source_language!r} are left out.")
    if repeated:
        all_notes.append(f"{repeated} rows that repeat another are left out.")
    return Reading(queries, tuple(languages), tuple(all_notes))


@dataclass(frozen=True)
class Wide:
    """Reads a table with one column a language.

    Fields:
        english: names that the column of English texts may have; the first that is there is taken.
        prefix: other languages' columns may be named by this and the code ("prompt_zh"). A column that is named by the
            code alone is always read. For Indonesian the code is "ind", as "id" and "prompt_id" hold ids.
        label: the label of a record.
        category: names that the column of categories may have.
    """

    english: tuple[str, ...] = (ENGLISH,)
    prefix: str = ""
    label: LabelOf = field(default_factory=lambda: always("harmful"))
    category: tuple[str, ...] = ("category",)

    def __call__(self, place: Place, source_language: str, languages: Sequence[str] | None) -> Reading:
        file = place.file()
        records, names = read_table(file)
        columns = self._columns(names)
        if source_language not in columns:
            known = " or ".join(map(repr, self.english)) if source_language == ENGLISH else repr(source_language)
            raise missing_column(file, known, names, f"the source language {source_language!r}")
        rows = [
            ParallelRow(
                number,
                own_id(number, record, file) if ID_COLUMN in names else "",
                {code: record.get(column) for code, column in columns.items()},
                self.label(record),
                category_of(record, self.category),
            )
            for number, record in records
        ]
        return parallel(str(file), rows, source_language, columns=columns)

    def _columns(self, names: Sequence[str]) -> dict[str, str]:
        columns = {code: name for name in names if (code := self._code(name)) is not None}
        english = next((name for name in self.english if name in names), None)
        return {ENGLISH: english, **{c: n for c, n in columns.items() if c != ENGLISH}} if english else columns

    def _code(self, name: str) -> str | None:
        if self.prefix and name.startswith(self.prefix):
            code = name.removeprefix(self.prefix)
            return code if code != ID_COLUMN and is_language(code) else None
        return name if name != ID_COLUMN and plain_code(name) else None


@dataclass(frozen=True)
class Long:
    """Reads a table with one row a text (`prompt`, `language`), whose translations share an id.

    Fields:
        names: how the file names languages, to codes; codes are understood always.
        label, category: see `Wide`.
    """

    names: Mapping[str, str]
    label: LabelOf
    category: tuple[str, ...]

    def __call__(self, place: Place, source_language: str, languages: Sequence[str] | None) -> Reading:
        file = place.file()
        records, names = read_table(file)
        require_columns(file, names, (ID_COLUMN, "language", "prompt"))
        rows: dict[str, dict[str, object]] = {}
        first: dict[str, tuple[int, Mapping[str, object]]] = {}
        repeated = 0
        for number, record in records:
            row_id = own_id(number, record, file)
            code = language_code(record.get("language"), self.names, str(file), number)
            texts = rows.setdefault(row_id, {})
            text = record.get("prompt")
            if code in texts and text == texts[code]:
                repeated += 1
            elif code in texts:
                message = f"the id {row_id!r} has another text in {code!r} already; each language may have one."
                raise row_error(str(file), number, "prompt", message)
            else:
                texts[code] = text
            # The labels of a row are its English text's, whatever row of the file that is.
            if row_id not in first or code == ENGLISH:
                first[row_id] = (number, record)
        made = []
        for row_id, texts in rows.items():
            number, record = first[row_id]
            made.append(ParallelRow(number, row_id, texts, self.label(record), category_of(record, self.category)))
        notes = [f"{repeated} texts that repeat another of their row are left out."] if repeated else []
        return parallel(str(file), made, source_language, notes=notes)


def own_id(number: int, record: Mapping[str, object], file: Path) -> str:
    """What the column `id` says. Raises DataError if it says nothing."""
    found = text_of(record.get(ID_COLUMN))
    if not found:
        raise row_error(str(file), number, ID_COLUMN, "the id is empty.")
    return found


def plain_code(name: str) -> bool:
    """Whether the name of a column, file or folder is meant as a language's code.

    Many short words ("tag", "url", "src") are ISO 639-3 codes too; a code of three letters must be a known one.
    """
    return (name in RESOURCE_LEVEL or len(name) == 2 or "-" in name) and is_language(name)


def read_table(file: Path) -> Records:
    """The records of a file and its column names, whatever the format."""
    records, names = read_file(file)
    if not records:
        raise CrosslignError(f"{file}: the table has no rows.")
    return records, names


def require_columns(file: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise CrosslignError for a column that the file lacks."""
    for column in columns:
        if column not in names:
            raise missing_column(file, repr(column), names, "this set")


def missing_column(file: Path, column: str, names: Sequence[str], what: str) -> CrosslignError:
    return CrosslignError(f"{file}: {what} needs a column {column}. {its_columns(names, column)}")


def language_code(value: object, names: Mapping[str, str], file: str, number: int) -> str:
    """The code of a language that a cell names ("Spanish", "spanish", "es")."""
    name = text_of(value)
    by_name = {k.lower(): v for k, v in names.items()}
    code = by_name.get(name.lower(), name)
    if code in names.values() or name in RESOURCE_LEVEL:
        return code
    if (len(name) <= 3 or "-" in name) and is_language(name):
        return name.lower() if len(name) <= 3 else name
    message = f"{name!r} is no language of this set; it has {listing(names)}, or use a code."
    raise row_error(file, number, "language", message)


def category_of(record: Mapping[str, object], columns: Sequence[str]) -> str:
    """The category in the first of `columns` that has one; a list, or text that is one, is joined."""
    for column in columns:
        value = record.get(column)
        if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
            # Text in brackets need not be a list.
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(value.strip())
        if isinstance(value, (list, tuple)):
            value = "; ".join(text_of(part) for part in value)
        if text_of(value):
            return text_of(value)
    return ""


def text_of(value: object) -> str:
    return "" if value is None else str(value).strip()
