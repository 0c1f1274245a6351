"""Invented languages: a lexicon of made-up words and a word order of their own, drawn from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

ENGLISH = "en"
# Parts of each kind of sentence, in English order.
SENTENCES: Mapping[str, tuple[str, ...]] = {
    "query": ("ask", "verb", "object"),
    "answer": ("tool", "material", "place"),
    "refusal": ("sorry", "cannot", "reason"),
    "fact": ("subject", "link", "value"),
    "preamble": ("greeting", "thanks"),
    "closing": ("wish", "farewell"),
}
_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Language:
    """How one language says things.

    Fields:
        code: BCP-47.
        words: English word -> this language's word.
        orders: kind of sentence -> order of its parts.
        reversed_parts: the words within a part are reversed (postpositions instead of prepositions).
        wrapper_last: a wrapper follows the request instead of preceding it.
    """

    code: str
    words: Mapping[str, str]
    orders: Mapping[str, tuple[str, ...]]
    reversed_parts: bool = False
    wrapper_last: bool = False

    def say(self, kind: str, parts: Mapping[str, Sequence[str]], wrapper: Sequence[str] = ()) -> str:
        """A sentence of the given parts (English words), with an optional wrapper around it."""
        said = [word for name in self.orders[kind] for word in self._part(parts[name])]
        around = [self._word(word) for word in wrapper]
        return " ".join((*said, *around) if self.wrapper_last else (*around, *said))

    def gloss(self, text: str) -> str:
        """Word-for-word English; words of other languages stay as they are."""
        return " ".join(self._english.get(word, word) for word in text.split())

    @cached_property
    def _english(self) -> Mapping[str, str]:
        return {word: lexeme for lexeme, word in self.words.items()}

    def _part(self, words: Sequence[str]) -> list[str]:
        ordered = reversed(words) if self.reversed_parts else words
        return [self._word(word) for word in ordered]

    def _word(self, word: str) -> str:
        return self.words.get(word, word)  # punctuation is the same everywhere


def english(lexemes: Sequence[str]) -> Language:
    return Language(ENGLISH, {word: word for word in lexemes}, SENTENCES)


def invent_words(lexemes: Sequence[str], taken: set[str], rng: random.Random) -> dict[str, str]:
    """English word -> new word. The new ones are added to `taken` and collide with none that is there."""
    words = {}
    for lexeme in lexemes:
        word = _pseudo_word(rng)
        while word in taken:
            word = _pseudo_word(rng)
        taken.add(word)
        words[lexeme] = word
    return words


def invent(code: str, words: Mapping[str, str], rng: random.Random) -> Language:
    """A language with these words and a grammar drawn by the generator."""
    orders = {kind: tuple(rng.sample(parts, len(parts))) for kind, parts in SENTENCES.items()}
    return Language(code, words, orders, rng.random() < 0.5, rng.random() < 0.5)


def _pseudo_word(rng: random.Random) -> str:
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 3))))
