"""A real HTTP server that answers like an OpenAI-compatible endpoint, or fails to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[["Handler"], None]


class LocalEndpoint(ThreadingHTTPServer):
    """Plays ``acts`` in order, then repeats the last; ``seen`` is every request it got."""

    daemon_threads = True

    def __init__(self, acts: list[Act]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.acts = acts
        self.seen: list[dict[str, Any]] = []
        self.over = threading.Event()
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def bodies(self) -> list[dict[str, Any]]:
        return [request["body"] for request in self.seen]


class Handler(BaseHTTPRequestHandler):
    server: LocalEndpoint

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size))
        with self.server.guard:
            number = len(self.server.seen)
            self.server.seen.append(
                {"path": self.path, "headers": dict(self.headers), "body": body}
            )
        self.server.acts[min(number, len(self.server.acts) - 1)](self)

    def send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(*acts: Act) -> Iterator[LocalEndpoint]:
    server = LocalEndpoint(list(acts))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


# ---------------------------------------------------------------- what it can do


def says(text: str | None, *, finish: str = "stop", usage: tuple[int, int] | None = (7, 5)) -> Act:
    """A proper answer."""
    body: dict[str, Any] = {
        "model": "tiny-1",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        ],
    }
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return lambda handler: handler.send(200, json.dumps(body).encode())


def rows(*values: Any) -> Act:
    """An answer with one JSON value a line."""
    return says("\n".join(json.dumps(value, ensure_ascii=False) for value in values))


def fails(code: int, message: str = "", kind: str = "", **headers: str) -> Act:
    body = json.dumps({"error": {"message": message, "code": kind}}).encode()
    return lambda handler: handler.send(code, body, headers)


def sends(raw: bytes, code: int = 200, **headers: str) -> Act:
    return lambda handler: handler.send(code, raw, headers)


def hangs(handler: Handler) -> None:
    """Takes the question and says nothing until the test is over."""
    handler.server.over.wait(30)


def drips(handler: Handler) -> None:
    """Sends its answer a byte at a time, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.01):
        try:
            handler.wfile.write(b" ")
        except OSError:
            return


def drips_headers(handler: Handler) -> None:
    """Sends header letters one by one, for ever."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.over.wait(0.01):
        try:
            handler.wfile.write(b"z")
        except OSError:
            return


def hangs_up(handler: Handler) -> None:
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
