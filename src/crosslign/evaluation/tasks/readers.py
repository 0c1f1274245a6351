"""Readers of the shapes that benchmarks come in: a column for each language, or a row for each text."""

from __future__ import annotations

import ast
import contextlib
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crosslign.data.load import Record, TableSpec, read_records
from crosslign.data.schema import DataError, Problem, build_table, content_id
from crosslign.evaluation.tasks.base import Place, Reading, listing
from crosslign.evaluation.tasks.resources import RESOURCE_LEVEL
from crosslign.languages import is_language
from crosslign.types import LABELS, CrosslignError, Label

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
    records: list[Record] = []
    seen: dict[str, tuple[int, Mapping[str, object]]] = {}
    empty = repeated = 0
    clashes: list[Problem] = []
    for row in rows:
        texts = {code: t for code, t in row.texts.items() if t is not None and (not isinstance(t, str) or t.strip())}
        if source_language not in texts:
            empty += 1
            continue
        languages.update(dict.fromkeys(texts))
        row_id = row.id or _content_id(texts, source_language)
        number, first = seen.setdefault(row_id, (row.number, texts))
        if number == row.number:
            cells = {columns.get(code, code): text for code, text in texts.items()}
            records.append((row.number, {**cells, "id": row_id, "label": row.label, "category": row.category}))
        elif first == texts or not row.id:
            repeated += 1
        else:
            message = f"the id {row_id!r} stands in row {number} already, with other texts; ids must be unique."
            clashes.append(Problem("error", name, row.number, ID_COLUMN, message))
    if clashes:
        raise DataError(clashes)
    if not records:
        raise CrosslignError(f"{name}: no row has a text in {source_language!r}, the source language.")
    own = {key: key for key in ("id", "label", "category")}
    table, problems = build_table(
        name,
        records,
        columns={**{code: columns.get(code, code) for code in languages}, **own},
        source_language=source_language,
        languages=list(languages),
    )
    if table is None:
        raise DataError([p for p in problems if p.severity == "error"])
    all_notes = list(notes)
    if empty:
        all_notes.append(f"{empty} rows without a text in {source_language!r} are left out.")
    if repeated:
        all_notes.append(f"{repeated} rows that repeat another are left out.")
    return Reading(list(table.queries()), table.languages, tuple(all_notes))


def _content_id(texts: Mapping[str, object], source_language: str) -> str:
    language = ENGLISH if ENGLISH in texts else source_language
    return content_id({language: str(texts[language]).strip()}, language)


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
        file = place.only_file()
        records, names = read_table(file)
        columns = self._columns(names)
        if source_language not in columns:
            known = " or ".join(map(repr, self.english)) if source_language == ENGLISH else repr(source_language)
            raise missing_column(file, known, names, f"the source language {source_language!r}")
        ids = ID_COLUMN in names
        rows = [
            ParallelRow(
                number,
                self._id(number, record, file) if ids else "",
                {code: record.get(column) for code, column in columns.items()},
                self.label(record),
                category_of(record, self.category),
            )
            for number, record in records
        ]
        return parallel(str(file), rows, source_language, columns=columns)

    def _id(self, number: int, record: Mapping[str, object], file: Path) -> str:
        own = text_of(record.get(ID_COLUMN))
        if not own:
            raise DataError([Problem("error", str(file), number, ID_COLUMN, "the id is empty.")])
        return own

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
    """Reads a table with one row a text, whose translations share an id.

    Fields:
        text, language: the columns of the text and of its language.
        names: how the file names languages, to codes; codes are understood always.
    """

    names: Mapping[str, str]
    text: str = "prompt"
    language: str = "language"
    label: LabelOf = field(default_factory=lambda: always("harmful"))
    category: tuple[str, ...] = ("category",)

    def __call__(self, place: Place, source_language: str, languages: Sequence[str] | None) -> Reading:
        file = place.only_file()
        records, names = read_table(file)
        for column in (ID_COLUMN, self.language, self.text):
            if column not in names:
                raise missing_column(file, repr(column), names, "this set")
        rows: dict[str, dict[str, object]] = {}
        first: dict[str, tuple[int, Mapping[str, object]]] = {}
        repeated = 0
        problems: list[Problem] = []
        for number, record in records:
            row_id = text_of(record.get(ID_COLUMN))
            code = language_code(record.get(self.language), self.names, str(file), number, self.language)
            if not row_id:
                problems.append(Problem("error", str(file), number, ID_COLUMN, "the id is empty."))
                continue
            texts = rows.setdefault(row_id, {})
            text = record.get(self.text)
            if code in texts and text == texts[code]:
                repeated += 1
            elif code in texts:
                message = f"the id {row_id!r} has another text in {code!r} already; each language may have one."
                problems.append(Problem("error", str(file), number, self.text, message))
            else:
                texts[code] = text
            # The labels of a row are its English text's, whatever row of the file that is.
            if row_id not in first or code == ENGLISH:
                first[row_id] = (number, record)
        if problems:
            raise DataError(problems)
        made = [
            ParallelRow(
                first[row_id][0],
                row_id,
                texts,
                self.label(first[row_id][1]),
                category_of(first[row_id][1], self.category),
            )
            for row_id, texts in rows.items()
        ]
        notes = [f"{repeated} texts that repeat another of their row are left out."] if repeated else []
        return parallel(str(file), made, source_language, notes=notes)


def plain_code(name: str) -> bool:
    """Whether the name of a column, file or folder is meant as a language's code.

    Many short words ("tag", "url", "src") are ISO 639-3 codes too; a code of three letters must be a known one.
    """
    return (name in RESOURCE_LEVEL or len(name) == 2 or "-" in name) and is_language(name)


def read_table(file: Path) -> tuple[list[Record], list[str]]:
    """The records of a file and its column names, whatever the format."""
    records, names = read_records(TableSpec(str(file)))
    if not records:
        raise CrosslignError(f"{file}: the table has no rows.")
    return records, names


def missing_column(file: Path, column: str, names: Sequence[str], what: str) -> CrosslignError:
    near = difflib.get_close_matches(column.strip("'"), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return CrosslignError(f"{file}: {what} needs a column {column}.{hint} Its columns: {listing(names)}.")


def language_code(value: object, names: Mapping[str, str], file: str, number: int, column: str) -> str:
    """The code of a language that a cell names ("Spanish", "spanish", "es")."""
    name = text_of(value)
    by_name = {k.lower(): v for k, v in names.items()}
    code = by_name.get(name.lower(), name)
    if code in names.values() or (len(name) <= 3 and is_language(name)) or (name in RESOURCE_LEVEL):
        return code
    message = f"{name!r} is no language of this set; it has {listing(names)}, or use a code."
    raise DataError([Problem("error", file, number, column, message)])


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
