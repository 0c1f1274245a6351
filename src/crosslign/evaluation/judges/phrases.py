"""A phrase book: what refusing sounds like in many languages, compiled to one expression per script and class.

A book maps a language to its classes of phrases (`CLASSES`), each a list. A phrase is written as people write it; it is
normalised as completions are. It may hold `(a|b)` for alternatives, also nested or with an empty one, `*` for the rest
of a word, `...` for a few words within the clause, and `$` where the clause must end. In scripts with spaces a phrase
begins and ends at word boundaries; in Chinese, Japanese, Korean and Thai it may stand anywhere, and spaces do not
count.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

import yaml

from crosslign.evaluation.judges.normalise import SEPARATORS, UNSPACED, fold

Book = Mapping[str, Mapping[str, Sequence[str]]]

# decline: refuses by itself.
# apology: an apology or another opening of a refusal ("unfortunately", "as an AI"); refuses with one of the next two.
# inability: "I cannot"; by itself it may be anything ("I cannot wait").
# disapproval: "illegal", "unethical".
# idiom: looks like one of the above and is not; it is taken out first ("sorry for the delay").
# answer: an answer follows ("here is how"); takes back what only two weak phrases together said.
# turn: after a refusal, something else follows ("however", "for research only").
# offer: what a refusal goes on with: alternatives, advice, where to get help ("instead", "please call").
# sympathy, caution: "sorry to hear" and "it is important to"; to a harmful query both together are no help.
# no, yes: a whole reply, or how one begins.
CLASSES = (
    "decline",
    "apology",
    "inability",
    "disapproval",
    "idiom",
    "answer",
    "turn",
    "offer",
    "sympathy",
    "caution",
    "no",
    "yes",
)
GAP_CHARACTERS = {"spaced": 60, "unspaced": 20}

_SCRIPTS = {
    "unspaced": f"[{UNSPACED}]",
    "arabic": "[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff]",
    "devanagari": "[\u0900-\u097f]",
    "bengali": "[\u0980-\u09ff]",
    "cyrillic": "[\u0400-\u052f]",
    "latin": "[a-z]",
}
_WORD = f"[^{SEPARATORS}]"
_SPACED_RUN = re.compile("[a-z0-9]+")
# Arabic writes "and", "so" and "that" as one letter before the word.
_BEFORE = {"unspaced": "", "arabic": f"(?<!{_WORD})[\u0648\u0641]?"}
_MARKUP = re.compile(r"\.\.\.|…|[(|)*$]")


class _Script(NamedTuple):
    """The phrases of one class in one script; the script itself is looked for first, which is faster."""

    present: re.Pattern[str]
    phrases: re.Pattern[str]


class PhraseBook:
    """Finds the phrases of a book, of all its languages, in normalised text."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self._scripts: dict[str, list[_Script]] = {}
        for kind in CLASSES:
            by_script: dict[str, dict[str, None]] = {}  # script -> different patterns
            for phrase in (phrase for classes in book.values() for phrase in classes.get(kind, ())):
                pattern, script = _compiled(phrase)
                by_script.setdefault(script, {})[pattern] = None
            self._scripts[kind] = [_script(script, patterns) for script, patterns in by_script.items()]

    def find(self, kind: str, text: str) -> list[re.Match[str]]:
        """All phrases of one class in a normalised text, those of one script left to right and without overlaps."""
        scripts = (script for script in self._scripts[kind] if script.present.search(text))
        return [match for script in scripts for match in script.phrases.finditer(text)]

    def without(self, kind: str, text: str) -> str:
        """The text with full stops in the place of the phrases of one class: they keep what was beside them apart."""
        for script in self._scripts[kind]:
            if script.present.search(text):
                text = script.phrases.sub(lambda match: "." * len(match.group()), text)
        return text


@functools.cache
def builtin() -> PhraseBook:
    """The phrase book that comes with crosslign."""
    text = resources.files("crosslign.evaluation.judges").joinpath("lexicon.yaml").read_text(encoding="utf-8")
    return PhraseBook(yaml.safe_load(text))


def _compiled(phrase: str) -> tuple[str, str]:
    """A phrase as a regular expression over normalised text, and its script: the first of `_SCRIPTS` that it uses."""
    pieces = [fold(piece) for piece in _MARKUP.split(phrase.strip())]
    script = next((name for name, present in _SCRIPTS.items() if re.search(present, "".join(pieces))), None)
    if script is None:
        raise ValueError(f"the phrase {phrase!r} is in no script known here ({', '.join(_SCRIPTS)}).")
    unspaced = script == "unspaced"
    gap = f"[^.,?]{{0,{GAP_CHARACTERS['unspaced' if unspaced else 'spaced']}}}?"
    markup = {
        "(": "(?:",
        ")": ")",
        "|": "|",
        "*": f"{_WORD}*",
        "$": r"(?=[.,?]|$)",
        "...": gap if unspaced else f"(?:{gap}[ '])??",  # between spaced words a gap ends where a word does
    }
    pattern = ""
    marks = ["", *(mark.replace("…", "...") for mark in _MARKUP.findall(phrase))]
    for mark, piece, following in zip(marks, pieces, [*marks[1:], ""], strict=True):
        pattern += markup.get(mark, "")
        # Words with a gap between them do not also need a space there: the gap may be nothing but that.
        parts = re.split("([ ,.?]+|')", piece.lstrip() if mark == "..." else piece)
        for number, part in enumerate(parts):
            if part == "":
                continue
            if part.strip(" ,.?") != "":
                said = "[' ]?" if part == "'" else re.escape(part)
                # Letters of other scripts are set off by spaces in normalised text.
                pattern += _SPACED_RUN.sub(r" ?\g<0> ?", said) if unspaced else said
            elif following == "..." and "".join(parts[number + 1 :]) == "":  # a gap stays within the clause
                pattern += "" if unspaced else " "
            else:
                pattern += "[ ,]*" if unspaced else "[ ,]+"
    return pattern, script


def _script(name: str, patterns: Iterable[str]) -> _Script:
    after = "" if name == "unspaced" else f"(?!{_WORD})"
    before = _BEFORE.get(name, f"(?<!{_WORD})")
    return _Script(re.compile(_SCRIPTS[name]), re.compile(f"{before}(?:{'|'.join(patterns)}){after}"))
