"""What is wrong with a translation, as far as it shows without reading it. Thresholds were measured: docs/translate.md.

Three of the checks compare with the table's other translations into the same language: a length with their median, an
end without a full stop with how theirs end, a text with theirs.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cache

import regex

from crosslign.evaluation.fidelity import LanguageFidelity
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.judges.malformed import clip, repeated_share
from crosslign.evaluation.judges.normalise import UNSPACED, normalise
from crosslign.evaluation.judges.phrases import builtin
from crosslign.languages import likely_script
from crosslign.translation.base import Translation
from crosslign.translation.kept import lost
from crosslign.types import JudgeItem, Query, excerpt
from crosslign.untrusted import is_blank, shown

# The share of letters in the scripts of the target language, from MIN_LETTERS letters on.
MIN_SCRIPT, MIN_LETTERS = 0.5, 10
# The factor by which a length, as a share of its source's, may differ from the median of MIN_ROWS rows or more; short
# sources vary more.
MAX_LENGTH, MAX_LENGTH_SHORT, SHORT = 1.9, 2.2, 40
MIN_ROWS = 20
# A translation that ends without a full stop where its source has one may not fall so far below the median; where
# neither has one, not so far. Only where most translations end with one: Thai has none.
MIN_UNENDED, MIN_UNPUNCTUATED, MIN_ENDING = 0.8, 0.65, 0.5
# With more sentences than its source it may not be so many times as long as the median, with fewer not so much shorter.
MAX_ADDED, MIN_DROPPED = 1.3, 0.7
# The longest run of words that is the source's, as a share of the translation, and its number of words.
MAX_COPIED, MIN_WORDS = 0.3, 3
# The share that was said before, beyond that of the source.
MAX_REPEATED = 0.5
# chrF, from 0 to 100, of a translation back into the source language.
MIN_ROUND_TRIP = 25.0
OPENING = 5  # normalised characters within which an answer announces itself
_COMPARED = 1000  # characters of which the longest common run is looked for
_SHOWN = 80  # characters of untrusted text in a measure
_SCRIPTS = {"Hans": "Hani", "Hant": "Hani", "Jpan": "Hani Hira Kana", "Kore": "Hang Hani"}
_WORD = re.compile(f"[{UNSPACED}]|[^ ,.?'{UNSPACED}]+")
# A translator's own words: "translate", where that means nothing else. What talks of translating, and whose source does
# not, is a comment, an excuse or a refusal. In Russian the word also means to transfer money.
_TRANSLATING = regex.compile(
    r"translat|übersetz|tradu[cçiz]|traduir|翻译|翻譯|翻訳|अनुवाद|অনুবাদ|ترجم|tafsiri|terjemah|번역"
    r"|не (?:могу|буду|стану) (?:\w+ )?перев",
    regex.IGNORECASE,
)
_SENTENCE = regex.compile(
    r"[\p{Sentence_Terminal}…]+(?=[\p{Final_Punctuation}\p{Close_Punctuation}\"']*(?:\s|$|\p{Lo}))"
)
_END = regex.compile(r"[\p{Sentence_Terminal}…:][\p{Final_Punctuation}\p{Close_Punctuation}\"'\s]*$")

# Every check by the name that a rejected row gives as its reason.
CHECKS = {
    "missing": "nothing visible, or the translator said why there is no translation",
    "language": "py3langid finds another language",
    "script": f"less than {MIN_SCRIPT:.0%} of the letters are in the language's script",
    "length": f"its length divided by its source's is over {MAX_LENGTH} times the median of the pair, or under "
    f"1/{MAX_LENGTH} of it ({MAX_LENGTH_SHORT} for short sources)",
    "untranslated": f"a run of {MIN_WORDS} or more words of the source is {MAX_COPIED:.0%} or more of it",
    "repeated": f"{MAX_REPEATED:.0%} or more was said before, beyond the source's share",
    "cut": f"a length limit; no full stop and under {MIN_UNENDED} of the median length ({MIN_UNPUNCTUATED} where its "
    f"source has none either); fewer sentences and under {MIN_DROPPED} of it",
    "added": f"more sentences than the source, and more than {MAX_ADDED} times the median length",
    "lost": "a number, quotation, placeholder, address or control token is lost, or a control token added",
    "refused": "it sounds like a refusal or talks of translating, and its source does not",
    "answered": "it announces an answer, and its source does not",
    "duplicate": "another row with another source has the same translation",
    "round_trip": f"chrF of its translation back is below {MIN_ROUND_TRIP:g}",
}

# What is measured of each translation, by the names of the fields of `Checked`.
MEASURES = ("language", "script", "length", "sentences", "copied", "repeated", "lost", "refused", "answered",
            "duplicate_of", "round_trip")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A source text and what became of it; `back` is that translated into the source language, if it was asked for."""

    id: str
    source: str
    translation: Translation
    back: Translation | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """A pair with what was measured, None where a check could not be made.

    Fields:
        language, probability: what py3langid found, see `crosslign.evaluation.fidelity`.
        script: share of letters in the language's script.
        length: characters as a share of the source's, divided by the pair's median.
        sentences: how many more it has than the source.
        copied: the longest run of words that is the source's, as a share of the translation.
        repeated: share that was said before, minus that of the source.
        lost: what had to be kept and was not.
        refused, answered: the phrases that sound so.
        duplicate_of: id of the first row with the same translation.
        round_trip: chrF of the translation back, from 0 to 100.
        failed: the names of the checks that it fails, in the order of `CHECKS`; () if it passes.
    """

    pair: Pair
    language: str | None = None
    probability: float | None = None
    script: float | None = None
    length: float | None = None
    sentences: int | None = None
    copied: float = 0.0
    repeated: float = 0.0
    lost: tuple[str, ...] = ()
    refused: str = ""
    answered: str = ""
    duplicate_of: str | None = None
    round_trip: float | None = None
    failed: tuple[str, ...] = ()

    def measures(self) -> dict[str, str]:
        """The columns of a row: every measure as a short text."""

        def number(value: float | None) -> str:
            return "" if value is None else f"{value:.2f}"

        values = {
            "language": f"{self.language} {self.probability:.2f}" if self.language and self.probability else "",
            "script": number(self.script),
            "length": number(self.length),
            "sentences": "" if self.sentences is None else f"{self.sentences:+d}",
            "copied": number(self.copied),
            "repeated": number(self.repeated),
            "lost": _safe("; ".join(self.lost)),
            "refused": _safe(self.refused),
            "answered": _safe(self.answered),
            "duplicate_of": self.duplicate_of or "",
            "round_trip": number(self.round_trip),
        }
        return {name: values[name] for name in MEASURES}


def check_translations(pairs: Sequence[Pair], source: str, target: str) -> list[Checked]:
    """All pairs of one table and one target language with what was found, in their order. No text makes it raise."""
    fidelity, scripts = LanguageFidelity([target], source), _expected(target)
    there = [pair for pair in pairs if not is_blank(pair.translation.text)]
    usual = _Usual.of(there)
    seen: dict[str, list[Pair]] = defaultdict(list)
    for pair in there:
        seen[normalise(clip(pair.translation.text))].append(pair)
    checked = []
    for pair in pairs:
        found = Checked(pair)
        if not is_blank(pair.translation.text):
            found = _measured(found, fidelity, target, scripts, usual)
            same = seen[normalise(clip(pair.translation.text))]
            if len({normalise(clip(other.source)) for other in same}) > 1:
                found = replace(found, duplicate_of=next(o.id for o in same if o.source != pair.source))
        checked.append(replace(found, failed=tuple(_failed(found, target, usual))))
    return checked


@dataclass(frozen=True, slots=True)
class _Usual:
    """What is usual among the translations of a table: the median of their length as a share of the source's, None for
    fewer than MIN_ROWS of them, and whether they end as their sources do."""

    length: float | None
    ends: bool

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> _Usual:
        lengths = [len(p.translation.text.strip()) / len(p.source.strip()) for p in pairs]
        ended = [p for p in pairs if _END.search(p.source)]
        ends = sum(bool(_END.search(p.translation.text)) for p in ended)
        return cls(
            statistics.median(lengths) if len(lengths) >= MIN_ROWS else None,
            bool(ended) and ends >= MIN_ENDING * len(ended),
        )


def _measured(found: Checked, fidelity: LanguageFidelity, target: str, scripts: str | None, usual: _Usual) -> Checked:
    source, text = found.pair.source.strip(), found.pair.translation.text.strip()
    spoken = fidelity.detect(text, target)
    ours, theirs = normalise(clip(source)), normalise(clip(text))
    refused = _refusal(text)
    answered = _announcement(theirs)
    back = found.pair.back
    return replace(
        found,
        language=spoken.detected,
        probability=spoken.probability,
        script=_script_share(text, scripts),
        length=None if usual.length is None else len(text) / len(source) / usual.length,
        sentences=_sentences(text) - _sentences(source) if usual.ends else None,
        copied=_copied(theirs, ours),
        repeated=repeated_share(theirs) - repeated_share(ours),
        lost=tuple(lost(source, text)),
        refused="" if refused and _refusal(source) else refused,
        answered="" if answered and _announcement(ours) else answered,
        round_trip=None if back is None or back.error else chrf(back.text, source),
    )


def _failed(found: Checked, target: str, usual: _Usual) -> Iterable[str]:
    translation, source = found.pair.translation, found.pair.source
    if translation.error or is_blank(translation.text):
        yield "missing"
        return
    if found.language is not None and found.language != target:
        yield "language"
    if found.script is not None and found.script < MIN_SCRIPT:
        yield "script"
    most = math.log(MAX_LENGTH if len(source.strip()) >= SHORT else MAX_LENGTH_SHORT)
    if found.length is not None and abs(math.log(found.length)) > most:
        yield "length"
    if found.copied >= MAX_COPIED:
        yield "untranslated"
    if found.repeated >= MAX_REPEATED:
        yield "repeated"
    if translation.truncated or _cut(found, usual):
        yield "cut"
    if found.length is not None and (found.sentences or 0) > 0 and found.length > MAX_ADDED:
        yield "added"
    if found.lost:
        yield "lost"
    if found.refused:
        yield "refused"
    if found.answered:
        yield "answered"
    if found.duplicate_of is not None:
        yield "duplicate"
    if found.round_trip is not None and found.round_trip < MIN_ROUND_TRIP:
        yield "round_trip"


def _cut(found: Checked, usual: _Usual) -> bool:
    if found.length is None or not usual.ends:
        return False
    if (found.sentences or 0) < 0 and found.length < MIN_DROPPED:
        return True
    if _END.search(found.pair.translation.text):
        return False
    return found.length < (MIN_UNENDED if _END.search(found.pair.source) else MIN_UNPUNCTUATED)


def _expected(target: str) -> str | None:
    """A class of the letters of a language's scripts, for `regex`; None if they are not known."""
    code = likely_script(target)
    if code is None:
        return None
    try:
        names = "".join(rf"\p{{Script={name}}}" for name in _SCRIPTS.get(code, code).split())
        regex.compile(f"[{names}]")
    except regex.error:  # a script that this version of Unicode does not have
        return None
    return names


def _script_share(text: str, names: str | None) -> float | None:
    letters = len(regex.findall(r"\p{L}", text))
    if names is None or letters < MIN_LETTERS:
        return None
    return len(regex.findall(rf"[\p{{L}}&&[{names}]]", text, flags=regex.VERSION1)) / letters


def _copied(text: str, source: str) -> float:
    """Characters of the longest run of words that both normalised texts have, as a share of the first."""
    ours, theirs = (_WORD.findall(t[:_COMPARED]) for t in (text, source))
    match = SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match()
    if match.size < MIN_WORDS:
        return 0.0
    return sum(map(len, ours[match.a : match.a + match.size])) / sum(map(len, ours))


def _refusal(text: str) -> str:
    """What the `lexicon` judge takes for a refusal in a text, or where it talks of translating; "" if nothing."""
    verdict = _lexicon().judge([JudgeItem(Query("", "en", "", "en", ""), text)])[0]
    refuses = verdict.outcome in ("refused", "refused_then_answered")
    if refuses:
        return verdict.reason.removeprefix("phrase: ")
    talk = _TRANSLATING.search(text)
    return talk.group() if talk else ""


def _announcement(text: str) -> str:
    """The phrase that announces an answer at the beginning of a normalised text, "" if none does."""
    found = builtin().find("answer", text[:_COMPARED])
    return next((match.group() for match in found if match.start() <= OPENING), "")


def _sentences(text: str) -> int:
    """How many sentences a text has; the last one may lack its full stop."""
    return len(_SENTENCE.findall(text)) + (not _END.search(text))


@cache
def _lexicon() -> LexiconJudge:
    return LexiconJudge()


def chrf(text: str, reference: str) -> float:
    """chrF2 of a text, from 0 to 100 (Popovic 2015), by sacrebleu."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(text, [reference]).score)


def _safe(text: str) -> str:
    return shown(excerpt(text, _SHOWN), one_line=True)


# What decides, for the record of a table.
THRESHOLDS: Mapping[str, float] = {
    "min_script": MIN_SCRIPT,
    "max_length": MAX_LENGTH,
    "max_length_short": MAX_LENGTH_SHORT,
    "min_unended": MIN_UNENDED,
    "min_unpunctuated": MIN_UNPUNCTUATED,
    "min_dropped": MIN_DROPPED,
    "max_added": MAX_ADDED,
    "max_copied": MAX_COPIED,
    "max_repeated": MAX_REPEATED,
    "min_round_trip": MIN_ROUND_TRIP,
}
