"""What the commands share: how values are read, where words go, how libraries are kept quiet."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

from crosslign.types import CrosslignError


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


def natural(text: str) -> int:
    """A seed: 0, 1, 2, ..."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number from 0 to 999999999")
    return int(text)


def loading_arguments(group: Any) -> None:
    """How a model is loaded and asked, but for its name and revision."""
    group.add_argument("--chat-template", metavar="FILE", help="Jinja file, for a tokenizer without a chat template")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    group.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    group.add_argument("--thinking", action="store_true", help="let a thinking model think (off by default)")


def model_source(arguments: argparse.Namespace) -> Any:
    """`ModelSource` of `--model` and `loading_arguments`."""
    from crosslign.models import ModelSource

    return ModelSource(
        arguments.model,
        arguments.model_revision if "model_revision" in arguments else None,
        chat_template=arguments.chat_template,
        dtype=arguments.dtype,
        trust_remote_code=arguments.trust_remote_code,
    )


def sampling_arguments(group: Any) -> None:
    """How completions are sampled; `sampling_parameters` reads the first three."""
    group.add_argument("--max-completion-length", type=int, default=256, metavar="N", help="tokens (default: 256)")
    group.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    group.add_argument("--top-p", type=float, default=1.0)
    group.add_argument("--batch-size", type=int, default=16, metavar="N")
    group.add_argument("--max-length", type=int, default=2048, metavar="N", help="longest context in tokens")
    group.add_argument("--seed", type=natural, default=0, help="seed of all random draws (default: 0)")


def sampling_parameters(arguments: argparse.Namespace) -> Any:
    """`SamplingParameters`. Raises CrosslignError for a value out of range."""
    from crosslign.rollouts import SamplingParameters

    try:
        return SamplingParameters(
            arguments.temperature, arguments.top_p, max_completion_length=arguments.max_completion_length
        )
    except ValueError as error:
        raise CrosslignError(str(error)) from error


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
