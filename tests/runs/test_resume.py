"""A run that was killed: what `--resume` finds, what it does again, and who may write in the folder meanwhile."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import cached, cli_train, losses, metrics, no_weights, power_cut, run, two_processes

from crosslign.cli import main
from crosslign.rollouts import CompletionCache, TransformersSampler
from crosslign.runs.folder import RunFolder
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config, read_recipe
from crosslign.runs.train import train
from crosslign.types import Completion, CrosslignError, Interrupted

WEIGHTS = "adapter_model.safetensors"


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def untimed(found: dict[Path, bytes]) -> dict[Path, bytes]:
    """Without the seconds of a run, and the hash of the card that shows them."""
    seconds = {"README.md": rb"\| seconds of training \|[^|]*\|", "evaluation.json": rb'"card_sha256": "\w+"'}
    assert all(re.search(pattern, found[Path(name)]) for name, pattern in seconds.items())
    return {
        path: re.sub(seconds.get(path.name, rb"$^"), b"", data)
        for path, data in found.items()
        if path.name != "run.json"
    }


def killed_at_its_end(folder: Path) -> None:
    """Make a finished run one that was killed after its last checkpoint: nothing is published or marked finished."""
    kept = {key: value for key, value in record(folder).items() if key not in ("steps", "final_loss")}
    kept["divergence"].pop("after")
    (folder / "run.json").write_text(json.dumps({**kept, "status": "running"}))
    (folder / WEIGHTS).unlink()


def cut(file: Path) -> None:
    """Leave 100 bytes, as a full disk or a power cut may do."""
    file.write_bytes(file.read_bytes()[:100])


Killed = Callable[[str], tuple[Path, dict[str, Any]]]


@pytest.fixture
def killed(whole: dict[str, Any], tmp_path: Path) -> Killed:
    """Makes a copy of that run which was killed at its end; with its recipe."""

    def copy(name: str) -> tuple[Path, dict[str, Any]]:
        folder = Path(shutil.copytree(whole["output_dir"], tmp_path / name))
        killed_at_its_end(folder)
        return folder, {**whole, "output_dir": str(folder)}

    return copy


def same_end(folder: Path, whole: dict[str, Any]) -> bool:
    """Whether a resumed run ended as the one that was not interrupted, to the bit."""
    other = Path(whole["output_dir"])
    return losses(folder) == losses(other) and (folder / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("training", "steps"),
    # An epoch has 6 steps; of batches of 5 queries it has 3, the last of fewer.
    [
        ({"max_steps": 4}, 4),
        ({"max_steps": -1, "num_train_epochs": 1.5}, 9),
        ({"max_steps": 2, "per_device_train_batch_size": 5, "save_strategy": "epoch"}, 2),
    ],
    ids=["steps", "epochs", "uneven"],
)
def test_a_run_that_was_killed_after_its_last_step_finishes_without_another(
    recipe: dict[str, Any], training: dict[str, Any], steps: int
) -> None:
    task = f"table:{recipe['data']['tables'][0]['path']}"
    recipe["evaluation"] = {"tasks": [task], "limit": 2, "max_completion_length": 4, "best": None}
    folder = run(recipe, **training)
    finished, rows, before = record(folder), metrics(folder), files(folder)
    assert finished["steps"] == steps
    for _ in range(2):
        killed_at_its_end(folder)
        assert run(recipe, resume=True, **training) == folder
        # Optimizer, learning rate, evaluations, log lines and weights are those of the last step.
        assert metrics(folder) == rows
        assert untimed(files(folder)) == untimed(before)
        assert (folder / WEIGHTS).read_bytes() == (folder / f"checkpoint-{steps}" / WEIGHTS).read_bytes()
        resumed = record(folder)
        assert resumed["seconds"] >= finished["seconds"] > 0
        same = ("status", "steps", "final_loss", "divergence", "evaluations")
        assert {key: resumed[key] for key in same} == {key: finished[key] for key in same}


def test_a_resumed_run_takes_the_learning_rate_that_it_is_given_and_says_so(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    other = run({**recipe, "output_dir": str(tmp_path / "other")}, learning_rate=1e-5)
    recipe["training"]["learning_rate"] = 1e-3
    power_cut(3, recipe)  # checkpoint-2 is there
    folder = run(recipe, resume=True, learning_rate=1e-5, weight_decay=0.1)
    old, new = ([row["learning_rate"] for row in metrics(place)] for place in (folder, other))
    assert old[2:] == new[2:]
    assert old[1] == pytest.approx(100 * new[1])
    assert parse_config(read_recipe(folder / "config.yaml")).training["learning_rate"] == 1e-5
    (resumed,) = record(folder)["resumed"]
    assert resumed["step"] == 2
    assert resumed["training"] == {"learning_rate": [1e-3, 1e-5], "weight_decay": [None, 0.1]}
    card = (folder / "README.md").read_text(encoding="utf-8").replace("\\", "")
    assert "| changed at step 2 | learning_rate 0.001 → 1e-05, weight_decay default → 0.1 |" in card


def test_deepspeed_which_brings_its_own_numbers_back_takes_no_others(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    power_cut(3, recipe)
    monkeypatch.setattr("crosslign.runs.resume.uses_deepspeed", lambda arguments: True)
    prepare(parse_config(recipe), resume=True)
    recipe["training"]["weight_decay"] = 0.5
    with pytest.raises(CrosslignError, match=r"training\.weight_decay differs .* DeepSpeed goes on with the old one"):
        prepare(parse_config(recipe), resume=True)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    killed: Killed, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for names in ((WEIGHTS, "optimizer.pt", "rng_state.pth"), ("trainer_state.json",)):
        folder, recipe = killed(names[0])
        for name in names:
            cut(folder / "checkpoint-4" / name)
        assert cli_train(tmp_path, recipe, "--resume") == 0
        error = capsys.readouterr().err
        assert "checkpoint-4 is damaged and is not used: " in error
        assert [name for name in names if f"{name} has 100 bytes instead of" in error] == list(names)
        assert "Traceback" not in error
        assert same_end(folder, whole)
        assert RunFolder(folder).newest_checkpoint().name == "checkpoint-4"  # made again, whole


def test_bytes_that_changed_and_files_that_are_gone_are_damage_too(
    killed: Killed, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, recipe = killed("flipped")
    weights = folder / "checkpoint-4" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (folder / "checkpoint-2" / "scheduler.pt").unlink()
    before = files(folder)
    assert cli_train(tmp_path, recipe, "--resume") == 1
    error = capsys.readouterr().err
    assert "no complete checkpoint to resume from. Start the run anew with --overwrite" in error
    assert f"checkpoint-4 is damaged and is not used: {WEIGHTS} has other content than was written" in error
    assert "checkpoint-2 is damaged and is not used: scheduler.pt cannot be read" in error
    assert files(folder) == before
    assert cli_train(tmp_path, recipe, "--overwrite") == 0


def test_a_checkpoint_that_was_being_written_counts_once_the_trainer_was_done_with_it(
    killed: Killed, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its predecessor may be deleted before the manifest is written, so it must count without one.
    folder, recipe = killed("no-manifest")
    (folder / "checkpoint-4" / "manifest.json").unlink()
    shutil.rmtree(folder / "checkpoint-2")
    assert cli_train(tmp_path, recipe, "--resume") == 0
    assert same_end(folder, whole)
    folder, recipe = killed("cut-off")
    for name in ("manifest.json", "trainer_state.json", "rng_state.pth"):
        (folder / "checkpoint-4" / name).unlink()
    assert cli_train(tmp_path, recipe, "--resume") == 0
    assert "checkpoint-4 is damaged and is not used: it was not written to its end" in capsys.readouterr().err
    assert same_end(folder, whole)


def test_a_dry_run_says_which_checkpoint_would_be_used(
    killed: Killed,
    whole: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, recipe = killed("dry")
    cut(folder / "checkpoint-4" / "manifest.json")
    before = files(folder)
    no_weights(monkeypatch)
    assert cli_train(tmp_path, recipe, "--resume", "--dry-run") == 0
    error = capsys.readouterr().err
    assert "checkpoint-4 is damaged and is not used: manifest.json cannot be read" in error
    assert f"resume    {folder / 'checkpoint-2'}" in error
    assert files(folder) == before
    assert cli_train(tmp_path, whole, "--resume", "--dry-run") == 1
    assert "this run is finished" in capsys.readouterr().err


def start(tmp_path: Path, recipe: dict[str, Any], *flags: str) -> subprocess.Popen[bytes]:
    """`crosslign train` in a process of its own."""
    path = tmp_path / "started.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return subprocess.Popen([sys.executable, "-m", "crosslign.cli", "train", str(path), *flags])


@pytest.mark.processes
def test_a_run_that_is_going_on_is_left_alone_and_its_death_frees_the_folder(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(recipe["output_dir"])
    endless = {**recipe, "training": {**recipe["training"], "max_steps": 1_000_000}}
    process = start(tmp_path, endless)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoint-*/manifest.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for flags in ([], ["--resume"], ["--overwrite"], ["--resume", "--dry-run"]):
            assert cli_train(tmp_path, endless, *flags) == 1
            error = capsys.readouterr().err
            assert f"{folder}: another crosslign process is writing here" in error
            assert "Traceback" not in error
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    done = RunFolder(folder).newest_checkpoint()
    step = int(done.name.partition("-")[2])
    recipe["training"]["max_steps"] = step + 1
    assert cli_train(tmp_path, recipe, "--resume") == 0
    assert [row["step"] for row in metrics(folder)] == list(range(1, step + 2))


def test_two_runs_do_not_share_a_folder_also_if_both_found_it_free(recipe: dict[str, Any]) -> None:
    prepared = prepare(parse_config(recipe))
    with RunFolder(recipe["output_dir"]).lock():
        for begin in (lambda: train(prepared), lambda: run(recipe), lambda: run(recipe, overwrite=True)):
            with pytest.raises(CrosslignError, match="another crosslign process is writing here"):
                begin()
    assert not Path(recipe["output_dir"]).exists()


def test_what_another_process_did_between_the_checks_and_the_lock_is_seen(killed: Killed) -> None:
    folder, recipe = killed("raced")
    first, second = (prepare(parse_config(recipe), resume=True) for _ in range(2))
    shutil.rmtree(folder / "checkpoint-4")  # as a third process may that goes on from the same one
    train(first)
    assert record(folder)["steps"] == 4
    with pytest.raises(CrosslignError, match="this run is finished"):
        train(second)


def test_an_evaluation_and_a_file_of_completions_have_one_writer(
    model_folder: Path,
    table_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ["--model", str(model_folder), "--max-completion-length", "4", "--languages", "sw", "--out"]
    commands = [
        ["generate", "--table", str(table_file), *model, str(tmp_path / "out.jsonl")],
        ["eval", "--tasks", f"table:{table_file}", *model, str(tmp_path / "evaluation")],
    ]
    sample = TransformersSampler.sample
    for command in commands:
        inner: list[int] = []

        def again(self: Any, *args: Any, command: Any = command, inner: Any = inner, **kwargs: Any) -> Any:
            inner.append(main(command))  # while the outer call is at work
            return sample(self, *args, **kwargs)

        monkeypatch.setattr(TransformersSampler, "sample", again)
        assert main(command) == 0
        assert set(inner) == {1}
        assert "another crosslign process is writing here" in capsys.readouterr().err


def put_many(path: Path, name: str) -> None:
    """Fill a cache on a file system that writes a row in two parts, as one over a network may."""
    write = os.write

    def in_two(file: int, data: bytes) -> int:
        written = write(file, data[:9])
        time.sleep(0.001)
        return written + write(file, data[9:])

    os.write = in_two
    cache = CompletionCache(path)
    for i in range(50):
        cache.fill([f"{name}-{i}"], ["q"], lambda _, i=i: [Completion((i,), truncated=False)])


def test_processes_that_share_a_cache_write_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=put_many, args=(path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    cache = CompletionCache(path)
    assert {cached(cache, f"{name}-{i}") for name in "abc" for i in range(50)} == {
        Completion((i,), truncated=False) for i in range(50)
    }
    assert len(path.read_text().splitlines()) == 150


def test_what_was_interrupted_is_known_by_its_type(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, code in ((Interrupted("stopped"), 130), (CrosslignError("interrupted: a table's name"), 1)):

        def refuse(*args: Any, error: Exception = error, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr("crosslign.runs.prepare.prepare", refuse)
        assert cli_train(tmp_path, recipe) == code


@pytest.mark.processes
def test_two_processes_agree_on_the_checkpoint_and_on_who_writes(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["strategy"] = {"name": "off_policy"}  # where sampling does not depend on the process
    folder = run(recipe, per_device_train_batch_size=4, gradient_accumulation_steps=1)
    before = losses(folder)
    killed_at_its_end(folder)
    cut(folder / "checkpoint-4" / "optimizer.pt")
    recipe["training"].update(gradient_accumulation_steps=1, ddp_backend="gloo")
    with RunFolder(folder).lock():
        assert two_processes(tmp_path, recipe, "--resume") == [1, 1]
    assert two_processes(tmp_path, recipe, "--resume") == [0, 0]
    assert losses(folder) == pytest.approx(before, rel=1e-3)
