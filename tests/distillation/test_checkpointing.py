"""Activation checkpointing: the same loss and the same gradients, computed with less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_llama
from helpers import losses, metrics, run
from transformers import modeling_utils

from crosslign.distillation import DistillationTrainer
from crosslign.runs.build import assemble, make_trainer
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config

Step = tuple[list[float], list[dict[str, torch.Tensor]]]
CHECKPOINTED = {"activation_checkpointing": True}


def steps(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **training: Any) -> Step:
    """Losses and gradients of a run of two steps, whose micro-batches are stepped in groups without padding."""
    gradients = []
    norm = DistillationTrainer._get_grad_norm

    def kept(self: DistillationTrainer, model: Any, *arguments: Any, **more: Any) -> Any:
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        return norm(self, model, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "_get_grad_norm", kept)
        folder = run(recipe, overwrite=True, max_steps=2, **training)
    assert all(row["grad_norm"] > 0 for row in metrics(folder))
    return losses(folder), gradients


REENTRANT = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}


@pytest.mark.parametrize(
    "settings",
    [CHECKPOINTED, *(pytest.param(s, marks=pytest.mark.slow) for s in ({"gradient_checkpointing": True}, REENTRANT))],
)
@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_loss_and_gradients_are_those_of_a_step_that_keeps_everything(
    finetuning: str, settings: dict[str, Any], recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe["model"]["finetuning"] = finetuning
    calls: list[Any] = []
    compute = modeling_utils.checkpoint

    def counted(*arguments: Any, **more: Any) -> Any:
        calls.append(more["use_reentrant"])
        return compute(*arguments, **more)

    monkeypatch.setattr(modeling_utils, "checkpoint", counted)
    plain = steps(recipe, monkeypatch)
    assert not calls
    ours = steps(recipe, monkeypatch, **settings)
    assert set(calls) == {settings is REENTRANT}
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    for given, expected in zip(ours[1], plain[1], strict=True):
        assert given.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(given[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_fewer_numbers_are_kept_for_the_backward_pass(finetuning: str, recipe: dict[str, Any]) -> None:
    kept = []
    for training in ({}, CHECKPOINTED):
        raw = {**recipe, "training": {**recipe["training"], **training}}
        raw["model"] = {**recipe["model"], "finetuning": finetuning}
        prepared = prepare(parse_config(raw), overwrite=True)
        trainer = make_trainer(prepared, assemble(prepared, tiny_llama(num_hidden_layers=6)))
        if training:
            trainer.model.activation_checkpointing_enable()
        trainer.model.train()
        rollouts = trainer.collector.collect([prepared.mixture.draw(0, i) for i in range(4)], 0)
        weights = {p.data_ptr() for p in trainer.model.parameters()}
        saved: dict[int, int] = {}

        def keep(tensor: torch.Tensor, saved: dict[int, int] = saved, weights: set[int] = weights) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.scorer(trainer.model, rollouts)
        kept.append(sum(saved.values()))
    assert kept[1] < 0.5 * kept[0]
