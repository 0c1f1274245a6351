"""Completions of a model or adapter for a query table, to JSONL, resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosslign.runs.prepare import queries_of
from crosslign.storage import versions
from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.data.schema import QueryTable
from crosslign.evaluation.completions import DeferredCompleter, SamplerCompleter, completions, sampler_of, too_long
from crosslign.storage import RowFile
from crosslign.models import (
    ModelSource,
    adapter_sha256,
    check_adapter,
    check_source,
    fingerprint,
    load_tokenizer,
    load_with_adapter,
)
from crosslign.rollouts import CompletionCache, SamplingParameters
from crosslign.distillation.strategies import OnPolicy
from crosslign.distillation import RolloutCollector
from crosslign.types import Context, Query, Role


@dataclass(frozen=True)
class GenerateRequest:
    """What to complete, with what, and where to write it.

    `context` "student" is what a user would send; "teacher" shows what the frozen teacher would say, which is where
    training leads.
    """

    source: ModelSource
    adapter: str | None
    languages: Sequence[str]
    output: Path
    parameters: SamplingParameters
    context: Role = "student"
    batch_size: int = 16
    seed: int = 0
    overwrite: bool = False


def generate(
    request: GenerateRequest,
    tables: Sequence[QueryTable],
    make_contexts: Callable[[Any], ContextBuilder],
    describe_contexts: Mapping[str, Any],
    announce: Callable[[str], None] = lambda text: None,
) -> int:
    """Complete every query of the tables in the request's languages; returns the number of rows in the file.

    Rows are appended batch by batch and put into the tables' order at the end. `make_contexts` makes the context
    builder from the tokenizer; `describe_contexts` is what identifies it in the settings file.

    Raises CrosslignError if the file was made with other settings, or by something else.
    """
    check_source(request.source)
    check_adapter(request.adapter)
    settings = {
        "model": asdict(request.source),
        "adapter": request.adapter,
        "adapter_sha256": adapter_sha256(request.adapter),
        "context": request.context,
        "sampling": asdict(request.parameters),
        "seed": request.seed,
        **describe_contexts,
    }
    output = request.output
    side = output.with_name(output.name + ".settings.json")
    if request.overwrite:
        output.unlink(missing_ok=True)
    file = RowFile(output, settings, side=side, notes={"versions": versions()})
    cache = CompletionCache(output.with_name(f".{output.name}.judgements.jsonl"))
    completer = DeferredCompleter(
        settings, lambda queries: _load(request, queries, make_contexts, settings, cache, announce)
    )
    rows = completions(
        queries_of(tables, request.languages), completer, file, name=output.name, announce=announce
    )
    cache.path.unlink(missing_ok=True)
    return len(rows)


def _load(
    request: GenerateRequest,
    queries: Sequence[Query],
    make_contexts: Callable[[Any], ContextBuilder],
    settings: Mapping[str, Any],
    cache: CompletionCache,
    announce: Callable[[str], None],
) -> SamplerCompleter:
    """Check the queries, then load the weights."""
    tokenizer = load_tokenizer(request.source)
    builder = make_contexts(tokenizer)
    for query in queries:
        try:
            builder.check(query)
        except ContextOverflow as overflow:
            raise too_long(overflow) from overflow
    announce(f"loading {request.source.path}" + (f" with {request.adapter}" if request.adapter else ""))
    model = load_with_adapter(request.source, request.adapter)
    sampler = sampler_of(model, tokenizer, request.batch_size)
    collector = RolloutCollector(
        builder,
        OnPolicy(),
        sampler,
        sampler,
        request.parameters,
        tokenizer,
        cache,
        f"{fingerprint(model)}|{request.adapter}",
        seed=request.seed,
        max_judgement_length=builder.max_judgement_length or 1,
    )

    def teacher(batch: Sequence[Query]) -> list[Context]:
        return [builder.teacher(q, j) for q, j in zip(batch, collector.judgements(batch), strict=True)]

    return SamplerCompleter(
        sampler,
        builder,
        request.parameters,
        settings,
        batch_size=request.batch_size,
        seed=request.seed,
        make_context=teacher if request.context == "teacher" else None,
        more={"context": request.context},
    )
