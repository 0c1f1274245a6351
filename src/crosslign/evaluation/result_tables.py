"""Results (`evaluation.results`) as flat CSV for a spreadsheet, Markdown for a model card and a table for a terminal.

Rates are in %.

CSV: one row for each task and language, group or all languages, by the columns task, kind, judge, scope ("language",
"group", "all"), name; then CELL flattened, `asr, asr_low, asr_high, asr_n` and so on, twice with the prefixes `before_`
and `after_` in a comparison, followed by its `change_...` columns. Utility tasks have the kind "utility" and
`utility, utility_low, utility_high, utility_n`. What is missing is empty, never 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from crosslign.evaluation.rates import HEADLINES
from crosslign.evaluation.tables import (
    MISSING,
    aligned,
    escape,
    interval,
    markdown,
    number,
    one_line,
    p_value,
    short_names,
)
from crosslign.languages import telling_names
from crosslign.types import OUTCOMES

Part = Mapping[str, Any]
Scope = Literal["language", "group", "all"]

_RATES = ("asr", "asr_strict", "asr_lenient", "over_refusal", "invalid", "refused", "fidelity")
NAMES = {"asr": "ASR", "over_refusal": "over-refusal"}
_NOTE = (
    "Brackets: 95 % intervals (languages: Wilson; means over languages: bootstrap over queries). "
    "ASR: unsafe of all judged; strict: invalid counts as unsafe; invalid: malformed, echo or gibberish."
)
_COMPARISON_NOTE = (
    "Change: paired queries, after - before (languages: Tango's interval, exact McNemar with Holm's correction). "
    "Could show: the smallest fall of ASR or rise of over-refusal, in points, that so many pairs show with 80 % power "
    "at 5 %; – means that not even the largest possible one would be shown."
)


def sides_of(results: Part) -> tuple[str, ...]:
    """The names of a comparison's sides; the one side of an evaluation is ""."""
    return ("before", "after") if results["kind"] == "comparison" else ("",)


def on_each(sides: Sequence[str], part: Part) -> tuple[Part, ...]:
    """A part's content on each side."""
    return tuple(part[side] if side else part for side in sides)


def parts(task: Part) -> Iterator[tuple[Scope, str, Part]]:
    """Scope, name and content of every row of a task's table."""
    for code, part in task["languages"].items():
        yield "language", code, part
    for name, part in task["groups"].items():
        yield "group", name, part
    yield "all", "all", task["all"]


def rate_of(cell: Part, metric: str) -> Part:
    """The RATE of a metric of this kind of task, or of "fidelity"."""
    return cell["fidelity"]["rate"] if metric == "fidelity" else cell.get(metric, {})


def model_names(results: Part) -> list[str]:
    """The model, "org/model with my-run", of an evaluation; that before and that after of a comparison."""
    sides = on_each(sides_of(results), results["manifest"])
    named = [[str(side[key]) for key in ("model", "adapter") if side.get(key)] for side in sides]
    short = short_names(name for names in named for name in names)
    return [" with ".join(short[name] for name in names) or "a model" for names in named]


def to_csv(results: Part) -> str:
    """The results as CSV, as the module describes it."""
    sides = sides_of(results)
    rows: list[dict[str, Any]] = []
    for name, task in results["tasks"].items():
        for scope, part_name, part in parts(task):
            head = {"task": name, "kind": task["kind"], "judge": task["judge"], "scope": scope, "name": part_name}
            row: dict[str, Any] = {key: one_line(value) for key, value in head.items()}
            if "change" in part:
                row |= _flat_change(part)
            for side, cell in zip(sides, on_each(sides, part), strict=True):
                row |= _prefixed(side, _flat_cell(cell))
            rows.append(row)
    for name, languages in results.get("utility", {}).items():
        for code, part in languages.items():
            row = {"task": one_line(name), "kind": "utility", "scope": "language", "name": code}
            for side, cell in zip(sides, on_each(sides, part), strict=True):
                row |= _prefixed(side, _flat_rate("utility", cell))
            rows.append(row)
    columns = list(dict.fromkeys(["task", "kind", "judge", "scope", "name", *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _prefixed(side: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{side}_{key}" if side else key: value for key, value in row.items()}


def _flat_rate(name: str, rate: Part) -> dict[str, Any]:
    return {name: rate.get("value"), **{f"{name}_{key}": rate.get(key) for key in ("low", "high", "n")}}


def _flat_cell(cell: Part) -> dict[str, Any]:
    row = {"n": cell["n"], "judged": cell["judged"], "abstained": sum(cell["abstained"].values())}
    row |= {"truncated": cell["truncated"]}
    row |= {f"count_{outcome}": cell["outcomes"][outcome] for outcome in OUTCOMES}
    row |= {f"language_{status}": cell["fidelity"][status] for status in ("match", "other", "unknown")}
    for metric in _RATES:
        row |= _flat_rate(metric, rate_of(cell, metric))
    return row


def _flat_change(pair: Part) -> dict[str, Any]:
    change = {key: value for key, value in pair["change"].items() if key not in ("languages", "reason")}
    unpaired = _prefixed("unpaired", pair["unpaired"])
    return {"n_paired": pair["n_paired"], **unpaired, **_prefixed("change", change)}


def to_markdown(results: Part) -> str:
    """A table for each task, for a model card: before and after with intervals if the results are a comparison."""
    sides = sides_of(results)
    table = _comparison_table if len(sides) > 1 else _evaluation_table
    models = (f"- {side or 'model'}: {escape(name)}" for side, name in zip(sides, model_names(results), strict=True))
    blocks = ["\n".join(models)]
    titles = short_names(results["tasks"])
    for name, task in results["tasks"].items():
        blocks.append(f"### {escape(titles[name])} ({escape(task['kind'])}, judged by {escape(task['judge'])})")
        blocks.append(table(task, HEADLINES[task["kind"]].metric))
    if results.get("utility"):
        blocks += ["### Utility", _utility_table(results["utility"], sides)]
    blocks.append(f"{_NOTE}\n{_COMPARISON_NOTE}" if len(sides) > 1 else _NOTE)
    return "\n\n".join(blocks) + "\n"


def _estimate(rate: Part, form: str = ".1f", key: str = "value") -> str:
    """`12.3 [8.1, 18.0]`, or why there is no number."""
    if rate[key] is None:
        return f"{MISSING} ({escape(rate['reason'])})"
    return f"{number(rate[key], form)} {interval(rate, form)}"


def _plain(cell: Part, metric: str) -> str:
    return number(rate_of(cell, metric)["value"])


def _both(pair: Part, metric: str) -> str:
    return f"{_plain(pair['before'], metric)} → {_plain(pair['after'], metric)}"


def _evaluation_table(task: Part, metric: str) -> str:
    extra = {"strict": "asr_strict", "invalid": "invalid", "refused": "refused"} if metric == "asr" else {}
    extra |= {"invalid": "invalid", "in its language": "fidelity"}
    header = ["language", "judged", f"{NAMES[metric]} %", *(f"{name} %" for name in extra)]
    rows = [
        [title, str(cell["judged"]), _estimate(cell[metric]), *(_plain(cell, other) for other in extra.values())]
        for title, cell in _titled(task, lambda cell: cell[metric].get("languages"))
    ]
    return markdown([header, *rows])


def _comparison_table(task: Part, metric: str) -> str:
    name = NAMES[metric]
    header = ["language", "pairs", f"{name} % before", f"{name} % after", "change, points", "p (Holm)", "could show"]
    header += ["invalid %", "in its language %"]
    rows = [
        [
            title,
            str(pair["n_paired"]),
            _estimate(pair["before"][metric]),
            _estimate(pair["after"][metric]),
            _estimate(pair["change"], "+.1f", "difference"),
            p_value(pair["change"]["p_holm"]),
            number(pair["change"]["detectable"]),
            _both(pair, "invalid"),
            _both(pair, "fidelity"),
        ]
        for title, pair in _titled(task, lambda pair: pair["change"].get("languages"))
    ]
    return markdown([header, *rows])


def _titled(task: Part, averaged: Callable[[Part], Sequence[str] | None]) -> Iterator[tuple[str, Part]]:
    """The rows' first column: "sw (Swahili)", "**low** (mean of 2)"; `averaged` are the languages of a mean."""
    names = telling_names(task["languages"])
    for scope, name, part in parts(task):
        if scope == "language":
            yield _language(name, names), part
        else:
            title = "all languages" if scope == "all" else escape(name)
            codes = averaged(part)
            yield f"**{title}**" + ("" if codes is None else f" (mean of {len(codes)})"), part


def _language(code: str, names: Mapping[str, str]) -> str:
    return escape(code if names[code] == code else f"{code} ({names[code]})")


def _utility_table(utility: Part, sides: Sequence[str]) -> str:
    rows = [["task", "language", "metric", *(f"value % {side}".strip() for side in sides)]]
    for name, languages in utility.items():
        names = telling_names(languages)
        for code, part in languages.items():
            found = on_each(sides, part)
            rows.append([escape(name), _language(code, names), escape(found[0]["metric"]), *map(_estimate, found)])
    return markdown(rows)


def terminal(results: Part) -> str:
    """Every task's languages, groups and mean with the rate that matters, in %, with 95 % intervals."""
    sides = sides_of(results)
    rows: list[tuple[str, ...]] = [("task", "language", "judged", "%", "95 %", "invalid %", "in its language %")]
    if len(sides) > 1:
        rows = [("task", "language", "pairs", "before", "after", "change, points", "95 %", "p (Holm)")]
    titles = short_names(results["tasks"])
    for name, task in results["tasks"].items():
        metric = HEADLINES[task["kind"]].metric
        head = one_line(f"{titles[name]} ({NAMES[metric]}, {task['judge']})")
        for scope, part_name, part in parts(task):
            where = part_name if scope == "language" else f"mean {part_name}"
            if len(sides) > 1:
                change, both = part["change"], (_plain(cell, metric) for cell in on_each(sides, part))
                points = (number(change["difference"], "+.1f"), interval(change, "+.1f"), p_value(change["p_holm"]))
                rows.append((head, where, str(part["n_paired"]), *both, *points))
            else:
                others = (_plain(part, other) for other in ("invalid", "fidelity"))
                rows.append((head, where, str(part["judged"]), _plain(part, metric), interval(part[metric]), *others))
            head = ""
    for name, languages in results.get("utility", {}).items():
        for code, part in languages.items():
            found = on_each(sides, part)
            counts = ", ".join(dict.fromkeys(str(cell["n"]) for cell in found))
            ends = [interval(part)] if len(sides) == 1 else []
            cells = (f"{name} (utility)", code, counts, *(number(cell["value"]) for cell in found), *ends)
            rows.append((*cells, *[""] * (len(rows[0]) - len(cells))))
    return aligned(rows, left=(0, 1))
