"""Both ends of a wire, by hand: an upstream that follows a script, and a client that sends and reads raw bytes.

Neither uses an HTTP library, so that neither corrects what a test wants to be wrong. Everything that waits is bounded.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

TIMEOUT = 15.0
_RESET = struct.pack("ii", 1, 0)

Headers = list[tuple[bytes, bytes]]


class Closed(Exception):
    """The other side ended the connection (or reset it) before what was wanted came."""


class Wire:
    """A connected socket with a buffer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.buffer = bytearray()
        self.received = bytearray()
        """Everything that was read."""
        self.sent_fin = False

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self, size: int = 65536) -> bytes:
        """Wait for bytes, put them into the buffer and return them. Raises Closed, TimeoutError."""
        try:
            data = self.sock.recv(size)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from None
        if not data:
            raise Closed("end")
        self.buffer += data
        self.received += data
        return data

    def until(self, mark: bytes) -> bytes:
        """Take from the buffer up to and with `mark`."""
        at = 0
        while (found := self.buffer.find(mark, at)) < 0:
            at = max(0, len(self.buffer) - len(mark))
            self.more()
        return self.exactly(found + len(mark))

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.more(min(1 << 20, max(65536, size - len(self.buffer))))
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    def to_the_end(self) -> bytes:
        """Everything until the other side ends. Raises ConnectionResetError if it does so by a reset."""
        while True:
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                raise
            if not data:
                taken, self.buffer = bytes(self.buffer), bytearray()
                return taken
            self.buffer += data
            self.received += data

    def ended(self, timeout: float = TIMEOUT) -> float:
        """Throw away what comes until the other side has ended or reset; the moment (`time.monotonic`) it did."""
        self.sock.settimeout(timeout)
        try:
            while True:
                self.more()
        except Closed:
            return time.monotonic()
        finally:
            with contextlib.suppress(OSError):
                self.sock.settimeout(TIMEOUT)

    def fin(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        self.sent_fin = True

    def rst(self) -> None:
        """Reset the connection."""
        with contextlib.suppress(OSError):
            raw = self.sock
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raw.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def head(self) -> tuple[bytes, Headers]:
        """First line and fields of a message."""
        lines = self.until(b"\r\n\r\n")[:-4].split(b"\r\n")
        fields = [line.partition(b":")[::2] for line in lines[1:]]
        return lines[0], [(name, value.strip()) for name, value in fields]

    def chunked(self) -> Iterator[bytes]:
        """The chunks of a body, then its trailer section as the last item's attribute-free bytes are thrown away."""
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            yield self.exactly(size)
            assert self.exactly(2) == b"\r\n"
        while (line := self.until(b"\r\n")) != b"\r\n":
            self.trailers.append(line[:-2])

    trailers: list[bytes]


def value_of(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a field, None for none."""
    return next((value for key, value in headers if key.lower() == name.lower()), None)


# The upstream


@dataclass
class Asked:
    """A request as the upstream read it."""

    line: bytes
    headers: Headers
    peer: Peer
    """The connection it came on."""
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        return value_of(self.headers, name)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]


class Peer(Wire):
    """One connection that an upstream accepted."""

    def __init__(self, sock: socket.socket, upstream: ScriptedUpstream) -> None:
        super().__init__(sock)
        self.upstream = upstream
        self.trailers = []
        self.requests: list[Asked] = []
        self.ended_at: float | None = None
        """`time.monotonic()` when the script saw the connection end."""

    def request_head(self) -> Asked:
        """Read a request's head only."""
        line, headers = self.head()
        asked = Asked(line, headers, self)
        self.requests.append(asked)
        self.upstream.requests.append(asked)
        return asked

    def request_body(self, asked: Asked) -> Asked:
        self.trailers = asked.trailers
        if (asked.header(b"transfer-encoding") or b"").lower() == b"chunked":
            asked.body = b"".join(self.chunked())
        else:
            asked.body = self.exactly(int(asked.header(b"content-length") or b"0"))
        return asked

    def request(self) -> Asked:
        """Read a whole request."""
        return self.request_body(self.request_head())

    def watch(self, timeout: float = TIMEOUT) -> float:
        """Wait until the proxy closes the connection."""
        self.ended_at = self.ended(timeout)
        return self.ended_at


Script = Callable[[Peer], None]


def respond(body: bytes = b"ok", *, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    """A response with a Content-Length; `headers` are whole lines."""
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def plain_answer(peer: Peer) -> None:
    """Answer every request with `ok`."""
    while True:
        peer.request()
        peer.send(respond())


def steps(*actions: bytes | str | Callable[[Peer], None]) -> Script:
    """A script from steps: after a whole request, bytes are sent; "rst", "fin", "stall" are done; calls are made.

    It begins anew with the next request on the connection, unless it ended it.
    """

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            for action in actions:
                if isinstance(action, bytes):
                    peer.send(action)
                elif action == "rst":
                    peer.rst()
                    return
                elif action == "fin":
                    peer.fin()
                    peer.watch()
                    return
                elif action == "stall":
                    peer.watch(60)
                    return
                elif callable(action):
                    action(peer)

    return script


class ScriptedUpstream:
    """Listens; each connection is a thread that runs `script`, which may be changed at any time for new connections."""

    def __init__(self, script: Script, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self.peers: list[Peer] = []
        self.requests: list[Asked] = []
        self.handshakes_failed = 0
        self.errors: list[BaseException] = []
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=1024)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._closing = False
        self._threads: list[threading.Thread] = []

    @property
    def script(self) -> Script:
        """What is done with a connection. A new one ends the connections that follow the old one."""
        return self._script

    @script.setter
    def script(self, script: Script) -> None:
        if script is not self._script:
            self._script = script
            self._end_connections()

    def _end_connections(self) -> None:
        for peer in list(self.peers):
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    def __enter__(self) -> Self:
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_connections()
        deadline = time.monotonic() + 2
        for thread in (self._accepting, *self._threads):
            # Daemons all: one that waits for something of its own may stay.
            thread.join(max(0, deadline - time.monotonic()))

    def forget(self) -> None:
        """Begin a new list of requests."""
        self.requests = []

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        if self._tls is not None:
            try:
                sock = self._tls.wrap_socket(sock, server_side=True)
            except OSError:
                self.handshakes_failed += 1
                sock.close()
                return
        peer = Peer(sock, self)
        self.peers.append(peer)
        try:
            self.script(peer)
        except (Closed, OSError, ValueError):
            peer.ended_at = peer.ended_at or time.monotonic()
        except BaseException as error:
            self.errors.append(error)
        finally:
            peer.close()


# The client


@dataclass
class Answered:
    """A response as the client read it."""

    status: int
    reason: bytes
    headers: Headers
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    trailers: list[bytes] = field(default_factory=list)
    interims: list[Answered] = field(default_factory=list)
    complete: bool = True
    """False: the connection ended in the middle of the body."""

    def header(self, name: bytes) -> bytes | None:
        return value_of(self.headers, name)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Client(Wire):
    """A client that speaks raw bytes."""

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(TIMEOUT)
        try:
            sock.connect((host, port))
            if tls is not None:
                sock = tls.wrap_socket(sock, server_hostname=host)
        except OSError:
            sock.close()
            raise
        super().__init__(sock)
        self.trailers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, *, head_only: bool = False) -> Answered:
        """Read one response, whole or as far as it comes. Raises Closed if not even its head comes."""
        interims: list[Answered] = []
        while True:
            line, headers = self.head()
            parts = line.split(b" ", 2)
            answered = Answered(int(parts[1]), parts[2] if len(parts) > 2 else b"", headers, interims=interims)
            if answered.status >= 200 or answered.status == 101:
                break
            interims.append(answered)
        if head_only or answered.status in (101, 204, 304):
            return answered
        self.trailers = answered.trailers
        length = answered.header(b"content-length")
        try:
            if answered.header(b"transfer-encoding") == b"chunked":
                for piece in self.chunked():
                    answered.chunks.append(piece)
            elif length is not None:
                answered.body = self._length(answered, int(length))
            else:
                answered.body = self.to_the_end()
        except (Closed, ConnectionError):
            answered.complete = False
        if answered.chunks:
            answered.body = b"".join(answered.chunks)
        return answered

    def _length(self, answered: Answered, length: int) -> bytes:
        try:
            return self.exactly(length)
        except (Closed, ConnectionError):
            answered.complete = False
            return bytes(self.buffer)

    def ask(self, request: bytes, *, head_only: bool = False) -> Answered:
        self.send(request)
        return self.answer(head_only=head_only)


def ask(port: int, request: bytes, *, head_only: bool = False) -> Answered:
    """One request on a connection of its own."""
    with Client(port) as client:
        return client.ask(request, head_only=head_only)


GENERATE = b"/v1beta/models/gemini-3.8-flash:generateContent"
STREAM = b"/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse"


def post(target: bytes = GENERATE, body: bytes = b'{"contents": []}', headers: bytes = b"") -> bytes:
    """A request as clients send it; `headers` are whole lines."""
    return (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nx-goog-api-key: key-of-a-test-client\r\n%b"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    ) % (target, headers, len(body), body)


def get(target: bytes = b"/v1beta/models", headers: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n" % (target, headers)
