"""Many identical requests at once, none of them answered before: how many of them reach the upstream.

The upstream answers nobody until all requests have been sent, so all of them are under way at the same time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import payloads
from .client import Connection, HeadReader, request_bytes
from .subjects import PROXY, Laboratory, Subject

TARGET = f"{payloads.STREAM_PATH}?{payloads.STREAM_QUERY}"
REQUESTS = 500
PAUSE_SECONDS = 0.3
"""From the first call on: time for others to come through, if any do."""


class HoldingServer:
    """An upstream that counts the calls it gets and answers them all with one stream when it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.called = threading.Event()
        self.released = threading.Event()
        self.answer = b"".join(payloads.stream_events(10))
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> HoldingServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def count(self) -> None:
        with self._lock:
            self.calls += 1
        self.called.set()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        holding = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                holding.count()
                holding.released.wait()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Content-Length", str(len(holding.answer)))
                self.end_headers()
                self.wfile.write(holding.answer)

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler


def run(lab: Laboratory, *, requests: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Send them through a fresh proxy; the result is ready for JSON. Raises: AbsentError."""
    with HoldingServer() as upstream:
        subject = lab.start_proxy(PROXY, lab.new_folder("collapse"), upstream.url)
        try:
            said = flood(subject, upstream, requests)
        finally:
            assert subject.process is not None
            lab.fleet.stop(subject.process, gently=False)
        calls = upstream.calls
    say(f"collapse: {requests} identical requests at once, {calls} upstream calls")
    collapsed = sum(count for text, count in said.items() if "collapsed" in text)
    hits = sum(count for text, count in said.items() if "; hit" in text)
    return {"requests": requests, "upstream_calls": calls, "collapsed": collapsed, "hits": hits}


def flood(subject: Subject, upstream: HoldingServer, requests: int) -> Counter[str]:
    """What the proxy's cache said to each. Raises: ValueError for an answer that is not the upstream's."""
    request = request_bytes(TARGET, payloads.with_number(payloads.numbered_body(), 1))
    with ExitStack() as stack:
        readers = [HeadReader() for _ in range(requests)]
        connections = [stack.enter_context(Connection(subject.port, reader)) for reader in readers]
        for connection in connections:
            connection.send(request)
        upstream.called.wait(PAUSE_SECONDS * 10)
        threading.Event().wait(PAUSE_SECONDS)
        upstream.released.set()
        said: Counter[str] = Counter()
        for connection, reader in zip(connections, readers, strict=True):
            read_to_end(connection)
            if reader.parser.get_status_code() != 200 or reader.body != upstream.answer:
                raise ValueError(f"an answer of {len(reader.body)} bytes is not the upstream's")
            said[reader.cache_status] += 1
    return said


def read_to_end(connection: Connection) -> None:
    """Raises: ValueError when nothing comes any more."""
    try:
        while not connection.reader.complete:
            connection.receive()
    except (TimeoutError, ConnectionError) as error:
        raise ValueError(f"an answer did not come to its end: {error}") from None
