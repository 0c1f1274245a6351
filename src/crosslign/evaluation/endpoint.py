"""A client for OpenAI-compatible chat endpoints (vLLM, TGI, llama.cpp, OpenAI): many conversations in, replies out.

The API key comes from an environment variable and goes to `base_url` alone: into no message, log, repr or identity. So
do the conversations: no redirect is followed. What the server sends is bounded in size and in time (`crosslign.http`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from typing import Any

from crosslign.http import BUSY, EXCERPT, Connection, RequestFailed, transmissible, usable_url
from crosslign.types import CrosslignError, Message
from crosslign.untrusted import is_variable

PERHAPS_THE_CONVERSATION = frozenset({400, 413, 422})  # too long, filtered, or a setting that the server does not know
PROBE = (Message("user", "Say OK."),)
LONGEST_WAIT = 120  # seconds for which the library waits before a retry, if the server asks for it
MALFORMED_TRIES = 3  # of a request whose replies are no chat completions, at once: that is rarely the server's load


@dataclass(frozen=True, slots=True)
class EndpointReply:
    """One reply.

    Fields:
        text: the message's content; empty if there is none. Untrusted, and just as the server sent it.
        truncated: True if the token limit cut it off (finish_reason "length").
        finish_reason: the server's ("stop", "length", "content_filter", ...), "unknown" if it gave none, or "rejected":
            the server refuses this conversation though it answers others (longer than its context, or filtered).
        prompt_tokens, completion_tokens: the server's count, None if it gave none.
        error: the server's words, if rejected.
    """

    text: str
    truncated: bool
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str = ""


OnResult = Callable[[int, EndpointReply], None]


class Endpoint:
    """A model behind an OpenAI-compatible chat-completions endpoint.

    Arguments:
        base_url: for example `http://localhost:8000/v1`; the client adds `/chat/completions`.
        model: the name under which the server knows it.
        api_key_env: the environment variable with the API key. Unset is fine for a server without authentication; None
            sends no key, whatever the environment holds.
        concurrency: requests under way at once, at most.
        timeout: seconds that the server may stay silent.
        retries: tries after the first one, by the library: for 408, 409, 429, 5xx, time-outs and broken connections.
            It waits as long as the server asks for, else from 0.5 to 8 s: about a minute in all with the default.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 10,
    ) -> None:
        if not usable_url(base_url):
            # Not quoted: a user, a password or a query is probably a key.
            raise CrosslignError(
                "endpoint: the URL must be like http://localhost:8000/v1, without /chat/completions, user, password or "
                "query. Use api_key_env for the key."
            )
        if api_key_env is not None and not is_variable(api_key_env):
            raise CrosslignError(
                "endpoint: api_key_env (--api-key-env) is no name of an environment variable. Put the key into a "
                "variable, and name that."
            )
        if concurrency < 1 or retries < 0 or timeout <= 0:
            raise CrosslignError(
                f"endpoint: concurrency {concurrency}, timeout {timeout}, retries {retries}: "
                "these must be at least 1, more than 0 and at least 0."
            )
        self.base_url, self.model = base_url.rstrip("/"), model
        self.api_key_env, self.concurrency, self.timeout, self.retries = api_key_env, concurrency, timeout, retries
        key = _key(api_key_env)
        self.has_key = bool(key)
        self.connection = Connection(base_url, key=key, timeout=timeout, retries=retries)

    def identity(self) -> Mapping[str, str]:
        """What defines the replies besides the conversations. Not the URL: servers move between ports and hosts."""
        return {"model": self.model}

    def complete(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        temperature: float | None,
        top_p: float | None = None,
        max_tokens: int,
        seed: int | None = None,
        on_result: OnResult | None = None,
    ) -> list[EndpointReply]:
        """One reply for each conversation, in their order.

        `temperature`, `top_p` and `seed` are left to the server if None. Every conversation gets the same seed, so a
        reply does not depend on which others are asked for. `on_result(index, reply)` is called in the caller's thread
        as soon as each reply is there, in whatever order: append it to a file there, and nothing is lost when the
        endpoint dies. Texts are sent as `transmissible` makes them.

        Raises CrosslignError at once for 401, 403, 404 and other refusals of all requests, and after the last retry
        otherwise; requests under way are finished and delivered first. An interrupt (Ctrl-C), or an error of
        `on_result`, ends the requests under way: `concurrency` replies are lost at most.
        """
        if not conversations:
            return []
        settings = {"temperature": temperature, "top_p": top_p, "seed": seed, "max_tokens": max_tokens}
        given = {name: value for name, value in settings.items() if value is not None}
        replies: dict[int, EndpointReply] = {}
        failure: tuple[int, CrosslignError] | None = None
        with self.connection.open() as (portal, client):
            requests = _Requests(self, client, given)
            indices: dict[Future[EndpointReply | None], int] = {
                portal.start_task_soon(requests.answer, conversation): i for i, conversation in enumerate(conversations)
            }
            for future in as_completed(indices):
                try:
                    reply = future.result()
                except CrosslignError as error:
                    failure = failure or (indices[future], error)
                    continue
                if reply is not None:
                    replies[indices[future]] = reply
                    if on_result is not None:
                        on_result(indices[future], reply)
        if failure is not None:
            index, reason = failure
            raise CrosslignError(
                f"{reason} This was conversation {index + 1} of {len(conversations)}; {len(replies)} are done: "
                "resume to go on."
            ) from reason
        return [replies[i] for i in range(len(conversations))]

    def failure(self, said: str, status: int | None = None) -> CrosslignError:
        """The error for a request that the library has given up, with what to do about it; `status` None: no reply."""
        key = f"environment variable {self.api_key_env}" if self.api_key_env else "api_key_env, which is None"
        hints = {
            None: f"Given up after {self.retries} retries. Is a server running there, and does it answer within "
            f"{self.timeout:g} s?",
            200: "No chat endpoint answers there (a gateway, a login page?). Check the URL, which mostly ends in /v1.",
            401: f"Put a valid API key into {key}" + ("." if self.has_key else "; it is unset or empty now."),
            403: f"The API key in {key} may not use this model: use another key or model.",
            404: f"Check the model's name ({self.base_url}/models lists those served) and the URL.",
        }
        if status is not None and 300 <= status < 400:
            hint = "No redirect is followed: the conversations would go there. Name that URL if you trust it."
        elif status is not None and (status in BUSY or status >= 500):
            hint = f"Given up: the client tries again {self.retries} times, but not if it is to wait for minutes."
        else:
            otherwise = "Change the setting that the server names, or the model, or the URL, which mostly ends in /v1."
            hint = hints.get(status, otherwise)
        return CrosslignError(f"endpoint {self.base_url}, model {self.model!r}: {said}. {hint}")


class _Requests:
    """Those of one call of `Endpoint.complete`; all of this runs in the event loop's thread."""

    def __init__(self, endpoint: Endpoint, client: Any, settings: Mapping[str, Any]) -> None:
        self.endpoint, self.client, self.settings = endpoint, client, settings
        self.slots, self.probing = asyncio.Semaphore(endpoint.concurrency), asyncio.Lock()
        self.answered = self.failed = False

    async def answer(self, conversation: Sequence[Message]) -> EndpointReply | None:
        """The reply, "rejected" if the server refuses this conversation alone; None if another request has failed."""
        async with self.slots:
            if self.failed:
                return None
            try:
                reply = await self._post(conversation)
                # A setting that the server does not know is refused with the same status as a conversation. Which of
                # them is at fault shows in whether anything else is answered: the messages differ too much.
                async with self.probing:
                    if not self.answered and not self.failed:
                        await self._post(PROBE)
                if not self.answered:
                    raise self.endpoint.failure(reply.error, 400)
                return reply
            except CrosslignError:
                self.failed = True
                raise

    async def _post(self, conversation: Sequence[Message]) -> EndpointReply:
        """The reply, or "rejected" if the server refuses the request.

        Raises CrosslignError for all else, also if what comes is never a chat completion: a gateway or a login page
        answers in the server's place, and says nothing of the conversation.
        """
        endpoint = self.endpoint
        messages = [{"role": m.role, "content": transmissible(m.content)} for m in conversation]
        body = {"model": endpoint.model, "messages": messages, **self.settings}
        malformed = ""
        longest = (endpoint.retries + 1) * (endpoint.timeout + LONGEST_WAIT)
        try:
            for _ in range(MALFORMED_TRIES):
                text = await endpoint.connection.send(self.client, "/chat/completions", body, longest)
                try:
                    reply = read_reply(text)
                except ValueError as error:
                    malformed = endpoint.connection.redact(str(error))
                else:
                    self.answered = True
                    return reply
        except RequestFailed as error:
            if error.status not in PERHAPS_THE_CONVERSATION:
                raise endpoint.failure(error.said, error.status) from None
            return EndpointReply("", truncated=False, finish_reason="rejected", error=error.said)
        raise endpoint.failure(malformed, 200)


def read_reply(text: str) -> EndpointReply:
    """The first choice of a chat completion; raises ValueError, quoting `text`, if it is none."""
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        content = choice["message"].get("content")
        if content is not None and not isinstance(content, str):
            raise TypeError("content is no text")
        finish_reason = str(choice.get("finish_reason") or "unknown")
        usage = body.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        # `from None`: the cause would quote all of it.
        raise ValueError(f"a reply that is no chat completion ({type(error).__name__}): {text[:EXCERPT]}") from None
    counts = [usage.get(n) if isinstance(usage, dict) else None for n in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (c if isinstance(c, int) and not isinstance(c, bool) else None for c in counts)
    return EndpointReply(content or "", finish_reason == "length", finish_reason, prompt, completion)


def _key(variable: str | None) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()):
        raise CrosslignError(f"environment variable {variable} is no API key: it holds characters other than ASCII.")
    return key
