"""How likely a model finds answers: sums of token log-probabilities, without the logits of a batch.

    log p(y | x) = sum_t log softmax(head(h_t))[y_t]

Logits of a few tokens are made at a time; of a longer batch they are made again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crosslign.baselines.base import Answer
from crosslign.models import SplitModel, causal_lm
from crosslign.models.passes.batching import Batching
from crosslign.objective.chunks import pieces, tokens_in_budget


@dataclass(frozen=True)
class Likelihoods:
    """Of N answers.

    Fields:
        log_probs: `[N]`, log p(y | x), float32.
        states: `[N, H]`, the mean of the last hidden states at the completion's positions, float32; None if they were
            not asked for.
    """

    log_probs: Tensor
    states: Tensor | None = None


def likelihoods(
    model: Any, split: SplitModel, batching: Batching, answers: Sequence[Answer], *, states: bool = False
) -> Likelihoods:
    """Of answers that share one forward pass."""
    device = model.get_input_embeddings().weight.device
    batch = batching.collate([a.prompt for a in answers], [a.completion for a in answers]).to(device)
    hidden = split.hidden(model, batch.input_ids, batch.attention_mask, batch.index, batch.position_ids)
    lengths = torch.tensor([len(a.completion) for a in answers], device=device)
    mask = torch.arange(hidden.shape[1], device=device)[None, :] < lengths[:, None]
    ids = torch.tensor([token for a in answers for token in a.completion], device=device)
    vocabulary = causal_lm(model).config.get_text_config().vocab_size
    found = token_log_probs(hidden[mask], split.head(model), ids, vocabulary)
    summed = found.new_zeros(mask.shape).masked_scatter(mask, found).sum(-1)
    mean = (hidden.float() * mask[..., None]).sum(1) / lengths[:, None] if states else None
    return Likelihoods(summed, mean)


def token_log_probs(hidden: Tensor, head: Callable[[Tensor], Tensor], ids: Tensor, vocabulary: int) -> Tensor:
    """log softmax(head(h))[y] for hidden states `[T, H]` and tokens `[T]`: `[T]`, float32."""

    def part(states: Tensor, tokens: Tensor) -> Tensor:
        logits = head(states).float()
        return logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)

    chunks = pieces(len(ids), tokens_in_budget(vocabulary, 4, hidden.device))
    again = len(chunks) > 1 and torch.is_grad_enabled() and hidden.requires_grad
    return torch.cat(
        [
            checkpoint(part, hidden[c], ids[c], use_reentrant=False, preserve_rng_state=False)
            if again
            else part(hidden[c], ids[c])
            for c in chunks
        ]
    )
