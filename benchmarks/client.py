"""The smallest clients that can be trusted with time: one request on one blocking connection, read to its end.

Blocking sockets, because an event loop would add its own wake-ups to every figure. llhttp does the framing.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from types import TracebackType

import httptools

from . import payloads

READ_BYTES = 65_536
TIMEOUT_SECONDS = 30.0


def request_bytes(target: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A POST as it goes on the wire."""
    fields = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "x-goog-api-key": payloads.CLIENT_KEY,
        "Content-Length": str(len(body)),
    } | (headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + body


class AnswerReader:
    """Collects one answer after another from the bytes of a connection; the callbacks are httptools'."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.complete = False
        self.parser = httptools.HttpResponseParser(self)

    def reset(self) -> None:
        self.body.clear()
        self.complete = False

    def feed(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


class HeadReader(AnswerReader):
    """Collects the fields of heads too, names in lower case."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.fields.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.lower()] = value

    @property
    def cache_status(self) -> str:
        """What the proxy's cache said (RFC 9211); empty where it said nothing."""
        return self.fields.get(b"cache-status", b"").decode()

    @property
    def is_hit(self) -> bool:
        return "hit" in [each.strip() for each in self.cache_status.split(";")]


@dataclass(frozen=True, slots=True)
class Timing:
    """One request, in microseconds from its sending."""

    first_byte_us: float
    last_byte_us: float
    status: int


class Connection:
    """A kept-alive connection for requests one after another."""

    def __init__(self, port: int, reader: AnswerReader | None = None) -> None:
        self.reader = reader or AnswerReader()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, request: bytes) -> None:
        self.reader.reset()
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes]:
        """The next bytes and when they were here (CLOCK_MONOTONIC, ns). Raises: ConnectionError at the end."""
        data = self.socket.recv(READ_BYTES)
        now = time.monotonic_ns()
        if not data:
            raise ConnectionError("the connection closed in the middle of an answer")
        self.reader.feed(data)
        return now, data

    def exchange(self, request: bytes) -> Timing:
        """Send and read to the end of the answer; `reader.body` then holds its body."""
        started = time.monotonic_ns()
        self.send(request)
        first = last = 0
        while not self.reader.complete:
            last, _ = self.receive()
            first = first or last
        return Timing((first - started) / 1e3, (last - started) / 1e3, self.reader.parser.get_status_code())
