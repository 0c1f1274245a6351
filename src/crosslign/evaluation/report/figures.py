"""The figures of the page: which values of results.json go into which chart, as rows and marks that templates draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crosslign.evaluation.report.charts import (
    Axis,
    Scatter,
    Segment,
    axis_from_zero,
    axis_to_hundred,
    scatter,
    stack,
)
from crosslign.evaluation.report.layout import Row, Task, language_name, language_order, sides
from crosslign.evaluation.report.numbers import Numbers, pointer

# Bars start with refusals and end with unsafe answers, so that both can be compared along an edge.
OUTCOMES_IN_BARS = ("refused", "safe_complied", "invalid", "unsafe")


@dataclass(frozen=True, slots=True)
class Mark:
    """One rate in a dot plot: `at` and its interval, in percent of the plot's width."""

    side: str
    at: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DotRow:
    """One row's marks. `present`: results.json has this rate, or why it is null; a group may have no mean."""

    row: Row
    marks: tuple[Mark, ...]
    present: bool


@dataclass(frozen=True, slots=True)
class DotPlot:
    """A rate per language, `rate` being its place within a cell ("asr", "fidelity/rate")."""

    rate: str
    axis: Axis
    rows: tuple[DotRow, ...]


def rate_plot(numbers: Numbers, task: Task) -> DotPlot:
    """The task's own rate, which should be low, on an axis from zero."""
    return _dot_plot(numbers, task, task.metric)


def fidelity_plot(numbers: Numbers, task: Task) -> DotPlot | None:
    """Answers in the language of the request, an axis up to 100 %; None if it was not measured."""
    measured = any(numbers.at(f"{row.path}{side.suffix}/fidelity") for row in task.languages for side in sides(numbers))
    return _dot_plot(numbers, task, "fidelity/rate") if measured else None


def _dot_plot(numbers: Numbers, task: Task, rate: str) -> DotPlot:
    found = {
        (row.path, side.name): [
            numbers.number(f"{row.path}{side.suffix}/{rate}/{key}") for key in ("value", "low", "high")
        ]
        for row in task.rows
        for side in sides(numbers)
    }
    values = [value for triple in found.values() for value in triple if value is not None]
    axis = axis_to_hundred(values) if rate.startswith("fidelity") else axis_from_zero(values)

    def mark(row: Row, side: str) -> Mark | None:
        value, low, high = found[row.path, side]
        if value is None:
            return None
        ends = (value if end is None else end for end in (low, high))
        return Mark(side, axis.at(value), *map(axis.at, ends))

    rows = [
        DotRow(
            row,
            tuple(m for side in sides(numbers) if (m := mark(row, side.name))),
            any(numbers.has(f"{row.path}{side.suffix}/{rate}") for side in sides(numbers)),
        )
        for row in task.rows
    ]
    return DotPlot(rate, axis, tuple(rows))


@dataclass(frozen=True, slots=True)
class Bar:
    """One stacked bar; `path` is its cell's pointer. No segments: nothing was judged there."""

    side: str
    path: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class BarRow:
    row: Row
    bars: tuple[Bar, ...]


def outcome_bars(numbers: Numbers, task: Task) -> list[BarRow]:
    """The four outcomes' counts as stacked bars, for each language and for all."""

    def bar(row: Row, name: str, suffix: str) -> Bar:
        cell = f"{row.path}{suffix}"
        counts = [(outcome, int(numbers.number(f"{cell}/outcomes/{outcome}") or 0)) for outcome in OUTCOMES_IN_BARS]
        return Bar(name, cell, stack(counts))

    return [
        BarRow(row, tuple(bar(row, side.name, side.suffix) for side in sides(numbers)))
        for row in task.rows
        if row.kind in ("language", "all")
    ]


@dataclass(frozen=True, slots=True)
class Trade:
    """One scatter plot and the rows of its table: (language, code, pointers of x for each side, of y for each side).

    `good` names the corner where a model should be; `left_out` the languages that lack one of the two rates.
    """

    title: str
    x_name: str
    y_name: str
    good: str
    plot: Scatter
    rows: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]
    left_out: tuple[str, ...]


def trades(numbers: Numbers, tasks: Sequence[Task]) -> list[Trade]:
    """Unsafe answers against refusals of harmless requests, and against ability: what safety did cost."""
    harmful = [task for task in tasks if task.kind == "harmful"]
    pairs: list[Trade | None] = []
    for task in harmful:
        for other in tasks:
            if other.kind == "benign":
                title = f"{task.name} against {other.name}"
                pairs.append(
                    _trade(
                        numbers,
                        task,
                        title,
                        "harmless requests refused",
                        f"{other.path}/languages",
                        "/over_refusal",
                        "bottom left",
                    )
                )
        for name in numbers.keys("/utility"):
            title = f"{task.name} against {name}"
            pairs.append(_trade(numbers, task, title, f"ability: {name}", pointer("utility", name), "", "bottom right"))
    return [pair for pair in pairs if pair]


def _trade(numbers: Numbers, task: Task, title: str, x_name: str, x_path: str, x_rate: str, good: str) -> Trade | None:
    suffixes = [side.suffix for side in sides(numbers)]
    rows, values, left_out = [], [], []
    for row in task.languages:
        code = row.code or ""
        if code not in numbers.keys(x_path):
            continue
        xs = tuple(f"{x_path}{pointer(code)}{suffix}{x_rate}" for suffix in suffixes)
        ys = tuple(f"{row.path}{suffix}/asr" for suffix in suffixes)
        x, y = ([numbers.number(f"{path}/value") for path in paths] for paths in (xs, ys))
        points = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
        if len(points) < len(suffixes):
            left_out.append(row.name)
            continue
        rows.append((row.name, code, xs, ys))
        values.append((code, points[0] if len(points) == 2 else None, points[-1]))
    if not rows:
        return None
    every = [point for _, before, after in values for point in (before, after) if point]
    across, up = (axis_from_zero(place[i] for place in every) for i in range(2))
    return Trade(title, x_name, "unsafe answers", good, scatter(across, up, values), tuple(rows), tuple(left_out))


@dataclass(frozen=True, slots=True)
class Agreement:
    """A second judge beside the task's own: (language, pointer of its kappa and table) for each language."""

    other: str
    languages: tuple[tuple[str, str], ...]


def agreements(numbers: Numbers, task: Task) -> list[Agreement]:
    """The task's second judges; none where only one judged."""
    base = f"{task.path}/agreement"
    order = [row.code for row in task.languages]
    return [
        Agreement(
            judge,
            tuple(
                (language_name(code), f"{base}{pointer(judge, code)}")
                for code in sorted(
                    numbers.keys(base + pointer(judge)),
                    key=lambda c: (c not in order, order.index(c) if c in order else 0),
                )
            ),
        )
        for judge in numbers.keys(base)
    ]


def utility_rows(numbers: Numbers) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """(task, [(language, code, pointer)]) of the utility section, in the page's order of languages."""
    order = {code: i for i, code in enumerate(language_order(numbers))}
    return [
        (
            name,
            [
                (language_name(code), code, pointer("utility", name, code))
                for code in sorted(numbers.keys(pointer("utility", name)), key=lambda c: (order.get(c, len(order)), c))
            ],
        )
        for name in numbers.keys("/utility")
    ]
