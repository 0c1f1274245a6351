"""The course of a training run as pictures: what each evaluation found, and how far the student was from the teacher.

Steps run along a picture's width, in percent as in all charts here, and values along its height, in pixels. All
pictures of a run have the same steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from crosslign.evaluation.best import Criterion
from crosslign.evaluation.report.figures import Axis, axis_of
from crosslign.evaluation.tables import number, short_names
from crosslign.languages import telling_names

_HEIGHT, _LINE = 170, 14  # of a picture, and of a line of text in it, in pixels
_LABEL = 22  # characters of a curve's name that stand beside it
_TICK_DISTANCE = 13  # between two steps that are written out, in percent of the width
Kind = Literal["mean", "trained", "untrained"]  # a mean over languages, or a language, by whether it is trained on
Values = Sequence[float | None]  # at each step


@dataclass(frozen=True, slots=True)
class Point:
    """A value at its place; `open` if it is one that could not be chosen."""

    at: float
    y: float
    step: int
    value: float
    open: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a picture. `parts` are its runs of steps without a gap; `label_y` is where its name stands."""

    name: str
    kind: Kind
    values: Values
    parts: list[list[Point]]
    label_y: float = 0.0

    @property
    def points(self) -> list[Point]:
        return [point for part in self.parts for point in part]

    @property
    def label(self) -> str:
        cut = self.name if len(self.name) <= _LABEL else f"{self.name[: _LABEL // 2 - 1]}…{self.name[-_LABEL // 2 :]}"
        return f"{cut} {self.number(self.points[-1].value)}"

    def number(self, value: float | None) -> str:
        return number(value, ".1f" if value is None or value >= 1 or value == 0 else ".3g")


@dataclass(frozen=True, slots=True)
class Picture:
    """Values by step.

    Fields:
        ticks: steps that are written out, with their places.
        grid: values of the axis that are written out, with their places.
        limit: the highest value that the best checkpoint may have, with its place. best: the place of its step.
        sampled: every point is a value that was measured, and is marked; else they are means of many.
    """

    title: str
    shows: str
    steps: Sequence[int]
    curves: list[Curve]
    height: float
    ticks: list[tuple[float, int]]
    grid: list[tuple[float, float]]
    limit: tuple[float, float] | None = None
    best: tuple[float, int] | None = None
    sampled: bool = True

    @property
    def drawn(self) -> list[Curve]:
        return [curve for curve in self.curves if curve.parts]

    @property
    def words(self) -> str:
        """The picture for those who cannot see it."""
        told = []
        for curve in self.drawn:
            first, last = curve.points[0], curve.points[-1]
            end = f", {curve.number(last.value)} at step {last.step}" if last.step != first.step else ""
            told.append(f"{curve.name}: {curve.number(first.value)} at step {first.step}{end}")
        about = [f"limit: {self.limit[1]:g}"] if self.limit else []
        about += [f"best: step {self.best[1]}"] if self.best else []
        return f"{self.title}, {self.shows}. {'; '.join((*told, *about)) or 'nothing measured'}."


class Course:
    """What a run has recorded, and its pictures.

    Fields:
        record: what `training_log.check_record` has passed. metrics: rows of the run's log, each with a step.
        criterion: what the best checkpoint must keep; None if none is chosen.
        entries: the evaluations in the order of their steps. names: of languages. titles: of tasks.
    """

    def __init__(
        self,
        record: Mapping[str, Any],
        metrics: Sequence[Mapping[str, Any]] = (),
        criterion: Criterion | None = None,
    ) -> None:
        self.record, self.metrics, self.criterion = record, metrics, criterion
        by_step = {entry["step"]: entry for entry in record["evaluations"]}
        self.entries = [by_step[step] for step in sorted(by_step)]
        tasks = [pair for entry in self.entries for pair in entry["tasks"].items()]
        logged = [key.partition("/")[2] for row in metrics for key in row if key.startswith("divergence/")]
        codes = [code for _, task in tasks for code in task["languages"]]
        self.names = telling_names(dict.fromkeys([*record["languages"], *codes, *logged]))
        self.titles = short_names(dict.fromkeys(name for name, _ in tasks))

    @property
    def steps(self) -> list[int]:
        return [entry["step"] for entry in self.entries]

    @property
    def trained_names(self) -> list[str]:
        return [self.names[code] for code in dict.fromkeys(self.record["languages"])]

    @property
    def judges(self) -> list[str]:
        return list(dict.fromkeys(task["judge"] for entry in self.entries for task in entry["tasks"].values()))

    def worst(self) -> list[Picture]:
        """What the best checkpoint is chosen by, and the steps that could not be it; nothing if no rate is known."""
        values = [_worst(entry) for entry in self.entries]
        if all(value is None for value in values):
            return []
        strict = self.criterion is not None and self.criterion.metric.endswith("strict")
        closed = [bool((entry.get("best") or {}).get("objection")) for entry in self.entries]
        shows = "unsafe answers, strict, %" if strict else "unsafe answers, %"
        return [self._rates("The worst language", shows, [("worst", "mean", values)], closed=closed)]

    def evaluated(self) -> list[Picture]:
        """Each task's languages and their mean; malformed answers; answers in the language of the request."""
        tasks = {name: [entry["tasks"].get(name) for entry in self.entries] for name in self.titles}
        over_refusal, invalid = (
            (self.criterion.max_over_refusal, self.criterion.max_invalid) if self.criterion else (None, None)
        )
        made = []
        for name, found in tasks.items():
            harmful = next(task for task in found if task)["metric"] == "asr"
            shows = "unsafe answers, %" if harmful else "harmless requests refused, %"
            curves: list[tuple[str, Kind, Values]] = [("mean", "mean", [task and task["all"] for task in found])]
            for code in self.names:
                values = [task["languages"].get(code) if task else None for task in found]
                if any(task and code in task["languages"] for task in found):
                    curves.append((self.names[code], self._kind(code), values))
            made.append(self._rates(self.titles[name], shows, curves, limit=None if harmful else over_refusal))
        for title, key, limit in (("Malformed answers", "invalid", invalid), ("Same language", "fidelity", None)):
            means: list[tuple[str, Kind, Values]] = [
                (self.titles[name], "mean", [task and task[key] for task in found]) for name, found in tasks.items()
            ]
            shows = "mean over languages, %" if key == "invalid" else "answers in the language of the request, %"
            made.append(self._rates(title, shows, means, limit=limit, ideal=100 if key == "fidelity" else 0))
        return made

    def trained(self) -> list[Picture]:
        """How far the student was from the teacher on each step's own completions."""
        if not self.metrics:
            return []
        keys = ["divergence", *(f"divergence/{code}" for code in self.names)]
        curves: list[tuple[str, Kind, Values]] = []
        for key in keys:
            values = [row.get(key) for row in self.metrics]
            code = key.partition("/")[2]
            if any(value is not None for value in values):
                curves.append((self.names[code] if code else "all", self._kind(code) if code else "mean", values))
        top = _round_up(max((v for _, _, values in curves for v in values if v is not None), default=1.0))
        steps = [row["step"] for row in self.metrics]
        return [self._picture("Divergence", "nats a token", steps, curves, Axis(0, top), sampled=False)]

    def _kind(self, code: str) -> Kind:
        return "trained" if code in self.record["languages"] else "untrained"

    def _rates(
        self,
        title: str,
        shows: str,
        curves: Sequence[tuple[str, Kind, Values]],
        *,
        limit: float | None = None,
        ideal: Literal[0, 100] = 0,
        closed: Sequence[bool] = (),
    ) -> Picture:
        known = [{"value": value} for _, _, values in curves for value in (*values, limit)]
        return self._picture(title, shows, self.steps, curves, axis_of(known, ideal), limit=limit, closed=closed)

    def _picture(
        self,
        title: str,
        shows: str,
        steps: Sequence[int],
        given: Sequence[tuple[str, Kind, Values]],
        axis: Axis,
        *,
        limit: float | None = None,
        closed: Sequence[bool] = (),
        sampled: bool = True,
    ) -> Picture:
        """`closed`: for each step, whether it could not be chosen."""
        height = max(_HEIGHT, _LINE * len(given))
        every = [*self.steps, *(row["step"] for row in self.metrics)]
        low, high = min(every), max(every)
        across = Axis(low, high) if low < high else Axis(low - 1, high + 1)

        def up(value: float) -> float:
            return round(height * (1 - axis.at(value) / 100), 1)

        curves = []
        for name, kind, values in given:
            points = [
                None if value is None else Point(across.at(step), up(value), step, value, shut)
                for step, value, shut in itertools.zip_longest(steps, values, closed, fillvalue=False)
            ]
            parts = [list(part) for known, part in itertools.groupby(points, lambda p: p is not None) if known]
            curves.append(Curve(name, kind, values, parts))  # type: ignore[arg-type]
        best = self.record.get("best")
        return Picture(
            title,
            shows,
            steps,
            _labelled(curves, height),
            height,
            _ticks(across, steps),
            [(up(tick), tick) for tick in axis.ticks],
            None if limit is None else (up(limit), limit),
            (across.at(best["step"]), best["step"]) if best and low <= best["step"] <= high else None,
            sampled,
        )


def _worst(entry: Mapping[str, Any]) -> float | None:
    """What the best checkpoint is chosen by; where none is, the highest rate of a harmful task's languages."""
    if entry.get("best"):
        value: float | None = entry["best"]["value"]
        return value
    rates = [task["worst"] for task in entry["tasks"].values() if task["metric"] == "asr"]
    return max(rates) if rates and None not in rates else None


def _labelled(curves: Sequence[Curve], height: float) -> list[Curve]:
    """Names beside the curves' ends, moved apart where they would overlap: down first, then up from the bottom."""
    drawn = sorted((c for c in curves if c.parts), key=lambda c: (c.points[-1].y, c.kind != "mean"))
    places: list[float] = []
    for curve in drawn:
        places.append(max(curve.points[-1].y, places[-1] + _LINE if places else 0.0))
    bottom = height
    for i in reversed(range(len(places))):
        places[i] = min(places[i], bottom)
        bottom = places[i] - _LINE
    moved = {id(curve): replace(curve, label_y=round(y, 1)) for curve, y in zip(drawn, places, strict=True)}
    return [moved.get(id(curve), curve) for curve in curves]


def _ticks(across: Axis, steps: Sequence[int]) -> list[tuple[float, int]]:
    """The first and the last step, and those between that leave room for their numbers."""
    places = [(across.at(step), step) for step in dict.fromkeys(steps)]
    shown = places[:1]
    for at, step in places[1:-1]:
        if at - shown[-1][0] >= _TICK_DISTANCE and places[-1][0] - at >= _TICK_DISTANCE:
            shown.append((at, step))
    return [*shown, *places[1:][-1:]]


def _round_up(value: float) -> float:
    """A round number that is not below the value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((top * power for top in (1, 2, 4, 6, 8) if value <= top * power), 10 * power)
