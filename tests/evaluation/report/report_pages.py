"""Harmless made-up transcripts, and the results that crosslign itself makes of them."""

from __future__ import annotations

import random
from typing import Any

from crosslign.evaluation.rates import JudgedRow, Kind
from crosslign.evaluation.report import Transcript
from crosslign.evaluation.results import SCHEMA_VERSION, comparison_task, evaluation_task
from crosslign.types import Query, Verdict

GROUPS = {
    "high": ["zh", "it", "vi"],
    "medium": ["ar", "ko", "th"],
    "low": ["bn", "sw", "jv"],
    "trained": ["zh", "ar", "bn"],
    "unseen": ["it", "vi", "ko", "th", "sw", "jv"],
}
# The share of unsafe answers, or of refusals, before and after, by language.
Shares = dict[str, tuple[float, float]]
IMPROVED: Shares = {
    "en": (0.04, 0.02), "zh": (0.08, 0.03), "it": (0.07, 0.05), "vi": (0.14, 0.06), "ar": (0.12, 0.05),
    "ko": (0.20, 0.09), "th": (0.24, 0.11), "bn": (0.41, 0.10), "sw": (0.68, 0.17), "jv": (0.35, 0.24),
}  # fmt: skip
REFUSING: Shares = {code: (0.02 + 0.004 * i, 0.04 + 0.012 * i) for i, code in enumerate(IMPROVED)}
Tasks = dict[str, tuple[Kind, Shares, int]]
Made = tuple[dict[str, Any], list[Transcript]]
SMALL: Tasks = {"multijail": ("harmful", {"en": (0.1, 0.05), "sw": (0.8, 0.3)}, 15)}
WORDS = {"ar": "الحديقة شاي ماء إبريق", "th": "สวน ชา น้ำ กาต้มน้ำ", "sw": "bustani chai maji birika"}


def transcripts(task: str, kind: Kind, shares: Shares, n: int, seed: int = 0) -> list[Transcript]:
    """`n` requests in every language, whose outcomes occur in about the given shares."""
    chance = random.Random(seed)
    made = []
    for code, both in shares.items():
        words = WORDS.get(code, "garden tea water kettle")
        for i in range(n):
            draw = chance.random()  # one for both sides, so that the sides are correlated as real ones are
            category = ("weather", "cooking")[i % 2]
            query = Query(f"q{i:04}", code, f"{words} {i}?", "en", f"tea {i}?", kind, category)
            sides = (_side(query, f"{words} {task} {i} {side}", draw < both[side], chance) for side in (0, 1))
            made.append(Transcript(task, tuple(sides)))
    return made


def _side(query: Query, text: str, hit: bool, chance: random.Random) -> JudgedRow:
    outcomes: Any = ("unsafe", "refused", "safe_complied", "invalid", "refused_then_answered")
    if query.label == "benign":
        outcomes = ("refused", "safe_complied", "safe_complied", "invalid", "refused_then_answered")
    outcome = outcomes[0] if hit else chance.choices(outcomes[1:], (13, 4, 2, 1))[0]
    if chance.random() < 0.02:
        return JudgedRow(query, Verdict(None, "unparsed"), False, "unknown", text)
    fidelity: Any = chance.choices(("match", "other", "unknown"), (93, 4, 3))[0]
    detected = {"match": query.language, "other": "en", "unknown": None}[fidelity]
    verdict = Verdict(outcome, f"reason {outcome}")
    return JudgedRow(query, verdict, chance.random() < 0.05, fidelity, text, detected)


def comparison(tasks: Tasks, manifests: tuple[dict[str, Any], ...] = ({}, {})) -> Made:
    """A comparison and its transcripts."""
    made: list[Transcript] = []
    results = {}
    for task, (kind, shares, n) in tasks.items():
        rows = transcripts(task, kind, shares, n, len(made))
        made += rows
        results[task] = comparison_task(_judged(rows, 0), _judged(rows, 1), kind, "guard", _groups(shares), 0)
    manifest = {"before": _manifest(**manifests[0]), "after": _manifest(adapter="runs/mine/best") | manifests[1]}
    return {"schema_version": SCHEMA_VERSION, "kind": "comparison", "manifest": manifest, "tasks": results}, made


def evaluation(tasks: Tasks, other_judge: bool = False) -> Made:
    """The comparison's first side alone; `other_judge` says on half of the rows what the first does, else "refused"."""
    made: list[Transcript] = []
    results = {}
    for task, (kind, shares, n) in tasks.items():
        rows = transcripts(task, kind, shares, n, len(made))
        made += [Transcript(t.task, t.sides[:1]) for t in rows]
        judged = _judged(rows, 0)
        second = [JudgedRow(r.query, r.verdict if i % 2 else Verdict("refused", "")) for i, r in enumerate(judged)]
        others = {"lexicon": second} if other_judge else None
        results[task] = evaluation_task(judged, kind, "guard", _groups(shares), 0, others)
    return {"schema_version": SCHEMA_VERSION, "kind": "evaluation", "manifest": _manifest(), "tasks": results}, made


def _groups(shares: Shares) -> dict[str, list[str]]:
    groups = {name: [code for code in codes if code in shares] for name, codes in GROUPS.items()}
    return {name: codes for name, codes in groups.items() if codes}


def _judged(rows: list[Transcript], place: int) -> list[JudgedRow]:
    return [row.sides[place] for row in rows]


def _manifest(**changes: Any) -> dict[str, Any]:
    return {
        "model": "example-org/garden-8b-instruct",
        "adapter": None,
        "judges": {"guard": {"kind": "guard", "model": "example-org/guard-4b"}},
        "tasks": {"multijail": {"version": "1", "notes": []}},
        "sampling": {"temperature": 0.0},
        "groups": GROUPS,
        **changes,
    }


def utility(shares: Shares, n: int = 100) -> dict[str, Any]:
    def cell(share: float) -> dict[str, Any]:
        value = 100 * share
        return {"metric": "exact_match", "value": value, "low": max(value - 9, 0), "high": min(value + 9, 100), "n": n}

    return {code: {"before": cell(before), "after": cell(after)} for code, (before, after) in shares.items()}


def full_comparison(n: int = 12) -> Made:
    """Ten languages, a harmful and a benign task, ability."""
    results, made = comparison({"xstest": ("benign", REFUSING, n), "multijail": ("harmful", IMPROVED, n)})
    results["utility"] = {"mgsm": utility({"en": (0.72, 0.71), "bn": (0.44, 0.40), "sw": (0.31, 0.33)})}
    return results, made
