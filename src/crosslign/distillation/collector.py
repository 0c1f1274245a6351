"""From queries to rollouts: judgement, contexts, plan, sampling."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.distillation.strategies import RolloutPlan, Strategy
from crosslign.rollouts import CachedSampler, Pinnable, Sampler, SamplingParameters, derive_seed
from crosslign.types import Completion, Context, Query, Role, Rollout

logger = logging.getLogger(__name__)


class RolloutCollector:
    """Makes the rollouts of one accumulation window, each sampler called once for all of them.

    Args:
        contexts: makes prompts.
        strategy: says who samples what.
        student: samples from the current student.
        teacher: samples from the frozen teacher: judgements and off-policy rollouts, which are cached.
        parameters: of the completions.
        seed: the run's.
        drop_overflow: a query whose context turns out too long gets an empty completion, which counts nowhere;
            otherwise ContextOverflow is raised.
    """

    def __init__(
        self,
        contexts: ContextBuilder,
        strategy: Strategy,
        student: Sampler,
        teacher: CachedSampler,
        parameters: SamplingParameters,
        *,
        seed: int = 0,
        drop_overflow: bool = False,
    ) -> None:
        self.contexts = contexts
        self.strategy = strategy
        self.student = student
        self.teacher = teacher
        self.parameters = parameters
        self.seed = seed
        self.drop_overflow = drop_overflow
        self._thread = ThreadPoolExecutor(1, "rollouts")
        self._begun: tuple[tuple[list[Query], int, int], Future[list[Rollout]]] | None = None

    def begin(self, queries: Sequence[Query], step: int, rank: int = 0) -> None:
        """Let a thread sample a window from the student's weights as they are now, while the student is trained.

        The next `collect` gets it. The thread talks to a server alone: it touches no weights, and takes part in nothing
        that processes do together. The student's sampler must be `Pinnable`, and the teacher's must not run here.
        """
        assert isinstance(self.student, Pinnable)
        window = list(queries), step, rank
        self._begun = window, self._thread.submit(self._collect, self.student.pinned(), *window)

    def wait(self) -> None:
        """Until nothing is sampled any more."""
        if self._begun is not None:
            wait([self._begun[1]])

    def close(self) -> None:
        """Begin nothing more. What is being sampled is not waited for here, but the interpreter waits for it at its
        end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def asked(self, queries: Sequence[Query], step: int) -> set[Role]:
        """Who has to sample for this window's rollouts, unless the teacher's cache has it all."""
        found = {self.strategy.plan(query, step).sampled_by for query in queries}
        return found | {"teacher"} if any(map(self.contexts.needs_judgement, queries)) else found

    def collect(
        self, queries: Sequence[Query], step: int, rank: int = 0, student: Sampler | None = None
    ) -> list[Rollout]:
        """One rollout for each query, in order. Depends only on weights, queries, step, rank and seed.

        What was begun for this window comes from there, errors included. `student` samples in place of its own sampler.
        """
        begun, self._begun = self._begun, None
        if begun is not None:
            rollouts = begun[1].result()
            if begun[0] == (list(queries), step, rank):
                return rollouts
        return self._collect(student or self.student, queries, step, rank)

    def collect_frozen(self, queries: Sequence[Query]) -> list[Rollout]:
        """The same by the frozen model, which samples the student's completions too, as the student would have at the
        start."""
        return self._collect(None, queries, 0, 0)

    def _collect(self, student: Sampler | None, queries: Sequence[Query], step: int, rank: int) -> list[Rollout]:
        plans = [self.strategy.plan(query, step) for query in queries]
        judgements = write_judgements(self.contexts, self.teacher, queries)
        contexts = [self._contexts(q, j) for q, j in zip(queries, judgements, strict=True)]
        completions = dict.fromkeys(range(len(queries)), Completion((), truncated=False))
        for sampled_by in ("student", "teacher"):
            rows = [i for i, plan in enumerate(plans) if plan.sampled_by == sampled_by and contexts[i] is not None]
            if not rows:
                continue
            prompts = [_context(contexts[i], plans[i].sampled_from).token_ids for i in rows]
            if sampled_by == "student" and student is not None:
                seed = derive_seed(self.seed, "student", step, rank)
                samples = student.sample(prompts, self.parameters, seed=seed)
            else:
                samples = self.teacher.complete(prompts, [queries[i] for i in rows], self.parameters)
            completions.update(zip(rows, samples, strict=True))
        return [
            _rollout(query, plan, pair, completions[i])
            for i, (query, plan, pair) in enumerate(zip(queries, plans, contexts, strict=True))
        ]

    def _contexts(self, query: Query, judgement: str | None) -> tuple[Context, Context] | None:
        try:
            return self.contexts.student(query), self.contexts.teacher(query, judgement)
        except ContextOverflow as overflow:
            if not self.drop_overflow:
                raise
            logger.warning("left out: %s", overflow)
            return None


def write_judgements(contexts: ContextBuilder, teacher: CachedSampler, queries: Sequence[Query]) -> list[str | None]:
    """The frozen teacher's judgement of each query, greedy and cached; None where a query needs none."""
    asked = [query for query in queries if contexts.needs_judgement(query)]
    if not asked:
        return [None] * len(queries)
    parameters = SamplingParameters(temperature=0, max_completion_length=contexts.max_judgement_length)
    completions = iter(teacher.complete([contexts.judgement(q).token_ids for q in asked], asked, parameters))
    return [
        contexts.judgement_text(next(completions).token_ids) if contexts.needs_judgement(query) else None
        for query in queries
    ]


def _context(pair: tuple[Context, Context] | None, role: Role) -> Context:
    assert pair is not None
    return pair[0] if role == "student" else pair[1]


def _rollout(query: Query, plan: RolloutPlan, pair: tuple[Context, Context] | None, completion: Completion) -> Rollout:
    if pair is None:
        # An empty completion is masked everywhere; a one-token context only keeps the row's place in the batch.
        placeholder = Context(query, "student", (), (0,))
        return Rollout(query, placeholder, placeholder, completion, "student", "student")
    return Rollout(
        query,
        _context(pair, plan.student_context),
        _context(pair, plan.teacher_context),
        completion,
        plan.sampled_by,
        plan.sampled_from,
    )
