"""What `benchmarks.real` changes of its recipe, and the contexts in which it asks the model untrained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crosslign.runs.recipe import merged

BASE, BEST, FIRST = "base", "best", "first recipe"
RECIPES = (BEST, FIRST)  # measured in all languages
# Recipes whose verdicts are kept; today's `benchmarks.real` makes none of them. TOLD (commit d868d4a): the teacher's
# temperature was that of harmless requests too. ALONE (commit b5e4fdd): harmful rows of one kind with 10 % of the
# weight, 48 % on builtin:benign, 42 on the statements, no harmless rows written like the harmful ones. IN_ENGLISH
# (commit f445c4d): harmful rows of one kind; 10, 40, 20 and 30 %; the teacher of the last two was told in English
# too. REFUSED (docs/log.md): half of today's recipe's steps; the rows of builtin:benign that the model itself refuses
# were a table of their own as well, whose teacher was told; 5.3 of the 40 %.
TOLD = "told what is harmless, temperature 0.7, student's weights, 160 steps"
ALONE = "statements alone"
IN_ENGLISH = "statements and mild rows, told in English too"
REFUSED = "refused harmless rows told, 80 steps"
OLDER = (TOLD, ALONE, IN_ENGLISH, REFUSED)
SHORT = "80 steps"
EARLIER = "plain teacher, harmful rows 10 %, 80 steps"  # before the first: some changes are one change of it


def steps(number: int) -> dict[str, Any]:
    return {"training": {"max_steps": number}}


def tokens(number: int) -> dict[str, Any]:
    return {"sampling": {"max_completion_length": number}}


def weights(harmful: float, benign: float, told: float, mild: float) -> dict[str, Any]:
    """Of the recipe's tables, in their order."""
    shares = {"harmful": harmful, "benign": benign, "told": told, "mild": mild}
    return {table: {"weight": share} for table, share in shares.items()}


def harmless(percent: float) -> dict[str, Any]:
    """The share of the weight on harmless rows, of all tables in the recipe's proportion."""
    part = 15 * percent / (100 - percent) / 85
    return weights(15, 40 * part, 15 * part, 30 * part)


def first(weight: float = 130, **changes: Any) -> dict[str, Any]:
    """The first recipe, with changes: harmful rows of one kind, no statements, and no teacher that is told anything.
    `weight` is that of harmless rows, where the harmful ones' is 10."""
    return {
        "more": False,
        "harmful": {"weight": 10},
        "objective": {"weighting": "dpsw"},
        "benign": {"weight": weight / 2},
        "told": {"weight": 0},
        "mild": {"weight": weight / 2, "teacher": None},
        **steps(240),
        **changes,
    }


def pairs(method: str, benign: float) -> dict[str, Any]:
    """The first recipe with a method that learns from pairs of answers, at a tenth of the rate; `benign` is the weight
    of harmless rows."""
    training = {"learning_rate": 3e-5, "max_steps": 80}
    return first(benign, method={"name": method}, training=training)


PLAIN: dict[str, Any] = {"teacher": {"temperature": 1}}  # a teacher that is as sure as it is


# Changes to the recipe. `benign` is about builtin:benign, `told` about the statements, `mild` about the harmless rows
# that are written like the harmful ones; without `more`, rows are those of the first table alone. `checkpoint` is
# measured in place of the last: the run evaluates while it trains.
ONE_THING: dict[str, dict[str, Any]] = {
    "on-policy": {"strategy": {"name": "on_policy"}},
    "mixed": {"strategy": {"name": "mixed"}},
    "no row filter": {"gate": {"drop": []}},
    "harmful rows of one kind": {"more": False},
    "no harmless rows": harmless(0),
    "harmless rows 20 %": harmless(20),
    "harmless rows 43 %": harmless(43),
    "no look-alikes": {"benign": {"where": {"category": ["everyday"]}}},
    "no statements": {"mild": {"weight": 45}, "told": {"weight": 0}},
    "no rows written like the harmful ones": {"mild": {"weight": 0}, "told": {"weight": 45}},
    "a teacher that is told nothing": {"told": {"teacher": None}, "mild": {"teacher": None}},
    "all harmless rows told": {"benign": {"teacher": "harmless"}},
    "LoRA on q and v": {"model": {"lora": {"target_modules": ["q_proj", "v_proj"]}}},
    "DPSW": {"objective": {"weighting": "dpsw"}},
    "uniform weights": {"objective": {"weighting": "uniform"}},
    "plain teacher": PLAIN,
    "16 tokens": tokens(16),
    "96 tokens": tokens(96),
    "SFT": {"method": {"name": "sft"}},
}
# What is made unless `--only` says otherwise. One thing at a time is changed in half of the steps and hours: `SHORT` is
# what these cells are compared with.
PLANNED: dict[str, dict[str, Any]] = {
    BEST: {},
    "best checkpoint": {"checkpoint": "best"},
    SHORT: steps(80),
    **{f"{name}, {SHORT}": {**changes, **steps(80)} for name, changes in ONE_THING.items()},
    "20 steps": steps(20),
    "40 steps": steps(40),
    "harmful rows 10 % and requests 50 %": weights(10, 50, 12, 28),
    "harmful rows 10 % and statements 26 %": weights(10, 36, 26, 28),
    "harmful rows 20 % and all harmless rows told": merged(
        weights(20, 38, 14, 28), ONE_THING["all harmless rows told"]
    ),
}
# How the recipes were found, from the first one; some with one seed. Until commit b5e4fdd, which made the kept
# verdicts, the temperature was not that of English harmful queries, since they are left unchanged: MSD's cells with a
# surer teacher would be made anew.
EXPLORED: dict[str, dict[str, Any]] = {
    FIRST: first(),
    EARLIER: first(**PLAIN, weight=90, **steps(80)),
    "plain teacher, uniform weights, harmful rows 10 %, 80 steps": first(
        **PLAIN, objective={"weighting": "uniform"}, weight=90, **steps(80)
    ),
    "plain teacher, harmful rows 10 %, 120 steps": first(**PLAIN, weight=90, **steps(120)),
    "plain teacher, forward KL, uniform weights, harmful rows 20 %, 120 steps": first(
        **PLAIN,
        objective={"divergence": "forward_kl", "weighting": "uniform"},
        weight=40,
        **steps(120),
    ),
    "harmful rows 10 %, 80 steps": first(weight=90, **steps(80)),
    "harmful rows 10 %, 120 steps": first(weight=90, **steps(120)),
    "harmful rows 6 %, 120 steps": first(weight=160, **steps(120)),
    "harmful rows 10 %": first(weight=90),
    "first recipe, on-policy, 80 steps": first(strategy={"name": "on_policy"}, **steps(80)),
    "SFT, harmful rows 10 %, 80 steps": first(method={"name": "sft"}, weight=90, **steps(80)),
    "SFT, harmful rows 25 %, 80 steps": first(method={"name": "sft"}, weight=30, **steps(80)),
    "SFT, harmful rows 20 %, 120 steps": first(method={"name": "sft"}, weight=40, **steps(120)),
    "SFT, harmful rows 25 %, 120 steps": first(method={"name": "sft"}, weight=30, **steps(120)),
    "DPO, rate 3e-5, harmful rows 25 %, 80 steps": pairs("dpo", 30),
    "DPO, rate 3e-5, harmful rows 50 %, 80 steps": pairs("dpo", 10),
    "MPO, rate 3e-5, harmful rows 50 %, 80 steps": pairs("mpo", 10),
    "MPO, rate 3e-5, no benign rows, 80 steps": pairs("mpo", 0),  # as its paper: a safe and an unsafe answer only
}
VARIANTS = {**PLANNED, **EXPLORED}
# Not trained: the model itself, in the context of a teacher's template; the teacher's is that of the recipe.
CONTEXTS: dict[str, str | None] = {BASE: None, "teacher": "dialogue", "system prompt": "system"}


def cell_folder(out: Path, name: str, seed: int | None) -> Path:
    """Of a change and a seed, or of a context."""
    folder = re.sub(r"\W+", "_", name.replace("%", "percent")).strip("_")
    return out / (folder if seed is None else f"{folder}-seed{seed}")


def evaluation_folder(out: Path, name: str, seed: int | None) -> Path:
    folder = cell_folder(out, name, seed)
    return folder if seed is None else folder / "evaluation"
