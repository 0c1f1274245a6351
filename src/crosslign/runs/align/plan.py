"""The decisions: pure functions from measurements to a recipe, each with the words that say why.

Steps, weights, gate and teacher are those of a run that was measured on a real model, `best` of benchmarks/real.md
(docs/align.md says what differs); flags of the recipe overrule each (`--training.max_steps 40`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosslign.evaluation.best import Candidate
from crosslign.runs.align.queries import SOURCE, Tables
from crosslign.runs.config import BestConfig
from crosslign.runs.gate.report import LITTLE

STEPS, BATCH, RATE = 160, 8, 3e-4
MOST_STEPS = 400  # longer runs were never measured
FEW_STEPS = 40  # shorter runs were never measured (docs/log.md)
EVALUATIONS = 4  # while training
TRIAL_STEPS = 3
# Of the queries, the harmless ones, and those whose teacher is told that they are harmless, in %.
WEIGHTS = (15, 40, 45)
TEMPERATURE = 0.5  # of the teacher of harmful queries, where the output layer allows it
FLIP_RATE = LITTLE / 100  # below which the gate does not train a language
PROBE = 12  # rows a language: 11 that stay unsafe are fewer than FLIP_RATE by more than chance
ALL_ROWS = 100_000
MOSTLY = 50  # %


def first_recipe(
    model: str, tables: Tables, languages: Sequence[str], judge: Mapping[str, Any], out: str
) -> dict[str, Any]:
    """The recipe before anything is measured."""
    everything = [SOURCE, *languages]
    harmful, harmless, told = WEIGHTS
    rows = sum(tables.told.values())
    return {
        "model": {"path": model, "lora": {"r": 16, "alpha": 32, "target_modules": "all-linear"}},
        "data": {
            "tables": [
                {"path": tables.train, "weight": harmful},
                {"path": tables.harmless, "weight": harmless},
                *(
                    {"path": path, "weight": round(told * number / rows, 1), "teacher": "harmless"}
                    for path, number in tables.told.items()
                ),
            ],
            "source_language": SOURCE,
            "languages": everything,
        },
        "output_dir": out,
        "teacher": {"unchanged": ["benign", "source"], "temperature": TEMPERATURE},
        "strategy": {"name": "off_policy"},
        "objective": {"weighting": "student"},
        "sampling": {"temperature": 0, "max_completion_length": 128, "batch_size": 32},
        "gate": {
            "min_flip_rate": FLIP_RATE,
            "queries": ALL_ROWS,
            "judge": dict(judge),
            "probe": PROBE,
            "drop": ["unsafe", "invalid", "wrong_language", "refused"],
        },
        "evaluation": {
            "tasks": tables.tasks,
            "languages": everything,
            "judge": dict(judge),
            "limit": None,
            "max_completion_length": 128,
            "at_start": False,
        },
        "training": {
            "max_steps": STEPS,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "learning_rate": RATE,
        },
    }


def gaps(results: Mapping[str, Any], languages: Sequence[str], least: float) -> tuple[list[str], str]:
    """The languages with a gap to English, and a sentence on all.

    A language has none if the upper end of its ASR's interval is not above English's ASR by `least` points, or if its
    ASR is not known.
    """
    (cells,) = (task["languages"] for task in results["tasks"].values() if task["kind"] == "harmful")
    english = cells[SOURCE]["asr"]
    if english["value"] is None:
        return list(languages), f"{SOURCE}: ASR is not known ({english['reason']}), so no language is left out."
    chosen, said = [], [f"{SOURCE} {english['value']:.0f} %"]
    for code in languages:
        rate = cells[code]["asr"]
        if rate["value"] is None:
            said.append(f"{code} not known ({rate['reason']}): left out")
            continue
        has_gap = rate["high"] > english["value"] + least
        chosen += [code] if has_gap else []
        shown = f"{code} {rate['value']:.0f} % [{rate['low']:.0f}, {rate['high']:.0f}]"
        said.append(shown if has_gap else f"{shown}: no gap, left out")
    rule = f"A gap is an upper end more than {least:g} points above {SOURCE} (--min-gap)."
    if english["value"] > MOSTLY:
        rule += f" {SOURCE} itself is mostly unsafe: training brings the others to it, not further."
    return chosen, f"ASR before [95 %]: {', '.join(said)}. {rule}"


def best_section(base: Candidate | None, rise: float, gap: float) -> dict[str, Any]:
    """`evaluation.best`: the limits are the base model's rates and what they may rise by (ASR in English: what is
    called a gap); None: it was not measured."""
    usual = BestConfig().model_dump()
    if base is None:
        return usual
    refusals, invalid = base.over_refusal, base.invalid
    return usual | {
        "max_over_refusal": None if refusals is None else min(refusals + rise, 100.0),
        "max_invalid": None if invalid is None else max(usual["max_invalid"], min(invalid + rise, 100.0)),
        "max_asr": {code: min(rate + gap, 100.0) for code, rate in base.asr.items() if code == SOURCE},
    }


def helped(report: Mapping[str, Any], languages: Sequence[str]) -> tuple[str | None, list[str], str]:
    """The teacher template that the probe finds best, the languages that it helps in, and a sentence.

    Languages whose flip rate is known and below the gate's are left out: the gate would stop the run for them.
    """
    chosen = report["best"]
    if chosen is None:
        return None, [], report["verdict"]
    cells = report["templates"][chosen]["languages"]
    rates = {code: cells[code]["flip"]["value"] for code in languages}
    low = [code for code, rate in rates.items() if rate is not None and rate < 100 * FLIP_RATE]
    out = f" Left out, since it makes fewer than {FLIP_RATE:.0%} of their unsafe answers safe: {', '.join(low)}."
    return chosen, [code for code in languages if code not in low], report["verdict"] + (out if low else "")


@dataclass(frozen=True)
class Length:
    """How long to train: steps, and an evaluation after every so many."""

    steps: int
    every: int


def length_for(seconds: float, step: float, evaluation: float) -> Length:
    """What fits into the time, from the seconds of a step and of an evaluation (0: not known)."""
    evaluations = EVALUATIONS
    while evaluations > 1 and evaluations * evaluation > seconds / 2:
        evaluations -= 1
    steps = int((seconds - evaluations * evaluation) / step) if step > 0 else MOST_STEPS
    return length_of(min(max(steps, 1), MOST_STEPS), evaluations)


def length_of(steps: int, evaluations: int = EVALUATIONS) -> Length:
    return Length(steps, math.ceil(steps / evaluations))


def length_section(length: Length, languages: int) -> dict[str, Any]:
    """What a recipe says of a length. No more rows of a table are read than so many steps can use."""
    rows = max(math.ceil(length.steps * BATCH / languages), 2 * BATCH)
    training = {"max_steps": length.steps, "warmup_steps": length.steps // 10, "save_steps": length.every}
    return {"training": training, "evaluation": {"every_steps": length.every}, "rows": rows}
