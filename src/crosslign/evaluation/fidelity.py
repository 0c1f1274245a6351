"""Language fidelity: is a completion written in the language of its query?

`py3langid` (naive Bayes over byte n-grams, Lui and Baldwin 2012) gives every language it knows a probability `p`,
normalised over all of them. The *candidates* are the task's languages and the source language:

    inside    = sum of p over the candidates
    detected  = argmax of p over the candidates,  probability = p[detected] / inside

    too few letters                       -> unknown
    inside < OUTSIDE                      -> other, detected = argmax of p over everything, probability = 1 - inside
    probability < MIN_PROBABILITY         -> unknown
    detected is the query's language      -> match
    else                                  -> other

The first quotient is what `LanguageIdentifier.set_languages(candidates)` computes. Looking at `inside` as well matters:
restricted to Bengali and English, the library calls a Chinese answer English, and restricted to the ten languages of
MultiJail it calls an Indonesian answer Javanese, both with probability 1. No shortcut by Unicode script: for text in
one of the candidates it changed nothing, and for text in none of them `inside` does the same and more.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Literal, Protocol

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from crosslign.languages import same_language
from crosslign.types import CrosslignError, JudgeItem, nearest

Status = Literal["match", "other", "unknown"]

# Chosen on parallel text (XSafety in 10 languages, MGSM in 11, the Universal Declaration of Human Rights in 19) from
# whole texts, halves, quarters and the first 2 to 60 letters. Below 20 letters the opening of a Latin-script text often
# seems to be in none of the candidates; from 20 on 99.9 % of what is decided is right, for quarters of sentences too.
# Neighbours that are both candidates come out as unknown rather than wrong: 95 % of Indonesian text beside Malay, 12 %
# of Hindi beside Nepali and Marathi. A Chinese, Japanese or Korean character says as much as three letters.
MIN_LETTERS = 20
LETTERS_PER_CJK_CHARACTER = 3
MIN_PROBABILITY = 0.8
OUTSIDE = 0.1

# More text does not change the verdict and costs time: the library walks a state machine byte by byte.
_RAW_CHARACTERS = 20_000
_CHARACTERS = 1_000

# Not language: code (a fence that a cut-off completion leaves open runs to the end), scripts and styles, tags,
# formulas, links, addresses. The bounds keep the time linear in the text, whatever it repeats.
_NOT_LANGUAGE = re.compile(
    r"```.*?(?:```|\Z)"
    r"|^~~~.*?(?:^~~~|\Z)"
    r"|`[^`\n]*`"
    r"|<(?:script|style)\b.*?(?:</(?:script|style)>|\Z)"
    r"|<[^<>]{1,300}>"
    r"|\$\$.{0,500}?\$\$"
    r"|\\\(.{0,500}?\\\)"
    r"|\\\[.{0,500}?\\\]"
    r"|(?:https?://|www\.)[^\s<>\u3000-\u303f\uff00-\uffef]+"
    r"|[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
# Digits of any script, control characters (NUL), lone surrogates, and what Markdown is made of. Not `\W`, which holds
# the vowel signs of Indic scripts.
_NOT_WORDS = re.compile(r"[\d\x00-\x1f\x7f\ud800-\udfff*_#|~=>\\^]+")
_CJK = re.compile(r"CJK|HIRAGANA|KATAKANA|HANGUL")
_NO_LANGUAGE = "zxx"  # what ISO 639 and the library call text that is in no language

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FidelityResult:
    """What was found for one completion.

    Fields:
        detected: the language's code, as the task spells it where it is one of the task's; None if unknown.
        status: match (the query's language), other, or unknown (too short or too unsure; to be counted apart).
        probability: of `detected`, see the module; of the best candidate if too unsure; None if the text is too short
            or the query's language cannot be recognised.
    """

    detected: str | None
    status: Status
    probability: float | None


class Fidelity(Protocol):
    """Whatever can say in which language completions are."""

    def identity(self) -> Mapping[str, str]:
        """All that defines the results; what was measured under another identity is to be measured again."""
        ...

    def measure(self, items: Sequence[JudgeItem]) -> list[FidelityResult]:
        """One result for each completion, in order. No text makes it raise."""
        ...


class LanguageFidelity:
    """Says for completions whether they are in their query's language.

    Two codes for which the library has one label (`zh` and `zh-Hant`, `pt-BR` and `pt-PT`) count as one language: an
    answer in Simplified characters matches a query in Traditional ones. Completions of a query whose language it does
    not know (see `known_languages`) are always unknown; a warning names it once, here.

    Args:
        languages: BCP-47 codes of the task.
        source_language: a candidate too, because falling back to it is what models do.
    """

    def __init__(self, languages: Sequence[str], source_language: str) -> None:
        known = known_languages()
        self._labels = {code: same_language(code, known) for code in dict.fromkeys((*languages, source_language))}
        self._candidates = frozenset(label for label in self._labels.values() if label is not None)
        # Of several codes with one label, the first is what an answer to another query is reported as.
        self._spelling = {label: code for code, label in reversed(self._labels.items()) if label is not None}
        unknown = [code for code, label in self._labels.items() if label is None]
        if unknown:
            logger.warning(
                "py3langid does not know %s: whether completions are in %s cannot be said, and is reported as unknown",
                ", ".join(unknown),
                "it" if len(unknown) == 1 else "them",
            )

    def identity(self) -> Mapping[str, str]:
        return {
            "library": f"py3langid {version('py3langid')}",
            "candidates": " ".join(sorted(self._candidates)),
            "rule": f"letters {MIN_LETTERS}, CJK {LETTERS_PER_CJK_CHARACTER}, probability {MIN_PROBABILITY}, "
            f"outside {OUTSIDE}, characters {_CHARACTERS}, without thoughts",
        }

    def measure(self, items: Sequence[JudgeItem]) -> list[FidelityResult]:
        return [self.detect(item.reply, item.query.language) for item in items]

    def detect(self, text: str, language: str) -> FidelityResult:
        """The result for one text that should be in `language`.

        Raises CrosslignError if the language is none of the task's.
        """
        if language not in self._labels:
            raise CrosslignError(
                f"language fidelity: {language!r} is none of the task's languages. {nearest(language, self._labels)}"
            )
        label = self._labels[language]
        words = _words(text)
        if label is None or _letters(words) < MIN_LETTERS:
            return FidelityResult(None, "unknown", None)
        ranking = _identifier().rank(words)
        inside = sum(p for name, p in ranking if name in self._candidates)
        first, first_probability = ranking[0]
        if inside < OUTSIDE:
            if first == _NO_LANGUAGE or first_probability < OUTSIDE:  # gibberish: no language stands out
                return FidelityResult(None, "unknown", None)
            return FidelityResult(first, "other", 1 - inside)
        best, probability = next((name, p / inside) for name, p in ranking if name in self._candidates)
        if probability < MIN_PROBABILITY:
            return FidelityResult(None, "unknown", probability)
        if best == label:
            return FidelityResult(language, "match", probability)
        return FidelityResult(self._spelling[best], "other", probability)


def fidelity_of(judge: object, languages: Sequence[str], source_language: str) -> Fidelity:
    """What tells the languages apart where this judge judges first: its own `fidelity`, if it has one."""
    return getattr(judge, "fidelity", None) or _fidelity(tuple(languages), source_language)


@cache
def _fidelity(languages: tuple[str, ...], source_language: str) -> Fidelity:
    """One for all parts of a command: it warns of languages that it does not know."""
    return LanguageFidelity(languages, source_language)


@cache
def _identifier() -> LanguageIdentifier:
    """One instance (0.6 s to load) for all tasks: nothing here restricts it, and it is not the library's global one."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> list[str]:
    """The codes that py3langid knows, sorted: ISO 639-1 where there is one, else 639-3."""
    return sorted(label for label in _identifier().labels if label != _NO_LANGUAGE)


def _words(text: str) -> str:
    """What is language in the beginning of the text."""
    return _NOT_WORDS.sub(" ", _NOT_LANGUAGE.sub(" ", text[:_RAW_CHARACTERS]))[:_CHARACTERS]


def _letters(text: str) -> int:
    """Number of letters and of vowel signs, which are marks to Unicode; CJK characters count several times."""
    return sum(n * _weight(character) for character, n in Counter(text).items())


@cache
def _weight(character: str) -> int:
    if unicodedata.category(character)[0] not in "LM":
        return 0
    return LETTERS_PER_CJK_CHARACTER if _CJK.match(unicodedata.name(character, "")) else 1
