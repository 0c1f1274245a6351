"""`token_weight` and `normalise` against the oracle, and the properties that weights have."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import naive_weight, normalised, weight_at
from torch import Tensor

from crosslign.objective import WEIGHTINGS, normalise, token_weight
from crosslign.objective.weighting import teacher_choice, teacher_confidence

INF = math.inf
every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def logits(seed: int, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def oracle(weighting: str, student: Tensor, teacher: Tensor, top_k: int = 32, temperature: float = 1.0) -> Tensor:
    rows = zip(student.double().tolist(), teacher.double().tolist(), strict=True)
    return torch.tensor([weight_at(weighting, s, t, top_k, temperature) for s, t in rows], dtype=torch.float64)


@every_weighting
@pytest.mark.parametrize("top_k", [1, 2, 5, 9, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_weights_equal_the_oracle_and_are_constants_of_the_graph(
    weighting: str, top_k: int, temperature: float
) -> None:
    student, teacher = logits(1, 6, 9).requires_grad_(), logits(2, 6, 9).requires_grad_()
    ours = token_weight(student, teacher, weighting=weighting, top_k=top_k, temperature=temperature)
    assert not ours.requires_grad
    torch.testing.assert_close(ours, oracle(weighting, student, teacher, top_k, temperature), rtol=1e-10, atol=1e-12)


@every_weighting
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_of_narrow_logits_are_made_in_float32(weighting: str, dtype: torch.dtype) -> None:
    student, teacher = logits(3, 6, 9, dtype=dtype), logits(4, 6, 9, dtype=dtype)
    ours = token_weight(student, teacher, weighting=weighting, top_k=4)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), oracle(weighting, student, teacher, 4), rtol=1e-5, atol=1e-6)


@every_weighting
@pytest.mark.parametrize(("scale", "noise", "offset"), [(3.0, 1.0, 0.0), (10.0, 1e-2, 30.0), (20.0, 1e-3, -40.0)])
def test_float32_error_is_no_more_than_that_of_the_naive_float32_path(
    weighting: str, scale: float, noise: float, offset: float
) -> None:
    teacher = logits(5, 16, 300, scale=scale, dtype=torch.float32) + offset
    student = teacher + noise * logits(6, 16, 300, scale=1.0, dtype=torch.float32)
    exact = oracle(weighting, student, teacher, 32)
    ours = (token_weight(student, teacher, weighting=weighting, top_k=32) - exact).abs().max()
    naive = (naive_weight(weighting, student, teacher, 32) - exact).abs().nan_to_num(0).max()
    assert ours <= naive + 1e-6 * exact.max()


@pytest.mark.parametrize("gap", [5.0, 12.0, 20.0])
def test_the_weight_of_an_almost_certain_student_keeps_its_digits(gap: float) -> None:
    student = torch.tensor([[40.0 + gap, 40.0, 39.0]])
    exact = oracle("student", student, student)
    torch.testing.assert_close(token_weight(student, student, weighting="student").double(), exact, rtol=1e-5, atol=0)


def test_a_token_that_the_student_rules_out_has_full_disagreement() -> None:
    teacher, student = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[-INF, 1.0, 0.0]])
    assert token_weight(student, teacher, weighting="student").item() == 1


def test_the_teacher_choice_of_equal_maxima_is_the_lowest_id() -> None:
    teacher = torch.tensor([[0.0, 2.0, 2.0, 1.0, 2.0], [5.0] * 5, [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert teacher_choice(teacher).tolist() == [1, 0, 4]
    student = torch.tensor([[0.0, 9.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 9.0]])
    assert (token_weight(student, teacher, weighting="student") < 0.01).all()


def test_ties_are_decided_before_the_temperature_rounds_logits_together() -> None:
    one = torch.tensor(1.0)
    teacher = torch.stack([one, torch.nextafter(one, torch.tensor(2.0))])[None]  # equal after division by 1e4
    student = torch.tensor([[0.0, 30.0]])
    assert token_weight(student, teacher, weighting="student", temperature=1e4) < 0.5


@pytest.mark.parametrize("top_k", [2, 4, 100])
def test_a_uniform_teacher_has_no_confidence_and_a_certain_one_has_full(top_k: int) -> None:
    assert teacher_confidence(torch.zeros(1, 4), top_k).item() == pytest.approx(0, abs=1e-6)
    assert teacher_confidence(torch.tensor([[200.0, 0.0, 0.0, 0.0]]), top_k).item() == 1


def test_top_k_1_makes_every_teacher_confident() -> None:
    assert (teacher_confidence(logits(9, 5, 7), 1) == 1).all()


@given(
    tokens=st.integers(1, 4),
    vocabulary=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    top_k=st.integers(1, 12),
    scale=st.sampled_from([0.01, 1.0, 10.0, 300.0]),
    weighting=st.sampled_from(WEIGHTINGS),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_weights_lie_between_0_and_1_and_do_not_depend_on_order_or_a_constant(
    tokens: int, vocabulary: int, seed: int, top_k: int, scale: float, weighting: str, dtype: torch.dtype
) -> None:
    student = logits(seed, tokens, vocabulary, scale=scale, dtype=dtype)
    teacher = logits(seed + 1, tokens, vocabulary, scale=scale, dtype=dtype)
    weight = token_weight(student, teacher, weighting=weighting, top_k=top_k)
    assert ((weight >= 0) & (weight <= 1)).all()
    s, t = student.double(), teacher.double()
    plain = token_weight(s, t, weighting=weighting, top_k=top_k)
    shifted = token_weight(s + 7, t - 3, weighting=weighting, top_k=top_k)
    torch.testing.assert_close(shifted, plain, rtol=1e-6, atol=1e-8)
    tied = (t == t.amax(-1, keepdim=True)).sum(-1) > 1  # there y* depends on the order, by design
    order = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))
    permuted = token_weight(s[:, order], t[:, order], weighting=weighting, top_k=top_k)
    torch.testing.assert_close(permuted[~tied], plain[~tied])


@given(
    rows=st.lists(st.lists(st.one_of(st.none(), st.floats(1e-6, 1)), min_size=3, max_size=3), min_size=1, max_size=4)
)
def test_normalised_weights_have_mean_1_over_the_valid_tokens(rows: list[list[float | None]]) -> None:
    mask = torch.tensor([[w is not None for w in row] for row in rows])
    weight = torch.tensor([[math.nan if w is None else w for w in row] for row in rows], dtype=torch.float64)
    result = normalise(weight, mask)
    assert (result[~mask] == 0).all()
    for i, row in enumerate(rows):
        valid = [w for w in row if w is not None]
        torch.testing.assert_close(result[i][mask[i]], torch.tensor(normalised(valid), dtype=torch.float64))
        if valid:
            assert result[i][mask[i]].mean().item() == pytest.approx(1)


def test_weights_that_are_all_zero_stay_zero() -> None:
    result = normalise(torch.zeros(2, 3), torch.tensor([[True, True, False], [False, False, False]]))
    assert (result == 0).all()


def test_normalise_scales_each_sequence_on_its_own() -> None:
    result = normalise(torch.tensor([[0.1, 0.3], [0.001, 0.001]]), torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(result, torch.tensor([[0.5, 1.5], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "both"}, "weighting is 'both'; valid: dpsw, teacher, student, uniform"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_k": -3}, "top_k must be at least 1, not -3"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_weight(logits(1, 2, 3), logits(2, 2, 3), **options)  # type: ignore[arg-type]
