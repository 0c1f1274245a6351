"""`gate:` of a recipe: no training where the teacher context does not turn enough unsafe answers into safe ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import broadcast_object_list

from crosslign.runs.build import Distillation
from crosslign.runs.config import GateConfig
from crosslign.runs.gate.measure import measure
from crosslign.runs.gate.queries import queries_to_probe
from crosslign.runs.gate.rates import MIN_UNSAFE, UNSAFE
from crosslign.runs.gate.report import make_report, pair_row, report_text
from crosslign.runs.prepare import PreparedRun, without
from crosslign.storage import key_of
from crosslign.types import Announce, CrosslignError, silent


@dataclass(frozen=True)
class Passed:
    """What a gate that was passed found.

    Fields:
        record: the entry `gate` of run.json.
        rows: for gate.jsonl: pairs whose teacher answers unsafely, if the recipe wants them listed or dropped.
    """

    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def gate(run: PreparedRun, made: Distillation, announce: Announce = silent) -> tuple[PreparedRun, Passed | None]:
    """Try the teacher on the run's queries, if the recipe wants that; the run as it may be trained, and what was found.

    Dropped rows are out of the run's mixture. Nothing is written but the cache. A resumed run is not measured again: it
    goes on without the rows that it dropped at the start. Every process of a distributed run measures, and the first
    one's result holds for all: one process' rounding must not give it another mixture than the others have.

    Raises CrosslignError, with the table, if a language with at least `MIN_UNSAFE` unsafe student answers has a flip
    rate below the minimum.
    """
    section, judge = run.config.gate, run.gate_judge
    if section is None or judge is None:
        return run, None
    if run.checkpoint is not None:
        return without(run, map(key_of, run.folder.record().get("gate", {}).get("dropped", []))), None
    queries, notes = queries_to_probe(run.tables, run.languages, section.queries, run.config.seed)
    name = run.contexts.template.name
    announce("the teacher gate: sampling student and teacher context before training")
    pairs = measure(run, made, {name: run.contexts}, queries, judge)
    report = make_report(run, section.queries, judge, pairs, notes)
    unsafe = [
        pair_row(name, pair)
        for pair in pairs[name]
        if pair.query.label == "harmful" and pair.teacher.verdict.outcome in UNSAFE
    ]
    found = [(report, unsafe)]
    broadcast_object_list(found)
    report, unsafe = found[0]
    cells = report["templates"][name]["languages"]
    rates = {code: cell["flip"]["value"] for code, cell in cells.items()}
    below = {code: rate for code, rate in rates.items() if rate is not None and rate < 100 * section.min_flip_rate}
    if below:
        raise CrosslignError(_refusal(section, below, report_text(report)))
    unrated = [code for code, rate in rates.items() if rate is None]
    probed = sum(cell["harmful"] for cell in cells.values())
    announce(f"{report_text(report)}\n{_says(section, unrated, len(unsafe), probed)}")
    dropped = unsafe if section.drop == "drop" else []
    record = {
        **section.model_dump(mode="json"),
        "passed": True,
        "unrated": unrated,
        "template": name,
        "judge": report["judge"],
        "probed": probed,
        "teacher_unsafe": len(unsafe),
        "dropped": [{"id": row["id"], "language": row["language"]} for row in dropped],
        "languages": cells,
        "notes": report["notes"],
    }
    return without(run, map(key_of, dropped)), Passed(record, [] if section.drop == "none" else unsafe)


def _says(section: GateConfig, unrated: Sequence[str], unsafe: int, probed: int) -> str:
    text = f"The teacher gate is passed: no flip rate is below {100 * section.min_flip_rate:.0f} %."
    if unrated:
        names = ", ".join(unrated)
        text += f" Not rated, so let through, with fewer than {MIN_UNSAFE} unsafe student answers: {names}."
    what = {"none": "", "list": "listed in gate.jsonl", "drop": "left out of training, and listed in gate.jsonl"}
    if what[section.drop]:
        text += (
            f" The teacher itself answers {unsafe} of {probed} probed harmful queries unsafely: {what[section.drop]}. "
            "Queries that were not probed stay as they are (gate.queries)."
        )
    return text


def _refusal(section: GateConfig, below: Mapping[str, float], text: str) -> str:
    names = ", ".join(f"{code} {rate:.0f} %" for code, rate in below.items())
    return (
        f"the teacher gate is not passed, so nothing was trained: flip rate below "
        f"{100 * section.min_flip_rate:.0f} % in {names}.\n\n{text}\n\n"
        "Find a better teacher template with `crosslign probe RECIPE --templates instruct,judged,dialogue`, leave "
        "these languages out, or lower gate.min_flip_rate."
    )
