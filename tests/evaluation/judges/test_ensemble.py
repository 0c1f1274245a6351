"""Two judges together, and how far they agree; Cohen's kappa against published values and scikit-learn's definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crosslign.evaluation.judges.ensemble import EnsembleJudge, agreement, split
from crosslign.types import OUTCOMES, CrosslignError, JudgeItem, Outcome, Query, Verdict

ITEMS = [JudgeItem(Query(f"row-{i}", "sw", "ask", "en", "ask", "harmful"), f"reply {i}") for i in range(4)]
UNSURE = Verdict(None, "unparsed")


@dataclass
class Fixed:
    """A judge that says what it was told to say."""

    name: str
    verdicts: Sequence[Verdict]
    version: str = "1"
    seen: list[JudgeItem] = field(default_factory=list)

    def identity(self) -> Mapping[str, str]:
        return {"kind": "fixed", "version": self.version}

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        self.seen.extend(items)
        return list(self.verdicts)


def verdicts(*outcomes: Outcome | None) -> list[Verdict]:
    return [Verdict(o, "said") if o else UNSURE for o in outcomes]


A = verdicts("refused", "unsafe", None, "invalid")
B = verdicts("refused", "refused", "unsafe", None)


def test_the_first_judge_decides_and_both_are_kept() -> None:
    first, second = Fixed("a", A), Fixed("b", B)
    together = EnsembleJudge([first, second]).judge(ITEMS)
    assert [v.outcome for v in together] == ["refused", "unsafe", None, "invalid"]
    assert [v.reason for v in together] == ["said", "said", "unparsed", "said"]
    assert together[1].details["judges"]["b"] == {
        "outcome": "refused",
        "reason": "said",
        "lenient": None,
        "details": {},
    }
    assert first.seen == second.seen == ITEMS


def test_to_agree_both_must_say_the_same() -> None:
    together = EnsembleJudge([Fixed("a", A), Fixed("b", B)], "agree").judge(ITEMS)
    assert [v.outcome for v in together] == ["refused", None, None, None]
    assert [v.reason for v in together] == ["said", "disagreement", "a: unparsed", "b: unparsed"]


@pytest.mark.parametrize(
    ("one", "other", "lenient"),
    [
        ("safe_complied", "safe_complied", "safe_complied"),
        ("safe_complied", None, None),  # None means the same as the outcome
        (None, None, None),
        ("unsafe", "unsafe", None),
    ],
)
def test_the_lenient_reading_is_the_one_that_both_give(
    one: Outcome | None, other: Outcome | None, lenient: Outcome | None
) -> None:
    judges = [Fixed("a", [Verdict("unsafe", lenient=one)]), Fixed("b", [Verdict("unsafe", lenient=other)])]
    (verdict,) = EnsembleJudge(judges, "agree").judge(ITEMS[:1])
    assert (verdict.outcome, verdict.lenient) == ("unsafe", lenient)
    (verdict,) = EnsembleJudge(judges, "first").judge(ITEMS[:1])
    assert verdict.lenient == one


def test_what_each_judge_said_can_be_taken_apart_again() -> None:
    together = EnsembleJudge([Fixed("a", A), Fixed("b", B)], "agree").judge(ITEMS)
    assert split(together) == (A, B)
    assert split([]) == ([], [])


def test_the_identity_holds_both_judges_and_the_rule() -> None:
    ensemble = EnsembleJudge([Fixed("a", A), Fixed("b", B, "7")], "agree")
    assert ensemble.identity() == {
        "kind": "ensemble",
        "rule": "agree",
        "first": "a",
        "second": "b",
        "a.kind": "fixed",
        "a.version": "1",
        "b.kind": "fixed",
        "b.version": "7",
    }


def test_a_judge_that_leaves_a_verdict_out_is_not_paired_with_the_wrong_item() -> None:
    with pytest.raises(ValueError, match="shorter"):
        EnsembleJudge([Fixed("a", A), Fixed("b", B[:3])]).judge(ITEMS)


@pytest.mark.parametrize(
    ("judges", "rule", "message"),
    [
        ([], "first", "two judges of different names, not none"),
        ([Fixed("a", A)], "first", "not a"),
        ([Fixed("a", A), Fixed("a", B)], "first", "not a, a"),
        ([Fixed("a", A), Fixed("b", B)], "agreed", r"unknown ensemble rule 'agreed'\. Did you mean 'agree'\?"),
    ],
)
def test_what_is_no_ensemble_is_an_error(judges: list[Fixed], rule: str, message: str) -> None:
    with pytest.raises(CrosslignError, match=message):
        EnsembleJudge(judges, rule)  # type: ignore[arg-type]


# Agreement


def pairs(table: Sequence[Sequence[int]]) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts whose table this is."""
    cells = [(a, b) for a, row in enumerate(table) for b, count in enumerate(row) for _ in range(count)]
    return verdicts(*(OUTCOMES[a] for a, _ in cells)), verdicts(*(OUTCOMES[b] for _, b in cells))


def kappa(table: Sequence[Sequence[int]]) -> float | None:
    first, second = pairs(table)
    return agreement(first, second, ["sw"] * len(first))["sw"]["kappa"]


def full(*rows: Sequence[int]) -> list[list[int]]:
    """A smaller table as one of four outcomes."""
    return [[*row, *[0] * (4 - len(row))] for row in rows] + [[0] * 4] * (4 - len(rows))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (full([20, 5], [10, 15]), 0.4),  # the example of Wikipedia's article on Cohen's kappa
        (full([45, 15], [25, 15]), 0.1304),  # the two further ones there
        (full([25, 35], [5, 35]), 0.2593),
        (full([88, 14, 18], [10, 40, 10], [2, 6, 12]), 0.492),  # Cohen 1960, table 1: proportions x 200
        (full([5], [0, 7], [0, 0, 3], [0, 0, 0, 2]), 1.0),
        (full([0, 6], [6, 0]), -1.0),
    ],
)
def test_kappa_of_published_tables(table: list[list[int]], expected: float) -> None:
    assert kappa(table) == pytest.approx(expected, abs=5e-4)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=16, max_size=16))
def test_kappa_is_one_minus_observed_over_expected_disagreement(counts: list[int]) -> None:
    table = np.array(counts, dtype=float).reshape(4, 4)
    assume(table.sum() > 0)
    # Disagreements counted pair by pair, in the manner of scikit-learn's weighted form.
    apart = 1 - np.eye(4)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    assume((apart * expected).sum() > 0)
    assert kappa(table.astype(int).tolist()) == pytest.approx(1 - (apart * table).sum() / (apart * expected).sum())


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=16, max_size=16))
def test_kappa_agrees_with_statsmodels(counts: list[int]) -> None:
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    table = np.array(counts).reshape(4, 4)
    value = kappa(table.tolist()) if table.sum() else None
    assume(value is not None)
    assert value == pytest.approx(inter_rater.cohens_kappa(table, return_results=False))


@pytest.mark.parametrize("table", [full([7]), full([0, 0], [0, 7])])
def test_kappa_is_not_defined_where_both_judges_know_one_outcome_only(table: list[list[int]]) -> None:
    assert kappa(table) is None


def test_agreement_is_by_language_and_counts_what_it_leaves_out() -> None:
    first = verdicts("refused", "unsafe", "unsafe", None, "invalid", None)
    second = verdicts("refused", "refused", "unsafe", "unsafe", None, None)
    result = agreement(first, second, ["sw", "sw", "sw", "bn", "sw", "sw"])
    assert list(result) == ["sw", "bn"]
    assert result["sw"]["n"] == 3
    assert result["sw"]["abstained"] == 2
    assert result["sw"]["outcomes"] == ["refused", "safe_complied", "unsafe", "invalid"]
    assert result["sw"]["table"] == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert result["sw"]["kappa"] == pytest.approx(0.4)
    assert result["bn"] == {
        "kappa": None,
        "n": 0,
        "table": [[0] * 4] * 4,
        "outcomes": list(OUTCOMES),
        "abstained": 1,
    }
    assert agreement([], [], []) == {}


def test_agreement_of_lists_that_do_not_belong_together_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        agreement(A, B, ["sw"])
