"""The frozen teacher: the same model as the student at the start, unchanged for ever, and a fingerprint that tells."""

from __future__ import annotations

import copy
import hashlib
import logging
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_llama
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig

from crosslign.models import FrozenTeacher, TeacherMovedError, add_lora, fingerprint
from crosslign.types import CrosslignError

IDS = torch.arange(3, 20)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def viewed(teacher: FrozenTeacher) -> torch.Tensor:
    with teacher.view() as model:
        return model(input_ids=IDS).logits


def train(model: Any, steps: int = 3) -> None:
    """Move everything that is trainable."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def student() -> Any:
    return add_lora(tiny_llama(), LoraConfig(r=4))


def test_a_lora_student_starts_equal_to_the_teacher(student: Any) -> None:
    assert torch.equal(logits(student), logits(tiny_llama()))
    assert torch.equal(viewed(FrozenTeacher(student)), logits(student))


def test_only_the_adapter_is_trainable(student: Any) -> None:
    trainable = {name for name, p in student.named_parameters() if p.requires_grad}
    assert trainable
    assert all(".lora_" in name for name in trainable)


def test_the_teacher_view_does_not_change_while_the_adapter_is_trained(student: Any) -> None:
    teacher = FrozenTeacher(student)
    before = viewed(teacher)
    student.train()
    train(student)
    assert not torch.allclose(logits(student), before, atol=1e-2)
    assert torch.equal(viewed(teacher), before)
    teacher.check()
    assert teacher.shared


def test_after_the_view_the_student_is_itself_again_and_still_trainable(student: Any) -> None:
    teacher = FrozenTeacher(student)
    train(student)
    adapted = logits(student)
    trainable = [p.requires_grad for p in student.parameters()]
    with teacher.view() as model:
        assert not torch.is_grad_enabled()
        assert not model(input_ids=IDS).logits.requires_grad
    assert torch.is_grad_enabled()
    assert [p.requires_grad for p in student.parameters()] == trainable
    assert torch.equal(logits(student), adapted)
    with pytest.raises(RuntimeError, match="inside"), teacher.view():
        raise RuntimeError("inside")
    assert torch.equal(logits(student), adapted)
    assert torch.is_grad_enabled()


def test_a_full_student_has_a_copy_that_does_not_follow_it() -> None:
    student = tiny_llama().train()
    teacher = FrozenTeacher(student)
    before = viewed(teacher)
    assert torch.equal(before, logits(tiny_llama()))
    train(student)
    assert not torch.allclose(logits(student), before, atol=1e-2)
    assert torch.equal(viewed(teacher), before)
    teacher.check()
    assert not teacher.shared
    with teacher.view() as model:
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in student.parameters()}
    assert student.training
    assert all(p.requires_grad for p in student.parameters())


def test_a_full_copy_can_be_kept_in_bfloat16() -> None:
    student = tiny_llama()
    teacher = FrozenTeacher(student, torch.bfloat16)
    assert viewed(teacher).dtype == torch.bfloat16
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    torch.testing.assert_close(viewed(teacher).float(), logits(student), rtol=0.1, atol=0.3)
    assert teacher.fingerprint == fingerprint(tiny_llama().to(torch.bfloat16))
    assert teacher.fingerprint != fingerprint(student)
    teacher.check()


def test_a_teacher_dtype_with_lora_is_a_warning(student: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        teacher = FrozenTeacher(student, torch.bfloat16)
    assert "teacher.dtype has no effect with LoRA" in caplog.text
    assert viewed(teacher).dtype == torch.float32


def test_merging_an_adapter_into_the_base_is_found(student: Any) -> None:
    teacher = FrozenTeacher(student)
    train(student)
    teacher.check()
    student.merge_adapter()
    with pytest.raises(TeacherMovedError, match=f"fingerprint {teacher.fingerprint} at the start"):
        teacher.check()


def test_an_optimizer_over_base_weights_is_found(student: Any) -> None:
    teacher = FrozenTeacher(student)
    student.get_base_model().model.norm.weight.requires_grad_(True)
    train(student, steps=1)
    with pytest.raises(TeacherMovedError):
        teacher.check()


def test_a_full_copy_that_moves_is_found() -> None:
    teacher = FrozenTeacher(tiny_llama())
    with teacher.view() as model:
        model.lm_head.weight[3, 4] += 1
    with pytest.raises(TeacherMovedError) as error:
        teacher.check()
    assert isinstance(error.value, CrosslignError)


# LoRA settings


def test_the_adapter_depends_on_its_seed_and_leaves_the_random_state_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = add_lora(tiny_llama(), LoraConfig(r=4), seed)
        return torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "lora_A" in n])

    torch.manual_seed(5)
    expected = torch.rand(3)
    assert not torch.equal(weights(0), weights(1))
    first = weights(0)
    torch.manual_seed(5)
    base = tiny_llama()
    torch.manual_seed(5)
    add_lora(base, LoraConfig(r=4), 0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(weights(0), first)


def test_lora_settings_shape_the_adapter() -> None:
    model = add_lora(tiny_llama(), LoraConfig(r=3, lora_alpha=5, target_modules=("down_proj",), use_rslora=True))
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names
    assert all("down_proj" in n for n in names)
    layer = model.get_base_model().model.layers[0].mlp.down_proj
    assert layer.lora_A["default"].weight.shape[0] == 3
    assert layer.scaling["default"] == pytest.approx(5 / 3**0.5)
    everywhere = add_lora(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
    assert any("gate_proj" in n for n, p in everywhere.named_parameters() if p.requires_grad)


def test_targets_that_the_model_does_not_have_are_a_clear_error() -> None:
    with pytest.raises(CrosslignError, match=r"model\.lora: .*nowhere.*Name the linear layers in model\.lora\.target_"):
        add_lora(tiny_llama(), LoraConfig(target_modules=("nowhere",)))


def test_lora_leaves_no_dropout() -> None:
    model = add_lora(tiny_llama(attention_dropout=0.5), LoraConfig(r=4))
    expected = logits(model)
    model.train()
    assert torch.equal(logits(model), expected)


# The fingerprint


def test_the_fingerprint_is_the_same_with_and_without_lora_in_any_mode_and_process() -> None:
    base = tiny_llama()
    expected = fingerprint(base)
    assert len(expected) == 16
    assert fingerprint(tiny_llama()) == expected
    assert fingerprint(base.train()) == expected
    student = add_lora(base, LoraConfig(r=4))
    assert fingerprint(student) == expected
    assert fingerprint(student.train()) == expected
    train(student)
    assert fingerprint(student) == expected
    assert fingerprint(add_lora(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))) == expected
    assert FrozenTeacher(student).fingerprint == expected


def test_the_fingerprint_tells_models_dtypes_and_names_apart() -> None:
    linear = torch.nn.Linear(2, 3)
    models = [
        tiny_llama(0),
        tiny_llama(1),
        tiny_llama().to(torch.bfloat16),
        tiny_llama().to(torch.float16),
        tiny_llama(tie_word_embeddings=True),
        torch.nn.Sequential(linear),
        torch.nn.ModuleDict({"a": linear}),
        torch.nn.Sequential(linear, linear),
    ]
    assert len({fingerprint(m) for m in models}) == len(models)


def test_a_tensor_of_another_shape_with_the_same_bits_is_another_model() -> None:
    one, other = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        other.weight.copy_(one.weight.view(2, 3))
    assert fingerprint(one) != fingerprint(other)


MODELS = {dtype: tiny_llama().to(dtype) for dtype in (torch.float32, torch.bfloat16)}
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
FINGERPRINTS = {dtype: fingerprint(model) for dtype, model in MODELS.items()}


def bits(model: Any, which: int) -> torch.Tensor:
    """The bits of the `which`-th tensor, as integers that share its memory."""
    tensors = [p.detach() for p in model.parameters()]
    tensor = tensors[which % len(tensors)]
    return tensor.view(-1).view(BITS[tensor.dtype])


@given(
    dtype=st.sampled_from(list(MODELS)),
    which=st.integers(0, 1000),
    position=st.integers(0, 10**6),
    bit=st.integers(0, 31),
)
def test_a_single_bit_of_a_single_weight_changes_the_fingerprint(
    dtype: torch.dtype, which: int, position: int, bit: int
) -> None:
    model = MODELS[dtype]
    flat = bits(model, which)
    position %= flat.numel()
    width = 8 * flat.element_size()
    bit %= width
    mask = (1 << bit) - (1 << width if bit == width - 1 else 0)  # the highest bit is the sign
    flat[position] ^= mask
    changed = fingerprint(model)
    flat[position] ^= mask
    assert changed != FINGERPRINTS[dtype]
    assert fingerprint(model) == FINGERPRINTS[dtype]


@given(
    dtype=st.sampled_from(list(MODELS)),
    which=st.integers(0, 1000),
    one=st.integers(0, 10**6),
    other=st.integers(0, 10**6),
)
def test_two_weights_that_swap_places_change_the_fingerprint(
    dtype: torch.dtype, which: int, one: int, other: int
) -> None:
    model = MODELS[dtype]
    flat = bits(model, which)
    one, other = one % flat.numel(), other % flat.numel()
    before = flat.clone()
    flat[[one, other]] = before[[other, one]]
    changed = fingerprint(model)
    differs = not torch.equal(flat, before)
    flat.copy_(before)
    assert (changed != FINGERPRINTS[dtype]) == differs


def test_two_tensors_that_swap_places_change_the_fingerprint() -> None:
    model = tiny_llama()
    expected = fingerprint(model)
    first, second = (layer.mlp.up_proj.weight.data for layer in model.model.layers)
    swapped = copy.deepcopy(first)
    first.copy_(second)
    second.copy_(swapped)
    assert fingerprint(model) != expected


def test_the_fingerprint_of_a_large_tensor_is_that_of_its_definition() -> None:
    linear = torch.nn.Linear(1_000, 4_501, bias=False)
    x = linear.weight.detach().numpy().view(np.int32).ravel().astype(np.int64)
    sums = int(x.sum()) % 2**64, int(((2 * np.arange(x.size) + 1) * x).sum()) % 2**64  # int64 wraps around
    text = f"weight|(4501, 1000)|torch.float32|{sums[0]}|{sums[1]}\n"
    assert fingerprint(linear) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_weights_that_are_not_contiguous_have_a_fingerprint_too() -> None:
    linear, transposed = torch.nn.Linear(3, 5, bias=False), torch.nn.Linear(3, 5, bias=False)
    transposed.weight = torch.nn.Parameter(linear.weight.detach().t().contiguous().t())
    assert not transposed.weight.is_contiguous()
    assert fingerprint(transposed) == fingerprint(linear)


def test_not_a_number_in_a_weight_does_not_hide_a_change() -> None:
    linear = torch.nn.Linear(3, 5)
    with torch.no_grad():
        linear.weight[0, 0] = torch.nan
        first = fingerprint(linear)
        linear.weight[1, 1] += 1
    assert fingerprint(linear) != first
