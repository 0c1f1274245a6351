"""A refusal direction: the difference of means by hand, and that adding it moves what it should, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_llama
from helpers import no_weights, sampling_interrupted_after
from test_prompt import completions, evaluate

from crosslign.cli import main
from crosslign.models.steering import Steering, find_direction, steer
from crosslign.types import CrosslignError

HARMFUL, HARMLESS = [(5, 6, 7), (8, 9)], [(10, 11, 12, 13)]


def test_the_direction_is_the_difference_of_mean_states_at_the_last_token() -> None:
    model = tiny_llama()

    def state(ids: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            # hidden_states[0] is the embedding's, so layer 0's output stands at 1.
            return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, -1]

    direction, layer = find_direction(model, HARMFUL, HARMLESS, 0)
    assert layer == 0
    torch.testing.assert_close(direction, (state(HARMFUL[0]) + state(HARMFUL[1])) / 2 - state(HARMLESS[0]))
    assert find_direction(model, HARMFUL, HARMLESS)[1] == 1


def test_it_is_added_at_every_position_until_it_is_taken_off() -> None:
    model, ids = tiny_llama(), torch.tensor([[3, 4, 5]])
    direction = torch.randn(32)

    def states() -> torch.Tensor:
        """What the next layer gets."""
        got: list[torch.Tensor] = []
        handle = model.model.layers[1].register_forward_pre_hook(lambda _, inputs: got.append(inputs[0]))
        with torch.no_grad():
            model(ids)
        handle.remove()
        return got[0]

    before = states()
    handle = steer(model, Steering(direction, 0, ""), 2.0)
    torch.testing.assert_close(states(), before + 2 * direction)
    handle.remove()
    torch.testing.assert_close(states(), before)


def test_a_layer_that_is_not_there_is_told() -> None:
    with pytest.raises(CrosslignError, match="--layer: 2 is no layer of this model, which has 0 to 1"):
        find_direction(tiny_llama(), HARMFUL, HARMLESS, 2)


def found(recipe: dict[str, Any], tmp_path: Path, *flags: str) -> tuple[int, Path]:
    path, out = tmp_path / "recipe.yaml", tmp_path / "direction.safetensors"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return main(["steer", str(path), "--out", str(out), *flags]), out


def test_an_evaluation_with_a_direction_answers_otherwise_and_says_so(
    recipe: dict[str, Any], model_folder: Path, table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, place = found(recipe, tmp_path, "--layer", "1")
    assert code == 0
    assert Steering.load(place).layer == 1
    assert evaluate(model_folder, table_file, tmp_path / "plain") == 0
    assert evaluate(model_folder, table_file, tmp_path / "still", "--steer", str(place), "--steer-scale", "0") == 0
    assert evaluate(model_folder, table_file, tmp_path / "moved", "--steer", str(place), "--steer-scale", "50") == 0
    plain, still, moved = (
        [row["completion"] for row in completions(tmp_path / name)] for name in ("plain", "still", "moved")
    )
    assert plain == still != moved
    assert '"scale": 50.0' in (tmp_path / "moved" / "results.json").read_text(encoding="utf-8")
    capsys.readouterr()
    assert evaluate(model_folder, table_file, tmp_path / "moved", "--steer", str(place)) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert found(recipe, tmp_path)[0] == 1
    assert "is there already" in capsys.readouterr().err


def test_judgements_of_another_steering_are_not_taken_and_overwrite_removes_them(
    recipe: dict[str, Any], model_folder: Path, table_file: Path, tmp_path: Path, sampled: list[int]
) -> None:
    _, direction = found(recipe, tmp_path, "--layer", "1")
    out = tmp_path / "out"
    judged = ("--context", "teacher", "--template", "judged")

    def steered(scale: str, *flags: str) -> int:
        return evaluate(
            model_folder, table_file, out, *judged, "--steer", str(direction), "--steer-scale", scale, *flags
        )

    with sampling_interrupted_after(1):
        assert steered("1") == 130
    assert (out / ".judgements.jsonl").is_file()
    kept = (out / ".judgements.jsonl").read_bytes()
    sampled.clear()
    assert steered("5", "--overwrite") == 0
    assert sampled == [3, 3]
    with sampling_interrupted_after(1):
        assert steered("1", "--overwrite") == 130
    assert (out / ".judgements.jsonl").read_bytes() == kept
    assert evaluate(model_folder, table_file, out, "--overwrite") == 0
    assert not list(out.glob(".judgements*"))


def test_a_direction_of_another_model_and_what_is_none_are_refused_before_weights(
    model_folder: Path, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    no_weights(monkeypatch)
    other, nothing = tmp_path / "other.safetensors", tmp_path / "nothing.safetensors"
    Steering(torch.ones(32), 0, "another").save(other)
    nothing.write_text("x")
    flags = ("--steer", str(other), "--steer-scale", "nan")
    assert evaluate(model_folder, table_file, tmp_path / "out", *flags) == 1
    assert "--steer-scale: nan is no number" in capsys.readouterr().err
    for place, message in ((other, "was found in another model"), (nothing, "is no direction")):
        assert evaluate(model_folder, table_file, tmp_path / "out", "--steer", str(place)) == 1
        assert message in capsys.readouterr().err


def test_a_recipe_without_harmless_queries_has_no_direction(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_weights(monkeypatch)
    recipe["data"]["tables"][0]["where"] = {"label": ["harmful"]}
    assert found(recipe, tmp_path)[0] == 1
    assert "no benign query" in capsys.readouterr().err
