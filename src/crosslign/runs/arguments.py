"""transformers.TrainingArguments from a recipe's `training` section."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks
from transformers.training_args import ParallelMode

from crosslign.types import CrosslignError, cause, excerpt, nearest

# Reasons: one log line a step is what a distillation run is read by; 1e-6 because AdamW at 1e-8 turns rounding noise
# into drift once student and teacher agree; positions carry no columns to remove.
TRAINING_DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "adam_epsilon": 1e-6,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "num_train_epochs": 1,
    "report_to": "none",
    "save_total_limit": 2,
    "save_steps": 50,
}
# Numbers have these ranges, and all others that of "". An epsilon of 0 divides 0 by 0 where a gradient is 0.
RANGES: dict[str, tuple[float, float]] = {
    "": (0, 1e9),
    "learning_rate": (1e-12, 10),
    "weight_decay": (0, 10),
    "adam_beta1": (0, 0.99999),
    "adam_beta2": (0, 0.99999),
    "adam_epsilon": (1e-20, 1),
    "num_train_epochs": (1e-6, 1e6),
    "max_steps": (-1, 1e9),
    "local_rank": (-1, 1e6),
    "per_device_train_batch_size": (1, 1e6),
    "gradient_accumulation_steps": (1, 1e6),
    "logging_steps": (1e-6, 1e9),
    "save_steps": (1e-6, 1e9),
    "data_seed": (0, 2**32 - 1),
    "dataloader_num_workers": (0, 256),
}
NEED_A_MODEL = ("galore", "apollo", "lomo")  # optimizers whose settings cannot be checked before weights are loaded
# Set by other parts of the recipe, or without meaning here.
RESERVED = {
    "output_dir": "set output_dir at the top level",
    "seed": "set seed at the top level",
    "remove_unused_columns": "it has no meaning here",
    "eval_strategy": "use evaluation.every_steps",
    "eval_steps": "use evaluation.every_steps",
    "eval_on_start": "use evaluation.at_start",
    "disable_tqdm": "progress is a bar on a terminal, and a line every half minute elsewhere",
    "train_sampling_strategy": "data.balance and the tables' weights decide the order",
    "save_on_each_node": "all machines write into one output_dir, which they share",
    "save_only_model": "a checkpoint without the optimizer's state cannot be gone on with",
    "ignore_data_skip": "a resumed run goes on with the queries that it has not seen",
    "resume_from_checkpoint": "use crosslign train --resume",
    "push_to_hub": "it would send rollouts and judged answers too; use crosslign push when the run is finished",
}


def training_arguments(section: Mapping[str, Any], *, output_dir: str, seed: int) -> TrainingArguments:
    """TrainingArguments with our defaults below and the section on top; numbers in quotes are read as numbers.

    Raises CrosslignError for an unknown field, a field that is set elsewhere, a wrong value, or a set-up that
    distillation cannot run on.
    """
    fields = [f.name for f in dataclasses.fields(TrainingArguments) if f.init]
    hints = typing.get_type_hints(TrainingArguments)
    values = {**TRAINING_DEFAULTS, "dataloader_pin_memory": torch.cuda.is_available()}
    for key, value in section.items():
        if key in RESERVED:
            raise CrosslignError(f"training.{key}: cannot be set here: {RESERVED[key]}.")
        if key not in fields:
            raise CrosslignError(f"training: unknown key {key!r}. {nearest(key, fields)}")
        values[key] = _checked(key, value, hints[key])
    try:
        arguments = TrainingArguments(
            output_dir=output_dir, seed=seed, remove_unused_columns=False, disable_tqdm=True, **values
        )
        # Its settings are first read when training begins.
        steps = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        get_scheduler(arguments.lr_scheduler_type, steps, 1, 2, arguments.lr_scheduler_kwargs)
        if not any(name in str(arguments.optim).lower() for name in NEED_A_MODEL):
            Trainer.get_optimizer_cls_and_kwargs(arguments)
        get_reporting_integration_callbacks(arguments.report_to)
    except Exception as error:  # it raises many kinds, all of them about what it was given
        raise CrosslignError(f"training: {cause(error)}") from error
    here = (*get_available_reporting_integrations(), "azure_ml", "flyte")  # which it does not always list
    for tracker in arguments.report_to:
        if tracker not in here:
            raise CrosslignError(
                f"training.report_to: {tracker} is not installed, or an environment variable switches it off. Install "
                f"it (pip install {tracker}), or set training.report_to: none."
            )
    if arguments.n_gpu > 1:
        raise CrosslignError(
            f"{arguments.n_gpu} GPUs are visible to one process. Start one process for each GPU: "
            "`accelerate launch -m crosslign.cli train RECIPE`, or choose one with CUDA_VISIBLE_DEVICES=0."
        )
    if arguments.fsdp_config and not arguments.fsdp:
        raise CrosslignError("training.fsdp_config: has no effect without training.fsdp: true.")
    if (arguments.fsdp_config or {}).get("version", 2) != 2:
        raise CrosslignError("training.fsdp_config: version 1 is not supported. Leave the version out.")
    if _uses_fsdp(arguments):
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise CrosslignError(f"training.fsdp: torch {torch.__version__} is too old for it. Install a newer one.")
        if (arguments.fsdp_config or {}).get("activation_checkpointing"):
            raise CrosslignError(
                "training.fsdp_config: with its activation_checkpointing an adapter is saved empty. Set "
                "training.gradient_checkpointing: true instead."
            )
        # Otherwise gradients that wait for the end of an accumulation window would be whole on every process.
        waiting = arguments.accelerator_config.gradient_accumulation_kwargs or {}
        arguments.accelerator_config.gradient_accumulation_kwargs = {**waiting, "sync_each_batch": True}
    return arguments


def _checked(key: str, value: Any, hint: Any) -> Any:
    """The value, if it is of the field's type and range. A number may be written as text, such as "1e-5"."""
    kinds = {typing.get_origin(kind) or kind for kind in (hint, *typing.get_args(hint))}
    if not kinds & {int, float} or (value is None and type(None) in kinds):
        types = tuple(kind for kind in kinds if isinstance(kind, type))
        if key == "fsdp":  # true is what its documentation says, beside the older texts
            types = (*types, bool)
        if not isinstance(value, types):
            names = " or ".join(sorted(t.__name__ for t in types if t.__module__ == "builtins"))
            raise CrosslignError(f"training.{key}: expected {names}, found {excerpt(repr(value), 100)}.")
        return value
    number = value
    if isinstance(value, str) and value.isascii():
        with contextlib.suppress(ValueError):
            number = float(value) if float in kinds else int(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        what = f"the text {value[:100]!r}" if isinstance(value, str) else type(value).__name__
        raise CrosslignError(f"training.{key}: expected a number, found {what}.")
    if key == "max_steps" and number == 0:  # the Trainer would make one
        raise CrosslignError("training.max_steps: 0 trains nothing. Set a number from 1, or -1 for num_train_epochs.")
    low, high = RANGES.get(key, RANGES[""])
    if not low <= number <= high:
        raise CrosslignError(f"training.{key}: {number} is out of range; it is a number from {low:g} to {high:g}.")
    if float not in kinds and number != int(number):
        raise CrosslignError(f"training.{key}: expected a whole number, found {number}.")
    return number if float in kinds else int(number)


def check_processes(arguments: TrainingArguments) -> None:
    """Raise CrosslignError for FSDP in a process that stands alone, which may prepare a run but not train."""
    if arguments.fsdp and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise CrosslignError(
            "training.fsdp: divides a model over processes, and this one stands alone. Start several with `accelerate "
            "launch -m crosslign.cli train RECIPE`, or set training.fsdp: false."
        )


def queries_per_step(arguments: TrainingArguments) -> int:
    """Of all processes together."""
    per_process: int = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return per_process * arguments.world_size


def has_engine(arguments: TrainingArguments) -> bool:
    """Whether FSDP or DeepSpeed is asked for, by the recipe or by `accelerate launch`."""
    return _uses_fsdp(arguments) or uses_deepspeed(arguments)


def uses_deepspeed(arguments: TrainingArguments) -> bool:
    """Whether DeepSpeed is asked for, by the recipe or by `accelerate launch`."""
    return bool(arguments.deepspeed) or _launched_with("DEEPSPEED")


def _uses_fsdp(arguments: TrainingArguments) -> bool:
    return bool(arguments.fsdp) or _launched_with("FSDP")


def _launched_with(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true")
