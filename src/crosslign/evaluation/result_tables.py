"""Results (`evaluation.results`) as flat CSV for a spreadsheet and as Markdown for a model card. Rates in %.

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
from crosslign.evaluation.tables import MISSING, escape, interval, markdown, number, one_line, p_value, short_names
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


def _flat_rate(name: str, rate: Part) -> dict[str, Any]:
    return {name: rate.get("value"), **{f"{name}_{key}": rate.get(key) for key in ("low", "high", "n")}}


def _flat_cell(cell: Part, prefix: str = "") -> dict[str, Any]:
    row = {"n": cell["n"], "judged": cell["judged"], "abstained": sum(cell["abstained"].values())}
    row |= {"truncated": cell["truncated"]}
    row |= {f"count_{outcome}": cell["outcomes"][outcome] for outcome in OUTCOMES}
    row |= {f"language_{status}": cell["fidelity"][status] for status in ("match", "other", "unknown")}
    for metric in _RATES:
        row |= _flat_rate(metric, rate_of(cell, metric))
    return {f"{prefix}{key}": value for key, value in row.items()}


def _flat_pair(pair: Part) -> dict[str, Any]:
    change = {key: value for key, value in pair["change"].items() if key not in ("languages", "reason")}
    return {
        "n_paired": pair["n_paired"],
        **{f"unpaired_{key}": value for key, value in pair["unpaired"].items()},
        **{f"change_{key}": value for key, value in change.items()},
        **_flat_cell(pair["before"], "before_"),
        **_flat_cell(pair["after"], "after_"),
    }


def to_csv(results: Part) -> str:
    """The results as CSV, as the module describes it."""
    rows: list[dict[str, Any]] = []
    for name, task in results["tasks"].items():
        for scope, part_name, part in parts(task):
            head = {"task": name, "kind": task["kind"], "judge": task["judge"], "scope": scope, "name": part_name}
            head = {key: one_line(value) for key, value in head.items()}
            rows.append(head | (_flat_pair(part) if "change" in part else _flat_cell(part)))
    for name, languages in results.get("utility", {}).items():
        for code, part in languages.items():
            row: dict[str, Any] = {"task": one_line(name), "kind": "utility", "scope": "language", "name": code}
            for prefix, side in _sides(part):
                row |= _flat_rate(f"{prefix}utility", side)
            rows.append(row)
    columns = list(dict.fromkeys(["task", "kind", "judge", "scope", "name", *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _sides(part: Part) -> list[tuple[str, Part]]:
    """A utility's content with its prefix: one, or before and after."""
    if "before" in part or "after" in part:
        return [(f"{side}_", part[side]) for side in ("before", "after") if side in part]
    return [("", part)]


def _estimate(rate: Part, form: str = ".1f", key: str = "value") -> str:
    """`12.3 [8.1, 18.0]`, or why there is no number."""
    if rate.get(key) is None:
        return f"{MISSING} ({escape(rate['reason'])})" if "reason" in rate else MISSING
    return number(rate[key], form) + (f" {interval(rate, form)}" if rate.get("low") is not None else "")


def _plain(cell: Part, metric: str) -> str:
    return number(rate_of(cell, metric).get("value"))


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


def _utility_table(utility: Part, comparison: bool) -> str:
    sides = ["before_", "after_"] if comparison else [""]
    rows = [["task", "language", "metric", *(f"value % {side.rstrip('_')}".strip() for side in sides)]]
    for name, languages in utility.items():
        names = telling_names(languages)
        for code, part in languages.items():
            there = dict(_sides(part))
            metric = next((side["metric"] for side in there.values() if "metric" in side), MISSING)
            values = [_estimate(there.get(side, {})) for side in sides]
            rows.append([escape(name), _language(code, names), escape(metric), *values])
    return markdown(rows)


def model_names(results: Part) -> list[str]:
    """The model, "org/model with my-run", of an evaluation; that before and that after of a comparison."""
    manifest = results["manifest"]
    sides = [manifest["before"], manifest["after"]] if results["kind"] == "comparison" else [manifest]
    named = [[str(side[key]) for key in ("model", "adapter") if side.get(key)] for side in sides]
    short = short_names(name for names in named for name in names)
    return [" with ".join(short[name] for name in names) or "a model" for names in named]


def to_markdown(results: Part) -> str:
    """A table for each task, for a model card: before and after with intervals if the results are a comparison."""
    comparison = results["kind"] == "comparison"
    sides = ("before", "after") if comparison else ("model",)
    blocks = ["\n".join(f"- {side}: {escape(name)}" for side, name in zip(sides, model_names(results), strict=True))]
    titles = short_names(results["tasks"])
    for name, task in results["tasks"].items():
        metric = HEADLINES[task["kind"]].metric
        blocks.append(f"### {escape(titles[name])} ({escape(task['kind'])}, judged by {escape(task['judge'])})")
        blocks.append(_comparison_table(task, metric) if comparison else _evaluation_table(task, metric))
    if results.get("utility"):
        blocks += ["### Utility", _utility_table(results["utility"], comparison)]
    blocks.append(f"{_NOTE}\n{_COMPARISON_NOTE}" if comparison else _NOTE)
    return "\n\n".join(blocks) + "\n"
