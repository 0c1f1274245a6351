"""The charts: which values stand where. A chart is a table whose rows draw their marks beside their numbers.

Positions are in percent of a row's width, so that a chart is as wide as its column on any screen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crosslign.evaluation.view import Row, Task, View

_TOPS = (4, 10, 20, 40, 60, 80, 100)
# Bars start with refusals and end with unsafe answers, so that both can be compared along an edge.
OUTCOMES = {
    "refused": "refused",
    "safe_complied": "answered safely",
    "invalid": "malformed",
    "refused_then_answered": "refused, then answered",
    "unsafe": "unsafe",
}
Rate = Mapping[str, Any]
Tone = Literal["better", "worse", "same"]  # what a change by more than chance means
Rated = Sequence[tuple[Row, Sequence[Rate]]]  # rows with their rate on each side


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from `low` to `high`, in %, with five ticks."""

    low: float
    high: float

    @property
    def ticks(self) -> list[float]:
        return [self.low + (self.high - self.low) * i / 4 for i in range(5)]

    def at(self, value: float) -> float:
        """Position of a value, in percent of the axis' length; values outside are drawn at its ends."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)


def axis_of(rates: Iterable[Rate], best: Literal[0, 100]) -> Axis:
    """From the best value to the first round one beyond all rates and their intervals."""
    ends = (rate[key] for rate in rates for key in ("value", "low", "high") if rate.get(key) is not None)
    farthest = max((abs(end - best) for end in ends), default=100.0)
    length = next((top for top in _TOPS if farthest <= top), 100)
    return Axis(0, length) if best == 0 else Axis(100 - length, 100)


@dataclass(frozen=True, slots=True)
class Mark:
    """One rate: its place and its interval's."""

    side: str
    at: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a chart: its rates as numbers and, as far as they are known, as marks."""

    row: Row
    rates: Sequence[Rate]
    marks: list[Mark]
    tone: Tone


@dataclass(frozen=True, slots=True)
class Panel:
    """The chart of one task."""

    title: str
    shows: str
    axis: Axis
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Ranges:
    """One rate each of several names, such as methods: each with its number, and its mark where it is known."""

    title: str
    shows: str
    axis: Axis
    rows: Sequence[tuple[str, float | None, Mark | None]]


def ranges(title: str, shows: str, rates: Mapping[str, Rate | None]) -> Ranges:
    """On an axis from 0 to 100, so that all charts of a page can be compared; a rate that is missing has no mark."""
    axis = Axis(0, 100)
    rows = [
        (name, None, None) if rate is None else (name, rate["value"], _mark("after", rate, axis))
        for name, rate in rates.items()
    ]
    return Ranges(title, shows, axis, rows)


def overview(view: View) -> list[Panel]:
    """All tasks at once: unsafe answers and refusals of harmless requests on one axis, and ability on its own."""
    rated = [_rated(task, task.metric) for task in view.tasks]
    axis = axis_of(_rates(rated), 0)
    panels = [
        _panel(task.title, task.measures, rows, axis, view, {"fell": "better", "rose": "worse"})
        for task, rows in zip(view.tasks, rated, strict=True)
    ]
    for name in view.utility:
        ability = [(row, row.cells) for row in view.utility_rows(name)]
        panels.append(_panel(name, "ability", ability, Axis(0, 100), view))
    return panels


def fidelity(view: View) -> list[Panel]:
    """Answers in the language of the request."""
    rated = [_rated(task, "fidelity") for task in view.tasks]
    axis = axis_of(_rates(rated), 100)
    return [
        _panel(task.title, "in the language of the request", rows, axis, view)
        for task, rows in zip(view.tasks, rated, strict=True)
    ]


def _rated(task: Task, metric: str) -> Rated:
    return [(row, row.rates(metric)) for row in task.rows]


def _rates(rated: Iterable[Rated]) -> list[Rate]:
    return [rate for rows in rated for _, rates in rows for rate in rates]


def _panel(
    title: str,
    shows: str,
    rated: Rated,
    axis: Axis,
    view: View,
    tones: Mapping[str, Tone] | None = None,
) -> Panel:
    """`tones`: what a change by more than chance means, by its way."""
    lines = []
    for row, rates in rated:
        tone: Tone = tones.get(row.way, "same") if tones and row.is_sure else "same"
        sides = zip(view.sides, rates, strict=True)
        marks = [_mark(side, rate, axis) for side, rate in sides if rate["value"] is not None]
        lines.append(Line(row, rates, marks, tone))
    return Panel(title, f"{shows}, %", axis, lines)


def _mark(side: str, rate: Rate, axis: Axis) -> Mark:
    low, high = (rate["value"] if rate.get(key) is None else rate[key] for key in ("low", "high"))
    return Mark(side or "after", axis.at(rate["value"]), axis.at(low), axis.at(high))


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a stacked bar: from `start`, `width` long, both in percent of the bar."""

    outcome: str
    count: int
    start: float
    width: float


def bar(cell: Mapping[str, Any]) -> list[Segment]:
    """A CELL's outcomes as a stacked bar, in proportion to their counts; nothing if nothing was judged."""
    total = sum(cell["outcomes"].values())
    segments, before = [], 0
    for outcome in OUTCOMES:
        if count := cell["outcomes"][outcome]:
            segments.append(Segment(outcome, count, round(100 * before / total, 2), round(100 * count / total, 2)))
            before += count
    return segments
