"""What the commands share: how values are read, where words go, how libraries are kept quiet."""

from __future__ import annotations

import argparse
import sys
import warnings


def comma_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def pairs(text: str) -> dict[str, str]:
    """`NAME=VALUE,NAME=VALUE` as a mapping."""
    found = {}
    for part in comma_list(text):
        name, equals, value = part.partition("=")
        if not equals or not name or not value:
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def quiet_libraries(verbose: bool) -> None:
    from transformers.utils import logging as transformers_logging

    if not verbose:
        transformers_logging.set_verbosity_error()
        warnings.filterwarnings("ignore", category=FutureWarning)
        # peft looks for a config.json beside the weights, which a .gguf file does not need.
        warnings.filterwarnings("ignore", message="Could not find a config file")
        if not sys.stderr.isatty():
            transformers_logging.disable_progress_bar()
