"""Runs whose rollouts come from a (fake) vLLM server: the same training, refused early where it cannot be."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny_llama, write_csv
from fake_endpoint import Answer
from fake_vllm import FakeVllm, refused
from helpers import cli_train, interrupted_after, losses, no_weights, run

from crosslign.cli import main
from crosslign.rollouts import TransformersSampler
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import merged, parse_config
from crosslign.runs.serve import longest, serve_command
from crosslign.types import CrosslignError, Interrupted


@pytest.fixture
def fake(model_folder: Path) -> Iterator[FakeVllm]:
    with FakeVllm(tiny_llama(), str(model_folder), longest=5000) as server:
        yield server


def served(recipe: dict[str, Any], fake: FakeVllm, **changes: Any) -> dict[str, Any]:
    return merged(recipe, {"rollouts": {"backend": "vllm", "url": fake.root}, "log_rollouts": 100, **changes})


@pytest.mark.parametrize(("finetuning", "strategy"), [("lora", "mixed"), ("full", "on_policy")])
def test_greedy_rollouts_give_the_trajectory_that_generate_gives(
    recipe: dict[str, Any], fake: FakeVllm, tmp_path: Path, finetuning: str, strategy: str
) -> None:
    changes = {"sampling": {"temperature": 0}, "model": {"finetuning": finetuning}, "strategy": {"name": strategy}}
    ours = merged(recipe, {**changes, "output_dir": str(tmp_path / "ours"), "cache_dir": str(tmp_path / "c")})
    expected = losses(run(ours))
    assert losses(run(served(recipe, fake, **changes))) == pytest.approx(expected, abs=1e-5)
    assert expected[0] != pytest.approx(expected[-1], rel=1e-3)


def test_a_run_samples_each_step_from_that_steps_weights_and_leaves_nothing(
    recipe: dict[str, Any], fake: FakeVllm, sampled: list[int]
) -> None:
    folder = run(served(recipe, fake))
    names = [body["model"] for body in fake.bodies("/v1/completions") if body["temperature"] == 1]
    versions = list(dict.fromkeys(names))
    assert versions[0] == fake.name  # LoRA begins as the base model
    assert len(versions) == 4
    assert {names.count(name) for name in versions[1:]} == {4}
    judgements = [body for body in fake.bodies("/v1/completions") if body["temperature"] == 0]
    assert {body["model"] for body in judgements} == {fake.name}
    assert sampled == []
    assert fake.adapters == {}
    assert not (folder / "served").exists()


def test_the_frozen_copy_samples_here_where_the_server_has_the_students_weights(
    recipe: dict[str, Any], fake: FakeVllm, sampled: list[int]
) -> None:
    run(served(recipe, fake, model={"finetuning": "full"}))
    assert sampled  # the judgements
    assert all(body["temperature"] == 1 for body in fake.bodies("/v1/completions"))
    assert fake.model is fake.base  # it has its own weights again


@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_a_run_that_fails_leaves_nothing_on_the_server(recipe: dict[str, Any], fake: FakeVllm, finetuning: str) -> None:
    raw = served(recipe, fake, model={"finetuning": finetuning})
    with interrupted_after(2, KeyboardInterrupt()), pytest.raises(Interrupted):
        run(raw)
    assert fake.adapters == {}
    assert (fake.model is fake.base, fake.version) == (True, "default")


def test_a_server_with_the_weights_of_another_run_is_refused(
    recipe: dict[str, Any], fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it samples would be kept as the base model's answers."""
    no_weights(monkeypatch)
    raw = served(recipe, fake)
    fake.version = "crosslign-12345678-abc"
    with pytest.raises(CrosslignError, match="of another run that uses it, or has left them there"):
        prepare(parse_config(raw))


@pytest.mark.processes
@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_a_resumed_run_takes_the_steps_of_one_that_never_stopped(
    recipe: dict[str, Any], fake: FakeVllm, tmp_path: Path, finetuning: str
) -> None:
    raw = served(recipe, fake, model={"finetuning": finetuning})
    expected = losses(run({**raw, "output_dir": str(tmp_path / "whole")}))
    with interrupted_after(3, RuntimeError("power cut")), pytest.raises(RuntimeError, match="power cut"):
        run(raw)
    fake.adapters.clear()  # the server was started anew too
    fake.model, fake.version = fake.base, "default"
    assert losses(run(raw, resume=True)) == expected


@pytest.mark.processes
def test_a_server_that_dies_stops_the_run_which_then_goes_on(
    recipe: dict[str, Any], fake: FakeVllm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = served(recipe, fake)
    expected = losses(run({**raw, "output_dir": str(tmp_path / "whole"), "cache_dir": str(tmp_path / "c")}))
    fake.asked.clear()
    fake.spoil = lambda path, body, earlier: (
        refused(404, "does not exist") if path == "/v1/completions" and body["model"] != fake.name else None
    )
    assert cli_train(tmp_path, raw) == 1
    said = capsys.readouterr().err
    assert "Was it started anew since" in said
    assert "Traceback" not in said
    fake.spoil = None
    assert cli_train(tmp_path, raw, "--overwrite") == 0
    assert losses(Path(raw["output_dir"])) == expected


@pytest.mark.parametrize("name", ["other prompt", "no row"])
def test_nothing_is_trained_on_what_was_not_asked_for(recipe: dict[str, Any], fake: FakeVllm, name: str) -> None:
    def spoil(path: str, body: Any, earlier: int) -> Answer | None:
        if path != "/v1/completions":
            return None
        right = json.loads(fake.right(path, body).body)
        right["choices"] = [{**right["choices"][0], "prompt_token_ids": [1]}] if name == "other prompt" else []
        return Answer(body=json.dumps(right).encode())

    fake.spoil = spoil
    with pytest.raises(CrosslignError, match="Nothing was trained on it"):
        run(served(recipe, fake))


# Before weights are loaded


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no url": ({"rollouts": {"url": None}}, "backend vllm needs url"),
    "no server": ({"rollouts": {"url": "http://127.0.0.1:1", "timeout_seconds": 1}}, "Start it with: VLLM_ALLOW"),
    "another model": ({"rollouts": {"model": "other"}}, "does not serve the model 'other'"),
    "too short": ({"student": {"max_length": 4999}}, "longest sequence is 5000 tokens"),
    "a url with a key": ({"rollouts": {"url": "http://me:word@localhost"}}, "looks like a secret"),
    "a rank": ({"model": {"lora": {"r": 513}}}, "model.lora.r: 513 is more than vLLM takes"),
    "the head": ({"model": {"lora": {"target_modules": ["q_proj", "lm_head"]}}}, "no adapter on 'lm_head'"),
    "a folder that is a file": ({"rollouts": {"adapter_dir": __file__}}, "rollouts.adapter_dir"),
    "stale by two": ({"rollouts": {"staleness": 2}}, "rollouts.staleness: input should be 0 or 1"),
    "stale, with generate": ({"rollouts": {"backend": "transformers", "staleness": 1}}, "staleness 1 needs"),
    "stale, with full weights": (
        {"rollouts": {"staleness": 1}, "model": {"finetuning": "full"}},
        "needs model.finetuning: lora",
    ),
    "four bits": ({"model": {"quantization": "nf4"}}, "sample from another model than the one that is trained"),
    "no time": ({"rollouts": {"timeout_seconds": 0}}, "rollouts.timeout_seconds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_weights(
    recipe: dict[str, Any], fake: FakeVllm, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    no_weights(monkeypatch)
    changes, words = REFUSED[name]
    with pytest.raises(CrosslignError) as caught:
        prepare(parse_config(merged(served(recipe, fake), changes)))
    assert words in str(caught.value)


def test_a_gguf_file_is_refused(recipe: dict[str, Any], fake: FakeVllm, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(CrosslignError, match=r"no \.gguf file"):
        prepare(parse_config(served(recipe, fake, model={"path": str(tmp_path / "m.gguf")})))


def test_the_probe_asks_the_same_server(
    recipe: dict[str, Any], fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersSampler, "sample", lambda *_, **__: pytest.fail("sampled here"))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(served(recipe, fake)))
    assert main(["probe", str(tmp_path / "r.yaml"), "--queries", "2"]) == 0
    assert fake.bodies("/v1/completions")
    assert fake.paths == []


def test_an_evaluation_while_training_asks_the_same_server(
    recipe: dict[str, Any], fake: FakeVllm, tmp_path: Path, sampled: list[int]
) -> None:
    rows = [{"id": f"t{n}", "label": "harmful", "en": f"task {n}", "sw": f"kazi {n}"} for n in range(10)]
    table = write_csv(tmp_path / "task.csv", rows)
    task = {"tasks": [f"table:{table}"], "languages": ["sw"], "max_completion_length": 5, "best": None}
    folder = run(served(recipe, fake, evaluation={**task, "every_steps": 2}))
    asked = [body["model"] for body in fake.bodies("/v1/completions") if body["max_tokens"] == 5]
    assert [asked.count(name) for name in dict.fromkeys(asked)] == [10, 10, 10]  # the base, and after steps 2 and 4
    assert asked[0] == fake.name
    assert sampled == []
    assert len(json.loads((folder / "run.json").read_text())["evaluations"]) == 3


# The command


def options(command: str) -> tuple[dict[str, str], list[str], dict[str, str | None]]:
    """Variables, program, and options of a shell command."""
    parts = shlex.split(command)
    variables = {}
    while "=" in parts[0]:
        name, _, variables[name] = parts.pop(0).partition("=")
    flags: dict[str, str | None] = {}
    first = next(i for i, part in enumerate(parts) if part.startswith("--"))
    for part in parts[first:]:
        if part.startswith("--"):
            flags[part] = None
        else:
            flags[list(flags)[-1]] = part
    return variables, parts[:first], flags


def test_the_command_for_a_recipe(recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    raw = merged(recipe, {"rollouts": {"backend": "vllm", "url": "http://gpu-7:8123/v1"}, "model": {"lora": {"r": 33}}})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    assert main(["serve-command", str(tmp_path / "r.yaml"), "--memory", "0.4"]) == 0
    variables, program, flags = options(capsys.readouterr().out)
    path = recipe["model"]["path"]
    assert variables == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    assert program == ["vllm", "serve", path]
    assert flags == {
        "--served-model-name": path,
        "--host": "gpu-7",
        "--port": "8123",
        "--max-model-len": str(4000 + 8),
        "--generation-config": "vllm",
        "--enable-lora": None,
        "--max-lora-rank": "64",
        "--max-loras": "3",
        "--gpu-memory-utilization": "0.4",
        "--dtype": "auto",
    }


def test_the_command_for_a_cpu_and_for_full_weights(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    raw = merged(recipe, {"rollouts": {"backend": "vllm", "url": "http://localhost", "model": "m"}})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    flags = ("--model.finetuning", "full", "--model.revision", "a b")
    assert main(["serve-command", str(tmp_path / "r.yaml"), "--cpu", *flags]) == 0
    variables, program, found = options(capsys.readouterr().out)
    assert variables == {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "4"}
    assert program == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    assert found["--model"] == recipe["model"]["path"]
    assert (found["--served-model-name"], found["--port"], found["--dtype"]) == ("m", "80", "float32")
    assert found["--revision"] == "a b"
    assert {"--enforce-eager", "--no-enable-chunked-prefill"} <= set(found)
    assert "--enable-lora" not in found
    assert "--gpu-memory-utilization" not in found


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--rollouts.backend", "transformers"), "rollouts.backend is not vllm"),
        (("--rollouts.backend", "vllm"), "needs url"),
        (("--rollouts.backend", "vllm", "--rollouts.url", "http://h", "--memory", "2"), "no share from 0 to 1"),
        (("--rollouts.backend", "vllm", "--rollouts.url", "http://h", "--cpu", "--memory", "nan"), "gigabytes"),
        (("--rollouts.backend", "vllm", "--rollouts.url", "http://h", "--cpu", "--memory", "1.5"), "gigabytes"),
    ],
)
def test_no_command_where_none_can_be(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["serve-command", str(tmp_path / "r.yaml"), *flags]) == 1
    assert words in capsys.readouterr().err


def test_the_longest_sequence_counts_all_that_the_server_samples(recipe: dict[str, Any]) -> None:
    vllm = {"rollouts": {"backend": "vllm", "url": "http://h"}, "student": {"max_length": 100}}
    lora = parse_config(merged(recipe, vllm))
    assert longest(lora) == 2048 + 8
    assert longest(parse_config(merged(recipe, {**vllm, "teacher": {"max_judgement_length": 300}}))) == 2048 + 300
    assert longest(parse_config(merged(recipe, {**vllm, "model": {"finetuning": "full"}}))) == 108
    assert "--max-model-len 2056" in serve_command(lora)
    evaluation = {"tasks": ["builtin:demo"], "max_completion_length": 3000}
    assert longest(parse_config(merged(recipe, {**vllm, "evaluation": evaluation}))) == 3100
