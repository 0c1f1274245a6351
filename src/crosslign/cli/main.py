"""The command line's entry: what the commands share, and how errors end. Each family of commands has its file."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from crosslign import __version__
from crosslign.cli import align, bench, chat, demo, evaluate, share, tables, train, translate
from crosslign.cli.common import Parser, log_to_terminal, say
from crosslign.types import CrosslignError, Interrupted, cause

# Commands whose file's keys are flags.
TAKE_KEYS = ("align", "bench", "preferences", "probe", "serve-command", "steer", "train")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 fine, 1 an error that the message explains, 130 interrupted."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns as soon as a library imports it
    parser = command_parser()
    arguments, rest = parser.parse_known_args(argv)
    if not sys.stderr.isatty():
        # tqdm reads this when it is first imported, so it also quiets the bars of the libraries.
        os.environ.setdefault("TQDM_DISABLE", "1")
    log_to_terminal(arguments.verbose)
    try:
        if rest and arguments.command not in TAKE_KEYS:
            parser.error(f"unrecognised arguments: {' '.join(rest)}")
        return int(arguments.run(arguments, rest))
    except CrosslignError as error:
        say(f"crosslign: {error}")
        return 130 if isinstance(error, Interrupted) else 1
    except KeyboardInterrupt:
        say("crosslign: interrupted.")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # what the machine refuses: a name that is too long, a folder without permission
        logging.getLogger(__name__).info("", exc_info=True)
        say(f"crosslign: {cause(error)}")
        return 1


def command_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all commands."""
    parser = Parser(
        prog="crosslign",
        description="Make an open LLM as safe in every language as it already is in English, by Multilingual "
        "Self-Distillation: queries in, no responses needed.",
        epilog="Start with `crosslign demo`, then `crosslign align`. By steps: validate, probe, train, eval, compare.",
    )
    parser.add_argument("--version", action="version", version=f"crosslign {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on standard error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in (align, demo, tables, translate, train, evaluate, bench, chat, share):
        family.add_commands(commands)
    return parser
