"""A simulator in a thread, and a raw peer that sees every byte and how the connection ended."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gemini_caching_proxy.simulator import Server, Simulator, SimulatorThread

KEY = "x-goog-api-key: test-key"
SSE = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
ARRAY = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
UNARY = "/v1beta/models/gemini-2.5-flash:generateContent"
HELLO = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}


@dataclass(frozen=True)
class Answered:
    """What a raw peer saw."""

    raw: bytes
    ended: str
    """`fin`, `rst` or `silence` (nothing for a while)."""

    @property
    def head(self) -> bytes:
        return self.raw.split(b"\r\n\r\n", 1)[0]

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def wire_body(self) -> bytes:
        return self.raw.split(b"\r\n\r\n", 1)[1]

    @property
    def chunks(self) -> list[bytes]:
        """The chunks of a chunked body; AssertionError where the framing is broken or unfinished."""
        rest, found = self.wire_body, []
        while True:
            line, separator, rest = rest.partition(b"\r\n")
            assert separator, "the body ends within a chunk size"
            size = int(line, 16)
            if size == 0:
                return found
            assert rest[size : size + 2] == b"\r\n", "a chunk without its end"
            found.append(rest[:size])
            rest = rest[size + 2 :]

    @property
    def body(self) -> bytes:
        if b"transfer-encoding: chunked" in self.head.lower():
            return b"".join(self.chunks)
        return self.wire_body

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(line.split(": ", 1)[0], line.split(": ", 1)[1]) for line in lines]

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        return [json.loads(event.removeprefix(b"data: ")) for event in self.body.split(b"\r\n\r\n") if event]


class Peer:
    """Talks to a server in raw bytes."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def connect(self) -> socket.socket:
        return socket.create_connection((self.server.host, self.server.port), timeout=5)

    def send(
        self,
        target: str,
        body: Any = None,
        *headers: str,
        method: str = "POST",
        key: str | None = KEY,
        patience_s: float = 5.0,
        first_s: float | None = None,
    ) -> Answered:
        """One request on a connection of its own."""
        with self.connect() as sock:
            sock.sendall(request_bytes(target, body, *headers, method=method, key=key))
            return read_all(sock, patience_s, first_s)


def request_bytes(target: str, body: Any = None, *headers: str, method: str = "POST", key: str | None = KEY) -> bytes:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: simulator.test", "Connection: close", f"Content-Length: {len(data)}"]
    lines += [line for line in (key, *headers) if line]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def read_all(sock: socket.socket, patience_s: float = 5.0, first_s: float | None = None) -> Answered:
    """Everything until the end, or until nothing has come for `patience_s` (`first_s` for the first bytes)."""
    sock.settimeout(patience_s if first_s is None else first_s)
    raw = bytearray()
    try:
        while data := sock.recv(1 << 20):
            raw += data
            sock.settimeout(patience_s)
    except TimeoutError:
        return Answered(bytes(raw), "silence")
    except ConnectionResetError:
        return Answered(bytes(raw), "rst")
    return Answered(bytes(raw), "fin")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with SimulatorThread(seed=7) as simulator:
        yield simulator
        assert simulator.ledger.crashes == []


@pytest.fixture
def peer(simulator: Simulator) -> Peer:
    return Peer(simulator)
