"""The frozen teacher's hidden states on completions, nothing of it computed twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from crosslign.models import FrozenTeacher, SharedPrefix, SplitModel, StateStore, state_key
from crosslign.models.passes.batching import Batching
from crosslign.models.passes.grouping import MIN_PREFIX, common_prefix
from crosslign.types import Rollout

HEADER_BYTES = 256  # of a stored file, about


class TeacherStates:
    """Rollouts -> the teacher's hidden states `[L, hidden]` at each rollout's L completion positions.

    - Rows of similar length share a forward pass.
    - What all teacher contexts of an accumulation window begin with (system text, constant instruction) is computed
      once and its keys and values reused, where the model allows it.
    - States of rollouts that come again (the frozen teacher's own completions) are read from a store, if there is one.

    Args:
        teacher, split: the model, and how to get hidden states out of it.
        batching: which rows share a forward pass.
        device: of the results.
        autocast: the mixed precision to compute in.
        prefix: reuses a common start; None where the model does not allow it.
        store: None for no store.
    """

    def __init__(
        self,
        teacher: FrozenTeacher,
        split: SplitModel,
        batching: Batching,
        device: torch.device,
        *,
        autocast: Callable[[], AbstractContextManager[Any]],
        prefix: SharedPrefix | None = None,
        store: StateStore | None = None,
    ) -> None:
        self.teacher = teacher
        self.split = split
        self.batching = batching
        self.device = device
        self.autocast = autocast
        self.prefix = prefix
        self.store = store

    def common(self, rollouts: Sequence[Rollout]) -> tuple[int, ...]:
        """What the teacher contexts of an accumulation window begin with, if it can be reused and is worth it.

        It depends on the window alone, so a resumed run computes what an uninterrupted one does.
        """
        contexts = [r.teacher_context.token_ids for r in rollouts if r.completion.token_ids]
        if self.prefix is None or len(contexts) < 2:
            return ()
        # The last token of a context stays: its state predicts the completion's first.
        length = min(common_prefix(contexts), min(map(len, contexts)) - 1)
        return contexts[0][:length] if length >= MIN_PREFIX else ()

    def __call__(self, rollouts: Sequence[Rollout], common: tuple[int, ...] = ()) -> list[Tensor]:
        """States of all rollouts; `common` is what `common()` found for their window."""
        if self.store is None:
            return self.compute(rollouts, common)
        keys = {i: self._key(r) for i, r in enumerate(rollouts) if comes_again(r)}
        read = {i: self.store.get(key, len(rollouts[i].completion.token_ids)) for i, key in keys.items()}
        states = {i: s.to(self.device) for i, s in read.items() if s is not None}
        missing = [i for i in range(len(rollouts)) if i not in states]
        for i, computed in zip(missing, self.compute([rollouts[i] for i in missing], common), strict=True):
            states[i] = computed
            if i in keys:
                self.store.put(keys[i], computed)
        return [states[i] for i in range(len(rollouts))]

    def _key(self, rollout: Rollout) -> str:
        with self.autocast():
            kind = self.device.type
            precision = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "full"
        context, completion = rollout.teacher_context.token_ids, rollout.completion.token_ids
        return state_key(self.teacher.fingerprint, context, completion, precision)

    def compute(self, rollouts: Sequence[Rollout], common: tuple[int, ...] = ()) -> list[Tensor]:
        """As a call, without the store."""
        if not rollouts:
            return []
        contexts = [r.teacher_context.token_ids for r in rollouts]
        completions = [r.completion.token_ids for r in rollouts]
        # Of a rollout without tokens no state is needed, but its width is: if there is no other, one is run.
        run = [i for i, c in enumerate(completions) if c] or [0]
        if any(contexts[i][: len(common)] != common for i in run):
            raise ValueError("a teacher context does not begin with what was said to be common to all")
        prompts = [c[len(common) :] for c in contexts]
        states: dict[int, Tensor] = {}
        with self.teacher.view() as frozen, self.autocast():
            for group in self.batching.groups([len(prompts[i]) + len(completions[i]) for i in run]):
                rows = [run[n] for n in group]
                hidden = self._hidden(frozen, common, [prompts[i] for i in rows], [completions[i] for i in rows])
                states.update({i: hidden[n, : len(completions[i])] for n, i in enumerate(rows)})
        empty = states[run[0]][:0]
        return [states.get(i, empty) for i in range(len(rollouts))]

    def _hidden(
        self,
        frozen: Any,
        common: tuple[int, ...],
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
    ) -> Tensor:
        batch = self.batching.collate(prompts, completions).to(self.device)
        if common and self.prefix is not None and batch.attention_mask is not None:
            return self.prefix.hidden(frozen, common, batch.input_ids, batch.attention_mask, batch.index)
        return self.split.hidden(frozen, batch.input_ids, batch.attention_mask, batch.index, batch.position_ids)


def comes_again(rollout: Rollout) -> bool:
    """The frozen teacher's completion of a query is sampled once and used in every epoch."""
    return rollout.sampled_by == "teacher" and bool(rollout.completion.token_ids)


def stored_bytes(completions: int, tokens: int, width: int, dtype: torch.dtype) -> int:
    """Most that the states of so many completions take on disk, each of at most so many tokens."""
    return completions * (tokens * width * dtype.itemsize + HEADER_BYTES)
