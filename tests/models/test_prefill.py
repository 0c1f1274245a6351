"""Prompts without padding: `generate` goes on from them as from padded ones, where it can, and only there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import wraps
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, adapted, build
from hypothesis import given
from hypothesis import strategies as st

from crosslign.models import FrozenTeacher
from crosslign.models.passes.prefill import Prefill, left_padded

COMMON = list(range(20, 30))
PROMPTS = [[*COMMON, 5, 6, 7, 8], [*COMMON, 9], [*COMMON, 40, 41, 42, 43, 44, 45, 46, 47], [*COMMON, 5]]
UNLIKE = [[60, 61, 62], [63], [64, 65, 66, 67, 68, 69, 70], [60, 61]]
FULL = ["Llama", "Llama, tied", "Qwen2", "Qwen3", "Granite (logits_scaling)", "Cohere (logit_scale)"]
SLIDING = sorted(set(ARCHITECTURES) - set(FULL))
NEW_TOKENS = 4


def generated(model: Any, prompts: Sequence[Sequence[int]], **cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens `[B, NEW_TOKENS]` and the logits `[B, NEW_TOKENS, V]` that chose them."""
    ids, mask = left_padded(prompts, 0, torch.device("cpu"))
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        **cache,
    )
    return output.sequences[:, ids.shape[1] :], torch.stack(output.logits, dim=1)


def one_by_one(model: Any, prompts: Sequence[Sequence[int]], tokens: torch.Tensor) -> torch.Tensor:
    """The oracle: each prompt and its tokens by themselves, no cache, no padding."""
    rows = []
    for prompt, chosen in zip(prompts, tokens.tolist(), strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *chosen]]), use_cache=False).logits[0]
        rows.append(logits[len(prompt) - 1 : -1])
    return torch.stack(rows)


@pytest.mark.parametrize("prompts", [PROMPTS, UNLIKE], ids=["common start", "none"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FULL)
def test_generation_goes_on_as_if_each_prompt_stood_alone(name: str, attention: str, prompts: list[list[int]]) -> None:
    model = build(name, attn_implementation=attention)
    cache = Prefill(0)(model, prompts)
    assert len(cache) == 1
    tokens, logits = generated(model, prompts, **cache)
    torch.testing.assert_close(logits, one_by_one(model, prompts, tokens), rtol=1e-4, atol=1e-4)
    assert torch.equal(tokens, generated(model, prompts)[0])


@pytest.mark.parametrize("name", SLIDING)
def test_sliding_windows_are_padded(name: str) -> None:
    assert Prefill(0)(build(name), PROMPTS) == {}


def test_students_with_an_adapter_and_the_teacher_without_it() -> None:
    model = adapted(build("Llama"))
    prefill = Prefill(0)
    tokens, logits = generated(model, PROMPTS, **prefill(model, PROMPTS))
    torch.testing.assert_close(logits, one_by_one(model, PROMPTS, tokens), rtol=1e-4, atol=1e-4)
    with FrozenTeacher(model).view() as teacher:
        base_tokens, base_logits = generated(teacher, PROMPTS, **prefill(teacher, PROMPTS))
    torch.testing.assert_close(base_logits, one_by_one(build("Llama"), PROMPTS, base_tokens), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(base_logits[:, 0], logits[:, 0], atol=1e-2)


def test_no_position_is_padding_and_the_common_start_runs_once() -> None:
    model, prefill = build("Llama"), Prefill(0)
    prefill(model, PROMPTS)  # the trial runs too
    positions: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(lambda m, i, o: positions.append(tuple(i[0].shape)))
    prefill(model, [[*COMMON, *([7] * 80)], [*COMMON, 1], [*COMMON, *([8] * 80)], [*COMMON, 9, 10, 11]])
    # The start, the long rows, the short one; each without its last token, after which one row has nothing to run.
    assert positions == [(1, 10), (2, 79), (1, 2)] or positions == [(1, 10), (2, 79), (2, 2)]


LLAMA, PREFILL = build("Llama"), Prefill(0)


@given(
    st.lists(st.lists(st.integers(1, 96), min_size=1, max_size=12), min_size=2, max_size=5),
    st.lists(st.integers(1, 96), max_size=12),
)
def test_keys_and_values_stand_where_left_padding_has_them(rests: list[list[int]], start: list[int]) -> None:
    prompts = [[*start, *rest] for rest in rests]
    width = max(map(len, prompts)) - 1
    made = PREFILL(LLAMA, prompts)
    assert bool(made) == (width > 0)
    for argument, filled in made.items():
        for row, prompt in enumerate(prompts):
            with torch.no_grad():
                alone = getattr(LLAMA(input_ids=torch.tensor([prompt]), use_cache=True), argument)
            for ours, theirs in zip(filled.layers, alone.layers, strict=True):
                for states, expected in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
                    assert states.shape[2] == width
                    padding, real = states[row].split([width - len(prompt) + 1, len(prompt) - 1], dim=1)
                    torch.testing.assert_close(real, expected[0, :, :-1], rtol=1e-4, atol=1e-5)
                    assert not padding.any()


def test_one_prompt_needs_none() -> None:
    assert Prefill(0)(LLAMA, PROMPTS[:1]) == {}


def test_rounding_in_half_precision_is_no_mistake_of_the_cache() -> None:
    model = build("Granite (logits_scaling)", num_hidden_layers=8).bfloat16()
    assert len(Prefill(0)(model, PROMPTS)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["wrong", "impossible"])
def test_a_model_that_does_not_go_on_from_its_cache_is_padded(
    fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = build("Llama").to(dtype)
    forward = model.model.forward

    @wraps(forward)
    def faulty(*, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, **inputs: Any) -> Any:
        if position_ids is None:  # `generate` gives them; who goes on from a cache may leave them to the model
            if fault == "impossible":
                raise TypeError("forward() takes no cache")
            position_ids = torch.arange(input_ids.shape[1])[None]
        return forward(input_ids=input_ids, position_ids=position_ids, **inputs)

    monkeypatch.setattr(model.model, "forward", faulty)
    with caplog.at_level(logging.INFO, logger=Prefill.__module__):
        assert Prefill(0)(model, PROMPTS) == {}
    assert ("takes no cache" if fault == "impossible" else "logits differ by") in caplog.text
