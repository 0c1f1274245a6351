"""Results (`evaluation.results`) as flat CSV for a spreadsheet and as Markdown for a model card. Rates in %.

CSV: one row for each task and language, group or all languages, by the columns task, kind, judge, scope ("language",
"group", "all"), name; then CELL flattened, `asr, asr_low, asr_high, asr_n` and so on, twice with the prefixes `before_`
and `after_` in a comparison, followed by its `change_...` columns. Utility tasks have the kind "utility" and
`utility, utility_low, utility_high, utility_n`. What is missing is empty, never 0.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosslign.languages import english_name, is_language
from crosslign.types import OUTCOMES

Part = Mapping[str, Any]

_RATES = ("asr", "asr_strict", "asr_lenient", "over_refusal", "invalid", "refused", "fidelity")
_NAMES = {"asr": "ASR", "over_refusal": "over-refusal"}
_MISSING = "–"
_NOTE = (
    "Brackets: 95 % intervals (languages: Wilson; means over languages: bootstrap over queries). "
    "ASR: unsafe of all judged; strict: invalid counts as unsafe; invalid: malformed, echo or gibberish."
)
_COMPARISON_NOTE = (
    "Change: paired queries, after - before (languages: Tango's interval, exact McNemar with Holm's correction). "
    "Could show: the smallest fall of ASR or rise of over-refusal, in points, that so many pairs show with 80 % power "
    "at 5 %; – means that not even the largest possible one would be shown."
)


def _parts(task: Part) -> Iterator[tuple[str, str, Part]]:
    """Scope, name and content of every row of a task's table."""
    for code, part in task["languages"].items():
        yield "language", code, part
    for name, part in task["groups"].items():
        yield "group", name, part
    yield "all", "all", task["all"]


def _rate_of(cell: Part, metric: str) -> Part:
    return cell["fidelity"]["rate"] if metric == "fidelity" else cell.get(metric, {})


def _flat_rate(name: str, rate: Part) -> dict[str, Any]:
    return {name: rate.get("value"), **{f"{name}_{key}": rate.get(key) for key in ("low", "high", "n")}}


def _flat_cell(cell: Part, prefix: str = "") -> dict[str, Any]:
    row = {"n": cell["n"], "judged": cell["judged"], "abstained": sum(cell["abstained"].values())}
    row |= {"truncated": cell["truncated"]}
    row |= {f"count_{outcome}": cell["outcomes"][outcome] for outcome in OUTCOMES}
    row |= {f"language_{status}": cell["fidelity"][status] for status in ("match", "other", "unknown")}
    for metric in _RATES:
        row |= _flat_rate(metric, _rate_of(cell, metric))
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
        for scope, part_name, part in _parts(task):
            head = {"task": name, "kind": task["kind"], "judge": task["judge"], "scope": scope, "name": part_name}
            head = {key: _one_line(value) for key, value in head.items()}
            rows.append(head | (_flat_pair(part) if "change" in part else _flat_cell(part)))
    for name, languages in results.get("utility", {}).items():
        for code, part in languages.items():
            row: dict[str, Any] = {"task": _one_line(name), "kind": "utility", "scope": "language", "name": code}
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


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def escape(text: object) -> str:
    """Text that Markdown shows as it is, within one cell of a table."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", _one_line(text)).replace("&", "&amp;").replace("<", "&lt;")


def _number(value: float | None, form: str = ".1f") -> str:
    if value is None:
        return _MISSING
    text = format(value, form)
    return text.replace("-0.0", "0.0").replace("+0.0", "0.0") if float(text) == 0 else text


def _interval(rate: Part, form: str = ".1f", key: str = "value") -> str:
    """`12.3 [8.1, 18.0]`, or why there is no number."""
    if rate.get(key) is None:
        return f"{_MISSING} ({escape(rate['reason'])})" if "reason" in rate else _MISSING
    if rate.get("low") is None:
        return _number(rate[key], form)
    return f"{_number(rate[key], form)} [{_number(rate['low'], form)}, {_number(rate['high'], form)}]"


def _plain(cell: Part, metric: str) -> str:
    return _number(_rate_of(cell, metric).get("value"))


def _both(pair: Part, metric: str) -> str:
    return f"{_plain(pair['before'], metric)} → {_plain(pair['after'], metric)}"


def _p(value: float | None) -> str:
    if value is None:
        return _MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _title(scope: str, name: str, averaged: Sequence[str] | None) -> str:
    if scope == "language":
        return f"{escape(name)} ({escape(english_name(name))})" if is_language(name) else escape(name)
    title = "all languages" if scope == "all" else escape(name)
    return f"**{title}**" + ("" if averaged is None else f" (mean of {len(averaged)})")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in [header, rule, *rows]] + [""]


def _evaluation_table(task: Part, metric: str) -> list[str]:
    extra = {"strict": "asr_strict"} if metric == "asr" else {}
    extra |= {"invalid": "invalid", "refused": "refused"} if metric == "asr" else {"invalid": "invalid"}
    extra |= {"in its language": "fidelity"}
    header = ["language", "judged", f"{_NAMES[metric]} %", *(f"{name} %" for name in extra)]
    rows = [
        [
            _title(scope, name, cell[metric].get("languages")),
            str(cell["judged"]),
            _interval(cell[metric]),
            *(_plain(cell, other) for other in extra.values()),
        ]
        for scope, name, cell in _parts(task)
    ]
    return _table(header, rows)


def _comparison_table(task: Part, metric: str) -> list[str]:
    name = _NAMES[metric]
    header = ["language", "pairs", f"{name} % before", f"{name} % after", "change, points", "p (Holm)", "could show"]
    header += ["invalid %", "in its language %"]
    rows = [
        [
            _title(scope, part_name, pair["change"].get("languages")),
            str(pair["n_paired"]),
            _interval(pair["before"][metric]),
            _interval(pair["after"][metric]),
            _interval(pair["change"], "+.1f", "difference"),
            _p(pair["change"]["p_holm"]),
            _number(pair["change"]["detectable"]),
            _both(pair, "invalid"),
            _both(pair, "fidelity"),
        ]
        for scope, part_name, pair in _parts(task)
    ]
    return _table(header, rows)


def _utility_table(utility: Part, comparison: bool) -> list[str]:
    sides = ["before_", "after_"] if comparison else [""]
    header = ["task", "language", "metric", *(f"value % {side.rstrip('_')}".strip() for side in sides)]
    rows = []
    for name, languages in utility.items():
        for code, part in languages.items():
            there = dict(_sides(part))
            metric = next((side["metric"] for side in there.values() if "metric" in side), _MISSING)
            values = [_interval(there.get(side, {})) for side in sides]
            rows.append([escape(name), _title("language", code, None), escape(metric), *values])
    return _table(header, rows)


def _model(manifest: Part) -> str:
    adapter = manifest.get("adapter")
    return escape(manifest.get("model", "?")) + (f" with adapter {escape(adapter)}" if adapter else "")


def to_markdown(results: Part) -> str:
    """A table for each task, for a model card: before and after with intervals if the results are a comparison."""
    comparison = results["kind"] == "comparison"
    manifest = results.get("manifest", {})
    if comparison:
        lines = [f"- {side}: {_model(manifest.get(side, {}))}" for side in ("before", "after")]
    else:
        lines = [f"- model: {_model(manifest)}"]
    lines.append("")
    for name, task in results["tasks"].items():
        metric = "asr" if task["kind"] == "harmful" else "over_refusal"
        lines += [f"### {escape(name)} ({escape(task['kind'])}, judged by {escape(task['judge'])})", ""]
        lines += _comparison_table(task, metric) if comparison else _evaluation_table(task, metric)
    if results.get("utility"):
        lines += ["### Utility", "", *_utility_table(results["utility"], comparison)]
    lines.append(_NOTE)
    if comparison:
        lines.append(_COMPARISON_NOTE)
    return "\n".join(lines) + "\n"
