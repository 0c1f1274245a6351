"""The score of rollouts: student and frozen teacher on the same tokens, compared and weighted.

For a completion y of a query x with its source-language version x* and the judging instruction C,

    p_S(. | x, y_<t)           the student after its own context
    p_T(. | x, x*, C, y_<t)    the frozen teacher after the teacher context
    loss = (1 / N) sum_i (1 / L_i) sum_t  w~_it D(p_S, p_T)_it

The teacher's logits may be divided by a temperature of its own, which the paper does not have: the student's are not,
so below 1 the student learns to be surer than the teacher is. Not of benign queries: to be surer of harmless answers is
to be surer of all text (docs/log.md).

Hidden states are computed at the completion's positions alone, and the objective projects them (`crosslign.objective`).

Source: Qin et al., arXiv 2605.02971.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crosslign.distillation.moving import MovingTeacher
from crosslign.models import FrozenTeacher, SplitModel
from crosslign.models.passes.batching import Batching
from crosslign.models.passes.collate import completion_mask
from crosslign.models.passes.grouping import MIN_PREFIX, common_prefix
from crosslign.models.passes.prefix import shared_prefix
from crosslign.models.sharding import as_forward, gathered_output
from crosslign.objective import Objective, WeightedDivergence, Weighting
from crosslign.objective.head import Head, described, is_linear
from crosslign.types import CrosslignError, Rollout


class Scorer:
    """Rollouts -> the weighted divergence of a student from the frozen teacher.

    It holds no student: the trainer passes the model that it is training, also inside a wrapper's forward pass. Mixed
    precision is the caller's (`with autocast: ...`).

    Args:
        student: for its device and architecture, which decide how rows share forward passes.
        teacher: the frozen initial model.
        split: how to get hidden states and head out of either.
        objective: hidden states to weighted divergence.
        pad_token_id: fills batches; masked.
        teacher_temperature: divides the teacher's logits where its context is not the student's, but for benign
            queries; 1 leaves them.

    Raises CrosslignError for a teacher's temperature with an output layer that is not linear: there a hidden state that
    is divided is not a logit that is divided.
    """

    def __init__(
        self,
        student: Any,
        teacher: FrozenTeacher,
        split: SplitModel,
        objective: Objective,
        pad_token_id: int,
        teacher_temperature: float = 1.0,
    ) -> None:
        self.teacher = teacher
        self.target: FrozenTeacher | MovingTeacher = teacher  # whose distributions are learned
        self.split = split
        self.objective = objective
        self.teacher_temperature = teacher_temperature
        # Without `exact` the states are logits.
        check_teacher_temperature(teacher_temperature, linear=not split.exact or is_linear(split.head(student)))
        self.pad_token_id = pad_token_id
        self.settle(student, sharded=False)

    def settle(self, student: Any, *, sharded: bool) -> None:
        """Work as it suits the device on which the student and the teacher lie now; again where they have moved."""
        self.batching = Batching.of(student, self.pad_token_id)
        self.prefix = None
        if not self.batching.packed and not sharded:
            with self.teacher.view() as frozen:
                self.prefix = shared_prefix(frozen, self.split)

    def __call__(
        self,
        student: Any,
        rollouts: Sequence[Rollout],
        teacher_hidden: Sequence[Tensor] | None = None,
        sequences: Tensor | int | None = None,
    ) -> tuple[WeightedDivergence, Tensor]:
        """The weighted divergence on the rollouts' tokens, and the mask `[batch, tokens]`.

        The rows share one forward pass of the student. `teacher_hidden` holds the teacher's states `[L, hidden]` of
        each rollout if they are known already. `sequences` is N, the number of sequences that the loss is the mean
        over; None for those of these rollouts that have a token.
        """
        device = _device(student)
        mask = completion_mask(rollouts).to(device)
        batch = self.batching.collate(
            [r.student_context.token_ids for r in rollouts], [r.completion.token_ids for r in rollouts]
        ).to(device)
        if teacher_hidden is None:
            teacher_hidden = self.teacher_hidden(rollouts)
        hidden = self.split.hidden(student, batch.input_ids, batch.attention_mask, batch.index, batch.position_ids)
        padded = pad_sequence([self._sharpened(h, r) for h, r in zip(teacher_hidden, rollouts, strict=True)], True)
        with self._teacher_head() as teacher_head:
            return self.objective(hidden, padded, self.split.head(student), teacher_head, mask, sequences), mask

    def _sharpened(self, hidden: Tensor, rollout: Rollout) -> Tensor:
        """States whose logits are those of `hidden` by the teacher's temperature; of a benign query, `hidden`."""
        if self.teacher_temperature == 1 or rollout.query.label == "benign":
            return hidden
        return hidden / self.teacher_temperature

    def in_forward(
        self,
        wrapped: Any,
        student: Any,
        rollouts: Sequence[Rollout],
        teacher_hidden: Sequence[Tensor] | None = None,
        sequences: Tensor | int | None = None,
    ) -> tuple[WeightedDivergence, Tensor]:
        """The same within the forward pass of `wrapped`, the wrapper that trains `student`, or the student itself."""

        found: list[tuple[WeightedDivergence, Tensor]] = []

        def score(model: Any) -> Tensor:
            hidden = self._teacher_hidden_at_once(rollouts) if teacher_hidden is None else teacher_hidden
            found.append(self(model, rollouts, hidden, sequences))
            return found[0][0].loss  # wrappers look for tensors in what a forward pass returns

        loss = as_forward(wrapped, student, score)
        result, mask = found[0]
        return dataclasses.replace(result, loss=loss), mask

    def against(self, teacher: MovingTeacher) -> Scorer:
        """The same scorer with another teacher, no common start of whose contexts is kept: it moves."""
        other = copy.copy(self)
        other.target, other.prefix = teacher, None
        return other

    def weighing(self, weighting: Weighting) -> Scorer:
        """The same scorer with another weighting; divergences do not depend on it."""
        other = copy.copy(self)
        other.objective = dataclasses.replace(self.objective, weighting=weighting)
        return other

    def common_start(self, rollouts: Sequence[Rollout]) -> tuple[int, ...]:
        """What the teacher contexts of an accumulation window begin with, if it can be reused and is worth it.

        System text and instruction are constant: their keys and values are computed once. The start depends on the
        window alone, so a resumed run computes what an uninterrupted one does.
        """
        contexts = [r.teacher_context.token_ids for r in rollouts if r.completion.token_ids]
        if self.prefix is None or len(contexts) < 2:
            return ()
        # The last token of a context stays: its state predicts the completion's first.
        length = min(common_prefix(contexts), min(map(len, contexts)) - 1)
        return contexts[0][:length] if length >= MIN_PREFIX else ()

    def teacher_hidden(self, rollouts: Sequence[Rollout], common: tuple[int, ...] = ()) -> list[Tensor]:
        """The teacher's states `[L, hidden]` at each rollout's L completion positions, without gradient.

        Rows of similar length share a forward pass. `common` is what `common_start` found for their window.
        """
        if not rollouts:
            return []
        contexts = [r.teacher_context.token_ids for r in rollouts]
        completions = [r.completion.token_ids for r in rollouts]
        # Of a rollout without tokens no state is needed, but its width is: if there is no other, one is run.
        run = [i for i, c in enumerate(completions) if c]
        if not run:
            run, common = [0], ()
        if any(contexts[i][: len(common)] != common for i in run):
            raise ValueError("a teacher context does not begin with what was said to be common to all")
        prompts = [c[len(common) :] for c in contexts]
        states: dict[int, Tensor] = {}
        with self.target.view() as frozen:
            for group in self.batching.groups([len(prompts[i]) + len(completions[i]) for i in run]):
                rows = [run[n] for n in group]
                hidden = self._teacher_pass(frozen, common, [prompts[i] for i in rows], [completions[i] for i in rows])
                states.update({i: hidden[n, : len(completions[i])] for n, i in enumerate(rows)})
        empty = states[run[0]][:0]
        return [states.get(i, empty) for i in range(len(rollouts))]

    def _teacher_hidden_at_once(self, rollouts: Sequence[Rollout]) -> list[Tensor]:
        """The same in one forward pass, as it must be where processes pass through the model together."""
        completions = [r.completion.token_ids for r in rollouts]
        hidden = self.target.run(
            lambda frozen: self._teacher_pass(frozen, (), [r.teacher_context.token_ids for r in rollouts], completions)
        )
        return [states[: len(completion)] for states, completion in zip(hidden, completions, strict=True)]

    def _teacher_pass(
        self,
        frozen: Any,
        common: tuple[int, ...],
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
    ) -> Tensor:
        batch = self.batching.collate(prompts, completions).to(_device(frozen))
        if common and self.prefix is not None and batch.attention_mask is not None:
            return self.prefix.hidden(frozen, common, batch.input_ids, batch.attention_mask, batch.index)
        return self.split.hidden(frozen, batch.input_ids, batch.attention_mask, batch.index, batch.position_ids)

    @contextmanager
    def _teacher_head(self) -> Iterator[Head]:
        with nullcontext() if self.target.shared else gathered_output(self.target.model):
            with self.target.view() as frozen:
                head = self.split.head(frozen)
            yield head if described(head) else self._head_inside_view

    def _head_inside_view(self, hidden: Tensor) -> Tensor:
        # A head that is no plain layer may carry an adapter, which only the view takes off.
        with self.target.view() as frozen:
            return self.split.head(frozen)(hidden)


@torch.no_grad()
def mean_divergence(
    scorer: Scorer, student: Any, rollouts: Sequence[Rollout], wrapped: Any | None = None
) -> dict[str, float]:
    """Mean divergence in nats per token, for `all` and for each language of the rollouts.

    During an on-policy run the student chooses the tokens on which it is compared, so the logged divergence also moves
    because the completions do. Measured before and after training on completions that stay the same, it tells how much
    better the student follows the teacher. Of a sharded student, or one in a wrapper (`wrapped`), every process must
    call this.
    """
    sums: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    for rollout in rollouts:
        if not rollout.completion.token_ids:
            continue
        result, mask = scorer.in_forward(student if wrapped is None else wrapped, student, [rollout])
        for key in ("all", rollout.query.language):
            sums[key] += float(result.divergence.sum())
            tokens[key] += int(mask.sum())
    return {key: sums[key] / tokens[key] for key in sums}


def check_teacher_temperature(temperature: float, *, linear: bool) -> None:
    """Raise CrosslignError for one that is not 1 where logits are no linear function of hidden states."""
    if temperature != 1 and not linear:
        raise CrosslignError(
            "teacher.temperature must be 1 here: the model's output layer has a bias or a cap, or is not plain."
        )


def _device(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device
