"""Paired transcripts as JSON inside the page: cut and, where they are too many, sampled by whole requests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from crosslign.evaluation.rates import JudgedRow
from crosslign.types import Query

LIMITS = (4_000, 1_000)  # characters after which a text is cut: the first that fits, else the last
LONGEST_NOTE = 200  # characters of an id, a category or a judge's reason, which may quote the model
# Controls but tab and line feed, which hide; embeddings, overrides and isolates, which reorder text on the screen;
# lone surrogates, which cannot be encoded; tags, which no one sees. What belongs to writing (joiners, marks) stays.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A query of a task with its answers: one side for an evaluation, (before, after) for a comparison.

    All texts are untrusted.
    """

    task: str
    sides: tuple[JudgedRow, ...]

    @property
    def query(self) -> Query:
        return self.sides[0].query


@dataclass(frozen=True, slots=True)
class Block:
    """Transcripts as they stand in the page: JSON that is safe within a script element.

    Fields:
        total, shown: rows given and rows in the block.
        cut: whether `limit` characters have cut a text.
    """

    json: Markup
    total: int
    shown: int
    limit: int
    cut: bool


def visible(text: str) -> str:
    """The same text with every character that is invisible and active replaced by its number, "⟦U+202E⟧"."""
    return _HIDDEN.sub(lambda match: f"⟦U+{ord(match.group()):04X}⟧", text.replace("\r\n", "\n"))


def block(rows: Sequence[Transcript], names: Mapping[str, str], titles: Mapping[str, str], most_bytes: int) -> Block:
    """The rows in at most `most_bytes` bytes; `names` are the languages', `titles` the tasks'.

    If they do not fit, all texts are cut shorter; if that is not enough, whole queries are left out, in all their
    languages, chosen by a hash of task and id: whether a row is shown never depends on what its answers hold.
    """
    lines: list[str] = []
    for limit in LIMITS:
        lines = [_dumps(_row(row, titles, limit)) for row in rows]
        kept = _fitting(rows, lines, most_bytes)
        if len(kept) == len(rows):
            break
    texts = [text for i in kept for text in _texts(rows[i])]
    joined = Markup(",\n").join(Markup(lines[i]) for i in kept)  # noqa: S704  each is safe by itself
    document = Markup('{{"names": {}, "rows": [\n{}\n]}}').format(Markup(_dumps(dict(names))), joined)  # noqa: S704
    return Block(document, len(rows), len(kept), limit, any(len(text) > limit for text in texts))


def _dumps(value: Any) -> str:
    return str(htmlsafe_json_dumps(value, ensure_ascii=False, separators=(",", ":")))


def _fitting(rows: Sequence[Transcript], lines: Sequence[str], most_bytes: int) -> list[int]:
    """The places of the rows that fit, all languages of a query together."""
    queries: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        queries.setdefault((row.task, row.query.id), []).append(i)
    kept: list[int] = []
    size = 0
    for _, places in sorted(queries.items(), key=lambda query: _chance(query[0])):
        size += sum(len(lines[i].encode()) + 2 for i in places)
        if size > most_bytes:
            break
        kept += places
    return sorted(kept)


def _chance(key: tuple[str, str]) -> bytes:
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).digest()


def _texts(row: Transcript) -> list[str]:
    return [row.query.text, row.query.source_text, *(side.completion for side in row.sides)]


def _row(row: Transcript, titles: Mapping[str, str], limit: int) -> dict[str, Any]:
    """As the page's script reads it."""
    query = row.query
    return {
        "task": _note(titles[row.task]),
        "id": _note(query.id),
        "language": _note(query.language),
        "label": query.label,
        "category": _note(query.category or ""),
        "query": _cut(query.text, limit),
        "source": _cut(query.source_text, limit) if query.source_text != query.text else "",
        "sourceLanguage": _note(query.source_language),
        "sides": [
            {
                "answer": _cut(side.completion, limit),
                "outcome": side.verdict.outcome or "none",
                "reason": _note(side.verdict.reason),
                "fidelity": side.fidelity,
                "truncated": side.truncated,
                "detected": _note(side.detected or ""),
            }
            for side in row.sides
        ],
    }


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])} … [cut: {limit:,} of {len(text):,} characters]"


def _note(text: str) -> str:
    return visible(text[:LONGEST_NOTE]) + ("…" if len(text) > LONGEST_NOTE else "")
