"""The contract of every method, ours and a user's: it changes the student alone, and leaves the run's usual folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import interrupted_after, metrics, no_weights, run
from probe_script import SWAHILI_REFUSAL, contrasted, scripted, scripted_recipe
from safetensors.torch import load_file

from crosslign import baselines
from crosslign.baselines import Method
from crosslign.registry import Registry
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import CrosslignError

ALL = baselines.available()
# One of each kind; the others differ from these in their loss, which has tests of its own.
FAST = ("msd", "sft", "dpo", "mpo", "self_defence")


def brief(recipe: dict[str, Any], name: str, steps: int = 1, **training: Any) -> dict[str, Any]:
    """A run of a few steps in Swahili, whose student and teacher answer from a script."""
    raw = scripted_recipe(recipe, method={"name": name}, data={**recipe["data"], "languages": ["sw"]})
    more = {"max_steps": steps, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 4, **training}
    return {**raw, "training": {**recipe["training"], **more}}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ALL)
def test_a_method_is_one(name: str) -> None:
    method = baselines.get(name)
    assert isinstance(method, Method)
    assert name == "msd" or method.about


def test_an_answer_that_comes_out_empty_in_the_language_is_no_example(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted(monkeypatch, contrasted).again = lambda answer, number: "" if number < 6 else answer
    rows = (run(brief(recipe, "sft_source")) / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(row)["id"] for row in rows} == {f"row-{i}" for i in range(6, 12)}
    assert "answers are left out (sw 6 of 12): said again in the query's language, they are empty" in caplog.text


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in ALL])
def test_one_step_changes_the_student_and_leaves_the_usual_folder(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    scripted(monkeypatch, contrasted)
    # Saving fails if the frozen teacher has moved.
    folder = run(brief(recipe, name, save_steps=1, learning_rate=0.01))
    assert any(tensor.abs().max() > 0 for key, tensor in adapter(folder).items() if "lora_B" in key)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["steps"], record["method"]["name"]) == ("finished", 1, name)
    (row,) = metrics(folder)
    assert {"loss", "grad_norm", "tokens"} < row.keys()
    assert "loss/sw" in row
    card = (folder / "README.md").read_text(encoding="utf-8")
    about = baselines.get(name).about
    assert (f"A baseline: {about}. The teacher" in card) == (name != "msd") == ("\n- self-distillation\n" not in card)
    assert {"config.yaml", "checkpoint-1"} < {path.name for path in folder.iterdir()}


def test_supervised_learning_is_transformers_own_loss_on_the_teachers_answers(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tokenizer: Any, model_folder: Path
) -> None:
    from transformers import AutoModelForCausalLM

    scripted(monkeypatch, contrasted)
    folder = run(brief(recipe, "sft", per_device_train_batch_size=2, gradient_accumulation_steps=2))
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    told = {row["id"]: row["answers"][0]["text"] for row in rows}
    assert len(rows) == len(told) == 12
    assert told["row-1"] == told["row-4"] == SWAHILI_REFUSAL != told["row-2"]
    prepared = prepare(parse_config(brief(recipe, "sft")), check_folder=False)
    window = [prepared.mixture.draw(0, position) for position in range(4)]
    chosen = [row for query in window for row in rows if row["id"] == query.id]
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    total = tokens = 0.0
    for row in chosen:
        (answer,) = row["answers"]
        ids = torch.tensor([answer["prompt"] + answer["completion"]])
        labels = torch.tensor([[-100] * len(answer["prompt"]) + answer["completion"]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss
        total, tokens = total + float(loss) * len(answer["completion"]), tokens + len(answer["completion"])
    assert metrics(folder)[0]["loss"] == pytest.approx(total / tokens, rel=1e-4)


def test_accumulation_does_not_change_the_step(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, contrasted)
    made = []
    for batch, accumulation in ((4, 1), (1, 4)):
        raw = brief(recipe, "sft", per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
        made.append(adapter(run({**raw, "output_dir": f"{recipe['output_dir']}-{batch}"})))
    for key, tensor in made[0].items():
        torch.testing.assert_close(tensor, made[1][key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script = scripted(monkeypatch, contrasted)
    raw = brief(recipe, name, steps=3, save_steps=1)
    whole = run({**raw, "output_dir": f"{recipe['output_dir']}-whole"})
    with interrupted_after(2, RuntimeError("power cut")), pytest.raises(RuntimeError, match="power cut"):
        run(raw)
    asked = len(script.asked)
    part = run(raw, resume=True)
    assert len(script.asked) == asked  # the answers are those of examples.jsonl
    assert metrics(part)[-1]["loss"] == metrics(whole)[-1]["loss"]
    for key, tensor in adapter(whole).items():
        assert torch.equal(tensor, adapter(part)[key]), key


def test_a_run_does_not_go_on_with_examples_that_somebody_has_changed(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, contrasted)
    raw = brief(recipe, "sft", steps=3, save_steps=1)
    with interrupted_after(2, RuntimeError("power cut")), pytest.raises(RuntimeError):
        run(raw)
    place = Path(raw["output_dir"]) / "examples.jsonl"
    place.write_text(place.read_text(encoding="utf-8").replace("row-1", "row-2", 1), encoding="utf-8")
    with pytest.raises(CrosslignError, match=r"examples\.jsonl: is not as run\.json says .* --overwrite"):
        run(raw, resume=True)


def test_rows_that_the_gate_drops_are_not_learnt(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, contrasted)
    folder = run({**brief(recipe, "sft"), "gate": {"min_flip_rate": 0.2, "drop": ["refused"]}})
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["id"] for row in rows} == {f"row-{i}" for i in range(12)} - {"row-4"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("dppo", r"unknown method 'dppo'\. Did you mean 'r?dpo'\?"),
        ({"name": "sft", "options": {"beta": 1}}, r"method 'sft' takes no option 'beta'"),
        (
            {"name": "dpo", "options": {"beta": 0}},
            r"method 'dpo': beta must be a number above 0 to below 1e\+06, not 0",
        ),
        ({"name": "rdpo", "options": {"flipped": 0.5}}, r"flipped must be a number from 0 to below 0\.5, not 0\.5"),
        ({"name": "mpo", "options": {"retention": "much"}}, r"retention must be a number from 0 .*, not 'much'"),
    ],
)
def test_a_method_that_is_not_there_is_told_before_weights(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, method: Any, message: str
) -> None:
    no_weights(monkeypatch)
    with pytest.raises(CrosslignError, match=message):
        run({**recipe, "method": method})


class _Entry:
    name, value = "mine", "my_package:Mine"

    def load(self) -> Any:
        raise ModuleNotFoundError("No module named 'trl'")


def test_a_method_without_its_package_is_told_before_weights(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_weights(monkeypatch)
    monkeypatch.setattr("crosslign.registry.entry_points", lambda group: [_Entry()] if "methods" in group else [])
    with pytest.raises(CrosslignError, match=r"method 'mine' \(my_package:Mine\) could not be imported: .*'trl'"):
        run({**recipe, "method": "mine"})


def test_a_users_method_joins_by_an_entry_point(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from crosslign.baselines import ExampleMethod
    from crosslign.baselines.supervised import TeachersAnswers

    class Half(TeachersAnswers):
        """A user's: supervised learning on harmless queries alone."""

        about = "half of it"

        def examples(self, material: Any) -> Any:
            return [example for example in super().examples(material) if example.query.label == "benign"]

    assert issubclass(Half, ExampleMethod)
    scripted(monkeypatch, contrasted)
    entry = type("Entry", (), {"name": "half", "value": "x:y", "load": lambda self: Half})()
    monkeypatch.setattr("crosslign.registry.entry_points", lambda group: [entry] if "methods" in group else [])
    assert "half" in Registry("method", "crosslign.methods").names()
    folder = run(brief(recipe, "half"))
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["method"]["examples"] == {"sw": {"benign": 6}}
    assert record["method"]["left_out"] == 6


def test_fsdp_and_deepspeed_are_refused_before_weights(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    no_weights(monkeypatch)
    monkeypatch.setattr("crosslign.runs.prepare.has_engine", lambda arguments: True)
    with pytest.raises(CrosslignError, match="method: sft does not train weights in parts"):
        prepare(parse_config({**recipe, "method": "sft"}))


def test_a_loss_that_is_not_finite_is_not_learned_from(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from crosslign.baselines.supervised import Supervised
    from crosslign.models import NotFiniteError
    from crosslign.runs.train import train

    scripted(monkeypatch, contrasted)
    loss = Supervised.loss
    monkeypatch.setattr(Supervised, "loss", lambda self, scores: loss(self, scores) + torch.inf)
    with pytest.raises(
        CrosslignError, match=r"step 1: the loss of 4 of its queries .* the step was not taken"
    ) as found:
        train(prepare(parse_config(brief(recipe, "sft"))))
    assert isinstance(found.value.__cause__, NotFiniteError)
