"""What is inf or NaN stops a run: nothing is learned from it, nothing of it is saved, and the run can be resumed."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_csv
from helpers import cli_train, losses, run, two_processes
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import crosslign
from crosslign.cli import main
from crosslign.distillation import DistillationTrainer
from crosslign.models import NotFiniteError, load_model, not_finite
from crosslign.rollouts import TransformersSampler
from crosslign.runs.build import assemble, make_trainer
from crosslign.runs.folder import RunFolder
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import Completion, CrosslignError

Spoil = Callable[[DistillationTrainer], None]


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_single_value_is_found(bad: float, dtype: torch.dtype) -> None:
    good = torch.linspace(-6e4, 6e4, 1001).to(dtype)
    spoilt = good.clone()
    spoilt[500] = bad
    assert not_finite([("a", good), ("n", torch.arange(3)), ("e", good[:0])]) is None
    assert not_finite([("a", good), ("b", spoilt), ("c", spoilt)]) == "b"


@pytest.fixture
def spoilt_model(tmp_path: Path, model_folder: Path) -> Path:
    """The tiny model with one weight that is NaN."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "spoilt"))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_weights_that_are_nan_are_told_before_anything_else(
    recipe: dict[str, Any], spoilt_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["model"]["path"] = str(spoilt_model)
    assert cli_train(tmp_path, recipe) == 1
    said = capsys.readouterr().err
    assert "hold inf or NaN as torch.float32 (the first are in model.layers.1.mlp.up_proj.weight)" in said
    assert not Path(recipe["output_dir"]).exists()
    arguments = ["generate", "--model", str(spoilt_model), "--table", "builtin:demo", "--limit", "1"]
    assert main([*arguments, "--out", str(tmp_path / "o.jsonl")]) == 1
    assert "hold inf or NaN" in capsys.readouterr().err


def spoil_learning_rate(trainer: DistillationTrainer) -> None:
    for group in trainer.optimizer.param_groups:
        group["lr"] = torch.inf


def spoil_gradient(trainer: DistillationTrainer) -> None:
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient + torch.inf)


def spoil_loss(trainer: DistillationTrainer) -> None:
    teacher_hidden = trainer.scorer.teacher_hidden

    def spoilt(*arguments: Any) -> list[torch.Tensor]:
        first, *others = teacher_hidden(*arguments)
        return [first * torch.nan, *others]

    trainer.scorer.teacher_hidden = spoilt


def spoil_weights(trainer: DistillationTrainer) -> None:
    """Finite, but no logit is. The sampler meets them first."""
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.fill_(1e30)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_learning_rate, "step 3: weights are inf or NaN after it"),
        (spoil_gradient, "step 3: the gradient is inf or NaN, and the step was not taken"),
        (spoil_loss, "step 3: the loss of 2 of its queries ('row-"),
        (spoil_weights, "sampling: the probabilities of the next token are inf or NaN"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0}], ids=["clipped", "not clipped"])
def test_a_run_that_explodes_stops_with_its_last_checkpoint_whole(
    spoil: Spoil,
    said: str,
    settings: dict[str, Any],
    recipe: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe["training"] |= {"save_steps": 1, "max_steps": 3, **settings}
    begun = DistillationTrainer.get_batch_samples

    def spoiling(self: DistillationTrainer, *arguments: Any) -> Any:
        if self.state.global_step == 2:
            spoil(self)
        return begun(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "get_batch_samples", spoiling)
        with pytest.raises(CrosslignError) as caught:
            run(recipe)
    folder = RunFolder(recipe["output_dir"])
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert "checkpoint-2; continue with --resume. Keys of training may change then" in str(caught.value)
    assert folder.newest_checkpoint().name == "checkpoint-2"
    assert not list(folder.path.glob("*.safetensors"))
    saved = [load_file(file) for file in folder.path.rglob("*.safetensors")]
    assert not_finite(item for weights in saved for item in weights.items()) is None
    assert len(losses(run(recipe, resume=True))) == 3


def test_with_loss_scaling_the_loss_tells_and_not_the_gradient(recipe: dict[str, Any]) -> None:
    """float16: its scaler leaves out a step whose gradient overflows, which is normal."""
    prepared = prepare(parse_config(recipe))
    trainer = make_trainer(prepared, assemble(prepared, load_model(prepared.source)))
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    parameter.grad = torch.full_like(parameter, torch.inf)
    trainer._tr_loss = torch.tensor(1.0)
    with pytest.raises(NotFiniteError, match="the gradient"):
        trainer._get_grad_norm(trainer.model)
    trainer.accelerator.scaler = object()
    assert not trainer._get_grad_norm(trainer.model).isfinite()
    trainer._tr_loss = torch.tensor(torch.nan)
    with pytest.raises(NotFiniteError):
        trainer._get_grad_norm(trainer.model)


def test_a_step_without_a_token_is_told_and_changes_nothing(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(self: Any, prompts: Any, parameters: Any, *, seed: int) -> list[Completion]:
        return [Completion((), truncated=False) for _ in prompts]

    monkeypatch.setattr(TransformersSampler, "sample", silent)
    with caplog.at_level(logging.WARNING):
        folder = run({**recipe, "teacher": {"template": "instruct"}}, max_steps=2)
    assert losses(folder) == [0, 0]
    assert "step 1: no completion has a token, so nothing is learned." in caplog.text
    weights = load_file(folder / "adapter_model.safetensors")
    assert all((value == 0).all() for name, value in weights.items() if "lora_B" in name)


@pytest.mark.parametrize("mode", ["drop", "error"])
def test_texts_of_1_and_of_10000_characters(mode: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"id": str(n), "en": "q" * length, "sw": "s" * length} for n, length in enumerate([1, 1, 1, 10_000])]
    table = write_csv(tmp_path / "lengths.csv", rows)
    recipe["data"] = {"tables": [{"path": str(table)}], "languages": ["sw"], "on_overflow": mode}
    recipe["training"] |= {"gradient_accumulation_steps": 1, "max_steps": 2}
    if mode == "error":
        with pytest.raises(CrosslignError, match=r"Raise student\.max_length, or set on_overflow: drop"):
            run(recipe)
    else:
        assert all(loss > 0 for loss in losses(run(recipe)))


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_a_vocabulary_of_two_tokens(implementation: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    """K of DPSW is larger than the vocabulary, and half of all tokens end a completion."""
    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    folder = tmp_path / "two"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=1.0,
        eos_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    recipe["model"]["path"] = str(folder)
    recipe["objective"] = {"implementation": implementation, "top_k": 32}
    found = losses(run(recipe, max_steps=2))
    assert len(found) == 2
    assert all(0 < loss < 10 for loss in found)


SPOILING = """
import os
if os.environ["RANK"] == "1":
    from crosslign.distillation.score import Scorer
    teacher_hidden = Scorer.teacher_hidden
    Scorer.teacher_hidden = lambda *arguments: [state * float("nan") for state in teacher_hidden(*arguments)]
"""


@pytest.mark.processes
def test_all_processes_stop_when_the_loss_of_one_is_nan(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SPOILING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(crosslign.__file__).parents[1]}")
    recipe["training"].update(gradient_accumulation_steps=1, ddp_backend="gloo", ddp_timeout=60)
    start = time.monotonic()
    assert two_processes(tmp_path, recipe) == [1, 1]
    assert time.monotonic() - start < 60
    said = capfd.readouterr().err
    assert said.count("crosslign: step 1: ") == 2
    assert "step 1: the loss of 2 of its queries" in said
