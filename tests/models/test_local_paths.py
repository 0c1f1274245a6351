"""A local path never becomes a request to the hub, with or without what should lie there."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from conftest import tiny_llama
from helpers import run
from test_loading import write_gguf

from crosslign.cli import main
from crosslign.models import ModelSource, check_adapter, check_source, load_model, load_tokenizer, load_with_adapter
from crosslign.types import CrosslignError


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that are asked, online; every request fails."""
    asked: list[str] = []

    def refuse(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        raise socket.gaierror("no network in tests")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's client tries again and again
    return asked


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, whole: dict[str, Any]) -> Path:
    """The working directory, with a model and an adapter under names that could be hub ids: m/model and m/adapter."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, "m/model")
    shutil.copytree(whole["output_dir"], "m/adapter")
    return tmp_path


def test_the_fixture_sees_a_request(requests: list[str]) -> None:
    with pytest.raises(CrosslignError):
        load_tokenizer(ModelSource("m/model"))
    assert set(requests) == {"huggingface.co"}


def test_a_model_and_an_adapter_are_loaded_from_where_they_are(there: Path, requests: list[str]) -> None:
    source = ModelSource("m/model", tokenizer="m/model")
    check_source(source)
    load_tokenizer(source)
    check_adapter("m/adapter")
    load_with_adapter(source, "m/adapter")
    assert requests == []


@pytest.mark.parametrize("gone", ["adapter_model.safetensors", "adapter_config.json", ""])
def test_what_an_adapter_lacks_is_not_asked_for(there: Path, requests: list[str], gone: str, table_file: Path) -> None:
    path = Path("m/adapter") / gone
    shutil.rmtree(path) if gone == "" else path.unlink()
    arguments = ["--model", "m/model", "--adapter", "m/adapter", "--table", str(table_file), "--out", "out.jsonl"]
    assert main(["generate", *arguments]) == 1
    with pytest.raises(CrosslignError, match="has no adapter_"):
        load_with_adapter(ModelSource("m/model"), "m/adapter")
    assert requests == []


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_what_a_model_lacks_is_not_asked_for(there: Path, requests: list[str], gone: str) -> None:
    (Path("m/model") / gone).unlink()
    for load in (check_source, load_tokenizer, load_model):
        try:
            load(ModelSource("m/model"))
        except CrosslignError:
            continue
    assert requests == []


def test_the_base_model_that_an_adapter_names_is_not_loaded(there: Path, requests: list[str]) -> None:
    config = Path("m/adapter/adapter_config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "owner/base"}))
    load_with_adapter(ModelSource("m/model"), "m/adapter")
    shutil.copy(config, "m/model")
    for folder in ("m/adapter", "m/model"):  # an adapter as the model, and one within a model's folder
        with pytest.raises(CrosslignError, match="holds an adapter"):
            check_source(ModelSource(folder))
    assert requests == []


@pytest.mark.parametrize("path", ["./none", "/none/such", "~/none", "a/b/c", "none.gguf"])
def test_what_looks_local_and_is_not_there_is_an_error(path: str, requests: list[str], model_folder: Path) -> None:
    for source in (ModelSource(path), ModelSource(str(model_folder), tokenizer=path)):
        for load in (check_source, load_tokenizer):
            with pytest.raises(CrosslignError):
                load(source)
    with pytest.raises(CrosslignError):
        load_model(ModelSource(path))
    assert requests == []


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_run_trains_saves_and_resumes_without_asking(
    there: Path, requests: list[str], recipe: dict[str, Any], kind: str
) -> None:
    path = "m/model" if kind == "folder" else str(write_gguf(Path("m/tiny.gguf"), tiny_llama()))
    recipe["model"] |= {"path": path, "tokenizer": "m/model"}
    recipe["output_dir"] = "m/run"
    folder = run(recipe)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    run(recipe, resume=True)
    assert requests == []
