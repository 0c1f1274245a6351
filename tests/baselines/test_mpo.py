"""Reward gaps against transformers' own losses and hidden states, one answer at a time; likelihoods likewise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, tiny_llama
from helpers import metrics, run
from probe_script import HELP, REFUSAL, SWAHILI_HELP, SWAHILI_REFUSAL, contrasted, scripted
from test_methods import brief
from transformers import AutoModelForCausalLM

from crosslign.baselines import Answer
from crosslign.baselines.likelihood import likelihoods, token_log_probs
from crosslign.models import split_model
from crosslign.models.passes.batching import Batching
from crosslign.types import CrosslignError


def alone(model: Any, answer: dict[str, list[int]]) -> tuple[float, torch.Tensor]:
    """Mean log-probability of one answer, and the mean of the last hidden states that predict it."""
    prompt, completion = answer["prompt"], answer["completion"]
    ids = torch.tensor([prompt + completion])
    labels = torch.tensor([[-100] * len(prompt) + completion])
    with torch.no_grad():
        out = model(input_ids=ids, labels=labels, output_hidden_states=True)
    return -float(out.loss), out.hidden_states[-1][0, len(prompt) - 1 : -1].mean(0)


def test_likelihoods_are_transformers_own() -> None:
    model = tiny_llama()
    answers = [Answer((1, 5, 9), (7, 8, 0)), Answer((4,), (3,)), Answer((9, 9), tuple(range(20, 40)))]
    with torch.no_grad():
        found = likelihoods(model, split_model(model), Batching.of(model, 0), answers, states=True)
    for i, answer in enumerate(answers):
        mean, state = alone(model, {"prompt": list(answer.prompt), "completion": list(answer.completion)})
        assert float(found.log_probs[i]) == pytest.approx(mean * len(answer.completion), rel=1e-4)
        assert found.states is not None
        torch.testing.assert_close(found.states[i], state, rtol=1e-4, atol=1e-5)


def test_chunks_change_neither_value_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, VOCABULARY, bias=False)
    ids = torch.randint(VOCABULARY, (21,))
    made = []
    for most in (1000, 8):
        monkeypatch.setattr("crosslign.baselines.likelihood.tokens_in_budget", lambda *_, most=most: most)
        torch.manual_seed(1)
        hidden = torch.randn(21, 8, requires_grad=True)
        head.zero_grad()
        values = token_log_probs(hidden, head, ids, VOCABULARY)
        (values * torch.arange(21)).sum().backward()
        made.append((values.detach(), hidden.grad, head.weight.grad))
    for whole, chunked in zip(*made, strict=True):
        torch.testing.assert_close(chunked, whole)


@pytest.mark.parametrize("said", ["", "the same"])
def test_pairs_that_cannot_be_said_in_the_source_language_are_left_out(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    """If it is so with all of a label in a language, the run stops."""
    raw = brief(recipe, "mpo", steps=1)
    scripted(monkeypatch, contrasted).again = lambda *_: said
    with pytest.raises(CrosslignError, match="no pair is left in sw benign, sw harmful: said again in en"):
        run(raw)
    scripted(monkeypatch, contrasted).again = lambda answer, number: said if number < 6 else answer
    rows = (run({**raw, "output_dir": f"{raw['output_dir']}-2"}) / "examples.jsonl").read_text(encoding="utf-8")
    numbers = {int(json.loads(line)["id"].removeprefix("row-")) for line in rows.splitlines()}
    assert numbers
    assert min(numbers) >= 6
    assert "pairs are left out (sw benign 3 of 6, sw harmful 3 of 6): said again in en" in caplog.text


def test_the_source_language_is_kept_and_its_own_queries_are_no_examples(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_english = {SWAHILI_REFUSAL: REFUSAL, SWAHILI_HELP: HELP}  # it has pairs too

    def say(kind: str, language: str, number: int) -> str:
        said = contrasted(kind, language, number)
        return in_english[said] if language == "en" else said

    scripted(monkeypatch, say)
    raw = brief(recipe, "mpo", steps=1)
    raw["data"] = {**raw["data"], "languages": ["sw", "en"]}
    rows = (run(raw) / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["language"] for line in rows} == {"sw"}
    other = {**raw, "method": {"name": "dpo"}, "output_dir": f"{raw['output_dir']}-2"}
    rows = (run(other) / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["language"] for line in rows} == {"sw", "en"}
    only = {**raw, "data": {**raw["data"], "languages": ["en"]}, "output_dir": f"{raw['output_dir']}-3"}
    with pytest.raises(CrosslignError, match="'mpo' has found nothing to learn from"):
        run(only)


def test_the_loss_is_that_of_an_independent_computation(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    """Two steps, so that the second one's student is not the frozen model: `retention` is then not 0."""
    scripted(monkeypatch, contrasted)
    raw = brief(recipe, "mpo", steps=2, save_steps=1, per_device_train_batch_size=2, learning_rate=0.01)
    raw["method"] = {"name": "mpo", "options": {"beta": 0.7, "retention": 3.0}}
    raw["data"]["epoch_size"] = 2  # each step has the same two queries
    folder = run(raw)
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {len(row["answers"]) for row in rows} == {4}
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    from peft import PeftModel

    from crosslign.runs.prepare import prepare
    from crosslign.runs.recipe import parse_config

    student = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), folder / "checkpoint-1")
    losses = {}
    for row in rows:
        gap = alone(student, row["answers"][0])[0] - alone(student, row["answers"][1])[0]
        source = [alone(base, answer) for answer in row["answers"][2:]]
        now = [alone(student, answer) for answer in row["answers"][2:]]
        kept = torch.stack([(a[1] - b[1]) ** 2 for a, b in zip(now, source, strict=True)]).mean()
        assert float(kept) > 0
        losses[row["id"]] = (0.7 * gap - (source[0][0] - source[1][0])) ** 2 + 3.0 * float(kept)
    mixture = prepare(parse_config(raw), check_folder=False).mixture
    assert len(rows) == 12
    # Which two queries a step has is the mixture's affair, without those that have no pair.
    from crosslign.runs.prepare import without

    prepared = prepare(parse_config(raw), check_folder=False)
    gone = [q.key for cell in mixture.cells for q in cell if q.id not in losses]
    mixture = without(prepared, gone).mixture
    expected = sum(losses[mixture.draw(1, position).id] for position in range(2)) / 2
    assert metrics(folder)[1]["loss"] == pytest.approx(expected, rel=2e-3)
