"""Means over languages by a bootstrap over queries: invariants, limits that are known, speed, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from coverage_simulation import WORLDS, coverage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from hypothesis.strategies import DrawFn

from crosslign.evaluation import stats


@st.composite
def outcomes(draw: DrawFn) -> stats.Array:
    """0, 1 and NaN, [queries, languages]; every language has a cell."""
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 5)))
    table = draw(arrays.arrays(float, shape, elements=st.sampled_from([0.0, 1.0, np.nan])))
    table[0] = np.nan_to_num(table[0])
    return table


def world(queries: int = 300, languages: int = 4, seed: int = 0) -> stats.Array:
    """Independent outcomes, three in ten of them 1."""
    return (np.random.default_rng(seed).random((queries, languages)) < 0.3).astype(float)


def alike(seed: int = 0) -> stats.Array:
    """300 queries in 4 languages; in half of the queries all translations share their outcome."""
    values = world(seed=seed)
    values[::2] = values[::2, :1]
    return values


def ends(estimate: stats.Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def mean(values: stats.Array, seed: int = 0, draws: int = stats.DRAWS) -> stats.Estimate:
    return stats.mean_over_languages(values, stats.resampled_rates(values, seed=seed, draws=draws))


def difference(before: stats.Array, after: stats.Array, draws: int = stats.DRAWS) -> stats.Estimate:
    values = after - before
    return stats.mean_difference_over_languages(values, stats.resampled_rates(values, seed=0, draws=draws))


class TestInvariants:
    @given(outcomes())
    def test_holds_the_mean_of_the_rates(self, values: stats.Array) -> None:
        estimate = mean(values, draws=200)
        rates = [np.mean([x for x in column if not np.isnan(x)]) for column in values.T]
        assert estimate.value == pytest.approx(np.mean(rates))
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.low < estimate.high

    @given(outcomes())
    def test_mirrors(self, values: stats.Array) -> None:
        here, there = mean(values, draws=200), mean(1 - values, draws=200)
        assert (1 - here.value, 1 - here.high, 1 - here.low) == pytest.approx(ends(there), abs=1e-6)

    @given(outcomes(), st.integers(0, 2**32))
    def test_same_seed_same_numbers_in_any_order_of_languages(self, values: stats.Array, seed: int) -> None:
        first = mean(values, seed, draws=200)
        assert first == mean(values.copy(), seed, draws=200)
        assert ends(mean(values[:, ::-1], seed, draws=200)) == pytest.approx(ends(first), abs=1e-6)

    @given(outcomes(), outcomes())
    def test_differences_swap_sides(self, before: stats.Array, after: stats.Array) -> None:
        rows, columns = (min(x, y) for x, y in zip(before.shape, after.shape, strict=True))
        before, after = before[:rows, :columns], after[:rows, :columns]
        there = difference(before, after, draws=200)
        back = difference(after, before, draws=200)
        assert -1 <= there.low <= there.value <= there.high <= 1
        assert there.low < there.high
        assert (-there.value, -there.high, -there.low) == pytest.approx(ends(back), abs=1e-6)

    def test_order_of_queries_is_noise(self) -> None:
        values = alike()
        shuffled = np.random.default_rng(1).permutation(values)
        here, there = mean(values), mean(shuffled)
        assert here.value == pytest.approx(there.value)
        assert there.low == pytest.approx(here.low, abs=0.003)
        assert here != there  # a bootstrap it is

    def test_seeds_differ_by_noise(self) -> None:
        sizes = [mean(alike(), seed=seed).n for seed in range(5)]
        assert len(set(sizes)) > 1
        assert max(sizes) < 1.2 * min(sizes)


class TestLimits:
    def test_one_language_is_wilson(self) -> None:
        values = world(languages=1)
        bootstrap = mean(values, draws=20_000)
        assert ends(bootstrap) == pytest.approx(ends(stats.wilson(values.sum(), 300)), abs=0.002)

    def test_one_language_is_tango(self) -> None:
        before, after = world(languages=1), world(languages=1, seed=1) * world(languages=1, seed=2)
        gained, lost = ((after - before) == 1).sum(), ((after - before) == -1).sum()
        bootstrap = difference(before, after, draws=20_000)
        assert ends(bootstrap) == pytest.approx(ends(stats.paired_difference(gained, lost, 300)), abs=0.003)

    def test_languages_that_say_the_same_are_one_language(self) -> None:
        once = world(languages=1)
        copies = mean(np.repeat(once, 10, axis=1))
        assert copies.n == pytest.approx(300, rel=0.1)
        assert ends(copies) == pytest.approx(ends(stats.wilson(once.sum(), 300)), abs=0.005)

    def test_independent_languages_are_more_queries(self) -> None:
        assert mean(world(languages=10)).n == pytest.approx(3000, rel=0.15)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_nothing_seen_is_not_certainty(self, value: float) -> None:
        """0 of n and n of n: as many observations as queries, since nothing tells that translations differ."""
        values = np.full((60, 10), value)
        assert ends(mean(values)) == pytest.approx(ends(stats.wilson(60 * value, 60)))

    def test_one_hit_is_hardly_more_than_none(self) -> None:
        values = np.zeros((60, 10))
        none = mean(values)
        values[0, 0] = 1
        one = mean(values)
        assert 0.6 * none.high < one.high < none.high

    def test_no_pair_differs(self) -> None:
        values = world(60, 10)
        none = difference(values, values)
        assert ends(none) == pytest.approx(ends(stats.paired_difference(0, 0, 60)))

    def test_missing_cells_weigh_languages_alike(self) -> None:
        """All alike, language a has 30 queries and b another 10: their mean knows as much as 1 / (1/120 + 1/40)."""
        values = np.full((40, 2), np.nan)
        values[:30, 0], values[30:, 1] = 0, 0
        assert mean(values).n == pytest.approx(30)

    def test_never_more_than_the_cells(self) -> None:
        """One language always 0, the other always 1: the draws do not vary at all, and yet 120 cells are 120 cells."""
        values = np.tile([0.0, 1.0], (60, 1))
        assert mean(values).n == pytest.approx(120)

    def test_a_language_without_cells(self) -> None:
        with pytest.raises(ValueError, match="has no cells"):
            mean(np.array([[1.0, np.nan]] * 3))


class TestResampledRates:
    def test_variance_of_a_rate(self) -> None:
        """Of one column, the bootstrap's variance is p (1 - p) / n."""
        values = world(200, 1)
        p = values.mean()
        rates = stats.resampled_rates(values, seed=0, draws=20_000)
        assert rates.mean() == pytest.approx(p, abs=0.002)
        assert rates.var() == pytest.approx(p * (1 - p) / 200, rel=0.05)

    def test_translations_travel_together(self) -> None:
        values = world(50, 1)
        rates = stats.resampled_rates(np.hstack([values, values, 1 - values]), seed=0)
        assert np.array_equal(rates[:, 0], rates[:, 1])
        assert rates[:, 0] + rates[:, 2] == pytest.approx(np.ones(len(rates)))

    def test_columns_share_draws_and_shape(self) -> None:
        stacked = np.stack([world(30, 3, seed) for seed in range(4)], axis=1)
        rates = stats.resampled_rates(stacked, seed=5, draws=40)
        assert rates.shape == (40, 4, 3)
        assert np.array_equal(rates[:, 2], stats.resampled_rates(stacked[:, 2], seed=5, draws=40))

    def test_draws_without_a_cell_are_nan(self) -> None:
        values = np.full((50, 2), np.nan)
        values[:, 0], values[0, 1] = world(50, 1)[:, 0], 1
        rates = stats.resampled_rates(values, seed=0)
        # One query is missed by a draw of 50 with the chance (1 - 1/50)^50.
        assert np.isnan(rates[:, 1]).mean() == pytest.approx(0.98**50, abs=0.03)
        assert not np.isnan(rates[:, 0]).any()

    def test_a_draw_may_miss_everything(self) -> None:
        values = np.full((50, 1), np.nan)
        values[:2, 0] = [0, 1]
        estimate = mean(values)
        assert (estimate.value, 0 < estimate.low < estimate.high < 1) == (0.5, True)

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = stats.resampled_rates(world(), seed=0, draws=100)
        monkeypatch.setattr(stats, "CELLS_PER_CHUNK", 300 * 7)
        assert np.array_equal(whole, stats.resampled_rates(world(), seed=0, draws=100))

    def test_no_queries(self) -> None:
        with pytest.raises(ValueError, match="no queries"):
            stats.resampled_rates(np.empty((0, 3)), seed=0)


def test_the_mean_covers_where_percentiles_do_not() -> None:
    """In short: 400 simulations, of which one standard error is 1.1 points."""
    measured = coverage(WORLDS["60 queries, 5%, translations much alike"], simulations=400, draws=300)
    assert 92 <= measured["mean"] <= 98, measured
    assert measured["difference"] >= 92, measured
    assert measured["percentile"] < 91, measured


@pytest.mark.slow
class TestCoverage:
    """95 % intervals over 2,000 simulations each; one standard error is 0.5 points."""

    @pytest.mark.parametrize("name", [f"{n} queries, {rate}" for n in (60, 315) for rate in ("20%", "50%")])
    def test_covers(self, name: str) -> None:
        measured = coverage(WORLDS[name], draws=500)
        del measured["percentile"]
        assert all(93 <= value <= 97.1 for value in measured.values()), measured

    @pytest.mark.parametrize("name", ["315 queries, 2%", "315 queries, 5%", "315 queries, 20%, falls to a tenth"])
    def test_covers_rare_events(self, name: str) -> None:
        measured = coverage(WORLDS[name], draws=500)
        assert 93 <= measured["mean"] <= 97, measured
        assert 93 <= measured["difference"] <= 97, measured

    @pytest.mark.parametrize(
        "name",
        [
            "60 queries, 5%",
            "60 queries, rates 1-70 %",
            "60 queries, 5%, translations much alike",
            "60 queries, 20%, a fifth of the cells missing",
            "60 queries, 20%, no change",
        ],
    )
    def test_mean_covers_where_percentiles_may_not(self, name: str) -> None:
        measured = coverage(WORLDS[name], draws=500)
        assert 93 <= measured["mean"] <= 97, measured
        if "much alike" in name:
            assert measured["percentile"] < 91, measured

    def test_few_events_are_on_the_safe_side(self) -> None:
        """60 queries at 2 %, a handful of events in all: wider than they need be, never narrower."""
        measured = coverage(WORLDS["60 queries, 2%"], draws=500)
        assert measured["mean"] > 97, measured
        assert measured["difference"] > 97, measured
        assert measured["percentile"] < 92, measured
