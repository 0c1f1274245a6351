"""From queries to rollouts: judgement, contexts, plan, sampling, cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.distillation.strategies import RolloutPlan, Strategy
from crosslign.rollouts import CompletionCache, Sampler, SamplingParameters, completion_key, derive_seed
from crosslign.types import Completion, Context, Query, Rollout

logger = logging.getLogger(__name__)


class RolloutCollector:
    """Makes the rollouts of one accumulation window, each sampler called once for all of them.

    Args:
        contexts: makes prompts.
        strategy: says who samples what.
        student, teacher: samplers over the current student and the frozen teacher.
        parameters: of the completions.
        tokenizer: decodes judgements.
        cache: completions of the frozen teacher (judgements and off-policy rollouts).
        fingerprint: of the teacher's weights, part of every cache key.
        seed: the run's.
        max_judgement_length: in tokens.
        drop_overflow: a query whose context turns out too long gets an empty completion, which counts nowhere;
            otherwise ContextOverflow is raised.
    """

    def __init__(
        self,
        contexts: ContextBuilder,
        strategy: Strategy,
        student: Sampler,
        teacher: Sampler,
        parameters: SamplingParameters,
        tokenizer: Any,
        cache: CompletionCache,
        fingerprint: str,
        *,
        seed: int = 0,
        max_judgement_length: int = 128,
        drop_overflow: bool = False,
    ) -> None:
        self.contexts = contexts
        self.strategy = strategy
        self.student = student
        self.teacher = teacher
        self.parameters = parameters
        self.judgement_parameters = SamplingParameters(temperature=0, max_completion_length=max_judgement_length)
        self.tokenizer = tokenizer
        self.cache = cache
        self.fingerprint = fingerprint
        self.seed = seed
        self.drop_overflow = drop_overflow

    def collect(self, queries: Sequence[Query], step: int, rank: int = 0) -> list[Rollout]:
        """One rollout for each query, in order. Depends only on weights, queries, step, rank and seed."""
        plans = [self.strategy.plan(query, step) for query in queries]
        judgements = self.judgements(queries)
        contexts = [self._contexts(q, j) for q, j in zip(queries, judgements, strict=True)]
        completions: list[Completion] = [Completion((), truncated=False)] * len(queries)
        fresh = [i for i, p in enumerate(plans) if contexts[i] and not p.reusable]
        stored = [i for i, p in enumerate(plans) if contexts[i] and p.reusable]
        if fresh:
            prompts = [_sampled_from(plans[i], contexts[i]).token_ids for i in fresh]
            samples = self.student.sample(prompts, self.parameters, seed=derive_seed(self.seed, "student", step, rank))
            for i, completion in zip(fresh, samples, strict=True):
                completions[i] = completion
        if stored:
            prompts = [_sampled_from(plans[i], contexts[i]).token_ids for i in stored]
            samples = self._cached(prompts, [queries[i] for i in stored], self.parameters)
            for i, completion in zip(stored, samples, strict=True):
                completions[i] = completion
        return [
            self._rollout(query, plan, pair, completion)
            for query, plan, pair, completion in zip(queries, plans, contexts, completions, strict=True)
        ]

    def judgements(self, queries: Sequence[Query]) -> list[str | None]:
        """The frozen teacher's judgement of each query, greedy and cached; None where the template needs none."""
        if not self.contexts.needs_judgement:
            return [None] * len(queries)
        prompts = [self.contexts.judgement(q).token_ids for q in queries]
        completions = self._cached(prompts, queries, self.judgement_parameters)
        return [self.tokenizer.decode(list(c.token_ids), skip_special_tokens=True).strip() for c in completions]

    def _cached(
        self, prompts: Sequence[tuple[int, ...]], queries: Sequence[Query], parameters: SamplingParameters
    ) -> list[Completion]:
        # Greedy completions depend on the prompt alone: rows whose languages share a prompt share the completion.
        greedy = parameters.temperature == 0
        owners = ["" if greedy else q.key for q in queries]
        keys = [
            completion_key(self.fingerprint, p, parameters, owner, None if greedy else self.seed)
            for p, owner in zip(prompts, owners, strict=True)
        ]

        def sample(missing: list[int]) -> list[Completion]:
            seed = derive_seed(self.seed, "teacher", *(keys[i] for i in missing))
            return self.teacher.sample([prompts[i] for i in missing], parameters, seed=seed)

        return self.cache.fill(keys, [q.key for q in queries], sample)

    def _contexts(self, query: Query, judgement: str | None) -> tuple[Context, Context] | None:
        try:
            return self.contexts.student(query), self.contexts.teacher(query, judgement)
        except ContextOverflow as overflow:
            if not self.drop_overflow:
                raise
            logger.warning("left out: %s", overflow)
            return None

    def _rollout(
        self, query: Query, plan: RolloutPlan, pair: tuple[Context, Context] | None, completion: Completion
    ) -> Rollout:
        if pair is None:
            # An empty completion is masked everywhere; a one-token context only keeps the row's place in the batch.
            placeholder = Context(query, "student", (), (0,))
            return Rollout(query, placeholder, placeholder, completion, "student", "student")
        by_role = {"student": pair[0], "teacher": pair[1]}
        return Rollout(
            query,
            by_role[plan.student_context],
            by_role[plan.teacher_context],
            completion,
            plan.sampled_by,
            plan.sampled_from,
        )


def _sampled_from(plan: RolloutPlan, pair: tuple[Context, Context] | None) -> Context:
    assert pair is not None
    return pair[0] if plan.sampled_from == "student" else pair[1]
