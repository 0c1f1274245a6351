"""Results as a short table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosslign.evaluation.rates import HEADLINES
from crosslign.evaluation.result_tables import NAMES, parts
from crosslign.evaluation.tables import aligned, interval, number, one_line, p_value, short_names

Part = Mapping[str, Any]


def terminal(results: Part) -> str:
    """Every task's languages, groups and mean with the rate that matters, in %, with 95 % intervals."""
    comparison = results["kind"] == "comparison"
    rows: list[tuple[str, ...]] = [("task", "language", "judged", "%", "95 %", "invalid %", "in its language %")]
    if comparison:
        rows = [("task", "language", "pairs", "before", "after", "change, points", "95 %", "p (Holm)")]
    titles = short_names(results["tasks"])
    for name, task in results["tasks"].items():
        metric = HEADLINES[task["kind"]].metric
        head = one_line(f"{titles[name]} ({NAMES[metric]}, {task['judge']})")
        for scope, part_name, part in parts(task):
            where = part_name if scope == "language" else f"mean {part_name}"
            rows.append((head, where, *(_pair(part, metric) if comparison else _cell(part, metric))))
            head = ""
    for name, languages in results.get("utility", {}).items():
        for code, part in languages.items():
            cells = _utility(part)
            rows.append((f"{name} (utility)", code, *cells, *[""] * (len(rows[0]) - 2 - len(cells))))
    return aligned(rows, left=(0, 1))


def _cell(cell: Part, metric: str) -> tuple[str, ...]:
    others = (cell["invalid"], cell["fidelity"]["rate"])
    return str(cell["judged"]), *_estimate(cell[metric]), *(number(rate["value"]) for rate in others)


def _pair(pair: Part, metric: str) -> tuple[str, ...]:
    change = pair["change"]
    return (
        str(pair["n_paired"]),
        *(number(pair[side][metric]["value"]) for side in ("before", "after")),
        number(change["difference"], "+.1f"),
        interval(change, "+.1f"),
        p_value(change["p_holm"]),
    )


def _utility(part: Part) -> tuple[str, ...]:
    if "before" not in part:
        return str(part["n"]), *_estimate(part)
    counts = dict.fromkeys(str(part[side]["n"]) for side in ("before", "after"))
    return ", ".join(counts), *(number(part[side]["value"]) for side in ("before", "after"))


def _estimate(rate: Part) -> tuple[str, str]:
    return number(rate["value"]), interval(rate)
