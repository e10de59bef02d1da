"""Client connections: requests are read, checked and handed on one after the other; answers are written in that order.

Invariants: at most one request of a connection is being answered; pipelined ones wait, bounded. A message that is
malformed gets one error and the connection ends. No timer per request: one sweep looks at `deadline`.
A client that closes its sending side counts as gone (as it does for nginx): only so a client that left is seen at once.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections import deque
from collections.abc import Callable
from time import monotonic, monotonic_ns
from typing import Protocol, cast

import httptools

from gemini_caching_proxy.errors import (
    HeadersTooLarge,
    MalformedRequest,
    MethodRefused,
    Overloaded,
    RequestRejected,
    RequestTimedOut,
)

from .heads import KnownHeads
from .http1 import CONTINUE, FieldTable, Request, ShapeTable, error_message, oversize, rebuild_head

LINGER_SECONDS = 2.0
"""How long a client that was answered early may pause in what it still sends, which is thrown away."""
LINGER_SECONDS_MOST = 30.0
YOUNG_SECONDS = 1.0
"""A connection that was just made is about to carry a request: a proxy that stops still waits for it."""
_NO_LINGER = struct.pack("ii", 1, 0)
AHEAD_BYTES_MOST = 64 * 1024
"""Read ahead of what is being answered (pipelined requests, bytes behind a WebSocket handshake). Beyond it reading
stops, and with it the noticing of a client that leaves."""


class Passage(Protocol):
    """One request on its way, as its client connection sees it."""

    def client_data(self) -> None:
        """More of the body is in `request.pieces`, or `request.complete` became true."""

    def client_paused(self, paused: bool) -> None:
        """The client reads slower than we write (or caught up)."""

    def client_broke(self, error: RequestRejected) -> None:
        """The rest of the request will not come in an acceptable form."""

    def client_gone(self) -> None:
        """The connection is lost."""


class Downstream:
    """What the client connections of a worker share."""

    def __init__(
        self,
        start: Callable[[ClientConnection, Request], Passage | None],
        fields: FieldTable,
        shapes: ShapeTable,
        *,
        max_connections: int,
        header_timeout: float,
        body_timeout: float,
        keepalive_timeout: float,
        write_timeout: float,
    ) -> None:
        self.start = start
        self.fields = fields
        self.shapes = shapes
        self.heads = KnownHeads(fields)
        self.max_connections = max_connections
        self.header_timeout = header_timeout
        self.body_timeout = body_timeout
        self.keepalive_timeout = keepalive_timeout
        self.write_timeout = write_timeout
        self.connections: set[ClientConnection] = set()
        self.closing = False
        self.rejected = 0

    def __repr__(self) -> str:
        busy = sum(connection.busy for connection in self.connections)
        return f"<Downstream connections={len(self.connections)} busy={busy} rejected={self.rejected}>"

    def connection(self) -> ClientConnection:
        """A protocol for one accepted connection."""
        return ClientConnection(self)

    def sweep(self, now: float) -> None:
        """End what is over its deadline; to be called a few times a second with `time.monotonic()`."""
        for connection in [one for one in self.connections if one.deadline < now]:
            connection.expire()

    def close_idle(self) -> None:
        """Stop keeping connections alive: idle ones end now, busy ones after their answer, new ones a little later."""
        self.closing = True
        young = monotonic() - YOUNG_SECONDS
        for connection in [one for one in self.connections if not one.busy and one.made < young]:
            connection.close()


class ClientConnection(asyncio.Protocol):
    """One client connection; also the callbacks of its llhttp parser."""

    __slots__ = (
        "_advancing",
        "_ahead_bytes",
        "_begun",
        "_current",
        "_fields",
        "_finished",
        "_head_bytes",
        "_head_deadline",
        "_linger_end",
        "_lingering",
        "_parser",
        "_passage",
        "_paused_for_pipeline",
        "_paused_for_upstream",
        "_read_size",
        "_refusal",
        "_requests",
        "_shared",
        "_switching",
        "_writing_paused",
        "deadline",
        "made",
        "peer",
        "transport",
        "write",
    )

    def __init__(self, shared: Downstream) -> None:
        self._shared = shared
        self._fields = shared.fields
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[Request] = deque()
        self._current = Request()
        self._passage: Passage | None = None
        self._refusal: RequestRejected | None = None
        self._head_bytes = 0
        """Bytes read since a message began, or since the last piece of its body."""
        self._head_deadline = math.inf
        self._read_size = 0
        self._ahead_bytes = 0
        self._advancing = False
        self._begun = False
        self._lingering = False
        self._linger_end = 0.0
        self._switching = False
        self._writing_paused = False
        self._finished = False
        self._paused_for_upstream = False
        self._paused_for_pipeline = False
        self.deadline = math.inf
        self.made = 0.0
        """When the connection was made, if it has carried no request yet; else 0."""
        self.peer = ""
        self.transport: asyncio.Transport
        self.write: Callable[[bytes], None]

    def __repr__(self) -> str:
        return f"<ClientConnection {self.peer} requests={len(self._requests)} busy={self.busy}>"

    @property
    def busy(self) -> bool:
        """Whether a request is being read or answered."""
        return bool(self._requests)

    # Transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses
        self.transport = transport
        self.write = transport.write
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "local"
        shared = self._shared
        shared.connections.add(self)
        self.made = monotonic()
        self.deadline = self.made + shared.header_timeout
        if len(shared.connections) > shared.max_connections:
            self._refuse(Overloaded(f"All {shared.max_connections} client connections are taken: try again shortly."))

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self.deadline = min(monotonic() + LINGER_SECONDS, self._linger_end)
            return
        if self._switching:
            self._take_early(data)
            return
        if self._refusal is not None:
            return
        idle = not self._requests
        if idle:
            request = self._shared.heads.request(data)
            if request is not None:
                self._current = request
                self._requests.append(request)
                self._advance()
                return
        self._ahead_bytes += len(data)
        self._read_size = len(data)
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade_offered(data[upgrade.args[0] :])
        except httptools.HttpParserInvalidMethodError:
            self._refusal = MethodRefused("The request method is not known.")
        except httptools.HttpParserError as error:
            self._refusal = self._refusal or MalformedRequest(f"The request is not valid HTTP/1.1: {error}.")
        if self._begun and self._refusal is None:
            self._refusal = self._excess()
        if idle and self._refusal is None and self._current.complete and len(self._requests) == 1:
            self._shared.heads.learn(data, self._current)
        self._advance()

    def eof_received(self) -> bool:
        self._client_left()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.connections.discard(self)
        self._client_left()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.deadline = monotonic() + self._shared.write_timeout
        if self._passage is not None:
            self._passage.client_paused(True)

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._passage is not None:
            self._passage.client_paused(False)
        if self._finished:
            return
        if not self._requests:
            self.deadline = monotonic() + self._shared.keepalive_timeout
        elif self._passage is None and not self._advancing:
            # It waited for the answer before it to be read.
            self._advance()
        else:
            self._set_deadline()

    # Parser callbacks

    def on_message_begin(self) -> None:
        self._current = Request()
        self._requests.append(self._current)
        self._begun = True
        self._head_bytes = self._read_size
        self._head_deadline = monotonic() + self._shared.header_timeout

    def on_url(self, url: bytes) -> None:
        self._current.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        current = self._current
        if current.shape is None:
            current.fields.append(self._fields[name, value])
        else:
            current.trailers.append((name, value))

    def on_headers_complete(self) -> None:
        request = self._current
        request.head_ns = monotonic_ns()
        parser = self._parser
        try:
            self._shared.shapes.settle(
                request, parser.get_method(), parser.get_http_version(), parser.should_keep_alive(), self._head_bytes
            )
        except RequestRejected as error:
            self._refusal = error
            raise
        assert request.shape is not None
        if request.shape.websocket and not parser.should_upgrade():
            self._refusal = MalformedRequest("The WebSocket handshake cannot be understood.")
            raise self._refusal
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._current.pieces.append(body)
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        request = self._current
        shape = request.shape
        assert shape is not None
        # llhttp skips the body of a message that offers an upgrade; `_upgrade_offered` sees to it.
        request.complete = not shape.upgrade or shape.websocket or not self._parser.should_upgrade()
        self._begun = False

    # What a passage calls

    def finish(self, data: bytes, close: bool = False) -> None:
        """Write the last bytes of the answer to the oldest request, and go on to the next."""
        if self._finished:
            return
        if data:
            self.write(data)
        request = self._requests.popleft()
        self.made = 0.0
        self._passage = None
        shape = request.shape
        if self._switching and request is self._current:
            # The switch was declined; what was sent in hope of it belongs to nobody.
            self._switching = False
            self._parser = httptools.HttpRequestParser(self)
            close = close or bool(request.pieces)
        if close or shape is None or not shape.keep_alive or not request.complete or self._shared.closing:
            self._end(lingering=not request.complete or bool(self._requests) or self._refusal is not None)
            return
        if not self._writing_paused:
            self.deadline = monotonic() + self._shared.keepalive_timeout
        if self._requests and self._requests[0].shape is None:
            self._head_deadline = monotonic() + self._shared.header_timeout
        if self._paused_for_upstream:
            # The upstream that was slow to read is gone.
            self.pause_reading(False)
        if self._advancing:
            return
        if self._requests or self._refusal is not None:
            self._advance()
        elif self._paused_for_pipeline:
            self._paused_for_pipeline = False
            self._ahead_bytes = 0
            self._apply_reading()

    def abort(self) -> None:
        """End the connection so that nobody can take what was sent for a whole answer."""
        self._passage = None
        self._finished = True
        self._reset()

    def cut(self, *, hard: bool) -> None:
        """End in the middle of an answer, in a way that cannot be taken for its end.

        An answer in chunks or of a known length is visibly incomplete when the connection closes; one that ends with
        the connection is only when the connection is reset (`hard`).
        """
        self._passage = None
        self._finished = True
        if hard:
            self._reset()
        else:
            self._close()

    def pause_reading(self, paused: bool) -> None:
        """Hold the client's body back while the upstream is slower."""
        if self._paused_for_upstream != paused:
            self._paused_for_upstream = paused
            self._apply_reading()
            self._set_deadline()

    def detach(self) -> asyncio.Transport:
        """Give the transport away, for a tunnel."""
        self._passage = None
        self._finished = True
        self.deadline = math.inf
        self._shared.connections.discard(self)
        return self.transport

    def close(self) -> None:
        """End after what was written has left."""
        self._finished = True
        self._close()

    def expire(self) -> None:
        """The deadline has passed."""
        request = self._requests[0] if self._requests else None
        if self._lingering or self._writing_paused or self.transport.is_closing():
            self.transport.abort()
        elif request is None:
            self.close()
        elif request.shape is None:
            self._refuse(RequestTimedOut(f"The request head took longer than {self._shared.header_timeout:g} s."))
        elif not request.complete and self._passage is not None:
            self._break(RequestTimedOut(f"The request body paused for over {self._shared.body_timeout:g} s."))
        else:
            self.transport.abort()

    # Inside

    def _advance(self) -> None:
        """Start or feed the passage of the oldest request, as long as there is something to do at once."""
        self._advancing = True
        requests = self._requests
        while requests and not self._finished:
            request = requests[0]
            shape = request.shape
            if shape is None:
                break
            if self._passage is None:
                if self._writing_paused or self._is_refused(request):
                    break
                if shape.expects_continue and not request.complete and not request.pieces and shape.minor_version:
                    self.write(CONTINUE)
                passage = self._shared.start(self, request)
                if not requests or requests[0] is not request:
                    continue
                self._passage = passage
            assert self._passage is not None
            self._passage.client_data()
            if requests and requests[0] is request:
                break
        self._advancing = False
        if self._refusal is not None and not self._finished:
            self._deliver_refusal()
        elif not self._finished:
            not_begun = bool(requests) and self._passage is None and requests[0].shape is not None
            if len(requests) <= 1 and not not_begun:
                self._ahead_bytes = 0
            too_far = self._ahead_bytes > AHEAD_BYTES_MOST
            if too_far != self._paused_for_pipeline:
                self._paused_for_pipeline = too_far
                self._apply_reading()
            self._set_deadline()

    def _set_deadline(self) -> None:
        if not self._requests or self._writing_paused or self._finished:
            return
        request = self._requests[0]
        if request.shape is None:
            self.deadline = self._head_deadline
        elif request.complete or self._paused_for_upstream:
            self.deadline = math.inf
        else:
            self.deadline = monotonic() + self._shared.body_timeout

    def _excess(self) -> RequestRejected | None:
        """The error for a message of which too much came that is not body."""
        limits = self._shared.shapes.limits
        if self._current.shape is None:
            return oversize(self._current, limits, self._head_bytes)
        if self._head_bytes > limits.max_header_bytes or len(self._current.trailers) > limits.max_header_fields:
            return HeadersTooLarge("The request's trailers or chunk extensions are too large.")
        return None

    def _is_refused(self, request: Request) -> bool:
        """Whether what is wrong is wrong with this request, of which nothing was forwarded yet."""
        return self._refusal is not None and request is self._current and not request.complete

    def _deliver_refusal(self) -> None:
        assert self._refusal is not None
        waiting = self._requests[0] if self._requests else None
        if waiting is None or (waiting is self._current and not waiting.complete):
            if self._passage is None:
                self._refuse(self._refusal)
            else:
                self._break(self._refusal)
        # Otherwise an earlier request is being answered: it goes first.

    def _refuse(self, error: RequestRejected) -> None:
        self._shared.rejected += 1
        self.write(error_message(error, close=True))
        self._requests.clear()
        self._end(lingering=True)

    def _break(self, error: RequestRejected) -> None:
        assert self._passage is not None
        self._refusal = None
        self._passage.client_broke(error)

    def _upgrade_offered(self, rest: bytes) -> None:
        request = self._current
        if request.shape is not None and request.shape.websocket:
            self._begun = False
            self._switching = True
            if rest:
                self._take_early(rest)
            return
        # Any other upgrade is declined by answering over HTTP/1.1, as RFC 9110 section 7.8 allows.
        self._parser = httptools.HttpRequestParser(self)
        self._requests.pop()
        self._begun = False
        self.data_received(rebuild_head(request) + rest)

    def _take_early(self, data: bytes) -> None:
        """Keep what was sent behind a handshake that is not answered yet."""
        pieces = self._current.pieces
        pieces.append(data)
        if sum(map(len, pieces)) > AHEAD_BYTES_MOST:
            self._paused_for_pipeline = True
            self._apply_reading()

    def _client_left(self) -> None:
        passage, self._passage = self._passage, None
        self._finished = True
        if passage is not None:
            passage.client_gone()

    def _apply_reading(self) -> None:
        if self._finished or self.transport.is_closing():
            return
        if self._paused_for_upstream or self._paused_for_pipeline:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _end(self, *, lingering: bool) -> None:
        self._finished = True
        if self._paused_for_pipeline or self._paused_for_upstream:
            self._paused_for_pipeline = self._paused_for_upstream = False
            self.transport.resume_reading()
        if lingering and self.transport.can_write_eof():
            # Closing with unread bytes would reset the connection and the answer might never be read.
            self._lingering = True
            self.transport.write_eof()
            self.deadline = monotonic() + LINGER_SECONDS
            self._linger_end = monotonic() + LINGER_SECONDS_MOST
        else:
            self._close()

    def _reset(self) -> None:
        """End by a reset: closing alone sends a FIN, which ends an answer that has no other end."""
        if not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _close(self) -> None:
        self.deadline = monotonic() + self._shared.write_timeout
        self.transport.close()
