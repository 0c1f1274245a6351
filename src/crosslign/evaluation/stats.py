"""Statistics of verdicts: intervals, tests and averages over languages. Pure functions; rates are fractions in [0, 1].

**The mean over languages.** `values[i, l]` is the outcome of query i in language l, NaN where there is none. The mean
is `(1/L) sum_l p_l`, with p_l the mean of the cells of language l. Translations of one query are not independent, so
whole queries are drawn with replacement: a draw gives query i the weight w_i, `w ~ Multinomial(N, 1/N)`, and
`p_l = sum_i w_i values[i, l] / sum_i w_i [cell is there]`. Let v be the variance of the mean over the draws.

The percentiles of the draws are no honest interval here: at 0 of n they have no width at all, and with 60 queries, a
rate of 5 % and translations much alike they cover 90 % instead of 95 (`tests/evaluation/coverage_simulation.py`). So v
goes into the score interval that a single language gets, through the effective sample size (Korn & Graubard 1998; Dean
& Pagano 2015; Franco et al. 2019):

    n_eff = s / v,    s = sum_il a_il values_il^2 - mean^2,    a_il = 1 / (L n_l): the weight of a cell in the mean

Wilson's interval at `(mean, n_eff)` for a level, Tango's for a difference. For one language both are what they are
without a bootstrap, but for its noise. Three things keep it honest where v says little:

- v rests on the k queries that hold any other value than the commonest; few of them tell nothing about how alike
  translations are. Writing r for n_all_alike / n_eff, r is taken as `(k r + 1) / (k + 1)`: as if one more such query
  had been seen, with all its translations alike. `n_all_alike = 1 / sum_i (sum_l a_il)^2` is the effective size if the
  translations of a query always share their outcome; with no cell missing it is the number of queries.
- With k = 0 (0 of n, n of n, no pair that differs) n_eff is therefore n_all_alike.
- n_eff is never more than `1 / sum_il a_il^2`, the size that independent cells would have.

Sources: Wilson, JASA 1927; McNemar, Psychometrika 1947; Holm, Scand. J. Stat. 1979; Tango, Statistics in Medicine 1998,
17:891-908; Korn & Graubard, Survey Methodology 1998, 24:193-201; Dean & Pagano, J. Surv. Stat. Methodol. 2015,
3:484-503; Franco, Little, Louis & Slud, J. Surv. Stat. Methodol. 2019, 7:334-364; Cohen, Educ. Psychol. Meas. 1960;
Kish, Survey Sampling 1965; Rogan & Gladen, Am. J. Epidemiology 1978, 107:71-76.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

Array = NDArray[np.floating[Any]]
Direction = Literal["fall", "rise"]

SIGNIFICANCE = 0.05  # two-sided; intervals are 1 - SIGNIFICANCE
POWER = 0.8
DRAWS = 2000
_Z = float(norm.ppf(1 - SIGNIFICANCE / 2))
CELLS_PER_CHUNK = 4_000_000  # of the matrix of weights, draws x queries: bounds the memory at 16 MB in float32


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval and the (effective) sample size that the interval rests on. Fractions."""

    value: float
    low: float
    high: float
    n: float

    def percent(self) -> dict[str, float]:
        """Value and interval in %, by the names that results give them."""
        return {name: 100 * getattr(self, name) for name in ("value", "low", "high")}


def wilson(count: float, n: float) -> Estimate:
    """Wilson's score interval of `count` of `n`. Neither needs to be whole: an effective size is not.

    Raises ValueError unless 0 <= count <= n and n > 0.
    """
    if not (n > 0 and 0 <= count <= n):
        raise ValueError(f"not a proportion: {count} of {n}")
    value = count / n
    low, high = proportion_confint(count, n, alpha=SIGNIFICANCE, method="wilson")
    # Rounding may leave 0.9999999999999999 as the upper end of n of n.
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def weighted_proportion(hits: Sequence[bool], weights: Sequence[float]) -> Estimate | None:
    """The share of hits by weight, with Wilson's interval at Kish's effective size `(sum w)^2 / sum w^2`.

    For rows drawn by strata a row's weight is its stratum's size over the number drawn of it. None without rows.
    """
    if not len(hits):
        return None
    w = np.asarray(weights, dtype=float)
    size = float(w.sum() ** 2 / (w**2).sum())
    return wilson(min(float(w @ np.asarray(hits, dtype=float) / w.sum()), 1.0) * size, size)


def rogan_gladen(apparent: Array, sensitivity: float | Array, specificity: float | Array) -> Array:
    """The true rate behind the rate that an imperfect judge finds; fractions, of any shapes that fit each other.

        (apparent + specificity - 1) / (sensitivity + specificity - 1), clipped to [0, 1]

    NaN where sensitivity + specificity <= 1: such a judge tells nothing. Source: Rogan & Gladen 1978.
    """
    youden = np.asarray(sensitivity + specificity - 1)
    excess = apparent - (1 - np.asarray(specificity))
    true = np.divide(excess, youden, out=np.full_like(excess / 1.0, np.nan), where=youden > 0)
    return np.clip(true, 0, 1)


def rate_draws(measured: Estimate, *, seed: int, draws: int = DRAWS) -> Array:
    """Draws of a rate that was measured on a few rows: `Beta(hits + 1/2, misses + 1/2)` by its effective size.

    For the sensitivity and the specificity in `rogan_gladen` of `resampled_rates`, whose percentiles are then the
    interval of a corrected rate. Rows drawn with replacement instead would give 0 of n errors no width at all.
    """
    hits = measured.value * measured.n
    return np.random.default_rng(seed).beta(hits + 0.5, measured.n - hits + 0.5, size=draws)


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p of the exact McNemar test: `gained` pairs went from 0 to 1, `lost` from 1 to 0. 1 if none did."""
    return float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: each at least its raw p, and rejecting at 5 % keeps the chance of
    any false rejection among them under 5 %."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    # Not statsmodels' multipletests: it collects garbage at every call, half a second beside a loaded torch.
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted.tolist()


@lru_cache(maxsize=4096)
def paired_difference(gained: float, lost: float, n: float) -> Estimate:
    """Tango's score interval for a difference of paired proportions, after - before, in [-1, 1].

    `gained` of `n` pairs went from 0 to 1, `lost` from 1 to 0; counts need not be whole. The interval holds every d
    with |T(d)| <= z, where

        T(d) = (gained - lost - n d) / sqrt(n (2 q + d (1 - d)))
        q = (sqrt(B^2 - 4 A C) - B) / (2 A),  A = 2n,  B = (2n - gained + lost) d - gained - lost,  C = -lost d (1 - d)

    and q is the most likely share of lost pairs given d. T(0) is McNemar's statistic without continuity correction.
    With no differing pair it is +-z^2 / (n + z^2), and with n of n it ends at 1: it never has width 0.

    Source: Tango, Statistics in Medicine 1998, 17:891-908. Raises ValueError unless the counts fit into n.
    """
    if not (n > 0 and gained >= 0 and lost >= 0 and gained + lost <= n * (1 + 1e-12)):
        raise ValueError(f"not pairs: {gained} gained and {lost} lost of {n}")

    def excess(d: float) -> float:
        """T(d)^2 - z^2, times its denominator: negative inside the interval, positive outside."""
        a, b, c = 2 * n, (2 * n - gained + lost) * d - gained - lost, -lost * d * (1 - d)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        return float((gained - lost - n * d) ** 2 - _Z**2 * n * (2 * q + d * (1 - d)))

    value = min(max((gained - lost) / n, -1.0), 1.0)

    def end(far: float) -> float:
        # At the estimate the variance may be 0 and so the excess, which is no end of the interval: start beside it.
        beside = value + math.copysign(1e-9, far)
        return far if abs(beside) >= 1 or excess(far) <= 0 else float(brentq(excess, beside, far))

    return Estimate(value, end(-1.0), end(1.0), n)


def resampled_rates(values: Array, *, seed: int, draws: int = DRAWS) -> Array:
    """Rates of every column in bootstrap draws of whole queries, `[queries, ...] -> [draws, ...]`; NaN means no cell.

    All columns share the draws, so columns may be languages, metrics and sides at once. A rate is NaN in the draws that
    hit no query with a cell in that column.
    """
    queries = values.shape[0]
    if queries == 0:
        raise ValueError("no queries to draw from")
    columns = values.reshape(queries, -1)
    there = ~np.isnan(columns)
    # Counts are small whole numbers, which float32 holds exactly: half the memory and time.
    sums = np.concatenate([np.where(there, columns, 0), there], axis=1).astype(np.float32)
    generator = np.random.default_rng(seed)
    at_once = max(1, CELLS_PER_CHUNK // queries)
    parts = []
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        # Multinomial counts: as many picks as queries, counted. Faster than Generator.multinomial by far.
        picks = generator.integers(queries, size=(size, queries)) + np.arange(size)[:, None] * queries
        weights = np.bincount(picks.ravel(), minlength=size * queries).reshape(size, queries)
        parts.append(weights.astype(np.float32) @ sums)
    total, number = np.split(np.concatenate(parts).astype(np.float64), 2, axis=1)
    rates = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    return rates.reshape(draws, *values.shape[1:])


def effective_size(values: Array, rates: Array) -> float:
    """n_eff of the mean over languages (see the module), from `values` [queries, languages] and its resampled rates
    [draws, languages]. A draw that lacks a language averages over the others; one that lacks all is left out."""
    there = ~np.isnan(values)
    per_language = there.sum(0)
    if not per_language.all():
        raise ValueError("a language has no cells: leave it out")
    weight = there / (per_language * values.shape[1])
    filled = np.where(there, values, 0)
    spread = (weight * filled**2).sum() - (weight * filled).sum() ** 2
    all_alike = 1 / (weight.sum(1) ** 2).sum()
    kinds = np.unique(filled[there])
    if len(kinds) == 1:
        return float(all_alike)
    telling = min(int((there & (values != kind)).any(1).sum()) for kind in kinds)
    means = np.nanmean(rates[~np.isnan(rates).all(1)], axis=1)
    ratio = all_alike * means.var() / spread
    ratio = (telling * ratio + 1) / (telling + 1)
    return float(min(all_alike / ratio, 1 / (weight**2).sum()))


def mean_over_languages(values: Array, rates: Array) -> Estimate:
    """Mean over languages of 0/1 outcomes [queries, languages] with its interval; `rates` are the resampled ones."""
    size = effective_size(values, rates)
    value = float(np.nanmean(values, axis=0).mean())
    interval = wilson(min(value, 1.0) * size, size)
    return Estimate(value, min(interval.low, value), max(interval.high, value), size)


def mean_difference_over_languages(values: Array, rates: Array) -> Estimate:
    """The same for differences after - before of paired 0/1 outcomes: `values` are -1, 0, 1, or NaN."""
    size = effective_size(values, rates)
    value = float(np.nanmean(values, axis=0).mean())
    differing = float(np.nanmean(np.abs(values), axis=0).mean())
    gained, lost = max(differing + value, 0) / 2 * size, max(differing - value, 0) / 2 * size
    interval = paired_difference(gained, lost, size)
    return Estimate(value, min(interval.low, value), max(interval.high, value), size)


def kappa(table: Sequence[Sequence[int]]) -> float | None:
    """Cohen's kappa in [-1, 1]; `table[i][j]` counts items with label i for the first judge and j for the other.

    None where it is undefined: no items, or both give one and the same label throughout (chance agreement is 1 then).
    """
    counts = np.asarray(table)
    if int(counts.sum(0) @ counts.sum(1)) == int(counts.sum()) ** 2:
        return None
    return float(cohens_kappa(counts, return_results=False))


@lru_cache(maxsize=1024)
def _critical(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For m = 0..n differing pairs, the largest count of the rarer kind at which exact McNemar rejects; -1: at none."""
    m = np.arange(n + 1)
    # ppf is the first count whose tail exceeds a half of the significance level, so the one before it still rejects.
    return m, np.asarray(binom.ppf(SIGNIFICANCE / 2, m, 0.5), dtype=np.int64) - 1


def mcnemar_power(n: int, gained: float, lost: float) -> float:
    """Exact power of the exact two-sided McNemar test at 5 %: n pairs, each gained or lost with these probabilities.

    `sum_m P(m differ) P(reject | m)`, with m of Binomial(n, gained + lost) and, of these,
    Binomial(m, gained / (gained + lost)) gains.
    """
    differing = gained + lost
    if differing < sys.float_info.epsilon:  # no more than n times this; binom overflows close to the smallest float
        return 0.0
    m, critical = _critical(n)
    share = gained / differing
    rejects = binom.cdf(critical, m, share) + binom.sf(m - critical - 1, m, share)
    return float((binom.pmf(m, n, differing) * rejects).sum())


@lru_cache(maxsize=1024)
def detectable_change(n: int, base_rate: float, direction: Direction) -> float | None:
    """The smallest fall (or rise) from `base_rate` that n pairs show with 80 % power at 5 %, two-sided; positive.

    By the exact power of exact McNemar, for a query's two answers that are independent given the two rates:
    `gained = (1 - base) after`, `lost = base (1 - after)`. Answers before and after are usually alike, so fewer pairs
    differ and the sample shows somewhat less than this: it is on the safe side.

    None if not even the largest possible change (a fall to 0, a rise to 1) would be shown.
    """
    sign, largest = (-1, base_rate) if direction == "fall" else (1, 1 - base_rate)

    def lacking(change: float) -> float:
        after = base_rate + sign * change
        return mcnemar_power(n, (1 - base_rate) * after, base_rate * (1 - after)) - POWER

    if n < 1 or largest <= 0 or lacking(largest) < 0:
        return None
    return float(brentq(lacking, 0, largest, xtol=1e-6))
