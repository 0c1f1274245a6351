"""The measurements that a card shows: the run's own evaluations, or one that was made of it afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosslign.evaluation.folder import compared, read_folder
from crosslign.evaluation.report.findings import cautions, findings
from crosslign.evaluation.result_tables import to_markdown
from crosslign.evaluation.results import SCHEMA_VERSION
from crosslign.evaluation.stages import RESULTS
from crosslign.evaluation.view import Part, View
from crosslign.ownership import read_mark
from crosslign.runs.folder import EVALUATIONS, NUMBERS
from crosslign.runs.sharing.finished import FinishedRun
from crosslign.runs.sharing.outward import without_folders
from crosslign.storage import write_atomically
from crosslign.types import Announce, CrosslignError, silent
from crosslign.untrusted import leaves, read_json


def own_evaluation(run: FinishedRun) -> Part | None:
    """What the run has measured of this adapter or model: against step 0, if that was measured too.

    None if it was not measured, or the files are gone.
    """
    steps = [entry["step"] for entry in run.record["evaluations"]]
    first, last = (run.root / EVALUATIONS / f"step-{step}" for step in (0, run.step))
    if run.step not in steps or not (last / RESULTS).is_file():
        return None
    after = read_folder(last)
    if run.step == 0 or 0 not in steps or not (first / RESULTS).is_file():
        return after.results
    return compared(read_folder(first), after, run.config.seed)


def given_evaluation(run: FinishedRun, folder: Path, announce: Announce = silent) -> Part:
    """The results of `crosslign eval` or `crosslign compare` in this folder.

    Raises CrosslignError if they are damaged, or not of this run.
    """
    place = folder / RESULTS
    results: Part = read_mark(place)
    if results.get("kind") == "comparison":
        if results.get("schema_version") != SCHEMA_VERSION:
            raise CrosslignError(f"{place}: is of another schema than {SCHEMA_VERSION}. Run crosslign compare again.")
        check_results(results, place)
        manifest = results["manifest"]["after"]
    else:
        finished = read_folder(folder)
        for note in finished.notes:
            announce(note)
        results, manifest = finished.results, finished.results["manifest"]
        check_results(results, place)
    if "endpoint" in manifest:
        announce(f"{folder}: was measured through a server, so nothing proves that it was this run's model.")
        return results
    for key, value in run.identity().items():
        if manifest.get(key) != value:
            what = "adapter" if run.is_adapter else "model"
            raise CrosslignError(
                f"{folder}: measured another {what} than {run.folder} holds ({key} differs). Run crosslign eval on "
                "this one, or compare with it as the second folder."
            )
    return results


def check_results(results: Part, where: Path) -> None:
    """Raise CrosslignError unless results can be shown."""
    for key, value in leaves(results, where):
        if isinstance(value, float) and not math.isfinite(value):
            raise CrosslignError(f"{where}: is damaged: {value} is no finite number (...{key[-60:]}).")
    try:
        view = View(results)
        if not all(isinstance(task.judge, str) for task in view.tasks):
            raise TypeError("a judge without a name")
        to_markdown(results)
        findings(view)
        cautions(view)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CrosslignError(
            f"{where}: is damaged ({type(error).__name__}: {str(error)[:100]}). Have it made anew by crosslign eval or "
            "compare."
        ) from error


def write_numbers(folder: Path, results: Part | None, card_sha256: str) -> None:
    """`evaluation.json`: what the card of this folder shows, without folders of this machine."""
    content = {"card_sha256": card_sha256, "results": without_folders(results)}
    write_atomically(folder / NUMBERS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_numbers(folder: Path) -> Mapping[str, Any]:
    """What `write_numbers` has left here; {} if nothing. Raises CrosslignError if it is damaged."""
    place = folder / NUMBERS
    if not place.exists():
        return {}
    found = read_json(place, "FILE_MB")
    results = found.get("results")
    if results is not None:
        if not isinstance(results, dict) or results.get("kind") not in ("evaluation", "comparison"):
            raise CrosslignError(f"{place}: holds no results. Write it anew with crosslign card.")
        check_results(results, place)
    return found


def unmeasured(view: View | None, trained: Sequence[str]) -> list[str]:
    """What a reader must not take for known, a sentence each."""
    if view is None:
        return [
            "Nothing was measured: how often this model helps with harm, and how often it refuses harmless requests, "
            "is not known. `crosslign eval` measures it."
        ]
    said = []
    for kind, words in (("harmful", "Help with harm"), ("benign", "Refusal of harmless requests (over-refusal)")):
        tasks = [task for task in view.tasks if task.kind == kind]
        if not tasks:
            said.append(f"{words} was not measured.")
            continue
        rated = {row.key for task in tasks for row in task.languages if row.rates(task.metric)[-1]["value"] is not None}
        if missing := [code for code in trained if code not in rated]:
            said.append(f"{words} was not measured, or on too few rows, in languages it was trained on: "
                        f"{', '.join(missing)}.")  # fmt: skip
    if "endpoint" in view.manifests[-1]:
        said.append("The numbers were measured through a server: nothing proves that this model was behind it.")
    if not view.compared:
        said.append("The base model was not measured in the same way, so what training has changed is not known.")
    if not view.utility:
        said.append("Abilities (mathematics, knowledge, ...) were not measured, so what they lost is not known.")
    return said
