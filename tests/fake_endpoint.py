"""A chat-completions server on 127.0.0.1 whose answers a test scripts; it remembers what was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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


class FakeEndpoint:
    """`script(last message, number of earlier requests with it)` -> Answer; called in the request's thread."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.in_flight = self.most_in_flight = 0
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"]
                with fake._lock:
                    fake.requests.append({"path": self.path, **body})
                    fake.authorizations.append(self.headers.get("Authorization"))
                    fake.in_flight += 1
                    fake.most_in_flight = max(fake.most_in_flight, fake.in_flight)
                    earlier = fake._seen.get(text, 0)
                    fake._seen[text] = earlier + 1
                try:
                    answer = fake.script(text, earlier)
                finally:
                    # Before the reply goes out: the client may send its next request as soon as it has it.
                    with fake._lock:
                        fake.in_flight -= 1
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
                self.wfile.write(answer.body)
                self.close_connection = answer.endless is not None
                with contextlib.suppress(OSError):  # the client has had enough
                    while answer.endless is not None and not fake._ended.wait(answer.endless):
                        self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FakeEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
