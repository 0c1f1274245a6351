"""A checked run -> the objects of the method around loaded weights, and the trainer around them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PrinterCallback

from crosslign.baselines import Example, Parts
from crosslign.distillation import RolloutCollector, RunTrainer, Scorer, strategies
from crosslign.models import FrozenTeacher, sampling_mark, split_model, token_ids
from crosslign.objective import Objective
from crosslign.rollouts import CachedSampler, CompletionCache, SamplingParameters, sampler_of
from crosslign.runs.arguments import has_engine, uses_deepspeed
from crosslign.runs.callbacks import CheckpointCallback, MetricsCallback, ProgressCallback, RolloutLog
from crosslign.runs.checkpoint_evaluation import CheckpointEvaluator, EvaluationSchedule
from crosslign.runs.prepare import PreparedRun, as_trained
from crosslign.runs.serve import Samplers, served_samplers
from crosslign.storage import cache_folder
from crosslign.types import Announce, CrosslignError, cause, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distillation:
    """Student and frozen teacher, who makes their rollouts, and who scores them; `release` frees a server of them, and
    `close` ends their work, however it has gone."""

    student: Any
    teacher: FrozenTeacher
    collector: RolloutCollector
    scorer: Scorer
    release: Callable[[], None] = lambda: None

    def close(self, announce: Announce = silent) -> None:
        self.collector.close()
        try:
            self.release()
        except (CrosslignError, KeyboardInterrupt) as error:  # what ended the run is what is told in the end
            why = f"{error} " if isinstance(error, CrosslignError) else ""
            announce(f"{why}Something of this run may be left on the server: start it anew before it is used again.")


def assemble(run: PreparedRun, model: Any) -> Distillation:
    """The method around a loaded model: the gate measures with it, and the trainer trains with it."""
    config = run.config
    split = split_model(model)
    model = as_trained(model, config.model, config.seed)
    # An engine keeps float32 weights of its own, FSDP where it computes in another type than they have.
    mixed = run.arguments.bf16 or run.arguments.fp16
    master = uses_deepspeed(run.arguments) or (has_engine(run.arguments) and mixed)
    if config.model.finetuning == "full" and model.dtype in (torch.bfloat16, torch.float16) and not master:
        logger.warning(
            "all weights are trained as %s, in which a step that is small beside its weight is lost; "
            "set model.dtype: float32 and training.bf16: true, which computes in bfloat16.",
            str(model.dtype).removeprefix("torch."),
        )
    teacher = FrozenTeacher(model, getattr(torch, config.teacher.dtype) if config.teacher.dtype else None)
    place = cache_folder(config.cache_dir) / f"completions-{teacher.fingerprint}.jsonl"
    cache = CompletionCache(place, shared=run.arguments.world_size > 1)
    mark = sampling_mark(teacher.fingerprint, model, run.tokenizer)
    samplers = Samplers(
        sampler_of(model, run.tokenizer, run.rollout_batch_size),
        sampler_of(model, run.tokenizer, run.rollout_batch_size, teacher.view),
    )
    if config.rollouts.backend == "vllm":
        samplers = served_samplers(run, model, samplers)
    collector = RolloutCollector(
        run.contexts,
        strategies.get(config.strategy.name, config.strategy.options, seed=config.seed),
        samplers.student,
        CachedSampler(samplers.teacher, cache, mark, seed=config.seed, vocabulary=len(run.tokenizer)),
        SamplingParameters(**config.sampling.model_dump(exclude={"batch_size"})),
        seed=config.seed,
        drop_overflow=config.data.on_overflow == "drop",
    )
    objective = Objective(**config.objective.model_dump())
    pad = token_ids(run.tokenizer, model).pad
    scorer = Scorer(model, teacher, split, objective, pad, config.teacher.temperature)
    return Distillation(model, teacher, collector, scorer, samplers.release)


def make_trainer(
    run: PreparedRun,
    made: Distillation,
    announce: Announce = silent,
    examples: Mapping[str, Example] | None = None,
) -> RunTrainer:
    """The trainer of the run's method, with what it writes and evaluates; `examples`: what the method has made of the
    run's queries."""
    checkpoints = CheckpointCallback(run.folder, run.arguments.save_total_limit)
    evaluator, schedule = None, []
    if run.evaluation is not None:
        evaluator = _evaluator(run, made, announce)
        schedule = [EvaluationSchedule(run.evaluation.config.every_steps)]
    arguments = copy.copy(run.arguments)
    arguments.save_total_limit = None  # CheckpointCallback sees to it
    try:
        parts = Parts(
            made.student,
            arguments,
            run.mixture,
            made.collector,
            made.scorer,
            run.languages,
            run.tokenizer,
            evaluator,
            [MetricsCallback(run.folder), ProgressCallback(), checkpoints, *schedule],
            on_rollouts=RolloutLog(run.folder, run.tokenizer, run.config.log_rollouts) if run.is_main else None,
            ahead=run.config.rollouts.staleness > 0,
        )
        trainer = run.method.trainer(parts, examples or {})
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:  # by a value in `training`
        raise CrosslignError(f"training: {cause(error)}") from error
    # The Trainer's own printer writes every log line to standard output; metrics.jsonl and the bar replace it.
    trainer.remove_callback(PrinterCallback)
    return trainer


def autocast(run: PreparedRun) -> AbstractContextManager[Any]:
    """The mixed precision of the run, for what is computed outside its trainer."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.arguments.mixed_precision)
    return nullcontext() if dtype is None else torch.autocast(run.arguments.device.type, dtype)


def _evaluator(run: PreparedRun, made: Distillation, announce: Announce) -> CheckpointEvaluator:
    assert run.evaluation is not None
    config, plan = run.config, run.evaluation
    lora = config.model.finetuning == "lora"
    return CheckpointEvaluator(
        plan,
        run.folder,
        made.student,
        sampler_of(made.student, run.tokenizer, plan.config.batch_size),
        run.contexts,
        {
            "model": run.source.path if lora else config.output_dir,
            "revision": run.source.revision,
            "adapter": config.output_dir if lora else None,
            "dtype": str(made.student.dtype).removeprefix("torch."),
            **({"quantization": run.source.quantization} if run.source.quantization else {}),
        },
        trained=run.languages,
        source_language=config.data.source_language,
        thinking=bool(config.student.chat_template_kwargs.get("enable_thinking")),
        seed=config.seed,
        announce=announce,
    )
