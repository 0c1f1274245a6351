"""The geometry of the charts."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslign.evaluation.report.charts import (
    Axis,
    Scatter,
    _text_box,
    axis_from_zero,
    axis_to_hundred,
    scatter,
    stack,
)

rates = st.floats(0, 100)
many_rates = st.lists(rates, max_size=20)


@settings(deadline=None, max_examples=60)
@given(many_rates)
def test_an_axis_from_zero_covers_its_values_and_no_more_than_needed(values: list[float]) -> None:
    axis = axis_from_zero(values)
    assert axis.low == 0
    assert all(value <= axis.high <= 100 for value in values)
    assert axis.high <= max(4.0, 2.5 * max(values, default=40))


@settings(deadline=None, max_examples=60)
@given(many_rates)
def test_an_axis_to_hundred_covers_its_values(values: list[float]) -> None:
    axis = axis_to_hundred(values)
    assert axis.high == 100
    assert all(axis.low <= value for value in values)


@settings(deadline=None, max_examples=60)
@given(st.floats(100, 1e9, exclude_min=True))
def test_values_above_hundred_have_an_axis_too(value: float) -> None:
    assert value <= axis_from_zero([value]).high <= 2 * value * 1.01


@settings(deadline=None, max_examples=60)
@given(rates, rates, st.sampled_from([4.0, 20.0, 100.0]))
def test_places_are_linear_and_stay_inside(a: float, b: float, top: float) -> None:
    axis = Axis(0, top)
    assert 0 <= axis.at(a) <= 100
    if max(a, b) <= top:
        assert axis.at(a) - axis.at(b) == pytest.approx(100 * (a - b) / top, abs=0.01)
    assert [axis.at(tick) for tick in axis.ticks] == [0, 25, 50, 75, 100]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2000), min_size=4, max_size=4))
def test_a_bar_is_filled_in_proportion_without_gap_or_overlap(counts: list[int]) -> None:
    segments = stack(list(zip("abcd", counts, strict=True)))
    assert [s.name for s in segments] == [name for name, count in zip("abcd", counts, strict=True) if count]
    if segments:
        assert segments[0].start == 0
        assert segments[-1].start + segments[-1].width == pytest.approx(100)
        for left, right in itertools.pairwise(segments):
            assert left.start + left.width == pytest.approx(right.start)
        total = sum(counts)
        for segment in segments:
            assert segment.width == pytest.approx(100 * counts["abcd".index(segment.name)] / total, abs=0.002)


points = st.tuples(rates, rates)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["en", "sw", "zh-Hant", "jv"]), st.none() | points, points), max_size=20))
def test_labels_of_a_scatter_plot_overlap_neither_labels_nor_circles(languages: list) -> None:
    plot = scatter(Axis(0, 100), Axis(0, 100), languages)
    assert [p.code for p in plot.points] == [code for code, _, _ in languages]
    boxes = [_text_box(p.code, p.label) for p in plot.points if p.label]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] + 0.02 or b[2] <= a[0] + 0.02 or a[3] <= b[1] + 0.02 or b[3] <= a[1] + 0.02
    for left, top, right, bottom in boxes:
        for x, y in (place for p in plot.points for place in (p.before, p.after) if place):
            assert not (left < x < right and top < y < bottom)
    for point, (_, before, after) in zip(plot.points, languages, strict=True):
        for place, values in ((point.before, before), (point.after, after)):
            if place and values:
                assert place[0] == pytest.approx(
                    Scatter.LEFT + (Scatter.RIGHT - Scatter.LEFT) * values[0] / 100, abs=0.02
                )
                assert place[1] == pytest.approx(
                    Scatter.BOTTOM - (Scatter.BOTTOM - Scatter.TOP) * values[1] / 100, abs=0.02
                )


def test_a_lone_point_has_its_label_beside_it() -> None:
    [point] = scatter(Axis(0, 100), Axis(0, 100), [("sw", None, (50, 50))]).points
    assert point.label
    assert math.dist(point.label, point.after) < 20
    assert not point.far
