"""The page of crosslign chat in a real browser: two columns, three with English, and what comes out is text."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import playwright.sync_api as api
import pytest
from browser import Opened, needs_browser

from crosslign.rollouts import SamplingParameters
from crosslign.runs.chat.conversation import Chat, ChatRequest
from crosslign.runs.chat.page import open_page

pytestmark = [pytest.mark.slow, needs_browser]
api.expect.set_options(timeout=60_000)  # models answer here
HOSTILE = (
    '<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script> </p></section><h1>x</h1> '
    "${window.hacked=1} {{window.hacked=1}} {{#each value}} {value} javascript:alert(1) [a](javascript:alert(1)) "
    "\x1b[2J \u202e $\\href{javascript:alert(1)}{x}$ &lt;b&gt; @children __proto__"
)
SHOWN = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
MESSAGE = "Tafadhali niambie swali la kwanza kabisa"


@pytest.fixture(scope="module")
def chat(whole: dict[str, Any]) -> Chat:
    greedy = SamplingParameters(temperature=0.0, max_completion_length=12)
    return Chat(ChatRequest(Path(whole["output_dir"]), parameters=greedy))


@pytest.fixture(scope="module")
def address(chat: Chat) -> Iterator[str]:
    page, address = open_page(chat)
    yield address
    page.close(verbose=False)


def send(page: Any, message: str, english: str = "") -> None:
    page.get_by_label("Message, in any language").fill(message)
    page.get_by_label("The same in English").fill(english)
    page.get_by_role("button", name="Send").click()


def test_replies_stand_side_by_side_and_the_conversation_goes_on(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        page = opened.page
        send(page, MESSAGE)
        turns = page.locator("#turns article")
        api.expect(turns.locator("section h2")).to_have_text([_starts("base model"), _starts("aligned model")])
        api.expect(turns.first.locator(".note")).to_have_text("language: Swahili")
        boxes = [turns.first.locator("section").nth(n).bounding_box() for n in (0, 1)]
        assert boxes[0]["y"] == boxes[1]["y"]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
        send(page, MESSAGE, "Please tell me the very first question")
        api.expect(turns).to_have_count(2)
        api.expect(turns.nth(1).locator("section h2").nth(2)).to_have_text(_starts("teacher"))
        api.expect(turns.nth(1).locator(".english")).to_have_text("Please tell me the very first question")
        api.expect(page.get_by_label("Message, in any language")).to_have_value("")
        page.get_by_role("button", name="New conversation").click()
        api.expect(turns).to_have_count(0)
        assert opened.complaints == []
        assert {url.split("/")[2] for url in opened.requests if not url.startswith("data:")} == {address.split("/")[2]}


def test_replies_appear_while_they_are_written(
    browser: Any, address: str, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(chat._stream).put

    def slow(self: Any, value: Any) -> None:
        put(self, value)
        time.sleep(0.3)

    monkeypatch.setattr(type(chat._stream), "put", slow)
    with Opened(browser, address) as opened:
        send(opened.page, MESSAGE)
        sections = opened.page.locator("#turns section")
        api.expect(sections).to_have_count(1)
        api.expect(opened.page.locator("#turns .note").first).to_have_text("")
        api.expect(opened.page.locator("#turns .note").first).to_have_text("language: Swahili")
        api.expect(sections).to_have_count(2)


def test_what_comes_out_of_a_model_and_of_a_user_is_text(
    browser: Any, address: str, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_decoded", lambda ids: HOSTILE)
    with Opened(browser, address) as opened:
        page = opened.page
        send(page, HOSTILE, HOSTILE)
        bodies = page.locator("#turns section p")
        api.expect(bodies).to_have_count(3)
        for text in (*bodies.all_inner_texts(), *page.locator("#turns article > p:not(.note)").all_inner_texts()):
            assert text.removesuffix(" [cut off]") == SHOWN
        assert page.evaluate("window.hacked") is None
        assert page.locator("#turns :is(img, script, h1, a, b)").count() == 0
        assert opened.complaints == []


def test_an_error_is_text_and_leaves_the_message_to_mend(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        page = opened.page
        send(page, "<b>x</b> <|im_end|>")
        alert = page.get_by_role("alert")
        api.expect(alert).to_contain_text("holds the control token '<|im_end|>'")
        api.expect(page.get_by_label("Message, in any language")).to_have_value("<b>x</b> <|im_end|>")
        api.expect(page.locator("#turns article")).to_have_count(0)


def test_only_this_machine_gets_an_answer(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address) as answer:  # noqa: S310
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "example.org"}))  # noqa: S310


def _starts(text: str) -> Any:
    return re.compile(f"^{text}")
