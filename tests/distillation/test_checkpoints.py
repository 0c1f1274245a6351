"""What a trainer reads of a checkpoint: all of the weights, under whatever names they were saved, or an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from architectures import SMALL
from conftest import tiny_llama
from test_trainer import trainer_of
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SiglipVisionConfig,
    TrainingArguments,
)

from crosslign.distillation.checkpoints import CheckedCheckpoints, reading
from crosslign.models import NotFiniteError
from crosslign.types import CrosslignError


def mixture_of_experts(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**SMALL, **sizes}))


def part_of_a_larger_one(seed: int) -> Any:
    torch.manual_seed(seed)
    text = {**SMALL, "sliding_window": 4, "query_pre_attn_scalar": 8}
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = Gemma3Config(text_config=text, vision_config=vision.to_dict(), mm_tokens_per_image=1)
    return Gemma3ForConditionalGeneration(config)


@pytest.mark.parametrize("make", [tiny_llama, mixture_of_experts, part_of_a_larger_one])
def test_all_weights_of_a_checkpoint_are_restored(make: Callable[[int], Any], tmp_path: Path) -> None:
    saved, other = make(0), make(1)
    saved.save_pretrained(tmp_path / "checkpoint-1")
    wanted = saved.state_dict()
    assert any(not torch.equal(wanted[name], tensor) for name, tensor in other.state_dict().items())
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True)
    CheckedCheckpoints(other, arguments)._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(wanted[name], tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (ValueError("loaded state dict has a different number of parameter groups"), "Does it fit this recipe"),
        (PermissionError("no"), "May this process read it"),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), "Remove it, and --resume goes on"),
    ],
)
def test_only_what_is_damaged_is_to_be_removed(error: Exception, mend: str) -> None:
    with pytest.raises(CrosslignError, match="the checkpoint cannot be read") as caught, reading("checkpoint-7"):
        raise error
    assert mend in str(caught.value)
    assert ("Remove it" in str(caught.value)) == mend.startswith("Remove it")


def test_a_lack_of_memory_is_told_as_what_it_is() -> None:
    with pytest.raises(torch.OutOfMemoryError), reading("checkpoint-7"):
        raise torch.OutOfMemoryError("2 GiB")


def test_an_overflow_that_deepspeed_skips_stops_nothing(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(recipe)
    trainer._tr_loss = torch.tensor(1.0)
    trainer.is_deepspeed_enabled = True
    skipped = SimpleNamespace(step_was_skipped=True)
    monkeypatch.setattr(trainer.accelerator, "_optimizers", [skipped])
    assert trainer._get_grad_norm(trainer.model, torch.inf) == torch.inf
    skipped.step_was_skipped = False
    with pytest.raises(NotFiniteError):
        trainer._get_grad_norm(trainer.model, torch.inf)
    trainer._tr_loss = torch.tensor(torch.nan)  # then it was no overflow of the scaling
    skipped.step_was_skipped = True
    with pytest.raises(NotFiniteError):
        trainer._get_grad_norm(trainer.model, torch.inf)
