"""What `benchmarks.real` changes of its recipe, and the contexts in which it asks the model untrained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

BASE, BEST = "base", "best"
TOLD = "told what is harmless, temperature 0.7, student's weights, 160 steps"
RECIPES = (BEST, TOLD)  # measured in all languages, and on fresh rows
SHORT = "80 steps"
EARLIER = "plain teacher, harmful rows 10 %, 80 steps"  # the recipe before: what some changes are one change of


def steps(number: int) -> dict[str, Any]:
    return {"training": {"max_steps": number}}


def tokens(number: int) -> dict[str, Any]:
    return {"sampling": {"max_completion_length": number}}


def pairs(method: str, benign: float) -> dict[str, Any]:
    """A method that learns from pairs of answers, at a tenth of the rate; `benign` is the weight of harmless rows."""
    training = {"learning_rate": 3e-5, "max_steps": 80}
    return {"method": {"name": method}, "benign": {"weight": benign}, "training": training}


PLAIN: dict[str, Any] = {"teacher": {"temperature": 1}}  # a teacher that is as sure as it is


# Changes to the recipe. `benign` is about both tables of harmless queries; `told`, the weight of the milder one and of
# statements, whose teacher is told that they are harmless: then `benign` is about the shipped table alone. `checkpoint`
# is measured in place of the last: the run evaluates while it trains.
ONE_THING: dict[str, dict[str, Any]] = {
    "on-policy": {"strategy": {"name": "on_policy"}},
    "mixed": {"strategy": {"name": "mixed"}},
    "no row filter": {"gate": {"drop": []}},
    "no benign rows": {"benign": {"weight": 0}},
    "benign rows 20 %": {"benign": {"weight": 2.5}},
    "benign rows 43 %": {"benign": {"weight": 7.5}},
    "no look-alikes": {"benign": {"where": {"category": ["everyday", "mental_health", "ethics_and_morality"]}}},
    "LoRA on q and v": {"model": {"lora": {"target_modules": ["q_proj", "v_proj"]}}},
    "uniform weights": {"objective": {"weighting": "uniform"}},
    "plain teacher": PLAIN,
    "16 tokens": tokens(16),
    "96 tokens": tokens(96),
    "SFT": {"method": {"name": "sft"}},
}
# What is made unless `--only` says otherwise. One thing at a time is changed in a third of the steps and hours: `SHORT`
# is what these cells are compared with.
PLANNED: dict[str, dict[str, Any]] = {
    BEST: {},
    TOLD: {
        "teacher": {"temperature": 0.7},
        "objective": {"weighting": "student"},
        "benign": {"weight": 70},
        "told": 30,
        **steps(160),
    },
    "best checkpoint": {"checkpoint": "best"},
    SHORT: steps(80),
    **{f"{name}, {SHORT}": {**changes, **steps(80)} for name, changes in ONE_THING.items()},
    "20 steps": steps(20),
    "40 steps": steps(40),
    "160 steps": steps(160),
    "DPO, rate 3e-5, harmful rows 50 %, 80 steps": pairs("dpo", 10),
    "MPO, rate 3e-5, harmful rows 50 %, 80 steps": pairs("mpo", 10),
    "MPO, rate 3e-5, no benign rows, 80 steps": pairs("mpo", 0),  # as its paper: a safe and an unsafe answer only
}
# How the recipe was found; some with one seed.
EXPLORED: dict[str, dict[str, Any]] = {
    EARLIER: {**PLAIN, "benign": {"weight": 90}, **steps(80)},
    "plain teacher, uniform weights, harmful rows 10 %, 80 steps": {
        **PLAIN,
        "objective": {"weighting": "uniform"},
        "benign": {"weight": 90},
        **steps(80),
    },
    "plain teacher, harmful rows 10 %, 120 steps": {**PLAIN, "benign": {"weight": 90}, **steps(120)},
    "plain teacher, forward KL, uniform weights, harmful rows 20 %, 120 steps": {
        **PLAIN,
        "objective": {"divergence": "forward_kl", "weighting": "uniform"},
        "benign": {"weight": 40},
        **steps(120),
    },
    "harmful rows 10 %, 80 steps": {"benign": {"weight": 90}, **steps(80)},
    "harmful rows 10 %, 120 steps": {"benign": {"weight": 90}, **steps(120)},
    "harmless rows by the teacher, harmful rows 20 %, 120 steps": {
        "teacher": {"unchanged": ["source"]},
        "benign": {"weight": 40},
        **steps(120),
    },
    "harmful rows 6 %, 120 steps": {"benign": {"weight": 160}, **steps(120)},
    "harmful rows 10 %": {"benign": {"weight": 90}},
    "SFT, harmful rows 10 %, 80 steps": {"method": {"name": "sft"}, "benign": {"weight": 90}, **steps(80)},
    "SFT, harmful rows 25 %, 80 steps": {"method": {"name": "sft"}, "benign": {"weight": 30}, **steps(80)},
    "SFT, harmful rows 20 %, 120 steps": {"method": {"name": "sft"}, "benign": {"weight": 40}, **steps(120)},
    "SFT, harmful rows 25 %, 120 steps": {"method": {"name": "sft"}, "benign": {"weight": 30}, **steps(120)},
    "DPO, rate 3e-5, harmful rows 25 %, 80 steps": pairs("dpo", 30),
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
