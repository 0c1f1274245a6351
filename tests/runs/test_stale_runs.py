"""`rollouts.staleness: 1`: the next window is sampled while a step runs, from the weights before it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_llama
from fake_vllm import FakeVllm, refused
from helpers import interrupted_after, losses, run

from crosslign.distillation import DistillationTrainer
from crosslign.runs.recipe import merged
from crosslign.types import CrosslignError

STEPS = {"max_steps": 7, "save_steps": 4}  # an epoch has 6


@pytest.fixture
def fake(model_folder: Path) -> Iterator[FakeVllm]:
    with FakeVllm(tiny_llama(), str(model_folder)) as server:
        yield server


@pytest.fixture
def stale(recipe: dict[str, Any], fake: FakeVllm) -> dict[str, Any]:
    return merged(
        recipe,
        {
            "rollouts": {"backend": "vllm", "url": fake.root, "staleness": 1},
            "teacher": {"template": "instruct"},
            "training": STEPS,
            "divergence_queries": 0,
        },
    )


def windows(fake: FakeVllm) -> list[str]:
    """The name of the weights that each window was sampled from."""
    names = [body["model"] for body in fake.bodies("/v1/completions")]
    assert len(names) == 7 * 4
    assert all(len(set(names[i : i + 4])) == 1 for i in range(0, len(names), 4))
    return names[::4]


def test_a_window_comes_from_the_weights_before_the_step_but_not_after_a_checkpoint_or_an_epoch(
    stale: dict[str, Any], fake: FakeVllm
) -> None:
    run(stale)
    names = windows(fake)
    versions = list(dict.fromkeys(names))
    # Windows 0 to 6; 4 follows a checkpoint, 6 begins an epoch. Version n is that after n steps.
    fresh = {0, 4, 6}
    assert [names[0], names[1]] == [fake.name] * 2
    assert all((names[w] == names[w - 1]) == (w - 1 in fresh) for w in range(1, 7) if w not in fresh)
    assert names[4] not in names[:4]
    assert names[6] not in names[:6]
    assert len(versions) == 5


def test_the_thread_samples_while_the_step_runs(
    stale: dict[str, Any], fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepping, asked = threading.Event(), threading.Event()
    step = DistillationTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            stepping.set()
            assert asked.wait(30)  # a request of the next window has come
        return step(self, *args, **kwargs)

    def spoil(path: str, body: Any, earlier: int) -> None:
        if path == "/v1/completions" and earlier >= 8:
            assert stepping.wait(30)
            asked.set()

    monkeypatch.setattr(DistillationTrainer, "training_step", training_step)
    fake.spoil = spoil
    run(stale)
    assert asked.is_set()


@pytest.mark.processes
def test_a_resumed_run_takes_the_same_steps(stale: dict[str, Any], tmp_path: Path) -> None:
    expected = losses(run({**stale, "output_dir": str(tmp_path / "whole")}))
    with interrupted_after(5, RuntimeError("power cut")), pytest.raises(RuntimeError, match="power cut"):
        run(stale)
    assert losses(run(stale, resume=True)) == expected
    fresh = merged(stale, {"rollouts": {"staleness": 0}, "output_dir": str(tmp_path / "fresh")})
    assert losses(run(fresh)) != expected


def test_what_goes_wrong_in_the_thread_ends_the_run_at_the_next_window(stale: dict[str, Any], fake: FakeVllm) -> None:
    fake.spoil = lambda path, body, earlier: (
        refused(400, "no more") if path == "/v1/completions" and earlier >= 8 else None
    )
    with pytest.raises(CrosslignError, match="no more"):
        run(stale)
    assert len(losses(Path(stale["output_dir"]))) == 2
