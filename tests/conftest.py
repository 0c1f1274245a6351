"""Shared fixtures: a tiny real model with a byte-level tokenizer, made on the spot; nothing touches a network."""

from __future__ import annotations

import csv
import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma2Config, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)

# No deadline: the machine may be shared. `--hypothesis-profile=thorough` looks further, with other examples each time.
EASY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", EASY, max_examples=25, derandomize=True, database=None)
settings.register_profile("thorough", EASY, max_examples=200)
settings.load_profile("fast")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 272  # a few rows more than the tokenizer has tokens, as real models do


def pytest_collection_finish() -> None:
    """Each training collects garbage once; without this it walks through every imported library, 0.3 s a run."""
    gc.collect()
    gc.freeze()


def byte_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that can write any text; pad and end-of-sequence are the same token, the hard case."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=259,
        special_tokens=["<|im_end|>", "<|im_start|>", "<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(["a"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = chat_template
    return fast


def tiny_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A two-layer Llama with random weights, spread enough that its distributions are not flat."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "initializer_range": 0.3,
            "eos_token_id": 0,
            "bos_token_id": None,
            "pad_token_id": 0,
            **changes,
        }
    )
    model = LlamaForCausalLM(config).eval()
    # Ending a turn must be likely enough that some completions of a few tokens end and others are cut off.
    with torch.no_grad():
        model.lm_head.weight[0] *= 3
    return model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The tiny model and its tokenizer, saved as a user would have them. Treat as read-only."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tiny_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def capped_model(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A model whose logits are capped; its weights are another's, and are not to be loaded."""
    folder = tmp_path_factory.mktemp("capped") / "model"
    shutil.copytree(model_folder, folder)
    Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, final_logit_softcapping=3.0
    ).save_pretrained(folder)
    return folder


ROWS = [
    {
        "id": f"row-{i}",
        "label": "harmful" if i % 2 else "benign",
        "category": "a" if i < 6 else "b",
        "en": f"question {i}",
        "sw": f"swali {i}",
        "bn": f"প্রশ্ন {i}",
    }
    for i in range(12)
]


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    """A well-formed query table: 12 rows in en, sw, bn."""
    return write_csv(tmp_path / "queries.csv", ROWS)


def small_recipe(folder: Path, model_folder: Path, table: Path) -> dict[str, Any]:
    """A raw recipe of a run that takes half a second; it writes into `folder`."""
    return {
        "model": {"path": str(model_folder), "lora": {"r": 4}},
        "data": {"tables": [{"path": str(table)}], "languages": ["sw", "bn"]},
        "teacher": {"template": "judged", "max_judgement_length": 6},
        "student": {"max_length": 4000},
        "sampling": {"max_completion_length": 8},
        "divergence_queries": 2,
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "run"),
        "training": {
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.01,
            "save_steps": 2,
            "use_cpu": True,
        },
    }


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Path, table_file: Path) -> dict[str, Any]:
    return small_recipe(tmp_path, model_folder, table_file)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of prompts in each call of a model's sampler from now on."""
    from crosslign.rollouts import TransformersSampler

    made: list[int] = []
    sample = TransformersSampler.sample

    def counted(self: Any, prompts: Any, parameters: Any, *, seed: int) -> Any:
        made.append(len(prompts))
        return sample(self, prompts, parameters, seed=seed)

    monkeypatch.setattr(TransformersSampler, "sample", counted)
    return made


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, Any]:
    """The recipe of a finished run of 4 steps, with checkpoints 2 and 4. Treat its folder as read-only."""
    from helpers import run  # which imports this module

    folder = tmp_path_factory.mktemp("whole")
    recipe = small_recipe(folder, model_folder, write_csv(folder / "queries.csv", ROWS))
    run(recipe)
    return recipe


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browser import started  # which few tests need

    with started() as found:
        yield found
