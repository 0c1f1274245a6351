"""`Objective` from hidden states and heads equals `weighted_divergence` on the projected logits."""

from __future__ import annotations

import itertools

import pytest
import torch

from crosslign.objective import DIVERGENCES, WEIGHTINGS, Objective, weighted_divergence

MASK = torch.tensor([[True, True, False], [True, False, False]])


def heads() -> tuple[torch.nn.Linear, torch.nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(4, 9).double(), torch.nn.Linear(4, 9).double()
    hidden = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    return student, teacher, hidden[0].clone().requires_grad_(), hidden[1].clone().requires_grad_()


@pytest.mark.parametrize(("divergence", "weighting"), list(itertools.product(DIVERGENCES, WEIGHTINGS)))
def test_objective_equals_weighted_divergence_on_projected_logits(divergence: str, weighting: str) -> None:
    options = {"divergence": divergence, "weighting": weighting, "top_k": 3, "temperature": 1.3, "beta": 0.2}
    reference = Objective(**options, implementation="reference")  # type: ignore[arg-type]
    student, teacher, student_hidden, teacher_hidden = heads()
    result = reference(student_hidden, teacher_hidden, student, teacher, MASK)
    result.loss.backward()
    gradients = [student_hidden.grad, student.weight.grad]
    assert teacher_hidden.grad is None
    assert teacher.weight.grad is None

    student, teacher, student_hidden, teacher_hidden = heads()
    expected = weighted_divergence(
        student(student_hidden),
        teacher(teacher_hidden),
        MASK,
        **options,  # type: ignore[arg-type]
    )
    expected.loss.backward()
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.weight, expected.weight)
    assert torch.equal(result.divergence, expected.divergence)
    assert torch.equal(result.raw_weight, expected.raw_weight)
    for ours, theirs in zip(gradients, [student_hidden.grad, student.weight.grad], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_defaults_are_those_of_weighted_divergence() -> None:
    student, teacher, student_hidden, teacher_hidden = heads()
    result = Objective(implementation="reference")(student_hidden, teacher_hidden, student, teacher, MASK)
    assert torch.equal(result.loss, weighted_divergence(student(student_hidden), teacher(teacher_hidden), MASK).loss)


def test_no_graph_is_recorded_for_the_teacher() -> None:
    student, teacher, student_hidden, teacher_hidden = heads()
    recorded = []

    def watching(hidden: torch.Tensor) -> torch.Tensor:
        recorded.append(torch.is_grad_enabled())
        return teacher(hidden)

    Objective()(student_hidden, teacher_hidden, student, watching, MASK)
    assert recorded == [False]
