"""What the commands share: how values are read, where words go, how libraries are kept quiet."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from crosslign.types import MAX_SEED, CrosslignError, excerpt
from crosslign.untrusted import shown


def comma_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def whole(least: int, most: int = 10_000_000) -> Callable[[str], int]:
    """The type of a flag that takes a whole number in this range."""

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{excerpt(text, 40)!r} is no whole number from {least} to {most}")
        return number

    return read


def pairs(text: str) -> dict[str, str]:
    """`NAME=VALUE,NAME=VALUE` as a mapping."""
    found: dict[str, str] = {}
    for part in comma_list(text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=VALUE")
        if name in found:
            raise argparse.ArgumentTypeError(f"{name!r} is there twice: it takes one value")
        found[name] = value
    return found


def loading_arguments(group: Any) -> None:
    """How a model is loaded and asked, but for its name and revision."""
    group.add_argument("--chat-template", metavar="FILE", help="Jinja file, for a tokenizer without a chat template")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    group.add_argument("--quantization", choices=("nf4",), help="load the weights with 4 bits each (bitsandbytes)")
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
        quantization=arguments.quantization,
    )


def sampling_arguments(group: Any, *, batches: bool = True) -> None:
    """How completions are sampled, in `batches` or one by one; `sampling_parameters` reads the first three."""
    group.add_argument("--max-completion-length", type=whole(1), default=256, metavar="N", help="tokens (default: 256)")
    group.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    group.add_argument("--top-p", type=float, default=1.0)
    if batches:
        group.add_argument("--batch-size", type=whole(1), default=16, metavar="N")
    group.add_argument("--max-length", type=whole(8), default=2048, metavar="N", help="longest context in tokens")
    group.add_argument("--seed", type=whole(0, MAX_SEED), default=0, help="seed of all random draws (default: 0)")


def context_arguments(group: Any) -> None:
    """What stands around a query: nothing, or a teacher's prompt."""
    group.add_argument(
        "--context",
        choices=("student", "teacher"),
        default="student",
        help="complete what a user sends, or the teacher's context (default: student)",
    )
    group.add_argument(
        "--template", default="instruct", help="teacher template: instruct, judged, dialogue, system, or a file"
    )
    group.add_argument("--max-judgement-length", type=whole(1), default=128, metavar="N")


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
    """Print on standard error. All that crosslign prints goes through this, `show`, a log record, a bar or the chat."""
    print(shown(text), file=sys.stderr, flush=True)  # noqa: T201


def show(text: str = "", end: str = "\n") -> None:
    """Print a command's result on standard output."""
    print(shown(text), end=end)  # noqa: T201


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors quote what was given as a terminal may show it."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(shown(message), file)


class LogFormatter(logging.Formatter):
    """Log records, tracebacks included, as a terminal may show them."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def log_to_terminal(verbose: bool) -> None:
    """Let log records, warnings and the last words of a crash reach standard error, and only as `shown`."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = lambda *crash: say("".join(traceback.format_exception(*crash)).rstrip())


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def quiet_libraries(verbose: bool) -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()  # to the handler of `log_to_terminal`
    if not verbose:
        transformers_logging.set_verbosity_error()
        logging.getLogger("DeepSpeed").addFilter(_is_error)  # its level is set when it is imported
        warnings.filterwarnings("ignore", category=FutureWarning)
        # peft looks for a config.json beside the weights, which a .gguf file does not need.
        warnings.filterwarnings("ignore", message="Could not find a config file")
        if not sys.stderr.isatty():
            transformers_logging.disable_progress_bar()
