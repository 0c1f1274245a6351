"""What decides the memory of a checked run: its model's shape and its set-up. No weights are read."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crosslign.distillation import strategies
from crosslign.models import add_lora, freeze, load_skeleton
from crosslign.runs.memory.estimate import Setup, Sharding
from crosslign.runs.memory.shape import ModelShape, shape_of
from crosslign.runs.prepare import PreparedRun, lora_settings, queries_of
from crosslign.types import CrosslignError, cause, excerpt
from crosslign.untrusted import read_json


class UnknownModel(CrosslignError):
    """No model can be made of a configuration, or one whose parts are not the usual ones."""


@dataclass(frozen=True)
class Needs:
    """The model's shape as the run trains it, the same with LoRA if it can have it, and the run's set-up."""

    shape: ModelShape
    with_lora: ModelShape | None
    setup: Setup


def needs_of(run: PreparedRun, *, processes: int | None = None, accelerator: bool | None = None) -> Needs:
    """Of a run as it would be on so many processes, on accelerators or CPUs; None for what there is now.

    Raises UnknownModel where nothing can be said, and CrosslignError for what the run asks of the model in vain.
    """
    config, arguments = run.config, run.arguments
    accelerator = arguments.device.type != "cpu" if accelerator is None else accelerator
    processes = processes or arguments.world_size
    lora = config.model.finetuning == "lora"
    try:
        model = load_skeleton(run.source)
    except CrosslignError as error:
        raise UnknownModel(str(error)) from error
    stored = model.dtype.itemsize
    nf4 = getattr(config.model, "quantization", None) == "nf4"
    unnamed = 2 if nf4 else stored if accelerator else 4
    weight = _size(config.model.dtype, unnamed)
    if lora:
        shape = with_lora = _shape(run, model, lora=True)
    else:
        freeze(model, config.model.frozen)
        shape, with_lora = _shape(run, model, lora=False), None
        with contextlib.suppress(CrosslignError):  # then it is not offered
            with_lora = _shape(run, model, lora=True)
    batch, mixed = arguments.per_device_train_batch_size, arguments.mixed_precision != "no"
    students, teachers, prompt, written = _lengths(run)
    sharding, offload_optimizer, offload_weights = sharding_of(config.training, processes)
    setup = Setup(
        device="cuda" if accelerator else "cpu",
        weight=weight,
        teacher=0 if lora else _size(config.teacher.dtype or "auto", weight),
        compute=2 if mixed else weight,
        mixed=mixed,
        lora=lora,
        students=tuple(sorted(students, reverse=True)[:batch]),
        teachers=tuple(sorted(teachers, reverse=True)[:batch]),
        completion=config.sampling.max_completion_length,
        prompt=prompt,
        written=written,
        rollouts=0 if _another_server(config) else run.rollout_batch_size,
        stored=Path(run.source.path).stat().st_size if run.source.kind == "gguf" else shape.weights * stored,
        accumulation=arguments.gradient_accumulation_steps,
        optimizer=str(getattr(arguments.optim, "value", arguments.optim)),
        checkpointing=bool(arguments.gradient_checkpointing or getattr(arguments, "activation_checkpointing", None)),
        eager=config.model.attn_implementation == "eager",
        nf4=nf4,
        sharding=sharding,
        processes=processes,
        offload_optimizer=offload_optimizer,
        offload_weights=offload_weights,
    )
    return Needs(shape, with_lora, setup)


def _shape(run: PreparedRun, model: Any, *, lora: bool) -> ModelShape:
    try:
        if lora:
            with torch.device("meta"):
                model = add_lora(model, lora_settings(run.config.model))
        return shape_of(model)
    except CrosslignError:
        raise
    except Exception as error:  # a configuration may hold anything
        raise UnknownModel(f"{run.source.path}: is no model of the usual parts ({cause(error)}).") from error


def _size(dtype: str, auto: int) -> int:
    return auto if dtype == "auto" else getattr(torch, dtype).itemsize


def _another_server(config: Any) -> bool:
    return getattr(getattr(config, "rollouts", None), "backend", None) == "vllm"


def _lengths(run: PreparedRun) -> tuple[list[int], list[int], int, int]:
    """Of each query the student's and the teacher's context; the prompt and the completion of the longest row that is
    sampled. A judgement that is to be generated counts with its full length."""
    contexts, config = run.contexts, run.config
    strategy = strategies.get(config.strategy.name, config.strategy.options, seed=config.seed)
    students, teachers, sampled = [], [], []
    for query in queries_of(run.tables, run.languages):
        students.append(len(contexts.student(query).token_ids))
        judged = contexts.needs_judgement(query)
        judgement_length = contexts.max_judgement_length if judged else 0
        teachers.append(len(contexts.teacher(query, "" if judged else None).token_ids) + judgement_length)
        prompt = students[-1] if strategy.plan(query, 0).sampled_from == "student" else teachers[-1]
        sampled.append((prompt, config.sampling.max_completion_length))
        if judged:
            sampled.append((len(contexts.judgement(query).token_ids), judgement_length))
    return students, teachers, *max(sampled, key=sum)


def sharding_of(training: Mapping[str, Any], processes: int) -> tuple[Sharding, bool, bool]:
    """How a recipe's section `training` divides a model; whether optimizer and weights lie in the machine's memory.

    Raises CrosslignError for a DeepSpeed configuration that cannot be read.
    """
    settings = training.get("deepspeed")
    if isinstance(settings, str):
        settings = read_json(Path(settings))
    if isinstance(settings, Mapping):
        zero = settings.get("zero_optimization") or {}
        stage = zero.get("stage", 0) if isinstance(zero, Mapping) else None
        if stage not in (0, 1, 2, 3):
            raise CrosslignError(
                f"training.deepspeed: zero_optimization has no stage from 0 to 3: {excerpt(str(zero))}."
            )
        kinds: tuple[Sharding, ...] = ("ddp", "zero1", "zero2", "zero3")
        places = [zero.get(name) or {} for name in ("offload_optimizer", "offload_param")]
        optimizer, weights = ("cpu" in str(place) or "nvme" in str(place) for place in places)
        return kinds[stage], optimizer, weights
    if training.get("fsdp"):
        return "fsdp", False, False
    return "ddp" if processes > 1 else "none", False, False
