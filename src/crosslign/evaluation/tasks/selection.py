"""Which rows of a set are used: the first ones skipped, the others drawn without chance, and the hash of the outcome.

A row is an id.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from crosslign.types import Label, Query


def fingerprint(queries: Iterable[Query]) -> str:
    """sha256 over everything that an evaluation can see of the queries, in the order of their keys."""
    digest = hashlib.sha256()
    for q in sorted(queries, key=lambda q: (q.id, q.language)):
        # ASCII-only JSON can hold any text, NUL bytes and lone surrogates included, and marks where a field ends.
        fields = [q.id, q.language, q.text, q.source_language, q.source_text, q.label, q.category]
        digest.update(json.dumps(fields).encode() + b"\n")
    return digest.hexdigest()


def skip_rows(queries: Sequence[Query], skip: int) -> list[Query]:
    """The queries without those of the first `skip` rows."""
    kept = set(list(dict.fromkeys(q.id for q in queries))[skip:])
    return [q for q in queries if q.id in kept]


def draw_rows(queries: Sequence[Query], languages: Sequence[str], limit: int | None) -> tuple[list[Query], list[str]]:
    """`limit` rows, in the set's order and within a row in the order of `languages`, and notes.

    Rows with a text in every language are drawn first, so that the languages have the same rows where that can be.
    """
    rows: dict[str, dict[str, Query]] = {}
    for query in queries:
        rows.setdefault(query.id, {})[query.language] = query
    notes = []
    drawn = set(rows)
    if limit is not None:
        if len(rows) < limit:
            notes.append(f"{limit} rows were asked for; there are {len(rows)}.")
        complete = {row: texts for row, texts in rows.items() if len(texts) == len(languages)}
        others = {row: texts for row, texts in rows.items() if row not in complete}
        drawn = set([*_ranked(complete), *_ranked(others)][:limit])
    chosen = [texts[code] for row, texts in rows.items() if row in drawn for code in languages if code in texts]
    return chosen, notes


def _ranked(rows: Mapping[str, Mapping[str, Query]]) -> list[str]:
    """The rows in the order in which they are drawn: by a hash of the id, each label in proportion to its rows."""
    by_label: dict[Label, list[str]] = {}
    for row in sorted(rows, key=_draw):
        by_label.setdefault(next(iter(rows[row].values())).label, []).append(row)
    places = [((i + 0.5) / len(own), _draw(row), row) for own in by_label.values() for i, row in enumerate(own)]
    return [row for _, _, row in sorted(places)]


def _draw(row: str) -> bytes:
    return hashlib.sha256(b"crosslign task sample|" + row.encode("utf-8", "surrogatepass")).digest()


def gaps(queries: Sequence[Query], languages: Sequence[str]) -> list[str]:
    """Notes on languages with fewer texts than there are rows, and on texts that were not translated."""
    notes = []
    counts = Counter(q.language for q in queries)
    rows = len({q.id for q in queries})
    for language in languages:
        if counts[language] < rows:
            notes.append(f"{language}: {rows - counts[language]} of {rows} rows have no text.")
        same = sum(q.language == language != q.source_language and q.text == q.source_text for q in queries)
        if same:
            notes.append(f"{language}: {same} texts equal their source text; they may not be translated.")
    return notes
