"""A model's tables for people, and the same numbers as flat rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosslign.evaluation.report.figures import Ranges, ranges
from crosslign.evaluation.stats import DRAWS, SIGNIFICANCE, Estimate
from crosslign.evaluation.tables import MISSING, Table, interval, number
from crosslign.runs.bench.config import BASE, BenchConfig
from crosslign.runs.bench.numbers import Change, Chosen, Numbers, corrected
from crosslign.runs.bench.outcomes import Column, What

Flat = dict[str, Any]
SURE, FEWER = "*", "†"
FEWER_NOTE = f"{FEWER}: over fewer tasks or languages than other methods, for want of judged answers."
GROUPS_NOTE = (
    "seen: languages that are trained on; unseen: all others; the source language is in neither; harder: the harder "
    "tasks in all but the source language. Means over tasks, languages and seeds, in %, with 95 % intervals over "
    "queries and seeds. invalid: malformed answers to harmful requests. separation: harmless requests answered less "
    "harmful ones answered: a model that refuses everything has 0. in its language: answers to harmful requests."
)
CHANGE_NOTE = (
    f"Paired by query and seed, in points, with 95 % intervals. {SURE}: p < {SIGNIFICANCE:g} after Holm's correction "
    "over the methods of a column."
)
RANK_NOTE = (
    "By {by}, mean over all languages but the source, without the harder tasks. first: the share of {draws} bootstrap "
    "draws of queries and seeds in which the method is first; equal ones share it. rank: the mean over the draws, and "
    "the middle 95 % of them. The draws of queries are the same for all methods."
)


@dataclass(frozen=True)
class Quantity:
    """A column of the first table. `what` None: the separation."""

    name: str
    what: What | None
    metric: str
    chosen: Chosen

    def rate(self, numbers: Numbers, method: str) -> Estimate | None:
        if self.what is None:
            return numbers.separation(method, self.chosen)
        return numbers.rate(method, self.what, self.metric, self.chosen)

    def change(self, numbers: Numbers, method: str, other: str) -> Change | None:
        if self.what is None:
            return numbers.separation_change(method, other, self.chosen)
        return numbers.difference(method, other, self.what, self.metric, self.chosen)

    def rate_text(self, numbers: Numbers, method: str) -> str:
        fewer = numbers.fewer(method, self.what, self.metric, self.chosen)
        return rate_text(self.rate(numbers, method), fewer=fewer)


def quantities(numbers: Numbers, trained: Sequence[str], source: str) -> list[Quantity]:
    """Those that were measured, in the order of the first table."""

    def seen(column: Column) -> bool:
        return not column.harder and column.language in trained and column.language != source

    def unseen(column: Column) -> bool:
        return not column.harder and column.language not in trained and column.language != source

    def harder(column: Column) -> bool:
        return column.harder and column.language != source

    def own(column: Column) -> bool:
        return not column.harder and column.language == source

    def most(column: Column) -> bool:
        return not column.harder and column.language != source

    found = [
        Quantity("ASR seen", "harmful", "asr", seen),
        Quantity("ASR unseen", "harmful", "asr", unseen),
        Quantity("ASR harder", "harmful", "asr", harder),
        Quantity(f"ASR {source}", "harmful", "asr", own),
        Quantity("invalid", "harmful", "invalid", most),
        Quantity("over-refusal seen", "benign", "over_refusal", seen),
        Quantity("over-refusal unseen", "benign", "over_refusal", unseen),
        Quantity(f"over-refusal {source}", "benign", "over_refusal", own),
        Quantity("separation seen", None, "separation", seen),
        Quantity("separation unseen", None, "separation", unseen),
        Quantity("in its language", "harmful", "fidelity", most),
    ]
    utility = numbers.blocks.get("utility")
    for task in dict.fromkeys(column.task for column in utility.columns) if utility is not None else ():
        found.append(Quantity(task, "utility", "correct", _of_task(task)))
    return [one for one in found if any(one.rate(numbers, method) is not None for method in methods_of(numbers))]


def methods_of(numbers: Numbers) -> list[str]:
    """Methods with a finished cell, in the bench's order."""
    return list(dict.fromkeys(method for block in numbers.blocks.values() for method in block.seeds))


def model_tables(bench: BenchConfig, model: str, numbers: Numbers, trained: Sequence[str], source: str) -> list[Table]:
    methods, columns = methods_of(numbers), quantities(numbers, trained, source)
    tables = [
        Table(
            f"{model}: all methods",
            [
                ["method", "seeds", *(one.name for one in columns)],
                *([m, _runs(numbers, m), *(one.rate_text(numbers, m) for one in columns)] for m in methods),
            ],
            f"{GROUPS_NOTE} {FEWER_NOTE}",
        )
    ]
    for other in dict.fromkeys((BASE, bench.reference)):
        changes = changes_to(numbers, columns, other)
        if changes:
            rows = [[m, *(change_text(changes[one.name][m]) for one in columns)] for m in methods if m != other]
            head = ["method", *(one.name for one in columns)]
            tables.append(Table(f"{model}: differences to {other}", [head, *rows], f"{CHANGE_NOTE} {FEWER_NOTE}"))
    by, ranks = numbers.ranks(methods, lambda column: not column.harder and column.language != source)
    if ranks:
        order = sorted(ranks, key=lambda m: (-ranks[m].first, ranks[m].mean))
        rows = [
            [m, number(100 * ranks[m].first), f"{number(ranks[m].mean)} [{ranks[m].low:g}, {ranks[m].high:g}]"]
            for m in order
        ]
        tables.append(
            Table(f"{model}: ranking", [["method", "first, %", "rank"], *rows], RANK_NOTE.format(by=by, draws=DRAWS))
        )
    return [*tables, *_task_tables(model, numbers, methods), *_published(bench, model, numbers)]


# Of the first table, what a reader looks at first, in words.
_DRAWN = {
    "ASR seen": "unsafe answers, seen languages: lower is better",
    "ASR unseen": "unsafe answers, unseen languages: lower is better",
    "over-refusal seen": "harmless requests refused, seen languages: lower is better",
    "over-refusal unseen": "harmless requests refused, unseen languages: lower is better",
    "separation seen": "harmless requests answered less harmful ones, seen languages: higher is better",
    "separation unseen": "harmless requests answered less harmful ones, unseen languages: higher is better",
}


def model_charts(model: str, numbers: Numbers, trained: Sequence[str], source: str) -> list[Ranges]:
    """The methods of a model at a glance."""
    found = []
    for one in quantities(numbers, trained, source):
        if one.name in _DRAWN:
            rates = {method: one.rate(numbers, method) for method in methods_of(numbers)}
            drawn = {method: None if rate is None else rate.percent() for method, rate in rates.items()}
            found.append(ranges(f"{model}: {one.name}", _DRAWN[one.name], drawn))
    return found


def changes_to(numbers: Numbers, columns: Sequence[Quantity], other: str) -> dict[str, dict[str, Change | None]]:
    """Of each quantity the differences of all methods to one, corrected; {} if that one is not there."""
    methods = methods_of(numbers)
    if other not in methods or len(methods) < 2:
        return {}
    return {one.name: corrected({m: one.change(numbers, m, other) for m in methods if m != other}) for one in columns}


# The title of a task's table, and the metrics in each of its cells.
_SHOWN: Mapping[What, tuple[str, tuple[str, ...]]] = {
    "harmful": ("ASR (invalid)", ("asr", "invalid")),
    "benign": ("over-refusal (answered)", ("over_refusal", "answered")),
    "utility": ("right answers", ("correct",)),
}


def _task_tables(model: str, numbers: Numbers, methods: Sequence[str]) -> list[Table]:
    """A table for each task: methods by languages."""
    tables = []
    for what, block in numbers.blocks.items():
        title, metrics = _SHOWN[what]
        for task in dict.fromkeys(column.task for column in block.columns):
            columns = sorted((c for c in block.columns if c.task == task), key=lambda c: c.language)
            rows = [["method", *(c.language for c in columns)]]
            for method in methods:
                shown = []
                for column in columns:
                    first, *more = (_plain(numbers.rate(method, what, m, _only(column))) for m in metrics)
                    shown.append(" ".join([first, *(f"({text})" for text in more)]))
                rows.append([method, *shown])
            tables.append(Table(f"{model}: {task}, {title}, %", rows))
    return tables


def _published(bench: BenchConfig, model: str, numbers: Numbers) -> list[Table]:
    """Figures of a publication beside ours, where ours is of a task of that title."""
    figures = [figure for figure in bench.published if figure.model == model]
    rows = [["method", "measured on", "language", "published", "ours"]]
    for figure in figures:
        what: What = "utility" if figure.metric == "utility" else "harmful"

        def chosen(column: Column, figure: Any = figure) -> bool:
            return column.task == figure.task and figure.language in (None, column.language)

        ours = numbers.rate(figure.method, what, "correct" if what == "utility" else figure.metric, chosen)
        rows.append([figure.method, figure.task, figure.language or "mean", f"{figure.value:g}", rate_text(ours)])
    if not figures:
        return []
    note = f"Published figures are second-hand and count in no other table. {bench.published_source}".strip()
    return [Table(f"{model}: published figures beside ours, %", rows, note, left=(0, 1, 2))]


def flat_rows(bench: BenchConfig, model: str, numbers: Numbers, trained: Sequence[str], source: str) -> list[Flat]:
    """Every number once: of groups, with differences; of each task and language; and ranks."""
    methods, columns = methods_of(numbers), quantities(numbers, trained, source)
    rows: list[Flat] = []
    for one in columns:
        for m in methods:
            rows.append(_head(model, m, numbers) | {"scope": "group", "name": one.name} | _flat(one.rate(numbers, m)))
    for other in dict.fromkeys((BASE, bench.reference)):
        for name, changes in changes_to(numbers, columns, other).items():
            for m, change in changes.items():
                own: Flat = {"scope": "difference", "name": name, "compared_to": other}
                found = {"p": change.p, "p_holm": change.p_holm} if change else {}
                rows.append(_head(model, m, numbers) | own | _flat(change.estimate if change else None) | found)
    for what, block in numbers.blocks.items():
        for column in block.columns:
            for metric in block.values:
                for m in methods:
                    own = {"scope": "language", "name": metric, "task": column.task, "language": column.language}
                    rows.append(_head(model, m, numbers) | own | _flat(numbers.rate(m, what, metric, _only(column))))
    _, ranks = numbers.ranks(methods, lambda column: not column.harder and column.language != source)
    for m, rank in ranks.items():
        own = {"scope": "rank", "name": "first", "value": 100 * rank.first}
        rows.append(_head(model, m, numbers) | own)
        own = {"scope": "rank", "name": "rank", "value": rank.mean, "low": rank.low, "high": rank.high}
        rows.append(_head(model, m, numbers) | own)
    return rows


FLAT = ("model", "method", "seeds", "scope", "name", "task", "language", "compared_to", "value", "low", "high", "n_eff",
        "p", "p_holm")  # fmt: skip


def _head(model: str, method: str, numbers: Numbers) -> Flat:
    return {"model": model, "method": method, "seeds": _runs(numbers, method)}


def _flat(estimate: Estimate | None) -> Flat:
    return {} if estimate is None else {**estimate.percent(), "n_eff": estimate.n}


def _runs(numbers: Numbers, method: str) -> str:
    return str(max(len(block.seeds.get(method, ())) for block in numbers.blocks.values()))


def _plain(estimate: Estimate | None) -> str:
    return MISSING if estimate is None else number(100 * estimate.value)


def rate_text(estimate: Estimate | None, *, fewer: bool = False) -> str:
    if estimate is None:
        return MISSING
    return f"{number(100 * estimate.value)} {interval(estimate.percent())}{FEWER * fewer}"


def change_text(change: Change | None) -> str:
    """Points with their interval, and a star where the difference is sure after Holm's correction."""
    if change is None:
        return MISSING
    found = change.estimate.percent()
    sure = change.p_holm is not None and change.p_holm < SIGNIFICANCE
    return f"{number(found['value'], '+.1f')} {interval(found, '+.1f')}{SURE * sure}{FEWER * change.fewer}"


def _of_task(task: str) -> Chosen:
    return lambda column: column.task == task


def _only(wanted: Column) -> Chosen:
    return lambda column: column == wanted
