"""A model's numbers: rates, differences with Holm's correction over methods, separation, and ranks in draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from crosslign.evaluation import stats
from crosslign.evaluation.rates import MIN_JUDGED
from crosslign.evaluation.repeated import (
    difference_of_means,
    difference_over_runs,
    drawn_rates,
    mean_over_runs,
    rank_shares,
)
from crosslign.evaluation.stats import Array, Estimate
from crosslign.runs.bench.outcomes import Block, Column, What

Chosen = Callable[[Column], bool]
SEED = 0  # of the draws


@dataclass(frozen=True, slots=True)
class Change:
    """A difference to another method, fractions; `p_holm` once all methods' are known."""

    estimate: Estimate
    p: float
    p_holm: float | None = None


@dataclass(frozen=True, slots=True)
class Rank:
    """Of draws: the share in which the method is first, and its rank with the 95 % of them in the middle."""

    first: float
    mean: float
    low: float
    high: float


@dataclass
class Numbers:
    """Everything that tables say of one model's methods."""

    blocks: Mapping[What, Block]
    _drawn: dict[tuple[str, str, str, str], Array] = field(default_factory=dict)

    def rate(self, method: str, what: What, metric: str, chosen: Chosen) -> Estimate | None:
        """The mean over the chosen columns and all seeds; None where no column has enough judged rows."""
        block = self.blocks.get(what)
        if block is None or method not in block.seeds:
            return None
        values = block.values[metric][method]
        columns = _full(block, values, chosen)
        return (
            mean_over_runs(values[:, :, columns], self._rates(what, metric, method)[:, :, columns]) if columns else None
        )

    def difference(self, method: str, other: str, what: What, metric: str, chosen: Chosen) -> Change | None:
        """method - other, paired by query and seed; one that was measured once is paired with every seed."""
        block = self.blocks.get(what)
        if block is None or not {method, other} <= block.seeds.keys():
            return None
        values = _paired(block, metric, method, other)
        columns = [] if values is None else _full(block, values, chosen)
        if values is None or not columns:
            return None
        rates = self._rates(what, metric, method, other)
        estimate, p = difference_over_runs(values[:, :, columns], rates[:, :, columns])
        return Change(estimate, p)

    def separation(self, method: str, chosen: Chosen) -> Estimate | None:
        """Benign queries answered less harmful ones answered, in the languages that both were asked in."""
        both = self._in_both(chosen)
        answered, unsafe = (self.rate(method, *one, both) for one in _SIDES)
        return None if answered is None or unsafe is None else difference_of_means(answered, unsafe)[0]

    def separation_change(self, method: str, other: str, chosen: Chosen) -> Change | None:
        both = self._in_both(chosen)
        answered, unsafe = (self.difference(method, other, *one, both) for one in _SIDES)
        if answered is None or unsafe is None:
            return None
        return Change(*difference_of_means(answered.estimate, unsafe.estimate))

    def ranks(self, methods: Sequence[str], chosen: Chosen) -> tuple[str, dict[str, Rank]]:
        """By separation, or by ASR alone where no benign query was asked; on columns that all methods have."""
        if all(self._common(methods, *side, self._in_both(chosen)) for side in _SIDES):
            chosen = self._in_both(chosen)
        sides = [side for side in _SIDES if self._common(methods, *side, chosen)]
        scores = np.zeros((stats.DRAWS, len(methods)))
        for what, metric in sides:
            columns = self._common(methods, what, metric, chosen)
            sign = 1 if what == "benign" else -1
            for i, method in enumerate(methods):
                drawn = self._rates(what, metric, method)[:, :, columns]
                scores[:, i] += sign * np.nanmean(drawn.reshape(len(drawn), -1), axis=1)
        if ("harmful", "asr") not in sides or len(methods) < 2:
            return "", {}
        first, ranks = rank_shares(scores)
        low, high = np.percentile(ranks, (2.5, 97.5), axis=0)
        found = {m: Rank(float(first[i]), float(ranks[:, i].mean()), float(low[i]), float(high[i]))
                 for i, m in enumerate(methods)}  # fmt: skip
        return "separation" if len(sides) == len(_SIDES) else "ASR", found

    def _in_both(self, chosen: Chosen) -> Chosen:
        """Of the chosen columns those in languages that benign and harmful queries share."""
        blocks = [self.blocks.get(what) for what, _ in _SIDES]
        spoken = [{c.language for c in block.columns if chosen(c)} if block is not None else set() for block in blocks]
        shared = set.intersection(*spoken)
        return lambda column: chosen(column) and column.language in shared

    def _common(self, methods: Sequence[str], what: What, metric: str, chosen: Chosen) -> list[int]:
        block = self.blocks.get(what)
        if block is None or not all(m in block.seeds for m in methods):
            return []
        full = [set(_full(block, block.values[metric][m], chosen)) for m in methods]
        return sorted(set.intersection(*full))

    def _rates(self, what: What, metric: str, method: str, other: str = "") -> Array:
        """The drawn rates, or differences to another method: once for all columns."""
        key = (what, metric, method, other)
        if key not in self._drawn:
            block = self.blocks[what]
            values = _paired(block, metric, method, other) if other else block.values[metric][method]
            assert values is not None
            self._drawn[key] = drawn_rates(values, seed=SEED)
        return self._drawn[key]


_SIDES: tuple[tuple[What, str], ...] = (("benign", "answered"), ("harmful", "asr"))


def corrected(changes: Mapping[str, Change | None]) -> dict[str, Change | None]:
    """With Holm's p over the methods of one comparison."""
    known = {method: change for method, change in changes.items() if change is not None}
    adjusted = dict(zip(known, stats.holm([change.p for change in known.values()]), strict=True))
    return {
        method: None if change is None else Change(change.estimate, change.p, adjusted[method])
        for method, change in changes.items()
    }


def _full(block: Block, values: Array, chosen: Chosen) -> list[int]:
    """The chosen columns in which every seed has enough rows for a rate."""
    least = (~np.isnan(values)).sum(axis=0).min(axis=0)
    return [i for i, column in enumerate(block.columns) if chosen(column) and least[i] >= MIN_JUDGED]


def _paired(block: Block, metric: str, method: str, other: str) -> Array | None:
    """Differences in the seeds that both have; None if they share none."""
    mine, theirs = (block.values[metric][name] for name in (method, other))
    own, others = block.seeds[method], block.seeds[other]
    if not {method, other} & block.once:
        both = [seed for seed in own if seed in others]
        if not both:
            return None
        mine = mine[:, [own.index(seed) for seed in both]]
        theirs = theirs[:, [others.index(seed) for seed in both]]
    return mine - theirs
