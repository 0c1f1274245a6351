"""Models: loading, LoRA, the frozen teacher, hidden states and heads."""

from crosslign.models.forward import SplitModel, causal_lm, split_model
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
    "add_lora",
    "causal_lm",
    "check_source",
    "disable_dropout",
    "end_of_turn_ids",
    "fingerprint",
    "freeze",
    "load_model",
    "load_tokenizer",
    "split_model",
    "token_ids",
]
