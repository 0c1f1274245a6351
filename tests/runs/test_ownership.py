"""Where a run may write: not over what it reads, not through links; and what a reader finds while it publishes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_llama, write_csv
from helpers import cli_train
from peft import LoraConfig, get_peft_model

from crosslign.models import ModelSource, check_adapter, check_source, load_model, load_with_adapter
from crosslign.runs.folder import RunFolder
from crosslign.types import CrosslignError

ROW = {"id": "1", "en": "q", "sw": "s"}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Sources


@pytest.fixture
def full(recipe: dict[str, Any], tmp_path: Path, model_folder: Path) -> dict[str, Any]:
    """A recipe of full fine-tuning into a finished run, which is a model's folder."""
    run = Path(shutil.copytree(model_folder, recipe["output_dir"]))
    record = {"status": "finished", "versions": {}}
    (run / "run.json").write_text(json.dumps(record))
    for name in ("checkpoint-2", "best", "evaluations"):
        shutil.copytree(model_folder, run / name)
    recipe["model"] |= {"finetuning": "full"}
    return recipe


def set_model(place: Callable[[Path], Path]) -> Callable[[dict[str, Any]], None]:
    return lambda recipe: recipe["model"].update(path=str(place(Path(recipe["output_dir"]))))


def linked(run: Path) -> Path:
    run.with_name("link").symlink_to(run)
    return run.with_name("link")


def set_table(recipe: dict[str, Any]) -> None:
    table = Path(recipe["output_dir"]) / "evaluations" / "table.csv"
    recipe["data"]["tables"][0]["path"] = str(write_csv(table, [ROW]))


def set_template(recipe: dict[str, Any]) -> None:
    recipe["model"]["chat_template"] = f"{recipe['output_dir']}/chat_template.jinja"


@pytest.mark.parametrize(
    "change",
    [
        set_model(lambda run: run),
        set_model(lambda run: run / "checkpoint-2"),
        set_model(lambda run: run / "best"),
        set_model(lambda run: run / "evaluations" / ".." / "best"),
        set_model(linked),
        set_model(lambda run: linked(run) / "best"),
        lambda recipe: recipe["model"].update(tokenizer=recipe["output_dir"]),
        lambda recipe: recipe.update(gate={"judge": {"names": [f"guard:{recipe['output_dir']}/best"]}}),
        set_table,
        set_template,
    ],
    ids=["itself", "checkpoint", "best", "dots", "link", "through a link", "tokenizer", "guard", "table", "template"],
)
@pytest.mark.parametrize("flag", ["--overwrite", "--resume", "--dry-run"])
def test_a_run_does_not_write_over_what_it_reads(
    change: Callable[[dict[str, Any]], None],
    flag: str,
    full: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(full)
    before = contents(Path(full["output_dir"]))
    assert cli_train(tmp_path, full, flag) == 1
    error = capsys.readouterr().err
    assert "would write over" in error
    assert "Choose another --output_dir" in error
    assert contents(Path(full["output_dir"])) == before


@pytest.mark.parametrize("where", ["best of another run", "beside the run", "above the run", "kept in the run"])
def test_usual_places_are_allowed(where: str, full: dict[str, Any], tmp_path: Path, model_folder: Path) -> None:
    run = RunFolder(full["output_dir"])
    places = {
        "best of another run": tmp_path / "other" / "best",
        "beside the run": tmp_path / "models" / "m",
        "above the run": tmp_path,
        "kept in the run": run.path / "models" / "m",
    }
    place = places[where]
    shutil.copytree(model_folder, place, dirs_exist_ok=True)
    run.check_sources({"model.path": str(place), "data.tables.0.path": str(run.path / "table.csv"), "hub": "o/n"})
    RunFolder(tmp_path / "new").check_sources({"model.path": str(place)})


# Publishing


def save_adapter(folder: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def save_model(folder: str, seed: int) -> None:
    tiny_llama(seed).save_pretrained(folder, max_shard_size="20KB")
    byte_tokenizer().save_pretrained(folder)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_reader_never_finds_half_of_what_is_published(
    kind: str, older: bool, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = save_adapter if kind == "adapter" else save_model

    def read(folder: Path) -> dict[str, torch.Tensor]:
        if kind == "adapter":
            check_adapter(str(folder))
            return weights(load_with_adapter(ModelSource(str(model_folder)), str(folder)))
        check_source(ModelSource(str(folder)))
        return weights(load_model(ModelSource(str(folder))))

    expected = tmp_path / "expected"
    expected.mkdir()
    save(str(expected), 1)
    whole = read(expected)
    moves = len(list(expected.iterdir()))
    replace = Path.replace
    for crash in range(moves + 1):
        run = RunFolder(tmp_path / f"run-{crash}")
        if older:
            run.publish(lambda folder: save(folder, 2))
        done = []

        def replace_some(self: Path, target: Path, crash: int = crash, done: list[Path] = done) -> Path:
            if len(done) == crash:
                raise KeyboardInterrupt
            done.append(target)
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", replace_some)
        try:
            run.publish(lambda folder: save(folder, 1))
        except KeyboardInterrupt:
            with pytest.raises(CrosslignError):
                read(run.path)
        else:
            assert crash == moves
            found = read(run.path)
            assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
        monkeypatch.setattr(Path, "replace", replace)


# Links and what is not ours


def test_only_the_record_makes_a_folder_ours(recipe: dict[str, Any], tmp_path: Path) -> None:
    other = Path(recipe["output_dir"])  # as another trainer leaves one
    (other / "checkpoint-500").mkdir(parents=True)
    (other / "checkpoint-500" / "trainer_state.json").write_text('{"global_step": 500, "log_history": []}')
    (other / "model.safetensors").write_text("mine")
    before = contents(other)
    for flags in ((), ("--overwrite",), ("--resume",)):
        assert cli_train(tmp_path, recipe, *flags) == 1
    assert contents(other) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl"])
def test_a_link_in_a_runs_folder_is_not_followed(name: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / name).symlink_to(precious)
    with pytest.raises(CrosslignError, match="nothing is written through it"):
        folder.append(name, {"step": 1})
    folder.forget_after(0)  # writes the file anew
    assert not (folder.path / name).is_symlink()
    assert precious.read_text() == "mine\n"
