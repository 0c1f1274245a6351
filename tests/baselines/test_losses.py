"""Losses against the papers' equations, worked out in float64 from rewards, odds and probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosslign.baselines import losses

LOGS = st.floats(-40, -0.01)
RATIOS = st.floats(-30, 30)
BETAS = st.floats(0.01, 2)


def t(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float32)


def prefers(margin: float) -> float:
    """Bradley and Terry: probability that the first is preferred, if its reward is so much higher."""
    return 1 / (1 + math.exp(-margin))


def close(found: torch.Tensor, expected: float) -> None:
    assert found.shape == (1,)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(RATIOS, RATIOS, BETAS)
def test_dpo_is_the_surprise_at_the_preference(chosen: float, rejected: float, beta: float) -> None:
    close(losses.dpo(t(chosen), t(rejected), beta), -math.log(prefers(beta * chosen - beta * rejected)))


@given(RATIOS, RATIOS, BETAS, st.floats(0, 0.45))
def test_robust_dpo_is_unbiased_under_flipped_labels(
    chosen: float, rejected: float, beta: float, flipped: float
) -> None:
    right = losses.robust_dpo(t(chosen), t(rejected), beta, flipped).double()
    wrong = losses.robust_dpo(t(rejected), t(chosen), beta, flipped).double()
    expected = float(losses.dpo(t(chosen), t(rejected), beta))
    assert float((1 - flipped) * right + flipped * wrong) == pytest.approx(expected, rel=1e-3, abs=1e-3)


@given(RATIOS, RATIOS, BETAS, st.floats(0, 0.1), st.integers(1, 60), st.integers(1, 60))
def test_length_regularised_dpo_is_dpo_on_a_reward_with_a_price_for_tokens(
    chosen: float, rejected: float, beta: float, alpha: float, long: int, short: int
) -> None:
    rewards = beta * chosen + alpha * long, beta * rejected + alpha * short
    found = losses.length_regularised_dpo(t(chosen), t(rejected), t(long - short), beta, alpha)
    close(found, -math.log(prefers(rewards[0] - rewards[1])))


def test_of_a_chosen_answer_that_is_longer_less_is_learned() -> None:
    def slope(longer: float) -> float:
        chosen = t(0.0).requires_grad_()
        losses.length_regularised_dpo(chosen, t(0.0), t(longer), 0.1, 0.05).sum().backward()
        assert chosen.grad is not None
        return abs(float(chosen.grad))

    assert slope(40) < slope(0) < slope(-40)


@given(LOGS, LOGS, st.floats(0.01, 2))
def test_orpo_by_odds(chosen: float, rejected: float, weight: float) -> None:
    def odds(mean: float) -> float:
        return math.exp(mean) / -math.expm1(mean)

    expected = -chosen - weight * math.log(prefers(math.log(odds(chosen)) - math.log(odds(rejected))))
    close(losses.orpo(t(chosen), t(rejected), weight), expected)


def test_orpo_is_finite_where_an_answer_is_certain() -> None:
    chosen = t(0.0).requires_grad_()
    losses.orpo(chosen, t(-1.0), 0.1).sum().backward()
    assert chosen.grad is not None
    assert torch.isfinite(chosen.grad).all()


@given(LOGS, LOGS, BETAS, st.floats(0, 2))
def test_simpo_by_geometric_means(chosen: float, rejected: float, beta: float, margin: float) -> None:
    close(
        losses.simpo(t(chosen), t(rejected), beta, margin), -math.log(prefers(beta * chosen - beta * rejected - margin))
    )


@given(st.lists(st.tuples(RATIOS, RATIOS, RATIOS), min_size=1, max_size=5), BETAS)
def test_kto_by_its_value_function(rows: list[tuple[float, float, float]], beta: float) -> None:
    chosen, rejected, unrelated = torch.tensor(rows, dtype=torch.float32).T
    found = losses.kto(chosen, rejected, unrelated, beta, 1.5, 0.5)
    point = max(0.0, sum(row[2] for row in rows) / len(rows))
    for i, (good, bad, _) in enumerate(rows):
        value = 1.5 * prefers(beta * (good - point)) + 0.5 * prefers(beta * (point - bad))
        assert float(found[i]) == pytest.approx(1.5 + 0.5 - value, rel=1e-3, abs=1e-4)


def test_no_gradient_passes_ktos_reference_point() -> None:
    unrelated = t(2.0).requires_grad_()
    chosen = t(1.0).requires_grad_()
    losses.kto(chosen, t(0.5), unrelated, 0.1, 1, 1).sum().backward()
    assert unrelated.grad is None
    assert chosen.grad is not None


@pytest.mark.parametrize(
    ("gap", "source", "beta", "expected"), [(4, 1, 0.5, 1), (-2, 3, 1.5, 36), (0, -0.5, 2, 0.25), (1, 4, 1.5, 6.25)]
)
def test_the_reward_gap_worked_out_by_hand(gap: float, source: float, beta: float, expected: float) -> None:
    close(losses.reward_gap(t(gap), t(source), beta), expected)


@given(RATIOS, RATIOS, BETAS)
def test_the_reward_gap_is_least_where_the_gaps_agree(gap: float, source: float, beta: float) -> None:
    least = float(losses.reward_gap(t(source / beta), t(source), beta))
    assert least == pytest.approx(0, abs=1e-3)
    assert float(losses.reward_gap(t(gap), t(source), beta)) >= least - 1e-3


def test_retention_is_a_mean_over_everything_but_the_examples() -> None:
    torch.manual_seed(0)
    states, frozen = torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    expected = [
        sum((a - b) ** 2 for a, b in zip(s.flatten(), f.flatten(), strict=True)) / 16
        for s, f in zip(states, frozen, strict=True)
    ]
    torch.testing.assert_close(losses.retention(states, frozen), torch.stack(expected))


@pytest.mark.parametrize("name", ["dpo", "simpo", "orpo", "kto"])
def test_every_loss_pushes_the_chosen_answer_up_and_the_rejected_one_down(name: str) -> None:
    chosen, rejected = t(-2.0).requires_grad_(), t(-1.5).requires_grad_()
    made = {
        "dpo": lambda: losses.dpo(chosen, rejected, 0.1),
        "simpo": lambda: losses.simpo(chosen, rejected, 2, 1),
        "orpo": lambda: losses.orpo(chosen, rejected, 0.1),
        "kto": lambda: losses.kto(chosen, rejected, t(0.1), 0.1, 1, 1),
    }[name]()
    made.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert float(chosen.grad) < 0 < float(rejected.grad)
