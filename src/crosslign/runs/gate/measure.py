"""Sample, judge and compare: the student and the teacher contexts of an untrained run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.distillation import write_judgements
from crosslign.evaluation.fidelity import fidelity_of
from crosslign.evaluation.judges.base import Judge, ask
from crosslign.evaluation.rates import JudgedRow
from crosslign.evaluation.stages import CHUNK
from crosslign.rollouts.progress import progress
from crosslign.runs.build import Distillation, autocast
from crosslign.runs.gate.rates import FIRST_TOKENS, Divergence, Pair
from crosslign.runs.prepare import PreparedRun
from crosslign.types import Completion, Context, JudgeItem, Query, Rollout

logger = logging.getLogger(__name__)

BATCH = 16  # prompts in one call of generate, as in an evaluation; more where training's window is larger


def measure(
    run: PreparedRun,
    made: Distillation,
    templates: Mapping[str, ContextBuilder],
    queries: Sequence[Query],
    judge: Judge,
    *,
    divergence: bool = False,
) -> dict[str, list[Pair]]:
    """Every query answered by the student and from each template's teacher context; pairs in order.

    Both are sampled as training samples, from the frozen model, which the student is at the start, and through the
    cache that training uses. The student answers once for all templates. With `divergence` harmful queries are scored
    too: divergence and DPSW weights on the student's completion, whatever weighting the recipe trains with.

    A query that is too long for one of the contexts raises ContextOverflow, or is left out if the recipe says so
    (`data.on_overflow`): of all templates if that shows before sampling, which it nearly always does.
    """
    answering = Answering(run, made, judge)
    queries = answering.short_enough(templates, queries)
    first = next(iter(templates.values()))
    students = [first.student(query) for query in queries]
    samples = answering.sample(students, "student")
    answers = answering.judged(queries, samples, "student")
    result: dict[str, list[Pair]] = {}
    for name, builder in templates.items():
        judgements = answering.judgements(builder, queries, f"{name}: judgement")
        teachers = answering.teacher_contexts(builder, queries, judgements)
        kept = [i for i, context in enumerate(teachers) if context is not None]
        contexts = [context for context in teachers if context is not None]
        asked = [queries[i] for i in kept]
        completions = answering.sample(contexts, f"{name}: teacher")
        replies = answering.judged(asked, completions, f"{name}: teacher")
        rollouts = [
            Rollout(query, students[i], context, samples[i], "student", "student")
            for i, query, context in zip(kept, asked, contexts, strict=True)
            if divergence and query.label == "harmful"
        ]
        scores = answering.divergences(rollouts, f"{name}: divergence") if rollouts else {}
        result[name] = [
            Pair(answers[i], reply, scores.get(reply.query.key), judgements[i])
            for i, reply in zip(kept, replies, strict=True)
        ]
    return result


class Writing:
    """The frozen model writes, as in training and through its cache, with a bar."""

    def __init__(self, run: PreparedRun, made: Distillation) -> None:
        self.run, self.made = run, made
        self.drop = run.config.data.on_overflow == "drop"
        self.quiet = not run.is_main
        self.size = run.config.sampling.batch_size or max(BATCH, run.rollout_batch_size)

    def short_enough(self, templates: Mapping[str, ContextBuilder], queries: Sequence[Query]) -> list[Query]:
        kept = []
        for query in queries:
            try:
                for builder in templates.values():
                    builder.check(query)
            except ContextOverflow as overflow:
                self._leave_out(overflow)
                continue
            kept.append(query)
        return kept

    def sample(self, contexts: Sequence[Context], what: str) -> list[Completion]:
        """Completions in the contexts' order; sampled by length, the longest first."""
        order = sorted(range(len(contexts)), key=lambda i: (-len(contexts[i].token_ids), i))
        done: dict[int, Completion] = {}
        size, collector = self.size, self.made.collector
        with progress(len(order), what, "completion", quiet=self.quiet) as bar:
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                prompts = [contexts[i].token_ids for i in batch]
                queries = [contexts[i].query for i in batch]
                done.update(zip(batch, collector.teacher.complete(prompts, queries, collector.parameters), strict=True))
                bar.update(len(batch))
        return [done[i] for i in range(len(contexts))]

    def judgements(self, builder: ContextBuilder, queries: Sequence[Query], what: str) -> list[str | None]:
        """With the cache that training uses."""
        if not any(map(builder.needs_judgement, queries)):
            return [None] * len(queries)
        found: list[str | None] = []
        size = self.size
        with progress(len(queries), what, "judgement", quiet=self.quiet) as bar:
            for start in range(0, len(queries), size):
                batch = queries[start : start + size]
                found += write_judgements(builder, self.made.collector.teacher, batch)
                bar.update(len(batch))
        return found

    def teacher_contexts(
        self, builder: ContextBuilder, queries: Sequence[Query], judgements: Sequence[str | None]
    ) -> list[Context | None]:
        contexts: list[Context | None] = []
        for query, judgement in zip(queries, judgements, strict=True):
            try:
                contexts.append(builder.teacher(query, judgement))
            except ContextOverflow as overflow:
                self._leave_out(overflow)
                contexts.append(None)
        return contexts

    def _leave_out(self, overflow: ContextOverflow) -> None:
        if not self.drop:
            raise overflow
        logger.warning("left out: %s", overflow)


class Answering(Writing):
    """The same, and a judge reads."""

    def __init__(self, run: PreparedRun, made: Distillation, judge: Judge) -> None:
        super().__init__(run, made)
        self.judge = judge
        self.fidelity = fidelity_of(judge, run.languages, run.config.data.source_language)

    def judged(self, queries: Sequence[Query], completions: Sequence[Completion], what: str) -> list[JudgedRow]:
        decode = self.run.tokenizer.decode
        items = [
            JudgeItem(query, decode(list(c.token_ids), skip_special_tokens=True), c.truncated)
            for query, c in zip(queries, completions, strict=True)
        ]
        answers: list[JudgedRow] = []
        with progress(len(items), f"{what}: {self.judge.name}", "verdict", quiet=self.quiet) as bar:
            for start in range(0, len(items), CHUNK):
                chunk = items[start : start + CHUNK]
                found = zip(chunk, ask(self.judge, chunk), self.fidelity.measure(chunk), strict=True)
                answers += [
                    JudgedRow(item.query, verdict, item.truncated, spoken.status, item.completion, spoken.detected)
                    for item, verdict, spoken in found
                ]
                bar.update(len(chunk))
        return answers

    @torch.no_grad()
    def divergences(self, rollouts: Sequence[Rollout], what: str) -> dict[str, Divergence]:
        """By query key, with DPSW's weights, in batches of the size that training uses."""
        found: dict[str, Divergence] = {}
        size = self.run.arguments.per_device_train_batch_size
        ordered = sorted(rollouts, key=lambda r: -len(r.teacher_context.token_ids) - len(r.completion.token_ids))
        scorer = self.made.scorer.weighing("dpsw")
        with autocast(self.run), progress(len(ordered), what, "completion", quiet=self.quiet) as bar:
            for start in range(0, len(ordered), size):
                batch = ordered[start : start + size]
                result, mask = scorer(self.made.student, batch)
                for row, rollout in enumerate(batch):
                    weight = result.weight[row]
                    total = float(weight.sum())
                    found[rollout.query.key] = Divergence(
                        int(mask[row].sum()),
                        float(result.divergence[row].sum()),
                        float(weight[:FIRST_TOKENS].sum()) / total if total > 0 else None,
                    )
                bar.update(len(batch))
        return found
