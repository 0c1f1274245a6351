"""A model's mark changes with what decides its completions, and with nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from safetensors.torch import load_file, save_file

from crosslign.models import ModelSource, adapter_sha256, identity, sampling_mark, weights_mark
from crosslign.types import CrosslignError


def edit_json(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))


def nudge(path: Path) -> None:
    tensors = load_file(path)
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def write(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")


@pytest.fixture
def model(tmp_path: Path, model_folder: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda f: nudge(f / "model.safetensors"),
        lambda f: edit_json(f / "config.json"),
        lambda f: edit_json(f / "tokenizer_config.json"),
        lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"),
        lambda f: write(f / "generation_config.json"),
        lambda f: write(f / "model.safetensors.index.json"),
        lambda f: write(f / "additional_chat_templates" / "tool_use.jinja"),
        lambda f: write(f / "tokenizer.model"),
        lambda f: write(f / "own.py"),
    ],
)
def test_what_decides_completions_changes_the_mark(model: Path, change: Callable[[Path], object]) -> None:
    source = ModelSource(str(model))
    before = weights_mark(source)
    assert weights_mark(source) == before
    change(model)
    assert weights_mark(source) != before


def test_another_tokenizer_and_a_chat_template_count(model: Path, tmp_path: Path) -> None:
    other, template = tmp_path / "other", tmp_path / "mine.jinja"
    shutil.copytree(model, other)
    template.write_text("{{ messages }}")
    source = ModelSource(str(model), tokenizer=str(other), chat_template=str(template))
    marks = {weights_mark(ModelSource(str(model))), weights_mark(source)}
    edit_json(other / "tokenizer_config.json")
    marks.add(weights_mark(source))
    template.write_text("{{ messages[0] }}")
    marks.add(weights_mark(source))
    assert len(marks) == 4


@pytest.mark.parametrize("changed", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapters_hash_covers_its_configuration_and_its_weights(
    changed: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(whole["output_dir"], adapter)
    before = adapter_sha256(str(adapter))
    (adapter / "run.json").write_text("{}")
    assert adapter_sha256(str(adapter)) == before
    path = adapter / changed
    if changed.endswith(".json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 33}))
    else:
        nudge(path)
    assert adapter_sha256(str(adapter)) != before


def test_logs_and_checkpoints_do_not(model: Path) -> None:
    before = weights_mark(ModelSource(str(model)))
    (model / "run.json").write_text("{}")
    (model / "checkpoint-1").mkdir()
    (model / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    assert weights_mark(ModelSource(str(model))) == before


def test_samples_of_a_large_file_see_its_size_and_a_training_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "SAMPLE_BYTES", 16)
    monkeypatch.setattr(identity, "SAMPLES", 4)
    (tmp_path / "config.json").write_text("{}")
    weights = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    marks = set()
    for tensor in (weights, weights + 1e-3, weights[:-1].clone()):
        save_file({"w": tensor}, tmp_path / "model.safetensors")
        marks.add(weights_mark(ModelSource(str(tmp_path))))
    assert len(marks) == 3


def test_a_hub_model_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    monkeypatch.setattr(identity, "cached_file", lambda *args, **kwargs: str(snapshot / "config.json"))
    assert weights_mark(ModelSource("owner/name")) == "0123abc"


def test_a_hub_model_out_of_reach_is_told() -> None:
    with pytest.raises(CrosslignError, match=r"configuration of 'owner/not-there' could not be loaded"):
        weights_mark(ModelSource("owner/not-there"))


def test_a_sampling_mark_covers_the_configuration_and_the_stop_tokens(tokenizer: Any) -> None:
    model = tiny_llama()
    mark = sampling_mark("weights", model, tokenizer)
    model.config.use_cache = not model.config.use_cache  # the Trainer's affair
    assert sampling_mark("weights", model, tokenizer) == mark
    assert sampling_mark("others", model, tokenizer) != mark
    model.generation_config.eos_token_id = [0, 7]
    assert sampling_mark("weights", model, tokenizer) != mark
    assert sampling_mark("weights", tiny_llama(rope_theta=5.0), tokenizer) != mark
