"""A sampler that answers from a script: a fake that ships, for tests and for trying a pipeline without a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from crosslign.rollouts.base import SamplingParameters, derive_seed
from crosslign.types import Completion


@dataclass
class ScriptedSampler:
    """Completes each prompt with `script(prompt)`, or with seeded random ids where there is no script.

    Fields:
        stop_token_id: appended where the script ends before the length limit.
        vocabulary_size: bound of the random ids.
        script: prompt ids to completion ids, without the stop token.
        calls: the prompts of each call, for assertions.
    """

    stop_token_id: int
    vocabulary_size: int
    script: Callable[[Sequence[int]], Sequence[int]] | None = None
    calls: list[list[tuple[int, ...]]] = field(default_factory=list)

    def sample(
        self, prompts: Sequence[Sequence[int]], parameters: SamplingParameters, *, seed: int
    ) -> list[Completion]:
        self.calls.append([tuple(p) for p in prompts])
        return [self._complete(p, parameters, seed) for p in prompts]

    def _complete(self, prompt: Sequence[int], parameters: SamplingParameters, seed: int) -> Completion:
        if self.script is not None:
            body = [t for t in self.script(prompt) if t != self.stop_token_id]
        else:
            rng = random.Random(derive_seed(seed if parameters.temperature else 0, *prompt))
            allowed = [t for t in range(self.vocabulary_size) if t != self.stop_token_id]
            body = [rng.choice(allowed) for _ in range(rng.randint(1, 2 * parameters.max_completion_length))]
        if len(body) >= parameters.max_completion_length:
            return Completion(tuple(body[: parameters.max_completion_length]), truncated=True)
        return Completion((*body, self.stop_token_id), truncated=False)
