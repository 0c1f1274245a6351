"""Statistics of one language: intervals, tests, kappa, power; each against an oracle with another formula."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, multinomial, norm

from crosslign.evaluation import stats

Z = norm.ppf(0.975)


@st.composite
def counts(draw: st.DrawFn, most: int = 2000) -> tuple[int, int]:
    n = draw(st.integers(1, most))
    return draw(st.integers(0, n)), n


@st.composite
def pairs(draw: st.DrawFn, most: int = 500) -> tuple[int, int, int]:
    n = draw(st.integers(1, most))
    gained = draw(st.integers(0, n))
    return gained, draw(st.integers(0, n - gained)), n


class TestWilson:
    @given(counts())
    def test_equals_scipy(self, count: tuple[int, int]) -> None:
        k, n = count
        estimate, oracle = stats.wilson(k, n), binomtest(k, n).proportion_ci(method="wilson")
        assert (estimate.low, estimate.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)

    @given(counts())
    @example((0, 1))
    def test_holds_the_estimate_and_mirrors(self, count: tuple[int, int]) -> None:
        k, n = count
        here, there = stats.wilson(k, n), stats.wilson(n - k, n)
        assert 0 <= here.low <= here.value <= here.high <= 1
        assert here.low < here.high
        assert (1 - here.high, 1 - here.low) == pytest.approx((there.low, there.high), abs=1e-12)

    def test_sizes_need_not_be_whole(self) -> None:
        between = stats.wilson(0.2 * 61.5, 61.5)
        assert stats.wilson(0.2 * 61, 61).low < between.low < stats.wilson(0.2 * 62, 62).low

    @pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, 0), (float("nan"), 3)])
    def test_refuses_what_is_no_proportion(self, k: float, n: float) -> None:
        with pytest.raises(ValueError, match="not a proportion"):
            stats.wilson(k, n)

    @staticmethod
    def coverage(n: int, rate: float) -> float:
        """Exact, in %: the chance of all counts whose interval holds the rate."""
        held = [k for k in range(n + 1) if (e := stats.wilson(k, n)).low <= rate <= e.high]
        return float(100 * binom.pmf(held, n, rate).sum())

    @pytest.mark.parametrize("n", [60, 315])
    @pytest.mark.parametrize("rate", [0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 0.95])
    def test_covers_95_percent(self, n: int, rate: float) -> None:
        assert 93 <= self.coverage(n, rate) <= 97.05  # 97.00 at 60 and 5 %

    def test_where_it_does_not_cover(self) -> None:
        """Discreteness: an expected count far under 1 (here 0.16), where one hit already leaves the truth outside."""
        assert self.coverage(60, 0.16 / 60) == pytest.approx(85.2, abs=0.1)
        assert self.coverage(315, 0.16 / 315) == pytest.approx(85.2, abs=0.1)


class TestMcNemar:
    @given(st.integers(0, 300), st.integers(0, 300))
    def test_is_the_sign_test(self, gained: int, lost: int) -> None:
        assume(gained + lost > 0)
        p = stats.mcnemar_exact(gained, lost)
        assert p == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-9)
        assert p == stats.mcnemar_exact(lost, gained)

    def test_no_differing_pair_shows_nothing(self) -> None:
        assert stats.mcnemar_exact(0, 0) == 1

    def test_by_hand(self) -> None:
        assert stats.mcnemar_exact(0, 6) == pytest.approx(2 / 2**6)


class TestHolm:
    p_values = st.lists(st.floats(0, 1), max_size=6)

    @given(p_values)
    def test_is_closed_testing_by_bonferroni(self, p: list[float]) -> None:
        """The definition: a hypothesis falls if Bonferroni rejects every intersection that it is part of."""

        def adjusted(i: int) -> float:
            others = [j for j in range(len(p)) if j != i]
            sets = ({i, *more} for size in range(len(others) + 1) for more in itertools.combinations(others, size))
            return max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets)

        assert stats.holm(p) == pytest.approx([adjusted(i) for i in range(len(p))], abs=1e-12)

    @given(p_values, st.randoms(use_true_random=False))
    def test_order_and_bounds(self, p: list[float], shuffler: random.Random) -> None:
        adjusted = dict(zip(p, stats.holm(p), strict=True))
        assert all(raw <= value <= 1 for raw, value in adjusted.items())
        assert [adjusted[raw] for raw in sorted(adjusted)] == sorted(adjusted.values())
        shuffled = shuffler.sample(p, len(p))
        assert stats.holm(shuffled) == pytest.approx([adjusted[raw] for raw in shuffled])


@lru_cache
def most_likely_lost(gained: int, lost: int, n: int, d: float) -> float:
    """The share of lost pairs that maximises the likelihood given the difference d, by search."""
    low, high = max(0.0, -d), (1 - d) / 2

    def minus_log_likelihood(q: float) -> float:
        shares = np.clip([q + d, q, 1 - 2 * q - d], 1e-300, 1)
        return -float(np.array([gained, lost, n - gained - lost]) @ np.log(shares))

    return float(minimize_scalar(minus_log_likelihood, bounds=(low, high), options={"xatol": 1e-12}).x)


class TestPairedDifference:
    def test_published_example(self) -> None:
        """Fagerland, Lydersen & Laake, Statistical Analysis of Contingency Tables, 2017, chapter 8 (Cavo et al. 2012),
        and their package contingencytables: -0.0621 (-0.1240 to -0.0054)."""
        estimate = stats.paired_difference(6, 16, 161)
        rounded = [round(x, 4) for x in (estimate.value, estimate.low, estimate.high)]
        assert rounded == [-0.0621, -0.1240, -0.0054]

    @given(pairs(most=100))
    def test_ends_are_where_the_score_test_just_rejects(self, counts: tuple[int, int, int]) -> None:
        gained, lost, n = counts
        estimate = stats.paired_difference(gained, lost, n)
        for end in (estimate.low, estimate.high):
            if abs(end) < 0.99:
                q = most_likely_lost(gained, lost, n, end)
                variance = n * (2 * q + end * (1 - end))
                assert abs(gained - lost - n * end) / np.sqrt(variance) == pytest.approx(Z, rel=1e-3)

    @given(pairs())
    def test_excludes_zero_where_mcnemar_rejects(self, counts: tuple[int, int, int]) -> None:
        gained, lost, n = counts
        assume(gained + lost > 0)
        statistic = abs(gained - lost) / np.sqrt(gained + lost)
        assume(abs(statistic - Z) > 1e-6)
        estimate = stats.paired_difference(gained, lost, n)
        assert (estimate.low > 0 or estimate.high < 0) == (statistic > Z)

    @given(pairs(), st.floats(0.5, 1.5))
    @example((5, 0, 5), 1.0)
    @example((0, 5, 5), 0.7)
    @example((0, 0, 1), 1.0)
    def test_holds_the_estimate_and_mirrors(self, counts: tuple[int, int, int], scale: float) -> None:
        gained, lost, n = (scale * count for count in counts)  # effective sizes are not whole
        here, there = stats.paired_difference(gained, lost, n), stats.paired_difference(lost, gained, n)
        assert -1 <= here.low <= here.value <= here.high <= 1
        assert here.high - here.low > 1e-4
        assert (-here.high, -here.low) == pytest.approx((there.low, there.high), abs=1e-6)

    @given(st.integers(1, 5000))
    def test_no_differing_pair(self, n: int) -> None:
        estimate = stats.paired_difference(0, 0, n)
        assert (estimate.low, estimate.high) == pytest.approx((-(Z**2) / (n + Z**2), Z**2 / (n + Z**2)), abs=1e-8)

    def test_all_pairs_differ(self) -> None:
        estimate = stats.paired_difference(60, 0, 60)
        assert (estimate.value, estimate.high) == (1, 1)
        assert estimate.low == pytest.approx((60 - Z**2) / (60 + Z**2), abs=1e-8)

    def test_refuses_what_are_no_pairs(self) -> None:
        with pytest.raises(ValueError, match="not pairs"):
            stats.paired_difference(3, 3, 5)

    @pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.15), (0.1, 0.1), (0.02, 0.3), (0.2, 0.4)])
    def test_covers_95_percent(self, gained: float, lost: float) -> None:
        """Exact, over all outcomes of 60 pairs."""
        n, covered = 60, 0.0
        for g in range(n + 1):
            for k in range(n + 1 - g):
                chance = float(multinomial.pmf([g, k, n - g - k], n, [gained, lost, 1 - gained - lost]))
                if chance > 1e-7:
                    estimate = stats.paired_difference(g, k, n)
                    covered += chance * (estimate.low <= gained - lost <= estimate.high)
        assert 0.93 <= covered <= 0.97


class TestKappa:
    @given(arrays.arrays(int, (4, 4), elements=st.integers(0, 9)))
    def test_against_exact_arithmetic(self, table: np.ndarray) -> None:
        items = [(i, j) for i in range(4) for j in range(4) for _ in range(table[i, j])]
        n = len(items)
        first, second = [a for a, _ in items], [b for _, b in items]
        kappa = stats.kappa(table.tolist())
        chance = sum(Fraction(first.count(x) * second.count(x), n * n) for x in set(first)) if n else 1
        if chance == 1:
            assert kappa is None
        else:
            observed = Fraction(sum(a == b for a, b in items), n)
            assert kappa == pytest.approx(float((observed - chance) / (1 - chance)), abs=1e-12)
            assert kappa == pytest.approx(stats.kappa(table.T.tolist()))

    def test_known(self) -> None:
        assert stats.kappa([[1, 0], [0, 1]]) == 1
        assert stats.kappa([[1, 1], [0, 0]]) == 0
        # Fleiss et al.: 20 and 15 agree, 5 and 10 do not: observed 0.7, chance 0.5.
        assert stats.kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)

    def test_undefined_is_none(self) -> None:
        assert stats.kappa([[0, 0], [0, 0]]) is None
        assert stats.kappa([[2, 0], [0, 0]]) is None


class TestDetectableChange:
    @given(st.integers(1, 20), st.floats(0, 0.5), st.floats(0, 0.5))
    def test_power_by_enumeration(self, n: int, gained: float, lost: float) -> None:
        power = sum(
            float(multinomial.pmf([g, k, n - g - k], n, [gained, lost, 1 - gained - lost]))
            for g in range(n + 1)
            for k in range(n + 1 - g)
            if stats.mcnemar_exact(g, k) <= 0.05
        )
        assert stats.mcnemar_power(n, gained, lost) == pytest.approx(power, abs=1e-9)

    def test_no_change_is_never_shown(self) -> None:
        assert stats.mcnemar_power(100, 0, 0) == 0
        assert stats.mcnemar_power(100, 1e-308, 0) == 0

    @pytest.mark.parametrize(("n", "base"), [(60, 0.2), (60, 0.5), (315, 0.05), (315, 0.5)])
    def test_is_shown_four_times_of_five(self, n: int, base: float) -> None:
        fall = stats.detectable_change(n, base, "fall")
        assert fall is not None
        generator = np.random.default_rng(0)
        before = generator.random((4000, n)) < base
        after = generator.random((4000, n)) < base - fall
        gained, lost = (~before & after).sum(1), (before & ~after).sum(1)
        shown = np.mean([stats.mcnemar_exact(int(g), int(k)) <= 0.05 for g, k in zip(gained, lost, strict=True)])
        assert shown == pytest.approx(0.8, abs=0.02)

    @given(st.integers(1, 400), st.floats(0, 1))
    def test_mirrors_and_stays_possible(self, n: int, base: float) -> None:
        fall, rise = stats.detectable_change(n, base, "fall"), stats.detectable_change(n, 1 - base, "rise")
        assert (fall is None) == (rise is None)
        if fall is not None:
            assert 0 < fall <= base
            assert fall == pytest.approx(rise, abs=1e-4)

    def test_more_pairs_show_smaller_changes(self) -> None:
        changes = [stats.detectable_change(n, 0.3, "fall") for n in (50, 100, 200, 400, 800)]
        assert changes == sorted(changes, reverse=True)

    def test_too_rare_to_fall(self) -> None:
        assert stats.detectable_change(60, 0.05, "fall") is None  # 3 of 60: even 0 of 60 would not be significant
        assert stats.detectable_change(60, 0.0, "fall") is None
        assert stats.detectable_change(0, 0.5, "fall") is None
        assert stats.detectable_change(60, 0.05, "rise") is not None


class TestCorrection:
    """Of a judge's errors: the true rate behind the apparent one."""

    @given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    def test_undoes_what_an_imperfect_judge_does(self, true: float, sensitivity: float, specificity: float) -> None:
        assume(sensitivity + specificity > 1.001)
        apparent = true * sensitivity + (1 - true) * (1 - specificity)
        assert stats.rogan_gladen(np.array(apparent), sensitivity, specificity) == pytest.approx(true, abs=1e-9)

    @given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    def test_is_a_rate_or_nothing(self, apparent: float, sensitivity: float, specificity: float) -> None:
        corrected = float(stats.rogan_gladen(np.array(apparent), sensitivity, specificity))
        assert np.isnan(corrected) if sensitivity + specificity - 1 <= 0 else 0 <= corrected <= 1

    def test_a_perfect_judge_changes_nothing_and_shapes_fit(self) -> None:
        rates = np.array([[0.0, 0.3], [0.7, 1.0]])
        assert np.array_equal(stats.rogan_gladen(rates, 1.0, 1.0), rates)
        found = stats.rogan_gladen(np.array([0.5, 0.6]), np.array([0.9, 0.5]), 0.5)
        assert found == pytest.approx([0.0, np.nan], nan_ok=True)

    def test_weights_undo_a_draw_by_strata(self) -> None:
        hits = [True] * 5 + [False] * 5 + [True] * 10  # 5 of 10 of a stratum of 90, 10 of 10 of one of 10
        found = stats.weighted_proportion(hits, [9.0] * 10 + [1.0] * 10)
        assert found is not None
        assert found.value == pytest.approx(0.55)
        assert 10 < found.n < 20
        assert stats.weighted_proportion([True, False], [3.0, 3.0]) == stats.wilson(1, 2)
        assert stats.weighted_proportion([], []) is None

    def test_intervals_hold_the_truth(self) -> None:
        """40 labelled rows of each kind and 100 evaluated ones: 95 % intervals, of 300 experiments."""
        rng, truth, sensitivity, specificity, held = np.random.default_rng(0), 0.4, 0.95, 0.8, 0
        for seed in range(300):
            labelled = [stats.wilson(rng.binomial(40, p), 40) for p in (sensitivity, specificity)]
            apparent = rng.random(100) < truth * sensitivity + (1 - truth) * (1 - specificity)
            rates = stats.resampled_rates(apparent[:, None].astype(float), seed=seed, draws=500)[:, 0]
            errors = [stats.rate_draws(rate, seed=2 * seed + n, draws=500) for n, rate in enumerate(labelled)]
            low, high = np.nanpercentile(stats.rogan_gladen(rates, *errors), (2.5, 97.5))
            held += low <= truth <= high
        assert 0.92 <= held / 300 <= 0.985
