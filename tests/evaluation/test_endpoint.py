"""The endpoint client against a local server: order, bounds, retries, errors, and what never leaves it."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fake_endpoint import AT_ONCE, Answer, FakeEndpoint, Script, failed, said
from hypothesis import given
from hypothesis import strategies as st

from crosslign.evaluation.endpoint import MALFORMED_TRIES, PROBE, Endpoint, EndpointReply, read_reply
from crosslign.http import transmissible
from crosslign.types import CrosslignError, Message

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def serving(script: Script, **arguments: Any) -> Iterator[tuple[FakeEndpoint, Endpoint]]:
    with FakeEndpoint(script) as server:
        yield server, Endpoint(server.url, "judge-7b", **{"timeout": 10.0, **arguments})


def echo(text: str, earlier: int) -> Answer:
    return said(f"reply to {text}")


def ask(endpoint: Endpoint, *texts: str, **arguments: Any) -> list[EndpointReply]:
    conversations = [[Message("user", text)] for text in texts]
    return endpoint.complete(conversations, **{"temperature": 0.0, "max_tokens": 5, **arguments})


# --- What is sent, what comes back


def test_nothing_of_the_environment_goes_to_a_server_that_is_not_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {KEY}\nX-Gateway: {KEY}")
    received: list[str] = []
    answer = FakeEndpoint.answer
    monkeypatch.setattr(
        FakeEndpoint,
        "answer",
        lambda s, path, body, headers: (received.append(str(headers)), answer(s, path, body, headers))[1],
    )
    with serving(echo, api_key_env=None) as (_, endpoint):
        ask(endpoint, "hello")
    assert received
    assert KEY not in "".join(received)


def test_a_request_carries_model_messages_and_settings() -> None:
    with serving(echo) as (server, endpoint):
        conversation = [Message("system", "be short"), Message("user", "hello")]
        replies = endpoint.complete([conversation], temperature=0.5, top_p=0.9, max_tokens=5, seed=3)
    assert replies == [EndpointReply("reply to hello", False, "stop", 7, 3)]
    assert server.requests == [
        {
            "path": "/v1/chat/completions",
            "model": "judge-7b",
            "messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "hello"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 5,
            "seed": 3,
        }
    ]
    assert server.authorizations == [f"Bearer {KEY}"]


def test_what_is_none_is_left_to_the_server() -> None:
    with serving(echo, api_key_env=None) as (server, endpoint):
        ask(endpoint, "hello", temperature=None)
    assert set(server.requests[0]) == {"path", "model", "messages", "max_tokens"}
    assert KEY not in str(server.authorizations)


def test_replies_keep_the_order_of_the_conversations_and_come_in_the_order_they_are_done() -> None:
    others_done = threading.Event()

    def script(text: str, earlier: int) -> Answer:
        if text == "slow":
            assert others_done.wait(10)
        return echo(text, earlier)

    arrived: list[tuple[int, threading.Thread]] = []

    def on_result(index: int, reply: EndpointReply) -> None:
        arrived.append((index, threading.current_thread()))
        if len(arrived) == 3:
            others_done.set()

    with serving(script, concurrency=2) as (_, endpoint):
        replies = ask(endpoint, "slow", "b", "c", "d", on_result=on_result)
    assert [r.text for r in replies] == ["reply to slow", "reply to b", "reply to c", "reply to d"]
    assert arrived == [(index, threading.current_thread()) for index in (1, 2, 3, 0)]


def test_never_more_requests_under_way_than_allowed_and_as_many_as_allowed() -> None:
    together = threading.Barrier(3)

    def script(text: str, earlier: int) -> Answer:
        together.wait(10)  # passes only three at a time: with fewer the test would fail here
        return echo(text, earlier)

    with serving(script, concurrency=3) as (server, endpoint):
        replies = ask(endpoint, *map(str, range(12)))
        assert ask(endpoint) == []
    assert [r.text for r in replies] == [f"reply to {i}" for i in range(12)]
    assert server.most_in_flight == 3


def test_it_works_where_an_event_loop_is_running_already() -> None:
    """As it is in a notebook."""

    async def cell() -> list[EndpointReply]:
        return ask(endpoint, "hello")

    with serving(echo) as (_, endpoint):
        assert asyncio.run(cell())[0].text == "reply to hello"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (said("abc", "length"), EndpointReply("abc", True, "length", 7, 3)),
        (said(None, "content_filter"), EndpointReply("", False, "content_filter", 7, 3)),
        (said("abc", None), EndpointReply("abc", False, "unknown", 7, 3)),
        (Answer(body=b'{"choices": [{"message": {"content": "x"}}]}'), EndpointReply("x", False, "unknown")),
        (Answer(body=b'{"choices": [{"message": {}, "finish_reason": "stop"}]}'), EndpointReply("", False, "stop")),
    ],
)
def test_finish_reasons_and_missing_fields(answer: Answer, expected: EndpointReply) -> None:
    assert read_reply(answer.body.decode()) == expected


def test_texts_that_have_no_utf8_form_are_sent() -> None:
    with serving(echo) as (server, endpoint):
        ask(endpoint, "a\ud800b\0c\ud83d\ude00")
    assert server.requests[0]["messages"][0]["content"] == "a\ufffdb\ufffdc\U0001f600"


@given(st.lists(st.one_of(st.characters(), st.sampled_from("\0\ud800\udbff\udc00\udfff"))).map("".join))
def test_transmissible_changes_nothing_but_nuls_and_surrogates(text: str) -> None:
    sent = transmissible(text)
    sent.encode("utf-8")
    assert "\0" not in sent
    assert transmissible(sent) == sent
    kept = "".join(c for c in text if c != "\0" and not "\ud800" <= c <= "\udfff")
    if len(kept) == len(text):
        assert sent == text
    position = 0  # what is kept stays, in its order
    for character in kept:
        position = sent.index(character, position) + 1


# --- What is tried again


@pytest.mark.parametrize(
    "trouble",
    [
        failed(429),
        failed(500),
        failed(408),
        Answer(502, b"<html>bad gateway</html>", {"Content-Type": "text/html", **AT_ONCE}),
        Answer(drop=True),
        Answer(body=b"{ not json"),
        Answer(body=b'{"choices": []}'),
        Answer(body=b'{"error": {"message": "overloaded"}}'),
        Answer(body=b'{"choices": [{"message": {"content": ["parts"]}}]}'),
        Answer(body=b"[" * 100_000),
        Answer(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        Answer(body=b"\xff\xfe"),
    ],
    ids=str,
)
def test_passing_trouble_is_tried_again(trouble: Answer) -> None:
    with serving(lambda text, earlier: trouble if earlier < 1 else echo(text, earlier)) as (server, endpoint):
        assert ask(endpoint, "hello")[0].text == "reply to hello"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (failed(500, "boom"), ("status 500: boom", "1 times")),
        (Answer(drop=True), ("Connection error", "after 1 retries", "Is a server running there")),
        (Answer(hang=True), ("timed out", "after 1 retries", "answer within 0.1 s")),
    ],
    ids=["500", "drop", "silent"],
)
def test_after_the_last_retry_the_error_says_what_and_how_many_are_done(
    trouble: Answer, words: tuple[str, ...]
) -> None:
    timeout = 0.1 if trouble.hang else 10.0
    with serving(lambda text, earlier: trouble, retries=1, timeout=timeout) as (server, endpoint):
        with pytest.raises(CrosslignError) as caught:
            ask(endpoint, "hello")
        url = server.url
    assert len(server.requests) == 2
    for part in (url, "'judge-7b'", *words, "conversation 1 of 1", "0 are done", "resume"):
        assert part in str(caught.value)


def test_what_is_done_before_the_endpoint_dies_is_delivered_and_the_rest_can_be_had_later() -> None:
    dead = False
    answered: list[str] = []

    def script(text: str, earlier: int) -> Answer:
        if len(answered) == 6 and dead:
            return Answer(drop=True)
        answered.append(text)
        return echo(text, earlier)

    texts = [str(i) for i in range(10)]
    kept: dict[int, EndpointReply] = {}
    with serving(script, retries=0, concurrency=1) as (_, endpoint):
        dead = True
        with pytest.raises(CrosslignError, match=r"conversation 7 of 10; 6 are done: resume"):
            ask(endpoint, *texts, on_result=kept.__setitem__)
        assert sorted(kept) == [0, 1, 2, 3, 4, 5]
        dead = False
        rest = ask(endpoint, *texts[6:])
    assert [kept[i].text for i in sorted(kept)] + [r.text for r in rest] == [f"reply to {t}" for t in texts]


def test_requests_under_way_are_delivered_when_another_one_fails() -> None:
    """The first is answered only after the client has asked for what the failure did not stop: nothing."""
    failing = threading.Event()

    def script(text: str, earlier: int) -> Answer:
        if text == "bad":
            failing.set()
            return failed(401)
        assert failing.wait(10)
        return failed(503) if earlier < 5 else echo(text, earlier)

    kept: dict[int, EndpointReply] = {}
    with (
        serving(script, concurrency=2) as (server, endpoint),
        pytest.raises(CrosslignError, match=r"status 401.*1 are done"),
    ):
        ask(endpoint, "good", "bad", *map(str, range(50)), on_result=kept.__setitem__)
    assert kept[0].text == "reply to good"
    assert [r["messages"][0]["content"] for r in server.requests if r["messages"][0]["content"].isdigit()] == []


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk full", "ctrl-c"])
def test_an_interrupt_or_a_result_that_cannot_be_kept_ends_the_call_and_waits_for_nothing(error: BaseException) -> None:
    hanging = threading.Event()

    def script(text: str, earlier: int) -> Answer:
        if text == "silent":
            hanging.set()
            return Answer(hang=True)
        assert hanging.wait(10)
        return echo(text, earlier)

    def on_result(index: int, reply: EndpointReply) -> None:
        raise error

    with serving(script, concurrency=2, timeout=5.0) as (server, endpoint):
        with pytest.raises(type(error)):
            ask(endpoint, "silent", *map(str, range(50)), on_result=on_result)
        # One that waited for the silent server would have asked it again.
        assert sum(r["messages"][0]["content"] == "silent" for r in server.requests) == 1
        assert len(server.requests) < 10


# --- What is not tried again


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "OPENAI_API_KEY"), (403, "another key or model"), (404, "/models lists those served"), (405, "status 405")],
)
def test_a_refusal_of_all_requests_fails_at_once_and_says_what_to_do(status: int, words: str) -> None:
    with serving(lambda text, earlier: failed(status, "denied"), concurrency=1) as (server, endpoint):
        with pytest.raises(CrosslignError) as caught:
            ask(endpoint, "a", "b", "c")
        url = server.url
    assert len(server.requests) == 1
    for part in (url, "'judge-7b'", "denied", words):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "no such model"}}',
        b'{"object": "error", "message": "no such model", "code": 404}',
        b'{"detail": "no such model"}',
        b'{"error": "no such model"}',
        b'["no such model"]',
        b"<h1>no such\r\nmodel.",
    ],
)
def test_the_servers_words_are_quoted_whatever_their_form(body: bytes) -> None:
    answer = Answer(404, body)
    with serving(lambda text, earlier: answer) as (_, endpoint), pytest.raises(CrosslignError) as caught:
        ask(endpoint, "hello")
    assert "status 404: " in str(caught.value)
    assert "no such model" in str(caught.value)


def test_an_unset_key_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with (
        serving(lambda text, earlier: failed(401)) as (_, endpoint),
        pytest.raises(CrosslignError, match="environment variable OPENAI_API_KEY; it is unset"),
    ):
        ask(endpoint, "hello")


REFUSALS = [
    failed(400, "too long for this model"),
    failed(413, "too long"),
    failed(422, "too long"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=["400", "413", "422"])
@pytest.mark.parametrize("texts", [("long", "a", "b"), ("long",), ("a", "long")])
def test_a_conversation_that_the_server_refuses_alone_does_not_stop_the_others(
    refusal: Answer, texts: tuple[str, ...]
) -> None:
    with serving(lambda text, n: refusal if text == "long" else echo(text, n), concurrency=1) as (_, endpoint):
        replies = ask(endpoint, *texts)
    for text, reply in zip(texts, replies, strict=True):
        if text == "long":
            assert (reply.text, reply.finish_reason, reply.truncated) == ("", "rejected", False)
            assert "too long" in reply.error
        else:
            assert reply.text == f"reply to {text}"


@pytest.mark.parametrize("refusal", REFUSALS, ids=["400", "413", "422"])
def test_a_setting_that_the_server_refuses_is_an_error(refusal: Answer) -> None:
    with (
        serving(lambda text, earlier: refusal, concurrency=1) as (server, endpoint),
        pytest.raises(CrosslignError, match=r"too long.*Change the setting.*the URL"),
    ):
        ask(endpoint, "a", "b")
    assert {r["messages"][0]["content"] for r in server.requests} == {"a", PROBE[0].content}


# --- The key, and other secrets


def test_the_key_is_in_no_message_log_repr_or_identity(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def script(text: str, earlier: int) -> Answer:
        return failed(500 if earlier == 0 else 401, f"Incorrect API key provided: {KEY}")

    with serving(script) as (server, endpoint), pytest.raises(CrosslignError) as caught:
        ask(endpoint, "hello")
    assert server.authorizations == [f"Bearer {KEY}"] * 2  # it was really in use
    assert "Retrying" in caplog.text
    shown = "".join(traceback.format_exception(caught.value))
    for text in (str(caught.value), shown, caplog.text, repr(endpoint), str(endpoint), str(endpoint.identity())):
        assert KEY not in text


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:hunter2@host/v1", "http://host/v1?key=hunter2", "http://host/v1#hunter2"),
        *("", "localhost:8000", "ftp://host/v1", "http://", "http://h/v1/chat/completions", "http://["),
        *("http://localhost:PORT/v1", "http://localhost:99999/v1"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused_and_a_secret_in_it_not_repeated(url: str) -> None:
    with pytest.raises(CrosslignError, match=r"must be like http.*api_key_env") as caught:
        Endpoint(url, "judge-7b")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-ключ", "sk-a\nb"])
def test_a_key_that_cannot_be_one(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", key)
    with pytest.raises(CrosslignError, match="OTHER_KEY") as caught:
        Endpoint("http://localhost:1/v1", "m", api_key_env="OTHER_KEY")
    assert key not in str(caught.value)


@pytest.mark.parametrize("arguments", [{"concurrency": 0}, {"retries": -1}, {"timeout": 0}])
def test_arguments_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(CrosslignError, match=next(iter(arguments))):
        Endpoint("http://localhost:1/v1", "m", **arguments)


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(CrosslignError, match=r"crosslign\[endpoint\]"):
        Endpoint("http://localhost:1/v1", "m")


def test_identity_is_the_model() -> None:
    here, there = Endpoint("http://a:1/v1", "m"), Endpoint("http://b:2/v1/", "m")
    assert here.identity() == there.identity() == {"model": "m"}


# --- Untrusted replies


def test_an_error_quotes_only_the_beginning_of_a_malformed_reply() -> None:
    long = Answer(body=b"x" * 100_000)
    with serving(lambda text, earlier: long) as (_, endpoint), pytest.raises(CrosslignError) as caught:
        ask(endpoint, "hello")
    assert "xxxxx" in str(caught.value)
    assert len(str(caught.value)) < 800


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "finish_reason", "usage"]), inner, max_size=3
        )
    ),
)


@given(st.text() | JSON.map(json.dumps))
def test_any_body_is_a_reply_or_malformed(body: str) -> None:
    try:
        reply = read_reply(body)
    except ValueError:
        return
    assert reply.text == (json.loads(body)["choices"][0]["message"].get("content") or "")


# --- What a hostile server gets, and how long it may go on


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_nothing_goes_to_the_other_host(status: int) -> None:
    with FakeEndpoint(echo) as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        script = Answer(status, headers={"Location": f"{elsewhere}/chat/completions?key=1"})
        with serving(lambda text, earlier: script) as (server, endpoint), pytest.raises(CrosslignError) as error:
            ask(endpoint, "a secret question")
    assert other.requests == []
    assert len(server.requests) == 1
    assert server.url in str(error.value)
    assert f"redirects to {elsewhere.removesuffix('/v1')}. No redirect is followed" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("location", ["", "http://[", "//x:y/", "/v2/chat", "http://user:secret@host/\x1b[2J"])
def test_a_redirect_to_anything_is_refused_in_one_line(location: str) -> None:
    answer = Answer(307, headers={"Location": location})
    with serving(lambda text, earlier: answer) as (_, endpoint), pytest.raises(CrosslignError) as error:
        ask(endpoint, "hello")
    assert "No redirect is followed" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_reply_without_an_end_is_not_read_to_its_end(status: int) -> None:
    answer = Answer(status, b" " * 1_000_000, AT_ONCE, endless=0)
    with serving(lambda text, earlier: answer, retries=1) as (_, endpoint), pytest.raises(CrosslignError) as error:
        ask(endpoint, "hello")
    assert "a reply of more than 10 MB" in str(error.value)


def test_a_packed_reply_counts_as_what_it_unpacks_to() -> None:
    answer = Answer(body=gzip.compress(b" " * 40_000_000), headers={"Content-Encoding": "gzip"})
    with (
        serving(lambda text, earlier: answer, retries=0) as (_, endpoint),
        pytest.raises(CrosslignError, match="a reply of more than 10 MB"),
    ):
        ask(endpoint, "hello")


def test_a_reply_that_drips_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosslign.evaluation.endpoint.LONGEST_WAIT", 0.5)
    answer = Answer(body=b" ", endless=0.05)
    with (
        serving(lambda text, earlier: answer, retries=0, timeout=0.5) as (_, endpoint),
        pytest.raises(CrosslignError, match="no whole reply within 1 s"),
    ):
        ask(endpoint, "hello")


@pytest.mark.parametrize("wait", ["31536000", "1e400", "Fri, 31 Dec 9999 23:59:59 GMT", "-5", "nan", "yesterday"])
def test_no_server_makes_the_client_wait_for_long(wait: str) -> None:
    def script(text: str, earlier: int) -> Answer:
        return Answer(429, b"busy", {"retry-after": wait}) if not earlier else echo(text, earlier)

    with serving(script, retries=1) as (_, endpoint):
        if wait in ("-5", "nan", "yesterday"):
            assert ask(endpoint, "hello")[0].text == "reply to hello"
        else:
            with pytest.raises(CrosslignError, match="status 429"):
                ask(endpoint, "hello")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"choices": ' + b"9" * 10_000 + b"}",
        b'{"choices": []}',
        b'{"choices": {"0": 1}}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": ["a"]}}]}',
        b"\xff\xfe",
        b"",
    ],
    ids=["deep", "digits", "none", "mapping", "null", "no message", "list", "bytes", "empty"],
)
def test_a_reply_of_another_shape_is_an_error_and_the_others_are_delivered(body: bytes) -> None:
    """A gateway's page in the server's place is no word on the conversation, which is to be asked again."""
    answers = {"hello": Answer(body=body)}
    delivered: list[int] = []
    with (
        serving(lambda text, earlier: answers.get(text) or echo(text, earlier), concurrency=1) as (server, endpoint),
        pytest.raises(CrosslignError, match=r"no chat completion.*Check the URL.*1 are done: resume to go on"),
    ):
        ask(endpoint, "a", "hello", on_result=lambda index, reply: delivered.append(index))
    assert delivered == [0]
    assert len(server.requests) == 1 + MALFORMED_TRIES
