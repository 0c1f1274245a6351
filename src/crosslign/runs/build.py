"""A checked run -> objects around loaded weights, and the run itself.

With `preparing`, whose names it hands on, the only module that knows both configuration and objects.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from crosslign.distillation import strategies
from crosslign.runs.config import RunConfig, dump
from crosslign.models import (
    FrozenTeacher,
    LoraSettings,
    SplitModel,
    StateStore,
    add_lora,
    causal_lm,
    free_bytes,
    freeze,
    load_model,
    split_model,
    token_ids,
)
from crosslign.objective import Objective
from crosslign.runs.prepare import (
    Gate,
    PreparedRun,
    context_builder,
    evaluation_plan,
    languages_of,
    load_tables,
    model_source,
    prepare,
    queries_of,
    without,
)
from crosslign.rollouts import CompletionCache, SamplingParameters, TransformersSampler
from crosslign.distillation import DistillationTrainer, DivergenceProbe, RolloutCollector
from crosslign.distillation.teacher_states import stored_bytes
from crosslign.runs.callbacks import FrozenTeacherCallback, MetricsCallback, ProgressCallback, RolloutLog
from crosslign.runs.folder import GATE, RunFolder
from crosslign.storage import cache_folder, is_disk_full, versions
from crosslign.types import CrosslignError
from crosslign.runs.checkpoint_evaluation import Announce, EvaluationSchedule, Plan, Watch, say_over_bar

__all__ = [
    "Gate",
    "PreparedRun",
    "cache_folder",
    "context_builder",
    "evaluation_plan",
    "languages_of",
    "load_tables",
    "make_trainer",
    "model_source",
    "prepare",
    "queries_of",
    "train",
    "versions",
    "without",
]

logger = logging.getLogger(__name__)


def make_trainer(run: PreparedRun, model: Any, announce: Announce = lambda text: None) -> DistillationTrainer:
    """Wire student, teacher, samplers, cache, trainer and evaluation around loaded weights."""
    config = run.config
    ids = token_ids(run.tokenizer, model)
    split = split_model(model)
    if config.model.finetuning == "lora":
        lora = config.model.lora
        targets = tuple(lora.target_modules) if isinstance(lora.target_modules, list) else lora.target_modules
        model = add_lora(model, LoraSettings(lora.r, lora.alpha, targets, lora.use_rslora), config.seed)
    else:
        freeze(model, config.model.frozen)
    dtype = config.teacher.dtype
    teacher = FrozenTeacher(model, getattr(torch, dtype) if dtype else None)
    cache = CompletionCache(cache_folder(config.cache_dir) / f"completions-{teacher.fingerprint}.jsonl")

    def sampler(policy: Any, batch_size: int = run.rollout_batch_size) -> TransformersSampler:
        return TransformersSampler(
            policy,
            stop_token_ids=ids.stop,
            pad_token_id=ids.pad,
            forbidden_token_ids=ids.forbidden,
            batch_size=batch_size,
        )

    def student() -> Any:
        return trainer.accelerator.unwrap_model(trainer.model)

    collector = RolloutCollector(
        run.contexts,
        strategies.get(config.strategy.name, config.strategy.options, seed=config.seed),
        sampler(lambda: nullcontext(student())),
        sampler(teacher.view),
        SamplingParameters(**config.sampling.model_dump(exclude={"batch_size"})),
        run.tokenizer,
        cache,
        teacher.fingerprint,
        seed=config.seed,
        max_judgement_length=config.teacher.max_judgement_length,
        drop_overflow=config.data.on_overflow == "drop",
    )
    first_process = run.arguments.process_index == 0
    rollout_log = RolloutLog(run.folder, run.tokenizer, config.log_rollouts) if first_process else None
    plan = run.evaluation
    watch = schedule = None
    if plan is not None:
        own = sampler(lambda: nullcontext(student()), plan.batch_size)
        watch = _watch(run, plan, own, student, lambda folder: _save_checked(trainer, folder), announce)
        schedule = EvaluationSchedule(plan, lambda: trainer)
    trainer: DistillationTrainer = DistillationTrainer(
        model,
        run.arguments,
        mixture=run.mixture,
        collector=collector,
        teacher=teacher,
        split=split,
        objective=Objective(**config.objective.model_dump()),
        pad_token_id=ids.pad,
        languages=languages_of(config, run.tables),
        on_rollouts=rollout_log,
        store=_state_store(config, teacher, split),
        processing_class=run.tokenizer,
        evaluator=watch,
        callbacks=[
            FrozenTeacherCallback(teacher),
            MetricsCallback(run.folder),
            ProgressCallback(),
            *([schedule] if schedule else []),
        ],
    )
    _quiet(trainer)
    return trainer


def _state_store(config: RunConfig, teacher: FrozenTeacher, split: SplitModel) -> StateStore | None:
    if not config.teacher.cache_hidden:
        return None
    if not split.exact:
        logger.warning("teacher.cache_hidden has no effect: this model gives full logits only, too large to keep.")
        return None
    return StateStore(cache_folder(config.cache_dir) / f"hidden-{teacher.fingerprint}")


def _say_stored_size(run: PreparedRun, trainer: DistillationTrainer, announce: Announce) -> None:
    """How much disk the teacher's hidden states may take, before the first is written."""
    store = trainer.teacher_states.store
    if store is None:
        return
    strategy = trainer.collector.strategy
    kept = sum(strategy.plan(q, 0).reusable for q in queries_of(run.tables, languages_of(run.config, run.tables)))
    if not kept:
        announce(f"teacher.cache_hidden has no effect: {run.config.strategy.name} uses no completion twice.")
        return
    lm = causal_lm(trainer.model)
    tokens = run.config.sampling.max_completion_length
    width, dtype = lm.config.get_text_config().hidden_size, lm.get_input_embeddings().weight.dtype
    most = stored_bytes(kept, tokens, width, dtype) / 1e9
    announce(
        f"keeping the teacher's hidden states in {store.folder}: at most {most:.2g} GB for {kept} completions of at "
        f"most {tokens} tokens; {free_bytes(store.folder) / 1e9:.3g} GB are free"
    )


def _watch(
    run: PreparedRun,
    plan: Plan,
    sampler: TransformersSampler,
    student: Callable[[], Any],
    save: Callable[[str], None],
    announce: Announce,
) -> Watch:
    config = run.config

    def manifest(step: int) -> Mapping[str, Any]:
        state = f"{config.output_dir}, step {step}"
        lora = config.model.finetuning == "lora"
        return {
            "model": run.source.path if lora else state,
            "revision": run.source.revision,
            "adapter": state if lora else None,
            "dtype": run.source.dtype,
            # As crosslign eval states it, so that the two can be compared.
            "sampling": {
                **dataclasses.asdict(plan.parameters),
                "thinking": bool(config.student.chat_template_kwargs.get("enable_thinking")),
            },
            "versions": versions(),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "limit": config.evaluation.limit if config.evaluation is not None else None,
        }

    return Watch(
        plan,
        run.folder,
        sampler,
        run.contexts,
        student,
        save,
        manifest,
        languages_of(config, run.tables),
        config.data.source_language,
        config.seed,
        say_over_bar(announce),
    )


def _save_checked(trainer: DistillationTrainer, folder: str) -> None:
    """Model and tokenizer, unless the frozen teacher has moved: what was trained against it means nothing."""
    trainer.teacher.check()
    trainer.save_model(folder, _internal_call=True)


def _quiet(trainer: DistillationTrainer) -> None:
    # The Trainer's own printer writes every log line to standard output; metrics.jsonl and the bar replace it.
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def train(
    run: PreparedRun,
    *,
    overwrite: bool = False,
    resume: bool = False,
    announce: Callable[[str], None] = lambda text: None,
) -> Mapping[str, Any]:
    """Load weights, train, save. Returns the run's record.

    `announce` gets lines for a person. Raises CrosslignError for what the user can mend (a full disk included); what
    was saved before stays.
    """
    announce(f"loading {run.source.path}")
    trainer = make_trainer(run, load_model(run.source), announce)
    main = run.arguments.process_index == 0
    if main and run.evaluation is not None:
        for note in run.evaluation.notes:
            announce(f"evaluation: {note}")
    if main:
        _say_stored_size(run, trainer, announce)
    checkpoint = run.folder.checkpoints()[-1] if resume else None
    record = _record(run, trainer)
    if main and checkpoint is not None:
        _check_same_teacher(run, record)
        announce(f"resuming from {checkpoint}")
    try:
        if main and checkpoint is not None:
            run.folder.forget_after(int(checkpoint.name.rpartition("-")[2]))
        elif main:
            run.folder.start(record, dump(run.config), overwrite=overwrite)
            for row in run.gate.rows if run.gate is not None else ():
                run.folder.append(GATE, row)
        # The first process measures alone; nothing in it waits for the others.
        probe = DivergenceProbe(trainer, run.config.probe_queries if main else 0)
        before = probe.measure()
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if main:
            run.folder.publish(lambda folder: trainer.save_model(folder, _internal_call=True))
            if run.arguments.push_to_hub:
                trainer.push_to_hub()
            cache, store = trainer.collector.cache, trainer.teacher_states.store
            measured = {"queries": len(probe.rollouts), "before": before, "after": probe.measure()}
            run.folder.update(
                {
                    "status": "finished",
                    "steps": trainer.state.global_step,
                    "seconds": round(result.metrics["train_runtime"], 1),
                    "final_loss": _last_loss(trainer),
                    "probe": measured,
                    "cache": {"hits": cache.hits, "misses": cache.misses},
                    **({"hidden_cache": {"hits": store.hits, "misses": store.misses}} if store is not None else {}),
                }
            )
    except KeyboardInterrupt:
        raise CrosslignError(f"interrupted. {_how_to_resume(run.folder)}") from None
    except Exception as error:
        if is_disk_full(error):
            raise CrosslignError(f"the disk is full: {error}. Free some space. {_how_to_resume(run.folder)}") from error
        raise
    return run.folder.record() if main else {}


def _last_loss(trainer: DistillationTrainer) -> float | None:
    return next((entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry), None)


def _record(run: PreparedRun, trainer: DistillationTrainer) -> dict[str, Any]:
    return {
        "model": run.source.path,
        "finetuning": run.config.model.finetuning,
        "teacher_fingerprint": trainer.teacher.fingerprint,
        "data": [{"table": t.name, "rows": len(t.rows), "fingerprint": t.fingerprint()} for t in run.tables],
        "dropped": [
            {"query": o.query.id, "language": o.query.language, "context": o.role, "tokens": o.length}
            for o in run.dropped
        ],
        "versions": versions(),
        **({"gate": dict(run.gate.record)} if run.gate is not None else {}),
    }


def _check_same_teacher(run: PreparedRun, record: Mapping[str, Any]) -> None:
    before = run.folder.record()
    for key, what in (("teacher_fingerprint", "the model's weights"), ("data", "the data")):
        if before.get(key) != record[key]:
            raise CrosslignError(
                f"{run.folder.path}: {what} differ from those of the run that is to be resumed "
                f"(then: {before.get(key)}; now: {record[key]})."
            )


def _how_to_resume(folder: RunFolder) -> str:
    checkpoints = folder.checkpoints()
    if not checkpoints:
        return "No checkpoint was complete yet; start anew with --overwrite (or set training.save_steps lower)."
    return f"The last complete checkpoint is {checkpoints[-1]}; continue with --resume."
