"""Intervals over several runs: against published numbers, slow computations, and what one run gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.evaluation import stats
from crosslign.evaluation.repeated import (
    difference_of_means,
    difference_over_runs,
    drawn_rates,
    mean_over_runs,
    rank_shares,
)


def outcomes(seed: int, queries: int, runs: int, columns: int, values: tuple[float, ...] = (0, 1)) -> np.ndarray:
    return np.random.default_rng(seed).choice([*values, np.nan], size=(queries, runs, columns), p=_shares(values))


def _shares(values: tuple[float, ...]) -> list[float]:
    return [0.9 / len(values)] * len(values) + [0.1]


def test_one_run_has_the_interval_of_an_evaluation() -> None:
    values = outcomes(0, 40, 1, 3)
    rates = stats.resampled_rates(values[:, 0], seed=5)
    assert mean_over_runs(values, drawn_rates(values, seed=5)) == stats.mean_over_languages(values[:, 0], rates)


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_draws_of_runs_vary_as_the_mean_of_so_many_runs_does(runs: int) -> None:
    """Runs whose queries are all alike: what is left is the variance between runs, s^2 / S with n - 1 in s^2."""
    of_run = np.arange(runs) % 2
    values = np.broadcast_to(of_run[None, :, None], (30, runs, 2)).astype(float)
    means = drawn_rates(values, seed=1).reshape(stats.DRAWS, -1).mean(axis=1)
    assert means.var() == pytest.approx(of_run.var(ddof=1) / runs, rel=0.1)


def test_an_interval_grows_with_what_runs_differ_in() -> None:
    alike = np.zeros((60, 4, 2))
    alike[:30] = 1
    apart = np.zeros((60, 4, 2))
    apart[:, :2] = 1
    a, b = (mean_over_runs(v, drawn_rates(v, seed=0)) for v in (alike, apart))
    assert a.value == b.value == 0.5
    assert b.high - b.low > 1.5 * (a.high - a.low)


def test_nothing_of_n_has_an_interval_with_a_width() -> None:
    values = np.zeros((40, 3, 2))
    found = mean_over_runs(values, drawn_rates(values, seed=0))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(stats.wilson(0, 40).high)


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_p_is_below_five_percent_where_the_interval_leaves_zero_out(seed: int, runs: int) -> None:
    shift = np.random.default_rng(seed).choice([-1, 0, 1], p=[0.1, 0.6, 0.3], size=(25, runs, 2)).astype(float)
    estimate, p = difference_over_runs(shift, drawn_rates(shift, seed=0))
    if abs(p - 0.05) > 1e-4:
        assert (p < 0.05) == (estimate.low > 0 or estimate.high < 0)


def test_newcombes_own_examples() -> None:
    """Table II of the paper, method 10: 56/70 - 48/80, and 9/10 - 3/10."""
    for first, second, low, high in (((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090)):
        found, p = difference_of_means(stats.wilson(*first), stats.wilson(*second))
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
        assert p < 0.05
    same, p = difference_of_means(stats.wilson(3, 10), stats.wilson(3, 10))
    assert (same.value, p) == (0, 1)


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=6))
def test_shares_of_first_places_and_ranks_by_counting(scores: list[list[int]]) -> None:
    first, ranks = rank_shares(np.array(scores, dtype=float))
    counted = [0.0] * 3
    for draw, row in zip(scores, ranks, strict=True):
        best = [i for i in range(3) if draw[i] == max(draw)]
        for i in best:
            counted[i] += 1 / len(best) / len(scores)
        orders = [o for o in itertools.permutations(range(3)) if [draw[i] for i in o] == sorted(draw, reverse=True)]
        for i in range(3):  # the mean place over all orders that the scores allow
            assert row[i] == pytest.approx(sum(o.index(i) + 1 for o in orders) / len(orders))
    assert first == pytest.approx(counted)
