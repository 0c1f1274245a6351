"""Results as tables and pages show them: tasks, and in each the rows for languages, groups of languages and all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from crosslign.evaluation.rates import HEADLINES, Kind
from crosslign.evaluation.stats import SIGNIFICANCE
from crosslign.evaluation.tables import short_names
from crosslign.evaluation.tasks.resources import LEVELS
from crosslign.languages import telling_names

Part = Mapping[str, Any]
Scope = Literal["language", "group", "all"]
Way = Literal["fell", "rose", "stayed", "unknown"]


def rate_of(cell: Part, metric: str) -> Part:
    """The RATE of a metric of this kind of task, or of "fidelity"."""
    return cell["fidelity"]["rate"] if metric == "fidelity" else cell.get(metric, {})


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a chart or table: a language, or a mean over languages.

    Fields:
        key: the language's code, the group's name or "all"; `name` is for people.
        cells: its CELL on each side. pair: its PAIR in a comparison, else None (`results` documents both).
        tags: the groups of a language.
    """

    scope: Scope
    key: str
    name: str
    cells: tuple[Part, ...]
    pair: Part | None = None
    tags: tuple[str, ...] = ()

    def rates(self, metric: str) -> list[Part]:
        """`rate_of` each side."""
        return [rate_of(cell, metric) for cell in self.cells]

    @property
    def way(self) -> Way:
        """Which way the rate that the task is about moved; unknown with too few rows on both sides."""
        difference = self.pair["change"]["difference"] if self.pair else None
        if difference is None:
            return "unknown"
        return "fell" if difference < 0 else "rose" if difference > 0 else "stayed"

    @property
    def is_sure(self) -> bool:
        """Whether it moved by more than chance: for a language, Holm's p is below 0.05; for a mean, which has no p,
        the 95 % interval of the change excludes zero."""
        if self.pair is None or self.way not in ("fell", "rose"):
            return False
        change = self.pair["change"]
        if self.scope == "language":
            return change["p_holm"] is not None and change["p_holm"] < SIGNIFICANCE
        return change["high"] < 0 or change["low"] > 0


@dataclass(frozen=True, slots=True)
class Task:
    """One task: languages first, then the means of groups, then the mean of all."""

    name: str
    title: str
    kind: Kind
    judge: str
    rows: tuple[Row, ...]
    agreement: Mapping[str, Mapping[str, Part]]

    @property
    def metric(self) -> str:
        return HEADLINES[self.kind].metric

    @property
    def asks(self) -> str:
        return "harmful requests" if self.kind == "harmful" else "harmless requests"

    @property
    def measures(self) -> str:
        return "unsafe answers" if self.kind == "harmful" else "harmless requests refused"

    @property
    def languages(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.scope == "language")

    @property
    def all(self) -> Row:
        return self.rows[-1]


class View:
    """`results` as they are shown.

    Fields:
        compared: two sides, or one.
        manifests: one of each side. sides: their names, "" if there is one. models: "org/model with my-run" of each.
        names: of all languages by their resources, each with a name that tells it from the others.
        tasks: those with harmful requests first, each in the file's order.
        not_compared: of each side of a comparison what the other one lacks.
    """

    def __init__(self, results: Part) -> None:
        self.compared = results["kind"] == "comparison"
        self.sides = ("before", "after") if self.compared else ("",)
        self.manifests = self.cells(results["manifest"])
        self.utility: Mapping[str, Mapping[str, Part]] = results.get("utility", {})
        self.not_compared: Mapping[str, list[str]] = results.get("not_compared", {})
        self._groups: Mapping[str, list[str]] = self.manifests[-1].get("groups", {})
        tasks = sorted(results["tasks"].items(), key=lambda pair: pair[1]["kind"] == "benign")
        codes = [code for _, part in tasks for code in part["languages"]]
        codes += [code for languages in self.utility.values() for code in languages]
        levels = {code: level for level, name in enumerate(LEVELS) for code in self._groups.get(name, ())}
        # The source language, which is in no group, is first.
        self.names = telling_names(sorted(dict.fromkeys(codes), key=lambda code: levels.get(code, -1)))
        titles = short_names(results["tasks"])
        self.models = _model_names(self.manifests)
        self.tasks = [
            Task(name, titles[name], part["kind"], part["judge"], tuple(self._rows(part)), part.get("agreement", {}))
            for name, part in tasks
        ]

    def cells(self, part: Part) -> tuple[Part, ...]:
        """A part's content on each side."""
        return tuple(part[side] if side else part for side in self.sides)

    def utility_rows(self, name: str) -> list[Row]:
        """A utility task's languages; each cell is a RATE."""
        found = self.utility[name]
        return [Row("language", c, name, self.cells(found[c])) for c, name in self.names.items() if c in found]

    def _rows(self, task: Part) -> Iterator[Row]:
        def row(scope: Scope, key: str, name: str, part: Part, tags: tuple[str, ...] = ()) -> Row:
            return Row(scope, key, name, self.cells(part), part if self.compared else None, tags)

        for code, name in self.names.items():
            if code in task["languages"]:
                tags = tuple(group for group, members in self._groups.items() if code in members)
                yield row("language", code, name, task["languages"][code], tags)
        for group, part in task["groups"].items():
            yield row("group", group, f"mean, {group}", part)
        yield row("all", "all", "mean, all", task["all"])


def _model_names(manifests: Iterable[Part]) -> list[str]:
    named = [[str(side[key]) for key in ("model", "adapter") if side.get(key)] for side in manifests]
    short = short_names(name for names in named for name in names)
    return [" with ".join(short[name] for name in names) or "a model" for names in named]


def settings(view: View) -> dict[str, list[str]]:
    """All settings of the manifests by their places there, each with its value on each side, as they first occur."""
    sides = [dict(_leaves(manifest)) for manifest in view.manifests]
    names = dict.fromkeys(name for side in sides for name in side)
    return {name: [side.get(name, "not recorded") for side in sides] for name in names}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and (value or not name):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name} › {key}" if name else str(key))
    elif isinstance(value, list) and value:
        yield name, ", ".join(map(_plain, value))
    else:
        yield name, _plain(value)


def _plain(value: Any) -> str:
    if value in (None, [], {}):
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
