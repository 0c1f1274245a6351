"""What a chat endpoint and its users say to each other: replies, the texts that can be sent, and when to try again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from crosslign.types import Message

LONGEST_BACKOFF = 60.0  # seconds between two tries when the server names no time
EXCERPT = 300  # characters of a server's message that an error quotes


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


class ChatEndpoint(Protocol):
    """What `Endpoint` is to its users; a test's stand-in needs no more. `on_result`, if given, gets every reply."""

    def identity(self) -> Mapping[str, str]: ...

    def complete(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        temperature: float | None,
        top_p: float | None = None,
        max_tokens: int,
        seed: int | None = None,
        on_result: OnResult | None = None,
    ) -> list[EndpointReply]: ...


def transmissible(text: str) -> str:
    """`text` as every server can receive it: U+FFFD for each NUL and each lone surrogate, surrogate pairs joined.

    A lone surrogate has no UTF-8 form, and a NUL ends the text for servers written in C. Nothing else changes.
    """
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")


class MalformedReply(Exception):
    """What came with status 200 is no chat completion."""


def read_reply(text: str) -> EndpointReply:
    """The first choice of a chat completion; raises MalformedReply, quoting `text`, if it is none."""
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
        raise MalformedReply(f"a reply that is no chat completion ({type(error).__name__}): {text[:EXCERPT]}") from None
    counts = [usage.get(n) if isinstance(usage, dict) else None for n in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (c if isinstance(c, int) and not isinstance(c, bool) else None for c in counts)
    return EndpointReply(content or "", finish_reason == "length", finish_reason, prompt, completion)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply's headers ask to wait (`retry-after-ms`, `retry-after` as seconds or a date), or None."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds >= 0:  # neither negative nor NaN
            return seconds
    return None


def backoff_seconds(attempt: int, retry_after: float | None, jitter: float) -> float:
    """Seconds before the try after number `attempt` (from 0); `jitter` is uniform in [0, 1).

    The server's time plus up to a second if it named one, else between half of and all of `min(60, 2^attempt)`: random,
    so that requests that failed together do not come back together.
    """
    if retry_after is not None:
        return retry_after + jitter
    return min(LONGEST_BACKOFF, 2.0 ** min(attempt, 30)) * (1 + jitter) / 2
