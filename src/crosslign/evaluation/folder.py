"""Finished evaluations: read back, compared, and reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, ValidationError

from crosslign.evaluation.completions import is_completion, query_of
from crosslign.evaluation.rates import JudgedRow, Kind
from crosslign.evaluation.report import Transcript, write_report
from crosslign.evaluation.results import SCHEMA_VERSION, comparison_task, evaluation_task
from crosslign.evaluation.stages import (
    ANSWERS,
    COMPLETIONS,
    FIDELITY,
    REPORT,
    RESULTS,
    folder_name,
    is_fidelity,
    is_verdict,
    verdict_of,
    verdicts_name,
    write_results,
)
from crosslign.evaluation.stats import wilson
from crosslign.ownership import check_no_link, check_output_folder, read_mark
from crosslign.storage import Row, RowFile, key_of, read_rows
from crosslign.types import CrosslignError
from crosslign.untrusted import read_json


@dataclass(frozen=True)
class Finished:
    """An evaluation's folder.

    Fields:
        results: counted from the rows.
        tasks: the judged rows of each task by query key.
        notes: sentences for a person: what was changed by hand.
    """

    path: Path
    results: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, JudgedRow]]
    notes: tuple[str, ...] = ()


def check_folder(path: Path, kind: Literal["evaluation", "comparison"]) -> None:
    """Raise CrosslignError unless results of this kind may be written here: nothing of another origin is touched."""
    found = read_mark(path / RESULTS)
    known = found.get("kind") == kind and "schema_version" in found
    if not found and kind == "evaluation":  # an interrupted one has no results yet, or a damaged file
        known = any(read_mark(side) for side in path.glob(f"*/{COMPLETIONS}.identity.json"))
    check_output_folder(path, kind, known)
    check_no_link(*path.glob("*"))


def read_folder(path: Path) -> Finished:
    """A finished evaluation; counts from the rows of the stages; what `results.json` says of them is only compared.

    Raises CrosslignError if the folder holds no finished evaluation of ours, or rows are missing that were counted.
    """
    results = _read_results(path)
    manifest, counted, tasks = dict(results["manifest"]), {}, {}
    judge, *others = manifest["judges"]
    files: list[RowFile] = []
    for data_name in manifest["tasks"]:
        own = _stage_files(path / folder_name(data_name), manifest["judges"])
        files += own
        judged, *also = _judged_rows(own)
        for kind in get_args(Kind):
            rows = {key: row for key, row in judged.items() if row.query.label == kind}
            if not rows:
                continue
            name = data_name if results["tasks"].get(data_name, {}).get("kind") == kind else f"{data_name} {kind}"
            seen = {o: [by[key] for key in rows if key in by] for o, by in zip(others, also, strict=True)}
            tasks[name] = rows
            counted[name] = evaluation_task(
                list(rows.values()), kind, judge, manifest["groups"], manifest["seed"], seen
            )
    for name, task in results["tasks"].items():
        number, expected = len(tasks.get(name, ())), task["all"]["n"]
        if number < expected:
            bad = [f"{file.path}, line {line} is no row of its stage" for file in files for line in file.bad_lines()]
            raise CrosslignError(
                f"{path}: {name!r} has {number} judged rows, but its results count {expected}: "
                f"{(*bad, 'files of a stage are missing')[0]}. Run crosslign eval again; it makes only what is missing."
            )
    edited = [str(file.path.relative_to(path)) for file in files if file.is_edited()]
    notes = [
        f"{path / name}: was changed after crosslign had finished it; what stands there now is counted. To have it "
        "made anew, delete it and run crosslign eval again."
        for name in edited
    ]
    utility = _utility(path, results.get("utility", {}))
    if _rounded([counted, utility]) != _rounded([results["tasks"], results.get("utility", {})]):
        notes.append(
            f"{path / RESULTS}: says other numbers than the rows of its stages, which are counted here. Run crosslign "
            "eval again to have it written anew."
        )
    manifest.pop("edited", None)
    if edited:
        manifest["edited"] = edited
    shown = {**results, "manifest": manifest, "tasks": counted}
    return Finished(path, {**shown, "utility": utility} if utility else shown, tasks, tuple(notes))


def _stage_files(folder: Path, judges: Iterable[str]) -> list[RowFile]:
    """Of a task: the completions, their languages, and each judge's verdicts."""
    return [
        RowFile(folder / COMPLETIONS, {}, valid=is_completion),
        RowFile(folder / FIDELITY, {}, valid=is_fidelity),
        *(RowFile(folder / verdicts_name(judge), {}, valid=is_verdict) for judge in judges),
    ]


def _judged_rows(files: Sequence[RowFile]) -> list[dict[str, JudgedRow]]:
    """Of each judge, by query key: the rows that all stages have."""
    rows, spoken, *verdicts = ({key_of(row): row for row in file.read()} for file in files)
    return [
        {key: _judged_row(rows[key], said[key], spoken[key]) for key in rows if key in said and key in spoken}
        for said in verdicts
    ]


def _utility(path: Path, stated: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Utility as the answers give it, where they are there."""
    correct: dict[tuple[Any, Any], list[bool]] = {}
    for row in read_rows(path / ANSWERS):
        correct.setdefault((str(row.get("task")), str(row.get("language"))), []).append(row.get("correct") is True)
    return {
        name: {
            code: {**cell, **wilson(sum(found), len(found)).percent(), "n": len(found)}
            if (found := correct.get((name, code)))
            else cell
            for code, cell in languages.items()
        }
        for name, languages in stated.items()
    }


def _rounded(tasks: Any) -> Any:
    """As JSON gives it back, without the digits in which two machines may differ."""
    return json.loads(json.dumps(tasks), parse_float=lambda text: round(float(text), 6))


def _read_results(path: Path) -> dict[str, Any]:
    """What `results.json` holds, as far as anything here relies on it."""
    try:
        results = read_json(path / RESULTS, "FILE_MB")
    except CrosslignError as error:
        raise CrosslignError(
            f"{path}: holds no finished evaluation ({error}). Run crosslign eval into it; an interrupted one goes on "
            "where it stopped."
        ) from error
    kind, version = results.get("kind"), results.get("schema_version")
    if kind == "comparison":
        raise CrosslignError(f"{path}: is a comparison; crosslign compare writes its page with its results.")
    if kind != "evaluation" or version != SCHEMA_VERSION:
        raise CrosslignError(
            f"{path / RESULTS}: is {kind!s:.40} of schema {version!s:.40}, not an evaluation of schema "
            f"{SCHEMA_VERSION}. Run crosslign eval into the folder again; it keeps the completions."
        )
    try:
        _Results.model_validate(results, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))[:200]
        raise CrosslignError(
            f"{path / RESULTS}: is damaged ({place}: {first['msg']}). Run crosslign eval again to have it written anew."
        ) from error
    return results


class _Count(BaseModel):
    n: NonNegativeInt


class _Task(BaseModel):
    kind: Kind
    judge: str
    all: _Count


class _Manifest(BaseModel):
    tasks: dict[str, Any] = Field(min_length=1)
    judges: dict[str, dict[str, Any]] = Field(min_length=1)
    groups: dict[str, list[str]]
    seed: NonNegativeInt


class _Ability(BaseModel):
    metric: str
    value: FiniteFloat | None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    n: NonNegativeInt


class _Results(BaseModel):
    manifest: _Manifest
    tasks: dict[str, _Task] = Field(min_length=1)
    utility: dict[str, dict[str, _Ability]] = {}


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

    Raises CrosslignError as `compared` does, or if `out` is one of the two or of another origin.
    """
    if out.resolve() in (before.path.resolve(), after.path.resolve()):
        raise CrosslignError(f"{out}: is one of the two evaluations. Choose another --out.")
    check_folder(out, "comparison")
    results = compared(before, after, seed)
    write_results(out, results)
    transcripts = [
        Transcript(name, (row, after.tasks[name][key]))
        for name in results["tasks"]
        for key, row in before.tasks[name].items()
    ]
    write_report(out / REPORT, results, transcripts)
    return results


def compared(before: Finished, after: Finished, seed: int = 0) -> dict[str, Any]:
    """What `results.json` of the comparison holds.

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
    sides = {"before": _has(before), "after": _has(after)}
    alone = {
        side: [name for name in names if any(name not in s for s in sides.values())] for side, names in sides.items()
    }
    if any(alone.values()):
        results["not_compared"] = alone
    return results


def _has(folder: Finished) -> list[str]:
    """What can be compared, by name: tasks, and utility in each language."""
    utility = folder.results.get("utility", {})
    return [*folder.results["tasks"], *(f"{name} ({code})" for name, codes in utility.items() for code in codes)]


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
