"""The first stage: completions of a task's queries, by a model in memory or behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.evaluation.endpoint import Endpoint, EndpointReply
from crosslign.rollouts import Sampler, SamplingParameters, derive_seed
from crosslign.rollouts.progress import progress
from crosslign.storage import Row, RowFile, key_of
from crosslign.types import LABELS, Announce, Context, CrosslignError, Message, Query, silent

OnRows = Callable[[Sequence[Row]], None]


class Completer(Protocol):
    """Completes queries in any order; `on_rows` gets finished rows as they come."""

    def identity(self) -> Mapping[str, Any]:
        """All that completions depend on besides the query."""
        ...

    def complete(self, queries: Sequence[Query], on_rows: OnRows) -> None: ...


def completion_row(query: Query, completion: str, truncated: bool, **more: Any) -> Row:
    return {**query_row(query), "completion": completion, "truncated": truncated, **more}


def query_row(query: Query) -> Row:
    """What a row says of its query; `query_of` reads it back."""
    return {
        "id": query.id,
        "language": query.language,
        "label": query.label,
        "category": query.category,
        "query": query.text,
        "source_language": query.source_language,
        "source_query": query.source_text,
    }


def query_of(row: Mapping[str, Any]) -> Query:
    return Query(
        row["id"],
        row["language"],
        row["query"],
        row["source_language"],
        row["source_query"],
        row["label"],
        row.get("category"),
    )


def is_completion(row: Mapping[str, Any]) -> bool:
    """Whether a row is one that this stage has written."""
    texts = ("id", "language", "query", "source_language", "source_query", "completion")
    return (
        all(isinstance(row.get(name), str) for name in texts)
        and row.get("label") in LABELS
        and isinstance(row.get("category") or "", str)
        and isinstance(row.get("truncated"), bool)
        and isinstance(row.get("rejected", ""), str)
    )


def check_contexts(
    queries: Iterable[Query],
    check: Callable[[Query], object],
    advice: str = "Raise --max-length; nothing is cut silently.",
) -> None:
    """Call `check` (`ContextBuilder.check`, or its `check_student`) with every query.

    Raises CrosslignError for a query that holds one of the tokenizer's control tokens, and for one that is too long:
    that error ends with `advice`.
    """
    for query in queries:
        try:
            check(query)
        except ContextOverflow as overflow:
            raise CrosslignError(
                f"query {query.id!r} ({query.language}): its {overflow.role} context has {overflow.length} tokens, the "
                f"limit is {overflow.limit}. {advice}"
            ) from overflow


class SamplerCompleter:
    """A model in memory, through the sampler that training uses; batches of similar length, the longest first.

    Args:
        sampler: called when there is something to complete, and not before: that is when weights are loaded.
        make_context: makes a batch's contexts; None: the student's, which is what a user would send.
        more: goes into every row.
    """

    def __init__(
        self,
        sampler: Callable[[], Sampler],
        contexts: ContextBuilder,
        parameters: SamplingParameters,
        identity: Mapping[str, Any],
        *,
        batch_size: int = 16,
        seed: int = 0,
        make_context: Callable[[Sequence[Query]], Sequence[Context]] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._sampler = sampler
        self._contexts = contexts
        self._parameters = parameters
        self._identity = identity
        self._batch_size = batch_size
        self._seed = seed
        self._make_context = make_context or (lambda queries: [contexts.student(q) for q in queries])
        self._more = dict(more or {})

    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def complete(self, queries: Sequence[Query], on_rows: OnRows) -> None:
        """Raises ContextOverflow for a query whose context is too long; a student's before anything is loaded."""
        lengths = {q.key: len(self._contexts.student(q).token_ids) for q in queries}
        ordered = sorted(queries, key=lambda q: (-lengths[q.key], q.key))
        decode, sampler = self._contexts.tokenizer.decode, self._sampler()
        for start in range(0, len(ordered), self._batch_size):
            batch = ordered[start : start + self._batch_size]
            prompts = [c.token_ids for c in self._make_context(batch)]
            # Not from the batch's number: a resumed call draws as one that was never interrupted.
            seed = derive_seed(self._seed, *(q.key for q in batch))
            completions = sampler.sample(prompts, self._parameters, seed=seed)
            on_rows(
                [
                    completion_row(
                        query,
                        decode(list(completion.token_ids), skip_special_tokens=True),
                        completion.truncated,
                        prompt_tokens=len(prompt),
                        completion_tokens=len(completion.token_ids),
                        **self._more,
                    )
                    for query, prompt, completion in zip(batch, prompts, completions, strict=True)
                ]
            )


class EndpointCompleter:
    """A model behind an OpenAI-compatible endpoint; it applies its own chat template."""

    def __init__(self, endpoint: Endpoint, parameters: SamplingParameters, *, seed: int = 0) -> None:
        self._endpoint = endpoint
        self._parameters = parameters
        self._seed = seed

    def identity(self) -> Mapping[str, Any]:
        p = self._parameters
        return {**self._endpoint.identity(), "temperature": p.temperature, "top_p": p.top_p, "seed": self._seed,
                "max_completion_length": p.max_completion_length}  # fmt: skip

    def complete(self, queries: Sequence[Query], on_rows: OnRows) -> None:
        """What the server rejects or filters is an empty completion whose row says why: the judges abstain."""

        def deliver(index: int, reply: EndpointReply) -> None:
            more: dict[str, Any] = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
            text = reply.text
            if reply.finish_reason in ("rejected", "content_filter"):
                text, more["rejected"] = "", reply.error or reply.finish_reason
            on_rows([completion_row(queries[index], text, reply.truncated, **more)])

        self._endpoint.complete(
            [(Message("user", q.text),) for q in queries],
            temperature=self._parameters.temperature,
            top_p=self._parameters.top_p,
            max_tokens=self._parameters.max_completion_length,
            seed=self._seed,
            on_result=deliver,
        )


def completions(
    queries: Sequence[Query],
    completer: Completer,
    file: RowFile,
    *,
    name: str = "completions",
    overwrite: bool = False,
    announce: Announce = silent,
) -> list[Row]:
    """The rows of all queries in their order, from the file where it has them. See `RowFile` for what is kept."""
    done = _current(queries, file.start(replace=overwrite))
    missing = [q for q in queries if q.key not in done]
    if done:
        announce(f"{name}: {len(done)} of {len(queries)} completions are there already")
    keys = [q.key for q in queries]
    return keep_rows(file, done, keys, lambda keep: completer.complete(missing, keep), name=name, unit="completion")


def keep_rows(
    file: RowFile, done: dict[str, Row], keys: Sequence[str], make: Callable[[OnRows], None], *, name: str, unit: str
) -> list[Row]:
    """The rows of all keys in their order: those that are done, and those that `make` hands over.

    The latter are kept in the file as they come, and a progress bar counts them.
    """
    missing = sum(key not in done for key in keys)
    if missing:
        with progress(missing, name, unit) as bar:

            def keep(rows: Sequence[Row]) -> None:
                file.append(rows)
                done.update((key_of(row), row) for row in rows)
                bar.update(len(rows))

            make(keep)
    return file.finish(keys, done)


def _current(queries: Sequence[Query], rows: Mapping[str, Row]) -> dict[str, Row]:
    """The rows of these queries, with what the task says of them now (label, category, source text).

    A query whose text has changed under the same id is another query.
    """
    return {q.key: {**rows[q.key], **query_row(q)} for q in queries if q.key in rows and rows[q.key]["query"] == q.text}
