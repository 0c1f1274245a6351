"""A run that gets a signal anywhere: in the middle of a step, of a checkpoint, of the last save."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import cli_train, losses, run

from crosslign.distillation import DistillationTrainer, RolloutCollector
from crosslign.distillation.score import Scorer
from crosslign.runs import callbacks
from crosslign.runs.folder import RunFolder
from crosslign.types import Interrupted

WEIGHTS, STAGING = "adapter_model.safetensors", ".incomplete"
# Where the signal arrives: before the n-th call of this, counted from 1. The run has 4 steps and saves at 2 and 4.
MOMENTS = {
    "sampling": (RolloutCollector, "collect", 3),
    "forward pass": (Scorer, "__call__", 6),
    "backward pass": (torch.Tensor, "backward", 5),
    "optimizer's step": (torch.optim.AdamW, "step", 3),
    "log": (RunFolder, "append", 6),
    "first save": (DistillationTrainer, "save_model", 1),
    "save": (DistillationTrainer, "save_model", 2),
    "save of the optimizer": (torch, "save", 6),
    "manifest": (callbacks, "write_manifest", 2),
    "last save": (DistillationTrainer, "_save_whole", 1),
    "publishing": (Path, "replace", -1),
    "record": (RunFolder, "update", -1),
}


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests' own process ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def counted(owner: Any, name: str, stop_at: int | None) -> tuple[pytest.MonkeyPatch, list[int]]:
    """Count the calls; before the one of this number the process sends itself SIGINT, once."""
    calls: list[int] = []
    original = getattr(owner, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        if owner is not Path or args[0].parent.name == STAGING:  # every whole file is moved in, in many places
            calls.append(len(calls) + 1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(owner, name, counting)
    return patch, calls


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_leaves_a_run_that_goes_on_as_if_nothing_had_been(
    recipe: dict[str, Any],
    whole: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    moment: str,
) -> None:
    owner, name, number = MOMENTS[moment]
    folder, finished = Path(recipe["output_dir"]), Path(whole["output_dir"])
    if number < 0:  # counted from the end, so the calls of a whole run have to be known
        patch, calls = counted(owner, name, None)
        assert cli_train(tmp_path, {**recipe, "output_dir": str(tmp_path / "other")}) == 0
        patch.undo()
        number += len(calls) + 1
    patch, _ = counted(owner, name, number)
    code = cli_train(tmp_path, recipe)
    patch.undo()
    said = capsys.readouterr().err
    assert code == 130, said
    assert "Traceback" not in said
    assert "interrupted. " in said
    resumable = "--resume" in said
    assert resumable == (folder / "checkpoint-2" / "manifest.json").exists(), said
    assert cli_train(tmp_path, recipe, "--resume" if resumable else "--overwrite") == 0, capsys.readouterr().err
    assert losses(folder) == losses(finished)
    assert (folder / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    assert safetensors.torch.load_file(folder / WEIGHTS)


def test_a_clock_that_went_back_does_not_make_the_newest_checkpoint_the_oldest(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = DistillationTrainer.save_model
    folder = Path(recipe["output_dir"])

    def in_the_future(self: DistillationTrainer, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        for checkpoint in folder.glob("checkpoint-[12]"):
            os.utime(checkpoint, (4e9, 4e9))

    monkeypatch.setattr(DistillationTrainer, "save_model", in_the_future)
    run(recipe, save_steps=1, save_total_limit=2)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_an_older_checkpoint_goes_only_when_the_newer_one_is_whole(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    patch, _ = counted(callbacks, "write_manifest", 2)
    folder = Path(recipe["output_dir"])
    with pytest.raises(Interrupted):
        run(recipe, save_total_limit=1)
    patch.undo()
    assert (folder / "checkpoint-2" / "manifest.json").exists()
    run(recipe, save_total_limit=1, resume=True)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
