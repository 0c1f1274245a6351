"""How the rows of a micro-batch are put into forward passes: groups of similar length, or one packed row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosslign.models import causal_lm
from crosslign.models.passes.collate import PromptCompletionBatch, collate, pack
from crosslign.models.passes.grouping import CPU_GROUP_COST, CPU_MAX_TOKENS, length_groups

# Attention kernels that take sequences of different lengths in one row, told apart by where positions restart.
_VARLEN = ("flash_attention_2", "flash_attention_3")


@dataclass(frozen=True)
class Batching:
    """Fields:
    pad_token_id: fills shorter rows of a group; masked.
    packed: all rows in one, without padding, for attention kernels that keep them apart.
    group_cost, max_tokens: see `length_groups`; for batches that are not packed.
    split: False leaves a micro-batch whole.
    """

    pad_token_id: int
    packed: bool = False
    split: bool = True
    group_cost: int = CPU_GROUP_COST
    max_tokens: int | None = CPU_MAX_TOKENS

    @classmethod
    def of(cls, model: Any, pad_token_id: int) -> Batching:
        """What suits the model's device and attention.

        With variable-length flash attention in all layers: packed. On a CPU: groups of similar length. Elsewhere a
        micro-batch stays whole: many small passes would leave an accelerator idle.
        """
        lm = causal_lm(model)
        device = lm.get_input_embeddings().weight.device
        packed = device.type == "cuda" and lm.config._attn_implementation in _VARLEN and _is_attention_alone(lm)
        return cls(pad_token_id, packed=packed, split=device.type == "cpu")

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Row indices of each forward pass."""
        if not self.split or not lengths:
            return [list(range(len(lengths)))]
        return length_groups(lengths, group_cost=self.group_cost, max_tokens=self.max_tokens)

    def collate(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> PromptCompletionBatch:
        """The rows of one forward pass."""
        return pack(prompts, completions) if self.packed else collate(prompts, completions, self.pad_token_id)


def _is_attention_alone(lm: Any) -> bool:
    """Whether every layer is attention. Recurrent and convolutional ones do not start again where positions do: in one
    packed row, they would carry each sequence into the next."""
    layers = getattr(lm.config.get_text_config(), "layer_types", None) or ()
    attention = all(kind.endswith("attention") and kind != "linear_attention" for kind in layers)
    # Before transformers 5.25 not every such model named its layers, but all had this mark. RWKV and xLSTM name none
    # to this day; they have no flash attention, so nothing is packed for them.
    return attention and not getattr(lm, "_is_stateful", False)
