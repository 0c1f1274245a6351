"""Models: loading, LoRA, the frozen teacher, hidden states and heads."""

from crosslign.models.forward import SplitModel, causal_lm, split_model
from crosslign.models.identity import adapter_sha256, check_adapter, load_with_adapter, weights_mark
from crosslign.models.loading import (
    ModelSource,
    TokenIds,
    check_source,
    disable_dropout,
    end_of_turn_ids,
    freeze,
    load_model,
    load_tokenizer,
    token_ids,
)
from crosslign.models.teacher import FrozenTeacher, LoraSettings, TeacherMovedError, add_lora, fingerprint

__all__ = [
    "FrozenTeacher",
    "LoraSettings",
    "ModelSource",
    "SplitModel",
    "TeacherMovedError",
    "TokenIds",
    "adapter_sha256",
    "add_lora",
    "causal_lm",
    "check_adapter",
    "check_source",
    "disable_dropout",
    "end_of_turn_ids",
    "fingerprint",
    "freeze",
    "load_model",
    "load_tokenizer",
    "load_with_adapter",
    "split_model",
    "token_ids",
    "weights_mark",
]
