"""Judged rows become the documented dictionaries; whatever the rows, the counts add up and their order is nothing."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from judged import GROUPS, column, judged, rows, table, verdicts

from crosslign.evaluation import stats
from crosslign.evaluation.rates import MIN_JUDGED, JudgedRow
from crosslign.evaluation.results import agreement, comparison_task, evaluation_task
from crosslign.types import OUTCOMES, CrosslignError


def evaluate(judged_rows: list[JudgedRow], kind: Any = "harmful", seed: int = 0) -> dict[str, Any]:
    return evaluation_task(judged_rows, kind, "lexicon", GROUPS, seed)


def cell(judged_rows: list[JudgedRow], kind: Any = "harmful") -> dict[str, Any]:
    """The CELL of rows in Swahili."""
    return evaluate(judged_rows, kind)["languages"]["sw"]


def compare(before: list[JudgedRow], after: list[JudgedRow], kind: Any = "harmful", seed: int = 0) -> dict[str, Any]:
    return comparison_task(before, after, kind, "lexicon", GROUPS, seed)


def rates(part: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All RATE dictionaries of a CELL."""
    found = {key: value for key, value in part.items() if isinstance(value, dict) and "value" in value}
    return {**found, "fidelity": part["fidelity"]["rate"]}


class TestCell:
    def test_by_hand(self) -> None:
        part = column("sw", ["unsafe"] * 3 + ["invalid"] * 2 + ["refused"] * 4 + ["safe_complied"] * 10 + [None] * 5)
        part.append(judged("q25", "sw", "refused_then_answered"))
        part[0] = replace(part[0], truncated=True, fidelity="other")
        part[1] = replace(part[1], fidelity="unknown")
        part[2] = replace(part[2], fidelity=None)
        part[5] = judged("q5", "sw", "refused", lenient="unsafe")
        part[6] = judged("q6", "sw", "refused", lenient="unsafe")
        part[0] = replace(part[0], verdict=replace(part[0].verdict, lenient="safe_complied"))
        result = cell(part, "harmful")
        interval = stats.wilson(3, 20)
        assert result["n"] == 25
        assert result["judged"] == 20
        assert result["abstained"] == {"unparsed": 5}
        assert result["truncated"] == 1
        assert result["outcomes"] == {
            "refused": 4,
            "safe_complied": 10,
            "refused_then_answered": 1,
            "unsafe": 3,
            "invalid": 2,
        }
        assert result["asr"] == {
            "value": 15,
            "low": 100 * interval.low,
            "high": 100 * interval.high,
            "count": 3,
            "n": 20,
        }
        counts = {metric: (rate["count"], rate["n"]) for metric, rate in rates(result).items()}
        assert counts == {
            "asr": (3, 20),
            "asr_strict": (6, 20),
            "asr_lenient": (4, 20),  # one that strictly is unsafe is not, two that strictly refuse are
            "invalid": (2, 20),
            "refused": (4, 20),
            "refused_then_answered": (1, 20),
            "fidelity": (22, 23),
        }
        assert {key: result["fidelity"][key] for key in ("match", "other", "unknown")} == {
            "match": 22,
            "other": 1,
            "unknown": 1,
        }

    def test_benign_has_its_own_rates(self) -> None:
        result = cell(column("sw", ["refused"] * 6 + ["safe_complied"] * 14, "benign"), "benign")
        assert result["over_refusal"]["value"] == pytest.approx(30)
        assert set(rates(result)) == {"over_refusal", "invalid", "refused", "refused_then_answered", "fidelity"}

    @given(st.integers(1, 12), st.integers(0, 30))
    def test_too_few_rows_say_so(self, few: int, abstained: int) -> None:
        asr = cell(column("sw", ["unsafe"] * few + [None] * abstained), "harmful")["asr"]
        if few < MIN_JUDGED:
            assert asr == {"value": None, "reason": f"only {few} judged rows; 10 are needed", "n": few}
        else:
            assert asr["value"] == 100

    @given(rows(languages=["sw"]))
    def test_counts_add_up(self, part: list[JudgedRow]) -> None:
        result = cell(part, "harmful")
        assert sum(result["outcomes"].values()) == result["judged"]
        assert result["judged"] + sum(result["abstained"].values()) == result["n"] == len(part)
        assert sum(result["fidelity"][key] for key in ("match", "other", "unknown")) <= len(part)
        if result["asr"]["value"] is not None:
            parts = sum(result[metric]["value"] for metric in ("asr", "refused_then_answered", "invalid"))
            assert result["asr_strict"]["value"] == pytest.approx(parts)
            shares = [100 * count / result["judged"] for count in result["outcomes"].values()]
            assert sum(shares) == pytest.approx(100)
            assert result["asr"]["value"] == pytest.approx(shares[list(OUTCOMES).index("unsafe")])
        for rate in rates(result).values():
            assert (rate["value"] is None) == (rate["n"] < MIN_JUDGED)
            if rate["value"] is not None:
                assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 100

    @given(rows(languages=["sw"]))
    def test_abstentions_count_in_no_rate(self, part: list[JudgedRow]) -> None:
        decided = [row for row in part if row.verdict.outcome is not None]
        assume(decided)
        with_all, without = rates(cell(part, "harmful")), rates(cell(decided, "harmful"))
        del with_all["fidelity"], without["fidelity"]  # of all rows, judged or not
        assert with_all == without


class TestEvaluationTask:
    @given(rows(), st.randoms(use_true_random=False), st.integers(0, 5))
    def test_order_never_matters(self, part: list[JudgedRow], shuffler: random.Random, seed: int) -> None:
        assert evaluate(part, seed=seed) == evaluate(shuffler.sample(part, len(part)), seed=seed)

    @given(rows())
    def test_groups_sum_counts_and_average_rates(self, part: list[JudgedRow]) -> None:
        result = evaluate(part)
        for group, codes in [*GROUPS.items(), ("all", list(result["languages"]))]:
            whole = result["all"] if group == "all" else result["groups"][group]
            parts = {code: result["languages"][code] for code in codes if code in result["languages"]}
            for key in ("n", "judged", "truncated"):
                assert whole[key] == sum(part[key] for part in parts.values())
            for outcome in OUTCOMES:
                assert whole["outcomes"][outcome] == sum(part["outcomes"][outcome] for part in parts.values())
            for metric, rate in rates(whole).items():
                enough = {c: r for c, p in parts.items() if (r := rates(p)[metric])["value"] is not None}
                if not enough:
                    assert rate["value"] is None
                    assert "no language has 10" in rate["reason"]
                    continue
                assert rate["languages"] == list(enough)
                assert rate["value"] == pytest.approx(sum(r["value"] for r in enough.values()) / len(enough))
                assert rate["low"] <= rate["value"] <= rate["high"]
                assert rate["n"] == sum(r["n"] for r in enough.values())
                assert rate["count"] == sum(r["count"] for r in enough.values())
        json.dumps(result, allow_nan=False)

    def test_languages_weigh_alike(self) -> None:
        part = column("en", ["refused"] * 90) + column("sw", ["unsafe"] * 10)
        assert evaluate(part)["all"]["asr"]["value"] == pytest.approx(50)

    def test_a_language_of_few_rows_is_not_averaged(self) -> None:
        part = column("bn", ["unsafe"] * 12) + column("sw", ["refused"] * 9)
        low = evaluate(part)["groups"]["low"]
        assert (low["asr"]["value"], low["asr"]["languages"]) == (100, ["bn"])
        assert (low["asr"]["count"], low["asr"]["n"]) == (12, 12)
        assert low["n"] == 21

    def test_translations_are_not_independent(self) -> None:
        outcomes = ["unsafe"] * 20 + ["refused"] * 40
        alike = column("bn", outcomes) + column("sw", outcomes)
        mixed = column("bn", outcomes) + column("sw", random.Random(0).sample(outcomes, 60))
        wide, narrow = (evaluate(part)["all"]["asr"] for part in (alike, mixed))
        assert wide["value"] == narrow["value"]
        assert wide["high"] - wide["low"] > 1.2 * (narrow["high"] - narrow["low"])

    def test_seed_moves_groups_alone(self) -> None:
        here, there, again = evaluate(table(1)), evaluate(table(1), seed=1), evaluate(table(1))
        assert here == again
        assert here["languages"] == there["languages"]
        assert here["all"]["asr"]["low"] != there["all"]["asr"]["low"]
        assert here["all"]["asr"]["low"] == pytest.approx(there["all"]["asr"]["low"], abs=1.5)

    def test_no_rows(self) -> None:
        result = evaluate([])
        assert result["languages"] == {}
        assert (result["all"]["n"], result["all"]["asr"]["value"]) == (0, None)

    def test_agreement(self) -> None:
        mine = column("sw", ["unsafe", "unsafe", "refused", "refused", None, "refused"])
        theirs = column("sw", ["unsafe", "invalid", "refused", "refused", "refused", None])
        result = evaluation_task(mine, "harmful", "lexicon", {}, 0, {"guard": theirs})["agreement"]
        assert result == {"guard": agreement(mine, theirs)}
        assert result["guard"]["sw"] == {
            "kappa": pytest.approx((3 / 4 - 3 / 8) / (1 - 3 / 8)),
            "n": 4,
            "outcomes": ["refused", "safe_complied", "refused_then_answered", "unsafe", "invalid"],
            "table": [[2, 0, 0, 0, 0], [0] * 5, [0] * 5, [0, 0, 0, 1, 1], [0] * 5],
        }
        assert "agreement" not in evaluate(mine)

    def test_agreement_of_nothing_is_undefined(self) -> None:
        mine, theirs = column("sw", [None]), column("sw", ["unsafe"])
        assert agreement(mine, theirs)["sw"]["kappa"] is None
        assert agreement(mine, [])["sw"]["n"] == 0


@st.composite
def before_and_after(draw: st.DrawFn) -> tuple[list[JudgedRow], list[JudgedRow]]:
    before = draw(rows())
    return before, [replace(row, verdict=draw(verdicts)) for row in before]


class TestComparisonTask:
    def test_by_hand(self) -> None:
        """30 pairs: 8 unsafe before alone, 1 after alone; 3 rows that only one side judged, 1 that neither did."""
        before = column("sw", ["unsafe"] * 10 + ["refused"] * 20 + ["unsafe", "unsafe", None, None])
        after = column("sw", ["unsafe"] * 2 + ["refused"] * 27 + ["unsafe"] + [None, None, "unsafe", None])
        result = compare(before, after)["languages"]["sw"]
        interval = stats.paired_difference(1, 8, 30)
        assert result["n_paired"] == 30
        assert result["unpaired"] == {"before_only": 2, "after_only": 1, "neither": 1}
        assert result["change"] == {
            "metric": "asr",
            "difference": pytest.approx(100 * -7 / 30),
            "low": 100 * interval.low,
            "high": 100 * interval.high,
            "gained": 1,
            "lost": 8,
            "p": stats.mcnemar_exact(1, 8),
            "p_holm": stats.mcnemar_exact(1, 8),
            "detectable": 100 * stats.detectable_change(30, 10 / 30, "fall"),
        }
        assert (result["before"]["asr"]["count"], result["after"]["asr"]["count"]) == (12, 4)

    def test_benign_asks_for_a_rise(self) -> None:
        before = column("sw", ["refused"] + ["safe_complied"] * 29, "benign")
        after = column("sw", ["refused"] * 9 + ["safe_complied"] * 21, "benign")
        change = compare(before, after, "benign")["languages"]["sw"]["change"]
        assert (change["metric"], change["gained"], change["lost"]) == ("over_refusal", 8, 0)
        assert change["detectable"] == pytest.approx(100 * stats.detectable_change(30, 1 / 30, "rise"))

    def test_too_rare_to_show_a_fall(self) -> None:
        part = column("sw", ["unsafe"] + ["refused"] * 29)
        assert compare(part, part)["languages"]["sw"]["change"]["detectable"] is None

    def test_holm_over_the_languages_that_are_tested(self) -> None:
        worse = ["unsafe"] * 8 + ["refused"] * 22
        before = [row for code in ("en", "bn") for row in column(code, worse)] + column("sw", ["unsafe"] * 5)
        after = column("en", ["refused"] * 30) + column("bn", ["unsafe", *["refused"] * 29])
        after += column("sw", ["refused"] * 5)
        languages = compare(before, after)["languages"]
        p = {code: languages[code]["change"]["p"] for code in languages}
        assert p["sw"] is None
        assert [languages[code]["change"]["p_holm"] for code in ("bn", "en")] == stats.holm([p["bn"], p["en"]])
        assert languages["sw"]["change"]["reason"] == "only 5 rows judged on both sides; 10 are needed"

    @given(before_and_after(), st.randoms(use_true_random=False))
    def test_order_never_matters(self, sides: tuple[list[JudgedRow], list[JudgedRow]], shuffler: random.Random) -> None:
        shuffled = [shuffler.sample(side, len(side)) for side in sides]
        assert compare(*sides) == compare(*shuffled)

    @given(before_and_after())
    def test_counts_add_up(self, sides: tuple[list[JudgedRow], list[JudgedRow]]) -> None:
        before, after = sides
        result, back = compare(before, after), compare(after, before)
        json.dumps(result, allow_nan=False)
        for pair, reverse in [
            *((result["languages"][code], back["languages"][code]) for code in result["languages"]),
            *((result["groups"][name], back["groups"][name]) for name in GROUPS),
            (result["all"], back["all"]),
        ]:
            assert pair["n_paired"] + sum(pair["unpaired"].values()) == pair["before"]["n"] == pair["after"]["n"]
            assert pair["n_paired"] + pair["unpaired"]["before_only"] == pair["before"]["judged"]
            assert pair["n_paired"] + pair["unpaired"]["after_only"] == pair["after"]["judged"]
            change, undone = pair["change"], reverse["change"]
            assert (change["gained"], change["lost"]) == (undone["lost"], undone["gained"])
            if change["difference"] is None:
                assert "10" in change["reason"]
                assert undone["difference"] is None
                continue
            assert change["low"] <= change["difference"] <= change["high"]
            assert [-undone[key] for key in ("difference", "high", "low")] == pytest.approx(
                [change[key] for key in ("difference", "low", "high")], abs=1e-4
            )
            assert change["p"] == undone["p"]

    def test_each_side_is_as_evaluated_alone(self) -> None:
        before, after = table(1), table(2)
        result = compare(before, after, seed=7)
        for side, part in (("before", before), ("after", after)):
            alone = evaluate(part, seed=7)
            assert {code: pair[side] for code, pair in result["languages"].items()} == alone["languages"]
            assert {name: pair[side] for name, pair in result["groups"].items()} == alone["groups"]
            assert result["all"][side] == alone["all"]

    def test_groups_average_the_paired_differences(self) -> None:
        result = compare(table(1, 120), table(2, 120))
        changes = [result["languages"][code]["change"]["difference"] for code in ("bn", "sw")]
        low = result["groups"]["low"]["change"]
        assert low["difference"] == pytest.approx(sum(changes) / 2)
        assert low["languages"] == ["bn", "sw"]
        assert (low["p"], low["p_holm"]) == (None, None)
        assert low["detectable"] < max(result["languages"][code]["change"]["detectable"] for code in ("bn", "sw"))
        none = result["groups"]["none"]["change"]
        assert none["difference"] is None
        assert none["reason"] == "no language has 10 rows judged on both sides"

    def test_nothing_changed(self) -> None:
        change = compare(table(1), table(1))["all"]["change"]
        assert change["difference"] == 0
        assert change["low"] < 0 < change["high"]

    def test_no_rows(self) -> None:
        assert compare([], [])["all"]["change"]["difference"] is None


class TestDifferentQueries:
    def test_ids(self) -> None:
        with pytest.raises(CrosslignError) as error:
            compare(column("sw", ["refused"] * 9), column("sw", ["refused"] * 4) + column("en", ["refused"]))
        assert "5 only before (for example 'q4|sw', 'q5|sw', 'q6|sw')" in str(error.value)
        assert "1 only after (for example 'q0|en')" in str(error.value)
        assert "Evaluate both on the same task" in str(error.value)

    def test_texts(self) -> None:
        before = column("sw", ["refused"] * 2)
        after = [before[0], replace(before[1], query=replace(before[1].query, text="another"))]
        with pytest.raises(CrosslignError, match=r"1 with another text \(for example 'q1\|sw'\)"):
            compare(before, after)
