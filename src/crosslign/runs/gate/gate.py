"""`gate:` of a recipe: no training where the teacher context does not turn enough unsafe answers into safe ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from crosslign.runs.build import Distillation
from crosslign.runs.config import GateConfig
from crosslign.runs.gate.faults import counted, counts_text, emptied, faults, hopeless, is_dropped
from crosslign.runs.gate.measure import measure
from crosslign.runs.gate.queries import first_harmful, queries_to_probe
from crosslign.runs.gate.rates import MIN_UNSAFE, Pair
from crosslign.runs.gate.report import make_report, pair_row, report_text
from crosslign.runs.prepare import PreparedRun, trained_queries, without
from crosslign.storage import key_of
from crosslign.types import Announce, CrosslignError, Query, silent


@dataclass(frozen=True)
class Passed:
    """What a gate that was passed found.

    Fields:
        record: the entry `gate` of run.json.
        rows: for gate.jsonl: pairs whose teacher's answer has a fault.
    """

    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def gate(run: PreparedRun, made: Distillation, announce: Announce = silent) -> tuple[PreparedRun, Passed | None]:
    """Try the teacher on the run's queries, if the recipe wants that; the run as it may be trained, and what was found.

    Dropped rows are out of the run's mixture. Nothing is written but the cache. A resumed run is not measured again: it
    goes on without the rows that it dropped at the start. Every process of a distributed run measures, and the first
    one's answers hold for all: one process' rounding must not give it another mixture than the others have.

    Raises CrosslignError, after announcing the table, if a few queries show that there is no hope, if a language (but
    the source) with at least `MIN_UNSAFE` unsafe student answers has a flip rate below the minimum, or if no harmful
    row of a language would be left.
    """
    section, judge = run.config.gate, run.gate_judge
    if section is None or judge is None:
        return run, None
    if run.checkpoint is not None:
        return without(run, map(key_of, run.folder.record().get("gate", {}).get("dropped", []))), None
    # In the source language the teacher sees nothing that the student does not, so it need not be the better one.
    targets = [code for code in run.languages if code != run.config.data.source_language]
    queries, notes = queries_to_probe(run.tables, run.languages, section.queries, run.config.seed)
    name = run.contexts.template.name

    def tried(part: Sequence[Query]) -> list[Pair]:
        found = [measure(run, made, {name: run.contexts}, part, judge)[name] if part else []]
        broadcast_object_list(found)
        made.collector.teacher.cache.exchange(gather_object, writes=run.is_main)
        return found[0]

    few = {query.key: query for query in first_harmful(queries, section.probe)}
    announce(
        f"the teacher gate: student and teacher answer {len(queries)} queries, {len(few)} of them first, as a probe"
    )
    pairs = tried(list(few.values()))
    if reasons := hopeless(pairs, targets, section.min_flip_rate):
        announce(report_text(make_report(run, section.probe, judge, {name: pairs}, [])))
        raise _closed(f"the teacher gate's probe shows no hope: {'; '.join(reasons)}", "skip the probe (gate.probe: 0)")
    pairs += tried([query for query in queries if query.key not in few])
    report = make_report(run, section.queries, judge, {name: pairs}, notes)
    cells = report["templates"][name]["languages"]
    rates = {code: cells[code]["flip"]["value"] for code in targets if code in cells}
    rows = counted(pairs, trained_queries(run.tables, run.languages), run.languages, section.drop)
    announce(f"{report_text(report)}\n\n{counts_text(rows)}")
    least = 100 * section.min_flip_rate
    if below := [f"{code} {rate:.0f} %" for code, rate in rates.items() if rate is not None and rate < least]:
        why = f"the teacher gate is not passed: flip rate below {least:.0f} % in {', '.join(below)}"
        raise _closed(why, "lower gate.min_flip_rate")
    if gone := emptied(rows):
        why = (
            f"the teacher gate would drop every harmful row in {', '.join(gone)} (gate.drop: {', '.join(section.drop)})"
        )
        raise _closed(why, "take a value out of gate.drop")
    unrated = [code for code, rate in rates.items() if rate is None]
    announce(_says(section, unrated))
    faulty = [
        {**pair_row(name, pair), "faults": faults(pair), "dropped": is_dropped(pair, section.drop)}
        for pair in pairs
        if faults(pair)
    ]
    dropped = [{key: row[key] for key in ("id", "language", "label", "faults")} for row in faulty if row["dropped"]]
    record = {
        **section.model_dump(mode="json"),
        "passed": True,
        "unrated": unrated,
        "template": name,
        "judge": report["judge"],
        "rows": rows,
        "dropped": dropped,
        "languages": cells,
        "notes": report["notes"],
    }
    return without(run, map(key_of, dropped)), Passed(record, faulty)


def _says(section: GateConfig, unrated: Sequence[str]) -> str:
    text = f"The teacher gate is passed: no flip rate is below {100 * section.min_flip_rate:.0f} %."
    if unrated:
        names = ", ".join(unrated)
        text += f" Not rated, so let through, with fewer than {MIN_UNSAFE} unsafe student answers: {names}."
    if section.drop:
        text += f" Rows whose teacher's answer is {', '.join(section.drop)} are left out of training (gate.drop)."
    return f"{text} gate.jsonl lists every row with such an answer. Rows that were not tried stay (gate.queries)."


def _closed(why: str, otherwise: str) -> CrosslignError:
    return CrosslignError(
        f"{why}, so nothing was trained. Find a better teacher template with `crosslign probe RECIPE --templates "
        f"instruct,judged,dialogue`, leave these languages out of data.languages, or {otherwise}."
    )
