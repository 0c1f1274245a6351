"""Sentences made of words, numbers of results.json and names, so that each number can be checked where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from crosslign.evaluation.report.numbers import Format, Numbers


@dataclass(frozen=True, slots=True)
class Number:
    """The number at a pointer, and what stands after it and is not parted from it (" %")."""

    kind: ClassVar[str] = "number"
    path: str
    format: Format = "rate"
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """How many pointers there are: "3 of 4 languages" counts the languages' pointers."""

    kind: ClassVar[str] = "count"
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """A name out of the data (a language, a task, a judge): it may hold digits that are no number."""

    kind: ClassVar[str] = "name"
    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """Fixed words."""

    kind: ClassVar[str] = "words"
    text: str


Part = Number | Count | Name | Words
Sentence = tuple[Part, ...]
_NAMES_AT_MOST = 5
_OTHERS_AT_MOST = 3


def sentence(*parts: Part | str | Sentence) -> Sentence:
    """Join parts, plain strings as words; nested sentences are opened."""
    flat: list[Part] = []
    for part in parts:
        if isinstance(part, str):
            flat.append(Words(part))
        elif isinstance(part, tuple):
            flat.extend(part)
        else:
            flat.append(part)
    return tuple(flat)


def percent(path: str) -> Sentence:
    """ "12.3 %" """
    return (Number(path, unit="\u00a0%"),)


def arrow(before: str, after: str) -> Sentence:
    """ "45.3 % → 12.1 %" """
    return sentence(percent(before), " → ", percent(after))


def enumeration(some: Sequence[tuple[str, str]], every: Sequence[tuple[str, str]]) -> Sentence:
    """Some of all (name, pointer) pairs in words: "Swahili, Bengali and Thai".

    More than five are named by the others, "all but English and Italian", or, if these are many too, counted: "12
    languages".
    """
    others = [pair for pair in every if pair not in some]
    if len(some) > _NAMES_AT_MOST:
        if 0 < len(others) <= _OTHERS_AT_MOST:
            return sentence("all but ", enumeration(others, others))
        return sentence(Count(tuple(path for _, path in some)), " languages")
    names = [name for name, _ in some]
    parts: list[Part | str] = []
    for i, name in enumerate(names):
        if i:
            parts.append(" and " if i == len(names) - 1 else ", ")
        parts.append(Name(name))
    return sentence(*parts)


def plain(parts: Sentence, numbers: Numbers) -> str:
    """The sentence as text."""

    def write(part: Part) -> str:
        if isinstance(part, Number):
            return numbers.text(part.path, part.format) + part.unit
        return str(len(part.paths)) if isinstance(part, Count) else part.text

    return "".join(map(write, parts))
