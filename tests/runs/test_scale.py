"""The sizes of large models: their recipes' memory, and the table of docs/scale.md, which this module computes."""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_csv
from published import PUBLISHED, configuration_folder

from crosslign.models import ModelSource, add_lora, load_skeleton
from crosslign.runs.config import ModelConfig
from crosslign.runs.memory.estimate import Setup, estimate
from crosslign.runs.memory.inputs import needs_of, sharding_of
from crosslign.runs.memory.shape import ModelShape, shape_of
from crosslign.runs.prepare import lora_settings, prepare
from crosslign.runs.recipe import parse_config, read_recipe

ROOT = Path(__file__).parents[2]
QWEN, LLAMA = "Qwen/Qwen2.5-7B-Instruct", "meta-llama/Meta-Llama-3-70B-Instruct"
# bf16 on a GPU, 4 rows a pass, 16 a step; contexts of 512 and 1024 tokens, completions of 256.
COMMON = Setup(
    "cuda",
    weight=2,
    teacher=0,
    compute=2,
    mixed=True,
    lora=True,
    students=(512,) * 4,
    teachers=(1024,) * 4,
    completion=256,
    prompt=512,
    written=256,
    rollouts=16,
    accumulation=4,
    checkpointing=True,
)
FULL: dict[str, Any] = {"lora": False, "teacher": 2}
EIGHT: dict[str, Any] = {"students": (512,) * 8, "teachers": (1024,) * 8, "accumulation": 2}
# A model, in words what is set, the changes to COMMON, GPUs, the memory of one in GB.
ROWS: list[tuple[str, str, dict[str, Any], int, int]] = [
    (QWEN, "LoRA, nf4", {"nf4": True}, 1, 24),
    (QWEN, "LoRA", {}, 1, 24),
    (QWEN, "LoRA", {}, 1, 40),
    (QWEN, "LoRA, no checkpointing", {"checkpointing": False}, 1, 40),
    (QWEN, "LoRA, no checkpointing, 8 rows a pass", {"checkpointing": False, **EIGHT}, 1, 80),
    (QWEN, "full", FULL, 1, 80),
    (QWEN, "full, adamw_8bit", {**FULL, "optimizer": "adamw_8bit"}, 1, 80),
    (QWEN, "full, FSDP", {**FULL, "sharding": "fsdp"}, 4, 80),
    (QWEN, "full, ZeRO-3", {**FULL, "sharding": "zero3"}, 8, 40),
    (LLAMA, "LoRA, nf4", {"nf4": True}, 8, 80),
    (LLAMA, "LoRA, ZeRO-3", {"sharding": "zero3"}, 8, 80),
    (LLAMA, "LoRA, ZeRO-3", {"sharding": "zero3"}, 8, 192),
    (LLAMA, "LoRA, ZeRO-3, vLLM", {"sharding": "zero3", "rollouts": 0}, 8, 80),
    (LLAMA, "LoRA, FSDP, vLLM", {"sharding": "fsdp", "rollouts": 0}, 8, 80),
    (LLAMA, "full, ZeRO-3, vLLM", {**FULL, "sharding": "zero3", "rollouts": 0}, 16, 80),
    (LLAMA, "full, ZeRO-3, vLLM", {**FULL, "sharding": "zero3", "rollouts": 0}, 16, 141),
]


@functools.cache
def shapes(model: str) -> tuple[ModelShape, ModelShape]:
    """Of full fine-tuning and of LoRA with the defaults."""
    with tempfile.TemporaryDirectory() as folder:
        skeleton = load_skeleton(ModelSource(str(configuration_folder(Path(folder), model))))
    return shape_of(skeleton), shape_of(add_lora(skeleton, lora_settings(ModelConfig(path=model))))


def table() -> str:
    lines = [
        "| model | set-up | GPUs | GB each | sampling | step | fits |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, what, changes, count, memory in ROWS:
        sharding = changes.get("sharding", "ddp" if count > 1 else "none")
        setup = dataclasses.replace(COMMON, **{**changes, "sharding": sharding, "processes": count})
        found = estimate(shapes(model)[setup.lora], setup)
        there = {part.moment for part in found.parts}
        moments = [
            f"{(found.of('') + found.of(name)) / 1e9:.0f}" if name in there else "-" for name in ("sampling", "step")
        ]
        fits = "yes" if found.total <= memory * 1e9 else f"no, in {found.peak}"
        cells = (model.rpartition("/")[2].removesuffix("-Instruct"), what, count, memory, *moments, fits)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def prepared(name: str, folder: Path) -> dict[str, Any]:
    """The recipe of that name, with the configuration of its model and a table to train on."""
    raw = read_recipe(ROOT / "recipes" / name)
    columns = ("id", "label", "en", "zh", "ar", "bn")
    rows = [{c: "harmful" if c == "label" else f"{c} {n}" for c in columns} for n in range(64)]
    raw["model"]["path"] = str(configuration_folder(folder / "model", raw["model"]["path"]))
    raw["data"]["tables"][0]["path"] = str(write_csv(folder / "queries.csv", rows))
    return {**raw, "output_dir": str(folder / "run"), "cache_dir": str(folder / "cache")}


RECIPES = [("qwen2.5_7b_fsdp.yaml", 4, 80), ("llama3_70b_zero3.yaml", 8, 80), ("qwen3_8b_24gb_nf4.yaml", 1, 24)]


@pytest.mark.processes
@pytest.mark.parametrize(("name", "processes", "gigabytes"), RECIPES)
def test_the_dry_run_of_a_large_models_recipe(name: str, processes: int, gigabytes: int, tmp_path: Path) -> None:
    """In a process of its own, which FSDP and DeepSpeed leave marks in. No server runs, and no weights are there."""
    pytest.importorskip("deepspeed" if "zero3" in name else "bitsandbytes" if "nf4" in name else "torch")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(prepared(name, tmp_path)))
    flags = ["--processes", str(processes), "--gpu-memory", str(gigabytes), "--training.use_cpu", "true"]
    command = [sys.executable, "-m", "crosslign.cli", "train", str(tmp_path / "recipe.yaml"), "--dry-run", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"the device has +{gigabytes}\.00\n", done.stdout)
    assert "not fit" not in done.stdout
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_published_configuration_has_the_published_number_of_parameters(model: str) -> None:
    assert shapes(model)[0].weights == PUBLISHED[model][1]


def test_the_document_has_the_computed_table() -> None:
    assert table() in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "processes", "gigabytes"), RECIPES)
def test_the_recipe_of_a_large_model_fits_where_it_says(
    name: str, processes: int, gigabytes: int, tmp_path: Path
) -> None:
    raw = prepared(name, tmp_path)
    nf4 = raw["model"].pop("quantization", None) == "nf4"  # a library of its own reads and writes 4 bits
    assert nf4 == name.endswith("nf4.yaml")
    sharded = raw["training"]
    # What shards is read by libraries that need several processes.
    raw["training"] = {k: v for k, v in sharded.items() if k not in ("fsdp", "deepspeed")} | {"use_cpu": True}
    needs = needs_of(
        prepare(parse_config(raw), weights=False, check_server=False), processes=processes, accelerator=True
    )
    kind, *_ = sharding_of(sharded, processes)
    assert (needs.setup.mixed, needs.setup.compute, needs.setup.weight, needs.setup.checkpointing) == (True, 2, 2, True)
    setup = dataclasses.replace(needs.setup, sharding=kind, nf4=nf4)
    assert needs.shape.weights == PUBLISHED[read_recipe(ROOT / "recipes" / name)["model"]["path"]][1]
    assert estimate(needs.shape, setup).total <= gigabytes * 1e9


if __name__ == "__main__":
    print(table())
