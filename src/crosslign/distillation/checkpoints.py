"""Checkpoints are read by the Trainer, torch and peft; what they cannot read ends in one line."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
