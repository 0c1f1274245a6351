"""A model's numbers: rates, differences with Holm's correction over methods, separation, and ranks in draws."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
    """A difference to another method, fractions; `p_holm` once all methods' are known. `fewer`: see `Numbers.fewer`."""

    estimate: Estimate
    p: float
    p_holm: float | None = None
    fewer: bool = False


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
        columns = self._columns(what, metric, chosen, method)
        if not columns:
            return None
        values = self._values(what, metric, method)
        return mean_over_runs(values[:, :, columns], self._rates(what, metric, method)[:, :, columns])

    def difference(self, method: str, other: str, what: What, metric: str, chosen: Chosen) -> Change | None:
        """method - other, paired by query and seed; one that was measured once is paired with every seed."""
        columns = self._columns(what, metric, chosen, method, other)
        if not columns:
            return None
        values, rates = self._values(what, metric, method, other), self._rates(what, metric, method, other)
        estimate, p = difference_over_runs(values[:, :, columns], rates[:, :, columns])
        return Change(estimate, p, fewer=self.fewer(method, what, metric, chosen, other))

    def separation(self, method: str, chosen: Chosen) -> Estimate | None:
        """Benign queries answered less harmful ones answered, in the languages in which both have a rate."""
        both = self._in_both(chosen, method)
        answered, unsafe = (self.rate(method, *one, both) for one in _SIDES)
        return None if answered is None or unsafe is None else difference_of_means(answered, unsafe)[0]

    def separation_change(self, method: str, other: str, chosen: Chosen) -> Change | None:
        both = self._in_both(chosen, method, other)
        answered, unsafe = (self.difference(method, other, *one, both) for one in _SIDES)
        if answered is None or unsafe is None:
            return None
        estimate, p = difference_of_means(answered.estimate, unsafe.estimate)
        return Change(estimate, p, fewer=self.fewer(method, None, "", chosen, other))

    def fewer(self, method: str, what: What | None, metric: str, chosen: Chosen, other: str = "") -> bool:
        """Whether a rate, or with `other` a difference, is a mean over fewer columns than some method's rate; `what`
        None: of separation."""
        own = self._over(method, what, metric, chosen, other)
        methods = {one for block in self.blocks.values() for one in block.seeds}
        return any(self._over(one, what, metric, chosen) - own for one in methods)

    def ranks(self, methods: Sequence[str], chosen: Chosen) -> tuple[str, dict[str, Rank]]:
        """By separation, or by ASR alone where no language has both sides from all methods; on columns that all
        methods have."""
        shared = self._shared(lambda what, metric: self._common(methods, what, metric, chosen))
        sides = _SIDES if shared else _SIDES[1:]
        scores = np.zeros((stats.DRAWS, len(methods)))
        for what, metric in sides:
            columns = self._common(methods, what, metric, _within(chosen, shared) if shared else chosen)
            if not columns or len(methods) < 2:
                return "", {}
            sign = 1 if what == "benign" else -1
            for i, method in enumerate(methods):
                drawn = self._rates(what, metric, method)[:, :, columns]
                scores[:, i] += sign * np.nanmean(drawn.reshape(len(drawn), -1), axis=1)
        first, ranks = rank_shares(scores)
        low, high = np.percentile(ranks, (2.5, 97.5), axis=0)
        found = {m: Rank(float(first[i]), float(ranks[:, i].mean()), float(low[i]), float(high[i]))
                 for i, m in enumerate(methods)}  # fmt: skip
        return "separation" if shared else "ASR", found

    def _in_both(self, chosen: Chosen, method: str, other: str = "") -> Chosen:
        """Of the chosen columns those in languages in which benign and harmful queries have a rate."""
        return _within(chosen, self._shared(lambda what, metric: self._columns(what, metric, chosen, method, other)))

    def _shared(self, columns: Callable[[What, str], list[int]]) -> set[str]:
        """Languages of the columns of both sides."""
        return set.intersection(
            *({self.blocks[what].columns[i].language for i in columns(what, metric)} for what, metric in _SIDES)
        )

    def _over(self, method: str, what: What | None, metric: str, chosen: Chosen, other: str = "") -> set[Column]:
        """The columns that a rate, a difference or (`what` None) a separation is a mean over."""
        if what is None:
            both = self._in_both(chosen, method, other)
            return {column for side in _SIDES for column in self._over(method, *side, both, other)}
        return {self.blocks[what].columns[i] for i in self._columns(what, metric, chosen, method, other)}

    def _common(self, methods: Sequence[str], what: What, metric: str, chosen: Chosen) -> list[int]:
        return sorted(set.intersection(*(set(self._columns(what, metric, chosen, m)) for m in methods)))

    def _columns(self, what: What, metric: str, chosen: Chosen, method: str, other: str = "") -> list[int]:
        """The chosen columns in which every seed, or pair of seeds, has enough rows for a rate."""
        block = self.blocks.get(what)
        if block is None or not {method, other or method} <= block.seeds.keys():
            return []
        values = self._values(what, metric, method, other)
        least = (~np.isnan(values)).sum(axis=0).min(axis=0, initial=len(values))
        wanted = (i for i, column in enumerate(block.columns) if chosen(column))
        return [i for i in wanted if values.shape[1] and least[i] >= MIN_JUDGED]

    def _values(self, what: What, metric: str, method: str, other: str = "") -> Array:
        """Outcomes, or differences to another method in the seeds that both have."""
        block = self.blocks[what]
        mine = block.values[metric][method]
        if not other:
            return mine
        theirs = block.values[metric][other]
        own, others = block.seeds[method], block.seeds[other]
        if not {method, other} & block.once:
            both = [seed for seed in own if seed in others]
            mine = mine[:, [own.index(seed) for seed in both]]
            theirs = theirs[:, [others.index(seed) for seed in both]]
        return mine - theirs

    def _rates(self, what: What, metric: str, method: str, other: str = "") -> Array:
        """The drawn rates, or differences to another method: once for all columns."""
        key = (what, metric, method, other)
        if key not in self._drawn:
            self._drawn[key] = drawn_rates(self._values(what, metric, method, other), seed=SEED)
        return self._drawn[key]


_SIDES: tuple[tuple[What, str], ...] = (("benign", "answered"), ("harmful", "asr"))


def corrected(changes: Mapping[str, Change | None]) -> dict[str, Change | None]:
    """With Holm's p over the methods of one comparison."""
    known = {method: change for method, change in changes.items() if change is not None}
    adjusted = dict(zip(known, stats.holm([change.p for change in known.values()]), strict=True))
    return {
        method: None if change is None else replace(change, p_holm=adjusted[method])
        for method, change in changes.items()
    }


def _within(chosen: Chosen, languages: Collection[str]) -> Chosen:
    return lambda column: chosen(column) and column.language in languages
