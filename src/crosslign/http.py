"""Requests to a server that speaks OpenAI's protocol or one like it: bounded, tried again, no redirects.

The `openai` library makes them: connections, time-outs, authentication, retries with growing waits. It is an extra:
`pip install 'crosslign[endpoint]'`. Its event loop runs in a thread of its own, so that this works in a notebook
too, and so that Ctrl-C ends requests and waits at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from crosslign.types import CrosslignError, excerpt

EXCERPT = 300  # characters of a server's message that an error quotes
MOST_BYTES = 10_000_000  # of a reply
BUSY = frozenset({408, 409, 429})


class RequestFailed(Exception):
    """A request that the library has given up: what was said, and the reply's status, None if there was no reply."""

    def __init__(self, said: str, status: int | None = None) -> None:
        super().__init__(said)
        self.said, self.status = said, status


class Connection:
    """One server.

    Arguments:
        base_url: what all paths begin with.
        key: goes to the server as authentication, and into no message; "" for none.
        timeout: seconds that the server may stay silent.
        retries: tries after the first one, for 408, 409, 429, 5xx, time-outs and broken connections. The library waits
            as long as the server asks for, else from 0.5 to 8 s.
        needed_by: begins the error where the library is missing.
    """

    def __init__(
        self, base_url: str, *, key: str = "", timeout: float = 60.0, retries: int = 10, needed_by: str = "An endpoint"
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise CrosslignError(f"{needed_by} needs the openai library: pip install 'crosslign[endpoint]'.") from error
        self.library: Any = openai
        self.base_url, self.timeout, self.retries = base_url.rstrip("/"), timeout, retries
        self._key = key

    @contextmanager
    def open(self) -> Iterator[tuple[Any, Any]]:
        """The portal of an event loop in another thread, and the client that lives there."""
        from anyio.from_thread import start_blocking_portal

        # Proxies and certificates come from the environment, as usual.
        http = self.library.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [read_bounded]})
        client = self.library.AsyncOpenAI(
            api_key=self._key or "none",  # the library insists on one
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.retries,
            http_client=http,
        )
        # The library takes these from the environment, whatever the server.
        client.organization = client.project = None
        client._custom_headers = {}
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            yield portal, client

    async def send(self, client: Any, path: str, body: Mapping[str, Any] | None, seconds: float) -> str:
        """The reply's text, within so many seconds, retries included; GET where there is no body. In the loop's thread.

        Raises RequestFailed.
        """
        from anyio import fail_after

        library = self.library
        try:
            with fail_after(seconds):
                if body is None:
                    return await client.get(path, cast_to=str)
                return await client.post(path, cast_to=str, body=body)
        # `from None`: the causes may quote the key.
        except ValueError as error:  # of `read_bounded`; some versions of the library make an APIError of it
            raise RequestFailed(str(error)) from None
        except TimeoutError:
            raise RequestFailed(f"no whole reply within {seconds:g} s") from None
        except library.APIStatusError as error:
            status = error.status_code
            if 300 <= status < 400:
                target = origin(error.response.headers.get("location", ""))
                said = f"status {status}: it redirects to {self.redact(target) or 'nowhere'}"
                raise RequestFailed(said, status) from None
            words = error.body.get("message") if isinstance(error.body, dict) else None
            words = words if isinstance(words, str) else error.response.text
            raise RequestFailed(f"status {status}: {self.redact(words or error.message)}", status) from None
        except library.APIError as error:
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise RequestFailed(self.redact(f"{error}{cause}")) from None

    def redact(self, text: str) -> str:
        """What a server said, short, on one line and without the key, which some servers quote."""
        if self._key:
            text = text.replace(self._key, "[API key]")
        return excerpt(" ".join(transmissible(text).split()).rstrip("."), EXCERPT)


async def read_bounded(response: Any) -> None:
    """Read a response's body, as the client would, but raise ValueError for one that is too large."""
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > MOST_BYTES:
            raise ValueError(f"a reply of more than {MOST_BYTES // 1_000_000} MB")
    response._content = bytes(data)  # what its `aread` would set


def origin(url: str) -> str:
    """Scheme, host and port of a URL, without what may be a secret in it; of a mere path the path."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "what is no URL"
    return f"{parts.scheme or 'http'}://{parts.hostname}{port}" if parts.hostname else parts.path


def transmissible(text: str) -> str:
    """`text` as every server can receive it: U+FFFD for each NUL and each lone surrogate, surrogate pairs joined.

    A lone surrogate has no UTF-8 form, and a NUL ends the text for servers written in C. Nothing else changes.
    """
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")


def usable_url(url: str) -> bool:
    """Whether a URL can be an endpoint's, and holds no user, password or query."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        more = parts.username or parts.password or parts.query or parts.fragment
        _ = parts.port
    except ValueError:  # also for a port that is no number
        return False
    return valid and not more and not url.rstrip("/").endswith("/completions")
