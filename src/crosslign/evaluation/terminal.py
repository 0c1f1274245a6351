"""Results as a short table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosslign.evaluation.rates import HEADLINES

Part = Mapping[str, Any]
NAMES = {"asr": "ASR", "over_refusal": "over-refusal"}
NOTHING = "-"


def terminal(results: Part) -> str:
    """Every task's languages, groups and mean with the rate that matters, in %, with 95 % intervals."""
    comparison = results["kind"] == "comparison"
    rows: list[Sequence[str]] = []
    for name, task in results["tasks"].items():
        metric = HEADLINES[task["kind"]].metric
        head = f"{_short(name)} ({NAMES[metric]}, {_short(task['judge'])})"
        for scope, part in _parts(task):
            rows.append((head, scope, *(_pair(part, metric) if comparison else _cell(part, metric))))
            head = ""
    if comparison:
        header = ("task", "language", "pairs", "before", "after", "change, points", "p (Holm)")
    else:
        header = ("task", "language", "judged", "%", "95 %", "invalid %", "in its language %")
    lines = [header, *rows]
    for name, languages in results.get("utility", {}).items():
        for code, part in languages.items():
            lines.append((f"{_short(name)} (utility)", code, *_utility(part)))
    width = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(text.ljust(width[i]) if i < 2 else text.rjust(width[i]) for i, text in enumerate(line)).rstrip()
        for line in lines
    )


def _parts(task: Part) -> Iterator[tuple[str, Part]]:
    yield from task["languages"].items()
    for name, part in task["groups"].items():
        yield f"mean {name}", part
    yield "mean all", task["all"]


def _cell(cell: Part, metric: str) -> tuple[str, ...]:
    rate = cell[metric]
    return (
        str(cell["judged"]),
        _number(rate.get("value")),
        _interval(rate),
        _number(cell["invalid"].get("value")),
        _number(cell["fidelity"]["rate"].get("value")),
    )


def _pair(pair: Part, metric: str) -> tuple[str, ...]:
    change = pair["change"]
    difference = _number(change["difference"], "+.1f")
    if change["difference"] is not None:
        difference += f" {_interval(change, '+.1f')}"
    p = change["p_holm"]
    return (
        str(pair["n_paired"]),
        _number(pair["before"][metric].get("value")),
        _number(pair["after"][metric].get("value")),
        difference,
        NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
    )


def _utility(part: Part) -> tuple[str, ...]:
    if "before" in part:
        sides = [part[side] for side in ("before", "after")]
        counts = str(sides[0]["n"]) if sides[0]["n"] == sides[1]["n"] else f"{sides[0]['n']}, {sides[1]['n']}"
        return (counts, *(_number(side["value"]) for side in sides), NOTHING, NOTHING)
    return (str(part["n"]), _number(part["value"]), _interval(part), NOTHING, NOTHING)


def _number(value: float | None, form: str = ".1f") -> str:
    return NOTHING if value is None else format(value, form)


def _interval(rate: Part, form: str = ".1f") -> str:
    if rate.get("low") is None:
        return NOTHING
    return f"[{_number(rate['low'], form)}, {_number(rate['high'], form)}]"


def _short(text: str, most: int = 40) -> str:
    """A name on one line; of a long one the end, which is what differs between files."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= most else "..." + line[-most + 3 :]
