"""Models with 4 bits a weight. With bitsandbytes they are run; without it, its 4-bit layer has a stand-in."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from helpers import cli_train, losses, no_weights, power_cut, run
from safetensors.torch import load_file, save_file

from crosslign.cli import main
from crosslign.models import ModelSource, check_source, fingerprint, load_model, load_with_adapter, not_finite
from crosslign.models.load import stored_tensors
from crosslign.objective.head import described
from crosslign.runs.build import assemble
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import CrosslignError

Raw = dict[str, Any]
INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not INSTALLED, reason="needs bitsandbytes: pip install 'crosslign[quantized]'")


@pytest.fixture
def quantized(recipe: Raw) -> Raw:
    recipe["model"]["quantization"] = "nf4"
    return recipe


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "bitsandbytes" or find(name))


class FourBit(torch.nn.Parameter):
    """What bitsandbytes makes of a weight: packed bits, and beside them what gives the bits their values."""

    quant_state: Any


def four_bit(model: Any) -> FourBit:
    """The model's first 4-bit weight, which it did not have before."""
    layer = model.model.layers[0].self_attn.q_proj
    bits = torch.randint(256, (layer.weight.numel() // 2, 1), dtype=torch.uint8)
    scales = {"absmax": torch.rand(16), "quant_state.bitsandbytes__nf4": torch.arange(9, dtype=torch.uint8)}
    weight = FourBit(bits, requires_grad=False)
    weight.quant_state = SimpleNamespace(shape=layer.weight.shape, as_dict=lambda packed: scales)
    del layer.weight
    layer.weight = weight
    return weight


def test_bits_and_scales_of_a_weight_count_for_the_fingerprint() -> None:
    model = tiny_llama()
    weight = four_bit(model)
    marks = {fingerprint(model)}
    scales = weight.quant_state.as_dict(packed=True)
    for changed in (weight.data, *scales.values()):
        changed[3] += 1
        marks.add(fingerprint(model))
    assert len(marks) == 4
    assert not_finite(stored_tensors(model)) is None
    scales["absmax"][2] = torch.nan
    assert not_finite(stored_tensors(model)) == "model.layers.0.self_attn.q_proj.weight.absmax"


def test_what_cannot_be_quantized_is_refused_before_weights_are_loaded(
    quantized: Raw, tmp_path: Path, installed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_weights(monkeypatch)
    before = Path(shutil.copytree(quantized["model"]["path"], tmp_path / "quantized"))
    config = json.loads((before / "config.json").read_text())
    (before / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for model, said in (
        ({"finetuning": "full", "lora": {}}, "quantization is for finetuning: lora"),
        ({"path": str(tmp_path / "model.gguf")}, "model.quantization: nf4 is for safetensors, not for a .gguf file"),
        ({"path": str(before)}, "is quantised already"),
        ({"quantization": "int3"}, "model.quantization"),
    ):
        assert cli_train(tmp_path, {**quantized, "model": {**quantized["model"], **model}}) == 1
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    for launched in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        with monkeypatch.context() as patch:
            patch.setenv(launched, "true")
            with pytest.raises(CrosslignError, match="does not work with FSDP or DeepSpeed"):
                prepare(parse_config({**quantized, "training": {"max_steps": 1}}))


def test_without_bitsandbytes_the_error_says_how_to_install_it(
    quantized: Raw,
    table_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_weights(monkeypatch)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    model = ["--model", quantized["model"]["path"], "--quantization", "nf4", "--out"]
    commands = (
        lambda: cli_train(tmp_path, quantized),
        lambda: main(["generate", "--table", str(table_file), *model, str(tmp_path / "o.jsonl")]),
        lambda: main(["eval", "--tasks", f"table:{table_file}", *model, str(tmp_path / "evaluation")]),
    )
    for command in commands:
        assert command() == 1
        assert "nf4 needs bitsandbytes, which is not installed: pip install 'crosslign[quantized]'" in (
            capsys.readouterr().err
        )


def test_the_model_is_asked_for_in_nf4(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    asked: list[dict[str, Any]] = []

    def from_pretrained(where: str, **kwargs: Any) -> Any:
        asked.append(kwargs)
        model = tiny_llama().bfloat16()
        model.hf_quantizer = SimpleNamespace(pre_quantized=len(asked) == 2)
        four_bit(model)
        return model, {"missing_keys": []}

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", staticmethod(from_pretrained))
    load_model(ModelSource(str(model_folder), quantization="nf4"))
    config = asked[0]["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == asked[0]["dtype"] == torch.bfloat16
    with pytest.raises(CrosslignError, match="is quantised already"):  # a hub model, known once it is there
        load_model(ModelSource(str(model_folder), quantization="nf4"))


@pytest.mark.processes
@needs_bitsandbytes
def test_a_run_on_a_4_bit_base_learns_resumes_and_is_evaluated(
    quantized: Raw, table_file: Path, tmp_path: Path
) -> None:
    quantized["training"]["max_steps"] = 3
    folder = run(quantized)
    cut = {**quantized, "output_dir": str(tmp_path / "cut")}
    power_cut(2, cut)
    run(cut, resume=True)
    assert losses(tmp_path / "cut") == losses(folder)
    adapter, other = (load_file(place / "adapter_model.safetensors") for place in (folder, tmp_path / "cut"))
    assert all(torch.equal(adapter[name], other[name]) for name in other)
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}
    # The same teacher in each process, which moves if a 4-bit weight does.
    prepared = prepare(parse_config(quantized), overwrite=True)
    made = assemble(prepared, load_model(prepared.source))
    assert json.loads((folder / "run.json").read_text())["teacher_fingerprint"] == made.teacher.fingerprint
    assert made.scorer.split.exact
    assert described(made.scorer.split.head(made.student)) is not None
    layer = made.student.get_base_model().model.layers[0].self_attn.q_proj.base_layer
    layer.weight.quant_state.absmax[0] += 1
    with pytest.raises(CrosslignError, match="the frozen teacher's weights have changed"):
        made.teacher.check()
    model = ["--model", quantized["model"]["path"], "--adapter", str(folder), "--quantization", "nf4"]
    model += ["--max-completion-length", "4", "--languages", "sw", "--out"]
    assert main(["generate", "--table", str(table_file), *model, str(tmp_path / "out.jsonl")]) == 0
    assert main(["eval", "--tasks", f"table:{table_file}", *model, str(tmp_path / "evaluation")]) == 0


@pytest.mark.slow
@needs_bitsandbytes
def test_an_adapter_and_an_infinite_weight_are_checked_on_4_bit_weights(
    quantized: Raw, model_folder: Path, tmp_path: Path
) -> None:
    folder = run(quantized, max_steps=1)
    source = ModelSource(str(model_folder), quantization="nf4")
    check_source(source)
    assert load_with_adapter(source, str(folder)).active_adapters == ["default"]
    wide = tmp_path / "wide"
    tiny_llama(hidden_size=64).save_pretrained(wide)
    with pytest.raises(CrosslignError, match="the adapter does not fit the model"):
        load_with_adapter(ModelSource(str(wide), quantization="nf4"), str(folder))
    spoilt = Path(shutil.copytree(model_folder, tmp_path / "spoilt"))
    weights = load_file(spoilt / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.inf
    save_file(weights, spoilt / "model.safetensors", {"format": "pt"})
    with pytest.raises(CrosslignError, match="hold inf or NaN"):
        load_model(ModelSource(str(spoilt), quantization="nf4"))
