"""`crosslign push` against a stand-in for the hub: which files go, to whom, and that no secret is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from fake_hub import FakeHub
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosslign.cli import main
from crosslign.runs.recipe import read_recipe

TOKEN = "hf_" + "aB3" * 12  # no real one
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
TOKENIZER = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
ALWAYS = {"README.md", "evaluation.json", "recipe.yaml"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as fake:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", fake.root)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # its store has no stand-in
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield fake


@pytest.fixture
def finished(whole: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of a finished run with its checkpoints, and with all else that may lie in such a folder."""
    folder = Path(shutil.copytree(whole["output_dir"], tmp_path / "run"))
    for name in ("gate.jsonl", "training_args.bin", "optimizer.pt", "adapter_model.bin", "tokenizer.pkl", ".env",
                 "evaluations/step-4/x/completions.jsonl", "served/adapter_model.safetensors", "notes.md"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")
    assert (folder / "rollouts.jsonl").is_file()
    return folder


def test_the_listed_files_go_into_a_new_private_repository(
    hub: FakeHub, finished: Path, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(finished), "me/safer", "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert "Nothing was sent to me/safer." in listed
    assert (hub.repos, hub.tokens) == ({}, set())
    assert main(["push", str(finished), "me/safer"]) == 0
    said = capsys.readouterr()
    assert f"model {hub.root}/me/safer" in said.out
    repo = hub.repos["me/safer"]
    assert repo["private"] is True
    assert set(repo["files"]) == ADAPTER | TOKENIZER | ALWAYS
    assert {line.split()[0] for line in listed.splitlines()[1:-3]} == set(repo["files"])
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in said.out + said.err + listed
    for name, content in repo["files"].items():
        for private in (str(tmp_path), str(Path(whole["model"]["path"]).parent), TOKEN, "secret"):
            assert private not in content.decode("latin-1"), name
    # What was sent is enough to load the adapter, and to read card and recipe.
    got = tmp_path / "got"
    got.mkdir()
    for name, content in repo["files"].items():
        (got / name).write_bytes(content)
    AutoTokenizer.from_pretrained(got)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(whole["model"]["path"]), got)
    assert ModelCard.load(got / "README.md").data.library_name == "peft"
    assert read_recipe(got / "recipe.yaml")["training"]["max_steps"] == 4
    assert read_recipe(got / "recipe.yaml")["model"]["path"] == Path(whole["model"]["path"]).name


def test_a_merged_model_is_sent_whole_or_not_at_all(
    hub: FakeHub, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "merged"
    assert main(["merge", str(finished), "--out", str(merged)]) == 0
    (merged / "training_args.bin").write_text("secret")
    assert main(["push", str(merged), "me/safer", "--public"]) == 0
    expected = {"config.json", "generation_config.json", "model.safetensors", "manifest.json"}
    assert set(hub.repos["me/safer"]["files"]) == expected | TOKENIZER | ALWAYS
    assert hub.repos["me/safer"]["private"] is False
    (merged / "config.json").write_text("{}")
    assert main(["push", str(merged), "me/other"]) == 1
    assert "is not as crosslign merge wrote it: config.json has 2 bytes" in capsys.readouterr().err
    assert "me/other" not in hub.repos


def test_what_is_there_is_neither_published_nor_replaced_unasked(
    hub: FakeHub, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["me/open"] = {"private": False, "files": {}}
    hub.repos["me/closed"] = {"private": True, "files": {"README.md": b"mine"}}
    hub.repos["me/empty"] = {"private": True, "files": {}}
    for words, says in (
        (["me/open"], "is there, and is public"),
        (["me/closed", "--public"], "is there, and is private"),
        (["me/closed"], "holds 1 files already, such as 'README.md'"),
    ):
        assert main(["push", str(finished), *words]) == 1
        assert says in capsys.readouterr().err
    assert hub.commits == 0
    assert main(["push", str(finished), "me/closed", "--overwrite"]) == 0
    assert main(["push", str(finished), "me/empty"]) == 0
    assert hub.commits == 2
    assert hub.repos["me/closed"]["private"] is True


def test_what_the_hub_refuses_is_told_without_the_token(
    hub: FakeHub, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses = f"no right to write with {TOKEN} \x1b[2J"
    assert main(["push", str(finished), "me/safer"]) == 1
    said = capsys.readouterr()
    assert "me/safer: the hub refused: " in said.err
    assert TOKEN not in said.out + said.err
    assert "\x1b" not in said.out + said.err


def test_no_token_no_network_and_no_name_are_told(
    hub: FakeHub, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("safer", "a/b/c", "me/../x", "--x/y z"):
        assert main(["push", str(finished), *(["--"] if name.startswith("-") else []), name]) == 1
        assert "repository" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["push", str(finished), "me/safer"]) == 1
    assert "the hub is switched off (HF_HUB_OFFLINE)" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(finished / "no token"))
    assert main(["push", str(finished), "me/safer"]) == 1
    assert "there is no token for the hub. Set HF_TOKEN" in capsys.readouterr().err
    assert hub.repos == {}


def test_links_and_blank_cards_are_not_sent(
    hub: FakeHub, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign"
    (finished / "adapter_model.safetensors").rename(foreign)
    (finished / "adapter_model.safetensors").symlink_to(foreign)
    assert main(["push", str(finished), "me/safer"]) == 1
    assert "adapter_model.safetensors: is a link, and is not sent" in capsys.readouterr().err
    (finished / "adapter_model.safetensors").unlink()
    foreign.rename(finished / "adapter_model.safetensors")
    (finished / "README.md").write_text("# x\n\n[More Information Needed]\n")
    assert main(["push", str(finished), "me/safer"]) == 1
    assert "has no model card. Write it first: crosslign card" in capsys.readouterr().err
    assert hub.repos == {}


@pytest.mark.processes
def test_the_command_takes_endpoint_and_token_from_the_environment(finished: Path) -> None:
    with FakeHub() as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.root, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        environment["HF_HUB_DISABLE_XET"] = "1"
        words = [sys.executable, "-m", "crosslign.cli", "--verbose", "push", str(finished), "me/safer"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        assert set(hub.repos["me/safer"]["files"]) == ADAPTER | TOKENIZER | ALWAYS
        assert json.loads(hub.repos["me/safer"]["files"]["adapter_config.json"])["peft_type"] == "LORA"
