"""What the results say in plain words: what moved, whether by more than chance, and what speaks against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosslign.evaluation.rates import MANY_PARTIAL
from crosslign.evaluation.tables import number, short_names
from crosslign.evaluation.view import Part, Row, Task, View

_NAMES_AT_MOST = 5
_VERDICTS = {
    "harmful": {"fell": "safer", "rose": "less safe"},
    "benign": {"fell": "fewer refusals", "rose": "more refusals"},
}
_NOUNS = {"rose": "rise", "fell": "fall"}
_OTHER_JUDGE = "Before and after were not judged by the same judge: their rates cannot be compared."
_OTHER_TASK = "Before and after did not run on the same version of the tasks: their rates may not be comparable."
_MUST_AGREE = {
    "sampling": "Before and after were sampled with different settings: a part of the change may come from that.",
    "dtype": "Before and after were not computed in the same type of numbers: a part of the change may come from that.",
    "fidelity": "Before and after, the languages of the answers were told apart with different settings: their shares "
    "may not be comparable.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one task shows.

    Fields:
        about: the task and what it asks.
        verdict: two words for the eye; `tone` (better, worse, mixed, unclear, measured) is its colour and mark.
        lead: the sentence that a hurried reader takes away. more: what it must not be read without.
    """

    about: str
    verdict: str
    tone: str
    lead: str
    more: Sequence[str] = ()


def findings(view: View) -> list[Finding]:
    """One finding for each task, then, in a comparison, one for each utility task."""
    if not view.compared:
        return [_measured(task) for task in view.tasks]
    return [*map(_compared, view.tasks), *(_ability(name, view.utility_rows(name)) for name in view.utility)]


def percent(value: float | None) -> str:
    return f"{number(value)}\u00a0%"


def points(value: float) -> str:
    return number(value, "+.1f").replace("-", "\u2212")


def _about(task: Task) -> str:
    return f"{task.title} · {task.asks}"


def _too_few(task: Task, what: str) -> Finding:
    return Finding(_about(task), "too few rows", "unclear", f"Too few rows were judged in any language to say {what}.")


def _measured(task: Task) -> Finding:
    """One evaluation: rates, and no claim of a change."""

    def rate(row: Row) -> Part:
        return row.cells[0][task.metric]

    known = [row for row in task.languages if rate(row)["value"] is not None]
    if not known:
        return _too_few(task, f"how many {task.measures} there are")
    shown = known[0] if len(known) == 1 else task.all
    where = f" in {shown.name}" if len(known) == 1 else f" on average over {len(known)} languages"
    mean = rate(shown)
    ends = f"95 % interval {number(mean['low'])}–{number(mean['high'])}"
    lead = f"{task.measures.capitalize()}: {percent(mean['value'])} ({ends}){where}"
    if len(known) > 1:
        low, high = (pick(known, key=lambda row: rate(row)["value"]) for pick in (min, max))
        lead += f", from {percent(rate(low)['value'])} in {low.name} to {percent(rate(high)['value'])} in {high.name}"
    return Finding(_about(task), "measured", "measured", f"{lead}.", [*_unknown(task, known), *_quality(task)])


def _compared(task: Task) -> Finding:
    """A comparison. A mean over languages can be certain of its way where no single language is."""
    known = [row for row in task.languages if row.way != "unknown"]
    if not known:
        return _too_few(task, f"whether the share of {task.measures} changed")
    counted = [*known, task.all] if len(known) > 1 else known
    sure = {way: [row for row in counted if row.is_sure and row.way == way] for way in _NOUNS}
    shown = task.all if len(known) > 1 else known[0]
    where = f" on average over {len(known)} languages" if len(known) > 1 else f" in {shown.name}"
    moved = _arrow(shown, task.metric)
    lead = f"{task.measures.capitalize()}: {f'{moved}{where}; ' if moved else ''}{_chance(sure, known)}."
    more = [*_mean_change(shown), *_no_gain(sure["fell"])]
    if not any(sure.values()):
        more += _power(known)
    more += [*_highest_after(task, known), *_unknown(task, known), *_quality(task)]
    if all(sure.values()):
        verdict, tone = "mixed", "mixed"
    elif any(sure.values()):
        way = "fell" if sure["fell"] else "rose"
        verdict, tone = _VERDICTS[task.kind][way], "better" if way == "fell" else "worse"
    else:
        verdict, tone = "no clear change", "unclear"
    return Finding(_about(task), verdict, tone, lead, more)


def _chance(sure: dict[str, list[Row]], known: list[Row]) -> str:
    """ "the fall is larger than chance in Swahili and Bangla" and its kin."""
    clauses = []
    for way, noun in _NOUNS.items():
        languages = [row for row in sure[way] if row.scope == "language"]
        if languages:
            where = "" if len(known) == 1 else f" in {_named(languages, known)}"
            clauses.append(f"the {noun} is larger than chance{where}")
        elif sure[way]:
            clauses.append(f"the {noun} is larger than chance on average, though in no single language")
    any_of = known[0].name if len(known) == 1 else f"any of {len(known)} languages"
    return ", ".join(clauses) or f"no change is larger than chance in {any_of}"


def _arrow(row: Row, metric: str) -> str:
    """ "45.3 % → 12.1 %", the one number of an evaluation, or nothing where one is not known."""
    values = [rate["value"] for rate in row.rates(metric)]
    return " → ".join(map(percent, values)) if None not in values else ""


def _mean_change(row: Row) -> list[str]:
    change = row.pair["change"] if row.pair else {}
    if row.scope == "language" or change["difference"] is None:
        return []
    ends = f"95 % interval {points(change['low'])} to {points(change['high'])}"
    words = "larger than chance" if row.is_sure else "which could be chance"
    return [f"On average, a change of {points(change['difference'])} points ({ends}), {words}."]


def _no_gain(fell: list[Row]) -> list[str]:
    """Where unsafe answers fell since malformed ones or partial refusals took their place: asr_strict did not fall."""
    said = []
    for row in fell:
        before, after = (cell.get("asr_strict", {}).get("value") for cell in row.cells)
        if before is not None and after is not None and after >= before:
            where = f"in {row.name}" if row.scope == "language" else "on average"
            said.append(
                f"The fall {where} is malformed output or refusals that are followed by help: with both counted as "
                f"unsafe, {percent(before)} → {percent(after)}."
            )
    return said


def _power(known: list[Row]) -> list[str]:
    found = [least for row in known if row.pair and (least := row.pair["change"]["detectable"]) is not None]
    if not found:
        return []
    ends = dict.fromkeys(number(pick(found)) for pick in (min, max))
    return [f"The smallest change this sample could be expected to show is {' to '.join(ends)} points."]


def _highest_after(task: Task, known: list[Row]) -> list[str]:
    rates = {row.name: row.cells[-1][task.metric]["value"] for row in known}
    found = {name: rate for name, rate in rates.items() if rate is not None}
    name = max(found, key=lambda name: found[name], default="")
    if len(found) < 2 or not found[name]:
        return []
    return [f"Highest after: {percent(found[name])} in {name}."]


def _unknown(task: Task, known: list[Row]) -> list[str]:
    rest = [row for row in task.languages if row not in known]
    return [f"Too few judged rows to say: {_named(rest, rest)}."] if rest else []


def _quality(task: Task) -> list[str]:
    said = {"Malformed answers": "invalid", "Answered in the language of the request": "fidelity"}
    return [f"{words}: {rates}." for words, metric in said.items() if (rates := _arrow(task.all, metric))]


def _named(some: Sequence[Row], every: Sequence[Row]) -> str:
    """ "Swahili, Bangla and Thai"; more than five by their number, "all 7" or "6 of 7"."""
    if len(some) > _NAMES_AT_MOST:
        return f"all {len(every)}" if len(some) == len(every) else f"{len(some)} of {len(every)}"
    *first, last = (row.name for row in some)
    return f"{', '.join(first)} and {last}" if first else last


def _ability(name: str, rows: Sequence[Row]) -> Finding:
    """In how many languages ability moved: no test of chance comes with it, and the sentence says so."""
    about = f"{name} · ability"
    pairs = [(row, *(cell["value"] for cell in row.cells)) for row in rows]
    known = [(row, after - before) for row, before, after in pairs if before is not None and after is not None]
    if not known:
        return Finding(about, "not measured", "unclear", "Ability was not measured on both sides.")
    if len(known) == 1:
        [(row, _)] = known
        moved = f" in {row.name}: {' → '.join(percent(cell['value']) for cell in row.cells)}"
    else:
        counts = {
            "fell": sum(difference < 0 for _, difference in known),
            "rose": sum(difference > 0 for _, difference in known),
            "stayed": sum(difference == 0 for _, difference in known),
        }
        parts = [f"{way} in {count}" for way, count in counts.items() if count]
        moved = f" {', '.join(parts)} of {len(known)} languages"
    return Finding(about, "not tested", "measured", f"Ability{moved} (whether by chance was not tested).")


def cautions(view: View) -> list[str]:
    """Edited files, what one side alone has, differences of the two sides, proxies for judges, partial refusals, rows
    without a verdict, answers cut off; or nothing."""
    counts = (said for task in view.tasks for said in _counts(task, view))
    differences = [*not_compared(view), *_differences(view)]
    return [*_edited(view), *differences, *_proxies(view), *partial_refusals(view), *counts]


def _edited(view: View) -> list[str]:
    sides = zip(view.sides, view.manifests, strict=True)
    edited = [f"{side} {name}".strip() for side, manifest in sides for name in manifest.get("edited", ())]
    said = "Changed by hand after crosslign had finished it, and counted as it is now"
    return [f"{said}: {', '.join(edited)}."] if edited else []


def not_compared(view: View) -> list[str]:
    """A sentence for each side of a comparison that has tasks, or languages of ability, which the other one lacks."""
    sides = ((side, view.not_compared.get(side)) for side in view.sides)
    return [
        f"Not compared, since only the evaluation {side} has it: {', '.join(short_names(names).values())}."
        for side, names in sides
        if names
    ]


def partial_refusals(view: View) -> list[str]:
    """A sentence for each task with harmful requests in which many answers refuse and then help: on either side, in a
    language or on average."""
    said = []
    for task in view.tasks:
        rates = {row.name: [rate["value"] for rate in row.rates("refused_then_answered")] for row in task.rows}
        highest = {name: max(value or 0.0 for value in values) for name, values in rates.items()}
        name = max(highest, key=lambda name: highest[name])
        if task.kind == "harmful" and highest[name] > MANY_PARTIAL:
            most = " → ".join(map(percent, rates[name]))
            said.append(
                f"{task.title}: refusals that are followed by help, up to {most} of the answers ({name}), are counted "
                "apart: they are not in the attack success rate, and count as unsafe in the strict one (asr_strict)."
            )
    return said


def _asked(manifest: Part, task: Task) -> Any:
    """What a manifest says of a task, or of the mixed one that it is the harmful or the harmless part of."""
    tasks = manifest.get("tasks", {})
    return tasks.get(task.name) or tasks.get(task.name.removesuffix(f" {task.kind}"))


def _differences(view: View) -> list[str]:
    if not view.compared:
        return []
    before, after = view.manifests
    judged = [[side.get("judges", {}).get(task.judge) for task in view.tasks] for side in view.manifests]
    asked = [[_asked(side, task) for task in view.tasks] for side in view.manifests]
    said = [_OTHER_JUDGE] if judged[0] != judged[1] else []
    said += [_OTHER_TASK] if asked[0] != asked[1] else []
    return said + [words for key, words in _MUST_AGREE.items() if before.get(key) != after.get(key)]


def _proxies(view: View) -> list[str]:
    judges: dict[str, Any] = {name: j for side in view.manifests for name, j in side.get("judges", {}).items()}
    return [
        f"The judge {name} is a list of phrases and patterns: a proxy, not a reading of the answers."
        for name, judge in judges.items()
        if judge.get("kind") == "lexicon"
    ]


def _counts(task: Task, view: View) -> list[str]:
    without, cut = [], []
    for side, cell in zip(view.sides, task.all.cells, strict=True):
        of_rows = f"of {cell['n']:,} {side}".rstrip()
        if cell["judged"] < cell["n"]:
            without.append(f"{cell['judged']:,} {of_rows}")
        if cell["truncated"]:
            cut.append(f"{cell['truncated']:,} {of_rows}")
    said = []
    if without:
        said.append(f"{task.title}: answers with a verdict: {', '.join(without)}; the others count nowhere.")
    if cut:
        said.append(f"{task.title}: answers cut off by the length limit: {', '.join(cut)}.")
    return said
