"""A surer teacher: its logits divided, the student's not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import Biased
from conftest import tiny_llama
from helpers import no_weights
from torch import nn

from crosslign.distillation import Scorer
from crosslign.models import FrozenTeacher, load_model, split_model
from crosslign.objective import Objective
from crosslign.runs.build import assemble
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import CrosslignError, Rollout


def rollouts_of(recipe: dict[str, Any], **teacher: Any) -> tuple[Any, list[Rollout]]:
    """The objects of a run in Swahili and in English, which is left unchanged, and some of its rollouts: of harmful and
    benign queries."""
    recipe["teacher"] = {**recipe["teacher"], "unchanged": ["source"], **teacher}
    recipe["data"] = {**recipe["data"], "languages": ["sw", "en"]}
    recipe["objective"] = {"weighting": "uniform"}
    run = prepare(parse_config(recipe), check_folder=False)
    made = assemble(run, load_model(run.source))
    return made, made.collector.collect([run.mixture.draw(0, position) for position in range(4)], 0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_divergence_is_that_from_the_teachers_divided_logits(recipe: dict[str, Any], temperature: float) -> None:
    made, rollouts = rollouts_of(recipe, temperature=temperature)
    with torch.no_grad():
        result, mask = made.scorer(made.student, rollouts)
        for row, rollout in enumerate(rollouts):
            tokens = list(rollout.completion.token_ids)
            changed = rollout.query.language == "sw"
            sharpened = rollout.query.label != "benign"
            log_p, log_q = (
                (
                    made.student(torch.tensor([[*context.token_ids, *tokens]])).logits[
                        0, len(context.token_ids) - 1 : -1
                    ]
                    / t
                )
                .float()
                .log_softmax(-1)
                for context, t in (
                    (rollout.student_context, 1.0),
                    (rollout.teacher_context, temperature if sharpened else 1.0),
                )
            )
            wanted = (log_p.exp() * (log_p - log_q)).sum(-1)  # the adapter is new, so the student is the teacher too
            torch.testing.assert_close(result.divergence[row][mask[row]], wanted, rtol=1e-3, atol=1e-5)
            assert (wanted.abs().max() > 1e-3) == (changed or sharpened)
    assert {r.query.language for r in rollouts} == {"sw", "en"}
    assert {(r.query.language, r.query.label) for r in rollouts} >= {
        ("sw", "harmful"),
        ("sw", "benign"),
        ("en", "harmful"),
    }


def test_it_is_one_unless_asked_for(recipe: dict[str, Any]) -> None:
    made, rollouts = rollouts_of(recipe)
    asked, _ = rollouts_of(recipe, temperature=1.0)
    with torch.no_grad():
        assert torch.equal(made.scorer(made.student, rollouts)[0].loss, asked.scorer(asked.student, rollouts)[0].loss)


def test_an_output_layer_with_a_cap_is_refused_before_weights_are_loaded(
    recipe: dict[str, Any], capped_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_weights(monkeypatch)
    recipe["model"] = {**recipe["model"], "path": str(capped_model)}
    prepare(parse_config(recipe), check_folder=False)
    recipe["teacher"] = {**recipe["teacher"], "temperature": 0.5}
    with pytest.raises(CrosslignError, match=r"teacher\.temperature must be 1 here"):
        prepare(parse_config(recipe), check_folder=False)


def test_full_logits_in_place_of_states_are_divided(recipe: dict[str, Any]) -> None:
    """A model that cannot be split into body and head: its states are its logits."""
    torch.manual_seed(0)
    model = Biased(tiny_llama().config).eval()
    scorer = Scorer(model, FrozenTeacher(model), split_model(model), Objective(weighting="uniform"), 0, 0.5)
    assert not scorer.split.exact
    rollout = next(r for r in rollouts_of(recipe)[1] if r.query.language == "sw")
    with torch.no_grad():
        result, mask = scorer(model, [rollout])
        tokens = list(rollout.completion.token_ids)
        log_p, log_q = (
            (model(torch.tensor([[*context.token_ids, *tokens]])).logits[0, len(context.token_ids) - 1 : -1] / t)
            .float()
            .log_softmax(-1)
            for context, t in ((rollout.student_context, 1.0), (rollout.teacher_context, 0.5))
        )
    torch.testing.assert_close(
        result.divergence[0][mask[0]], (log_p.exp() * (log_p - log_q)).sum(-1), rtol=1e-3, atol=1e-5
    )


def test_an_output_layer_with_a_bias_is_refused() -> None:
    model = tiny_llama()
    model.lm_head.bias = nn.Parameter(torch.ones(model.config.vocab_size))
    make = (model, FrozenTeacher(model), split_model(model), Objective(), 0)
    Scorer(*make)
    with pytest.raises(CrosslignError, match=r"teacher\.temperature must be 1 here"):
        Scorer(*make, teacher_temperature=0.5)
