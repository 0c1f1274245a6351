"""Sharded training equals that of one process: FSDP2 and DeepSpeed ZeRO, two and four processes on CPUs."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_llama, write_csv
from fake_vllm import FakeVllm
from helpers import losses, metrics, processes, run
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


def with_a_task(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe with an evaluation every two steps."""
    kinds = ("harmful", "benign")
    rows = [{"id": f"t{n}", "label": kinds[n % 2], "en": f"task {n}", "sw": f"kazi {n}"} for n in range(20)]
    section = {
        "tasks": [f"table:{write_csv(folder / 'task.csv', rows)}"],
        "languages": ["sw"],
        "every_steps": 2,
        "max_completion_length": 4,
        "best": {"max_over_refusal": None, "max_invalid": None},
    }
    return {**raw, "evaluation": section}


def same_trajectory(ours: Path, theirs: Path, finetuning: str) -> None:
    steps = [[row for row in metrics(folder) if "loss" in row] for folder in (ours, theirs)]
    for name in ("loss", "grad_norm", "divergence"):
        assert [r[name] for r in steps[0]] == pytest.approx([r[name] for r in steps[1]], rel=1e-5), name
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


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
@pytest.mark.parametrize("finetuning", WEIGHTS)
def test_four_processes_train_as_one_does(recipe: dict[str, Any], tmp_path: Path, engine: str, finetuning: str) -> None:
    raw = tuned(recipe, finetuning)
    one = run(
        {**raw, "output_dir": str(tmp_path / "one")}, per_device_train_batch_size=8, gradient_accumulation_steps=1
    )
    four = sharded(raw, engine, tmp_path / "four", per_device_train_batch_size=2, gradient_accumulation_steps=1)
    assert finish(processes(tmp_path, four, engine=engine, number=4)) == [0] * 4
    same_trajectory(tmp_path / "four", one, finetuning)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["on_policy", "mixed"])
@pytest.mark.parametrize("finetuning", WEIGHTS)
def test_the_engines_agree_where_the_student_samples(
    recipe: dict[str, Any], tmp_path: Path, finetuning: str, strategy: str
) -> None:
    """Each process samples its own rollouts: in `mixed` not all of them have one of the student's to sample."""
    raw = tuned(recipe, finetuning, strategy)
    for engine in ("ddp", "fsdp", "zero3"):
        assert finish(processes(tmp_path, sharded(raw, engine, tmp_path / engine), engine=engine)) == [0, 0], engine
    for engine in ("fsdp", "zero3"):
        same_trajectory(tmp_path / engine, tmp_path / "ddp", finetuning)


# Of an interrupted run: what a step depends on must be in the checkpoint of every engine.
CHECKPOINTS = [
    pytest.param("fsdp", "lora", "SHARDED_STATE_DICT", marks=pytest.mark.processes),
    pytest.param("fsdp", "full", "SHARDED_STATE_DICT", marks=pytest.mark.slow),
    pytest.param("fsdp", "lora", "FULL_STATE_DICT", marks=pytest.mark.slow),
    pytest.param("fsdp", "full", "FULL_STATE_DICT", marks=pytest.mark.slow),
    pytest.param("zero2", "lora", None, marks=pytest.mark.slow),
    pytest.param("zero3", "lora", None, marks=pytest.mark.slow),
    pytest.param("zero3", "full", None, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("engine", "finetuning", "state_dict"), CHECKPOINTS)
def test_resume_after_one_process_was_killed_equals_no_interruption(
    recipe: dict[str, Any], tmp_path: Path, engine: str, finetuning: str, state_dict: str | None
) -> None:
    """A task, the gate and a judgement too: all that a run can do is done in parts, and done again after the kill."""
    more = {"fsdp_config": {"state_dict_type": state_dict}} if state_dict else {}
    raw = with_a_task(tuned(recipe, finetuning), tmp_path)
    raw["gate"] = {"min_flip_rate": 0.0, "queries": 2, "drop": ["unsafe"]}
    raw["training"] |= {"save_steps": 2, **more}
    whole = sharded(raw, engine, tmp_path / "whole")
    assert finish(processes(tmp_path, whole, engine=engine)) == [0, 0]
    cut = sharded({**raw, "cache_dir": str(tmp_path / "cache2")}, engine, tmp_path / "cut")
    started = processes(tmp_path, cut, engine=engine)
    moment, folder = random.Random(f"{engine}{finetuning}{state_dict}").uniform(0, 1), tmp_path / "cut"
    wait_for(started, folder / "checkpoint-2" / "manifest.json")
    time.sleep(moment)
    if started[1].poll() is None:
        started[1].send_signal(signal.SIGKILL)
    codes = finish(started, 60)  # the other one ends by itself
    assert codes == [0, 0] or (codes[0] != 0 and codes[1] == -signal.SIGKILL), codes
    if codes != [0, 0]:
        assert finish(processes(tmp_path, cut, "--resume", engine=engine)) == [0, 0]
    same_trajectory(folder, tmp_path / "whole", finetuning)
    ours, theirs = (json.loads((place / "run.json").read_text()) for place in (folder, tmp_path / "whole"))
    assert [e["step"] for e in ours["evaluations"]] == [e["step"] for e in theirs["evaluations"]] == [0, 2, 4, 6]
    assert ours["best"] == theirs["best"]
    assert load_file(folder / "best" / WEIGHTS[finetuning]).keys() == load_file(folder / WEIGHTS[finetuning]).keys()


def wait_for(started: Sequence[subprocess.Popen[bytes]], file: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not file.exists():
        assert time.monotonic() < deadline
        assert all(p.poll() in (None, 0) for p in started), "a process has ended by itself"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp", "zero2", "zero3"])
@pytest.mark.parametrize("finetuning", WEIGHTS)
def test_checkpointing_changes_nothing(recipe: dict[str, Any], tmp_path: Path, engine: str, finetuning: str) -> None:
    raw = tuned(recipe, finetuning)
    steps = {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    one = run({**raw, "output_dir": str(tmp_path / "one")}, per_device_train_batch_size=4, **steps)
    two = sharded(raw, engine, tmp_path / "two", per_device_train_batch_size=2, **steps)
    assert finish(processes(tmp_path, two, engine=engine)) == [0, 0]
    same_trajectory(tmp_path / "two", one, finetuning)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp", "zero2", "zero3"])
@pytest.mark.parametrize(("finetuning", "dtype"), [("lora", "bfloat16"), ("lora", "float32"), ("full", "float32")])
def test_mixed_precision_learns_as_one_process_does(
    recipe: dict[str, Any], tmp_path: Path, engine: str, finetuning: str, dtype: str
) -> None:
    """With checkpointing, as the recipes of large models have it. bfloat16 rounds at 0.4 %."""
    raw = tuned(recipe, finetuning)
    raw["model"] = {**raw["model"], "dtype": dtype}
    steps = {"bf16": True, "gradient_checkpointing": True, "max_grad_norm": 1.0}
    one = run({**raw, "output_dir": str(tmp_path / "one")}, per_device_train_batch_size=4, **steps)
    section = {**ENGINES[engine].get("deepspeed", {}), "bf16": {"enabled": "auto"}}
    more = {"deepspeed": section} if engine != "fsdp" else {}
    two = sharded(raw, engine, tmp_path / "two", per_device_train_batch_size=2, **steps, **more)
    assert finish(processes(tmp_path, two, engine=engine)) == [0, 0]
    ours, theirs = losses(tmp_path / "two"), losses(one)
    assert ours[:2] == pytest.approx(theirs[:2], rel=0.1)
    assert ours[-1] == pytest.approx(theirs[-1], rel=0.3)
    assert load_file(tmp_path / "two" / WEIGHTS[finetuning]).keys() == load_file(one / WEIGHTS[finetuning]).keys()


SERVED = [
    pytest.param("fsdp", "lora", marks=pytest.mark.processes),
    pytest.param("fsdp", "full", marks=pytest.mark.slow),
    pytest.param("zero3", "lora", marks=pytest.mark.slow),
    pytest.param("zero3", "full", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("engine", "finetuning"), SERVED)
def test_a_server_samples_for_a_student_in_parts(
    recipe: dict[str, Any], tmp_path: Path, engine: str, finetuning: str
) -> None:
    """Its weights are never gathered: what the server needs is, and the evaluations ask the server too."""
    raw = with_a_task(tuned(recipe, finetuning, "mixed"), tmp_path)
    stale = int(finetuning == "lora")
    with FakeVllm(tiny_llama(), raw["model"]["path"], longest=5000) as server:
        raw["rollouts"] = {"backend": "vllm", "url": server.root, "staleness": stale}
        assert finish(processes(tmp_path, sharded(raw, "ddp", tmp_path / "ddp"))) == [0, 0]
        server.asked.clear()
        two = sharded(raw, engine, tmp_path / "two")
        assert finish(processes(tmp_path, two, engine=engine, IN_PARTS="1")) == [0, 0]
    same_trajectory(tmp_path / "two", tmp_path / "ddp", finetuning)
    assert (tmp_path / "two" / "evaluations" / "step-6" / "results.json").exists()
    if finetuning == "lora":
        assert len({body["model"] for body in server.bodies("/v1/completions")}) > 5 - stale
    else:
        assert server.paths.count("/collective_rpc") > 5
    assert server.adapters == {}
    assert server.version == "default"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_a_process_without_a_token_takes_part(recipe: dict[str, Any], tmp_path: Path, engine: str) -> None:
    raw = sharded(tuned(recipe, "lora"), engine, tmp_path / "two")
    assert finish(processes(tmp_path, raw, engine=engine, SILENT_RANK="1")) == [0, 0]
    assert all(0 < loss < 100 for loss in losses(tmp_path / "two"))
    assert len(losses(tmp_path / "two")) == 6


@pytest.mark.processes
def test_a_process_that_fails_ends_the_others(
    recipe: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = sharded(tuned(recipe, "lora"), "fsdp", tmp_path / "two")
    started = processes(tmp_path, raw, engine="fsdp", FAILING_RANK="1")
    assert all(finish(started, 60))
    assert "this process fails" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp", "zero2", "zero3"])
def test_a_weight_that_is_no_number_stops_all_and_is_not_saved(
    recipe: dict[str, Any], tmp_path: Path, engine: str, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = sharded(tuned(recipe, "lora"), engine, tmp_path / "two", save_steps=1)
    assert finish(processes(tmp_path, raw, engine=engine, NAN_RANK="1"), 120) == [1, 1]
    said = capfd.readouterr().err
    assert "crosslign: step 2: " in said
    assert "inf or NaN" in said
    assert "Traceback" not in said
    assert [place.name for place in (tmp_path / "two").glob("checkpoint-*")] == ["checkpoint-1"]
    assert len(losses(tmp_path / "two")) == 1
