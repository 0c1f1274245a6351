"""The divergence on completions that stay the same, before and after training."""

from __future__ import annotations

from collections import defaultdict

import torch

from crosslign.distillation.trainer import DistillationTrainer


class DivergenceProbe:
    """Measures how far the student is from the teacher on a few fixed completions.

    During an on-policy run the student chooses the tokens on which it is compared, so the logged divergence also moves
    because the completions do: it can rise while the student follows the teacher better on every given text. Here the
    completions are those of the run's own strategy at the start, on the first `size` training queries.

    Make it before training, when the student is still the initial model, also when a run is resumed.
    """

    def __init__(self, trainer: DistillationTrainer, size: int) -> None:
        self.trainer = trainer
        queries = [trainer.mixture.draw(0, position) for position in range(min(size, len(trainer.mixture)))]
        rollouts = trainer.collector.collect(queries, step=0) if queries else []
        self.rollouts = [r for r in rollouts if r.completion.token_ids]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Mean divergence in nats per token, for `all` and for each language that the probe holds."""
        sums: dict[str, float] = defaultdict(float)
        tokens: dict[str, int] = defaultdict(int)
        seconds = dict(self.trainer.metrics.seconds)
        for rollout in self.rollouts:
            result, mask = self.trainer.score(self.trainer.accelerator.unwrap_model(self.trainer.model), [rollout])
            for key in ("all", rollout.query.language):
                sums[key] += float(result.divergence.sum())
                tokens[key] += int(mask.sum())
        # The probe's time is not the first step's.
        self.trainer.metrics.seconds = seconds
        return {key: sums[key] / tokens[key] for key in sums}
