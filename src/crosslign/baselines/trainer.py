"""One trainer for all methods that learn from fixed answers: supervised, preferences, reward gaps.

A method is a table's row: which answers a query has, and a loss of how likely student and frozen model find them. So
all of them take the steps that Multilingual Self-Distillation takes: the same queries in the same order, the same
accumulation, evaluation, checkpoints and refusals to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosslign.baselines.base import Example, Material, Parts
from crosslign.baselines.likelihood import Likelihoods, likelihoods
from crosslign.distillation import RunTrainer
from crosslign.distillation.run_trainer import loud
from crosslign.models.sharding import as_forward
from crosslign.types import Query

_COLUMNS = ("loss", "items", "examples", "tokens", "margin")


@dataclass(frozen=True)
class Scores:
    """Of a micro-batch: B examples with A answers each.

    Fields:
        log_probs, frozen_log_probs: `[B, A]`, log p(y | x) of the student, and of the frozen model.
        lengths: `[B, A]`, tokens of the answers.
        states, frozen_states: `[B, A, H]`, mean hidden states.
    What a method does not ask for is None.
    """

    log_probs: Tensor
    lengths: Tensor
    frozen_log_probs: Tensor | None = None
    states: Tensor | None = None
    frozen_states: Tensor | None = None

    @property
    def ratios(self) -> Tensor:
        """`[B, A]`, log p(y | x) - log p_0(y | x)."""
        assert self.frozen_log_probs is not None
        return self.log_probs - self.frozen_log_probs

    @property
    def means(self) -> Tensor:
        """`[B, A]`, log p(y | x) / |y|."""
        return self.log_probs / self.lengths


class ExampleMethod:
    """A method that learns from fixed answers: give `examples` and `loss`.

    Attributes:
        reference: whether the loss needs the frozen model's likelihoods.
        hidden: whether it needs hidden states.
        The others are `Method`'s.
    """

    about = ""
    judged = False
    sharded = False
    reference = True
    hidden = False

    def examples(self, material: Material) -> Sequence[Example]:
        raise NotImplementedError

    def loss(self, scores: Scores) -> Tensor:
        """`[B]`, the loss of each example; a step's is their sum over the window, divided by that of `items`."""
        raise NotImplementedError

    def items(self, example: Example) -> int:
        return 1

    def trainer(self, parts: Parts, examples: Mapping[str, Example]) -> RunTrainer:
        return ExampleTrainer(
            parts.student, parts.arguments, method=self, examples=examples, languages=parts.languages, **parts.common()
        )


class ExampleTrainer(RunTrainer):
    """Trains a student on the examples of the mixture's queries.

    Args:
        method: its loss, and what that needs.
        examples: by `Query.key`, of every query that the mixture can draw.
        languages: to report metrics for.

    The others are `RunTrainer`'s.
    """

    metrics: ExampleMetrics

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        method: ExampleMethod,
        examples: Mapping[str, Example],
        languages: Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, metrics=ExampleMetrics(languages), **kwargs)
        self.method = method
        self.examples = examples

    def window(
        self, epoch: int, positions: Sequence[Sequence[int]], device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        batches = [[self.examples[self.mixture.draw(epoch, p).key] for p in batch] for batch in positions]
        count = torch.tensor(sum(self.method.items(e) for batch in batches for e in batch), device=device)
        return [{"examples": batch} for batch in batches], self.accelerator.reduce(count, reduction="sum")

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        examples: list[Example] = inputs["examples"]
        answers = [answer for example in examples for answer in example.answers]
        number, method = len(examples), self.method
        split, batching = self.scorer.split, self.scorer.batching
        found: list[tuple[Tensor, Scores]] = []

        def compute(student: Any) -> Tensor:
            own = likelihoods(student, split, batching, answers, states=method.hidden)
            lengths = torch.tensor([len(a.completion) for a in answers], device=own.log_probs.device)
            scores = Scores(
                own.log_probs.view(number, -1),
                lengths.view(number, -1),
                None if frozen is None else frozen.log_probs.view(number, -1),
                _by_example(own, number),
                None if frozen is None else _by_example(frozen, number),
            )
            losses = method.loss(scores)
            found.append((losses, scores))
            return losses.sum()

        frozen: Likelihoods | None = None
        with self.accelerator.autocast():
            if method.reference:
                with self.scorer.teacher.view() as teacher:
                    frozen = likelihoods(teacher, split, batching, answers, states=method.hidden)
            summed = as_forward(model, self.accelerator.unwrap_model(model), compute)
        losses, scores = found[0]
        self.metrics.add(examples, losses.detach(), scores, [method.items(e) for e in examples])
        items = sum(map(method.items, examples)) if num_items_in_batch is None else num_items_in_batch
        loss = loud(summed / items * self.accelerator.num_processes)  # gradients are averaged over processes
        return (loss, {"losses": losses}) if return_outputs else loss


def _by_example(found: Likelihoods, number: int) -> Tensor | None:
    return None if found.states is None else found.states.view(number, -1, found.states.shape[-1])


class ExampleMetrics:
    """Sums over an accumulation window by language, added up over processes when logged.

    `margin` is the mean over examples of log p(chosen) - log p(rejected), in nats, less the frozen model's where the
    method asks for it.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        self.languages = list(languages)
        self.not_finite: list[Query] = []
        self.pairs = False
        self._sums = torch.zeros(len(self.languages), len(_COLUMNS), dtype=torch.float64)

    def add(self, examples: Sequence[Example], losses: Tensor, scores: Scores, items: Sequence[int]) -> None:
        self.pairs = scores.log_probs.shape[1] > 1
        shown = (scores.log_probs if scores.frozen_log_probs is None else scores.ratios).detach()
        margins = (shown[:, 0] - shown[:, 1] if self.pairs else torch.zeros_like(losses)).cpu().double()
        values, tokens = losses.cpu().double(), scores.lengths.sum(-1).cpu()
        for i, example in enumerate(examples):
            if not torch.isfinite(values[i]):
                self.not_finite.append(example.query)
            row = [float(values[i].nan_to_num()), items[i], 1.0, float(tokens[i]), float(margins[i].nan_to_num())]
            self._sums[self.languages.index(example.query.language)] += torch.tensor(row, dtype=torch.float64)

    def flush(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The log line's entries; starts anew. `reduce` sums a tensor over processes."""
        sums = reduce(self._sums.clone()).cpu()
        total = dict(zip(_COLUMNS, sums.sum(0).tolist(), strict=True))
        logs = {"tokens": total["tokens"]}
        if self.pairs and total["examples"]:
            logs["margin"] = total["margin"] / total["examples"]
        for language, values in zip(self.languages, sums.tolist(), strict=True):
            row = dict(zip(_COLUMNS, values, strict=True))
            if row["items"]:
                logs[f"loss/{language}"] = row["loss"] / row["items"]
        self._sums.zero_()
        return logs
