"""A teacher that follows the student: the ablation of the frozen one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from helpers import losses, metrics, power_cut, run
from peft import LoraConfig
from safetensors.torch import load_file

from crosslign import baselines
from crosslign.distillation import MovingTeacher
from crosslign.distillation.moving import FILE
from crosslign.models import add_lora
from crosslign.types import CrosslignError


def moving(recipe: dict[str, Any], rate: float) -> dict[str, Any]:
    return {**recipe, "method": {"name": "msd", "options": {"teacher_rate": rate}}}


def changed(student: Any) -> None:
    with torch.no_grad():
        for weight in student.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))


@pytest.mark.parametrize("lora", [True, False])
def test_it_goes_a_part_of_the_way_after_each_step(lora: bool) -> None:
    student = add_lora(tiny_llama(), LoraConfig(r=2, target_modules="all-linear")) if lora else tiny_llama()
    start = {n: p.detach().clone() for n, p in student.named_parameters() if p.requires_grad}
    teacher = MovingTeacher(student, 0.25)
    states = []
    for _ in range(2):
        changed(student)
        states.append({n: p.detach().clone() for n, p in student.named_parameters() if p.requires_grad})
        teacher.follow(student)
    for name, first in start.items():
        wanted = 0.75 * (0.75 * first + 0.25 * states[0][name]) + 0.25 * states[1][name]
        torch.testing.assert_close(teacher.weights[name], wanted)
        torch.testing.assert_close(dict(student.named_parameters())[name].detach(), states[1][name], rtol=0, atol=0)
    ids = torch.tensor([[5, 6, 7]])
    with teacher.view() as model:
        logits = model(ids).logits
        assert not logits.requires_grad
        assert not torch.allclose(logits, student(ids).logits)


def test_with_lora_the_base_is_in_memory_once() -> None:
    student = add_lora(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
    teacher = MovingTeacher(student, 1)
    own = {p.data_ptr() for p in teacher.model.parameters()} - {p.data_ptr() for p in student.parameters()}
    assert len(own) == len(teacher.weights) < len(list(student.parameters()))
    changed(student)
    teacher.follow(student)
    ids = torch.tensor([[5, 6, 7]])
    with teacher.view() as model, torch.no_grad():
        torch.testing.assert_close(model(ids).logits, student(ids).logits)


def test_the_first_step_is_the_frozen_teachers_and_the_second_is_not(recipe: dict[str, Any], tmp_path: Path) -> None:
    found = {}
    for rate in (0.0, 0.5):
        folder = run({**moving(recipe, rate), "output_dir": str(tmp_path / str(rate))}, max_steps=2)
        found[rate] = losses(folder)
    assert found[0.5][0] == pytest.approx(found[0.0][0], rel=1e-5)
    assert found[0.5][1] != pytest.approx(found[0.0][1], rel=1e-3)


def test_beside_itself_a_student_is_held_by_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    """English is left unchanged: the frozen teacher pulls the student back there, one that is the student does not."""
    recipe["teacher"]["unchanged"] = ["source"]
    recipe["data"]["languages"] = ["en", "sw"]
    found = {}
    for rate in (0.0, 1.0):
        folder = run({**moving(recipe, rate), "output_dir": str(tmp_path / str(rate))}, learning_rate=0.01, max_steps=4)
        found[rate] = [row["divergence/en"] for row in metrics(folder)]
    assert max(map(abs, found[1.0])) < 1e-5 < 1e-3 < found[0.0][-1]


def test_resume_equals_no_interruption(recipe: dict[str, Any], tmp_path: Path) -> None:
    raw = moving(recipe, 0.5)
    raw["training"]["max_steps"] = 4
    whole = run({**raw, "output_dir": str(tmp_path / "whole")})
    cut = {**raw, "output_dir": str(tmp_path / "cut"), "cache_dir": str(tmp_path / "cache2")}
    power_cut(3, cut)
    resumed = run(cut, resume=True)
    assert losses(resumed) == losses(whole)
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (resumed, whole))
    assert all((ours[key] == theirs[key]).all() for key in ours)
    assert not (resumed / FILE).exists()
    assert f'"{FILE}"' in (resumed / "checkpoint-4" / "manifest.json").read_text(
        encoding="utf-8"
    )  # if damaged, it is told


@pytest.mark.parametrize(("rate", "why"), [(1.5, "at most 1"), (-0.1, "from 0"), ("half", "must be a number")])
def test_a_rate_that_is_none(rate: Any, why: str) -> None:
    with pytest.raises(CrosslignError, match=why):
        baselines.get("msd", {"teacher_rate": rate})


def test_it_does_not_train_weights_in_parts() -> None:
    assert baselines.get("msd").sharded
    assert not baselines.get("msd", {"teacher_rate": 0.05}).sharded
