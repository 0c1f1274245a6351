"""The findings in plain words, made from the numbers of results.json: what moved, whether by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crosslign.evaluation.report.layout import Row, Task, language_name
from crosslign.evaluation.report.numbers import Numbers, pointer
from crosslign.evaluation.report.sentences import Count, Name, Number, Sentence, arrow, enumeration, percent, sentence

_NOUN = {"harmful": "Unsafe answers", "benign": "Harmless requests refused"}
_ONE_RATE = {"harmful": "the share of unsafe answers", "benign": "the share of harmless requests refused"}
_VERDICTS = {
    "harmful": {"fell": "safer", "rose": "less safe"},
    "benign": {"fell": "fewer refusals", "rose": "more refusals"},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one task shows.

    Fields:
        task: its name, or a heading of its own (utility).
        asks: "harmful requests", "harmless requests" or "ability".
        verdict: two words for the eye; `tone` (better, worse, mixed, unclear, measured) is its colour and mark.
        lead: the sentence that a hurried reader takes away. more: what it must not be read without.
    """

    task: str
    asks: str
    verdict: str
    tone: str
    lead: Sentence
    more: tuple[Sentence, ...]


def findings(numbers: Numbers, tasks: Sequence[Task]) -> list[Finding]:
    """One finding for each task, in the page's order, then one for each utility task."""
    compared = numbers.results["kind"] == "comparison"
    found = [_compared(numbers, task) if compared else _measured(numbers, task) for task in tasks]
    if compared:
        found += [_utility(numbers, name) for name in numbers.keys("/utility")]
    return found


# One evaluation


def _measured(numbers: Numbers, task: Task) -> Finding:
    metric, noun = task.metric, _NOUN[task.kind]

    def value(row: Row) -> float | None:
        return numbers.number(f"{row.path}/{metric}/value")

    known = [row for row in task.languages if value(row) is not None]
    if not known:
        lead = sentence(f"Too few rows were judged in any language to state {_ONE_RATE[task.kind]}.")
        return Finding(task.name, _asks(task), "too few rows", "unclear", lead, ())
    parts: list[Sentence] = [sentence(noun, ": ")]
    if len(known) == 1:
        parts.append(_rate_with_interval(f"{known[0].path}/{metric}"))
        parts.append(sentence(" in ", Name(known[0].name), "."))
    else:
        if task.all and value(task.all) is not None:
            counted = sentence(" on average over ", Count(tuple(row.path for row in known)), " languages")
            parts += [_rate_with_interval(f"{task.all.path}/{metric}"), counted, sentence(", ")]
        low, high = (pick(known, key=lambda r: value(r) or 0.0) for pick in (min, max))
        parts.append(sentence("from ", percent(f"{low.path}/{metric}/value"), " in ", Name(low.name), " "))
        parts.append(sentence("to ", percent(f"{high.path}/{metric}/value"), " in ", Name(high.name), "."))
    more = [*_too_few([row for row in task.languages if value(row) is None]), *_invalid(numbers, task, ("",))]
    more += _fidelity(numbers, task, ("",))
    return Finding(task.name, _asks(task), "measured", "measured", sentence(*parts), tuple(more))


def _rate_with_interval(rate: str) -> Sentence:
    return sentence(
        percent(f"{rate}/value"), " (95 % interval ", Number(f"{rate}/low"), "–", Number(f"{rate}/high"), ")"
    )


# A comparison


@dataclass(frozen=True, slots=True)
class _Moves:
    """Which way the languages of a task went.

    Fields:
        rows: languages by direction, "unknown" being those with too few rows. known: all the others.
        sure: of those that fell and rose, the ones that moved by more than chance.
        average: the way of the mean over languages, if that moved by more than chance: it can be certain where no
            single language is.
    """

    rows: dict[str, list[Row]]
    known: list[Row]
    sure: dict[str, list[Row]]
    average: str | None

    @classmethod
    def of(cls, task: Task) -> _Moves:
        rows = {way: [row for row in task.languages if _way(row) == way] for way in (*_WAYS, "unknown")}
        known = [row for way in _WAYS for row in rows[way]]
        sure = {way: [row for row in rows[way] if _is_sure(row)] for way in _NOUNS}
        mean = task.all if len(known) > 1 else None
        return cls(rows, known, sure, _way(mean) if mean and _is_sure(mean) else None)

    def certain(self, way: str) -> bool:
        return bool(self.sure[way]) or self.average == way


_WAYS = ("fell", "rose", "stayed")
_NOUNS = {"rose": "rise", "fell": "fall"}


def _way(row: Row) -> str:
    return row.change.direction if row.change else "unknown"


def _is_sure(row: Row) -> bool:
    return row.change is not None and row.change.beyond_chance


def _compared(numbers: Numbers, task: Task) -> Finding:
    moves = _Moves.of(task)
    if not moves.known:
        lead = sentence(f"Too few rows were judged in any language to say whether {_ONE_RATE[task.kind]} changed.")
        return Finding(task.name, _asks(task), "too few rows", "unclear", lead, ())
    lead = _refusals(numbers, task, moves) if task.kind == "benign" else _unsafe_answers(moves)
    more: list[Sentence] = []
    if task.kind == "harmful":
        more += _average(numbers, task)
        more += _malformed_instead(numbers, task, moves.sure["fell"])
    else:
        more += _average_change(task)
    fell, rose = moves.certain("fell"), moves.certain("rose")
    if not fell and not rose:
        more += _power(numbers, moves.known)
    more += _highest_after(numbers, task, moves.known)
    more += _too_few(moves.rows["unknown"])
    more += _invalid(numbers, task, ("/before", "/after")) + _fidelity(numbers, task, ("/before", "/after"))
    words = _VERDICTS[task.kind]
    verdict, tone = {
        (True, True): ("mixed", "mixed"),
        (True, False): (words["fell"], "better"),
        (False, True): (words["rose"], "worse"),
        (False, False): ("no clear change", "unclear"),
    }[fell, rose]
    return Finding(task.name, _asks(task), verdict, tone, lead, tuple(more))


def _refusals(numbers: Numbers, task: Task, moves: _Moves) -> Sentence:
    """The leading sentence of a task with harmless requests."""
    if len(moves.known) == 1:
        cell, where = moves.known[0].path, sentence(" in ", Name(moves.known[0].name))
    else:
        cell = task.all.path if task.all else ""
        where = sentence(" on average over ", Count(_paths(moves.known)), " languages")
    ends = [f"{cell}/{side}/over_refusal/value" for side in ("before", "after")]
    if cell and all(numbers.has(end) for end in ends):
        return sentence("Harmless requests refused: ", arrow(*ends), where, "; ", _chance(moves), ".")
    return sentence("Harmless requests refused: ", _chance(moves), ".")


def _unsafe_answers(moves: _Moves) -> Sentence:
    """The leading sentence of a task with harmful requests."""
    rows, known, sure = moves.rows, moves.known, moves.sure
    if len(rows["stayed"]) == len(known):
        return sentence("Unsafe answers did not change in ", _any_of(known), ".")
    if sure["rose"] and sure["fell"]:
        rose, fell = (_named(sure[way], known) for way in ("rose", "fell"))
        return sentence("Unsafe answers rose in ", rose, " and fell in ", fell, ", each by more than chance explains.")
    way = "fell" if sure["fell"] else "rose" if sure["rose"] else moves.average
    if way:
        return sentence(f"Unsafe answers {way} in ", _of(rows[way], known), "; ", _chance(moves), ".")
    if len(known) == 1:
        noun = _NOUNS["fell" if rows["fell"] else "rose"]
        return sentence(
            "Unsafe answers: no change beyond chance in ", Name(known[0].name), f"; the {noun} seen could be chance."
        )
    counts = [sentence(f"{way} in ", Count(_paths(rows[way]))) for way in _WAYS if rows[way]]
    tail = [
        sentence(" and " if i and i == len(counts) - 1 else ", " if i else "", count) for i, count in enumerate(counts)
    ]
    return sentence("Unsafe answers: ", _chance(moves), "; the rate ", *tail, ".")


def _chance(moves: _Moves) -> Sentence:
    """ "the fall is larger than chance in Swahili and Bengali" and its kin."""
    known = moves.known
    clauses = []
    for way, noun in _NOUNS.items():
        sure = moves.sure[way]
        if sure and len(known) == 1:
            clauses.append(sentence(f"the {noun} is larger than chance"))
        elif sure and len(sure) == len(known):
            clauses.append(sentence(f"the {noun} is larger than chance in every one"))
        elif sure:
            clauses.append(sentence(f"the {noun} is larger than chance in ", _named(sure, known)))
    if clauses:
        return clauses[0] if len(clauses) == 1 else sentence(clauses[0], ", ", clauses[1])
    if moves.average:
        return sentence(f"the {_NOUNS[moves.average]} is larger than chance on average, though in no single language")
    if len(moves.rows["stayed"]) == len(known):
        return sentence("no change in ", _any_of(known))
    return sentence("no change is larger than chance in ", _any_of(known))


def _of(some: list[Row], known: list[Row]) -> Sentence:
    """ "3 of 4 languages", "all 4 languages", "Swahili"."""
    if len(known) == 1:
        return sentence(Name(known[0].name))
    if len(some) == len(known):
        return sentence("all ", Count(_paths(known)), " languages")
    return sentence(Count(_paths(some)), " of ", Count(_paths(known)), " languages")


def _any_of(known: list[Row]) -> Sentence:
    if len(known) == 1:
        return sentence(Name(known[0].name))
    return sentence("any of ", Count(_paths(known)), " languages")


def _average(numbers: Numbers, task: Task) -> list[Sentence]:
    row = task.all
    if not row or len(task.languages) < 2 or _way(row) == "unknown":
        return []
    ends = [f"{row.path}/{side}/{task.metric}/value" for side in ("before", "after")]
    if not all(numbers.has(end) for end in ends):
        return []
    return [sentence("Average over languages: ", arrow(*ends), ", ", _change(row), ".")]


def _average_change(task: Task) -> list[Sentence]:
    row = task.all
    if not row or len(task.languages) < 2 or _way(row) == "unknown":
        return []
    return [sentence("On average, ", _change(row), ".")]


def _change(row: Row) -> Sentence:
    """ "a change of −33.2 points (95 % interval −40.1 to −26.0), larger than chance"."""
    at = f"{row.path}/change"
    interval = (Number(f"{at}/low", "difference"), " to ", Number(f"{at}/high", "difference"))
    words = "larger than chance" if _is_sure(row) else "which could be chance"
    return sentence(
        "a change of ", Number(f"{at}/difference", "difference"), " points (95 % interval ", *interval, "), ", words
    )


def _malformed_instead(numbers: Numbers, task: Task, fell: list[Row]) -> list[Sentence]:
    """Where unsafe answers fell since malformed ones took their place: asr_strict, which counts both, did not fall."""
    rows = [*fell, *([task.all] if task.all and _way(task.all) == "fell" else [])]
    said = []
    for row in rows:
        ends = [f"{row.path}/{side}/asr_strict/value" for side in ("before", "after")]
        before, after = (numbers.number(end) for end in ends)
        if before is not None and after is not None and after >= before:
            where = sentence("in ", Name(row.name)) if row.kind == "language" else sentence("on average")
            said.append(
                sentence(
                    "The fall ",
                    where,
                    " is malformed output, not refusals: with malformed answers counted as unsafe, ",
                    arrow(*ends),
                    ".",
                )
            )
    return said


def _power(numbers: Numbers, known: list[Row]) -> list[Sentence]:
    found = [(n, path) for row in known if (n := numbers.number(path := f"{row.path}/change/detectable")) is not None]
    if not found:
        return []
    low, high = (Number(pick(found)[1]) for pick in (min, max))
    if low == high:
        return [sentence("The smallest change this sample could be expected to show is ", low, " points.")]
    return [
        sentence(
            "The smallest change this sample could be expected to show is ", low, " to ", high, " points, by language."
        )
    ]


def _highest_after(numbers: Numbers, task: Task, known: list[Row]) -> list[Sentence]:
    found = [(n, row) for row in known if (n := numbers.number(f"{row.path}/after/{task.metric}/value")) is not None]
    if len(found) < 2:
        return []
    _, row = max(found, key=lambda pair: pair[0])
    return [sentence("Highest after: ", percent(f"{row.path}/after/{task.metric}/value"), " in ", Name(row.name), ".")]


# Both kinds


def _too_few(rows: Sequence[Row]) -> list[Sentence]:
    if not rows:
        return []
    return [sentence("Too few judged rows to say: ", _named(rows, rows), ".")]


def _over_all(numbers: Numbers, task: Task, suffixes: Sequence[str], rate: str) -> Sentence | None:
    """The rate over all languages, one number or before → after; None where one is not there."""
    if not task.all:
        return None
    ends = [f"{task.all.path}{suffix}/{rate}/value" for suffix in suffixes]
    if not all(numbers.has(end) for end in ends):
        return None
    return arrow(*ends) if len(ends) == 2 else percent(ends[0])


def _invalid(numbers: Numbers, task: Task, suffixes: Sequence[str]) -> list[Sentence]:
    share = _over_all(numbers, task, suffixes, "invalid")
    return [sentence("Malformed answers: ", share, ".")] if share else []


def _fidelity(numbers: Numbers, task: Task, suffixes: Sequence[str]) -> list[Sentence]:
    share = _over_all(numbers, task, suffixes, "fidelity/rate")
    return [sentence("Answered in the language of the request: ", share, ".")] if share else []


def _utility(numbers: Numbers, name: str) -> Finding:
    """Ability moved in how many languages: no test of chance comes with it, and the sentence says so."""
    path = pointer("utility", name)
    moved: dict[str, list[str]] = {"fell": [], "rose": [], "stayed": []}
    for code in numbers.keys(path):
        at = path + pointer(code)
        before, after = (numbers.number(f"{at}/{side}/value") for side in ("before", "after"))
        if before is not None and after is not None:
            moved["fell" if after < before else "rose" if after > before else "stayed"].append(at)
    known = [at for ats in moved.values() for at in ats]
    if not known:
        return Finding(
            name, "ability", "not measured", "unclear", sentence("Ability was not measured on both sides."), ()
        )
    if len(known) == 1:
        code = known[0].rsplit("/", 1)[1]
        ends = (f"{known[0]}/before/value", f"{known[0]}/after/value")
        lead = sentence(
            "Ability in ", Name(language_name(code)), ": ", arrow(*ends), " (whether by chance was not tested)."
        )
    else:
        parts = [sentence(f"{way} in ", Count(tuple(ats))) for way, ats in moved.items() if ats]
        tail = [sentence(", " if i else "", part) for i, part in enumerate(parts)]
        lead = sentence(
            "Ability ", *tail, " of ", Count(tuple(known)), " languages (whether by chance was not tested)."
        )
    return Finding(name, "ability", "not tested", "measured", lead, ())


def _asks(task: Task) -> str:
    return "harmful requests" if task.kind == "harmful" else "harmless requests"


def _named(some: Sequence[Row], every: Sequence[Row]) -> Sentence:
    return enumeration(*([(row.name, row.path) for row in rows] for rows in (some, every)))


def _paths(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(row.path for row in rows)
