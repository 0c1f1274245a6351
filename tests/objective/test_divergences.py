"""`token_divergence` against an oracle in plain Python, and the properties that any divergence has."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import divergence_at, naive_divergence
from torch import Tensor

from crosslign.objective import DIVERGENCES, token_divergence

INF = math.inf
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)


def logits(seed: int, *shape: int, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def oracle(divergence: str, student: Tensor, teacher: Tensor, temperature: float = 1.0, beta: float = 0.5) -> Tensor:
    rows = zip(student.flatten(0, -2).tolist(), teacher.flatten(0, -2).tolist(), strict=True)
    values = [divergence_at(divergence, s, t, temperature, beta) for s, t in rows]
    return torch.tensor(values, dtype=torch.float64).view(student.shape[:-1])


def gradient(divergence: str, student: Tensor, teacher: Tensor, **options: float) -> Tensor:
    student = student.clone().requires_grad_()
    token_divergence(student, teacher, divergence=divergence, **options).sum().backward()
    assert student.grad is not None
    return student.grad


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    tokens, vocabulary = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    scale, seed = draw(st.sampled_from([0.01, 1.0, 8.0, 60.0])), draw(st.integers(0, 10**6))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return (
        logits(seed, tokens, vocabulary, scale=scale, dtype=dtype),
        logits(seed + 1, tokens, vocabulary, scale=scale, dtype=dtype),
    )


@every_divergence
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("beta", [0.5, 0.1, 0.99])
def test_value_and_gradient_equal_the_oracles(divergence: str, temperature: float, beta: float) -> None:
    student, teacher = logits(1, 2, 3, 7), logits(2, 2, 3, 7)
    ours = token_divergence(student, teacher, divergence=divergence, temperature=temperature, beta=beta)
    theirs = oracle(divergence, student, teacher, temperature, beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    leaf = student.clone().requires_grad_()
    naive_divergence(divergence, leaf, teacher, temperature, beta).sum().backward()
    ours_gradient = gradient(divergence, student, teacher, temperature=temperature, beta=beta)
    torch.testing.assert_close(ours_gradient, leaf.grad, rtol=1e-9, atol=1e-12)


@every_divergence
def test_gradcheck_in_float64(divergence: str) -> None:
    student, teacher = logits(3, 2, 5).requires_grad_(), logits(4, 2, 5)

    def function(s: Tensor) -> Tensor:
        return token_divergence(s, teacher, divergence=divergence, temperature=1.7, beta=0.3)

    assert torch.autograd.gradcheck(function, (student,))


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradient_is_exactly_zero_where_student_equals_teacher(
    divergence: str, dtype: torch.dtype, temperature: float
) -> None:
    same = logits(5, 8, 300, scale=6.0, dtype=dtype)
    for beta in (0.5, 0.13):
        assert (gradient(divergence, same, same, temperature=temperature, beta=beta) == 0).all()
        value = token_divergence(same, same, divergence=divergence, temperature=temperature, beta=beta)
        assert (value == 0).all()


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_logits_are_compared_in_float32_and_get_gradients_of_their_own_type(
    divergence: str, dtype: torch.dtype
) -> None:
    student, teacher = logits(6, 4, 11, dtype=dtype), logits(7, 4, 11, dtype=dtype)
    value = token_divergence(student, teacher, divergence=divergence)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), oracle(divergence, student, teacher), rtol=1e-5, atol=1e-6)
    ours = gradient(divergence, student, teacher)
    assert ours.dtype == dtype
    theirs = gradient(divergence, student.double(), teacher.double())
    torch.testing.assert_close(ours, theirs.to(dtype), rtol=max(2 * torch.finfo(dtype).eps, 1e-5), atol=1e-6)


@every_divergence
@pytest.mark.parametrize(("scale", "noise"), [(3.0, 1.0), (10.0, 1e-2), (30.0, 1e-3)])
def test_float32_error_is_no_more_than_that_of_the_naive_float32_path(
    divergence: str, scale: float, noise: float
) -> None:
    teacher = logits(8, 6, 400, scale=scale, dtype=torch.float32)
    student = teacher + noise * logits(9, 6, 400, scale=1.0, dtype=torch.float32)
    exact = oracle(divergence, student, teacher)
    ours = (token_divergence(student, teacher, divergence=divergence) - exact).abs().max()
    naive = (naive_divergence(divergence, student, teacher) - exact).abs().nan_to_num(0).max()
    rounding = 1e-7  # of log-probabilities near 0; both paths have it
    assert ours <= naive + 1e-6 * exact.abs().max() + rounding


def test_jsd_keeps_its_digits_where_the_student_has_almost_reached_the_teacher() -> None:
    teacher = logits(8, 6, 400, scale=3.0, dtype=torch.float32)
    student = teacher + 1e-3 * logits(9, 6, 400, scale=1.0, dtype=torch.float32)
    for beta in (0.2, 0.5):
        exact = oracle("jsd", student, teacher, beta=beta)
        assert (exact < 1e-6).all()
        ours = token_divergence(student, teacher, divergence="jsd", beta=beta)
        torch.testing.assert_close(ours.double(), exact, rtol=1e-2, atol=0)


@every_divergence
def test_an_entry_that_only_the_student_rules_out_is_handled_as_the_equations_say(divergence: str) -> None:
    student, teacher = logits(12, 3, 6), logits(13, 3, 6)
    student[:, 2] = -INF
    value = token_divergence(student, teacher, divergence=divergence, beta=0.3)
    if divergence == "forward_kl":
        assert (value == INF).all()
    else:
        torch.testing.assert_close(value, oracle(divergence, student, teacher, beta=0.3))
    # The gradient is that of a student who all but rules the entry out.
    nearly = student.clone()
    nearly[:, 2] = -200.0
    ours = gradient(divergence, student, teacher, beta=0.3)
    torch.testing.assert_close(ours, gradient(divergence, nearly, teacher, beta=0.3))


@every_divergence
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_give_finite_values_and_gradients(divergence: str, dtype: torch.dtype) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]], dtype=dtype)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, -1e4], [-1e4, -1e4, 1e4]], dtype=dtype)
    value = token_divergence(student, teacher, divergence=divergence)
    assert value.isfinite().all()
    assert gradient(divergence, student, teacher).isfinite().all()
    torch.testing.assert_close(value.double(), oracle(divergence, student, teacher), rtol=1e-5, atol=1e-6)


@every_divergence
def test_backward_scales_the_gradient_of_each_position_and_gives_the_teacher_none(divergence: str) -> None:
    student, teacher = logits(16, 3, 5).requires_grad_(), logits(17, 3, 5).requires_grad_()
    factor = torch.tensor([2.0, 0.0, -0.5], dtype=torch.float64)
    (token_divergence(student, teacher, divergence=divergence) * factor).sum().backward()
    expected = gradient(divergence, student.detach(), teacher) * factor[:, None]
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


@every_divergence
def test_no_position_at_all_gives_an_empty_result(divergence: str) -> None:
    student = torch.zeros(0, 7, requires_grad=True)
    value = token_divergence(student, torch.zeros(0, 7), divergence=divergence)
    assert value.shape == (0,)
    value.sum().backward()
    assert student.grad is not None
    assert student.grad.shape == (0, 7)


@given(pair=pairs(), beta=st.floats(0.01, 0.99))
def test_divergences_are_not_negative(pair: tuple[Tensor, Tensor], beta: float) -> None:
    for divergence in DIVERGENCES:
        assert (token_divergence(*pair, divergence=divergence, beta=beta) >= -1e-6).all()


@given(pair=pairs())
def test_reverse_kl_is_forward_kl_with_the_sides_swapped(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    torch.testing.assert_close(
        token_divergence(p, q, divergence="reverse_kl"), token_divergence(q, p, divergence="forward_kl")
    )


@given(pair=pairs(), beta=st.floats(0.01, 0.99))
def test_jsd_is_symmetric_if_beta_is_swapped_too(pair: tuple[Tensor, Tensor], beta: float) -> None:
    p, q = pair
    torch.testing.assert_close(
        token_divergence(p, q, divergence="jsd", beta=beta),
        token_divergence(q, p, divergence="jsd", beta=1 - beta),
        rtol=1e-4,
        atol=1e-6,
    )


@given(pair=pairs(), beta=st.floats(0.01, 0.99))
def test_jsd_is_at_most_the_entropy_of_the_mixture_weights(pair: tuple[Tensor, Tensor], beta: float) -> None:
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert (token_divergence(*pair, divergence="jsd", beta=beta) <= bound + 1e-6).all()
    assert (token_divergence(*pair, divergence="jsd", beta=0.5) <= math.log(2) + 1e-6).all()


def test_jsd_of_disjoint_distributions_is_the_bound() -> None:
    p, q = torch.tensor([[100.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 100.0]], dtype=torch.float64)
    assert token_divergence(p, q, divergence="jsd").item() == pytest.approx(math.log(2))


@given(pair=pairs(), shift=st.floats(-50, 50))
def test_adding_a_constant_to_the_logits_changes_nothing(pair: tuple[Tensor, Tensor], shift: float) -> None:
    p, q = pair[0].double(), pair[1].double()
    for divergence in DIVERGENCES:
        torch.testing.assert_close(
            token_divergence(p + shift, q - shift, divergence=divergence, beta=0.3),
            token_divergence(p, q, divergence=divergence, beta=0.3),
            rtol=1e-8,
            atol=1e-10,
        )


@given(pair=pairs(), seed=st.integers(0, 1000))
def test_the_order_of_the_vocabulary_does_not_matter(pair: tuple[Tensor, Tensor], seed: int) -> None:
    p, q = pair[0].double(), pair[1].double()
    order = torch.randperm(p.shape[-1], generator=torch.Generator().manual_seed(seed))
    for divergence in DIVERGENCES:
        permuted = token_divergence(p[:, order], q[:, order], divergence=divergence)
        torch.testing.assert_close(permuted, token_divergence(p, q, divergence=divergence))
        torch.testing.assert_close(gradient(divergence, p[:, order], q[:, order]), gradient(divergence, p, q)[:, order])


@given(pair=pairs())
def test_the_gradient_sums_to_zero_over_the_vocabulary(pair: tuple[Tensor, Tensor]) -> None:
    for divergence in DIVERGENCES:
        total = gradient(divergence, pair[0].double(), pair[1].double()).sum(-1)
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "divergence is 'kl'; valid: reverse_kl, forward_kl, jsd"),
        ({"temperature": 0.0}, "temperature must be positive and finite, not 0.0"),
        ({"temperature": -1.0}, "temperature must be positive and finite, not -1.0"),
        ({"temperature": math.nan}, "temperature must be positive and finite, not nan"),
        ({"temperature": math.inf}, "temperature must be positive and finite, not inf"),
        ({"divergence": "jsd", "beta": 0.0}, "beta must lie strictly between 0 and 1, not 0.0"),
        ({"divergence": "jsd", "beta": 1.0}, "beta must lie strictly between 0 and 1, not 1.0"),
        ({"divergence": "jsd", "beta": math.nan}, "beta must lie strictly between 0 and 1, not nan"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_divergence(logits(1, 2, 3), logits(2, 2, 3), **options)  # type: ignore[arg-type]


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"differ in shape: \(2, 3\), \(2, 4\)"):
        token_divergence(torch.zeros(2, 3), torch.zeros(2, 4))
