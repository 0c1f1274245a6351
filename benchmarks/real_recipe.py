"""What a cell of `benchmarks.real` is made of: its recipe, and a digest of all that decides its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.real_rows import HARMFUL, HARMLESS, HELD_OUT, MILD, TRAIN, VALIDATION, Plan, read_table
from benchmarks.real_variants import CONTEXTS, VARIANTS
from crosslign.data.load import TableSpec, require_table
from crosslign.evaluation.judges.lexicon import RULES_VERSION
from crosslign.runs.prompts import template_settings
from crosslign.runs.recipe import merged, read_recipe
from crosslign.storage import digest

RECIPE = Path(__file__).parents[1] / "recipes" / "qwen2.5_coder_0.5b_cpu.yaml"
BENIGN = "builtin:benign-heldout"
OWN = ("harmful", "benign", "told", "mild", "more", "checkpoint")  # keys of a variant that are not the recipe's
# While training: the recipe's `evaluation` of the variant that keeps the best checkpoint.
WATCH: dict[str, Any] = {
    "limit": None,
    "max_completion_length": 40,
    "batch_size": 60,
    "every_steps": 20,
    "best": {"max_over_refusal": 19},  # 3 points above what the base model refuses of the harmless ones (15.6 %)
}


def recipe(plan: Plan, changes: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """The shipped recipe with the plan's model, tables (as `real_rows.split` wrote them) and languages, and a variant's
    changes."""
    raw = merged(read_recipe(RECIPE), {key: value for key, value in changes.items() if key not in OWN})
    harmful, benign, told, mild = raw["data"]["tables"]
    own = {"benign": benign, "told": told}
    more = changes.get("more", True)
    if read_table(path := plan.out / (HARMLESS if more else MILD)):
        own["mild"] = {**mild, "path": str(path)}
    harmless = ({**table, **changes.get(name, {})} for name, table in own.items())
    harmful = {**harmful, **changes.get("harmful", {}), "path": str(plan.out / (HARMFUL if more else TRAIN))}
    tables = [harmful, *(table for table in harmless if table["weight"])]
    if "checkpoint" in changes:
        tasks = [f"table:{plan.out / VALIDATION}"]
        raw["evaluation"] = {**WATCH, "tasks": tasks, "languages": ["en", *plan.trained]}
    return {
        **raw,
        "model": {**raw["model"], "path": plan.model},
        "data": {**raw["data"], "tables": tables, "languages": [*plan.trained, "en"]},
        "seed": seed,
        "output_dir": str(folder / "run"),
        "cache_dir": str(plan.out / "cache"),
    }


@cache
def shipped(table: str) -> str:
    """The fingerprint of a table that ships."""
    return require_table(TableSpec(table), "en", None).fingerprint()


def settings(plan: Plan, name: str) -> str:
    """A digest of all that decides a cell's numbers but its seed, the model and the versions of libraries."""
    raw = recipe(plan, {} if name in CONTEXTS else VARIANTS[name], 0, Path())
    tables = raw["data"]["tables"]
    raw["data"]["tables"] = [{**table, "path": Path(table["path"]).name} for table in tables]
    raw["model"] = {**raw["model"], "path": ""}
    raw = {key: value for key, value in raw.items() if key not in ("output_dir", "cache_dir")}
    raw["gate"] = {key: value for key, value in raw["gate"].items() if key != "probe"}  # all rows are tried after it
    if "evaluation" in raw:
        raw["evaluation"] = {**raw["evaluation"], "tasks": []}

    def text(part: str) -> str:
        return (plan.out / part).read_text(encoding="utf-8")

    measured = [text(HELD_OUT), shipped(BENIGN), plan.measured(name), plan.completion, RULES_VERSION]
    if "evaluation" in raw:
        measured.append(text(VALIDATION) if plan.validation else "none")
    if name in CONTEXTS:  # nothing was learned there, whatever the recipe says
        template, length = CONTEXTS[name], raw["teacher"]["max_judgement_length"]
        return digest(measured if template is None else [measured, template_settings(template, length)])[:16]
    paths = [table["path"] for table in tables]
    learned = [shipped(path) if path.startswith("builtin:") else text(path) for path in paths]
    return digest([measured, learned, raw])[:16]
