"""Models: loading, LoRA, the frozen teacher, hidden states and heads."""

from crosslign.models.adapter import adapter_in_base_type, adapter_sha256, check_adapter
from crosslign.models.forward import SplitModel, causal_lm, evaluating, output_head, split_model
from crosslign.models.identity import load_with_adapter, sampling_mark, weights_mark
from crosslign.models.load import (
    ModelSource,
    NotFiniteError,
    TokenIds,
    check_source,
    disable_dropout,
    end_of_turn_ids,
    evaluation_source,
    free_memory,
    freeze,
    load_model,
    load_skeleton,
    load_tokenizer,
    not_finite,
    token_ids,
)
from crosslign.models.passes.prefix import SharedPrefix, shared_prefix
from crosslign.models.teacher import FrozenTeacher, TeacherMovedError, add_lora, fingerprint, weights_fingerprint

__all__ = [
    "FrozenTeacher",
    "ModelSource",
    "NotFiniteError",
    "SharedPrefix",
    "SplitModel",
    "TeacherMovedError",
    "TokenIds",
    "adapter_in_base_type",
    "adapter_sha256",
    "add_lora",
    "causal_lm",
    "check_adapter",
    "check_source",
    "disable_dropout",
    "end_of_turn_ids",
    "evaluating",
    "evaluation_source",
    "fingerprint",
    "free_memory",
    "freeze",
    "load_model",
    "load_skeleton",
    "load_tokenizer",
    "load_with_adapter",
    "not_finite",
    "output_head",
    "sampling_mark",
    "shared_prefix",
    "split_model",
    "token_ids",
    "weights_fingerprint",
    "weights_mark",
]
