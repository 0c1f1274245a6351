"""Completions of a model or adapter for a query table, to JSONL, resumable."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosslign.contexts import ContextBuilder, plain_contexts
from crosslign.data.schema import QueryTable
from crosslign.evaluation.completions import SamplerCompleter, check_contexts, completions, is_completion
from crosslign.models import (
    ModelSource,
    adapter_sha256,
    check_adapter,
    check_source,
    fingerprint,
    load_tokenizer,
    load_with_adapter,
    sampling_mark,
    weights_mark,
)
from crosslign.ownership import check_output_file, read_mark
from crosslign.rollouts import CachedSampler, CompletionCache, Sampler, SamplingParameters, sampler_of
from crosslign.runs.prepare import queries_of
from crosslign.runs.prompts import teacher_contexts, template_settings
from crosslign.storage import RowFile, locked, versions
from crosslign.types import Announce, Role, silent

GREEDY = SamplingParameters(temperature=0.0)


@dataclass(frozen=True)
class GenerateRequest:
    """What to complete, with what, and where to write it.

    `context` "student" is what a user would send; "teacher", with the teacher `template`, shows what the frozen teacher
    would say, which is where training leads.
    """

    source: ModelSource
    output: Path
    adapter: str | None = None
    parameters: SamplingParameters = GREEDY
    context: Role = "student"
    template: str = "instruct"
    max_length: int = 2048
    max_judgement_length: int = 128
    thinking: bool = False
    batch_size: int = 16
    seed: int = 0
    overwrite: bool = False

    def contexts(self, tokenizer: Any) -> ContextBuilder:
        return plain_contexts(
            tokenizer,
            max_length=self.max_length,
            thinking=self.thinking,
            teacher=self.template,
            max_judgement_length=self.max_judgement_length,
        )

    def settings(self) -> dict[str, Any]:
        """What the completions depend on besides the queries."""
        found: dict[str, Any] = {
            "model": asdict(self.source),
            "weights": weights_mark(self.source),
            "adapter": self.adapter,
            "adapter_sha256": adapter_sha256(self.adapter),
            "context": self.context,
            "sampling": asdict(self.parameters),
            "seed": self.seed,
            "thinking": self.thinking,
            "max_length": self.max_length,
        }
        if self.context == "teacher":
            found |= template_settings(self.template, self.max_judgement_length)
        return found


def generate(request: GenerateRequest, table: QueryTable, announce: Announce = silent) -> int:
    """Complete every query of the table in its languages; returns the number of rows in the file.

    The queries are checked before weights are loaded. Rows are appended batch by batch and put into the table's order
    at the end.

    Raises CrosslignError if the file was made with other settings, or by something else.
    """
    side = RowFile(request.output, {}).side
    for path in (side, request.output):
        check_output_file(path, ours=bool(read_mark(side)))
    check_source(request.source)
    check_adapter(request.adapter, source=request.source)
    output = request.output
    queries, tokenizer = queries_of([table], table.languages), load_tokenizer(request.source)
    contexts = request.contexts(tokenizer)
    settings = request.settings() | contexts.settings()
    teacher = request.context == "teacher"
    check_contexts(queries, contexts.check if teacher else contexts.check_student)
    cache = CompletionCache(output.with_name(f".{output.name}.judgements.jsonl"))

    @functools.cache
    def samplers() -> tuple[Sampler, CachedSampler]:
        """The one that completes, and the same with a cache for judgements."""
        announce(f"loading {request.source.path}" + (f" with {request.adapter}" if request.adapter else ""))
        model = load_with_adapter(request.source, request.adapter)
        sampler = sampler_of(model, tokenizer, request.batch_size)
        return sampler, CachedSampler(
            sampler,
            cache,
            sampling_mark(f"{fingerprint(model)}|{settings['adapter_sha256']}", model, tokenizer),
            seed=request.seed,
            vocabulary=len(tokenizer),
        )

    completer = SamplerCompleter(
        lambda: samplers()[0],
        contexts,
        request.parameters,
        settings,
        batch_size=request.batch_size,
        seed=request.seed,
        make_context=teacher_contexts(contexts, lambda: samplers()[1]) if teacher else None,
        more={"context": request.context},
    )
    with locked(output.with_name(f".{output.name}.lock")):
        if request.overwrite:
            output.unlink(missing_ok=True)
        file = RowFile(output, settings, notes={"versions": versions()}, valid=is_completion)
        rows = completions(queries, completer, file, name=output.name, announce=announce)
        cache.remove()
    return len(rows)
