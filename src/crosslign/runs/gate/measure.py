"""Sample, judge and compare: the student and the teacher contexts of an untrained run."""

from __future__ import annotations

import copy
import dataclasses
import gc
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tqdm.auto import tqdm

from crosslign.runs import build
from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.evaluation.fidelity import LanguageFidelity
from crosslign.evaluation.judges.base import Judge
from crosslign.models import load_model
from crosslign.runs.gate.rates import FIRST_TOKENS, Answer, Pair, Score
from crosslign.rollouts import Sampler, SamplingParameters
from crosslign.distillation import DistillationTrainer
from crosslign.runs.folder import RunFolder
from crosslign.types import Completion, Context, JudgeItem, Query, Rollout

logger = logging.getLogger(__name__)

CHUNK = 64  # answers that a judge gets at a time


@contextmanager
def untrained(run: build.PreparedRun) -> Iterator[DistillationTrainer]:
    """The run's trainer before its first step. It cannot write into the run's folder or make a hub repository."""
    with tempfile.TemporaryDirectory(prefix="crosslign-probe-") as folder:
        arguments = copy.copy(run.arguments)
        arguments.output_dir, arguments.push_to_hub = folder, False
        elsewhere = dataclasses.replace(run, arguments=arguments, folder=RunFolder(folder), evaluation=None)
        yield build.make_trainer(elsewhere, load_model(run.source))


def release() -> None:
    """Give the memory of a trainer that is not used any more back before the next one is made."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(
    trainer: DistillationTrainer,
    templates: Mapping[str, ContextBuilder],
    queries: Sequence[Query],
    judge: Judge,
    *,
    batch_size: int,
    drop_overflow: bool = False,
) -> dict[str, list[Pair]]:
    """Every query answered by the student and from each template's teacher context, greedily; pairs in order.

    The student answers once for all templates. Harmful queries are scored too: divergence and DPSW weights on the
    student's completion, whatever weighting the recipe trains with.

    A query that is too long for one of the contexts raises ContextOverflow, or is left out with `drop_overflow`: of all
    templates if that shows before sampling, which it nearly always does.
    """
    quiet = None if trainer.args.process_index == 0 else True
    queries = _short_enough(templates, queries, drop_overflow)
    first = next(iter(templates.values()))
    students = [first.student(query) for query in queries]
    samples = _sample(trainer, trainer.collector.student, students, batch_size, "student", quiet)
    answers = _judged(trainer, judge, queries, samples, "student", quiet)
    languages = list(dict.fromkeys(query.language for query in queries))
    fidelity = LanguageFidelity(languages, queries[0].source_language) if queries else None
    result: dict[str, list[Pair]] = {}
    for name, builder in templates.items():
        judgements = _judgements(trainer, builder, queries, batch_size, f"{name}: judgement", quiet)
        teachers = _teacher_contexts(builder, queries, judgements, drop_overflow)
        kept = [i for i, context in enumerate(teachers) if context is not None]
        contexts = [context for context in teachers if context is not None]
        asked = [queries[i] for i in kept]
        completions = _sample(trainer, trainer.collector.teacher, contexts, batch_size, f"{name}: teacher", quiet)
        replies = _judged(trainer, judge, asked, completions, f"{name}: teacher", quiet)
        rollouts = [
            Rollout(query, students[i], context, samples[i], "student", "student")
            for i, query, context in zip(kept, asked, contexts, strict=True)
        ]
        scores = _scores(trainer, [r for r in rollouts if r.query.label == "harmful"], f"{name}: divergence", quiet)
        result[name] = []
        for i, query, reply in zip(kept, asked, replies, strict=True):
            assert fidelity is not None
            spoken = fidelity.detect(reply.completion, query.language)
            result[name].append(Pair(query, answers[i], reply, spoken, scores.get(query.key), judgements[i]))
    return result


def _short_enough(templates: Mapping[str, ContextBuilder], queries: Sequence[Query], drop: bool) -> list[Query]:
    kept = []
    for query in queries:
        try:
            for builder in templates.values():
                builder.check(query)
        except ContextOverflow as overflow:
            if not drop:
                raise
            logger.warning("left out: %s", overflow)
            continue
        kept.append(query)
    return kept


def _sample(
    trainer: DistillationTrainer,
    sampler: Sampler,
    contexts: Sequence[Context],
    batch_size: int,
    what: str,
    quiet: bool | None,
) -> list[Completion]:
    """Greedy completions in the contexts' order; sampled by length, the longest first."""
    parameters = SamplingParameters(
        temperature=0, max_completion_length=trainer.collector.parameters.max_completion_length
    )
    order = sorted(range(len(contexts)), key=lambda i: (-len(contexts[i].token_ids), i))
    done: dict[int, Completion] = {}
    with tqdm(total=len(order), desc=what, unit="completion", disable=quiet) as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            prompts = [contexts[i].token_ids for i in batch]
            completions = sampler.sample(prompts, parameters, seed=trainer.collector.seed)
            done.update(zip(batch, completions, strict=True))
            bar.update(len(batch))
    return [done[i] for i in range(len(contexts))]


def _judgements(
    trainer: DistillationTrainer,
    builder: ContextBuilder,
    queries: Sequence[Query],
    batch_size: int,
    what: str,
    quiet: bool | None,
) -> list[str | None]:
    """By the collector that training uses, so its cache serves both."""
    if not builder.needs_judgement:
        return [None] * len(queries)
    collector = copy.copy(trainer.collector)
    collector.contexts = builder
    found: list[str | None] = []
    with tqdm(total=len(queries), desc=what, unit="judgement", disable=quiet) as bar:
        for start in range(0, len(queries), batch_size):
            batch = queries[start : start + batch_size]
            found += collector.judgements(batch)
            bar.update(len(batch))
    return found


def _teacher_contexts(
    builder: ContextBuilder, queries: Sequence[Query], judgements: Sequence[str | None], drop: bool
) -> list[Context | None]:
    contexts: list[Context | None] = []
    for query, judgement in zip(queries, judgements, strict=True):
        try:
            contexts.append(builder.teacher(query, judgement))
        except ContextOverflow as overflow:
            if not drop:
                raise
            logger.warning("left out: %s", overflow)
            contexts.append(None)
    return contexts


def _judged(
    trainer: DistillationTrainer,
    judge: Judge,
    queries: Sequence[Query],
    completions: Sequence[Completion],
    what: str,
    quiet: bool | None,
) -> list[Answer]:
    decode = trainer.collector.tokenizer.decode
    items = [
        JudgeItem(query, decode(list(c.token_ids), skip_special_tokens=True), c.truncated)
        for query, c in zip(queries, completions, strict=True)
    ]
    answers: list[Answer] = []
    with tqdm(total=len(items), desc=f"{what}: {judge.name}", unit="verdict", disable=quiet) as bar:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            for item, verdict in zip(chunk, judge.judge(chunk), strict=True):
                answers.append(Answer(item.completion, item.truncated, verdict))
            bar.update(len(chunk))
    return answers


@torch.no_grad()
def _scores(
    trainer: DistillationTrainer, rollouts: Sequence[Rollout], what: str, quiet: bool | None
) -> dict[str, Score]:
    """Scores by query key, in batches of the size that training uses."""
    scores: dict[str, Score] = {}
    size = trainer.args.per_device_train_batch_size
    ordered = sorted(rollouts, key=lambda r: -len(r.teacher_context.token_ids) - len(r.completion.token_ids))
    with _dpsw(trainer), tqdm(total=len(ordered), desc=what, unit="completion", disable=quiet) as bar:
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            result, mask = trainer.score(trainer.accelerator.unwrap_model(trainer.model), batch)
            for row, rollout in enumerate(batch):
                weight: Any = result.weight[row]
                total = float(weight.sum())
                scores[rollout.query.key] = Score(
                    int(mask[row].sum()),
                    float(result.divergence[row].sum()),
                    float(weight[:FIRST_TOKENS].sum()) / total if total > 0 else None,
                )
            bar.update(len(batch))
    return scores


@contextmanager
def _dpsw(trainer: DistillationTrainer) -> Iterator[None]:
    """Inside, tokens are weighed by DPSW, also where the recipe weighs otherwise; divergences do not depend on it."""
    objective = trainer.objective
    trainer.objective = dataclasses.replace(objective, weighting="dpsw")
    try:
        yield
    finally:
        trainer.objective = objective
