"""One spelling for many: text as a lexicon compares it, with what differs only in encoding or typing taken out."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces between words, or (Hangul) with spaces that writers set as they like.
UNSPACED = (
    "\u0e00-\u0e7f"  # Thai
    "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
)
# After normalisation only these characters part words; everything else is a letter, a mark or a digit.
SEPARATORS = " ,.?'"

_APOSTROPHES = "'`\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u2018\u2019\u201b\u2032\u2035\uff07\u05f3"
_SENTENCE_ENDS = ".!\u3002\u0964\u0965\u06d4\uff61\u2026"
_QUESTION_MARKS = "?\u061f\u203d"
_CLAUSE_MARKS = ",;:\u3001\u060c\u061b\u2013\u2014\u2015\uff64\u00b7\u30fb\n\r\u2028\u2029"
# What Arabic and Urdu, Hindi and Bengali, Turkish and Russian writers leave out, add or swap without meaning another
# word. Compatibility decomposition comes first, so hamza and madda are marks of their own by then.
_FOLDED = {
    "\u0671": "\u0627",  # alef wasla
    "\u0649": "\u064a",  # alef maksura, as yeh
    "\u06cc": "\u064a",  # Farsi yeh, the Urdu one
    "\u0629": "\u0647",  # teh marbuta, as heh
    "\u06c1": "\u0647",  # heh goal, the Urdu one
    "\u06be": "\u0647",  # heh doachashmee
    "\u06c3": "\u0647",  # teh marbuta goal
    "\u06a9": "\u0643",  # keheh, the Urdu kaf
    "\u0640": None,  # tatweel
    "\u093c": None,  # Devanagari nukta
    "\u09bc": None,  # Bengali nukta: r and y with a dot have two encodings
    "\u0901": "\u0902",  # chandrabindu, as anusvara
    "\u0131": "i",  # dotless i
    "\u0307": None,  # the dot that case folding leaves of a capital dotted i
}
# Marks and letters without a shape of their own, and marks that strike out or enclose the letter before.
_UNSEEN = re.compile(
    "[\u034f\u0334-\u0338\u115f\u1160\u17b4\u17b5\u180b-\u180f\u20d0-\u20f0\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed]")


class _Characters(dict[int, "str | None"]):
    """What becomes of one decomposed, case-folded character; worked out when it is first met."""

    def __missing__(self, code: int) -> str | None:
        self[code] = result = self._rule(chr(code))
        return result

    @staticmethod
    def _rule(character: str) -> str | None:
        if character in _FOLDED:
            return _FOLDED[character]
        if character in _APOSTROPHES:
            return "'"
        if character in _SENTENCE_ENDS:
            return "."
        if character in _QUESTION_MARKS:
            return "?"
        if character in _CLAUSE_MARKS:
            return ","
        if character.isspace():
            return " "
        category = unicodedata.category(character)
        # Invisible or meaningless: joiners, direction marks, controls, lone surrogates, private use, unassigned.
        if category[0] == "C" or _ARABIC_MARKS.match(character) or _UNSEEN.match(character):
            return None
        return " " if category[0] in "PSZ" else character


_CHARACTERS = _Characters()
# Before decomposition: a lone acute accent, typed as an apostrophe, would decompose to a space and a combining mark.
_EARLY = {ord(character): "'" for character in _APOSTROPHES}
_RUN = re.compile("[ ,.?]{2,}|[,.?]")
_INNER_SPACE = re.compile(f"(?<=[{UNSPACED}]) +(?=[{UNSPACED}])")
_UNSPACED_RUN = re.compile(f"[{UNSPACED}]+")


# Letters that look alike, in Latin, Cyrillic and Greek as far as there is one; small letters, as folding leaves them.
_ALIKE = ("aаα", "bвβ", "cс", "dԁ", "eеε", "hн", "hһ", "iіι", "jј", "kкκ", "lӏ", "mм", "oоο", "pрρ", "qԛ", "sѕ", "tтτ",
          "uυ", "vν", "wԝ", "xхχ", "yуγ")  # fmt: skip
_ALPHABETS = {"latin": "a-z\u00df-\u024f\u1e00-\u1eff", "cyrillic": "\u0400-\u052f", "greek": "\u0370-\u03ff"}
_LETTERS = {name: re.compile(f"[{letters}]") for name, letters in _ALPHABETS.items()}
_WORD = re.compile(f"[{''.join(_ALPHABETS.values())}]{{2,}}")
_SAME: dict[str, dict[int, str]] = {
    name: {
        ord(letter): own
        for alike in reversed(_ALIKE)
        for own in alike
        if pattern.match(own)
        for letter in alike
        if letter != own
    }
    for name, pattern in _LETTERS.items()
}


def fold(text: str) -> str:
    """`text` character by character: compatibility forms, case and marks folded, punctuation reduced to `SEPARATORS`.

    Compatibility decomposition, case folding, the rules of this module, composition. Any string will do, also one with
    lone surrogates.
    """
    text = unicodedata.normalize("NFKD", text.translate(_EARLY)).casefold()
    text = unicodedata.normalize("NFKD", text).translate(_CHARACTERS)
    return unicodedata.normalize("NFC", text).replace("\u0451", "\u0435")  # Russian writers leave the dots of yo out


def normalise(text: str) -> str:
    """`text` folded, with runs of separators made one, and scripts without spaces set off from others by one.

    Full stops and exclamation marks of all scripts become ". ", question marks "? ", commas, colons, dashes and line
    breaks ", ", other punctuation and symbols a space. Spaces inside scripts that do not need them go. A word in which
    Latin, Cyrillic and Greek letters that look alike are mixed is written in one of them. Idempotent.
    """
    text = _INNER_SPACE.sub("", _in_one_alphabet(fold(text)))
    text = _UNSPACED_RUN.sub(r" \g<0> ", text)
    return _RUN.sub(_one_separator, text).lstrip(SEPARATORS).rstrip(" ,.'")


def _in_one_alphabet(text: str) -> str:
    """Words of several alphabets in one, the commonest of the text that can write them; others stay as they are."""
    count = {name: len(pattern.findall(text)) for name, pattern in _LETTERS.items()}
    if sum(map(bool, count.values())) < 2:
        return text
    order = sorted(count, key=lambda name: -count[name])

    def written(match: re.Match[str]) -> str:
        word = match.group()
        if sum(bool(pattern.search(word)) for pattern in _LETTERS.values()) < 2:
            return word
        tries = ((pattern, word.translate(_SAME[name])) for name in order for pattern in [_LETTERS[name]])
        return next((made for pattern, made in tries if len(pattern.findall(made)) == len(made)), word)

    return _WORD.sub(written, text)


_LEET = str.maketrans("013457", "oieast")
_LEET_WORD = re.compile(r"\b(?=\w*[a-z])(?=\w*[013457])[a-z013457]+\b", re.IGNORECASE)
_SPACED_OUT = re.compile(r"(?<!\S)\S(?:[ \t]{1,3}\S(?!\S)){7,}")


def undisguised(text: str) -> str:
    """`text` with digits for letters ("h3lp") and words spaced out ("h e l p  m e") undone.

    Digits change only in words of Latin letters and digits. Words that are spaced out are told apart by wider spaces.
    """
    text = _SPACED_OUT.sub(lambda match: re.sub(r"(?<!\s)\s(?!\s)", "", match.group()), text)
    return _LEET_WORD.sub(lambda match: match.group().translate(_LEET), text)


def _one_separator(run: re.Match[str]) -> str:
    """What a run of separators comes to: the strongest of them."""
    for mark in "?.,":
        if mark in run.group():
            return f"{mark} "
    return " "
