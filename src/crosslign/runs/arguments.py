"""transformers.TrainingArguments from a recipe's `training` section."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from crosslign.types import CrosslignError, nearest

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
    "resume_from_checkpoint": "use crosslign train --resume",
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
        values[key] = _number(key, value, hints.get(key))
    try:
        arguments = TrainingArguments(
            output_dir=output_dir, seed=seed, remove_unused_columns=False, disable_tqdm=True, **values
        )
    except (TypeError, ValueError, ImportError) as error:
        raise CrosslignError(f"training: {error}") from error
    if arguments.n_gpu > 1:
        raise CrosslignError(
            f"{arguments.n_gpu} GPUs are visible to one process. Start one process for each GPU: "
            "`accelerate launch -m crosslign.cli train RECIPE`, or choose one with CUDA_VISIBLE_DEVICES=0."
        )
    if arguments.fsdp:
        # Otherwise gradients that wait for the end of an accumulation window would be whole on every process.
        waiting = arguments.accelerator_config.gradient_accumulation_kwargs or {}
        arguments.accelerator_config.gradient_accumulation_kwargs = {**waiting, "sync_each_batch": True}
    return arguments


def _number(key: str, value: Any, hint: Any) -> Any:
    """A number written as text, such as "1e-5", where the field wants a number."""
    kinds = {hint, *typing.get_args(hint)}
    if not isinstance(value, str) or str in kinds or not kinds & {int, float}:
        return value
    try:
        return float(value) if float in kinds else int(value)
    except ValueError:
        raise CrosslignError(f"training.{key}: expected a number, found the text {value!r}.") from None
