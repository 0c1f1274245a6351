"""Geometry of the charts: values in, positions out. The templates draw what stands here.

Positions along a row are in percent of the plot's width, so that a plot is as wide as its column on any screen while
its text keeps its size. The scatter plots use their own units (`Scatter.WIDTH` by `Scatter.HEIGHT`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

_INTERVALS = 4  # an axis has five ticks, so that grid lines stand at every quarter of its length
_TOPS = (4.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)
_FLOORS = (96.0, 90.0, 80.0, 60.0, 40.0, 20.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from `low` to `high`, in %."""

    low: float
    high: float

    @property
    def ticks(self) -> tuple[float, ...]:
        step = (self.high - self.low) / _INTERVALS
        return tuple(self.low + step * i for i in range(_INTERVALS + 1))

    def at(self, value: float) -> float:
        """Position of a value, in percent of the axis' length; values outside are drawn at its ends."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 3)


def axis_from_zero(values: Iterable[float]) -> Axis:
    """From 0 to the first round end that covers the values: a rate that should be low. Without values, to 100."""
    largest = max(values, default=_TOPS[-1])
    for top in _TOPS:
        if largest <= top:
            return Axis(0.0, top)
    unit = 10.0 ** math.floor(math.log10(largest))
    return Axis(0.0, next(unit * k for k in (1, 2, 4, 6, 8, 10) if unit * k >= largest))


def axis_to_hundred(values: Iterable[float]) -> Axis:
    """From the last round start below the values to 100: a rate that should be high."""
    smallest = min(values, default=0.0)
    return Axis(next((floor for floor in _FLOORS if floor <= smallest), 0.0), 100.0)


def tick_label(value: float) -> str:
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a stacked bar: from `start`, `width` long, both in percent of the bar."""

    name: str
    start: float
    width: float


def stack(counts: Sequence[tuple[str, int]]) -> tuple[Segment, ...]:
    """Segments in proportion to the counts, in their order; none if the counts are all zero."""
    total = sum(count for _, count in counts)
    segments, before = [], 0
    for name, count in counts:
        if count:
            start, end = (round(100 * c / total, 3) for c in (before, before + count))
            segments.append(Segment(name, start, round(end - start, 3)))
        before += count
    return tuple(segments)


@dataclass(frozen=True, slots=True)
class Point:
    """One language in a scatter plot: its places before (None where there is no before) and after, and its label's.

    `label` is None where no free place was found; the table beneath the plot has every language.
    """

    code: str
    before: tuple[float, float] | None
    after: tuple[float, float]
    label: tuple[float, float] | None
    far: bool = False  # the label stands so far off that a thin line should lead to it


@dataclass(frozen=True, slots=True)
class Scatter:
    """A scatter plot: two axes, its points, and the plot area's edges in its own units."""

    WIDTH: ClassVar[float] = 360.0
    HEIGHT: ClassVar[float] = 320.0
    LEFT: ClassVar[float] = 46.0
    RIGHT: ClassVar[float] = 344.0
    TOP: ClassVar[float] = 14.0
    BOTTOM: ClassVar[float] = 272.0

    x: Axis
    y: Axis
    points: tuple[Point, ...]

    @property
    def x_ticks(self) -> tuple[tuple[float, str], ...]:
        return tuple((_place(self.x, self.y, (t, self.y.low))[0], tick_label(t)) for t in self.x.ticks)

    @property
    def y_ticks(self) -> tuple[tuple[float, str], ...]:
        return tuple((_place(self.x, self.y, (self.x.low, t))[1], tick_label(t)) for t in self.y.ticks)


Values = tuple[float, float]


def scatter(x: Axis, y: Axis, languages: Sequence[tuple[str, Values | None, Values]]) -> Scatter:
    """A scatter plot of (code, (x, y) before or None, (x, y) after), in %, with labels that do not overlap."""
    marks: list[tuple[str, Values | None, Values]] = [
        (code, None if before is None else _place(x, y, before), _place(x, y, after))
        for code, before, after in languages
    ]
    taken = [_box_around(place, 5) for _, before, after in marks for place in (before, after) if place]
    points = []
    for code, before, after in marks:
        label = _free_place(code, after, taken)
        if label:
            taken.append(_text_box(code, label))
        points.append(Point(code, before, after, label, label is not None and _is_far(code, after, label)))
    return Scatter(x, y, tuple(points))


def _place(x: Axis, y: Axis, values: Values) -> Values:
    across = Scatter.LEFT + (Scatter.RIGHT - Scatter.LEFT) * x.at(values[0]) / 100
    up = Scatter.BOTTOM - (Scatter.BOTTOM - Scatter.TOP) * y.at(values[1]) / 100
    return round(across, 2), round(up, 2)


_Box = tuple[float, float, float, float]  # left, top, right, bottom
_LETTER, _LINE = 7.0, 13.0  # width of a letter and height of a line of label, a little generous
# Where a label's middle may stand: to the right, left, above, below, aslant; then the same farther away.
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.8, -0.8), (-0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
_DISTANCES = (1.0, 1.7)


def _free_place(code: str, mark: Values, taken: Sequence[_Box]) -> Values | None:
    """The first place around the mark for the middle of its label that hits nothing and stays on the page."""
    half = len(code) * _LETTER / 2
    for distance in _DISTANCES:
        for right, down in _DIRECTIONS:
            place = (mark[0] + right * distance * (half + 7), mark[1] + down * distance * (_LINE / 2 + 6))
            box = _text_box(code, place)
            inside = box[0] >= Scatter.LEFT and box[1] >= 0 and box[2] <= Scatter.WIDTH and box[3] <= Scatter.BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                return round(place[0], 2), round(place[1], 2)
    return None


def _is_far(code: str, mark: Values, label: Values) -> bool:
    return math.dist(mark, label) > math.hypot(len(code) * _LETTER / 2 + 7, _LINE / 2 + 6)


def _text_box(code: str, middle: Values) -> _Box:
    half = len(code) * _LETTER / 2
    return middle[0] - half, middle[1] - _LINE / 2, middle[0] + half, middle[1] + _LINE / 2


def _box_around(middle: Values, radius: float) -> _Box:
    return middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
