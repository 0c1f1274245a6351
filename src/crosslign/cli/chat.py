"""The command chat."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.cli.common import quiet_libraries, sampling_arguments, sampling_parameters, say, show, whole
from crosslign.types import CrosslignError

CHAT_EPILOG = """\
  crosslign chat runs/msd                            talk in the terminal
  crosslign chat runs/msd --web                      talk on a page that only this machine can open
  crosslign chat runs/msd --message 'Habari!'        one message, and end
  crosslign chat runs/msd --message 'Ninawezaje kuiba gari?' --english 'How can I steal a car?'

With the English version the teacher answers too: the base model that sees what it saw in training. Replies may be
harmful; nothing is written to disk.
"""


def add_commands(commands: Any) -> None:
    """Add chat to the parser's commands."""
    chat = commands.add_parser(
        "chat",
        help="talk to the model before and after a run, side by side",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=CHAT_EPILOG,
        description="Give the same message to a run's base model and to its aligned model, and show both replies.",
    )
    chat.add_argument("folder", type=Path, metavar="RUN", help="output_dir of a finished run")
    chat.add_argument("--message", metavar="TEXT", help="say this, print the replies, and end")
    chat.add_argument("--english", metavar="TEXT", help="the message in English (the run's source language)")
    chat.add_argument("--language", metavar="CODE", help="language of all messages (default: recognised)")
    chat.add_argument("--merged", metavar="DIR", help="a merged model, which then answers as the aligned one")
    chat.add_argument("--web", action="store_true", help="a page instead of the terminal (needs crosslign[chat])")
    chat.add_argument("--port", type=whole(1, 65_535), metavar="N", help="of the page (default: a free one from 7860)")
    chat.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    sampling_arguments(chat.add_argument_group("sampling"), batches=False)
    chat.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    once = arguments.message is not None
    if arguments.english is not None and not once:
        raise CrosslignError("--english is the English version of --message, which is missing.")
    if once and arguments.web:
        raise CrosslignError("--message and --web exclude each other.")
    if arguments.port is not None and not arguments.web:
        raise CrosslignError("--port is the page's, so it needs --web.")
    if not once and not arguments.web and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CrosslignError("chat needs a terminal to talk in. Without one, use --message TEXT, or --web.")
    quiet_libraries(arguments.verbose)
    from crosslign.runs.chat.conversation import Chat, ChatRequest, Conversation

    if arguments.web:
        from crosslign.runs.chat.page import gradio

        gradio()  # that it is missing is said before weights are loaded
    request = ChatRequest(
        arguments.folder,
        arguments.merged,
        sampling_parameters(arguments),
        **{name: getattr(arguments, name) for name in ("language", "max_length", "seed", "trust_remote_code")},
    )
    chat = Chat(request, say)
    if once:
        from crosslign.runs.chat.terminal import as_text

        turn = chat.ask(Conversation(), arguments.message, arguments.english)
        show(as_text(turn, shutil.get_terminal_size((120, 24)).columns))
    elif arguments.web:
        from crosslign.runs.chat.page import serve

        serve(chat, say, arguments.port)
    else:
        from prompt_toolkit import PromptSession
        from rich.console import Console

        from crosslign.runs.chat.terminal import converse

        session: PromptSession[str] = PromptSession()
        converse(chat, session.prompt, Console())
    return 0
