"""Checkpoints are read by the Trainer, torch and peft; what they cannot read ends in one line."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import Trainer

from crosslign.models.adapter import ADAPTER_WEIGHTS
from crosslign.models.files import tensor_shapes, weight_files
from crosslign.types import CrosslignError, cause


@contextmanager
def reading(checkpoint: str | Path | None) -> Iterator[None]:
    """What cannot be read of a checkpoint inside the block is a CrosslignError."""
    try:
        yield
    except CrosslignError:
        raise
    except Exception as error:  # they raise many kinds
        # torch's own words are an advice to load it all the same.
        unsafe = isinstance(error, pickle.UnpicklingError)
        why = "a file is damaged, or a pickle of more than tensors and numbers" if unsafe else cause(error)
        raise CrosslignError(
            f"{checkpoint}: the checkpoint cannot be read: {why}. Remove it, and --resume goes on from the "
            "one before it."
        ) from error


class CheckedCheckpoints(Trainer):
    """A Trainer that says what is wrong with a checkpoint that it resumes from, and reads no pickle of weights."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        with reading(folder):
            adapter = isinstance(self.model, PeftModel)
            if not self.is_fsdp_enabled:  # which has its own files, of tensors alone
                for file in [folder / ADAPTER_WEIGHTS] if adapter else weight_files(folder):
                    tensor_shapes(file)  # the Trainer would look elsewhere, and take a pickle
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_rng_state(checkpoint)
