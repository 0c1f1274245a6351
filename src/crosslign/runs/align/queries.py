"""The first stage: the tables that are trained on and measured with, translated where a language is missing, split."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosslign.data.files import written_table
from crosslign.data.load import TableSpec, require_table
from crosslign.data.provenance import SHA256, side_file, write_provenance
from crosslign.data.schema import QueryTable, Row
from crosslign.evaluation.rates import MIN_JUDGED
from crosslign.evaluation.tasks.tables import BENIGN_HELDOUT
from crosslign.languages import english_name
from crosslign.storage import write_atomically
from crosslign.translation import Translator, TranslatorSettings, translators
from crosslign.translation.output import TranslateRequest
from crosslign.translation.translate import translate_table
from crosslign.types import Announce, CrosslignError, Label

SOURCE = "en"  # of the harmless queries that ship
DEMO, BENIGN, STATEMENTS = "builtin:demo", "builtin:benign", "builtin:statements"
FEW = 100  # harmful rows, below which a difference is hard to show
MIN_HELD_OUT = 20  # where there are twice as many
TRAIN, HELD_OUT, HARMLESS, TOLD, OWN = "train.csv", "heldout.csv", "harmless.csv", "statements.csv", "own_harmless.csv"
TRAINED = ("train", "harmless", "told")  # the fields of `Tables` that are trained on


@dataclass(frozen=True)
class Wanted:
    """Which queries, in which languages.

    Fields:
        queries, benign: query tables, as for `crosslign validate`.
        languages: to align in; the source language is English.
        translator: `NAME[:WHAT]` for languages that a table lacks; None: there is none.
        holdout: the share of the harmful rows that is measured with, and not trained on.
    """

    languages: Sequence[str]
    queries: str = DEMO
    benign: str = BENIGN
    translator: str | None = None
    translator_url: str | None = None
    holdout: float = 1 / 3
    cache: str | None = None


@dataclass(frozen=True)
class Sources:
    """The tables as they are given, and the translator where one of them lacks a language."""

    queries: QueryTable
    benign: QueryTable
    statements: QueryTable
    measured: QueryTable
    translator: Translator | None

    def marks(self) -> dict[str, Any]:
        """All that the stage's files depend on besides what was asked for."""
        tables = (self.queries, self.benign, self.statements, self.measured)
        marks = {table.name: table.fingerprint() for table in tables}
        return {"tables": marks, "translator": None if self.translator is None else dict(self.translator.identity())}


def read_sources(wanted: Wanted) -> Sources:
    """Read the tables and check the languages. Nothing is written or translated.

    Raises CrosslignError for an unknown language, a table that cannot be read, or a language that one lacks without a
    translator that has it.
    """
    specs: list[tuple[str, Label]] = [
        (wanted.queries, "harmful"),
        (wanted.benign, "benign"),
        (STATEMENTS, "benign"),
        (BENIGN_HELDOUT, "benign"),
    ]
    tables = [require_table(TableSpec(path, label=label), SOURCE, None) for path, label in specs]
    _check_languages(wanted.languages)
    lacks = {table.name: missing for table in tables if (missing := _missing(table, wanted.languages))}
    translator = None
    if lacks:
        if wanted.translator is None:
            names = "; ".join(f"{name} lacks {', '.join(codes)}" for name, codes in lacks.items())
            raise CrosslignError(
                f"--translator: {names}, and no translator is named. Name one, for example --translator seq2seq (see "
                "crosslign translate --help). The tables of --queries and --benign may have these columns; those that "
                "ship need a translator."
            )
        settings = TranslatorSettings(url=wanted.translator_url)
        translator = translators.from_spec(wanted.translator, Translator, settings=settings)
        for code in dict.fromkeys(code for codes in lacks.values() for code in codes):
            translator.check(SOURCE, code)
    queries, benign, statements, measured = tables
    return Sources(queries, benign, statements, measured, translator)


def _check_languages(languages: Sequence[str]) -> None:
    if not languages:
        raise CrosslignError("--languages: name at least one, for example --languages sw,bn.")
    for code in languages:
        try:
            english_name(code)
        except CrosslignError as error:
            raise CrosslignError(f"--languages: {error}{_nearest_language(code)}") from error
    if SOURCE in languages:
        raise CrosslignError(
            f"--languages: {SOURCE} is the language that safety comes from; it is always measured. Leave it out."
        )
    if len(set(languages)) < len(languages):
        raise CrosslignError("--languages: names a language twice.")


def _nearest_language(text: str) -> str:
    """A hint for what is no code: the language of that name, or those whose codes look like it."""

    known = require_table(TableSpec(BENIGN), SOURCE, None).languages
    names = {english_name(code).lower(): code for code in known} | {code: code for code in known}
    near = dict.fromkeys(names[name] for name in difflib.get_close_matches(text.lower(), names, n=3))
    return f" Did you mean {' or '.join(f'{code} ({english_name(code)})' for code in near)}?" if near else ""


def _missing(table: QueryTable, languages: Sequence[str]) -> list[str]:
    return [code for code in languages if code not in table.languages]


@dataclass(frozen=True)
class Tables:
    """What the stage has made, for the recipe and for a person.

    Fields:
        train, harmless: tables to train on. told: those whose teacher is told that they are harmless, with their
            numbers of rows: the statements, and harmless rows from where the harmful ones come from.
        tasks: to measure with.
        said: lines for a person.
    """

    train: str
    harmless: str
    told: dict[str, int]
    tasks: list[str]
    said: list[str]


def make_tables(wanted: Wanted, sources: Sources, folder: Path, announce: Announce) -> Tables:
    """Write the tables of the stage into `folder`, translated where a language is missing.

    Raises CrosslignError if a language would have too few harmful rows to measure with, or none to train on.
    """
    languages = [SOURCE, *wanted.languages]

    def whole(table: QueryTable, name: str) -> QueryTable:
        if not (missing := _missing(table, wanted.languages)):
            return table
        assert sources.translator is not None
        place, rejected = folder / f"{name}_translated.csv", folder / f"{name}_rejected.csv"
        request = TranslateRequest(missing, place, rejected, cache=wanted.cache, overwrite=True)
        announce(translate_table(table, request, sources.translator, announce).summary())
        return require_table(TableSpec(str(place)), SOURCE, None)

    queries, benign = whole(sources.queries, "queries"), whole(sources.benign, "benign")
    statements = whole(sources.statements, "statements")
    measured = whole(sources.measured, "benign_heldout")
    kept, held_out = split(queries.rows, wanted.holdout)
    _check_counts(kept, held_out, languages, wanted)
    own = [row for row in kept if row.label == "benign"]
    write_rows(folder / TRAIN, queries, [row for row in kept if row.label != "benign"], languages)
    write_rows(folder / HELD_OUT, queries, held_out, languages)
    write_rows(folder / HARMLESS, benign, by_chance(benign.rows), languages)
    # No id of a user's table may be one of these.
    prefixed = [replace(row, id=f"{STATEMENTS}/{row.id}") for row in by_chance(statements.rows)]
    write_rows(folder / TOLD, statements, prefixed, languages)
    told = {str(folder / TOLD): len(prefixed)}
    if own:
        write_rows(folder / OWN, queries, own, languages)
        told[str(folder / OWN)] = len(own)
    else:  # of a call before this one
        for path in (folder / OWN, side_file(folder / OWN)):
            path.unlink(missing_ok=True)
    tasks = [f"table:harmful:{folder / HELD_OUT}"]
    tasks.append(BENIGN_HELDOUT if measured is sources.measured else f"table:benign:{measured.name}")
    said = _said(wanted, sources, kept, held_out, (len(benign.rows), len(statements.rows)))
    return Tables(str(folder / TRAIN), str(folder / HARMLESS), told, tasks, said)


def by_chance(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order of a hash of their ids, so that the first ones are a fair part of a table."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"align|{row.id}".encode("utf-8", "surrogatepass")).digest())


def split(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on, the harmful ones first, and harmful ones to measure with; both in the order of `by_chance`.

    Held out is `share` of the harmful rows, or `MIN_HELD_OUT` if that is more and no more than half of them.
    """
    ordered = by_chance(rows)
    harmful = [row for row in ordered if row.label == "harmful"]
    count = max(round(share * len(harmful)), min(MIN_HELD_OUT, len(harmful) // 2))
    return harmful[count:] + [row for row in ordered if row.label != "harmful"], harmful[:count]


def _check_counts(kept: Sequence[Row], held_out: Sequence[Row], languages: Sequence[str], wanted: Wanted) -> None:
    for code in languages:
        number = sum(code in row.texts for row in held_out)
        if number < MIN_JUDGED:
            raise CrosslignError(
                f"{wanted.queries}: {number} harmful rows in {code} are held out; a rate needs {MIN_JUDGED}. Give a "
                "table with more harmful rows (--queries), hold out a larger share (--holdout), or leave the language "
                "out of --languages."
            )
        if not any(code in row.texts for row in kept if row.label == "harmful"):
            raise CrosslignError(
                f"{wanted.queries}: no harmful row in {code} is left to train on. Give a table with more of them "
                "(--queries), or hold out a smaller share (--holdout)."
            )


def write_rows(path: Path, table: QueryTable, rows: Sequence[Row], languages: Sequence[str]) -> None:
    """Some rows of a table as a table of its own, with what is known of where its texts come from."""
    cells = [
        {"id": row.id, "label": row.label, "category": row.category or ""}
        | {code: row.texts.get(code, "") for code in languages}
        for row in rows
    ]
    data = written_table(cells, ("id", "label", "category", *languages), path.suffix)
    if table.provenance is not None:
        write_provenance(path, {**table.provenance, SHA256: hashlib.sha256(data).hexdigest()})
    else:  # of a table that stood here before
        side_file(path).unlink(missing_ok=True)
    write_atomically(path, data)


def _said(
    wanted: Wanted, sources: Sources, kept: Sequence[Row], held_out: Sequence[Row], harmless: tuple[int, int]
) -> list[str]:
    harmful, own = (sum(row.label == label for row in kept) for label in ("harmful", "benign"))
    lines = [
        f"{wanted.queries}: {harmful} harmful rows to train on, {len(held_out)} others to measure with (--holdout), "
        f"{own} harmless ones and {len(kept) - harmful - own} without a label to train on. {wanted.benign}: "
        f"{harmless[0]} harmless rows to train on (--benign), and {harmless[1]} statements. "
        f"Over-refusal is measured on {BENIGN_HELDOUT}."
    ]
    if not own:
        lines.append(
            f"{wanted.queries} has no harmless rows. A model trained without any may refuse harmless requests that are "
            "written like the harmful ones. Bring some from where these come from, labelled benign."
        )
    if harmful + len(held_out) < FEW:
        lines.append(
            f"{harmful + len(held_out)} harmful rows are few: enough to see every part work, too few to show a small "
            "difference. Give more by --queries."
        )
    if sources.translator is not None:
        lines.append(
            f"Translated by {wanted.translator} (--translator); only what passes every check is used, and what fails "
            "stands in the files *_rejected.csv."
        )
    return lines
