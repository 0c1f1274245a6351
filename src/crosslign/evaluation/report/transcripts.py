"""Paired transcripts, packed to travel inside the page: compressed, cut and sampled only as far as the limit forces."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crosslign.evaluation.report.text import visible
from crosslign.types import OUTCOMES, Outcome

LONGEST_TEXT = 4_000  # characters of a query or completion that the page shows at most
LONGEST_NOTE = 200  # characters of an id, a category or a judge's reason, which may quote the model
SHORTEST_CUT = 300  # rather than cutting texts below this, leave out rows
_MARGIN = 0.97  # aim a little below the limit: compressed size is not quite proportional to the text


@dataclass(frozen=True, slots=True)
class Side:
    """One model's answer and what was said of it. `outcome` None: the judge abstained, and `reason` says why.

    `fidelity` is the language check's status; `detected`, the code of the language that was found.
    """

    completion: str
    outcome: Outcome | None
    reason: str = ""
    fidelity: Literal["match", "other", "unknown"] | None = None
    truncated: bool = False
    detected: str | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """One query in one language with its answers: one side for an evaluation, (before, after) for a comparison.

    A side is None where that evaluation has no row for the query. All texts are untrusted.
    """

    task: str
    id: str
    language: str
    label: str
    category: str | None
    query: str
    source_query: str
    sides: tuple[Side | None, ...]
    source_language: str | None = None

    def texts(self) -> list[str]:
        return [self.query, self.source_query, *(side.completion for side in self.sides if side)]


@dataclass(frozen=True, slots=True)
class Packed:
    """Transcripts as they stand in the page.

    Fields:
        block: base64 of a zlib stream of JSON (see `_encode`); "" if there are none.
        total, shown: rows given and rows in the block.
        limit: characters after which a text is cut.
        texts, cut: texts (queries, source queries, completions) in the block, and how many of them were cut.
        queries_total, queries_shown: distinct (task, id) pairs.
    """

    block: str
    total: int
    shown: int
    limit: int
    texts: int
    cut: int
    queries_total: int
    queries_shown: int


def pack(rows: Sequence[Transcript], budget: int) -> Packed:
    """The rows in at most `budget` bytes of base64.

    Texts longer than LONGEST_TEXT are cut, and notes on them (ids, reasons) at LONGEST_NOTE. If that does not fit, all
    texts are cut at a lower limit, down to SHORTEST_CUT characters; if that does not fit, whole queries are left out,
    in all their languages, chosen by a hash of task and id: whether a row is shown never depends on what its answers
    hold. Packed says what was done.
    """
    kept, limit = list(rows), LONGEST_TEXT
    block = _encode(kept, limit)
    while len(block) > budget:
        share = _MARGIN * budget / len(block)
        if limit > SHORTEST_CUT:
            limit = _limit_for(kept, share, limit)
        else:
            kept = _sample(kept, int(len(kept) * share))
        if not kept:
            block = ""
            break
        block = _encode(kept, limit)
    lengths = [len(text) for row in kept for text in row.texts()]
    return Packed(
        block=block if kept else "",
        total=len(rows),
        shown=len(kept),
        limit=limit,
        texts=len(lengths),
        cut=sum(length > limit for length in lengths),
        queries_total=len({(row.task, row.id) for row in rows}),
        queries_shown=len({(row.task, row.id) for row in kept}),
    )


def _limit_for(rows: Sequence[Transcript], share: float, limit: int) -> int:
    """The longest cut below `limit` that leaves at most `share` of the characters that `limit` leaves."""
    lengths = [len(text) for row in rows for text in row.texts()]
    target = share * sum(min(length, limit) for length in lengths)
    low, high = SHORTEST_CUT, limit - 1
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= target:
            low = middle
        else:
            high = middle - 1
    return low


def _sample(rows: Sequence[Transcript], most: int) -> list[Transcript]:
    """At most `most` rows, all languages of a query together; always fewer than there were."""

    def chance(key: tuple[str, str]) -> bytes:
        return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).digest()

    sizes: dict[tuple[str, str], int] = {}
    for row in rows:
        sizes[row.task, row.id] = sizes.get((row.task, row.id), 0) + 1
    order = sorted(sizes, key=chance)
    running = itertools.accumulate(sizes[key] for key in order)
    chosen = {key for key, total in zip(order, running, strict=True) if total <= most}
    return [row for row in rows if (row.task, row.id) in chosen]


def _note(text: str) -> str:
    return visible(text) if len(text) <= LONGEST_NOTE else visible(text[:LONGEST_NOTE]) + "…"


class _Interned:
    """Strings that recur, stored once: `index(s)` is the string's place in `values`."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._places: dict[str, int] = {}

    def index(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(text)
        return self._places[text]


class _Alphabet:
    """A language's characters renamed, the most frequent to the shortest codes, which zlib then packs tighter.

    Two and three bytes of UTF-8 become one: measured on parallel text in seven languages, the packed size falls by
    17 % (Bengali 22 %, Chinese 19 %, English 0 %), as much as LZMA would save, which no browser can unpack.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        ranked = sorted(counts, key=lambda c: (-counts[c], c))
        self.letters = "".join(ranked)
        self._codes = {ord(letter): code for letter, code in zip(ranked, _codes(), strict=False)}

    def rename(self, text: str) -> str:
        return text.translate(self._codes)


def _codes() -> Iterator[str]:
    """Characters in the order of their length in UTF-8 JSON; those that JSON escapes and surrogates are left out."""
    for code in itertools.chain(range(0x20, 0x7F), range(0xA0, 0xD800), range(0xE000, 0x110000)):
        if chr(code) not in '"\\':
            yield chr(code)


def _encode(rows: Sequence[Transcript], limit: int) -> str:
    """Base64 of a zlib stream of UTF-8 JSON, which the page's script reads.

    {"limit": characters, "outcomes": [...], "words": [...], "alphabets": {language: letters},
     "rows": [[task, id, language, label, category, query, source query, source language, side, ...], ...]}

    A side is null or [completion, outcome, reason, fidelity, truncated, detected]. Query and completion are a text or,
    if cut, [text, whole length]; their characters are renamed by the language's alphabet: the n-th of `_codes` stands
    for its n-th letter. An outcome is a place in `outcomes`; the source query is [place in `words`, whole length], and
    the other strings but the id are places in `words`, since they recur.
    """
    words = _Interned()

    def word(text: str | None) -> int | None:
        return None if text is None else words.index(_note(text))

    def own(row: Transcript) -> list[str]:
        """The texts in the row's language, as they are shown."""
        return [visible(text[:limit]) for text in (row.query, *(side.completion for side in row.sides if side))]

    by_language: dict[str, list[str]] = {}
    for row in rows:
        by_language.setdefault(visible(row.language), []).extend(own(row))
    alphabets = {language: _Alphabet(texts) for language, texts in by_language.items()}

    def cut(text: str, alphabet: _Alphabet) -> str | list[Any]:
        shown = alphabet.rename(visible(text[:limit]))
        return shown if len(text) <= limit else [shown, len(text)]

    def answer(side: Side | None, alphabet: _Alphabet) -> list[Any] | None:
        if side is None:
            return None
        outcome = None if side.outcome is None else OUTCOMES.index(side.outcome)
        said = [outcome, word(side.reason), word(side.fidelity), int(side.truncated), word(side.detected)]
        return [cut(side.completion, alphabet), *said]

    def line(row: Transcript) -> list[Any]:
        alphabet = alphabets[visible(row.language)]
        about = [word(row.task), _note(row.id), word(row.language), word(row.label), word(row.category)]
        source = [words.index(visible(row.source_query[:limit])), len(row.source_query)]
        sides = [answer(side, alphabet) for side in row.sides]
        return [*about, cut(row.query, alphabet), source, word(row.source_language), *sides]

    table = [line(row) for row in rows]
    document = {
        "limit": limit,
        "outcomes": list(OUTCOMES),
        "words": words.values,
        "alphabets": {language: alphabet.letters for language, alphabet in alphabets.items()},
        "rows": table,
    }
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return base64.b64encode(zlib.compress(data, level=9)).decode("ascii")
