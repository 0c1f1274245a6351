"""Servers on 127.0.0.1 for tests: one whose chat completions a test scripts, and what it shares with others."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import Self


@dataclass(frozen=True)
class Answer:
    """What the server does: `drop` closes the connection without a word, `hang` says nothing until the server ends,
    `endless` sends the body again and again, with so many seconds between."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    hang: bool = False
    endless: float | None = None


AT_ONCE = {"retry-after-ms": "1"}


def said(text: str | None, finish_reason: str | None = "stop") -> Answer:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return Answer(
        body=json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    )


def failed(status: int, message: str = "no") -> Answer:
    """An error, whose client need not wait before it tries again."""
    return Answer(status, json.dumps({"error": {"message": message, "type": "error"}}).encode(), AT_ONCE)


Script = Callable[[str, int], Answer]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; the tests read what is printed."""


class FakeServer:
    """A server on 127.0.0.1 that does what `answer` says; a subclass has its own. Called in the request's thread."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(fake.answer(self.path, None, self.headers))

            def do_POST(self) -> None:
                body = fake.decoded(self.path, self._body())
                self._send(fake.answer(self.path, body, self.headers))

            def do_PUT(self) -> None:
                self._send(fake.answer(self.path, self._body(), self.headers))

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers["Content-Length"]))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _send(self, answer: Answer) -> None:
                if answer.hang:
                    fake._ended.wait(30)
                if answer.hang or answer.drop:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                if answer.endless is None:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.close_connection = answer.endless is not None
                with contextlib.suppress(OSError):  # the client has had enough
                    self.wfile.write(answer.body)
                    while answer.endless is not None and not fake._ended.wait(answer.endless):
                        self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def answer(self, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        raise NotImplementedError

    def decoded(self, path: str, body: bytes) -> Any:
        """What `answer` gets of a POST."""
        return json.loads(body)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class FakeEndpoint(FakeServer):
    """`script(last message, number of earlier requests with it)` -> Answer."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.in_flight = self.most_in_flight = 0
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        super().__init__()

    def answer(self, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        text = body["messages"][-1]["content"]
        with self._lock:
            self.requests.append({"path": path, **body})
            self.authorizations.append(headers.get("Authorization"))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            earlier = self._seen.get(text, 0)
            self._seen[text] = earlier + 1
        try:
            return self.script(text, earlier)
        finally:
            # Before the reply goes out: the client may send its next request as soon as it has it.
            with self._lock:
                self.in_flight -= 1

    @property
    def url(self) -> str:
        return f"{self.root}/v1"
