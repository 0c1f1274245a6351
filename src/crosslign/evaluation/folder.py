"""Finished evaluations: read back, compared, and reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crosslign.evaluation.completions import query_of
from crosslign.evaluation.rates import JudgedRow
from crosslign.evaluation.report import Transcript, write_report
from crosslign.evaluation.results import SCHEMA_VERSION, comparison_task
from crosslign.evaluation.stages import COMPLETIONS, REPORT, RESULTS, folder_name, verdict_of, write_results
from crosslign.ownership import check_no_link, check_output_folder, read_mark
from crosslign.storage import Row, RowFile, key_of
from crosslign.types import CrosslignError


@dataclass(frozen=True)
class Finished:
    """An evaluation's folder: its results, and the judged rows of each of their tasks by query key."""

    path: Path
    results: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, JudgedRow]]


def check_folder(path: Path, kind: Literal["evaluation", "comparison"]) -> None:
    """Raise CrosslignError unless results of this kind may be written here: nothing of another origin is touched."""
    found = read_mark(path / RESULTS)
    known = found.get("kind") == kind and "schema_version" in found
    if not (path / RESULTS).exists() and kind == "evaluation":
        # An interrupted one has no results yet.
        known = any(read_mark(side) for side in path.glob(f"*/{COMPLETIONS}.identity.json"))
    check_output_folder(path, kind, known)
    check_no_link(*path.glob("*"))


def read_folder(path: Path) -> Finished:
    """Raises CrosslignError if the folder holds no finished evaluation of ours, or a stage's rows are missing."""
    try:
        results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        kind, version = results["kind"], results["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CrosslignError(
            f"{path}: holds no finished evaluation ({RESULTS} is missing or damaged). Run crosslign eval into it; an "
            "interrupted one goes on where it stopped."
        ) from error
    if kind == "comparison":
        raise CrosslignError(f"{path}: is a comparison; crosslign compare writes its page with its results.")
    if kind != "evaluation" or version != SCHEMA_VERSION:
        raise CrosslignError(f"{path / RESULTS}: is a {kind} of schema {version}, not an evaluation of schema 1.")
    tasks: dict[str, dict[str, JudgedRow]] = {name: {} for name in results["tasks"]}
    for data_name in results["manifest"]["tasks"]:
        folder = path / folder_name(data_name)
        rows = list(RowFile(folder / COMPLETIONS, {}).read())
        mine = {n: t for n, t in results["tasks"].items() if n in (data_name, f"{data_name} {t['kind']}")}
        for name, task in mine.items():
            verdicts, fidelity = (
                {key_of(r): r for r in RowFile(folder / file, {}).read()}
                for file in (f"verdicts-{folder_name(task['judge'])}.jsonl", "fidelity.jsonl")
            )
            for row in rows:
                key = key_of(row)
                if row["label"] == task["kind"] and key in verdicts and key in fidelity:
                    tasks[name][key] = _judged_row(row, verdicts[key], fidelity[key])
    for name, judged in tasks.items():
        expected = results["tasks"][name]["all"]["n"]
        if len(judged) < expected:
            raise CrosslignError(
                f"{path}: {name} has {len(judged)} judged rows, but its results count {expected}: files of a stage "
                "are missing. Run crosslign eval again; it makes only what is missing."
            )
    return Finished(path, results, tasks)


def _judged_row(row: Row, verdict: Row, spoken: Row) -> JudgedRow:
    """From what each stage has written about one query."""
    judged = verdict_of(verdict)
    return JudgedRow(query_of(row), judged, row["truncated"], spoken["status"], row["completion"], spoken["detected"])


def report(folder: Finished) -> Path:
    """Write the evaluation's page; returns its path."""
    transcripts = [Transcript(name, (row,)) for name, rows in folder.tasks.items() for row in rows.values()]
    path = folder.path / REPORT
    write_report(path, folder.results, transcripts)
    return path


def compare(before: Finished, after: Finished, out: Path, seed: int = 0) -> dict[str, Any]:
    """Both evaluations' common tasks, paired by query; writes results and page into `out`.

    Raises CrosslignError if they have no task in common, were judged otherwise, or ask different queries.
    """
    common = [name for name in before.results["tasks"] if name in after.results["tasks"]]
    if not common:
        raise CrosslignError(
            f"{before.path} and {after.path} have no task in common: {', '.join(before.results['tasks'])} against "
            f"{', '.join(after.results['tasks'])}."
        )
    for name in common:
        judges = [f.results["tasks"][name]["judge"] for f in (before, after)]
        identities = [f.results["manifest"]["judges"][j] for f, j in zip((before, after), judges, strict=True)]
        if identities[0] != identities[1]:
            raise CrosslignError(
                f"{name}: was judged by {judges[0]} in {before.path} and by {judges[1]} in {after.path}, or by two "
                "states of one judge. Judge both with the same one: crosslign eval with --judge does not generate "
                "anew."
            )
    if out.resolve() in (before.path.resolve(), after.path.resolve()):
        raise CrosslignError(f"{out}: is one of the two evaluations. Choose another --out.")
    check_folder(out, "comparison")
    groups = after.results["manifest"]["groups"]
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "manifest": {"before": before.results["manifest"], "after": after.results["manifest"]},
        "tasks": {
            name: comparison_task(
                list(before.tasks[name].values()),
                list(after.tasks[name].values()),
                after.results["tasks"][name]["kind"],
                after.results["tasks"][name]["judge"],
                groups,
                seed,
            )
            for name in common
        },
    }
    shared = _shared_utility(before.results.get("utility", {}), after.results.get("utility", {}))
    if shared:
        results["utility"] = shared
    write_results(out, results)
    transcripts = [
        Transcript(name, (row, after.tasks[name][key])) for name in common for key, row in before.tasks[name].items()
    ]
    write_report(out / REPORT, results, transcripts)
    return results


def _shared_utility(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured on both sides."""
    both = {
        name: {
            code: {"before": cell, "after": after[name][code]}
            for code, cell in languages.items()
            if code in after.get(name, {})
        }
        for name, languages in before.items()
    }
    return {name: languages for name, languages in both.items() if languages}
