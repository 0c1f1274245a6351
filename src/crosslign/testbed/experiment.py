"""The controlled experiment: pretrain or load, evaluate, align with crosslign's own training code, evaluate again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosslign.models import ModelSource, load_model, load_with_adapter
from crosslign.runs.config import RunConfig
from crosslign.runs.folder import RunFolder
from crosslign.runs.prepare import model_source, prepare
from crosslign.runs.recipe import merged, parse_config
from crosslign.runs.train import train
from crosslign.storage import write_atomically
from crosslign.testbed.cache import BaseSpec, base_model
from crosslign.testbed.corpus import JUDGE_PROMPT, TEACHER_PROMPT
from crosslign.testbed.evaluate import (
    MAX_COMPLETION_LENGTH,
    MAX_JUDGEMENT_LENGTH,
    Reply,
    by_group,
    by_language,
    by_set,
    evaluate,
)
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.model import one_thread
from crosslign.testbed.tables import Tables, TableSizes
from crosslign.types import Announce, silent

TEACHER_TEMPLATE: dict[str, Any] = {
    "description": "The testbed's teacher: the frozen model's verdict on the English request, then the request.",
    "judgement": "generated",
    "judgement_messages": [{"role": "user", "content": JUDGE_PROMPT}],
    "messages": [{"role": "user", "content": TEACHER_PROMPT}],
}
RESULTS = "results.json"
MODEL = "model"  # the run's folder within the experiment's


@dataclass(frozen=True)
class Alignment:
    """How the testbed is aligned. `changes` are laid over the run's configuration, section by section.

    `temperature` divides the logits in the loss. At 2 the combinations that few rows show (violence against persons)
    are learned better than at 1, the paper's; and many steps of few queries learn them better than half as many of
    twice the queries: see docs/log.md.
    """

    steps: int = 800
    batch_size: int = 16
    learning_rate: float = 1e-3
    temperature: float = 2.0
    target_weight: float = 0.9
    changes: Mapping[str, Any] = field(default_factory=dict)


def alignment_config(
    base: Path, tables: Tables, output_dir: Path, alignment: Alignment, cache_dir: Path | None = None
) -> RunConfig:
    """A training run like any other: writes the query tables into `output_dir` and returns the configuration."""
    world = tables.world
    output_dir.mkdir(parents=True, exist_ok=True)
    targets = tables.write(output_dir / "targets.csv", tables.targets, world.codes("en", "low"))
    anchors = tables.write(output_dir / "anchors.csv", tables.anchors, world.codes("en", "high"))
    raw: dict[str, Any] = {
        "model": {"path": str(base), "finetuning": "full", "dtype": "float32"},
        "data": {
            "tables": [
                {"path": str(targets), "weight": alignment.target_weight},
                {"path": str(anchors), "weight": 1 - alignment.target_weight},
            ],
            "languages": list(world.codes("en", "high", "low")),
        },
        "student": {"max_length": 64},
        "teacher": {"template": TEACHER_TEMPLATE, "max_length": 96, "max_judgement_length": MAX_JUDGEMENT_LENGTH},
        "sampling": {"max_completion_length": MAX_COMPLETION_LENGTH, "batch_size": alignment.batch_size},
        "objective": {"temperature": alignment.temperature},
        "output_dir": str(output_dir / MODEL),
        "cache_dir": str(cache_dir) if cache_dir else None,
        "seed": world.seed,
        "training": {
            "max_steps": alignment.steps,
            "per_device_train_batch_size": alignment.batch_size,
            "gradient_accumulation_steps": 1,
            "learning_rate": alignment.learning_rate,
            "adam_epsilon": 1e-6,
            "save_strategy": "no",
            "use_cpu": True,
        },
    }
    return parse_config(merged(raw, alignment.changes), "testbed")


def aligned_model(config: RunConfig) -> Any:
    """The model that a finished run has saved: whole, or the base model with its adapter."""
    if config.model.finetuning == "full":
        return load_model(ModelSource(config.output_dir))
    return load_with_adapter(model_source(config), config.output_dir)


@dataclass(frozen=True)
class Experiment:
    """What came out: replies by stage (before, teacher, after), seconds of training, and the run's folder."""

    replies: Mapping[str, list[Reply]]
    seconds: float
    folder: Path

    def results(self) -> dict[str, Any]:
        """groups, languages and sets -> before | teacher | after -> rates, as documented for `results.json`."""
        views: Mapping[str, Callable[[list[Reply]], dict[str, Any]]] = {
            "groups": by_group,
            "languages": by_language,
            "sets": by_set,
        }
        return {
            **{name: {stage: view(r) for stage, r in self.replies.items()} for name, view in views.items()},
            "seconds": self.seconds,
        }


def run_experiment(
    spec: BaseSpec,
    output_dir: Path,
    *,
    tables: TableSizes | None = None,
    alignment: Alignment | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    announce: Announce = silent,
) -> Experiment:
    """Base model, alignment by `crosslign.runs.train`, and the evaluation at all three stages.

    Writes the tables, the run in `output_dir/model` and `results.json`. Equal arguments give equal results.
    """
    # Before anything is written, and before minutes of pretraining.
    RunFolder(output_dir / MODEL).check(overwrite=overwrite, resume=False)
    made = Tables(spec.world, tables or TableSizes())
    base = base_model(spec, cache, announce)
    config = alignment_config(base, made, output_dir, alignment or Alignment(), cache_dir=base.parent)
    run = prepare(config, overwrite=overwrite)
    judge = ExactJudge(spec.world)
    with one_thread():
        before = load_model(ModelSource(str(base)))
        announce("evaluating the base model and the teacher's context")
        replies = {
            "before": evaluate(before, run.contexts, made, judge),
            "teacher": evaluate(before, run.contexts, made, judge, role="teacher"),
        }
        record = train(run, announce)
        announce("evaluating the aligned model")
        replies["after"] = evaluate(aligned_model(config), run.contexts, made, judge)
    experiment = Experiment(replies, float(record["seconds"]), output_dir)
    write_atomically(output_dir / RESULTS, json.dumps(experiment.results(), indent=2) + "\n")
    return experiment
