"""`split_model`: hidden states and head give the model's own logits, for every architecture that adds something."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, SMALL, Biased, adapted, build
from conftest import tiny_llama
from peft import LoraConfig
from transformers import LlamaForCausalLM

from crosslign.models import FrozenTeacher, add_lora, causal_lm, split_model
from crosslign.models.sharding import has_plain_output

# Two rows with padding on the right; the second is short.
IDS = torch.tensor([[5, 9, 30, 41, 52, 63, 74], [8, 7, 66, 0, 0, 0, 0]])
MASK = torch.tensor([[1] * 7, [1] * 3 + [0] * 4])
INDEX = torch.tensor([[6, 2, 2, 0], [2, 1, 0, 0]])


def own_logits(model: Any) -> torch.Tensor:
    """The model's own logits at INDEX, each row alone and without padding."""
    rows = []
    for ids, mask, index in zip(IDS, MASK, INDEX, strict=True):
        with torch.no_grad():
            logits = model(input_ids=ids[mask.bool()][None], use_cache=False).logits[0]
        rows.append(logits[index])
    return torch.stack(rows)


def split_logits(split: Any, model: Any) -> torch.Tensor:
    with torch.no_grad():
        return split.head(model)(split.hidden(model, IDS, MASK, INDEX))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_and_head_give_the_models_own_logits(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = build(name)
    with caplog.at_level(logging.WARNING):
        split = split_model(model)
    assert split.exact
    assert not caplog.records
    torch.testing.assert_close(split_logits(split, model), own_logits(model), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert split.hidden(model, IDS, MASK, INDEX).shape == (2, 4, SMALL["hidden_size"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_and_head_see_a_lora_adapter_and_the_teacher_view_without_it(name: str) -> None:
    base = own_logits(build(name))
    model = adapted(build(name))
    split = split_model(model)
    assert split.exact
    student = split_logits(split, model)
    torch.testing.assert_close(student, own_logits(model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(student, base, atol=1e-2)
    with FrozenTeacher(model).view() as teacher:
        torch.testing.assert_close(split_logits(split, teacher), base, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "Gemma2 (soft-capping)", "Granite (logits_scaling)"])
def test_half_precision_models_are_split_too(name: str) -> None:
    model = build(name).to(torch.bfloat16)
    split = split_model(model)
    assert split.exact
    torch.testing.assert_close(split_logits(split, model), own_logits(model), rtol=0.1, atol=0.3)


def test_the_head_differentiates_to_body_and_head_weights() -> None:
    model = build("Gemma2 (soft-capping)", tie_word_embeddings=False)
    split = split_model(model)
    split.head(model)(split.hidden(model, IDS, MASK, INDEX)).logsumexp(-1).sum().backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    logits = model(input_ids=IDS, attention_mask=MASK).logits
    logits.gather(1, INDEX[..., None].expand(-1, -1, logits.shape[-1])).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-4)


class WithoutDecoder(LlamaForCausalLM):
    """A model that does not say what its body is."""

    def get_decoder(self) -> Any:
        raise NotImplementedError("no decoder")


@pytest.mark.parametrize("kind", [Biased, WithoutDecoder])
@pytest.mark.parametrize("lora", [False, True])
def test_an_unknown_head_falls_back_with_a_warning_and_right_logits(
    kind: type, lora: bool, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model: Any = kind(build("Llama").config).eval()
    if lora:
        model = adapted(model)
    with caplog.at_level(logging.WARNING):
        split = split_model(model)
    assert not split.exact
    assert f"{kind.__name__}: cannot be split into body and head" in caplog.text
    assert "needs more memory" in caplog.text
    torch.testing.assert_close(split_logits(split, model), own_logits(model), rtol=1e-4, atol=1e-4)


class SlightlyScaled(LlamaForCausalLM):
    """A model whose own factor is so small that it could be taken for rounding."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 1.03
        return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_small_factor_is_not_taken_for_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert not split_model(SlightlyScaled(build("Llama").config).eval().to(dtype)).exact


def test_the_body_is_not_asked_for_logits() -> None:
    model = build("Llama")
    split = split_model(model)
    rows = []
    model.lm_head.register_forward_hook(lambda m, i, o: rows.append(o.shape[:-1]))
    split_logits(split, model)
    assert rows == [(2, 4)]


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The explicit masks that attention is given."""
    seen: list[Any] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(kwargs.get("attn_mask"))
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    return seen


def test_right_padding_needs_no_mask(masks: list[Any]) -> None:
    model = build("Llama")
    split = split_model(model)
    masks.clear()
    split_logits(split, model)
    assert masks == [None, None]  # of two layers


class SeesAhead(LlamaForCausalLM):
    """A model whose attention is not causal."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        forward = self.model.forward

        def both_ways(**kwargs: Any) -> Any:
            mask = kwargs.pop("attention_mask", None)
            mask = torch.ones_like(kwargs["input_ids"]) if mask is None else mask
            return forward(attention_mask=mask[:, None, None].bool().expand(-1, -1, mask.shape[1], -1), **kwargs)

        self.model.forward = both_ways


def test_a_model_that_sees_ahead_keeps_its_mask() -> None:
    torch.manual_seed(0)
    model = SeesAhead(build("Llama").config).eval()
    split = split_model(model)
    assert split.exact
    torch.testing.assert_close(split_logits(split, model), own_logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_split_model_leaves_the_mode_as_it_was_and_no_gradient(training: bool) -> None:
    model = build("Llama").train(training)
    split_model(model)
    assert model.training == training
    assert all(p.grad is None for p in model.parameters())


def test_causal_lm_takes_off_the_peft_wrapper_only() -> None:
    model = tiny_llama()
    assert causal_lm(model) is model
    assert causal_lm(add_lora(model, LoraConfig(r=2))) is model


def test_attention_that_needs_a_gpu_is_tried_otherwise_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP and DeepSpeed load on the CPU; a model that cannot be split would then be refused for no reason."""
    model = build("Llama")
    used: list[str] = []

    def use(name: str) -> None:
        used.append(name)
        model.config._attn_implementation = name

    monkeypatch.setattr(model, "set_attn_implementation", use)
    model.config._attn_implementation = "flash_attention_2"
    assert split_model(model).exact
    assert used == ["sdpa", "flash_attention_2"]
    used.clear()
    model.config._attn_implementation = "eager"
    assert split_model(model).exact
    assert used == []


def test_an_output_layer_with_an_adapter_is_not_plain() -> None:
    model = build("Llama")
    assert has_plain_output(causal_lm(model))
    with_adapter = add_lora(model, LoraConfig(r=2, target_modules=["lm_head"]), 0)
    assert not has_plain_output(causal_lm(with_adapter))
    assert has_plain_output(causal_lm(add_lora(build("Llama"), LoraConfig(r=2, target_modules=["q_proj"]), 0)))
