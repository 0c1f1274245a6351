"""What a translation has to keep as it stands: numbers, names in quotes, placeholders, addresses, control tokens."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

# What a chat template, a tokenizer or a translation model takes for more than text.
_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<<?/?SYS>>?|\[/?INST\]|</?s>|<(?:bos|eos|pad|unk|mask|sep|cls)>|</?think(?:ing)?>"
    r"|<(?:start|end)_of_turn>|<extra_id_\d{1,3}>|<2[a-z]{2,3}(?:_[A-Z][a-z]{3})?>|>>[a-z]{2,3}(?:_[A-Z][a-z]{3})?<<",
    re.IGNORECASE,
)
_PLACEHOLDERS = re.compile(
    r"\{\{[^{}\n]{1,40}\}\}|\{[^{}\s][^{}\n]{0,40}\}|%\([\w ]{1,40}\)[sdf]|%[sd](?!\w)|\$\{?[A-Z_]{2,40}\}?"
    r"|\[[A-Z][A-Z_ ]{1,40}\]|<[A-Z][A-Z_ ]{1,40}>|__[A-Z_]{2,40}__"
    r"|https?://[^\s<>\"'，。）)]+|[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}"
)
# A number as people write it: digits with separators between them, which may be a decimal point or part thousands.
_NUMBER = re.compile(
    r"(?<![\d.,])(?:\d{1,3}(?:[,.'’٬، \u00a0\u202f]\d{3})+(?!\d)|\d{1,2}(?:,\d\d)+,\d{3}(?!\d)|\d+)?(?:[.,٫]\d+)?(?!\d)"
)
_THOUSANDS = re.compile(r"[,.'’٬، \u00a0\u202f](?=\d{3}(?!\d)|\d\d,\d)")
_TIME = re.compile(
    r"\d{1,2}[:.]\d\d(?=\s*(?:[ap]\.?m|uhr|h\b|น\.))|\d{1,2}:\d\d|\d{1,2}\s*(?:[ap]\.?m\b)", re.IGNORECASE
)
# East Asian and Indian powers of ten, where they stand right behind digits: "8万" is 80,000.
_POWERS = {"百": 2, "千": 3, "万": 4, "萬": 4, "만": 4, "億": 8, "亿": 8, "억": 8, "लाख": 5, "লাখ": 5, "লক্ষ": 5}
_POWER = re.compile(rf"\s?({'|'.join(_POWERS)})")
# Smaller ones are often written as words ("two"), counted in dozens, or changed with the unit.
LEAST_NUMBER = 10
_QUOTES = ('"', '"'), ("“", "”"), ("„", "“"), ("„", "”"), ("«", "»"), ("「", "」"), ("『", "』"), ("《", "》")
_QUOTED = re.compile("|".join(rf"{re.escape(a)}([^{re.escape(a + b)}\n]{{1,200}}){re.escape(b)}" for a, b in _QUOTES))


def lost(source: str, translation: str) -> list[str]:
    """What stands in the source and not in its translation, and control tokens that only the translation has.

    Numbers count by value, in digits of any script, from `LEAST_NUMBER` on; times of day do not count. A quotation is
    kept if its words are, or if the translation has as many quotations.
    """
    missing = [f"number {value}" for value in _values(source) if value not in set(_values(translation))]
    quoted = _quotations(source)
    if len(_quotations(translation)) < len(quoted):
        missing += [f"quotation {words}" for words in quoted if words not in translation]
    missing += [text for text in _PLACEHOLDERS.findall(source) if text.rstrip(".,?!;:") not in translation]
    ours, theirs = (Counter(_TOKENS.findall(text)) for text in (source, translation))
    missing += [f"control token {token}" for token in ours - theirs]
    missing += [f"added control token {token}" for token in theirs - ours]
    added = {c for c in translation if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r"} - set(source)
    missing += [f"added control character U+{ord(c):04X}" for c in sorted(added)]
    return list(dict.fromkeys(missing))


def _quotations(text: str) -> list[str]:
    return ["".join(parts).strip() for parts in _QUOTED.findall(text)]


def _values(text: str) -> Iterator[str]:
    """The numbers of a text by value, each once: "10,000", "10.000" and "1万" are all 10000."""
    digits = "".join(str(unicodedata.digit(c)) if unicodedata.category(c) == "Nd" else c for c in text)
    digits = _TIME.sub(" ", _PLACEHOLDERS.sub(" ", _TOKENS.sub(" ", digits)))
    for match in _NUMBER.finditer(digits):
        if not match.group():
            continue
        whole = _THOUSANDS.sub("", match.group()).replace("٫", ".").replace(",", ".")
        try:
            value = Fraction(whole)
        except ValueError:  # a version, a date: 1.2.3
            yield whole
            continue
        if power := _POWER.match(digits, match.end()):
            value *= 10 ** _POWERS[power[1]]
        if value >= LEAST_NUMBER:
            yield str(value) if value.denominator == 1 else f"{float(value):.12g}"
