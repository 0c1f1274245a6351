"""Methods for `benchmarks.claims` and `benchmarks.dpsw`, on the testbed. `testbed.yaml` has the comparison of all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crosslign.models import load_model
from crosslign.runs.build import assemble, make_trainer
from crosslign.runs.examples import collect_examples
from crosslign.runs.prepare import PreparedRun, prepare
from crosslign.runs.recipe import merged
from crosslign.testbed.experiment import Alignment, alignment_config
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.tables import Tables


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Fields:
        name: as it stands in the table.
        changes: laid over the testbed's recipe.
        stale: each window is sampled before the step of the window before it, as with `rollouts.staleness: 1`.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    stale: bool = False


def objective(**options: Any) -> dict[str, Any]:
    return {"objective": options}


REFERENCE = Method("on-policy, DPSW, reverse KL")
OFF_POLICY = Method("off-policy, DPSW", {"strategy": {"name": "off_policy"}})
BARE = {"judgement": "none", "judgement_messages": None, "messages": [{"role": "user", "content": "{query}"}]}
CONTROL = Method("control: neither English query nor judgement", {"teacher": {"template": BARE}})

LORA: dict[str, Any] = {"finetuning": "lora", "lora": {"target_modules": "all-linear"}}
LORA_REFERENCE = Method("LoRA", {"model": LORA})
# What makes large models affordable, and what each is compared with.
AFFORDABLE: tuple[tuple[Method, Method], ...] = (
    (Method("on-policy, stale by one step", stale=True), REFERENCE),
    (Method("computed in bfloat16 (training.bf16)", {"training": {"bf16": True}}), REFERENCE),
    (Method("LoRA on a bfloat16 model", {"model": {**LORA, "dtype": "bfloat16"}}), LORA_REFERENCE),
)


def prepared(method: Method, base: Path, tables: Tables, folder: Path, alignment: Alignment) -> PreparedRun:
    """The method's run, in a folder that is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted call
    alignment = replace(alignment, changes=merged(alignment.changes, method.changes))
    config = alignment_config(base, tables, folder, alignment, cache_dir=base.parent)
    run = prepare(config, overwrite=True)
    run.gate_judge = ExactJudge(tables.world)  # of methods that learn from judged answers
    return run


def trainer_of(method: Method, run: PreparedRun) -> Any:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    made = assemble(run, load_model(run.source))
    run, examples = collect_examples(run, made)
    trainer = make_trainer(run, made, examples=examples.by_key)
    if method.stale:
        _sample_before_the_step(trainer)
    return trainer


class _AtOnce:
    """In place of the collector's thread: work is done when it is given, which is before the step."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done


def _sample_before_the_step(trainer: Any) -> None:
    """`rollouts.staleness: 1` with a sampler in this process: the weights of that moment are the model's own."""
    student = trainer.collector.student
    student.pinned = lambda: student
    trainer.collector._thread = _AtOnce()
    trainer.ahead = True
