"""Tiny models of every architecture that does something of its own, and adapters on them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from peft import LoraConfig

from crosslign.models import add_lora

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "bos_token_id": 1,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Qwen2": ("Qwen2", {}),
    "Qwen3": ("Qwen3", {}),
    "Gemma2 (soft-capping)": (
        "Gemma2",
        {"final_logit_softcapping": 3.0, "sliding_window": 4, "query_pre_attn_scalar": 8},
    ),
    "Gemma3 (text)": ("Gemma3", {"sliding_window": 4, "query_pre_attn_scalar": 8}),
    "Gemma3 (text, soft-capping)": ("Gemma3", {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}),
    "Granite (logits_scaling)": ("Granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0}),
    "Cohere (logit_scale)": ("Cohere", {"logit_scale": 0.0625}),
}


def build(name: str, **changes: Any) -> Any:
    family, extra = ARCHITECTURES[name]
    config_name = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(transformers, config_name)(**{**SMALL, **extra, **changes})
    torch.manual_seed(0)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


class Biased(transformers.LlamaForCausalLM):
    """A model that does something to its logits of which nobody knows: it cannot be split into body and head."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 1.5 - 2
        return output


def adapted(model: Any) -> Any:
    peft_model = add_lora(model, LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return peft_model
