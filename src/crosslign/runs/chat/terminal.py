"""The chat in a terminal: prompt_toolkit reads what is typed, rich puts the replies into columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import StringIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crosslign.languages import english_name
from crosslign.runs.chat.conversation import TITLES, Chat, Conversation, Side, Turn
from crosslign.types import CrosslignError
from crosslign.untrusted import is_blank, shown

HELP = """\
Type a message, in any language. Then type the same in English, and the teacher answers too; Enter leaves it out.
/reset  begin a new conversation: all sides forget the old one
/help   this text
/quit   end (so does Ctrl-D); Ctrl-C while the models answer takes the message back"""
Ask = Callable[[str], str]  # shows a prompt and returns a line; raises EOFError at the end of input


def converse(chat: Chat, ask: Ask, console: Console) -> None:
    """Talk until /quit or the end of input."""
    conversation = Conversation()
    _print(console, HELP)
    while True:
        try:
            text = ask("message> ").strip()
        except KeyboardInterrupt:  # clears what was typed
            continue
        except EOFError:
            return
        command = text.lower()
        if command == "/quit":
            return
        if command == "/reset":
            conversation = Conversation()
            _print(console, "A new conversation.")
        elif command.startswith("/"):
            _print(console, HELP if command == "/help" else f"There is no command {text}.\n{HELP}")
        elif not is_blank(text):
            try:
                _print(console, _turn(chat, conversation, text, ask, console))
            except (KeyboardInterrupt, EOFError):
                _print(console, "This message is taken back.")
            except CrosslignError as error:
                _print(console, str(error))


def _turn(chat: Chat, conversation: Conversation, text: str, ask: Ask, console: Console) -> Table:
    language, certain = chat.recognise(text, conversation)
    english = None
    if language != chat.source_language:
        said = f"{english_name(language)}{'' if certain else '?'}"
        english = ask(f"{said}; in {english_name(chat.source_language)} (Enter: without)> ").strip()
    written: dict[Side, str] = {}
    with Live(console=console, transient=True, refresh_per_second=8) as live:

        def on_text(side: Side, reply: str) -> None:
            written[side] = reply
            live.update(_table((TITLES[s], t) for s, t in written.items()))

        turn = chat.ask(conversation, text, english, on_text)
    return columns(turn)


def columns(turn: Turn) -> Table:
    """A turn's replies side by side."""
    return _table((turn.heading(side), turn.body(side)) for side in turn.replies)


def as_text(turn: Turn, width: int) -> str:
    """A turn for a file or a pipe, `width` characters wide."""
    console = Console(file=StringIO(), width=width, color_system=None, force_terminal=False)
    console.print(columns(turn))
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return f"{turn.language_line()}\n{written.rstrip()}"


def _table(cells: Iterable[tuple[str, str]]) -> Table:
    """Headings over texts. The texts are a model's: they are shown without what commands a terminal, as they are."""
    cells = list(cells)
    table = Table(expand=True, show_lines=True)
    for title, _ in cells:
        table.add_column(Text(title), ratio=1, overflow="fold")
    table.add_row(*(Text(shown(text)) for _, text in cells))
    return table


def _print(console: Console, what: str | Table) -> None:
    console.print(Text(shown(what)) if isinstance(what, str) else what)
