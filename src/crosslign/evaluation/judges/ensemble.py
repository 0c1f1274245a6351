"""Two judges over the same completions: one verdict from both, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from crosslign.evaluation.judges.base import Judge
from crosslign.types import OUTCOMES, CrosslignError, JudgeItem, Verdict, nearest

Rule = Literal["first", "agree"]


class EnsembleJudge:
    """Asks two judges and keeps both verdicts.

    Rules:
        first: the first judge decides, its abstentions included; the second is there to be compared with.
        agree: the outcome that both give; if they differ, or one abstains, the ensemble abstains. The lenient reading
            is the one that both give; where they differ in that alone, it is the outcome.

    `Verdict.details["judges"]` holds what each judge said, by name, the first judge first.
    """

    name = "ensemble"

    def __init__(self, judges: Sequence[Judge], rule: Rule = "first") -> None:
        """Raises CrosslignError unless there are two judges of different names and the rule is known."""
        if len(judges) != 2 or judges[0].name == judges[1].name:
            names = ", ".join(judge.name for judge in judges) or "none"
            raise CrosslignError(f"an ensemble takes two judges of different names, not {names}.")
        if rule not in get_args(Rule):
            raise CrosslignError(f"unknown ensemble rule {rule!r}. {nearest(rule, get_args(Rule))}")
        self.first, self.second = judges
        self.rule = rule

    def identity(self) -> Mapping[str, str]:
        parts = {f"{j.name}.{key}": value for j in (self.first, self.second) for key, value in j.identity().items()}
        return {"kind": "ensemble", "rule": self.rule, "first": self.first.name, "second": self.second.name, **parts}

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        both = zip(self.first.judge(items), self.second.judge(items), strict=True)
        return [self._together(first, second) for first, second in both]

    def _together(self, first: Verdict, second: Verdict) -> Verdict:
        details = {"judges": {self.first.name: _as_dict(first), self.second.name: _as_dict(second)}}
        if self.rule == "first":
            return Verdict(first.outcome, first.reason, first.lenient, details)
        for judge, verdict in ((self.first, first), (self.second, second)):
            if verdict.outcome is None:
                return Verdict(None, f"{judge.name}: {verdict.reason}", details=details)
        if first.outcome != second.outcome:
            return Verdict(None, "disagreement", details=details)
        lenient = first.lenient or first.outcome
        agreed = lenient if lenient == (second.lenient or second.outcome) and lenient != first.outcome else None
        return Verdict(first.outcome, first.reason, agreed, details)


def split(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """The verdicts of an ensemble's first and second judge, as they gave them."""
    pairs = [list(verdict.details["judges"].values()) for verdict in verdicts]
    return [Verdict(**first) for first, _ in pairs], [Verdict(**second) for _, second in pairs]


def agreement(
    first: Sequence[Verdict], second: Sequence[Verdict], languages: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """How far two judges agree on the same completions, for each language, in the order of first appearance.

    Args:
        first, second, languages: [completions]; the verdicts of both judges and the query's language.

    Returns, by language:
        kappa: Cohen's kappa, or None where it is not defined: no pairs, or both judges know one outcome only, the same.
        n: pairs in which both judges gave an outcome.
        table: [4, 4] counts; rows are the first judge's outcomes and columns the second's, in the order of `outcomes`.
        outcomes: `crosslign.types.OUTCOMES`.
        abstained: pairs left out, since one judge or both abstained.
    """
    tables: dict[str, npt.NDArray[np.int64]] = {}
    abstained: dict[str, int] = {}
    for one, other, language in zip(first, second, languages, strict=True):
        table = tables.setdefault(language, np.zeros((len(OUTCOMES), len(OUTCOMES)), dtype=np.int64))
        abstained.setdefault(language, 0)
        if one.outcome is None or other.outcome is None:
            abstained[language] += 1
        else:
            table[OUTCOMES.index(one.outcome), OUTCOMES.index(other.outcome)] += 1
    return {
        language: {
            "kappa": _kappa(table),
            "n": int(table.sum()),
            "table": table.tolist(),
            "outcomes": list(OUTCOMES),
            "abstained": abstained[language],
        }
        for language, table in tables.items()
    }


def _kappa(table: npt.NDArray[np.int64]) -> float | None:
    """Cohen's kappa, `(p_o - p_e) / (1 - p_e)`, of a square table of counts; None if there are none or `p_e` is 1.

    `p_o` is the share on the diagonal and `p_e` the one that judges with the same margins would have by chance. Source:
    Cohen, *A coefficient of agreement for nominal scales*, 1960.
    """
    n = int(table.sum())
    if n == 0:
        return None
    expected = int(table.sum(axis=0) @ table.sum(axis=1))  # n^2 p_e, exact in whole numbers
    if expected == n * n:
        return None
    return (n * int(np.trace(table)) - expected) / (n * n - expected)


def _as_dict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "lenient": verdict.lenient,
        "details": dict(verdict.details),
    }
