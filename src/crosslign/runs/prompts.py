"""A teacher's context around the queries of `crosslign generate` and `eval`, outside a training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from crosslign.contexts import ContextBuilder, load_teacher_template
from crosslign.distillation import write_judgements
from crosslign.rollouts import CachedSampler
from crosslign.types import Context, Query


def template_settings(template: str, max_judgement_length: int) -> dict[str, Any]:
    """What completions in a teacher's context depend on besides."""
    loaded = load_teacher_template(template)
    messages = (*loaded.judgement_messages, *loaded.messages)
    return {"template": [[m.role, m.content] for m in messages], "max_judgement_length": max_judgement_length}


def teacher_contexts(
    contexts: ContextBuilder, sampler: Callable[[], CachedSampler]
) -> Callable[[Sequence[Query]], list[Context]]:
    """Makes the teacher's contexts of a batch: a judgement, where the template wants one, is written first."""

    def made(batch: Sequence[Query]) -> list[Context]:
        asked = any(map(contexts.needs_judgement, batch))  # the sampler's key is a hash of all weights
        judgements = write_judgements(contexts, sampler(), batch) if asked else [None] * len(batch)
        return [contexts.teacher(q, j) for q, j in zip(batch, judgements, strict=True)]

    return made
