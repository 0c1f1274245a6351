"""The sampler protocol: prompts of token ids in, completions out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from crosslign.types import Completion

MOST_TOKENS = 10_000_000  # of a context or a completion: more than any model reads


def check_temperature(temperature: float) -> float:
    """Raises ValueError for what is neither 0 nor so that logits divided by it are numbers with a difference."""
    if not (temperature == 0 or 0.01 <= temperature <= 100):
        raise ValueError(f"temperature must be 0 (greedy) or from 0.01 to 100, not {temperature}")
    return temperature


@dataclass(frozen=True)
class SamplingParameters:
    """How completions are sampled.

    Fields:
        temperature: 0 means greedy. At 1 the completion is a sample of the model's own distribution.
        top_p, top_k: restrict sampling; 1.0 and 0 mean off, whatever the model's generation config says.
        max_completion_length: in tokens; a completion that reaches it without ending is marked truncated.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_completion_length: int = 256

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, not {self.top_k}")
        if not 1 <= self.max_completion_length <= MOST_TOKENS:
            raise ValueError(f"max_completion_length must be 1 to {MOST_TOKENS}, not {self.max_completion_length}")


@runtime_checkable
class Sampler(Protocol):
    """Samples completions; the one contract that all samplers keep (`tests/contracts`).

    One completion for each prompt, in the prompts' order; at least one token each; every id below the tokenizer's
    length; it ends with a stop token exactly if it is not truncated; the same prompts, parameters and seed give the
    same completions; the caller's random state is left as it was.
    """

    def sample(
        self, prompts: Sequence[Sequence[int]], parameters: SamplingParameters, *, seed: int
    ) -> list[Completion]: ...


@runtime_checkable
class Pinnable(Sampler, Protocol):
    """A sampler that can keep the weights of a moment, and sample from them while the model goes on.

    It needs nothing of the model in this process. Where the weights lie in parts on several processes, all of them must
    call `pinned` together, and what it returns then samples on each by itself.
    """

    def pinned(self) -> Sampler: ...


def cut_at_stop(token_ids: Sequence[int], stop: Sequence[int]) -> Completion:
    """Sampled ids up to the first stop token, which stays; without one they were cut off."""
    for position, token in enumerate(token_ids):
        if token in stop:
            return Completion(tuple(token_ids[: position + 1]), truncated=False)
    return Completion(tuple(token_ids), truncated=True)


def derive_seed(*parts: object) -> int:
    """A seed from any printable parts: stable across processes and machines, unlike `hash`."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
