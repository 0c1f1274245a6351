"""What the page shows, in which order: tasks, and in each the rows for languages, groups of languages and all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from crosslign.evaluation.rates import HEADLINES, Kind
from crosslign.evaluation.result_tables import Scope, on_each, parts, rate_of, sides_of
from crosslign.evaluation.tables import short_names
from crosslign.languages import telling_names

Part = Mapping[str, Any]
Way = Literal["fell", "rose", "stayed", "unknown"]
SIGNIFICANCE = 0.05
RESOURCES = ("high", "medium", "low")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a chart or table: a language, or a mean over languages.

    Fields:
        code: the language's code; None for a mean.
        tags: the groups of a language.
        cells: its CELL on each side. pair: its PAIR in a comparison, else None (`results` documents both).
    """

    name: str
    scope: Scope
    code: str | None
    tags: tuple[str, ...]
    cells: tuple[Part, ...]
    pair: Part | None

    def rates(self, metric: str) -> list[Part]:
        """The RATE of a metric ("fidelity" is one) on each side."""
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
    """`results` as the page shows them.

    Fields:
        compared: two sides, or one.
        manifests: one of each side. sides: their names, "" if there is one.
        names: of all languages by their resources, each with a name that tells it from the others.
        tasks: those with harmful requests first, each in the file's order.
    """

    def __init__(self, results: Part) -> None:
        self.compared = results["kind"] == "comparison"
        self.sides = sides_of(results)
        self.manifests = self.cells(results["manifest"])
        self.utility: Mapping[str, Mapping[str, Part]] = results.get("utility", {})
        self._groups: Mapping[str, list[str]] = self.manifests[-1].get("groups", {})
        tasks = sorted(results["tasks"].items(), key=lambda pair: pair[1]["kind"] == "benign")
        codes = [code for _, part in tasks for code in part["languages"]]
        codes += [code for languages in self.utility.values() for code in languages]
        levels = {code: RESOURCES.index(name) for name in RESOURCES for code in self._groups.get(name, ())}
        # The source language, which is in no group, is first.
        self.names = telling_names(sorted(dict.fromkeys(codes), key=lambda code: levels.get(code, -1)))
        titles = short_names(results["tasks"])
        self.tasks = [
            Task(name, titles[name], part["kind"], part["judge"], tuple(self._rows(part)), part.get("agreement", {}))
            for name, part in tasks
        ]

    def cells(self, part: Part) -> tuple[Part, ...]:
        """A part's content on each side."""
        return on_each(self.sides, part)

    def utility_rows(self, name: str) -> list[Row]:
        """A utility task's languages; each cell is a RATE."""
        found = self.utility[name]
        codes = [code for code in self.names if code in found]
        return [Row(self.names[code], "language", code, (), self.cells(found[code]), None) for code in codes]

    def _rows(self, task: Part) -> Iterator[Row]:
        order = list(self.names)
        rows = sorted(parts(task), key=lambda row: order.index(row[1]) if row[0] == "language" else len(order))
        for scope, name, part in rows:
            code = name if scope == "language" else None
            title = self.names[name] if code else f"mean, {name}"
            tags = tuple(group for group, members in self._groups.items() if code in members)
            yield Row(title, scope, code, tags, self.cells(part), part if self.compared else None)


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
