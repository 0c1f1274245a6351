"""Completions of a model or adapter for a query table, to JSONL, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from tqdm.auto import tqdm

from crosslign.build import queries_of, versions
from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.data.schema import QueryTable
from crosslign.models import ModelSource, check_source, fingerprint, load_model, load_tokenizer, token_ids
from crosslign.rollouts import CompletionCache, SamplingParameters, TransformersSampler
from crosslign.strategies import OnPolicy
from crosslign.training import RolloutCollector, write_atomically
from crosslign.types import Context, CrosslignError, Query, Role


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


def check_output(request: GenerateRequest, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows that an earlier, interrupted call has written, by query key.

    Raises CrosslignError if the file was made with other settings, or by something else.
    """
    path, side = request.output, _settings_path(request.output)
    if request.overwrite or not path.exists():
        return {}
    try:
        before = json.loads(side.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before is None:
        raise CrosslignError(
            f"{path}: exists, and {side.name} does not say how it was made. Use --overwrite or another --out."
        )
    different = [k for k in settings if before.get(k) != settings[k]]
    if different:
        raise CrosslignError(
            f"{path}: was made with other settings ({', '.join(different)} differ). Use --overwrite or another --out."
        )
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        # A line that an interruption cut off is made again.
        with contextlib.suppress(ValueError, KeyError):
            row = json.loads(line)
            rows[f"{row['id']}|{row['language']}"] = row
    return rows


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
    """
    check_source(request.source)
    if request.adapter is not None and not (Path(request.adapter) / "adapter_config.json").is_file():
        raise CrosslignError(f"--adapter: {request.adapter} has no adapter_config.json; is it a finished LoRA run?")
    settings = {
        "model": asdict(request.source),
        "adapter": request.adapter,
        "adapter_sha256": _adapter_hash(request.adapter),
        "context": request.context,
        "sampling": asdict(request.parameters),
        "seed": request.seed,
        **describe_contexts,
    }
    done = check_output(request, settings)
    queries = queries_of(tables, request.languages)
    missing = [q for q in queries if q.key not in done]
    if done:
        announce(f"{len(queries) - len(missing)} of {len(queries)} completions are there already")
    if request.overwrite:
        request.output.unlink(missing_ok=True)
    write_atomically(_settings_path(request.output), json.dumps({**settings, "versions": versions()}, indent=2) + "\n")
    if missing:
        done |= _complete(request, missing, make_contexts, announce)
    rows = [done[q.key] for q in queries]
    write_atomically(request.output, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return len(rows)


def _complete(
    request: GenerateRequest,
    queries: Sequence[Query],
    make_contexts: Callable[[Any], ContextBuilder],
    announce: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    tokenizer = load_tokenizer(request.source)
    builder = make_contexts(tokenizer)
    for query in queries:
        try:
            builder.check(query)
        except ContextOverflow as overflow:
            raise _too_long(overflow) from overflow
    announce(f"loading {request.source.path}" + (f" with {request.adapter}" if request.adapter else ""))
    model = load_model(request.source)
    mark = fingerprint(model)
    ids = token_ids(tokenizer, model)
    if request.adapter is not None:
        model = PeftModel.from_pretrained(model, request.adapter).eval()
    sampler = TransformersSampler(
        lambda: nullcontext(model),
        stop_token_ids=ids.stop,
        pad_token_id=ids.pad,
        forbidden_token_ids=ids.forbidden,
        batch_size=request.batch_size,
    )
    cache = CompletionCache(request.output.with_name(f".{request.output.name}.judgements.jsonl"))
    collector = RolloutCollector(
        builder,
        OnPolicy(),
        sampler,
        sampler,
        request.parameters,
        tokenizer,
        cache,
        f"{mark}|{request.adapter}",
        seed=request.seed,
        max_judgement_length=builder.max_judgement_length or 1,
    )
    rows: dict[str, dict[str, Any]] = {}
    request.output.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(queries, key=lambda q: (-len(builder.student(q).token_ids), q.key))
    with tqdm(total=len(ordered), unit="completion", disable=None) as bar:
        for start in range(0, len(ordered), request.batch_size):
            batch = ordered[start : start + request.batch_size]
            contexts = _contexts(request.context, builder, collector, batch)
            completions = sampler.sample([c.token_ids for c in contexts], request.parameters, seed=request.seed + start)
            with request.output.open("a", encoding="utf-8", errors="backslashreplace") as file:
                for query, context, completion in zip(batch, contexts, completions, strict=True):
                    row = {
                        "id": query.id,
                        "language": query.language,
                        "label": query.label,
                        "category": query.category,
                        "query": query.text,
                        "context": request.context,
                        "prompt_tokens": len(context.token_ids),
                        "completion_tokens": len(completion.token_ids),
                        "truncated": completion.truncated,
                        "completion": tokenizer.decode(list(completion.token_ids), skip_special_tokens=True),
                    }
                    rows[query.key] = row
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            bar.update(len(batch))
    cache.path.unlink(missing_ok=True)
    return rows


def _contexts(
    role: Role, builder: ContextBuilder, collector: RolloutCollector, queries: Sequence[Query]
) -> list[Context]:
    if role == "student":
        return [builder.student(q) for q in queries]
    try:
        return [builder.teacher(q, j) for q, j in zip(queries, collector.judgements(queries), strict=True)]
    except ContextOverflow as overflow:
        raise _too_long(overflow) from overflow


def _adapter_hash(adapter: str | None) -> str | None:
    """So that an adapter trained anew in the same folder does not continue the old one's file."""
    if adapter is None:
        return None
    digest = hashlib.sha256()
    for file in sorted(Path(adapter).glob("adapter_model*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _too_long(overflow: ContextOverflow) -> CrosslignError:
    query = overflow.query
    return CrosslignError(
        f"query {query.id!r} ({query.language}): its {overflow.role} context has {overflow.length} tokens, the limit "
        f"is {overflow.limit}. Raise --max-length; nothing is cut silently."
    )


def _settings_path(output: Path) -> Path:
    return output.with_name(output.name + ".settings.json")
