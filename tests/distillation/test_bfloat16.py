"""Runs in bfloat16: a model of that type, and mixed precision on a float32 model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from helpers import losses, metrics, power_cut, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from crosslign.cli import main
from crosslign.distillation import DistillationTrainer
from crosslign.models import adapter_in_base_type, load_model
from crosslign.rollouts import SamplingParameters, TransformersSampler, sampler_of
from crosslign.runs.build import assemble, autocast, make_trainer
from crosslign.runs.folder import RunFolder
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import CrosslignError

Raw = dict[str, Any]


def bfloat16(recipe: Raw, finetuning: str = "lora", **changes: Any) -> Raw:
    lora = {"lora": {"r": 4}} if finetuning == "lora" else {}
    model = {"path": recipe["model"]["path"], "dtype": "bfloat16", "finetuning": finetuning, **lora}
    return {**recipe, "model": model, "output_dir": f"{recipe['output_dir']}-{finetuning}-half", **changes}


def mixed(recipe: Raw, finetuning: str = "lora") -> Raw:
    raw = bfloat16(recipe, finetuning)
    return {**raw, "model": {**raw["model"], "dtype": "float32"}, "training": {**raw["training"], "bf16": True}}


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def same_end(folder: Path, other: Path) -> bool:
    ours, theirs = saved(folder), saved(other)
    return losses(folder) == losses(other) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("make", [bfloat16, mixed])
@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_a_run_learns_and_resumes_as_one_that_never_stopped(
    make: Any, finetuning: str, recipe: Raw, whole: Raw, tmp_path: Path
) -> None:
    raw = make(recipe, finetuning)
    folder = run(raw)
    assert losses(folder)[0] == pytest.approx(losses(Path(whole["output_dir"]))[0], rel=0.1)
    assert all(row["grad_norm"] > 0 for row in metrics(folder))
    trained = torch.bfloat16 if (make, finetuning) == (bfloat16, "full") else torch.float32
    assert {weight.dtype for weight in saved(folder).values()} == {trained}
    cut = {**raw, "output_dir": str(tmp_path / "cut")}
    power_cut(3, cut)
    assert same_end(run(cut, resume=True), folder)


@pytest.mark.parametrize("make", [bfloat16, mixed])
@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_the_fused_step_is_the_reference_step_within_rounding(make: Any, finetuning: str, recipe: Raw) -> None:
    found = []
    for implementation in ("fused", "reference"):
        raw = {**make(recipe, finetuning), "objective": {"implementation": implementation}}
        prepared = prepare(parse_config(raw), overwrite=True)
        trainer = make_trainer(prepared, assemble(prepared, load_model(prepared.source)))
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.mul_(1.1) if parameter.requires_grad else None
        rollouts = trainer.collector.collect([prepared.mixture.draw(0, i) for i in range(4)], 0)
        loss = trainer.training_step(trainer.model, {"rollouts": rollouts}, torch.tensor(4))
        gradients = [p.grad.float().flatten() for p in trainer.model.parameters() if p.grad is not None]
        found.append((float(loss), torch.cat(gradients)))
    (loss, gradient), (other_loss, other) = found
    assert loss == pytest.approx(other_loss, rel=0.01)
    assert torch.linalg.vector_norm(gradient - other) < 0.05 * torch.linalg.vector_norm(other)


def test_weights_that_are_trained_in_half_precision_are_warned_of(
    recipe: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    for make, finetuning, told in ((bfloat16, "full", True), (bfloat16, "lora", False), (mixed, "full", False)):
        prepared = prepare(parse_config(make(recipe, finetuning)), overwrite=True)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assemble(prepared, load_model(prepared.source))
        assert ("set model.dtype: float32 and training.bf16: true" in caplog.text) is told


@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_a_run_that_explodes_stops_with_its_last_checkpoint_whole(
    finetuning: str, recipe: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = DistillationTrainer.get_batch_samples

    def spoiling(self: DistillationTrainer, *arguments: Any) -> Any:
        if self.state.global_step == 2:
            with torch.no_grad():
                next(p for p in self.model.parameters() if p.requires_grad)[0, 0] = torch.nan
        return begun(self, *arguments)

    monkeypatch.setattr(DistillationTrainer, "get_batch_samples", spoiling)
    raw = bfloat16(recipe, finetuning)
    with pytest.raises(CrosslignError, match="weights are inf or NaN after it"):
        run(raw)
    assert RunFolder(raw["output_dir"]).newest_checkpoint().name == "checkpoint-2"


def test_rollouts_take_the_adapter_in_the_type_of_the_base_and_leave_it_as_it_was(
    recipe: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(parse_config(bfloat16(recipe)))
    made = assemble(prepared, load_model(prepared.source))
    adapter = {name: p for name, p in made.student.named_parameters() if ".lora_" in name}
    with torch.no_grad():
        for parameter in adapter.values():
            parameter.normal_(std=0.1)
    before = {name: parameter.clone() for name, parameter in adapter.items()}
    seen: list[dict[str, Any]] = []
    generate = TransformersSampler._generate

    def watched(self: Any, model: Any, *arguments: Any) -> Any:
        seen.append({name: p for name, p in model.named_parameters() if ".lora_" in name})
        return generate(self, model, *arguments)

    monkeypatch.setattr(TransformersSampler, "_generate", watched)
    prompts = [list(range(3, 12)), list(range(20, 50))]
    made.collector.student.sample(prompts, SamplingParameters(max_completion_length=4), seed=0)
    assert seen
    assert {p.dtype for weights in seen for p in weights.values()} == {torch.bfloat16}
    for name, weight in seen[0].items():
        assert torch.equal(weight, before[name].bfloat16())
    after = {name: p for name, p in made.student.named_parameters() if ".lora_" in name}
    for name, parameter in after.items():
        assert parameter is adapter[name]
        assert parameter.requires_grad
        assert torch.equal(parameter, before[name])
        assert parameter.dtype == torch.float32

    def fails(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(TransformersSampler, "_generate", fails)
    with pytest.raises(KeyboardInterrupt):
        made.collector.student.sample(prompts, SamplingParameters(), seed=0)
    assert all(p is adapter[name] for name, p in made.student.named_parameters() if name in adapter)


def test_an_adapter_of_the_type_of_its_base_is_not_touched() -> None:
    model = tiny_llama()
    with adapter_in_base_type(model):
        assert all(p.requires_grad for p in model.parameters())


def test_the_distribution_that_is_sampled_is_the_trained_one_within_rounding(recipe: Raw) -> None:
    prepared = prepare(parse_config(bfloat16(recipe)))
    student = assemble(prepared, load_model(prepared.source)).student
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.1)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        trained = student(input_ids=ids).logits.float()
        with adapter_in_base_type(student):
            sampled = student(input_ids=ids).logits.float()
    assert not torch.equal(trained, sampled)
    assert (trained.softmax(-1) - sampled.softmax(-1)).abs().sum(-1).mean() < 0.05


def test_divergences_outside_the_trainer_are_measured_in_the_precision_of_the_run(recipe: Raw) -> None:
    prepared = prepare(parse_config(mixed(recipe)))
    with autocast(prepared):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")


def test_evaluation_and_generation_take_the_adapter_on_a_bfloat16_base(
    recipe: Raw, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(bfloat16(recipe), max_steps=1)
    types: set[torch.dtype] = set()
    generate = TransformersSampler._generate

    def watched(self: Any, model: Any, *arguments: Any) -> Any:
        types.update(p.dtype for p in model.parameters())
        return generate(self, model, *arguments)

    monkeypatch.setattr(TransformersSampler, "_generate", watched)
    model = ["--model", recipe["model"]["path"], "--adapter", str(folder), "--dtype", "bfloat16"]
    model += ["--max-completion-length", "4", "--languages", "sw", "--out"]
    assert main(["generate", "--table", str(table_file), *model, str(tmp_path / "out.jsonl")]) == 0
    assert main(["eval", "--tasks", f"table:{table_file}", *model, str(tmp_path / "evaluation")]) == 0
    assert types == {torch.bfloat16}
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 12


def test_greedy_tokens_are_those_of_float32_where_they_are_not_close(model_folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    greedy = SamplingParameters(temperature=0, max_completion_length=1)
    prompts = [list(range(start, start + 12)) for start in range(3, 200, 7)]
    tokens = [sampler_of(m, tokenizer, 8).sample(prompts, greedy, seed=0) for m in (model, model.bfloat16())]
    same = sum(a == b for a, b in zip(*tokens, strict=True))
    assert same >= 0.8 * len(prompts)
