"""Checkpoints are read by the Trainer, torch and peft; what they cannot read ends in one line."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from crosslign.models.adapter import ADAPTER_WEIGHTS
from crosslign.models.files import tensor_shapes, weight_files
from crosslign.types import CrosslignError, cause

_OF_THE_RECIPE = ("initial_lr", "weight_decay", "betas", "eps", "momentum")  # of an optimizer's groups


class _OtherNames(Exception):
    """A checkpoint's weights have other names than the model's."""


@contextmanager
def reading(checkpoint: str | Path | None) -> Iterator[None]:
    """What cannot be read of a checkpoint inside the block is a CrosslignError."""
    try:
        yield
    except (CrosslignError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # they raise many kinds
        # torch's own words are an advice to load it all the same.
        unsafe = isinstance(error, pickle.UnpicklingError)
        why = "a file is damaged, or a pickle of more than tensors and numbers" if unsafe else cause(error)
        mend = "Remove it, and --resume goes on from the one before it."
        if isinstance(error, ValueError):  # an optimizer's, of another number of groups or parameters
            mend = "Does it fit this recipe, training.optim above all?"
        elif isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            mend = "May this process read it?"
        raise CrosslignError(f"{checkpoint}: the checkpoint cannot be read: {why}. {mend}") from error


class CheckedCheckpoints(Trainer):
    """A Trainer that says what is wrong with a checkpoint that it resumes from, and reads no pickle of weights."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        with reading(folder):
            adapter = isinstance(self.model, PeftModel)
            if not self.is_fsdp_enabled:  # which has its own files, of tensors alone
                for file in [folder / ADAPTER_WEIGHTS] if adapter else weight_files(folder):
                    tensor_shapes(file)  # the Trainer would look elsewhere, and take a pickle
            try:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            except _OtherNames:
                settings = {"config": self.model.config, "dtype": self.model.dtype, "output_loading_info": True}
                found, information = type(self.model).from_pretrained(folder, **settings)
                if missing := sorted(information["missing_keys"]):  # filled with random numbers
                    raise CrosslignError(f"{folder}: the checkpoint lacks {missing[0]!r}, among others.") from None
                self.model.load_state_dict(found.state_dict())

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """transformers saves some models (mixtures of experts, text parts of larger ones) under other names than they
        have in memory, and the Trainer would go on with weights that it has not found."""
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        if load_result.unexpected_keys or set(load_result.missing_keys) - tied:
            raise _OtherNames

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As the Trainer's; but the numbers that a recipe sets stay the recipe's, not those that the checkpoint was
        made with. (DeepSpeed brings its own back.)"""
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        own = [{key: group[key] for key in _OF_THE_RECIPE if key in group} for group in groups]
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.is_deepspeed_enabled or self.optimizer is None:
            return
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)
        scheduler = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        if isinstance(scheduler, LambdaLR):  # as all schedules of transformers are that know no loss
            scheduler.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]
            rates = [
                rate * factor(scheduler.last_epoch)
                for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            ]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            scheduler._last_lr = rates  # what is logged

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_rng_state(checkpoint)
