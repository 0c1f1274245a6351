"""`crosslign demo`: the whole experiment on one seed, reported."""

from __future__ import annotations

from pathlib import Path

from crosslign.storage import write_atomically
from crosslign.testbed.cache import BaseSpec
from crosslign.testbed.experiment import Alignment, run_experiment
from crosslign.testbed.folders import check_folders, write_folders
from crosslign.testbed.report import report, terminal
from crosslign.testbed.tables import TableSizes
from crosslign.types import Announce, CrosslignError, silent

REPORT = "report.txt"
MAX_SEED = 2**32 - 1  # numpy's generator, which transformers seeds, takes no more
MAX_STEPS = 100_000


def check_range(seed: int, steps: int) -> None:
    """Raise CrosslignError for a seed or a number of steps that the demo cannot run with."""
    if not 0 <= seed <= MAX_SEED:
        raise CrosslignError(f"--seed: {seed} is out of range; it is a whole number from 0 to {MAX_SEED}.")
    if not 1 <= steps <= MAX_STEPS:
        raise CrosslignError(f"--steps: {steps} is out of range; it is a whole number from 1 to {MAX_STEPS}.")


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
    experiment = run_experiment(
        spec, output_dir, tables=tables, alignment=alignment, cache=cache, overwrite=overwrite, announce=announce
    )
    write_atomically(output_dir / REPORT, report(experiment, spec.world, alignment.steps))
    page = write_folders(experiment, spec.world, alignment.steps)
    took = f"{alignment.steps} steps in {experiment.seconds:.0f} s"
    return (
        f"{terminal(experiment, spec.world, alignment.steps)}\n{took}. In words: {output_dir / REPORT}\n"
        f"Every answer before and after, with intervals: {page}"
    )
