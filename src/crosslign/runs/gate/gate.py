"""`gate:` of a recipe: no training where the teacher context does not turn enough unsafe answers into safe ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate.utils import broadcast_object_list

from crosslign.runs import build
from crosslign.runs.config import GateConfig
from crosslign.evaluation.judges.base import Judge
from crosslign.runs.gate.rates import MIN_UNSAFE, Pair
from crosslign.runs.gate.request import judge_named
from crosslign.runs.gate.run import Announce, make_report, pair_row, pairs_of, queries_to_probe
from crosslign.runs.gate.table import report_text
from crosslign.types import CrosslignError


def check_gate(run: build.PreparedRun) -> Judge | None:
    """What can be checked without weights: judge and harmful rows. Returns the judge; None without a gate."""
    section = run.config.gate
    if section is None:
        return None
    judge = judge_named(section.judge, "gate.judge", section.judge_url, tested=[run.source.path])
    queries_to_probe(run, section.queries)
    return judge


def gate(run: build.PreparedRun, *, resume: bool = False, announce: Announce = lambda text: None) -> build.PreparedRun:
    """The run as it may be trained: its `gate` says what was measured, and dropped rows are out of the mixture.

    A resumed run is not measured again: it goes on without the rows that it dropped at the start. Every process of a
    distributed run measures, and the first one's result holds for all.

    Raises CrosslignError, with the table, if a language with at least `MIN_UNSAFE` unsafe student answers has a flip
    rate below the minimum. Nothing has been written then but the cache.
    """
    section, judge = run.config.gate, check_gate(run)
    if section is None or judge is None:
        return run
    if resume:
        dropped = run.folder.record().get("gate", {}).get("dropped", [])
        return build.without(run, [f"{row['id']}|{row['language']}" for row in dropped])
    queries, notes = queries_to_probe(run, section.queries)
    name = run.contexts.template.name
    announce = announce if run.arguments.process_index == 0 else lambda text: None
    announce("the teacher gate: sampling student and teacher context before training")
    pairs = pairs_of(run, {name: run.contexts}, queries, judge, announce)
    found = [_Outcome(run, section, judge, pairs[name], notes)]
    # One process' rounding must not give it another mixture than the others have.
    broadcast_object_list(found)
    outcome = found[0]
    text = report_text(outcome.report)
    if outcome.failed:
        raise CrosslignError(_refusal(section, outcome, text))
    announce(f"{text}\n{outcome.says()}")
    if section.drop == "drop":
        run = build.without(run, [f"{row['id']}|{row['language']}" for row in outcome.unsafe])
    return replace(run, gate=outcome.entry())


class _Outcome:
    """What the gate found, in plain data that can go from process to process."""

    def __init__(
        self, run: build.PreparedRun, section: GateConfig, judge: Judge, pairs: Sequence[Pair], notes: Sequence[str]
    ) -> None:
        self.section = section
        self.template = run.contexts.template.name
        self.report = make_report(run, section.queries, judge, {self.template: pairs}, notes)
        self.cells: dict[str, Any] = self.report["templates"][self.template]["languages"]
        self.failed = [
            code
            for code, cell in self.cells.items()
            if cell["flip"]["value"] is not None and cell["flip"]["value"] < 100 * section.min_flip_rate
        ]
        self.unrated = [code for code, cell in self.cells.items() if cell["flip"]["value"] is None]
        self.probed = sum(cell["harmful"] for cell in self.cells.values())
        self.unsafe = [
            pair_row(self.template, pair)
            for pair in pairs
            if pair.query.label == "harmful" and pair.teacher.verdict.outcome == "unsafe"
        ]

    def says(self) -> str:
        text = f"The teacher gate is passed: no flip rate is below {100 * self.section.min_flip_rate:.0f} %."
        if self.unrated:
            names = ", ".join(self.unrated)
            text += f" Not rated, so let through, with fewer than {MIN_UNSAFE} unsafe student answers: {names}."
        what = {"none": "", "list": "listed in gate.jsonl", "drop": "left out of training, and listed in gate.jsonl"}
        if what[self.section.drop]:
            text += (
                f" The teacher itself answers {len(self.unsafe)} of {self.probed} probed harmful queries unsafely: "
                f"{what[self.section.drop]}. Queries that were not probed stay as they are (gate.queries)."
            )
        return text

    def entry(self) -> build.Gate:
        """For the run's record and folder."""
        section, report = self.section, self.report
        dropped = self.unsafe if section.drop == "drop" else []
        record = {
            **section.model_dump(mode="json"),
            "passed": not self.failed,
            "unrated": self.unrated,
            "template": self.template,
            "judge": report["judge"],
            "probed": self.probed,
            "teacher_unsafe": len(self.unsafe),
            "dropped": [{"id": row["id"], "language": row["language"]} for row in dropped],
            "languages": self.cells,
            "notes": report["notes"],
        }
        return build.Gate(record, () if section.drop == "none" else tuple(self.unsafe))


def _refusal(section: GateConfig, outcome: _Outcome, text: str) -> str:
    below = ", ".join(f"{code} {outcome.cells[code]['flip']['value']:.0f} %" for code in outcome.failed)
    return (
        f"the teacher gate is not passed, so nothing was trained: flip rate below "
        f"{100 * section.min_flip_rate:.0f} % in {below}.\n\n{text}\n\n"
        "Find a better teacher template with `crosslign probe RECIPE --templates instruct,judged,dialogue`, leave "
        "these languages out, or lower gate.min_flip_rate."
    )
