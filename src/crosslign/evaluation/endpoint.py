"""A client for OpenAI-compatible chat endpoints (vLLM, TGI, llama.cpp, OpenAI): many conversations in, replies out.

The `openai` library speaks the protocol: connection pool, time-outs, authentication, and errors by kind, whichever HTTP
library its version stands on. Its own retries are switched off, because an evaluation needs other ones: they wait at
most 8 s, too short for a server that restarts; what they do with Retry-After depends on the version; and a reply that
is no chat completion is an error for them, where another try often helps. `openai` is an extra:
`pip install 'crosslign[endpoint]'`.

The API key comes from an environment variable and goes to `base_url` alone: into no message, log, repr or identity.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from typing import Any, Literal
from urllib.parse import urlsplit

from crosslign.evaluation.chat import (
    EXCERPT,
    EndpointReply,
    MalformedReply,
    OnResult,
    backoff_seconds,
    read_reply,
    retry_after_seconds,
    transmissible,
)
from crosslign.types import CrosslignError, Message

logger = logging.getLogger(__name__)

LONGEST_RETRY_AFTER = 300.0  # seconds; a server that asks for more is left alone until the user resumes
TRANSIENT = frozenset({408, 409, 425, 429})  # and all of 500 and above
PERHAPS_THE_CONVERSATION = frozenset({400, 413, 422})  # too long, filtered, or a setting that the server does not know
PROBE = (Message("user", "Say OK."),)
NO_KEY = "none"  # the library insists on a key; servers without authentication ignore it


class Endpoint:
    """A model behind an OpenAI-compatible chat-completions endpoint.

    Arguments:
        base_url: for example `http://localhost:8000/v1`; the client adds `/chat/completions`.
        model: the name under which the server knows it.
        api_key_env: the environment variable with the API key. Unset is fine for a server without authentication; None
            sends no key, whatever the environment holds.
        concurrency: requests under way at once, at most.
        timeout: seconds that the server may stay silent.
        retries: tries after the first one, for 408, 409, 425, 429, 5xx, time-outs, broken connections and replies that
            are no chat completion. With the default 6, a request gives up after about a minute of waiting.
        limit_field: OpenAI's reasoning models know only `max_completion_tokens`.
        extra_body: further fields of each request, as vLLM's `{"chat_template_kwargs": {"enable_thinking": False}}`.
            They change what the model says and are therefore part of `identity()`: no secrets here.
        sleep: called with seconds between tries; by default a wait that ends at once when another request has failed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 6,
        limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        extra_body: Mapping[str, Any] | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        _check_url(base_url)
        if concurrency < 1 or retries < 0 or timeout <= 0:
            raise CrosslignError(
                f"endpoint: concurrency {concurrency}, timeout {timeout}, retries {retries}: "
                "these must be at least 1, more than 0 and at least 0."
            )
        self.base_url, self.model = base_url.rstrip("/"), model
        self.api_key_env, self.concurrency, self.timeout, self.retries = api_key_env, concurrency, timeout, retries
        self.limit_field, self.extra_body = limit_field, dict(extra_body or {})
        self._sleep = sleep
        self._key = _key(api_key_env)
        self._openai = _library()
        # Proxies and certificates come from the environment, as usual.
        self._client = self._openai.OpenAI(
            api_key=self._key or NO_KEY, base_url=self.base_url, timeout=timeout, max_retries=0
        )

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r}, {self.model!r})"

    def identity(self) -> Mapping[str, str]:
        """What defines the replies besides the conversations. Not the URL: servers move between ports and hosts."""
        extra = {"extra_body": json.dumps(self.extra_body, sort_keys=True)} if self.extra_body else {}
        return {"model": self.model, **extra}

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
        otherwise; replies to requests under way are delivered first. An interrupt (Ctrl-C), or an error of
        `on_result`, waits for the requests under way but does not deliver them: `concurrency` replies at most.
        """
        settings = {"temperature": temperature, "top_p": top_p, "seed": seed, self.limit_field: max_tokens}
        given = {name: value for name, value in settings.items() if value is not None}
        return _Run(self, given).complete(conversations, on_result)

    def _post(self, conversation: Sequence[Message], settings: Mapping[str, Any]) -> EndpointReply:
        """One request, tried once; raises the library's errors, and MalformedReply for what is no chat completion."""
        messages = [{"role": m.role, "content": transmissible(m.content)} for m in conversation]
        create: Any = self._client.chat.completions.with_raw_response.create
        raw = create(model=self.model, messages=messages, **settings, extra_body=self.extra_body)
        return read_reply(raw.text)

    def _refusal(self, status: int | None, said: str) -> CrosslignError:
        """The error for a request that no retry can help, with what to do about it."""
        key = f"environment variable {self.api_key_env}" if self.api_key_env else "api_key_env, which is None"
        hints = {
            401: f"Put a valid API key into {key}" + ("." if self._key else "; it is unset or empty now."),
            403: f"The API key in {key} may not use this model: use another key or model.",
            404: f"Check the model's name ({self.base_url}/models lists those served) and the URL, which mostly "
            "ends in /v1.",
        }
        hint = hints.get(
            status or 0, "Change the setting that the server names (see Endpoint's arguments), or the model."
        )
        if status is not None:
            said = f"status {status}: {said}"
        return CrosslignError(f"{self._describe()}: {said}. {hint}")

    def _describe(self) -> str:
        return f"endpoint {self.base_url}, model {self.model!r}"

    def _redact(self, text: str) -> str:
        """What a server said, short, on one line and without the key, which some servers quote."""
        if self._key:
            text = text.replace(self._key, "[API key]")
        line = " ".join(transmissible(text).split()).rstrip(".")
        return line if len(line) <= EXCERPT else line[:EXCERPT] + " ..."


class _Stopped(Exception):
    """Another request failed for good: this one does not go on."""


class _Rejected(Exception):
    """The server refuses this conversation, or all with these settings."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"status {status}: {said}")
        self.status, self.said = status, said


class _Run:
    """One call of `Endpoint.complete`: what its threads share."""

    def __init__(self, endpoint: Endpoint, settings: Mapping[str, Any]) -> None:
        self.endpoint, self.settings = endpoint, settings
        self.stop = threading.Event()
        self.answered = False
        self.warned = False
        self.probing = threading.Lock()
        self.random = random.Random()  # not the global one, whose state is the caller's

    def complete(self, conversations: Sequence[Sequence[Message]], on_result: OnResult | None) -> list[EndpointReply]:
        replies: dict[int, EndpointReply] = {}
        failure: tuple[int, CrosslignError] | None = None
        if not conversations:
            return []
        with ThreadPoolExecutor(min(self.endpoint.concurrency, len(conversations))) as pool:
            indices: dict[Future[EndpointReply], int] = {
                pool.submit(self._ask, conversation): i for i, conversation in enumerate(conversations)
            }
            try:
                for future in as_completed(indices):
                    try:
                        reply = future.result()
                    except (CancelledError, _Stopped):
                        continue
                    except CrosslignError as error:
                        failure = failure or (indices[future], error)
                        self._end(indices)
                        continue
                    replies[indices[future]] = reply
                    if on_result is not None:
                        on_result(indices[future], reply)
            except BaseException:
                self._end(indices)
                raise
        if failure is not None:
            index, reason = failure
            raise CrosslignError(
                f"{reason} This was conversation {index + 1} of {len(conversations)}; {len(replies)} are done: "
                "resume to go on."
            ) from reason
        return [replies[i] for i in range(len(conversations))]

    def _end(self, futures: Mapping[Future[EndpointReply], int]) -> None:
        self.stop.set()
        for future in futures:
            future.cancel()

    def _ask(self, conversation: Sequence[Message]) -> EndpointReply:
        """The reply, or "rejected" if the server refuses this conversation alone."""
        try:
            try:
                return self._try(conversation)
            except _Rejected as rejection:
                # A setting that the server does not know is refused with the same status. Whether the conversation or
                # the setting is at fault shows in whether anything else is answered: the messages differ too much.
                if not self._anything_answered():
                    raise self.endpoint._refusal(rejection.status, rejection.said) from rejection
                return EndpointReply("", truncated=False, finish_reason="rejected", error=str(rejection))
        except CrosslignError:
            self.stop.set()  # here, not where the result is taken: this thread's next request would come first
            raise

    def _anything_answered(self) -> bool:
        with self.probing:
            if not self.answered:
                try:
                    self._try(PROBE)
                except _Rejected:
                    return False
            return True

    def _try(self, conversation: Sequence[Message]) -> EndpointReply:
        """Post until it succeeds, fails for good, or the retries are used up."""
        library, endpoint = self.endpoint._openai, self.endpoint
        attempt = 0
        while not self.stop.is_set():
            headers: Mapping[str, str] = {}
            try:
                reply = endpoint._post(conversation, self.settings)
            except library.APIStatusError as error:
                said, headers = endpoint._redact(_words(error.body) or error.message), error.response.headers
                if error.status_code in PERHAPS_THE_CONVERSATION:
                    raise _Rejected(error.status_code, said) from None
                transient = error.status_code in TRANSIENT or error.status_code >= 500
                if not transient or error.code == "insufficient_quota":
                    raise endpoint._refusal(error.status_code, said) from None  # its cause may quote the key
                said = f"status {error.status_code}: {said}"
            except library.APITimeoutError:
                said = f"silent for {endpoint.timeout:g} s (a longer timeout or a lower token limit may help)"
            except (library.APIError, MalformedReply) as error:
                cause = error.__cause__
                said = endpoint._redact(f"{error} ({cause})" if cause else str(error))
            else:
                self.answered = True
                return reply
            self._wait(attempt, said, retry_after_seconds(headers))
            attempt += 1
        raise _Stopped

    def _wait(self, attempt: int, said: str, retry_after: float | None) -> None:
        endpoint = self.endpoint
        if attempt >= endpoint.retries:
            raise CrosslignError(f"{endpoint._describe()}: given up after {attempt + 1} tries, the last: {said}.")
        if retry_after is not None and retry_after > LONGEST_RETRY_AFTER:
            raise CrosslignError(
                f"{endpoint._describe()}: asks to wait {retry_after:.0f} s ({said}). Resume after that."
            )
        seconds = backoff_seconds(attempt, retry_after, self.random.random())
        # One warning tells the user why it stalls; the rest would be a flood.
        level, self.warned = (logging.INFO if self.warned else logging.WARNING), True
        logger.log(level, "%s: %s; try %d in %.1f s", endpoint._describe(), said, attempt + 2, seconds)
        (endpoint._sleep or self.stop.wait)(seconds)


def _words(body: object) -> str:
    """What an error's body says: its message if it has one, as OpenAI's do, else all of it."""
    message = body.get("message") if isinstance(body, dict) else body
    if isinstance(message, str):
        return message
    return json.dumps(body, ensure_ascii=False) if body else ""


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        secret = bool(parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        valid, secret = False, False
    if secret:
        # Not quoted: what stands there is probably a key.
        raise CrosslignError(
            "endpoint: base_url holds a user, password, query or fragment. Use api_key_env for the key."
        )
    if not valid or url.rstrip("/").endswith("/completions"):
        raise CrosslignError(
            f"endpoint: base_url {url!r} must be like http://localhost:8000/v1, without /chat/completions."
        )


def _key(variable: str | None) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()):
        raise CrosslignError(f"environment variable {variable} is no API key: it holds characters other than ASCII.")
    return key


def _library() -> Any:
    try:
        import openai
    except ImportError as error:
        raise CrosslignError("An endpoint needs the openai library: pip install 'crosslign[endpoint]'.") from error
    return openai
