"""Rollouts -> padded or packed tensors, student and teacher aligned on the completion's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from crosslign.types import Rollout


@dataclass(frozen=True)
class PromptCompletionBatch:
    """Right-padded inputs of one role, or the same packed into one row without padding.

    Fields (B sequences, S input positions, T completion positions):
        input_ids: `[B, S]`, prompt and completion without its last token, which predicts nothing. Packed: `[1, S]`,
            the sequences one after the other.
        attention_mask: `[B, S]`, 1 on real tokens. Padding stands right, so positions start at 0. Packed: None.
        index: `[B, T]`, the input position whose hidden state predicts completion token t; 0 where masked.
        position_ids: packed: `[1, S]`, each token's position in its own sequence; where it falls back to 0, a new
            sequence begins, and attention does not cross. Else None: positions are those of the columns.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    index: torch.Tensor
    position_ids: torch.Tensor | None = None

    def to(self, device: torch.device) -> PromptCompletionBatch:
        moved = (None if t is None else t.to(device) for t in (self.attention_mask, self.position_ids))
        mask, positions = moved
        return PromptCompletionBatch(self.input_ids.to(device), mask, self.index.to(device), positions)


def completion_mask(rollouts: Sequence[Rollout]) -> torch.Tensor:
    """`[B, T]` bool, True on the real tokens of each completion; padding is never found by token id."""
    lengths = torch.tensor([len(r.completion.token_ids) for r in rollouts])
    return torch.arange(int(lengths.max()) if len(rollouts) else 0)[None, :] < lengths[:, None]


def collate(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_token_id: int
) -> PromptCompletionBatch:
    """Append each completion to its prompt and pad on the right."""
    width = max((len(c) for c in completions), default=0)
    rows = _inputs(prompts, completions)
    size = max((len(r) for r in rows), default=0)
    input_ids = torch.full((len(rows), size), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros((len(rows), size), dtype=torch.long)
    index = torch.zeros((len(rows), width), dtype=torch.long)
    for i, (row, prompt, completion) in enumerate(zip(rows, prompts, completions, strict=True)):
        input_ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        attention_mask[i, : len(row)] = 1
        index[i, : len(completion)] = torch.arange(len(completion)) + len(prompt) - 1
    return PromptCompletionBatch(input_ids, attention_mask, index)


def pack(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> PromptCompletionBatch:
    """Append each completion to its prompt and put all of them into one row."""
    rows = _inputs(prompts, completions)
    index = torch.zeros((len(rows), max((len(c) for c in completions), default=0)), dtype=torch.long)
    start = 0
    for i, (row, prompt, completion) in enumerate(zip(rows, prompts, completions, strict=True)):
        index[i, : len(completion)] = torch.arange(len(completion)) + start + len(prompt) - 1
        start += len(row)
    input_ids = torch.tensor([[token for row in rows for token in row]], dtype=torch.long)
    position_ids = torch.tensor([[position for row in rows for position in range(len(row))]], dtype=torch.long)
    return PromptCompletionBatch(input_ids, None, index, position_ids)


def _inputs(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[*p, *c][:-1] if c else list(p) for p, c in zip(prompts, completions, strict=True)]
