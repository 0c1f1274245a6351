"""`crosslign merge` on a run: what the folder holds, that it is there whole or not at all, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_llama
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosslign.cli import main
from crosslign.models import merge as weights
from crosslign.runs.sharing.push import shared_files
from crosslign.storage import damaged_files, file_sha256


@pytest.fixture
def finished(whole: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(whole["output_dir"], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*")))


def hashes(folder: Path) -> dict[str, str]:
    return {str(file): file_sha256(file) for file in folder.rglob("*") if file.is_file()}


def test_a_merged_run_is_an_ordinary_model_with_card_recipe_and_record(
    whole: dict[str, Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = Path(whole["model"]["path"]), tmp_path / "merged"
    before = {**hashes(base), **hashes(finished)}
    assert main(["merge", str(finished), "--out", str(out)]) == 0
    assert "rounding took 0.00 % of the adapter's change" in capsys.readouterr().out
    assert {**hashes(base), **hashes(finished)} == before
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    messages = [{"role": "user", "content": "swali"}]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    aligned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), finished)
    with torch.no_grad():
        expected = aligned(**asked).logits
        assert torch.allclose(model(**asked).logits, expected, atol=1e-5)
        assert not torch.allclose(AutoModelForCausalLM.from_pretrained(base)(**asked).logits, expected, atol=1e-3)
    assert damaged_files(out) == []
    record = json.loads((finished / "run.json").read_text())
    said = json.loads((out / "manifest.json").read_text())["merged"]
    assert said["base"]["fingerprint"] == said["fingerprint"] == record["teacher_fingerprint"]
    assert (said["steps"], said["dtype"], said["streamed"]) == (4, "float32", True)
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "transformers"
    assert "Base and adapter were added in float32" in card.content
    assert "rollouts.jsonl" not in {file.name for file in out.iterdir()}
    assert not [file for file in out.iterdir() if str(tmp_path) in file.read_bytes().decode("latin-1")]
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_an_interrupted_merge_leaves_what_was_there(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    words = ["merge", str(finished), "--out", str(out)]
    saving = weights.save_file

    def cut_off(*args: Any, **kwargs: Any) -> None:
        saving(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save_file", cut_off)
    assert main(words) == 130
    assert not out.exists()
    monkeypatch.setattr(weights, "save_file", saving)
    assert main(words) == 0
    before = hashes(out)
    assert main(words) == 1
    assert "holds a merged model. Choose another --out, or replace it with --overwrite." in capsys.readouterr().err

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    assert main([*words, "--overwrite"]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert hashes(out) == before
    monkeypatch.setattr(weights, "save_file", saving)
    assert main([*words, "--overwrite", "--dtype", "bfloat16"]) == 0
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.bfloat16
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_code_of_the_base_is_run_if_this_user_says_so_and_goes_along(
    finished: Path, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(shutil.copytree(whole["model"]["path"], tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (base / "config.json").write_text(json.dumps(config))
    (base / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\n\n\nclass OwnForCausalLM(LlamaForCausalLM):\n    pass\n"
    )
    recipe = yaml.safe_load((finished / "config.yaml").read_text())
    recipe["model"] = {**recipe["model"], "path": str(base), "trust_remote_code": True}
    (finished / "config.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["merge", str(finished), "--out", str(tmp_path / "merged")]) == 1
    assert "add --trust-remote-code" in capsys.readouterr().err
    assert main(["merge", str(finished), "--out", str(tmp_path / "merged"), "--trust-remote-code"]) == 0
    assert (tmp_path / "merged" / "modeling_own.py").is_file()
    assert "modeling_own.py" in [shared.name for shared in shared_files(tmp_path / "merged")]


def test_only_the_adapters_own_base_is_taken(
    whole: dict[str, Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, other, out = tmp_path / "moved", tmp_path / "other", tmp_path / "merged"
    shutil.copytree(whole["model"]["path"], moved)
    shutil.copytree(moved, other)
    tiny_llama(seed=1).save_pretrained(other)
    assert main(["merge", str(finished), "--out", str(out), "--base", str(other)]) == 1
    assert "not the weights that the adapter was trained on" in capsys.readouterr().err
    assert not out.exists()
    assert main(["merge", str(finished), "--out", str(out), "--base", str(moved)]) == 0


def test_a_run_without_its_adapter_and_a_folder_of_another_origin_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert main(["merge", str(finished), "--out", str(tmp_path / "mine"), "--overwrite"]) == 1
    assert "holds no merged model of crosslign" in capsys.readouterr().err
    (finished / "adapter_model.safetensors").unlink()
    assert main(["merge", str(finished), "--out", str(tmp_path / "out")]) == 1
    assert "has no adapter_model.safetensors. The run did not end" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
