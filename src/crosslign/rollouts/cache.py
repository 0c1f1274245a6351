"""Completions that need not be sampled twice, in an append-only JSONL file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from crosslign.rollouts.base import SamplingParameters
from crosslign.types import Completion


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

    Each entry is one line, appended in one write; a line that an interruption cut off is skipped on reading, and its
    completion is sampled again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hits = 0
        self.misses = 0
        self._entries: dict[str, Completion] = {}
        self._ends_in_newline = True
        if path.exists():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        self._ends_in_newline = not data or data.endswith(b"\n")
        for line in data.split(b"\n"):
            try:
                entry = json.loads(line)
                self._entries[entry["key"]] = Completion(tuple(entry["token_ids"]), entry["truncated"])
            except (ValueError, KeyError, TypeError):
                continue

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Completion | None:
        return self._entries.get(key)

    def put(self, key: str, completion: Completion, query_key: str) -> None:
        self._entries[key] = completion
        line = json.dumps(
            {"key": key, "query": query_key, "truncated": completion.truncated, "token_ids": completion.token_ids}
        )
        data = line.encode("utf-8") + b"\n"
        if not self._ends_in_newline:
            data = b"\n" + data
            self._ends_in_newline = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.write(descriptor, data) != len(data):
                self._ends_in_newline = False
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)

    def fill(
        self, keys: Sequence[str], query_keys: Sequence[str], sample: Callable[[list[int]], list[Completion]]
    ) -> list[Completion]:
        """Completions for `keys`; `sample` gets the indices of the missing ones, each key once."""
        missing: dict[str, int] = {}
        for index, key in enumerate(keys):
            if key not in self._entries:
                missing.setdefault(key, index)
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        if missing:
            for (key, index), completion in zip(missing.items(), sample(list(missing.values())), strict=True):
                self.put(key, completion, query_keys[index])
        return [self._entries[key] for key in keys]
