"""How often the 95 % intervals of `crosslign.evaluation.stats` hold the truth, in a world where the truth is known; and
those of `crosslign.evaluation.repeated`, over several runs (`run_coverage`).

A query is hard or easy in all languages alike, and before and after alike (a Gaussian copula, so that the rate of every
cell is exactly the one asked for): cell (i, l) on a side is 1 where

    sqrt(alike) u_i + sqrt(own) c_il + sqrt(1 - alike - own) e_il,side < normal quantile of the rate

with u, c, e standard normal. `alike` is the correlation of two translations, `alike + own` that of before and after.

Run it for the table (minutes): python tests/evaluation/coverage_simulation.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from crosslign.evaluation import repeated, stats

SIMULATIONS = 2000


@dataclass(frozen=True)
class World:
    """Queries, the rate of each language before and by how much it is multiplied after, and the correlations."""

    queries: int
    rates: Sequence[float]
    factor: float = 0.5
    alike: float = 0.5
    own: float = 0.2
    missing: float = 0.0

    @classmethod
    def equal(cls, queries: int, rate: float, languages: int = 10, **more: float) -> World:
        return cls(queries, [rate] * languages, **more)

    def tables(self, simulations: int, seed: int) -> Iterator[tuple[stats.Array, stats.Array]]:
        """Outcomes before and after, [queries, languages] each, with NaN where a cell is missing."""
        generator = np.random.default_rng(seed)
        shape = (self.queries, len(self.rates))
        before = np.asarray(self.rates)
        noise = np.sqrt(1 - self.alike - self.own)
        for _ in range(simulations):
            shared = np.sqrt(self.alike) * generator.standard_normal((self.queries, 1))
            shared = shared + np.sqrt(self.own) * generator.standard_normal(shape)
            sides = []
            for rate in (before, self.factor * before):
                side = (shared + noise * generator.standard_normal(shape) < norm.ppf(rate)).astype(float)
                side[generator.random(shape) < self.missing] = np.nan
                sides.append(side)
            yield sides[0], sides[1]


def holds(estimate: stats.Estimate, truth: float) -> bool:
    # Ends that equal the truth up to rounding (0 of n against a rate of 0) count.
    return estimate.low - 1e-9 <= truth <= estimate.high + 1e-9


def coverage(world: World, simulations: int = SIMULATIONS, seed: int = 0, draws: int = stats.DRAWS) -> dict[str, float]:
    """Share of the simulations, in %, in which each interval holds the truth.

    wilson and paired: one language; mean and difference: over the languages; percentile: the percentiles of the same
    bootstrap of the mean, which the package does not use, for comparison.
    """
    hits: Counter[str] = Counter()
    level = float(np.mean(world.rates))
    change = level * (world.factor - 1)
    for number, (before, after) in enumerate(world.tables(simulations, seed)):
        first, pairs = before[:, 0], after[:, 0] - before[:, 0]
        one = stats.wilson(np.nansum(first), np.sum(~np.isnan(first)))
        gained, lost, paired = np.sum(pairs > 0), np.sum(pairs < 0), np.sum(~np.isnan(pairs))
        difference = after - before
        rates = stats.resampled_rates(np.stack([before, difference], axis=1), seed=number, draws=draws)
        low, high = np.nanquantile(rates[:, 0].mean(-1), [0.025, 0.975])
        hits["wilson"] += holds(one, world.rates[0])
        hits["paired"] += holds(stats.paired_difference(gained, lost, paired), world.rates[0] * (world.factor - 1))
        hits["mean"] += holds(stats.mean_over_languages(before, rates[:, 0]), level)
        hits["difference"] += holds(stats.mean_difference_over_languages(difference, rates[:, 1]), change)
        hits["percentile"] += bool(low - 1e-9 <= level <= high + 1e-9)
    return {name: 100 * hits[name] / simulations for name in ("wilson", "paired", "mean", "difference", "percentile")}


def run_coverage(runs: int, spread: float, simulations: int = 400, seed: int = 1) -> float:
    """Share of the simulations, in %, in which the interval over runs and queries holds the mean over all runs and
    queries that there could be: 160 queries in 2 columns, of which half of the queries' variance is shared.

    The log odds of an answer are -1.2 + a normal of deviation 1.5 for its query + one of deviation `spread` for its
    run. A correction by moments of the variance between runs was narrower by a fifth at a spread of 0, and covered
    worse where runs differ, so there is none.
    """
    generator = np.random.default_rng(seed)
    queries, columns, level, hard, hits = 160, 2, -1.2, 1.5, 0
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    truth = float(weights @ expit(level + np.hypot(hard, spread) * points) / weights.sum())
    for _ in range(simulations):
        query = generator.normal(0, hard * np.sqrt(0.5), (2, queries, 1, columns))
        query[0] = query[0, :, :, :1]
        run = spread * generator.normal(0, 1, (2, 1, runs, columns))
        run = 0.6 * run[0] + 0.8 * run[1, :, :, :1]
        values = (generator.random((queries, runs, columns)) < expit(level + query.sum(0) + run)).astype(float)
        hits += holds(repeated.mean_over_runs(values, repeated.drawn_rates(values, seed=0)), truth)
    return 100 * hits / simulations


WORLDS = {
    **{f"{n} queries, {rate:.0%}": World.equal(n, rate) for n in (60, 315) for rate in (0.02, 0.05, 0.2, 0.5)},
    **{f"{n} queries, rates 1-70 %": World(n, list(np.linspace(0.01, 0.7, 10))) for n in (60, 315)},
    "60 queries, 5%, 3 languages": World.equal(60, 0.05, 3),
    "60 queries, 5%, translations hardly alike": World.equal(60, 0.05, alike=0.1),
    "60 queries, 5%, translations much alike": World.equal(60, 0.05, alike=0.8, own=0.1),
    "60 queries, 20%, a fifth of the cells missing": World.equal(60, 0.2, missing=0.2),
    "60 queries, 20%, no change": World.equal(60, 0.2, factor=1.0),
    "315 queries, 20%, falls to a tenth": World.equal(315, 0.2, factor=0.1),
}

if __name__ == "__main__":
    for name, world in WORLDS.items():
        print(f"{name:48}", *(f"{key} {value:5.1f}" for key, value in coverage(world).items()), sep="  ", flush=True)
    for runs in (2, 5):
        for spread in (0, 0.15, 0.4, 0.8):
            name = f"{runs} runs of 160 queries that differ by {spread}"
            print(f"{name:48}", f"mean {run_coverage(runs, spread):5.1f}", sep="  ", flush=True)
