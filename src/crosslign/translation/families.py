"""Families of translation models: how each is told which languages are meant, and under which licence it was published.

Codes are those of the tokenizer itself; `crosslign.languages.matching_code` finds the one for a BCP-47 code.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crosslign.languages import is_language, matching_code
from crosslign.translation.base import unsupported
from crosslign.types import CrosslignError

_MADLAD = re.compile(r"<2([a-z]{2,3}(?:_[A-Z][a-z]{3})?)>")
_NLLB = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_OPUS = re.compile(r">>([a-z]{2,3}(?:_[A-Za-z]+)?)<<")


@dataclass(frozen=True)
class Wrapping:
    """What stands around a text's token ids, and the token that a translation has to begin with, if any."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    forced: int | None = None


@dataclass(frozen=True)
class Family(ABC):
    """One family with a tokenizer of it. `codes` has the tokenizer's languages: own code -> the token that means it."""

    tokenizer: Any = field(repr=False)
    codes: Mapping[str, str] = field(repr=False)
    name: str = ""
    licence: str = ""

    def code(self, language: str, source: str, target: str) -> str:
        """The tokenizer's own code of one of the two languages. Raises CrosslignError, which names the nearest."""
        found = matching_code(language, self.codes)
        if found is None:
            raise unsupported(f"seq2seq ({self.name})", source, target, language, self.codes)
        return found

    def token(self, code: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.codes[code]))

    @property
    def end(self) -> tuple[int, ...]:
        return (int(self.tokenizer.eos_token_id),)

    @abstractmethod
    def wrapping(self, source: str, target: str) -> Wrapping:
        """Raises CrosslignError for a language that the tokenizer does not know."""


class Madlad(Family):
    """A token for the target before the text; the source is whatever it is."""

    def wrapping(self, source: str, target: str) -> Wrapping:
        tag = self.codes[self.code(target, source, target)]
        # As the tokenizer itself reads it before a text: it may put a space first.
        return Wrapping(tuple(self.tokenizer(tag, add_special_tokens=False)["input_ids"]), self.end)


class FromTo(Family):
    """NLLB-200 and M2M100: the source's token before the text, the target's as the first one of the translation."""

    def wrapping(self, source: str, target: str) -> Wrapping:
        first, second = (self.code(language, source, target) for language in (source, target))
        return Wrapping((self.token(first),), self.end, self.token(second))


class OpusMt(Family):
    """A token for the target where there are several; else tokenizer_config.json names the two languages."""

    def wrapping(self, source: str, target: str) -> Wrapping:
        own = {side: getattr(self.tokenizer, f"{side}_lang", None) for side in ("source", "target")}
        for side, language in (("source", source), ("target", target)):
            if side == "target" and self.codes:
                continue
            code = own[side]  # a group of languages, such as "roa", names none of them
            if isinstance(code, str) and is_language(code) and matching_code(language, [code]) is None:
                raise unsupported(f"seq2seq ({self.name})", source, target, language, [code])
        before = (self.token(self.code(target, source, target)),) if self.codes else ()
        return Wrapping(before, self.end)


def family_of(tokenizer: Any, model_type: str) -> Family:
    """The family that a tokenizer and a configuration's `model_type` tell. Raises CrosslignError for another one."""
    vocabulary: Sequence[str] = list(tokenizer.get_vocab())
    if model_type == "t5" and (codes := _found(_MADLAD, vocabulary)):
        return Madlad(tokenizer, codes, "MADLAD-400", "Apache-2.0")
    if model_type == "m2m_100" and hasattr(tokenizer, "lang_code_to_token"):
        return FromTo(tokenizer, dict(tokenizer.lang_code_to_token), "M2M100", "MIT")
    if model_type in ("m2m_100", "nllb-moe") and (codes := _found(_NLLB, vocabulary)):
        return FromTo(tokenizer, codes, "NLLB-200", "CC-BY-NC-4.0: not for commercial use")
    if model_type == "marian":
        return OpusMt(tokenizer, _found(_OPUS, vocabulary), "Opus-MT", "mostly CC-BY-4.0; see the model's page")
    raise CrosslignError(
        f"translator 'seq2seq': a model of type {model_type!r} with such a tokenizer is none of MADLAD-400, NLLB-200, "
        "M2M100 and Opus-MT. A chat model translates behind a server: endpoint:MODEL."
    )


def _found(pattern: re.Pattern[str], vocabulary: Sequence[str]) -> dict[str, str]:
    matches = (pattern.fullmatch(token) for token in vocabulary)
    return {match[match.lastindex or 0]: match.string for match in matches if match}
