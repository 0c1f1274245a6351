"""The translator protocol: texts of one language in, texts of another out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from crosslign.languages import english_name, nearest_languages
from crosslign.types import CrosslignError


@dataclass(frozen=True, slots=True)
class Translation:
    """What a translator gives for one text.

    Fields:
        text: untrusted, just as it came.
        truncated: a length limit cut it off.
        error: why there is none, in the translator's words; "" if there is one.
    """

    text: str
    truncated: bool = False
    error: str = ""


Keep = Callable[[int, Translation], None]


@runtime_checkable
class Translator(Protocol):
    """Translates; the one contract that all translators keep (`tests/contracts/test_translators.py`).

    `translate` calls `keep(index, translation)` once for each text, in any order, as soon as it is there and in the
    caller's thread: what was kept is not lost if the rest fails. Texts are data, whatever they say or hold; one that
    cannot be translated gets a `Translation` with an error. The texts come sorted by length, the longest first.
    """

    name: str

    def identity(self) -> Mapping[str, Any]:
        """All that a translation depends on besides its text and the two languages (model, prompt, version): it stands
        in the table's provenance, and what was translated under another identity is translated again."""
        ...

    def check(self, source: str, target: str) -> None:
        """Raise CrosslignError unless it translates from `source` to `target`. Loads no weights."""
        ...

    def translate(self, texts: Sequence[str], source: str, target: str, keep: Keep) -> None: ...


def unsupported(name: str, source: str, target: str, wrong: str, known: Iterable[str]) -> CrosslignError:
    """The error for a pair that a translator does not have; `wrong` is the one of the two that is at fault, and `known`
    what could stand in its place, in codes of any spelling. The nearest are named."""
    near = nearest_languages(wrong, known)
    names = ", ".join(f"{code} ({english_name(code.replace('_', '-'))})" for code in near)
    hint = f"The nearest that it has: {names}." if near else "It has no language in its place."
    what = f"{wrong} ({english_name(wrong)})"
    return CrosslignError(f"translator {name!r} cannot translate {source} to {target}: it does not know {what}. {hint}")
