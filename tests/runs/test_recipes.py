"""Every recipe is a valid configuration, found recursively."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosslign.contexts import load_teacher_template
from crosslign.distillation.strategies import get
from crosslign.runs.arguments import training_arguments
from crosslign.runs.recipe import parse_config, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


def test_there_are_recipes_for_the_paper_and_for_a_cpu() -> None:
    models = {read_recipe(p)["model"]["path"] for p in RECIPES}
    assert {
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen3-8B",
        "meta-llama/Llama-2-7b-chat-hf",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    } <= models


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_recipe_is_valid(path: Path) -> None:
    config = parse_config(read_recipe(path), str(path))
    # bf16 needs an accelerator to be accepted, and sharding several; all else of the section is checked as it stands.
    training = {k: v for k, v in config.training.items() if k not in ("bf16", "fsdp", "deepspeed")}
    training_arguments({**training, "use_cpu": True}, output_dir="unused", seed=0)
    load_teacher_template(config.teacher.template)
    get(config.strategy.name, config.strategy.options)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_the_gate_that_a_recipe_offers_is_valid_once_its_mark_is_taken_off(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n# gate: ") + text.count("\ngate:") == 1
    with_gate = tmp_path / path.name
    with_gate.write_text(text.replace("\n# gate: ", "\ngate: "), encoding="utf-8")
    config = parse_config(read_recipe(with_gate), str(path))
    assert config.gate is not None
    shipped = parse_config(read_recipe(path), str(path))
    assert config == shipped or config.model_copy(update={"gate": None}) == shipped
