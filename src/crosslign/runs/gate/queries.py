"""Which queries the gate tries: the same rows in every language, drawn by a hash of their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from crosslign.data.schema import QueryTable
from crosslign.types import CrosslignError, Label, Query


def queries_to_probe(
    tables: Sequence[QueryTable], languages: Sequence[str], count: int, seed: int
) -> tuple[list[Query], list[str]]:
    """At most `count` harmful and benign queries of each language, and notes on what the tables lack.

    Raises CrosslignError if there is no harmful one.
    """
    harmful = select(tables, languages, count, "harmful", seed)
    if not any(harmful.values()):
        raise CrosslignError(
            "the recipe's tables have no harmful query in its languages, so there is nothing to probe. Mark such rows "
            "in a column 'label', or whole tables with `label: harmful` in data.tables."
        )
    benign = select(tables, languages, count, "benign", seed)
    queries = [query for code in languages for query in (*harmful[code], *benign[code])]
    return queries, too_few_rows(harmful, benign, count)


def first_harmful(queries: Sequence[Query], count: int) -> list[Query]:
    """At most `count` harmful queries of each language, in their order."""
    by_language: dict[str, list[Query]] = {}
    for query in queries:
        if query.label == "harmful":
            by_language.setdefault(query.language, []).append(query)
    return [query for own in by_language.values() for query in own[:count]]


def select(
    tables: Sequence[QueryTable], languages: Sequence[str], count: int, label: Label, seed: int
) -> dict[str, list[Query]]:
    """At most `count` queries of a label for each language: the same rows in all languages, as far as they have texts.

    The order is a hash of seed and row id, so more queries are the same ones and others. Tables of weight 0 are not
    trained on and not probed.
    """
    chosen: dict[str, list[Query]] = {}
    trained = [table for table in tables if table.weight > 0]
    for language in languages:
        found = [q for t in trained if language in t.languages for q in t.queries([language]) if q.label == label]
        chosen[language] = sorted(found, key=lambda q: _draw(seed, q.id))[:count]
    return chosen


def _draw(seed: int, row: str) -> bytes:
    return hashlib.sha256(f"probe|{seed}|{row}".encode("utf-8", "surrogatepass")).digest()


def too_few_rows(
    harmful: Mapping[str, Sequence[Query]], benign: Mapping[str, Sequence[Query]], count: int
) -> list[str]:
    """Notes on languages that have fewer queries than were asked for."""
    notes = []
    for label, chosen in (("harmful", harmful), ("benign", benign)):
        short = [f"{code} {len(queries)}" for code, queries in chosen.items() if len(queries) < count]
        if short and any(chosen.values()):
            notes.append(
                f"{count} {label} queries a language were asked for; the tables have only: {', '.join(short)}."
            )
    if not any(benign.values()):
        notes.append("The tables have no benign query: whether the teacher over-refuses is not known.")
    return notes
