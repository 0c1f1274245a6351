"""Configuration -> objects: the only module that knows both.

`prepare` checks everything that can be checked without weights; `train` loads them and runs.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainingArguments

from crosslign import strategies
from crosslign.config import RunConfig, dump, parse_yaml
from crosslign.contexts import ContextBuilder, ContextOverflow, RoleContext, load_teacher_template, student_messages
from crosslign.data.load import TableSpec, require_table
from crosslign.data.mixture import QueryMixture
from crosslign.data.schema import QueryTable
from crosslign.evaluation.best import Criterion
from crosslign.languages import english_name
from crosslign.models import (
    FrozenTeacher,
    LoraSettings,
    ModelSource,
    SplitModel,
    StateStore,
    add_lora,
    causal_lm,
    check_source,
    free_bytes,
    freeze,
    load_model,
    load_tokenizer,
    split_model,
    token_ids,
)
from crosslign.objective import Objective
from crosslign.rollouts import CompletionCache, SamplingParameters, TransformersSampler
from crosslign.training import (
    GATE,
    DistillationTrainer,
    DivergenceProbe,
    FrozenTeacherCallback,
    MetricsCallback,
    ProgressCallback,
    RolloutCollector,
    RolloutLog,
    RunFolder,
    is_disk_full,
    stored_bytes,
    training_arguments,
)
from crosslign.types import CrosslignError, Query
from crosslign.watching import Announce, EvaluationSchedule, Plan, Watch, make_plan, say_over_bar

logger = logging.getLogger(__name__)

# A resumed run must be the same run; these may change.
RESUMABLE_CHANGES = {"output_dir", "log_rollouts", "probe_queries", "cache_dir", "training"}


@dataclass(frozen=True)
class Gate:
    """What the teacher gate found before training: the entry of `run.json`, and rows for `gate.jsonl`."""

    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()


@dataclass
class PreparedRun:
    """A checked run, before weights."""

    config: RunConfig
    source: ModelSource
    tokenizer: Any
    tables: list[QueryTable]
    contexts: ContextBuilder
    mixture: QueryMixture
    arguments: TrainingArguments
    folder: RunFolder
    dropped: list[ContextOverflow]
    evaluation: Plan | None = None
    gate: Gate | None = None


def model_source(config: RunConfig) -> ModelSource:
    m = config.model
    return ModelSource(
        m.path, m.revision, m.tokenizer, m.chat_template, m.dtype, m.attn_implementation, m.trust_remote_code
    )


def context_builder(config: RunConfig, tokenizer: Any) -> ContextBuilder:
    template = load_teacher_template(config.teacher.template)
    if config.teacher.judgement is not None:
        template = dataclasses.replace(template, judgement=config.teacher.judgement)
    student, teacher = config.student, config.teacher
    return ContextBuilder(
        tokenizer,
        RoleContext(student_messages(student.messages), student.max_length, student.chat_template_kwargs),
        RoleContext(template.messages, teacher.max_length, teacher.chat_template_kwargs),
        template,
        teacher.max_judgement_length,
    )


def load_tables(config: RunConfig) -> list[QueryTable]:
    """Read and check all tables. A language that was asked for must be in at least one of them."""
    data = config.data
    for language in (data.source_language, *(data.languages or ())):
        english_name(language)
    tables = []
    for entry in data.tables:
        spec = TableSpec(**entry.model_dump())
        table = require_table(spec, data.source_language, data.languages, missing="skip")
        if not table.languages:
            columns = require_table(spec, data.source_language, None).languages
            raise CrosslignError(
                f"{entry.path}: has none of data.languages ({', '.join(data.languages or ())}); "
                f"its languages: {', '.join(columns)}."
            )
        tables.append(table)
    for language in data.languages or ():
        if not any(language in t.languages for t in tables):
            names = ", ".join(t.name for t in tables)
            raise CrosslignError(f"data.languages: no table has a text in {language!r} (tables: {names}).")
    return tables


def languages_of(config: RunConfig, tables: Sequence[QueryTable]) -> list[str]:
    if config.data.languages is not None:
        return list(config.data.languages)
    return list(dict.fromkeys(lang for table in tables for lang in table.languages))


def prepare(
    config: RunConfig, *, overwrite: bool = False, resume: bool = False, check_folder: bool = True
) -> PreparedRun:
    """Check configuration, data, templates, lengths and output folder. No weights are loaded.

    Raises CrosslignError at the first part that is wrong, with all of that part's mistakes.
    """
    folder = RunFolder(config.output_dir)
    # Of several processes only the first looks: it may have started the folder before the others come here.
    if check_folder and int(os.environ.get("RANK", "0")) == 0:
        folder.check(overwrite=overwrite, resume=resume)
    strategies.get(config.strategy.name, config.strategy.options, seed=config.seed)
    arguments = training_arguments(config.training, output_dir=config.output_dir, seed=config.seed)
    if resume:
        _check_same_run(config, folder)
    source = model_source(config)
    check_source(source)
    load_teacher_template(config.teacher.template)
    tables = load_tables(config)
    tokenizer = load_tokenizer(source)
    contexts = context_builder(config, tokenizer)
    languages = languages_of(config, tables)
    tables, dropped = _check_lengths(config, tables, languages, contexts)
    mixture = _mixture(config, tables, languages, arguments)
    plan = evaluation_plan(config, tables, languages, contexts)
    return PreparedRun(config, source, tokenizer, tables, contexts, mixture, arguments, folder, dropped, plan)


def _mixture(
    config: RunConfig, tables: Sequence[QueryTable], languages: Sequence[str], arguments: TrainingArguments
) -> QueryMixture:
    mixture = QueryMixture(
        tables, languages, seed=config.seed, balance=config.data.balance, epoch_size=config.data.epoch_size
    )
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    if batch > len(mixture):
        raise CrosslignError(
            f"a step takes {batch} queries (per_device_train_batch_size {arguments.per_device_train_batch_size} x "
            f"gradient_accumulation_steps {arguments.gradient_accumulation_steps} x {arguments.world_size} processes), "
            f"but an epoch has only {len(mixture)}. Lower one of them, or add queries."
        )
    return mixture


def evaluation_plan(
    config: RunConfig, tables: Sequence[QueryTable], languages: Sequence[str], contexts: ContextBuilder
) -> Plan | None:
    """The recipe's `evaluation`, checked; None if it has none."""
    section = config.evaluation
    if section is None:
        return None
    for language in section.languages or ():
        english_name(language)
    return make_plan(
        section.tasks,
        section.judge,
        section.languages or languages,
        contexts,
        limit=section.limit,
        source_language=config.data.source_language,
        judge_url=section.judge_url,
        tested=[config.model.path, config.output_dir],
        trained_on=queries_of(tables, languages),
        best=Criterion(**section.best.model_dump()) if section.best is not None else None,
        **section.model_dump(include={"every_steps", "at_start", "max_completion_length", "batch_size"}),
    )


def without(run: PreparedRun, keys: Iterable[str]) -> PreparedRun:
    """The run without the queries of these keys (`Query.key`), its mixture made anew.

    Raises CrosslignError if too few queries are left.
    """
    gone = frozenset(keys)
    languages = languages_of(run.config, run.tables)
    tables = [dataclasses.replace(table, excluded=table.excluded | gone) for table in run.tables]
    return dataclasses.replace(run, tables=tables, mixture=_mixture(run.config, tables, languages, run.arguments))


def _check_lengths(
    config: RunConfig, tables: list[QueryTable], languages: Sequence[str], contexts: ContextBuilder
) -> tuple[list[QueryTable], list[ContextOverflow]]:
    dropped: list[ContextOverflow] = []
    queries = queries_of(tables, languages)
    for query in tqdm(queries, desc="checking context lengths", unit="query", disable=None, leave=False):
        try:
            contexts.check(query)
        except ContextOverflow as overflow:
            dropped.append(overflow)
    if dropped and config.data.on_overflow == "error":
        rest = f"\n... and {len(dropped) - 10} more" if len(dropped) > 10 else ""
        raise CrosslignError("\n".join(str(o) for o in dropped[:10]) + rest)
    for gone in dropped:
        logger.warning(
            "left out: query %s (%s): %s context of %d tokens, limit %d",
            gone.query.id,
            gone.query.language,
            gone.role,
            gone.length,
            gone.limit,
        )
    excluded = frozenset(o.query.key for o in dropped)
    return [dataclasses.replace(table, excluded=excluded) for table in tables], dropped


def _check_same_run(config: RunConfig, folder: RunFolder) -> None:
    try:
        before = parse_yaml((folder.path / "config.yaml").read_text(encoding="utf-8"))
    except OSError as error:
        raise CrosslignError(f"{folder.path}: config.yaml is missing, so the run cannot be resumed.") from error
    now = config.model_dump(mode="json")
    for section in now:
        if section not in RESUMABLE_CHANGES and now[section] != before.get(section):
            raise CrosslignError(
                f"{folder.path}: {section} differs from the run that is to be resumed "
                f"(then: {before.get(section)}; now: {now[section]}). Resume with the old recipe, "
                f"{folder.path / 'config.yaml'}, or start anew in another output_dir."
            )


def cache_folder(config: RunConfig) -> Path:
    if config.cache_dir is not None:
        return Path(config.cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosslign"


def versions() -> dict[str, str]:
    """Versions of what can change a result."""
    result = {"python": platform.python_version()}
    for name in ("crosslign", "torch", "transformers", "peft", "accelerate", "datasets"):
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


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
    cache = CompletionCache(cache_folder(config) / f"completions-{teacher.fingerprint}.jsonl")

    def sampler(policy: Any, batch_size: int = config.sampling.batch_size) -> TransformersSampler:
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
    return StateStore(cache_folder(config) / f"hidden-{teacher.fingerprint}")


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


def queries_of(tables: Sequence[QueryTable], languages: Sequence[str]) -> list[Query]:
    return [q for t in tables for q in t.queries([lang for lang in languages if lang in t.languages])]
