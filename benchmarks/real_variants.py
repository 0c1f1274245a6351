"""What `benchmarks.real` changes of its recipe, and the contexts in which it asks the model untrained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

BASE, BEST, FIRST = "base", "best", "first recipe"
RECIPES = (BEST, FIRST)  # measured in all languages, and on fresh rows
# Recipes that today's code does not make, and whose verdicts are kept. TOLD (commit d868d4a): the teacher's temperature
# was that of harmless requests too. IN_ENGLISH (commit f445c4d): 40 % of the weight on builtin:benign, 20 on the
# statements, 30 on the harmful table's mild rows; the teacher of the last two was told in English too.
TOLD = "told what is harmless, temperature 0.7, student's weights, 160 steps"
IN_ENGLISH = "statements and mild rows, told in English too"
OLDER = (TOLD, IN_ENGLISH)
SHORT = "80 steps"
EARLIER = "plain teacher, harmful rows 10 %, 80 steps"  # before the first: some changes are one change of it


def steps(number: int) -> dict[str, Any]:
    return {"training": {"max_steps": number}}


def tokens(number: int) -> dict[str, Any]:
    return {"sampling": {"max_completion_length": number}}


def harmless(percent: float) -> dict[str, Any]:
    """The share of the weight on harmless rows, of both tables in the recipe's proportion."""
    weight = 10 * percent / (100 - percent)  # the harmful rows' is 10
    return {"benign": {"weight": weight * 48 / 90}, "told": {"weight": weight * 42 / 90}}


def first(**changes: Any) -> dict[str, Any]:
    """The first recipe, with changes: no statements, the milder rows of the harmful table in their place."""
    return {
        "objective": {"weighting": "dpsw"},
        "benign": {"weight": 130},
        "told": {"weight": 0},
        "mild": True,
        **steps(240),
        **changes,
    }


def pairs(method: str, benign: float) -> dict[str, Any]:
    """The first recipe with a method that learns from pairs of answers, at a tenth of the rate; `benign` is the weight
    of harmless rows."""
    training = {"learning_rate": 3e-5, "max_steps": 80}
    return first(method={"name": method}, benign={"weight": benign}, training=training)


PLAIN: dict[str, Any] = {"teacher": {"temperature": 1}}  # a teacher that is as sure as it is


# Changes to the recipe. `benign` is about builtin:benign, `told` about the statements; with `mild`, the table's mild
# rows take half of the weight of builtin:benign. `checkpoint` is measured in place of the last: the run evaluates while
# it trains.
ONE_THING: dict[str, dict[str, Any]] = {
    "on-policy": {"strategy": {"name": "on_policy"}},
    "mixed": {"strategy": {"name": "mixed"}},
    "no row filter": {"gate": {"drop": []}},
    "no harmless rows": harmless(0),
    "harmless rows 20 %": harmless(20),
    "harmless rows 43 %": harmless(43),
    "no look-alikes": {"benign": {"where": {"category": ["everyday"]}}},
    "no statements": {"benign": {"weight": 90}, "told": {"weight": 0}},
    "statements whose teacher is not told": {"told": {"teacher": None}},
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
    FIRST: first(),
    "best checkpoint": {"checkpoint": "best"},
    SHORT: steps(80),
    **{f"{name}, {SHORT}": {**changes, **steps(80)} for name, changes in ONE_THING.items()},
    "20 steps": steps(20),
    "40 steps": steps(40),
}
# How the recipes were found, from the first one; some with one seed.
EXPLORED: dict[str, dict[str, Any]] = {
    EARLIER: first(**PLAIN, benign={"weight": 90}, **steps(80)),
    "plain teacher, uniform weights, harmful rows 10 %, 80 steps": first(
        **PLAIN, objective={"weighting": "uniform"}, benign={"weight": 90}, **steps(80)
    ),
    "plain teacher, harmful rows 10 %, 120 steps": first(**PLAIN, benign={"weight": 90}, **steps(120)),
    "plain teacher, forward KL, uniform weights, harmful rows 20 %, 120 steps": first(
        **PLAIN,
        objective={"divergence": "forward_kl", "weighting": "uniform"},
        benign={"weight": 40},
        **steps(120),
    ),
    "harmful rows 10 %, 80 steps": first(benign={"weight": 90}, **steps(80)),
    "harmful rows 10 %, 120 steps": first(benign={"weight": 90}, **steps(120)),
    "harmful rows 6 %, 120 steps": first(benign={"weight": 160}, **steps(120)),
    "harmful rows 10 %": first(benign={"weight": 90}),
    "first recipe, on-policy, 80 steps": first(strategy={"name": "on_policy"}, **steps(80)),
    "SFT, harmful rows 10 %, 80 steps": first(method={"name": "sft"}, benign={"weight": 90}, **steps(80)),
    "SFT, harmful rows 25 %, 80 steps": first(method={"name": "sft"}, benign={"weight": 30}, **steps(80)),
    "SFT, harmful rows 20 %, 120 steps": first(method={"name": "sft"}, benign={"weight": 40}, **steps(120)),
    "SFT, harmful rows 25 %, 120 steps": first(method={"name": "sft"}, benign={"weight": 30}, **steps(120)),
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
