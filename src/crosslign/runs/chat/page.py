"""The chat as a page that only this machine can open. Gradio, the extra `chat`, makes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from importlib import resources
from typing import Any

from markupsafe import Markup

from crosslign.runs.chat.conversation import TITLES, Chat, Conversation, Side, Turn
from crosslign.types import Announce, CrosslignError
from crosslign.untrusted import shown

HOST = "127.0.0.1"
SECONDS = 0.2  # between two looks at what is being written
MOST_CHARACTERS = 20_000  # of a message; the models' limit is lower
# The page asks no other server for anything. Gradio makes functions of text, and writes styles into elements.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def gradio() -> Any:
    """The library, told to report nothing to anybody. Raises CrosslignError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as found
    except ImportError as error:
        raise CrosslignError("--web needs Gradio, which is not installed: pip install 'crosslign[chat]'.") from error
    return found


def serve(chat: Chat, announce: Announce, port: int | None = None) -> None:
    """Open the page and keep it until Ctrl-C."""
    page, address = open_page(chat, port)
    announce(f"{address}  (only on this machine; Ctrl-C ends it)")
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)


def open_page(chat: Chat, port: int | None = None) -> tuple[Any, str]:
    """The page, being served, and its address. `port` None: a free one from 7860 on.

    Raises CrosslignError if the port is taken.
    """
    gr = gradio()
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    page = build(chat)
    # A page of another site that calls itself by this machine's address gets no answer.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            theme=gr.themes.Base(**fonts),
            css=resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8"),
            app_kwargs={"middleware": [hosts, Middleware(_Headers)]},
        )
    except OSError as error:
        raise CrosslignError(f"--port: {HOST} has no free port{'' if port is None else f' {port}'}: {error}") from error
    return page, address


class _Headers:
    """Writes `_HEADERS` on every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        await self.app(scope, receive, with_headers)


def build(chat: Chat) -> Any:
    """The page, not served yet."""
    gr = gradio()
    skip = gr.skip()  # leaves a field as it is: somebody may be typing
    one = ThreadPoolExecutor(1)  # one message at a time: the adapter is on or off for all who ask

    def send(text: str, english: str, conversation: Conversation) -> Iterator[tuple[Any, ...]]:
        written: dict[Side, str] = {}
        work = one.submit(chat.ask, conversation, text, english, written.__setitem__)
        yield text_of(conversation, asked=text), "", "", skip
        while not wait([work], SECONDS).done:
            yield text_of(conversation, asked=text, written=written), skip, skip, skip
        try:
            work.result()
        except CrosslignError as error:
            yield text_of(conversation, error=str(error)), text, english, skip
        else:
            yield text_of(conversation), skip, skip, conversation

    def reset() -> tuple[Any, ...]:
        return "", "", "", Conversation()

    with gr.Blocks(title="crosslign chat", analytics_enabled=False, fill_width=True) as page:
        conversation = gr.State(Conversation())
        shown_turns = gr.HTML(elem_id="turns", js_on_load=None)
        text = gr.Textbox(label="Message, in any language", elem_id="message", lines=2,
                          max_length=MOST_CHARACTERS)  # fmt: skip
        english = gr.Textbox(label="The same in English (optional): then the teacher answers too", elem_id="english",
                             max_length=MOST_CHARACTERS)  # fmt: skip
        with gr.Row():
            go = gr.Button("Send", variant="primary", elem_id="send")
            anew = gr.Button("New conversation", elem_id="reset")
        outputs = [shown_turns, text, english, conversation]
        hidden = {"api_visibility": "private", "show_progress": "hidden"}
        sent = gr.on([go.click, text.submit, english.submit], send, [text, english, conversation], outputs, **hidden)
        anew.click(reset, None, outputs, cancels=[sent], **hidden)
    return page


def text_of(
    conversation: Conversation, asked: str | None = None, written: Mapping[Side, str] | None = None, error: str = ""
) -> str:
    """The conversation as HTML, in which all text is escaped; the last turn may still be being written."""
    parts = [_turn(turn) for turn in conversation.turns]
    if asked is not None:
        cells = [(TITLES[side], text) for side, text in dict(written or {}).items()]
        parts.append(_article(asked, None, "", cells or [("", "...")]))
    if error:
        parts.append(Markup('<p class="error" role="alert">{}</p>').format(shown(error)))
    return str(Markup("\n").join(parts))


def _turn(turn: Turn) -> Markup:
    cells = [(turn.heading(side), turn.body(side)) for side in turn.replies]
    return _article(turn.message, turn.english, turn.language_line(), cells)


def _article(message: str, english: str | None, note: str, cells: Sequence[tuple[str, str]]) -> Markup:
    said: Callable[[str], str] = shown
    asked = Markup('<p class="asked" dir="auto">{}</p>').format(said(message))
    if english:
        asked += Markup('<p class="english" dir="auto">{}</p>').format(said(english))
    columns = Markup("").join(
        Markup('<section><h2>{}</h2><p dir="auto">{}</p></section>').format(title, said(text)) for title, text in cells
    )
    return Markup('<article>{}<p class="note">{}</p><div class="columns">{}</div></article>').format(
        asked, note, columns
    )
