"""Equal configurations give equal trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import losses, metrics, power_cut, run, two_processes
from safetensors.torch import load_file


def with_strategy(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    return {**recipe, "strategy": {"name": name}}


def test_accumulation_of_1x8_equals_8x1(recipe: dict[str, Any], tmp_path: Path) -> None:
    # Rollouts of different lengths, so that normalising by a micro-batch's own count would show.
    recipe["training"]["max_steps"] = 2
    one = run(
        {**recipe, "output_dir": str(tmp_path / "a")}, per_device_train_batch_size=1, gradient_accumulation_steps=8
    )
    eight = run(
        {**recipe, "output_dir": str(tmp_path / "b")}, per_device_train_batch_size=8, gradient_accumulation_steps=1
    )
    assert {row["completion_length"] for row in metrics(one)} != {8.0}
    assert losses(one) == pytest.approx(losses(eight), rel=1e-4)
    for name in ("grad_norm", "divergence", "divergence/sw", "weight/bn", "loss/bn"):
        assert [r[name] for r in metrics(one)] == pytest.approx([r[name] for r in metrics(eight)], rel=1e-4)
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (one, eight))
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"finetuning": "full"}], ids=["lora", "full"])
def test_the_fused_objective_trains_as_the_reference_path_does(
    recipe: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe["model"] = {**recipe["model"], **changes}
    rows = {}
    for path in ("fused", "reference"):
        raw = {**recipe, "output_dir": str(tmp_path / path), "objective": {"implementation": path}}
        folder = run(raw, max_steps=2)
        rows[path] = metrics(folder)
    for name in ("loss", "grad_norm", "divergence", "weight", "divergence/sw", "loss/bn"):
        values = [[r[name] for r in rows[path]] for path in rows]
        assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-7)
    assert rows["fused"][0]["loss"] > 0


@pytest.mark.parametrize(
    ("strategy", "languages", "steps"), [("mixed", ["sw", "bn"], 4), ("on_policy", ["sw"], 6)], ids=str
)
def test_resume_equals_no_interruption(
    recipe: dict[str, Any], tmp_path: Path, strategy: str, languages: list[str], steps: int
) -> None:
    # With one language an epoch has 3 steps: the run is cut off in the second, a step after its checkpoint.
    recipe = with_strategy(recipe, strategy)
    recipe["data"]["languages"] = languages
    recipe["training"]["max_steps"] = steps
    whole = run({**recipe, "output_dir": str(tmp_path / "whole")})
    cut = {**recipe, "output_dir": str(tmp_path / "cut"), "cache_dir": str(tmp_path / "cache2")}
    power_cut(steps - 1, cut)
    # A step that was logged after the last checkpoint is done again, and logged once.
    assert [row["step"] for row in metrics(tmp_path / "cut")] == list(range(1, steps))
    resumed = run(cut, resume=True)
    assert [row["step"] for row in metrics(resumed)] == list(range(1, steps + 1))
    assert losses(resumed) == losses(whole)
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (resumed, whole))
    for key in ours:
        assert (ours[key] == theirs[key]).all()


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(
    recipe: dict[str, Any], whole: dict[str, Any], tmp_path: Path
) -> None:
    again = run(recipe)
    other = run({**recipe, "output_dir": str(tmp_path / "other"), "seed": 1})
    assert losses(Path(whole["output_dir"])) == losses(again) != losses(other)


@pytest.mark.processes
def test_two_processes_equal_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Data-parallel training with the same global batch: off-policy, where sampling does not depend on the rank."""
    recipe = with_strategy(recipe, "off_policy")
    one = run(
        {**recipe, "output_dir": str(tmp_path / "one")}, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    raw = {**recipe, "output_dir": str(tmp_path / "two")}
    raw["training"] = {
        **raw["training"],
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "ddp_backend": "gloo",
    }
    assert two_processes(tmp_path, raw) == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-3)
    assert [r["tokens"] for r in metrics(tmp_path / "two")] == [r["tokens"] for r in metrics(one)]
