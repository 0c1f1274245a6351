"""Sharded training equals that of one process: FSDP2 and DeepSpeed ZeRO, two and four processes on CPUs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import metrics, processes, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from crosslign.models.adapter import with_adapter
from crosslign.models.load import ModelSource, load_model

pytest.importorskip("deepspeed")

_AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
_ZERO = {**dict.fromkeys(_AUTO, "auto"), "zero_allow_untested_optimizer": True}
_STAGE3 = {
    "stage": 3,
    "stage3_gather_16bit_weights_on_model_save": True,
    "stage3_param_persistence_threshold": 0,  # else weights as small as a test model's are kept whole
}
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"use_cpu": True},
    "fsdp": {"fsdp": True},
    "zero2": {"deepspeed": {**_ZERO, "zero_optimization": {"stage": 2}}},
    "zero3": {"deepspeed": {**_ZERO, "zero_optimization": _STAGE3}},
}
WEIGHTS = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}
SECONDS = 240


def sharded(raw: dict[str, Any], engine: str, folder: Path, **training: Any) -> dict[str, Any]:
    """The recipe under an engine."""
    changed = {k: v for k, v in raw["training"].items() if k != "use_cpu"}
    return {
        **raw,
        "output_dir": str(folder),
        "training": {**changed, "ddp_backend": "gloo", **ENGINES[engine], **training},
    }


def finish(started: Sequence[subprocess.Popen[bytes]], seconds: float = SECONDS) -> list[int]:
    """The exit codes; what still runs after these seconds is killed, and the test fails."""
    deadline = time.monotonic() + seconds
    try:
        return [p.wait(timeout=max(deadline - time.monotonic(), 0.1)) for p in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def tuned(raw: dict[str, Any], finetuning: str, strategy: str = "off_policy") -> dict[str, Any]:
    """The recipe with LoRA or full weights; off-policy, where what is sampled does not depend on the process."""
    model = {"path": raw["model"]["path"], "finetuning": finetuning}
    rate = {"lora": 0.01, "full": 0.001}[finetuning]
    return {
        **raw,
        "model": {**raw["model"], **model} if finetuning == "lora" else model,
        "strategy": {"name": strategy},
        "training": {**raw["training"], "max_steps": 6, "learning_rate": rate, "save_steps": 3},
    }


def same_trajectory(ours: Path, theirs: Path, finetuning: str) -> None:
    for name in ("loss", "grad_norm", "divergence"):
        assert [r[name] for r in metrics(ours)] == pytest.approx([r[name] for r in metrics(theirs)], rel=1e-5), name
    weights, others = load_file(ours / WEIGHTS[finetuning]), load_file(theirs / WEIGHTS[finetuning])
    assert weights.keys() == others.keys()
    for key in weights:
        assert weights[key] == pytest.approx(others[key], abs=1e-5), key


# What runs in a minute or two; every pair runs with `-m slow`.
FEW = {("fsdp", "lora", 1), ("fsdp", "full", 2), ("zero3", "lora", 2), ("zero3", "full", 1)}
PAIRS = [
    pytest.param(*pair, marks=pytest.mark.processes if pair in FEW else pytest.mark.slow)
    for pair in ((e, f, a) for e in ENGINES for f in WEIGHTS for a in (1, 2))
]


@pytest.mark.parametrize(("engine", "finetuning", "accumulation"), PAIRS)
def test_two_processes_train_as_one_does(
    recipe: dict[str, Any], tmp_path: Path, engine: str, finetuning: str, accumulation: int
) -> None:
    raw = tuned(recipe, finetuning)
    steps = {"gradient_accumulation_steps": accumulation}
    one = run({**raw, "output_dir": str(tmp_path / "one")}, per_device_train_batch_size=4, **steps)
    two = sharded(raw, engine, tmp_path / "two", per_device_train_batch_size=2, **steps)
    assert finish(processes(tmp_path, two, engine=engine)) == [0, 0]
    same_trajectory(tmp_path / "two", one, finetuning)
    records = [json.loads((folder / "run.json").read_text()) for folder in (one, tmp_path / "two")]
    assert records[0]["teacher_fingerprint"] == records[1]["teacher_fingerprint"]
    assert records[0]["divergence"]["after"] == pytest.approx(records[1]["divergence"]["after"], rel=1e-4)
    # What was saved is ordinary: it loads anywhere.
    source = ModelSource(raw["model"]["path"])
    if finetuning == "lora":
        with_adapter(load_model(source), str(tmp_path / "two"))
    else:
        AutoModelForCausalLM.from_pretrained(tmp_path / "two", local_files_only=True)
