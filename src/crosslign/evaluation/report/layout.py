"""What the page shows, in which order: tasks, languages by group, rows of the charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crosslign.evaluation.report.changes import Change, change_at
from crosslign.evaluation.report.numbers import Numbers, pointer
from crosslign.languages import english_name
from crosslign.types import CrosslignError

Metric = Literal["asr", "over_refusal"]
RowKind = Literal["language", "group", "all", "subset"]
RESOURCE_GROUPS = ("high", "medium", "low")
EXPOSURE_GROUPS = ("trained", "unseen")
ALL = "all"


@dataclass(frozen=True, slots=True)
class SideOfPage:
    """One column of results: `suffix` leads from a row's pointer to its cell."""

    name: str
    suffix: str


SIDES = {
    "evaluation": (SideOfPage("", ""),),
    "comparison": (SideOfPage("before", "/before"), SideOfPage("after", "/after")),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a chart or table.

    Fields:
        path: pointer of its CELL (evaluation) or PAIR (comparison); it may lead nowhere (a group without a mean).
        name: a language's English name, or the group's.
        kind: a language; the heading of a group of languages with its mean; all languages; a subset that cuts across
            the groups (trained, unseen).
        code: the language's code; None for groups and averages.
        tags: "trained" or "unseen", where the manifest says so.
        change: None in an evaluation.
    """

    path: str
    name: str
    kind: RowKind
    code: str | None = None
    tags: tuple[str, ...] = ()
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its pointer, what it asks, and its rows in the page's order."""

    name: str
    path: str
    kind: Literal["harmful", "benign"]
    judge: str
    rows: tuple[Row, ...]

    @property
    def metric(self) -> Metric:
        return "asr" if self.kind == "harmful" else "over_refusal"

    @property
    def languages(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == "language")

    @property
    def all(self) -> Row | None:
        return next((row for row in self.rows if row.kind == "all"), None)


def language_name(code: str) -> str:
    """English name of a code; the code itself where it names no known language (a testbed's)."""
    try:
        return english_name(code)
    except CrosslignError:
        return code


def manifests(numbers: Numbers) -> list[str]:
    """Pointers of the manifests: one for each side of the page."""
    return [f"/manifest{side.suffix}" for side in sides(numbers)]


def sides(numbers: Numbers) -> tuple[SideOfPage, ...]:
    return SIDES[numbers.results["kind"]]


def tasks(numbers: Numbers) -> list[Task]:
    """The tasks, those with harmful requests first, each in the file's order, all with one order of languages.

    Languages stand by resource group (high, medium, low, then the rest), within a group by the first task's rate on
    the first side, highest first, so that charts read from top to bottom; ties and missing rates by name.
    """
    names = sorted(numbers.keys("/tasks"), key=lambda name: _kind(numbers, pointer("tasks", name)) == "benign")
    paths = {name: pointer("tasks", name) for name in names}
    order = _language_order(numbers, list(paths.values()))
    return [
        Task(name, path, _kind(numbers, path), numbers.text(f"{path}/judge", "text"), _rows(numbers, path, order))
        for name, path in paths.items()
    ]


def _kind(numbers: Numbers, path: str) -> Literal["harmful", "benign"]:
    kind = numbers.at(f"{path}/kind")
    if kind not in ("harmful", "benign"):
        raise CrosslignError(f"results.json: {path}/kind: expected 'harmful' or 'benign', found {kind!r}.")
    return "harmful" if kind == "harmful" else "benign"


def group_of(numbers: Numbers, code: str) -> str | None:
    """The language's resource group by the manifest, or None."""
    return next((g for g in RESOURCE_GROUPS if code in _members(numbers, g)), None)


def _members(numbers: Numbers, group: str) -> Sequence[str]:
    for manifest in reversed(manifests(numbers)):  # the later side knows best what was trained on
        members = numbers.at(f"{manifest}/groups/{group}")
        if isinstance(members, list):
            return members
    return ()


def language_order(numbers: Numbers) -> list[str]:
    """All languages of all tasks, in the page's order."""
    return _language_order(numbers, [task.path for task in tasks(numbers)])


def _language_order(numbers: Numbers, paths: Sequence[str]) -> list[str]:
    codes = list(dict.fromkeys(code for path in paths for code in numbers.keys(f"{path}/languages")))
    first = sides(numbers)[0].suffix

    def place(code: str) -> tuple[int, float, str]:
        group = group_of(numbers, code)
        rate = None
        for path in paths:
            metric = "asr" if _kind(numbers, path) == "harmful" else "over_refusal"
            rate = numbers.number(f"{path}/languages{pointer(code)}{first}/{metric}/value")
            if rate is not None:
                break
        rank = RESOURCE_GROUPS.index(group) if group else len(RESOURCE_GROUPS)
        return rank, -(rate if rate is not None else -1.0), language_name(code)

    return sorted(codes, key=place)


def _rows(numbers: Numbers, path: str, order: Sequence[str]) -> tuple[Row, ...]:
    present = set(numbers.keys(f"{path}/languages"))
    groups = numbers.keys(f"{path}/groups")
    pairs = numbers.results["kind"] == "comparison"

    def row(at: str, name: str, kind: RowKind, code: str | None = None) -> Row:
        tags = tuple(tag for tag in EXPOSURE_GROUPS if code is not None and code in _members(numbers, tag))
        return Row(at, name, kind, code, tags, change_at(numbers, at) if pairs else None)

    rows: list[Row] = []
    shown: set[str] = set()
    for code in (c for c in order if c in present):
        group = group_of(numbers, code)
        if group and group not in shown:
            shown.add(group)
            rows.append(row(f"{path}/groups/{group}", _group_name(group), "group"))
        elif not group and shown and "" not in shown:
            shown.add("")
            rows.append(row(f"{path}/groups/", "other languages", "group"))
        rows.append(row(f"{path}/languages{pointer(code)}", language_name(code), "language", code))
    if numbers.has(f"{path}/all"):
        rows.append(row(f"{path}/all", "all languages", "all"))
    rows += [
        row(f"{path}/groups{pointer(group)}", _group_name(group), "subset") for group in groups if group not in shown
    ]
    return tuple(rows)


def _group_name(group: str) -> str:
    named = {"trained": "trained on", "unseen": "not trained on"}
    return f"{group}-resource" if group in RESOURCE_GROUPS else named.get(group, group)
