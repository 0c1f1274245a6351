"""A shared prefix: the same hidden states as whole sequences, where keys and values can be reused, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, adapted, build

from crosslign.models import FrozenTeacher, SharedPrefix, shared_prefix, split_model

PREFIX = (11, 12, 13, 14, 15, 16)
# What follows it; the second row is padded on the right.
IDS = torch.tensor([[5, 9, 30, 41, 52], [8, 7, 66, 0, 0]])
MASK = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
INDEX = torch.tensor([[4, 2, 0], [2, 1, 1]])
FULL = ["Llama", "Llama, tied", "Qwen2", "Qwen3", "Granite (logits_scaling)", "Cohere (logit_scale)"]
SLIDING = sorted(set(ARCHITECTURES) - set(FULL))


def whole(split: Any, model: Any) -> torch.Tensor:
    """The oracle: each row by itself, prefix included, no cache and no padding."""
    rows = []
    for ids, mask, index in zip(IDS, MASK, INDEX, strict=True):
        sequence = torch.cat([torch.tensor(PREFIX), ids[mask.bool()]])[None]
        with torch.no_grad():
            rows.append(split.hidden(model, sequence, torch.ones_like(sequence), index[None] + len(PREFIX)))
    return torch.cat(rows)


def shared(model: Any) -> SharedPrefix:
    found = shared_prefix(model, split_model(model))
    assert found is not None
    return found


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_states_after_a_shared_prefix_are_those_of_whole_sequences(name: str, attention: str) -> None:
    model = build(name, attn_implementation=attention)
    states = shared(model).hidden(model, PREFIX, IDS, MASK, INDEX)
    torch.testing.assert_close(states, whole(split_model(model), model), rtol=1e-4, atol=1e-5)
    assert not states.requires_grad


@pytest.mark.parametrize("name", SLIDING)
def test_sliding_windows_are_left_alone(name: str) -> None:
    model = build(name)
    assert shared_prefix(model, split_model(model)) is None


def test_the_prefix_runs_once_and_another_one_anew() -> None:
    model = build("Llama")
    found = shared(model)
    lengths: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda m, i, o: lengths.append(i[0].shape[1]))
    first = found.hidden(model, PREFIX, IDS, MASK, INDEX)
    second = found.hidden(model, PREFIX, IDS, MASK, INDEX)
    assert lengths == [6, 5, 5]
    assert torch.equal(first, second)
    other = found.hidden(model, PREFIX[:4], IDS, MASK, INDEX)
    assert lengths == [6, 5, 5, 4, 5]
    assert not torch.allclose(other, first, atol=1e-3)


def test_under_a_lora_student_the_teachers_prefix_is_the_bases_also_in_training_with_checkpointing() -> None:
    model = adapted(build("Llama"))
    split = split_model(model)
    model.gradient_checkpointing_enable()
    model.train()
    with FrozenTeacher(model).view() as teacher:
        found = shared_prefix(teacher, split)
        assert found is not None
        states = found.hidden(teacher, PREFIX, IDS, MASK, INDEX)
    base = build("Llama")
    torch.testing.assert_close(states, whole(split, base), rtol=1e-4, atol=1e-5)
    assert all(module.training for module in model.modules())


def test_mixed_precision_does_not_reuse_the_prefix_of_full_precision() -> None:
    model = build("Llama")
    found, fresh = shared(model), shared(model)
    found.hidden(model, PREFIX, IDS, MASK, INDEX)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = found.hidden(model, PREFIX, IDS, MASK, INDEX)
        assert torch.equal(mixed, fresh.hidden(model, PREFIX, IDS, MASK, INDEX))


def test_a_model_that_ignores_its_cache_is_found_out() -> None:
    model = build("Llama")
    forward = model.model.forward

    def forgetful(*args: Any, cache: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **{**kwargs, "use_cache": False})

    model.model.forward = forgetful
    assert shared_prefix(model, split_model(model)) is None


def test_without_a_split_there_is_no_prefix() -> None:
    model = build("Llama")
    model.get_decoder = lambda: (_ for _ in ()).throw(NotImplementedError("no decoder"))
    assert shared_prefix(model, split_model(model)) is None
