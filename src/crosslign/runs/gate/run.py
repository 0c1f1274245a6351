"""A probe from a prepared run to its report and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crosslign.runs import build
from crosslign.contexts import ContextBuilder
from crosslign.evaluation.judges.base import Judge
from crosslign.storage import versions, write_atomically
from crosslign.runs.gate.measure import measure, release, untrained
from crosslign.runs.gate.rates import Answer, Pair, best, summary
from crosslign.runs.gate.request import (
    PAIRS,
    REPORT,
    ProbeRequest,
    check_out,
    require_harmful,
    select,
    too_few_rows,
    with_template,
)
from crosslign.runs.gate.table import verdict
from crosslign.types import Query

SCHEMA_VERSION = 1
Announce = Callable[[str], None]
Row = dict[str, Any]


def run_probe(run: build.PreparedRun, request: ProbeRequest, announce: Announce = lambda text: None) -> dict[str, Any]:
    """Probe, write the files, and return what `probe.json` holds (`table.report_text` shows it).

    Everything is checked before weights are loaded; see `rates` for what the numbers are.
    """
    queries, notes = queries_to_probe(run, request.queries)
    builders = {run.contexts.template.name: run.contexts}
    if request.templates is not None:
        builders = {
            name: build.context_builder(with_template(run.config, spec), run.tokenizer)
            for name, spec in request.templates.items()
        }
    check_out(request.out, request.overwrite)
    pairs = pairs_of(run, builders, queries, request.judge, announce)
    report = make_report(run, request.queries, request.judge, pairs, notes)
    if request.out is not None:
        rows = [pair_row(name, pair) for name, found in pairs.items() for pair in found]
        write_atomically(request.out / PAIRS, "".join(json.dumps(row) + "\n" for row in rows))
        write_atomically(request.out / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def queries_to_probe(run: build.PreparedRun, count: int) -> tuple[list[Query], list[str]]:
    """Harmful and benign queries of all the run's languages, and notes on what the tables lack.

    Raises CrosslignError if there is no harmful one.
    """
    languages = build.languages_of(run.config, run.tables)
    harmful = select(run.tables, languages, count, "harmful", run.config.seed)
    require_harmful(harmful)
    benign = select(run.tables, languages, count, "benign", run.config.seed)
    queries = [query for code in languages for query in (*harmful[code], *benign[code])]
    return queries, too_few_rows(harmful, benign, count)


def pairs_of(
    run: build.PreparedRun,
    builders: Mapping[str, ContextBuilder],
    queries: Sequence[Query],
    judge: Judge,
    announce: Announce,
) -> dict[str, list[Pair]]:
    """Load the model, measure, and let it go again."""

    def measured() -> dict[str, list[Pair]]:
        with untrained(run) as trainer:
            return measure(
                trainer,
                builders,
                queries,
                judge,
                batch_size=run.rollout_batch_size,
                drop_overflow=run.config.data.on_overflow == "drop",
            )

    announce(f"loading {run.source.path}")
    try:
        return measured()
    finally:
        release()


def make_report(
    run: build.PreparedRun, count: int, judge: Judge, pairs: Mapping[str, Sequence[Pair]], notes: Sequence[str]
) -> dict[str, Any]:
    config = run.config
    summaries = {name: summary(found, build.languages_of(config, run.tables)) for name, found in pairs.items()}
    chosen = best(summaries)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "probe",
        "model": {"path": run.source.path, "revision": run.source.revision},
        "data": [{"table": t.name, "rows": len(t.rows), "fingerprint": t.fingerprint()} for t in run.tables],
        "queries": count,
        "seed": config.seed,
        "judge": {"name": judge.name, **judge.identity()},
        "sampling": {"temperature": 0, "max_completion_length": config.sampling.max_completion_length},
        "objective": config.objective.model_dump(),
        "templates": summaries,
        "best": chosen,
        "verdict": verdict(summaries, chosen),
        "notes": list(notes),
        "versions": versions(),
    }


def pair_row(template: str, pair: Pair) -> Row:
    """A pair as JSON, with all that is needed to look at it."""
    query, score = pair.query, pair.score
    return {
        "id": query.id,
        "language": query.language,
        "label": query.label,
        "category": query.category,
        "query": query.text,
        "source_language": query.source_language,
        "source_query": query.source_text,
        "template": template,
        "student": _answer_row(pair.student),
        "teacher": {
            **_answer_row(pair.teacher),
            "judgement": pair.judgement,
            "fidelity": pair.fidelity.status,
            "detected": pair.fidelity.detected,
        },
        "flipped": pair.flipped,
        "spoiled": pair.spoiled,
        "divergence": None if score is None else score.divergence / score.tokens,
        "first_tokens": None if score is None else score.first_mass,
    }


def _answer_row(answer: Answer) -> Row:
    return {
        "completion": answer.completion,
        "truncated": answer.truncated,
        "outcome": answer.verdict.outcome,
        "reason": answer.verdict.reason,
    }
