"""Completions that need not be sampled twice, in an append-only JSONL file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from crosslign.ownership import check_cache_file
from crosslign.rollouts.base import Sampler, SamplingParameters, derive_seed
from crosslign.storage import Row, append_rows, locked, read_rows
from crosslign.types import Completion, Query

LOCK_SECONDS = 60.0  # an entry is written in far less


def completion_key(
    fingerprint: str, prompt: Sequence[int], parameters: SamplingParameters, query_key: str, seed: int | None
) -> str:
    """Hash of all that a frozen model's completion depends on: weights, context, sampling, query and seed.

    `seed` None is for greedy decoding. The context goes in as token ids, so a changed template, chat template or
    tokenizer gives another key.
    """
    context = hashlib.sha256(",".join(map(str, prompt)).encode()).hexdigest()
    material = json.dumps([fingerprint, context, asdict(parameters), query_key, seed])
    return hashlib.sha256(material.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class CompletionCache:
    """Key -> Completion, kept on disk.

    Each entry is one line, and those that were sampled together are appended in one write. A line that an interruption
    cut off, or that holds something else, is skipped on reading, and its completion is sampled again. `hits` and
    `misses` count completions that were found and that had to be sampled.

    `shared`: with the other processes of a run; what is sampled waits for `exchange` until it is written.

    Raises CrosslignError if the file is a link, or has lines but no entry: something else wrote it.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        check_cache_file(path, flag="cache_dir or --out")
        self.path = path
        self._lock = path.with_name(f"{path.name}.lock")
        self.hits = 0
        self.misses = 0
        self._waiting: list[Row] | None = [] if shared else None
        self._entries: dict[str, Completion] = {}
        for row in read_rows(path):
            if _is_entry(row):
                self._entries[row["key"]] = Completion(tuple(row["token_ids"]), row["truncated"])

    def _put(self, entries: Sequence[tuple[str, Completion, str]]) -> None:
        """All of them, or after an interruption none."""
        self._entries.update((key, completion) for key, completion, _ in entries)
        rows: list[Row] = [
            {"key": key, "query": query, "truncated": completion.truncated, "token_ids": completion.token_ids}
            for key, completion, query in entries
        ]
        if self._waiting is None:
            self._append(rows)
        else:
            self._waiting += rows

    def exchange(self, gather: Callable[[list[Row]], list[Row]], *, writes: bool) -> None:
        """Every process of a run gets what the others have sampled since the last time; one of them writes it.

        So what is sampled does not depend on when a run was interrupted: a process that starts again finds the entries
        that all had. `gather` returns all processes' rows in one order.
        """
        if self._waiting is None:
            return
        rows = {row["key"]: row for row in reversed(gather(self._waiting))}  # the first process' own first
        self._waiting = []
        for key, row in rows.items():
            self._entries[key] = Completion(tuple(row["token_ids"]), row["truncated"])
        if writes and rows:
            self._append(list(rows.values()))

    def _append(self, rows: list[Row]) -> None:
        # Several runs of one model may share the file.
        with locked(self._lock, LOCK_SECONDS):
            append_rows(self.path, rows)

    def remove(self) -> None:
        """Delete the file."""
        for path in (self.path, self._lock):
            path.unlink(missing_ok=True)

    def fill(
        self,
        keys: Sequence[str],
        query_keys: Sequence[str],
        sample: Callable[[list[int]], list[Completion]],
        fits: Callable[[Completion], bool] = lambda _: True,
    ) -> list[Completion]:
        """Completions for `keys`; `sample` gets the indices of the missing ones, each key once.

        What is there and does not fit is missing too: nothing vouches for a file.
        """
        missing: dict[str, int] = {}
        for index, key in enumerate(keys):
            if key not in self._entries or not fits(self._entries[key]):
                missing.setdefault(key, index)
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        if missing:
            sampled = zip(missing.items(), sample(list(missing.values())), strict=True)
            self._put([(key, completion, query_keys[index]) for (key, index), completion in sampled])
        return [self._entries[key] for key in keys]


def _is_entry(row: Row) -> bool:
    ids = row.get("token_ids")
    return (
        isinstance(row.get("key"), str)
        and isinstance(row.get("truncated"), bool)
        and isinstance(ids, list)
        and all(type(token) is int and token >= 0 for token in ids)
    )


class CachedSampler:
    """A sampler over frozen weights, whose completions are kept: each is sampled once, in every epoch and run.

    Args:
        sampler: samples from the weights.
        cache: of their completions.
        fingerprint: of the weights, part of every key.
        seed: the run's; part of the key of what is not greedy.
        vocabulary: number of the tokenizer's tokens; an entry with others is sampled again.
    """

    def __init__(
        self,
        sampler: Sampler,
        cache: CompletionCache,
        fingerprint: str,
        *,
        seed: int = 0,
        vocabulary: int | None = None,
    ) -> None:
        self.sampler = sampler
        self.cache = cache
        self.fingerprint = fingerprint
        self.seed = seed
        self.vocabulary = vocabulary

    def complete(
        self, prompts: Sequence[tuple[int, ...]], queries: Sequence[Query], parameters: SamplingParameters
    ) -> list[Completion]:
        """Completions in the prompts' order; what the cache lacks is sampled in one call, each key once.

        Greedy completions depend on the prompt alone: queries that share one share the completion.
        """
        greedy = parameters.temperature == 0
        keys = [
            completion_key(self.fingerprint, prompt, parameters, "" if greedy else q.key, None if greedy else self.seed)
            for prompt, q in zip(prompts, queries, strict=True)
        ]

        def sample(missing: list[int]) -> list[Completion]:
            seed = derive_seed(self.seed, "teacher", *(keys[i] for i in missing))
            return self.sampler.sample([prompts[i] for i in missing], parameters, seed=seed)

        def fits(completion: Completion) -> bool:
            ids = completion.token_ids
            known = self.vocabulary is None or max(ids, default=0) < self.vocabulary
            return known and 0 < len(ids) <= parameters.max_completion_length

        return self.cache.fill(keys, [q.key for q in queries], sample, fits)
