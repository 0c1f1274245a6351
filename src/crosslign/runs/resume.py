"""Whether a run may go on in a folder: it must be the same run, on the same data."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from crosslign.runs.arguments import queries_per_step, uses_deepspeed
from crosslign.runs.config import RunConfig
from crosslign.runs.folder import CONFIG, RunFolder
from crosslign.runs.recipe import parse_config, read_recipe
from crosslign.types import CrosslignError

CHANGE_NO_NUMBER = {"output_dir", "cache_dir", "log_rollouts"}
OF_THE_OPTIMIZER = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
# A resumed run must be the same run; these may change.
RESUMABLE_CHANGES = {*CHANGE_NO_NUMBER, "divergence_queries", "rollouts", "training"}
QUERIES = "queries_per_step"  # in the record; older ones lack it


def check_same_run(config: RunConfig, folder: RunFolder, arguments: TrainingArguments) -> None:
    """Raise CrosslignError if the recipe, or the queries of a step, are not those of the run in this folder."""
    written = folder.path / CONFIG
    if not written.exists():
        raise CrosslignError(f"{folder.path}: {CONFIG} is missing, so the run cannot be resumed.")
    # Checked like a recipe, so that a key which is newer than the run has its default there too.
    before = parse_config(read_recipe(written), str(written)).model_dump(mode="json")
    now = config.model_dump(mode="json")
    for section in now:
        if section not in RESUMABLE_CHANGES and now[section] != before.get(section):
            raise CrosslignError(
                f"{folder.path}: {section} differs from the run that is to be resumed "
                f"(then: {before.get(section)}; now: {now[section]}). Resume with the old recipe, "
                f"{written}, or start anew in another output_dir."
            )
    changed = [key for key in OF_THE_OPTIMIZER if before["training"].get(key) != now["training"].get(key)]
    if changed and uses_deepspeed(arguments):
        raise CrosslignError(
            f"{folder.path}: training.{changed[0]} differs from the run that is to be resumed, and DeepSpeed goes on "
            "with the old one. Resume with that, or start anew in another output_dir."
        )
    took, takes = folder.record().get(QUERIES), queries_per_step(arguments)
    if took not in (None, takes):
        raise CrosslignError(
            f"{folder.path}: a step takes {takes} queries (training.per_device_train_batch_size x "
            f"training.gradient_accumulation_steps x processes), and took {took} in the run that is to be resumed, so "
            f"queries would come twice or not at all. Make it {took} again, or start anew in another output_dir."
        )


def check_same(folder: RunFolder, key: str, what: str, now: Any) -> None:
    """Raise CrosslignError if the record of the run in this folder has something else under this key."""
    before = folder.record().get(key)
    if before != now:
        raise CrosslignError(
            f"{folder.path}: {what} differ from those of the run that is to be resumed (then: {before}; now: {now})."
        )
