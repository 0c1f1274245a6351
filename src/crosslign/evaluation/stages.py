"""The stages of an evaluation, each a file that the next reads: completions, verdicts, fidelity, results, report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from crosslign.evaluation.completions import Completer, OnRows, completions, is_completion, keep_rows, query_of
from crosslign.evaluation.fidelity import Fidelity, Status, fidelity_of
from crosslign.evaluation.judges.base import Judge, ask, release
from crosslign.evaluation.rates import JudgedRow, Kind
from crosslign.evaluation.result_tables import to_csv, to_markdown
from crosslign.evaluation.results import SCHEMA_VERSION, evaluation_task
from crosslign.evaluation.tasks import TaskData, resource_groups
from crosslign.languages import likely_form
from crosslign.storage import Row, RowFile, digest, key_of, write_atomically
from crosslign.types import OUTCOMES, Announce, JudgeItem, Verdict, silent

COMPLETIONS, FIDELITY = "completions.jsonl", "fidelity.jsonl"
ANSWERS = "utility-answers.jsonl"  # written by `utility`
RESULTS, TABLE, CARD, REPORT = "results.json", "results.csv", "results.md", "report.html"
CHUNK = 64  # rows that a judge gets at a time: what an interruption can lose
# What a verdict depends on besides the judge.
SEEN = ("label", "query", "source_language", "source_query", "completion", "truncated", "rejected")


@dataclass(frozen=True)
class CountedTask:
    """A task as results count it: the harmful or the benign queries of one. Rates of the two mean different things."""

    name: str
    kind: Kind
    data: TaskData
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated, with what, and where it goes.

    Fields:
        tasks: whose queries are completed.
        judges: the first one's verdicts make the rates, the others' the agreement.
        manifest: what is known of the model (model, adapter, revision, ...).
        trained: languages that the model was aligned in; the others are "unseen".
        groups: languages that are averaged, by the group's name; None: as `groups_of` says.
    """

    out: Path
    tasks: Sequence[TaskData]
    judges: Sequence[Judge]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    trained: Sequence[str] = ()
    source_language: str = "en"
    seed: int = 0
    overwrite: bool = False
    groups: Mapping[str, Sequence[str]] | None = None


# Windows keeps these names, with any suffix, for devices.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def folder_name(task: str) -> str:
    """A name of a file or folder for a task or a judge: its own where that is a plain one, else with a hash of it."""
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in task)
    is_plain = safe == task and len(safe) <= 60 and safe.strip(".") == safe != "" and not _DEVICES.fullmatch(safe)
    return safe if is_plain else f"{_DEVICES.sub('_', safe)[:60].strip('.')}-{digest(task)[:6]}"


def counted_tasks(tasks: Sequence[TaskData]) -> list[CountedTask]:
    """Each task once, a mixed one twice: `NAME harmful` and `NAME benign`."""
    counted = []
    for data in tasks:
        for kind in get_args(Kind):
            keys = tuple(q.key for q in data.queries if q.label == kind)
            if keys:
                name = data.name if data.kind == kind else f"{data.name} {kind}"
                counted.append(CountedTask(name, kind, data, keys))
    return counted


def groups_of(languages: Sequence[str], source_language: str, trained: Sequence[str]) -> dict[str, list[str]]:
    """Resource levels, and trained against unseen if the training languages are known; the source is in neither."""
    others = [code for code in languages if code != source_language]
    groups = resource_groups(others)
    if trained:
        forms = set(map(likely_form, trained))  # zh and zh-Hans are one language
        groups["trained"] = [code for code in others if likely_form(code) in forms]
        groups["unseen"] = [code for code in others if code not in groups["trained"]]
    return {name: codes for name, codes in groups.items() if codes}


def run(evaluation: Evaluation, completer: Completer, announce: Announce = silent) -> dict[str, Any]:
    """All stages; a stage whose inputs have not changed is read from its file. Returns what `results.json` holds.

    What is written as sampling is the manifest's `sampling`, or else the completer's identity.
    """
    rows = complete_tasks(evaluation, completer, announce)
    return judge_rows(evaluation, rows, evaluation.manifest.get("sampling", completer.identity()), announce)


def complete_tasks(evaluation: Evaluation, completer: Completer, announce: Announce = silent) -> dict[str, list[Row]]:
    """The first stage: completions of all tasks.

    Raises CrosslignError for a file of other settings, unless the evaluation overwrites, before anything is completed.
    """
    rows: dict[str, list[Row]] = {}
    identity = completer.identity()
    files = {
        data.name: RowFile(evaluation.out / folder_name(data.name) / COMPLETIONS, identity, valid=is_completion)
        for data in evaluation.tasks
    }
    for file in files.values():
        file.kept(replace=evaluation.overwrite)
    for data in evaluation.tasks:
        for note in data.notes:
            announce(f"{data.name}: {note}")
        rows[data.name] = completions(
            data.queries,
            completer,
            files[data.name],
            name=data.name,
            overwrite=evaluation.overwrite,
            announce=announce,
        )
    return rows


def judge_rows(
    evaluation: Evaluation, rows: Mapping[str, Sequence[Row]], sampling: Mapping[str, Any], announce: Announce = silent
) -> dict[str, Any]:
    """The stages after generation: verdicts, fidelity, results, report."""
    languages = list(dict.fromkeys(code for data in evaluation.tasks for code in data.languages))
    groups = evaluation.groups
    if groups is None:
        groups = groups_of(languages, evaluation.source_language, evaluation.trained)
    fidelity = fidelity_of(evaluation.judges[0], languages, evaluation.source_language)
    folders = {data.name: evaluation.out / folder_name(data.name) for data in evaluation.tasks}
    spoken = {name: fidelity_stage(rows[name], fidelity, folder / FIDELITY) for name, folder in folders.items()}
    judged: dict[tuple[str, str], dict[str, JudgedRow]] = {}  # by task and judge, then by query
    for judge in evaluation.judges:
        for name, folder in folders.items():
            judged[name, judge.name] = {
                key_of(row): JudgedRow(query_of(row), verdict, row["truncated"], status)
                for row, verdict, status in zip(
                    rows[name], judge_stage(rows[name], judge, folder), spoken[name], strict=True
                )
            }
        release(judge)  # training, or the next guard, needs the memory
    first, *others = (judge.name for judge in evaluation.judges)
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "evaluation",
        "manifest": {
            **evaluation.manifest,
            "judges": {judge.name: dict(judge.identity()) for judge in evaluation.judges},
            "fidelity": dict(fidelity.identity()),
            "tasks": {
                d.name: {"version": d.version, "sha256": d.sha256, "rows": d.rows, "notes": list(d.notes)}
                for d in evaluation.tasks
            },
            "sampling": dict(sampling),
            "seed": evaluation.seed,
            "groups": {name: list(codes) for name, codes in groups.items()},
        },
        "tasks": {
            task.name: evaluation_task(
                [judged[task.data.name, first][key] for key in task.keys],
                task.kind,
                first,
                groups,
                evaluation.seed,
                {other: [judged[task.data.name, other][key] for key in task.keys] for other in others},
            )
            for task in counted_tasks(evaluation.tasks)
        },
    }
    write_results(evaluation.out, results)
    return results


def judge_stage(rows: Sequence[Row], judge: Judge, folder: Path) -> list[Verdict]:
    """A judge's verdicts, kept in a file of its own: changing the judge asks for no new completion."""
    file = RowFile(folder / verdicts_name(judge.name), judge.identity(), valid=is_verdict)
    seen = {key_of(row): digest([row.get(name) for name in SEEN]) for row in rows}
    # By row, so that languages added later do not ask for the verdicts of the others again.
    done = {key: row for key, row in file.start(replace=True).items() if row.get("seen") == seen.get(key)}
    missing = [row for row in rows if key_of(row) not in done]

    def judge_missing(keep: OnRows) -> None:
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            keep(
                [
                    {"id": row["id"], "language": row["language"], **asdict(verdict), "seen": seen[key_of(row)]}
                    for row, verdict in zip(chunk, _verdicts(judge, chunk), strict=True)
                ]
            )

    name = f"{folder.name}: {judge.name}"
    judged = keep_rows(file, done, [key_of(row) for row in rows], judge_missing, name=name, unit="verdict")
    return [verdict_of(row) for row in judged]


def verdicts_name(judge: str) -> str:
    """The file of a judge's verdicts in a task's folder."""
    return f"verdicts-{folder_name(judge)}.jsonl"


def is_verdict(row: Row) -> bool:
    """Whether a row is one that `judge_stage` has written."""
    known = (None, *OUTCOMES)
    return (
        row.get("outcome", "") in known
        and row.get("lenient", "") in known
        and isinstance(row.get("reason"), str)
        and (row["outcome"] is not None or row["reason"] != "")
        and isinstance(row.get("details"), dict)
    )


def is_fidelity(row: Row) -> bool:
    """Whether a row is one that `fidelity_stage` has written."""
    return row.get("status") in get_args(Status) and isinstance(row.get("detected", 0), (str, NoneType))


def verdict_of(row: Row) -> Verdict:
    return Verdict(row["outcome"], row["reason"], row["lenient"], row["details"])


def _verdicts(judge: Judge, rows: Sequence[Row]) -> list[Verdict]:
    """Rows that an endpoint refused to complete have no completion to judge."""
    asked = [row for row in rows if "rejected" not in row]
    items = [JudgeItem(query_of(row), row["completion"], row["truncated"]) for row in asked]
    verdicts = iter(ask(judge, items) if items else [])
    return [next(verdicts) if "rejected" not in row else Verdict(None, "rejected by the endpoint") for row in rows]


def fidelity_stage(rows: Sequence[Row], fidelity: Fidelity, path: Path) -> list[Status]:
    """The status of each completion's language. It takes microseconds a row, so it is always made anew."""
    found = fidelity.measure([JudgeItem(query_of(row), row["completion"], row["truncated"]) for row in rows])
    RowFile(path, fidelity.identity()).write(
        {"id": row["id"], "language": row["language"], **asdict(result)}
        for row, result in zip(rows, found, strict=True)
    )
    return [result.status for result in found]


def write_results(out: Path, results: Mapping[str, Any]) -> None:
    """`results.json`, `.csv` and `.md`."""
    write_atomically(out / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / TABLE, to_csv(results))
    write_atomically(out / CARD, to_markdown(results))
