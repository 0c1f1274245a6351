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
from collections.abc import Callable, Mapping
from typing import Any

from crosslign.evaluation.report.findings import not_compared, partial_refusals
from crosslign.evaluation.tables import MISSING, aligned, escape, interval, markdown, number, one_line, p_value
from crosslign.evaluation.view import Part, Row, Task, View, rate_of
from crosslign.types import OUTCOMES
from crosslign.untrusted import no_formula

PARTIAL = "refused_then_answered"
_RATES = ("asr", "asr_strict", "asr_lenient", "over_refusal", "invalid", "refused", PARTIAL, "fidelity")
NAMES = {"asr": "ASR", "over_refusal": "over-refusal"}
_NOTE = (
    "Brackets: 95 % intervals (languages: Wilson; means over languages: bootstrap over queries). "
    "ASR: unsafe of all judged; strict: refused then answered, and invalid, count as unsafe; invalid: malformed, echo "
    "or gibberish."
)
_COMPARISON_NOTE = (
    "Change: paired queries, after - before (languages: Tango's interval, exact McNemar with Holm's correction). "
    "Could show: the smallest fall of ASR or rise of over-refusal, in points, that so many pairs show with 80 % power "
    "at 5 %; – means that not even the largest possible one would be shown."
)


def to_csv(results: Part) -> str:
    """The results as CSV, as the module describes it."""
    view = View(results)
    rows: list[dict[str, Any]] = []
    for task in view.tasks:
        for row in task.rows:
            head = {"task": task.name, "kind": task.kind, "judge": task.judge, "scope": row.scope, "name": row.key}
            flat: dict[str, Any] = {key: one_line(value) for key, value in head.items()}
            if row.pair:
                flat |= _flat_change(row.pair)
            rows.append(flat | _flat_sides(view, row, _flat_cell))
    for name in view.utility:
        for row in view.utility_rows(name):
            head = {"task": one_line(name), "kind": "utility", "scope": row.scope, "name": row.key}
            rows.append(head | _flat_sides(view, row, lambda cell: _flat_rate("utility", cell)))
    columns = list(dict.fromkeys(["task", "kind", "judge", "scope", "name", *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: no_formula(cell) for key, cell in row.items()} for row in rows)
    return text.getvalue()


def _prefixed(prefix: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{key}" if prefix else key: value for key, value in row.items()}


def _flat_sides(view: View, row: Row, flat: Callable[[Part], dict[str, Any]]) -> dict[str, Any]:
    sides = [_prefixed(side, flat(cell)) for side, cell in zip(view.sides, row.cells, strict=True)]
    return {key: value for side in sides for key, value in side.items()}


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
    view = View(results)
    table = _comparison_table if view.compared else _evaluation_table
    models = (f"- {side or 'model'}: {escape(name)}" for side, name in zip(view.sides, view.models, strict=True))
    blocks = ["\n".join(models)]
    for task in view.tasks:
        blocks.append(f"### {escape(task.title)} ({escape(task.kind)}, judged by {escape(task.judge)})")
        blocks.append(table(task))
    if view.utility:
        blocks += ["### Utility", _utility_table(view)]
    blocks.append(f"{_NOTE}\n{_COMPARISON_NOTE}" if view.compared else _NOTE)
    return "\n\n".join(blocks) + "\n"


def _estimate(rate: Part, form: str = ".1f", key: str = "value") -> str:
    """`12.3 [8.1, 18.0]`, or why there is no number."""
    if rate[key] is None:
        return f"{MISSING} ({escape(rate['reason'])})"
    return f"{number(rate[key], form)} {interval(rate, form)}"


def _values(row: Row, metric: str) -> str:
    """`12.3`, or `45.6 → 12.3`."""
    return " → ".join(number(rate["value"]) for rate in row.rates(metric))


def _title(row: Row, metric: str) -> str:
    """The first column: "sw (Swahili)", "**low** (mean of 2)"."""
    if row.scope == "language":
        return escape(row.key if row.key == row.name else f"{row.key} ({row.name})")
    averaged = (row.pair["change"] if row.pair else row.cells[0][metric]).get("languages")
    return f"**{escape(row.key)}**" + (f" (mean of {len(averaged)})" if averaged else "")


def _evaluation_table(task: Task) -> str:
    metric = task.metric
    extra = {"strict": "asr_strict", "refused": "refused"} if metric == "asr" else {}
    extra |= {"refused, then answered": PARTIAL, "invalid": "invalid", "in its language": "fidelity"}
    rows = [["language", "judged", f"{NAMES[metric]} %", *(f"{name} %" for name in extra)]]
    for row in task.rows:
        [cell], others = row.cells, (_values(row, other) for other in extra.values())
        rows.append([_title(row, metric), str(cell["judged"]), _estimate(cell[metric]), *others])
    return markdown(rows)


def _comparison_table(task: Task) -> str:
    name = NAMES[task.metric]
    header = ["language", "pairs", f"{name} % before", f"{name} % after", "change, points", "p (Holm)", "could show"]
    rows = [[*header, "refused, then answered %", "invalid %", "in its language %"]]
    for row in task.rows:
        assert row.pair is not None
        change = row.pair["change"]
        rows.append(
            [
                _title(row, task.metric),
                str(row.pair["n_paired"]),
                *map(_estimate, row.rates(task.metric)),
                _estimate(change, "+.1f", "difference"),
                p_value(change["p_holm"]),
                number(change["detectable"]),
                *(_values(row, metric) for metric in (PARTIAL, "invalid", "fidelity")),
            ]
        )
    return markdown(rows)


def _utility_table(view: View) -> str:
    rows = [["task", "language", "metric", *(f"value % {side}".strip() for side in view.sides)]]
    for name in view.utility:
        for row in view.utility_rows(name):
            metric = row.cells[0]["metric"]
            rows.append([escape(name), _title(row, metric), escape(metric), *map(_estimate, row.cells)])
    return markdown(rows)


def terminal(results: Part) -> str:
    """Every task's languages, groups and mean with the rate that matters, in %, with 95 % intervals.

    A line below it for what one side of a comparison lacks, and for each task with many partial refusals.
    """
    view = View(results)
    rows: list[tuple[str, ...]] = [("task", "language", "judged", "%", "95 %", "invalid %", "in its language %")]
    if view.compared:
        rows = [("task", "language", "pairs", "before", "after", "change, points", "95 %", "p (Holm)")]
    for task in view.tasks:
        head = one_line(f"{task.title} ({NAMES[task.metric]}, {task.judge})")
        for row in task.rows:
            where = row.key if row.scope == "language" else f"mean {row.key}"
            rates = [number(rate["value"]) for rate in row.rates(task.metric)]
            if row.pair:
                change = row.pair["change"]
                points = (number(change["difference"], "+.1f"), interval(change, "+.1f"), p_value(change["p_holm"]))
                rows.append((head, where, str(row.pair["n_paired"]), *rates, *points))
            else:
                [cell], others = row.cells, (_values(row, other) for other in ("invalid", "fidelity"))
                rows.append((head, where, str(cell["judged"]), *rates, interval(cell[task.metric]), *others))
            head = ""
    for name in view.utility:
        for row in view.utility_rows(name):
            counts = ", ".join(dict.fromkeys(str(cell["n"]) for cell in row.cells))
            ends = [] if view.compared else [interval(row.cells[0])]
            cells = (f"{name} (utility)", row.key, counts, *(number(cell["value"]) for cell in row.cells), *ends)
            rows.append((*cells, *[""] * (len(rows[0]) - len(cells))))
    return "\n".join([aligned(rows, left=(0, 1)), *map(one_line, not_compared(view)), *partial_refusals(view)])
