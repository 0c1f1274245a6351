"""Configurations of models that no test loads: the sizes that their publishers give (config.json on the hub)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import byte_tokenizer

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "torch_dtype": "bfloat16"}
QWEN3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16"}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, key_value: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    }


# With the number of parameters that the hub shows.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Qwen/Qwen2.5-7B-Instruct": (QWEN2 | _sizes(3584, 18944, 28, 28, 4, 152_064), 7_615_616_512),
    "Qwen/Qwen3-8B": (QWEN3 | _sizes(4096, 12288, 36, 32, 8, 151_936) | {"head_dim": 128}, 8_190_735_360),
    "meta-llama/Meta-Llama-3-70B-Instruct": (LLAMA | _sizes(8192, 28672, 80, 64, 8, 128_256), 70_553_706_496),
}


def configuration_folder(folder: Path, model: str) -> Path:
    """A folder with the model's configuration and a small tokenizer, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(PUBLISHED[model][0]))
    return folder
