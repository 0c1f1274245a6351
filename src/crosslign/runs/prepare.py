"""Configuration -> a checked run: everything that can be checked without weights."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import TrainingArguments

from crosslign import baselines
from crosslign.baselines import Method, SaysAgain
from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.data.load import TableSpec, require_table
from crosslign.data.mixture import QueryMixture
from crosslign.data.schema import QueryTable
from crosslign.distillation import check_teacher_temperature, strategies
from crosslign.evaluation.judges.base import Judge
from crosslign.languages import english_name
from crosslign.models import (
    ModelSource,
    add_lora,
    check_source,
    freeze,
    load_skeleton,
    load_tokenizer,
    output_head,
)
from crosslign.models.load import configuration
from crosslign.objective.head import is_linear
from crosslign.ownership import check_can_be_made
from crosslign.rollouts.progress import progress
from crosslign.runs.arguments import has_engine, queries_per_step, training_arguments
from crosslign.runs.checkpoint_evaluation import Plan, make_plan
from crosslign.runs.config import GateConfig, ModelConfig, RunConfig
from crosslign.runs.contexts import check_templates, context_builder
from crosslign.runs.evaluate import checked_judges
from crosslign.runs.folder import RunFolder
from crosslign.runs.gate.queries import queries_to_probe
from crosslign.runs.resume import check_same, check_same_run
from crosslign.runs.serve import check_served
from crosslign.storage import cache_folder
from crosslign.translation import Translator, TranslatorSettings, translators
from crosslign.types import CrosslignError, Query

logger = logging.getLogger(__name__)


@dataclass
class PreparedRun:
    """A checked run, before weights.

    Fields:
        languages: that are trained on, all that the mixture can draw.
        checkpoint: where a resumed run goes on, once `train` has looked; None for a new run.
        method: how it trains.
        given: what `describe_tables` says of the tables before gate and method leave rows out.
        gate_judge: judges the teacher gate, and what the method needs verdicts of; None if nothing is judged.
        translator: of answers, if the method names one.
    """

    config: RunConfig
    source: ModelSource
    tokenizer: Any
    tables: list[QueryTable]
    languages: list[str]
    contexts: ContextBuilder
    mixture: QueryMixture
    arguments: TrainingArguments
    folder: RunFolder
    method: Method
    dropped: list[ContextOverflow]
    overwrite: bool = False
    resume: bool = False
    checkpoint: Path | None = None
    evaluation: Plan | None = None
    given: list[dict[str, Any]] = field(default_factory=list)
    gate_judge: Judge | None = None
    translator: Translator | None = None

    @property
    def rollout_batch_size(self) -> int:
        """Rows in one call of `generate`: what the recipe says, or a whole accumulation window."""
        window = self.arguments.per_device_train_batch_size * self.arguments.gradient_accumulation_steps
        return self.config.sampling.batch_size or window

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.arguments.process_index == 0


def model_source(config: RunConfig) -> ModelSource:
    m = config.model
    return ModelSource(
        m.path,
        m.revision,
        m.tokenizer,
        m.chat_template,
        m.dtype,
        m.attn_implementation,
        m.trust_remote_code,
        m.quantization,
    )


def check_trusted(source: ModelSource, trusted: bool, whose: str) -> None:
    """Raise CrosslignError for a model with code of its own that another's recipe trusts, and this user does not."""
    if source.trust_remote_code and not trusted:
        raise CrosslignError(
            f"{whose}: its model brings code of its own. If you trust its authors, add --trust-remote-code."
        )


def sources(config: RunConfig) -> dict[str, str | None]:
    """What a run reads, path or hub id by key."""
    found = {f"model.{name}": getattr(config.model, name) for name in ("path", "tokenizer", "chat_template")}
    found |= {f"data.tables.{n}.path": table.path for n, table in enumerate(config.data.tables)}
    if isinstance(config.teacher.template, str) and Path(config.teacher.template).is_file():
        found["teacher.template"] = config.teacher.template
    found |= {
        f"data.tables.{n}.teacher": table.teacher
        for n, table in enumerate(config.data.tables)
        if table.teacher is not None and Path(table.teacher).is_file()
    }
    judges = [section.judge for section in (config.evaluation, config.gate) if section is not None]
    names = [name for judge in judges for name in judge.names]
    if config.evaluation is not None:
        names += [task.name for task in config.evaluation.tasks]
        found |= {f"the path of {task.name}": task.path for task in config.evaluation.tasks}
    return found | {name: name.rpartition(":")[2] for name in names if name.startswith(("table:", "guard:"))}


def prepare(
    config: RunConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    check_folder: bool = True,
    check_server: bool = True,
    weights: bool = True,
) -> PreparedRun:
    """Check configuration, data, templates, lengths, judges and output folder. No weights are loaded.

    With `weights=False` a model's folder may be without any: enough to see what the run would need.

    Raises CrosslignError at the first part that is wrong, with all of that part's mistakes.
    """
    folder = RunFolder(config.output_dir)
    folder.check_sources(sources(config))
    check_can_be_made(cache_folder(config.cache_dir), "cache_dir")
    # Several processes: the first one looks, in `train`, and tells the others.
    if check_folder and "RANK" not in os.environ:
        folder.check_unlocked()
        folder.check(overwrite=overwrite, resume=resume)
    strategies.get(config.strategy.name, config.strategy.options, seed=config.seed)
    arguments = training_arguments(config.training, output_dir=config.output_dir, seed=config.seed)
    method = baselines.get(config.method.name, config.method.options)
    if not method.sharded and has_engine(arguments):
        raise CrosslignError(
            f"method: {config.method.name} does not train weights in parts (FSDP, DeepSpeed). Train with one process a "
            "GPU that holds the model, or with method msd."
        )
    if config.model.quantization is not None and has_engine(arguments):
        raise CrosslignError(
            f"model.quantization: {config.model.quantization} does not work with FSDP or DeepSpeed, which split "
            "weights into parts. Leave one of them out."
        )
    if resume:
        check_same_run(config, folder, arguments)
    source = model_source(config)
    check_source(source, weights=weights)
    if config.teacher.temperature != 1:
        check_teacher_temperature(config.teacher.temperature, linear=has_linear_head(source))
    _check_trained(config.model, source)
    if check_server:
        check_served(config)
    check_templates(config)
    tables = load_tables(config)
    languages = config.data.languages or list(dict.fromkeys(lang for table in tables for lang in table.languages))
    tokenizer = load_tokenizer(source)
    contexts = context_builder(config, tokenizer, tables)
    tables, dropped = _check_lengths(config, tables, languages, contexts, positions(source))
    mixture = _mixture(config, tables, languages, arguments)
    run = PreparedRun(
        config,
        source,
        tokenizer,
        tables,
        languages,
        contexts,
        mixture,
        arguments,
        folder,
        method,
        dropped,
        overwrite=overwrite,
        resume=resume,
        given=describe_tables(tables),
    )
    if resume and "given" in folder.record():  # older records lack it
        check_same(folder, "given", "the data", run.given)
    if config.evaluation is not None:
        run.evaluation = make_plan(
            config.evaluation,
            contexts,
            languages=languages,
            source_language=config.data.source_language,
            tested=[config.model.path, config.output_dir],
            trained_on=trained_queries(tables, languages),
        )
        run.arguments.eval_on_start = config.evaluation.at_start and not resume
    if config.gate is not None or method.judged:
        judge = (config.gate or GateConfig()).judge
        (run.gate_judge,) = checked_judges(judge, "gate.judge", tested=[source.path], only=1)
    if isinstance(method, SaysAgain) and method.translator:
        settings = TranslatorSettings(url=method.translator_url)
        run.translator = translators.from_spec(method.translator, Translator, settings=settings)
        for pair in method.directions(languages, config.data.source_language):
            run.translator.check(*pair)
    if config.gate is not None:
        queries_to_probe(tables, languages, config.gate.queries, config.seed)
    return run


def has_linear_head(source: ModelSource) -> bool:
    """Whether logits are a linear function of hidden states, as far as the configuration says; without weights."""
    try:
        return is_linear(output_head(load_skeleton(source)))
    except (CrosslignError, AttributeError, TypeError, NotImplementedError):
        return True  # loading the weights says what is wrong, or how such a model is split


def positions(source: ModelSource) -> int | None:
    """How many positions the model knows, by its configuration; None where that does not say, or scales them."""
    try:
        text = configuration(source).get_text_config()
    except CrosslignError:
        return None  # loading the weights says what is wrong
    rope = getattr(text, "rope_parameters", None) or {}  # of all layers, or for each kind of them
    kinds = {part.get("rope_type", "default") for part in (rope, *rope.values()) if isinstance(part, dict)}
    found = getattr(text, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 and kinds <= {"default"} else None


def as_trained(model: Any, section: ModelConfig, seed: int = 0) -> Any:
    """The model with a fresh adapter, or with what the recipe freezes. Raises CrosslignError for what it lacks."""
    if section.finetuning == "lora":
        return add_lora(model, lora_settings(section), seed)
    freeze(model, section.frozen)
    return model


def lora_settings(section: ModelConfig) -> LoraConfig:
    lora = section.lora
    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=lora.target_modules, use_rslora=lora.use_rslora)


def _check_trained(section: ModelConfig, source: ModelSource) -> None:
    """Raise CrosslignError for names in `model.lora` or `model.frozen` that the model lacks, by its configuration."""
    if not section.frozen and (section.finetuning == "full" or section.lora.target_modules == "all-linear"):
        return
    try:
        skeleton = load_skeleton(source)
    except CrosslignError:
        return  # loading the weights says what is wrong
    with torch.device("meta"):
        as_trained(skeleton, section)


def without(run: PreparedRun, keys: Iterable[str]) -> PreparedRun:
    """The run without the queries of these keys (`Query.key`), its mixture made anew.

    Raises CrosslignError if too few queries are left.
    """
    gone = frozenset(keys)
    tables = [dataclasses.replace(table, excluded=table.excluded | gone) for table in run.tables]
    return dataclasses.replace(run, tables=tables, mixture=_mixture(run.config, tables, run.languages, run.arguments))


def queries_of(tables: Sequence[QueryTable], languages: Sequence[str]) -> list[Query]:
    return [q for t in tables for q in t.queries([lang for lang in languages if lang in t.languages])]


def trained_queries(tables: Sequence[QueryTable], languages: Sequence[str]) -> list[Query]:
    return queries_of([table for table in tables if table.weight > 0], languages)


def describe_tables(tables: Sequence[QueryTable]) -> list[dict[str, Any]]:
    """What records say of the data."""
    return [{"table": t.name, "rows": len(t.rows), "fingerprint": t.fingerprint()} for t in tables]


def describe_provenance(tables: Sequence[QueryTable]) -> dict[str, Any]:
    """What records say of where the texts of translated tables come from, by table."""
    return {t.name: dict(t.provenance) for t in tables if t.provenance is not None}


def load_tables(config: RunConfig) -> list[QueryTable]:
    """Read and check all tables. A language that was asked for must be in at least one of them."""
    data = config.data
    for language in (data.source_language, *(data.languages or ())):
        english_name(language)
    tables = []
    for entry in data.tables:
        spec = TableSpec(**entry.model_dump(exclude={"teacher"}))
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


def _mixture(
    config: RunConfig, tables: Sequence[QueryTable], languages: Sequence[str], arguments: TrainingArguments
) -> QueryMixture:
    mixture = QueryMixture(
        tables, languages, seed=config.seed, balance=config.data.balance, epoch_size=config.data.epoch_size
    )
    batch = queries_per_step(arguments)
    if batch > len(mixture):
        raise CrosslignError(
            f"a step takes {batch} queries (per_device_train_batch_size {arguments.per_device_train_batch_size} x "
            f"gradient_accumulation_steps {arguments.gradient_accumulation_steps} x {arguments.world_size} processes), "
            f"but an epoch has only {len(mixture)}. Lower one of them, or add queries."
        )
    return mixture


def _check_lengths(
    config: RunConfig,
    tables: list[QueryTable],
    languages: Sequence[str],
    contexts: ContextBuilder,
    known: int | None,
) -> tuple[list[QueryTable], list[ContextOverflow]]:
    dropped: list[ContextOverflow] = []
    written = config.sampling.max_completion_length
    queries = queries_of(tables, languages)
    with progress(len(queries), "checking context lengths", "query") as bar:
        for query in queries:
            try:
                length = contexts.check(query)
                if known is not None and length + written > known:
                    raise CrosslignError(
                        f"query {query.id!r} ({query.language}): its context of {length} tokens and a completion of "
                        f"{written} are more than the {known} positions that the model knows. Lower "
                        "sampling.max_completion_length or teacher.max_judgement_length. Or leave such queries out: "
                        f"student.max_length and teacher.max_length {max(known - written, 8)}, data.on_overflow: "
                        "drop."
                    )
            except ContextOverflow as overflow:
                dropped.append(overflow)
            bar.update(1)
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
