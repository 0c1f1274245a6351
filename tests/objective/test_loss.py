"""`weighted_divergence` against both oracles: every divergence with every weighting, ragged, masked, degenerate."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import loss as oracle_loss
from oracle import naive_loss
from torch import Tensor

from crosslign.objective import DIVERGENCES, WEIGHTINGS, WeightedDivergence, weighted_divergence

INF = math.inf
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)
every_combination = pytest.mark.parametrize(
    ("divergence", "weighting"), list(itertools.product(DIVERGENCES, WEIGHTINGS))
)


def logits(seed: int, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def ragged(*lengths: int, width: int) -> Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def run(student: Tensor, teacher: Tensor, mask: Tensor, **options: Any) -> tuple[WeightedDivergence, Tensor]:
    """The result, and the gradient of its loss in the student's logits."""
    student = student.clone().requires_grad_()
    result = weighted_divergence(student, teacher, mask, **options)
    result.loss.backward()
    assert student.grad is not None
    return result, student.grad


def assert_equals_oracles(
    student: Tensor, teacher: Tensor, mask: Tensor, *, rtol: float = 1e-9, atol: float = 1e-11, **options: Any
) -> None:
    result, gradient = run(student, teacher, mask, **options)
    loss, divergences, weights, raw_weights = oracle_loss(student, teacher, mask, **options)
    assert result.loss.item() == pytest.approx(loss, rel=rtol, abs=atol)
    for grid, rows in [(result.divergence, divergences), (result.weight, weights), (result.raw_weight, raw_weights)]:
        assert not grid.requires_grad
        assert grid.shape == mask.shape
        assert (grid[~mask.bool()] == 0).all()
        for i, row in enumerate(rows):
            torch.testing.assert_close(
                grid[i][mask[i].bool()].double(), torch.tensor(row, dtype=torch.float64), rtol=rtol, atol=atol
            )
    leaf = student.double().clone().requires_grad_()
    naive_loss(leaf, teacher.double(), mask, **options).backward()
    assert leaf.grad is not None
    assert gradient.dtype == student.dtype
    eps = torch.finfo(student.dtype).eps
    torch.testing.assert_close(gradient.double(), leaf.grad, rtol=max(rtol, 2 * eps), atol=atol)
    assert (gradient[~mask.bool()] == 0).all()


@every_combination
@pytest.mark.parametrize("mask", [ragged(4, 1, 3, width=4), torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 1]])])
def test_loss_weights_and_gradient_equal_the_oracles(divergence: str, weighting: str, mask: Tensor) -> None:
    student, teacher = logits(1, 3, 4, 8), logits(2, 3, 4, 8)
    assert_equals_oracles(student, teacher, mask, divergence=divergence, weighting=weighting, top_k=5)


@every_combination
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_k": 500},
        {"temperature": 0.4, "top_k": 3},
        {"temperature": 3.0, "beta": 0.9},
        {"beta": 0.05, "top_k": 2},
    ],
    ids=str,
)
def test_every_option_equals_the_oracles(divergence: str, weighting: str, options: dict[str, Any]) -> None:
    student, teacher = logits(3, 2, 3, 7), logits(4, 2, 3, 7)
    mask = ragged(3, 2, width=3)
    assert_equals_oracles(student, teacher, mask, divergence=divergence, weighting=weighting, **options)


@every_combination
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-5)])
def test_narrow_logits_equal_the_oracles_within_float32(
    divergence: str, weighting: str, dtype: torch.dtype, rtol: float
) -> None:
    student, teacher = logits(5, 2, 3, 7, dtype=dtype), logits(6, 2, 3, 7, dtype=dtype)
    result, _ = run(student, teacher, ragged(3, 2, width=3))
    assert result.loss.dtype == torch.float32
    assert_equals_oracles(
        student, teacher, ragged(3, 2, width=3), divergence=divergence, weighting=weighting, rtol=rtol, atol=1e-6
    )


@every_combination
def test_float32_loss_error_is_no_more_than_that_of_the_naive_float32_path(divergence: str, weighting: str) -> None:
    options: dict[str, Any] = {"divergence": divergence, "weighting": weighting}
    teacher = logits(7, 2, 8, 200, scale=8.0, dtype=torch.float32) + 20
    student = teacher + 0.05 * logits(8, 2, 8, 200, scale=1.0, dtype=torch.float32)
    mask = ragged(8, 5, width=8)
    exact, *_ = oracle_loss(student, teacher, mask, **options)
    naive = naive_loss(student, teacher, mask, **options).item()
    ours = weighted_divergence(student, teacher, mask, **options).loss.item()
    assert abs(ours - exact) <= abs(naive - exact) + 1e-6 * exact + 1e-7


@every_combination
@pytest.mark.parametrize("filler", [math.nan, INF, -INF])
def test_a_masked_position_may_hold_anything(divergence: str, weighting: str, filler: float) -> None:
    student, teacher = logits(9, 2, 4, 6), logits(10, 2, 4, 6)
    mask = torch.tensor([[True, False, True, False], [False, True, False, False]])
    clean, clean_gradient = run(student, teacher, mask, divergence=divergence, weighting=weighting)
    student[~mask], teacher[~mask] = filler, filler
    dirty, dirty_gradient = run(student, teacher, mask, divergence=divergence, weighting=weighting)
    for a, b in [
        (clean.loss, dirty.loss),
        (clean.divergence, dirty.divergence),
        (clean.weight, dirty.weight),
        (clean.raw_weight, dirty.raw_weight),
        (clean_gradient, dirty_gradient),
    ]:
        assert torch.equal(a, b)


@every_combination
def test_a_sequence_without_valid_tokens_counts_nowhere(divergence: str, weighting: str) -> None:
    student, teacher, mask = logits(11, 3, 4, 6), logits(12, 3, 4, 6), ragged(4, 0, 2, width=4)
    options: dict[str, Any] = {"divergence": divergence, "weighting": weighting}
    with_empty, gradient = run(student, teacher, mask, **options)
    kept = [0, 2]
    without, expected = run(student[kept], teacher[kept], mask[kept], **options)
    torch.testing.assert_close(with_empty.loss, without.loss)
    torch.testing.assert_close(gradient[kept], expected)
    assert (gradient[1] == 0).all()


@every_combination
@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 0, 6), (0, 4, 6), (0, 0, 6)])
def test_without_any_valid_token_loss_and_gradient_are_zero(
    divergence: str, weighting: str, shape: tuple[int, int, int]
) -> None:
    result, gradient = run(
        logits(13, *shape),
        logits(14, *shape),
        torch.zeros(shape[:2], dtype=torch.bool),
        divergence=divergence,
        weighting=weighting,
    )
    assert result.loss.item() == 0
    assert gradient.shape == shape
    assert (gradient == 0).all()
    assert result.weight.shape == result.divergence.shape == result.raw_weight.shape == shape[:2]


@every_combination
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_where_student_equals_teacher_loss_and_gradient_are_exactly_zero(
    divergence: str, weighting: str, dtype: torch.dtype
) -> None:
    same = logits(15, 2, 5, 50, scale=5.0, dtype=dtype)
    result, gradient = run(same, same.clone(), ragged(5, 3, width=5), divergence=divergence, weighting=weighting)
    assert result.loss.item() == 0
    assert (gradient == 0).all()
    assert result.weight.isfinite().all()


@every_divergence
@pytest.mark.parametrize("weighting", ["dpsw", "student"])
def test_a_student_certain_of_the_teachers_choice_has_weight_and_loss_zero(divergence: str, weighting: str) -> None:
    student = torch.tensor([[[0.0, 900.0, 0.0], [900.0, 0.0, 0.0]], [[0.0, 1.0, 2.0], [0.0, 0.0, 1.0]]])
    teacher = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    result, gradient = run(student, teacher, ragged(2, 0, width=2), divergence=divergence, weighting=weighting)
    assert result.loss.item() == 0
    assert (result.weight == 0).all()
    assert (gradient == 0).all()
    # The sequence still counts in the mean: the other one's loss is halved.
    both, _ = run(student, teacher, ragged(2, 2, width=2), divergence=divergence, weighting=weighting)
    alone, _ = run(student[1:], teacher[1:], ragged(2, width=2), divergence=divergence, weighting=weighting)
    torch.testing.assert_close(both.loss, alone.loss / 2)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_a_zero_weight_times_an_infinite_divergence_is_zero_and_so_is_its_gradient(divergence: str) -> None:
    uniform, certain = [5.0, 5.0, -INF], [30.0, 0.0, 0.0]
    # With K = 2 the first position's teacher has no confidence, so its divergence, which is infinite, has no say.
    student = torch.tensor([[[-INF, 1.0, 0.0] if divergence == "forward_kl" else [1.0, 2.0, 0.0], [0.0, 1.0, 0.0]]])
    teacher = torch.tensor([[uniform, certain]])
    mask = ragged(2, width=2)
    result, gradient = run(student, teacher, mask, divergence=divergence, weighting="teacher", top_k=2)
    assert result.divergence[0, 0] == INF
    assert result.weight[0].tolist() == pytest.approx([0, 2])
    assert result.loss.isfinite()
    assert (gradient[0, 0] == 0).all()
    assert gradient[0, 1].isfinite().all()
    assert gradient[0, 1].abs().sum() > 0


@every_combination
def test_entries_that_are_minus_infinity_on_both_sides_are_as_if_removed(divergence: str, weighting: str) -> None:
    student, teacher = logits(16, 2, 3, 6), logits(17, 2, 3, 6)
    padding = torch.full((2, 3, 5), -INF, dtype=torch.float64)
    mask = ragged(3, 2, width=3)
    options: dict[str, Any] = {"divergence": divergence, "weighting": weighting, "top_k": 4}
    plain, expected = run(student, teacher, mask, **options)
    padded, gradient = run(torch.cat([student, padding], -1), torch.cat([teacher, padding], -1), mask, **options)
    torch.testing.assert_close(padded.loss, plain.loss)
    torch.testing.assert_close(gradient[..., :6], expected)
    assert (gradient[..., 6:] == 0).all()


@every_combination
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_give_finite_loss_and_gradient(divergence: str, weighting: str, dtype: torch.dtype) -> None:
    extremes = torch.tensor(list(itertools.product([-1e4, 0.0, 1e4], repeat=3)), dtype=dtype)
    student = extremes.repeat_interleave(len(extremes), 0)[None]
    teacher = extremes.repeat(len(extremes), 1)[None]
    result, gradient = run(
        student, teacher, torch.ones(student.shape[:2], dtype=torch.bool), divergence=divergence, weighting=weighting
    )
    assert result.loss.isfinite()
    assert gradient.isfinite().all()


@every_combination
def test_no_gradient_flows_to_the_teacher(divergence: str, weighting: str) -> None:
    student, teacher = logits(18, 2, 3, 6).requires_grad_(), logits(19, 2, 3, 6).requires_grad_()
    mask = ragged(3, 2, width=3)
    weighted_divergence(student, teacher, mask, divergence=divergence, weighting=weighting).loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@every_combination
def test_log_probabilities_do_as_well_as_logits(divergence: str, weighting: str) -> None:
    student, teacher, mask = logits(20, 2, 3, 6), logits(21, 2, 3, 6), ragged(3, 1, width=3)
    options: dict[str, Any] = {"divergence": divergence, "weighting": weighting, "temperature": 0.6}
    plain, _ = run(student, teacher, mask, **options)
    logs, _ = run(student.log_softmax(-1), teacher.log_softmax(-1), mask, **options)
    torch.testing.assert_close(logs.loss, plain.loss)


@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    vocabulary=st.integers(2, 7),
    seed=st.integers(0, 10**6),
    divergence=st.sampled_from(DIVERGENCES),
    weighting=st.sampled_from(WEIGHTINGS),
    top_k=st.integers(1, 9),
    temperature=st.floats(0.2, 4),
    beta=st.floats(0.02, 0.98),
    scale=st.floats(0.5, 6),
)
def test_any_shape_equals_the_oracles(
    lengths: list[int],
    vocabulary: int,
    seed: int,
    divergence: str,
    weighting: str,
    top_k: int,
    temperature: float,
    beta: float,
    scale: float,
) -> None:
    lengths = [*lengths, 1]  # at least one sequence counts
    student = logits(seed, len(lengths), 4, vocabulary, scale=scale)
    teacher = logits(seed + 1, len(lengths), 4, vocabulary, scale=scale)
    assert_equals_oracles(
        student,
        teacher,
        ragged(*lengths, width=4),
        divergence=divergence,
        weighting=weighting,
        top_k=top_k,
        temperature=temperature,
        beta=beta,
        rtol=1e-6,
        atol=1e-8,
    )


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 10**6))
def test_weights_have_mean_1_over_each_sequence_and_the_loss_is_the_mean_of_the_sequences(
    lengths: list[int], seed: int
) -> None:
    student, teacher = logits(seed, len(lengths), 5, 6), logits(seed + 1, len(lengths), 5, 6)
    result = weighted_divergence(student, teacher, ragged(*lengths, width=5))
    losses = []
    for i, length in enumerate(lengths):
        assert result.weight[i].sum().item() == pytest.approx(length)
        if length:
            losses.append((result.weight[i] * result.divergence[i]).sum().item() / length)
    assert result.loss.item() == pytest.approx(sum(losses) / len(losses) if losses else 0)
    assert ((result.raw_weight >= 0) & (result.raw_weight <= 1)).all()


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"logits must be \[batch, tokens, vocabulary\], not \(2, 3\)"):
        weighted_divergence(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2))
    with pytest.raises(ValueError, match=r"mask \(2, 4\) does not fit logits \(2, 3, 5\)"):
        weighted_divergence(torch.zeros(2, 3, 5), torch.zeros(2, 3, 5), torch.ones(2, 4))
    with pytest.raises(ValueError, match="differ in shape"):
        weighted_divergence(torch.zeros(2, 3, 5), torch.zeros(2, 3, 6), torch.ones(2, 3))
