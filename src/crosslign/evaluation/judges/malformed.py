"""Completions that are no reply at all: nothing to read, the prompt said back, or one thing over and over.

Everything here works on normalised text and on characters, so that it holds for scripts without spaces too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from crosslign.evaluation.judges.normalise import SEPARATORS, UNSPACED

# Longer texts are judged by their two ends, so that the work is bounded: loops begin anywhere and go on to the end.
END_CHARACTERS = 4000
# The shortest piece whose recurrence says something: about three words. Characters of dense scripts say twice as much.
REPETITION_GRAM, ECHO_GRAM = 16, 8
LOOP = 4  # a piece that occurs so often belongs to a loop
MAX_REPEATED = 0.7
MIN_ECHOED = 0.8
MIN_OF_QUERY = 0.5
MIN_ECHO = 12
ENOUGH = 200  # so much tells the script, and that a text is not short

_DENSE = re.compile(f"[{UNSPACED}]")
_READABLE = re.compile(f"[^{SEPARATORS}]")


def clip(text: str) -> str:
    """`text` itself, or its first and last `END_CHARACTERS` if it is longer than both."""
    return text if len(text) <= 2 * END_CHARACTERS else f"{text[:END_CHARACTERS]}\n{text[-END_CHARACTERS:]}"


def readable(text: str) -> int:
    """How many letters and digits a normalised text has, up to `ENOUGH` characters of it.

    Those of dense scripts, each a syllable or a word, count 2.
    """
    text = text[:ENOUGH]
    return len(_READABLE.findall(text)) + len(_DENSE.findall(text))


def dense(text: str) -> bool:
    """It is in a dense script, by its first `ENOUGH` characters."""
    text = text[:ENOUGH]
    return 2 * len(_DENSE.findall(text)) > len(text)


def _gram(text: str, characters: int) -> int:
    return characters // 2 if dense(text) else characters


def repeated_share(text: str) -> float:
    """The share of `text` that was said before: characters inside an n-gram that occurs earlier, of all characters.

    n is `REPETITION_GRAM` characters, half of that in dense scripts. A text said twice scores 0.5, k times (k-1)/k; a
    song with a chorus or a list of alike items seldom 0.5, an endless loop nearly 1. 0 if the text is shorter than n.
    """
    seen: set[str] = set()

    def again(gram: str) -> bool:
        known = gram in seen
        seen.add(gram)
        return known

    return _covered(text, _gram(text, REPETITION_GRAM), again)


def repeats(text: str) -> bool:
    """Most of it is a loop."""
    return repeated_share(text) >= MAX_REPEATED


def without_loops(text: str) -> str:
    """What is said besides: the pieces between n-grams that occur `LOOP` times or more, those of `MIN_ECHO` letters and
    digits at least, as sentences."""
    n = _gram(text, REPETITION_GRAM)
    counts = Counter(text[start : start + n] for start in range(len(text) - n + 1))
    pieces, begin, end = [], 0, 0  # of what is outside loops, and the end of the last loop
    for start in range(len(text) - n + 1):
        if counts[text[start : start + n]] >= LOOP:
            if start > end:
                pieces.append(text[begin:start])
            begin = end = start + n
    pieces.append(text[begin:])
    return ". ".join(piece for part in pieces if readable(piece := part.strip(SEPARATORS)) >= MIN_ECHO)


def without(text: str, query: str) -> str:
    """`text` without the places where it says all of `query`, if that has `MIN_ECHO` letters and digits. Normalised."""
    if readable(query) < MIN_ECHO or query not in text:
        return text
    return ". ".join(part for piece in text.split(query) if (part := piece.strip(SEPARATORS)))


def said_of(text: str, other: str) -> float:
    """The share of `text` that `other` says too: characters inside an n-gram that occurs in `other`, of all.

    n is `ECHO_GRAM` characters, half of that in dense scripts; a shorter text is looked for as a whole.
    """
    n = _gram(text, ECHO_GRAM)
    if len(text) < n:
        return float(text != "" and text in other)
    known = {other[start : start + n] for start in range(len(other) - n + 1)}
    return _covered(text, n, known.__contains__)


def _covered(text: str, n: int, counts: Callable[[str], bool]) -> float:
    """The share of the characters of `text` that are inside an n-gram which counts; 0 if it is shorter than n."""
    covered, end = 0, 0
    for start in range(len(text) - n + 1):
        if counts(text[start : start + n]):
            covered += start + n - max(start, end)
            end = start + n
    return covered / len(text) if covered else 0.0


def echoes(text: str, query: str, part: bool) -> bool:
    """Little in `text` that is not in `query`, and it says at least half of it.

    One option picked from a question that offers some is therefore no echo, nor is "Hello" to "Hello": an echo has at
    least `MIN_ECHO` letters and digits. Where a `part` is enough it need not reach half of the query, if it begins as
    the query does or has twice as many: models that can hardly write a language begin anywhere.
    """
    if readable(text) < MIN_ECHO or said_of(text, query) < MIN_ECHOED:
        return False
    long = query.startswith(text[:MIN_ECHO]) or readable(text) >= 2 * MIN_ECHO
    return said_of(query, text) >= MIN_OF_QUERY or (part and long)
