"""A merged model answers as base and adapter do, whatever way it was merged, and the base stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, byte_tokenizer, tiny_llama
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_loading import write_gguf
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from crosslign.models import ModelSource, fingerprint, load_model, merge
from crosslign.models.merge import merge_adapter
from crosslign.storage import file_sha256
from crosslign.types import CrosslignError

IDS = torch.arange(1, 25).reshape(2, 12)


def saved(folder: Path, model: Any, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    byte_tokenizer().save_pretrained(folder)
    return folder


def adapter_for(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter whose change is large enough to be seen in every logit."""
    torch.manual_seed(1)
    chosen = LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8, **settings})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), chosen)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def unmerged(base: Path, adapter: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, adapter))


def merged(base: Path, adapter: Path, out: Path, **options: Any) -> merge.Merged:
    out.mkdir()
    known = fingerprint(load_model(ModelSource(str(base))))
    return merge_adapter(ModelSource(str(base)), adapter, out, fingerprint=known, **options)


def loaded(folder: Path) -> Any:
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    return model


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({}, {"use_rslora": True, "target_modules": "all-linear"}),
        ({"tie_word_embeddings": True}, {"target_modules": ["up_proj", "down_proj"]}),
    ],
)
def test_files_are_merged_one_by_one_and_the_base_stays(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    base = saved(tmp_path / "base", tiny_llama(**changes), max_shard_size="40KB")
    files = sorted(base.glob("*.safetensors"))
    assert len(files) > 2
    before = {file: file_sha256(file) for file in base.iterdir()}
    adapter = adapter_for(base, tmp_path / "adapter", **settings)
    said: list[str] = []
    found = merged(base, adapter, tmp_path / "out", announce=said.append)
    assert (found.streamed, found.dtype) == (True, "float32")
    assert found.rounding < 1e-6
    assert len(said) == len(files)
    assert [f.name for f in sorted((tmp_path / "out").glob("*.safetensors"))] == [f.name for f in files]
    expected, now = unmerged(base, adapter), logits(loaded(tmp_path / "out"))
    assert torch.allclose(now, expected, atol=1e-5)
    assert (logits(AutoModelForCausalLM.from_pretrained(base)) - expected).abs().max() > 0.1
    assert {file: file_sha256(file) for file in base.iterdir()} == before


def test_both_ways_give_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = saved(tmp_path / "base", tiny_llama())
    adapter = adapter_for(base, tmp_path / "adapter")
    assert merged(base, adapter, tmp_path / "streamed").streamed
    monkeypatch.setattr(merge, "_can_stream", lambda *_: False)
    assert not merged(base, adapter, tmp_path / "whole").streamed
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("streamed", "whole"))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], atol=1e-6), name


def exact_sum(base: Path, adapter: Path, module: str, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """W and W + s B A in float64, from the files."""
    with safe_open(base / "model.safetensors", "pt") as file:
        weight = file.get_tensor(f"{module}.weight").double()
    low = load_file(adapter / "adapter_model.safetensors")
    a, b = (low[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "AB")
    return weight, weight + scale * (b @ a)


def test_half_precision_is_rounded_once_and_what_that_takes_is_told(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", tiny_llama().to(torch.bfloat16))
    adapter = adapter_for(base, tmp_path / "adapter", target_modules=["q_proj"])
    found = merged(base, adapter, tmp_path / "out")
    assert found.dtype == "bfloat16"
    now = load_file(tmp_path / "out" / "model.safetensors")
    change = error = 0.0
    for layer in (0, 1):
        module = f"model.layers.{layer}.self_attn.q_proj"
        weight, exact = exact_sum(base, adapter, module, 2.0)
        assert torch.equal(now[f"{module}.weight"], exact.float().to(torch.bfloat16))
        change += float((exact - weight).square().sum())
        error += float((now[f"{module}.weight"].double() - exact).square().sum())
    assert found.rounding == pytest.approx((error / change) ** 0.5, rel=1e-4)
    assert found.rounding > 1e-3
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    full = merged(base, adapter, tmp_path / "full", dtype="float32")
    assert (full.dtype, full.rounding < 1e-6) == ("float32", True)
    assert torch.allclose(logits(loaded(tmp_path / "full")), unmerged(base, adapter), atol=1e-5)


def test_layers_of_another_kind_are_merged_with_the_whole_model_in_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    base = saved(tmp_path / "base", GPT2LMHeadModel(config).eval())
    adapter = adapter_for(base, tmp_path / "adapter", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    assert not merged(base, adapter, tmp_path / "out").streamed
    assert torch.allclose(logits(loaded(tmp_path / "out")), unmerged(base, adapter), atol=1e-4)


def test_an_adapter_on_embeddings_is_merged(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", tiny_llama())
    adapter = adapter_for(base, tmp_path / "adapter", target_modules=["embed_tokens", "q_proj"])
    assert not merged(base, adapter, tmp_path / "out").streamed
    assert torch.allclose(logits(loaded(tmp_path / "out")), unmerged(base, adapter), atol=1e-4)


def test_a_gguf_base_becomes_an_ordinary_model(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain", tiny_llama())
    base = write_gguf(tmp_path / "model.gguf", tiny_llama(), "F32")
    adapter = adapter_for(plain, tmp_path / "adapter")
    found = merged(base, adapter, tmp_path / "out")
    assert (found.streamed, found.dtype) == (False, "float32")
    assert torch.allclose(logits(loaded(tmp_path / "out")), unmerged(plain, adapter), atol=1e-4)


def test_a_base_that_the_adapter_was_not_trained_on_is_refused(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", tiny_llama())
    adapter = adapter_for(base, tmp_path / "adapter")
    known = fingerprint(load_model(ModelSource(str(base))))
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "out").mkdir()
    with pytest.raises(CrosslignError, match=rf"not the weights that the adapter was trained on .*{known}"):
        merge_adapter(ModelSource(str(base)), adapter, tmp_path / "out", fingerprint=known)
    small = saved(tmp_path / "small", tiny_llama(hidden_size=16))
    with pytest.raises(CrosslignError, match="Was it trained on another model"):
        merge_adapter(ModelSource(str(small)), adapter, tmp_path / "out", fingerprint=known)


def test_weights_that_are_used_twice_are_not_merged(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", tiny_llama(tie_word_embeddings=True))
    adapter = adapter_for(base, tmp_path / "adapter", target_modules=["lm_head"])
    (tmp_path / "out").mkdir()
    with pytest.raises(CrosslignError, match="changes lm_head, whose weights the model uses twice"):
        merge_adapter(ModelSource(str(base)), adapter, tmp_path / "out")


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", tiny_llama())
    adapter = adapter_for(base, tmp_path / "adapter", lora_alpha=10**8)
    (tmp_path / "out").mkdir()
    with pytest.raises(CrosslignError, match="hold inf or NaN as float16"):
        merge_adapter(ModelSource(str(base)), adapter, tmp_path / "out", dtype="float16")
