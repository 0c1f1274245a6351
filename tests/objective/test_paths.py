"""`Objective` chooses between the fused and the reference path, and gives each every option."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from crosslign.objective import DIVERGENCES, WEIGHTINGS, Objective, weighted_divergence
from crosslign.objective.head import OutputHead, described

MASK = torch.tensor([[True, True, False], [True, False, False]])


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 9).double()


def hidden() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize(("divergence", "weighting"), list(itertools.product(DIVERGENCES, WEIGHTINGS)))
def test_both_paths_get_every_option(divergence: str, weighting: str) -> None:
    options: dict[str, Any] = {"divergence": divergence, "weighting": weighting, "temperature": 1.3, "beta": 0.2}
    options["top_k"] = 3
    student, teacher = hidden()
    head, other = OutputHead(linear(), softcap=2.0), OutputHead(nn.Linear(4, 9).double(), scale=0.5)
    expected = weighted_divergence(head(student), other(teacher), MASK, **options)
    (gradient,) = torch.autograd.grad(expected.loss, student)
    for path in ("fused", "reference"):
        result = Objective(**options, implementation=path)(student, teacher, head, other, MASK)  # type: ignore[arg-type]
        for name in ("loss", "divergence", "weight", "raw_weight"):
            torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(result.loss, student)[0], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_the_defaults_are_those_of_weighted_divergence(implementation: str) -> None:
    (student, teacher), head = hidden(), linear()
    result = Objective(implementation=implementation)(student, teacher, head, head, MASK)  # type: ignore[arg-type]
    torch.testing.assert_close(result.loss, weighted_divergence(head(student), head(teacher), MASK).loss)


def test_no_graph_is_recorded_for_the_teacher() -> None:
    head, recorded = linear(), []

    def watching(hidden: Tensor) -> Tensor:
        recorded.append(torch.is_grad_enabled())
        return head(hidden)

    Objective()(*hidden(), linear(), watching, MASK)
    assert recorded == [False]


def test_fused_is_the_default_and_makes_no_call_of_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutputHead, "__call__", lambda *_: pytest.fail("the head was called"))
    Objective()(*hidden(), OutputHead(linear()), OutputHead(linear()), MASK)


def test_an_unknown_option_is_an_error_before_anything_is_computed() -> None:
    with pytest.raises(ValueError, match="valid: fused, reference"):
        Objective(implementation="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="valid: dpsw, teacher, student, uniform"):
        Objective(weighting="safety")  # type: ignore[arg-type]


def lora() -> Any:
    model: Any = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), nn.Sequential(linear()))
    nn.init.normal_(model[0].lora_B["default"].weight)
    return OutputHead(model[0].double())


def hooked() -> OutputHead:
    layer = linear()
    layer.register_forward_hook(lambda module, inputs, output: output * 2)
    return OutputHead(layer)


class Quantised(nn.Linear):
    """A subclass may compute something else from its weight."""


@pytest.mark.parametrize("make", [lora, hooked, lambda: OutputHead(Quantised(4, 9).double()), lambda: linear().forward])
def test_a_head_that_cannot_be_taken_apart_takes_the_reference_path_and_warns_once(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    head = make()
    assert described(head) is None
    student, teacher = hidden()
    with caplog.at_level(logging.WARNING):
        objective = Objective()
        results = [objective(student, teacher, head, OutputHead(linear()), MASK) for _ in range(3)]
    assert len(caplog.records) == 1
    assert "is not a plain linear layer" in caplog.text
    expected = Objective(implementation="reference")(student, teacher, head, OutputHead(linear()), MASK)
    assert torch.equal(results[0].loss, expected.loss)
    assert len(caplog.records) == 1


def test_a_plain_layer_and_a_described_head_are_known() -> None:
    layer = linear()
    for head, after in ((layer, (1.0, None)), (OutputHead(layer, scale=2.0, softcap=30.0), (2.0, 30.0))):
        found = described(head)
        assert found is not None
        assert found.weight is layer.weight
        assert found.bias is layer.bias
        assert (found.scale, found.softcap) == after


@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("mask", [MASK, torch.tensor([[True, True, False], [False, False, False]])])
@pytest.mark.parametrize("sequences", [5, torch.tensor(5)])
def test_a_batch_that_is_part_of_more_is_divided_by_the_count_of_all(
    implementation: str, mask: Tensor, sequences: Tensor | int
) -> None:
    student, teacher = hidden()
    head, other, mask = linear(), linear(), mask
    objective = Objective(top_k=3, implementation=implementation)  # type: ignore[arg-type]
    own, part = (objective(student, teacher, head, other, mask, n) for n in (None, sequences))
    share = mask.any(-1).sum() / 5
    torch.testing.assert_close(part.loss, own.loss * share)
    leaves = student, head.weight, head.bias
    for a, b in zip(*(torch.autograd.grad(r.loss, leaves) for r in (part, own)), strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b * share)
