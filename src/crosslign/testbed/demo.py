"""`crosslign demo`: the experiment on one seed, in words and as `crosslign eval` and `compare` would have left it.

    report.txt                                                     what came out, in words
    evaluation/before/  evaluation/teacher/  evaluation/after/     an evaluation each: completions, verdicts, results
    evaluation/compared/                                           before and after: results.json, report.html

A page has two sides at most, so `crosslign compare evaluation/before evaluation/teacher --out DIR` shows the teacher.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosslign.evaluation.completions import OnRows, completion_row
from crosslign.evaluation.folder import check_folder, compare, read_folder
from crosslign.evaluation.stages import REPORT, Evaluation, run
from crosslign.evaluation.tasks import TaskData
from crosslign.evaluation.tasks.selection import fingerprint
from crosslign.ownership import check_output_folder, read_mark
from crosslign.rollouts import SamplingParameters
from crosslign.runs.folder import RunFolder
from crosslign.storage import digest, versions, write_atomically
from crosslign.testbed.cache import BaseSpec
from crosslign.testbed.evaluate import MAX_COMPLETION_LENGTH, Reply
from crosslign.testbed.experiment import MODEL, Alignment, Experiment, run_experiment
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.language import ENGLISH
from crosslign.testbed.report import report
from crosslign.testbed.tables import SETS, TableSizes
from crosslign.testbed.world import World
from crosslign.types import Announce, Query, silent

TEXT, MARK = "report.txt", "demo.json"
FOLDER, COMPARED = "evaluation", "compared"
STAGES = {
    "before": "the testbed's base model",
    "teacher": "the testbed's base model in the teacher's context",
    "after": "the testbed's aligned model",
}
GREEDY = SamplingParameters(temperature=0, max_completion_length=MAX_COMPLETION_LENGTH)


def run_demo(
    spec: BaseSpec,
    alignment: Alignment,
    output_dir: Path,
    *,
    tables: TableSizes | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    announce: Announce = silent,
) -> str:
    """`run_experiment`, then `report.txt` and the folders of `crosslign eval` in `output_dir`.

    Returns the text for a terminal, which ends with the path of the page that compares before and after.
    """
    check_folders(output_dir)
    if not (output_dir / MARK).exists():
        write_atomically(output_dir / MARK, json.dumps({"seed": spec.world.seed, "versions": versions()}) + "\n")
    experiment = run_experiment(
        spec, output_dir, tables=tables, alignment=alignment, cache=cache, overwrite=overwrite, announce=announce
    )
    text = report(experiment, spec.world, alignment.steps)
    write_atomically(output_dir / TEXT, f"{text}\n")
    page = write_folders(experiment, spec.world, alignment.steps)
    return (
        f"{text}\n\n{alignment.steps} steps in {experiment.seconds:.0f} s. This text: {output_dir / TEXT}\n"
        f"Every answer before and after, with intervals: {page}"
    )


@dataclass(frozen=True)
class Ready:
    """A completer whose completions are there already."""

    replies: Sequence[Reply]

    def identity(self) -> Mapping[str, Any]:
        return {"replies": digest([(r.query.key, r.query.text, r.completion) for r in self.replies])}

    def complete(self, queries: Sequence[Query], on_rows: OnRows) -> None:
        said = {r.query.key: r for r in self.replies}
        on_rows([completion_row(q, said[q.key].completion, said[q.key].truncated) for q in queries])


def check_folders(output_dir: Path) -> None:
    """Raise CrosslignError if something of another origin is where the demo would write."""
    ours = bool(read_mark(output_dir / MARK)) or RunFolder(output_dir / MODEL).is_ours()
    check_output_folder(output_dir, "demo", ours)
    for stage in STAGES:
        check_folder(output_dir / FOLDER / stage, "evaluation")
    check_folder(output_dir / FOLDER / COMPARED, "comparison")


def write_folders(experiment: Experiment, world: World, steps: int) -> Path:
    """Write all folders, in the place of earlier ones; returns the path of the page that compares before and after."""
    folder = experiment.folder / FOLDER
    judge = ExactJudge(world)
    for stage, model in STAGES.items():
        replies = experiment.replies[stage]
        evaluation = Evaluation(
            folder / stage,
            _tasks(replies, world),
            [judge],
            {
                "model": model,
                "adapter": None,
                "training_steps": steps if stage == "after" else 0,
                "sampling": {**asdict(GREEDY), "thinking": False},
                "versions": versions(),
            },
            trained=world.codes("en", "high", "low"),
            source_language=ENGLISH,
            seed=world.seed,
            overwrite=True,
            groups=_groups(world),
        )
        run(evaluation, Ready(replies))
    before, after = (read_folder(folder / stage) for stage in ("before", "after"))
    compare(before, after, folder / COMPARED, seed=world.seed)
    return folder / COMPARED / REPORT


def _groups(world: World) -> dict[str, tuple[str, ...]]:
    """As results name them: by resources, and trained against unseen; the source is in none."""
    groups = {
        "high": world.codes("high"),
        "low": world.codes("low", "unseen"),
        "trained": world.codes("high", "low"),
        "unseen": world.codes("unseen"),
    }
    return {name: codes for name, codes in groups.items() if codes}


def _tasks(replies: Sequence[Reply], world: World) -> list[TaskData]:
    """An evaluation set each."""
    tasks = []
    for name in SETS:
        queries = [r.query for r in replies if r.set == name]
        if not queries:
            continue
        tasks.append(
            TaskData(
                name,
                "harmful" if queries[0].label == "harmful" else "benign",
                f"seed {world.seed}",
                tuple(dict.fromkeys(q.language for q in queries)),
                queries,
                len({q.id for q in queries}),
                fingerprint(queries),
                (),
            )
        )
    return tasks
