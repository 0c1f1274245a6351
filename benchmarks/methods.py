"""What is compared on the testbed: crosslign's options, its own ablations, and baselines. All train equally long."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from crosslign.models import load_model
from crosslign.runs.build import assemble, make_trainer
from crosslign.runs.examples import collect_examples
from crosslign.runs.prepare import PreparedRun, prepare
from crosslign.runs.recipe import merged
from crosslign.testbed.experiment import TEACHER_TEMPLATE, Alignment, alignment_config
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.tables import Tables

EMA_RATE = 0.05  # the paper's
Queries = Literal["own", "other row"]
Kind = Literal["frozen", "ema", "live"]


@dataclass(frozen=True)
class Method:
    """One row of the claims table.

    Fields:
        name: as it stands in the table.
        changes: laid over the testbed's recipe.
        source: the English query of the row itself, or of another row (a control).
        teacher: frozen as in the paper, or an ablation: an average of the student, or the student itself.
        stale: each window is sampled before the step of the window before it, as with `rollouts.staleness: 1`.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    source: Queries = "own"
    teacher: Kind = "frozen"
    stale: bool = False


def objective(**options: Any) -> dict[str, Any]:
    return {"objective": options}


def _template(content: str, judgement: Literal["none", "generated"]) -> dict[str, Any]:
    made = {**TEACHER_TEMPLATE, "judgement": judgement, "messages": [{"role": "user", "content": content}]}
    if judgement == "none":
        made["judgement_messages"] = None
    return {"teacher": {"template": made}}


OFF: dict[str, Any] = {"strategy": {"name": "off_policy"}}
REFERENCE = Method("on-policy, DPSW, reverse KL")
CONTROL = Method("control: neither English query nor judgement", _template("{query}", "none"))
OFF_POLICY = Method("off-policy, DPSW", OFF)
UNIFORM = Method("on-policy, uniform weights", objective(weighting="uniform"))
METHODS: tuple[Method, ...] = (
    REFERENCE,
    Method(f"the same, {Alignment().steps} steps: the demo", {"training": {"max_steps": Alignment().steps}}),
    UNIFORM,
    Method("on-policy, teacher's weights alone", objective(weighting="teacher")),
    Method("on-policy, student's weights alone", objective(weighting="student")),
    OFF_POLICY,
    Method("off-policy, uniform weights", {**OFF, **objective(weighting="uniform")}),
    Method("mixed half and half, DPSW", {"strategy": {"name": "mixed"}}),
    Method("on-policy, DPSW, forward KL", objective(divergence="forward_kl")),
    Method("on-policy, DPSW, JSD", objective(divergence="jsd")),
    Method("on-policy, DPSW, temperature 1", objective(temperature=1.0)),
    Method("on-policy, DPSW, K = 4", objective(top_k=4)),
    Method("on-policy, DPSW, K = 512", objective(top_k=512)),
    Method("SFT on the teacher's answers", {"method": {"name": "sft"}, "sampling": {"temperature": 0}}),
    CONTROL,
    Method("control: English query, no judgement", _template("english : {source_query} request : {query}", "none")),
    Method("control: English query of another row", source="other row"),
    Method("teacher: average of the student (0.05)", teacher="ema"),
    Method("teacher: the student itself", teacher="live"),
)

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
    if method.source == "other row":
        _shift_sources(folder / "targets.csv")
    run = prepare(config, overwrite=True)
    run.gate_judge = ExactJudge(tables.world)  # of methods that learn from judged answers
    return run


def trainer_of(method: Method, run: PreparedRun) -> Any:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    made = assemble(run, load_model(run.source))
    run, examples = collect_examples(run, made)
    trainer = make_trainer(run, made, examples=examples.by_key)
    if method.teacher != "frozen":
        _follow(trainer, method.teacher)
    if method.stale:
        _sample_before_the_step(trainer)
    return trainer


def _shift_sources(path: Path) -> None:
    """Give every row the English query of the next row."""
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    english = [row["en"] for row in rows]
    for row, text in zip(rows, english[1:] + english[:1], strict=True):
        row["en"] = text
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


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


class _Follow(TrainerCallback):
    def __init__(self, teacher: Any, rate: float) -> None:
        self.teacher, self.rate = teacher, rate

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), model.parameters(), strict=True):
                old.lerp_(new, self.rate)


def _follow(trainer: Any, kind: Kind) -> None:
    """Let the teacher's weights follow the student's. Its judgements stay those of the start."""
    moving = copy.deepcopy(trainer.model).requires_grad_(False).eval()

    @contextmanager
    def view() -> Any:
        with torch.no_grad():
            yield moving

    trainer.scorer.teacher.view = view
    trainer.scorer.prefix = None  # its keys and values would be those of the start
    trainer.add_callback(_Follow(moving, EMA_RATE if kind == "ema" else 1.0))
