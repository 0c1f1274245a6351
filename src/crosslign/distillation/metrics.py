"""Sums over an accumulation window, overall and for each language, added up over processes when logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from crosslign.objective import WeightedDivergence
from crosslign.types import Query, Rollout

_COLUMNS = ("loss", "divergence", "weight", "tokens", "sequences", "truncated")


class StepMetrics:
    """Accumulates what one log line reports.

    Means of divergence and weight (the one before normalisation) are over tokens; the loss, the completion length and
    the share cut off are over sequences that have tokens.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        self.languages = list(languages)
        self.seconds = {"generation": 0.0, "teacher": 0.0, "student": 0.0}
        self._sums = torch.zeros(len(self.languages), len(_COLUMNS), dtype=torch.float64)
        self.not_finite: list[Query] = []  # those whose loss was inf or NaN

    def add(self, rollouts: Sequence[Rollout], result: WeightedDivergence, mask: Tensor) -> None:
        per_sequence = (result.weight * result.divergence).nan_to_num().sum(-1).cpu().double()
        divergence = result.divergence.sum(-1).cpu().double()
        weight = result.raw_weight.sum(-1).cpu().double()
        tokens = mask.sum(-1).cpu().double()
        for i, rollout in enumerate(rollouts):
            if tokens[i] == 0:
                continue
            if not torch.isfinite(divergence[i] + weight[i]):
                self.not_finite.append(rollout.query)
            row = self._sums[self.languages.index(rollout.query.language)]
            row += torch.tensor(
                [
                    per_sequence[i] / tokens[i],
                    divergence[i],
                    weight[i],
                    tokens[i],
                    1.0,
                    float(rollout.completion.truncated),
                ],
                dtype=torch.float64,
            )

    def flush(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The log line's entries; starts anew. `reduce` sums a tensor over processes."""
        seconds = torch.tensor(list(self.seconds.values()), dtype=torch.float64)
        combined = reduce(torch.cat([self._sums.flatten(), seconds])).cpu()
        sums = combined[: self._sums.numel()].view_as(self._sums)
        logs: dict[str, float] = {}
        total = dict(zip(_COLUMNS, sums.sum(0).tolist(), strict=True))
        if total["sequences"]:
            logs["divergence"] = total["divergence"] / total["tokens"]
            logs["weight"] = total["weight"] / total["tokens"]
            logs["completion_length"] = total["tokens"] / total["sequences"]
            logs["truncated_share"] = total["truncated"] / total["sequences"]
        logs["tokens"] = total["tokens"]
        for language, values in zip(self.languages, sums.tolist(), strict=True):
            row = dict(zip(_COLUMNS, values, strict=True))
            if row["sequences"]:
                logs[f"loss/{language}"] = row["loss"] / row["sequences"]
                logs[f"divergence/{language}"] = row["divergence"] / row["tokens"]
                logs[f"weight/{language}"] = row["weight"] / row["tokens"]
        for name, value in zip(self.seconds, combined[self._sums.numel() :].tolist(), strict=True):
            logs[f"seconds_{name}"] = value
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self._sums.zero_()
        return logs
