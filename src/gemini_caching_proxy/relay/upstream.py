"""Upstream connections: a pool per origin, and reading answers.

Invariants: a connection answers one request at a time and is pooled again only after an exchange that was clean to
the byte; anything unexpected (bytes nobody asked for, a cancel, an error, a body past its end) closes it. Nothing is
retried. Answers reach the receiver in the same call in which their bytes were read.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol, cast

import aiohappyeyeballs
import httptools

from gemini_caching_proxy.errors import (
    ConnectFailed,
    ConnectTimeout,
    DnsFailed,
    IncompleteResponse,
    MalformedResponse,
    ReadTimeout,
    TlsFailed,
    UpstreamClosed,
    UpstreamError,
)

from .http1 import Field, FieldTable, Kind
from .origin import Origin, proxy_for, tls_context

MAX_HEAD_BYTES = 2 * 1024 * 1024
MAX_INTERIM_RESPONSES = 16


class Answer:
    """A response as it is being read. Body pieces are taken away as they are forwarded."""

    __slots__ = (
        "chunked",
        "complete",
        "fields",
        "head_done",
        "length",
        "pieces",
        "reason",
        "special",
        "status",
        "trailers",
    )

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.fields: list[Field] = []
        self.special: list[Field] = []
        """Those of the fields that are neither simply passed nor dropped."""
        self.pieces: list[bytes] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None
        self.chunked = False
        self.head_done = False
        self.complete = False


class Receiver(Protocol):
    """Who asked: gets the answer as it comes."""

    def upstream_data(self, answer: Answer) -> None:
        """The head became known, pieces came, or the answer is complete; whatever of it is new."""

    def upstream_interim(self, answer: Answer) -> None:
        """A 1xx response other than 101."""

    def upstream_switched(self, answer: Answer, rest: bytes) -> None:
        """101: the connection speaks another protocol from here; `rest` are its first bytes."""

    def upstream_failed(self, error: UpstreamError) -> None:
        """No more comes, and the answer is not complete."""

    def upstream_paused(self, paused: bool) -> None:
        """The upstream reads slower than we write (or caught up)."""


class UpstreamConnection(asyncio.Protocol):
    """One upstream connection; also the callbacks of its llhttp parser."""

    __slots__ = (
        "_answer",
        "_end_seen",
        "_fields",
        "_head_bytes",
        "_head_only",
        "_interims",
        "_keep_alive",
        "_may_switch",
        "_parser",
        "_pool",
        "_receiver",
        "_spoiled",
        "_spoken",
        "_stalled",
        "deadline",
        "idle_since",
        "pending",
        "transport",
        "write",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._fields = pool.fields
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._answer = Answer()
        self._head_only = False
        self._may_switch = False
        self._head_bytes = 0
        self._interims = 0
        self._keep_alive = False
        self._spoiled = False
        self._stalled = False
        self._spoken = False
        self._end_seen = False
        """Whether the upstream said that nothing more comes; over TLS a mere FIN does not say it."""
        self.deadline = math.inf
        self.idle_since = 0.0
        self.pending: Callable[[int], object] = lambda wait_ms: ()
        """What waits in the socket unread, if anything (`poll`)."""
        self.transport: asyncio.Transport
        self.write: Callable[[bytes], None]

    def __repr__(self) -> str:
        state = "idle" if self._receiver is None else "busy"
        return f"<UpstreamConnection {self._pool.origin.authority} {state}>"

    # What the receiver calls

    def ask(self, receiver: Receiver, *, head_only: bool, may_switch: bool) -> None:
        """Give the connection to a receiver; the request is then written with `write`."""
        self._receiver = receiver
        self._head_only = head_only
        self._may_switch = may_switch
        self._answer = Answer()
        self._head_bytes = 0
        self._interims = 0
        self.deadline = monotonic() + self._pool.first_byte_timeout

    def release(self, *, reusable: bool) -> None:
        """The exchange is over: pool the connection if everything about it was clean, close it otherwise."""
        self._receiver = None
        self.deadline = math.inf
        if reusable and not self._spoiled and not self._stalled and self._keep_alive:
            self._pool.put(self)
        else:
            self.close()

    def cancel(self) -> None:
        """Drop the exchange and the connection, at once."""
        self._receiver = None
        self._pool.drop(self)
        self.transport.abort()

    def close(self) -> None:
        self._pool.drop(self)
        self.transport.close()

    def detach(self) -> asyncio.Transport:
        """Give the transport away, for a tunnel."""
        self._receiver = None
        self.deadline = math.inf
        self._pool.drop(self)
        return self.transport

    def pause_reading(self, paused: bool) -> None:
        """Hold the answer back while the client is slower."""
        if self.transport.is_closing():
            return
        if paused:
            self.transport.pause_reading()
            self.deadline = math.inf
        else:
            self.transport.resume_reading()
            self.deadline = monotonic() + self._pool.idle_timeout

    def extend_deadline(self) -> None:
        """More of the request was sent: the wait for the first byte starts again."""
        if not self._answer.head_done:
            self.deadline = monotonic() + self._pool.first_byte_timeout

    def expire(self) -> None:
        """The deadline has passed."""
        pool = self._pool
        if self._answer.head_done:
            error = ReadTimeout(f"The upstream paused for over {pool.idle_timeout:g} s in the middle of its answer.")
        else:
            error = ReadTimeout(f"The upstream sent no answer within {pool.first_byte_timeout:g} s.")
        self._fail(error)

    # Transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses
        self.transport = transport
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        if self._receiver is None:
            # Bytes nobody asked for: they must never become the answer to the next request.
            self._spoiled = True
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switched(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if not self._answer.complete:
                why = error.__context__ or error
                self._broken(MalformedResponse(f"The upstream's answer is not valid HTTP/1.1: {why}."))
                return
            self._spoiled = True
        # Only now: an interim answer in front makes room for the next.
        answer = self._answer
        if not answer.head_done:
            # The first byte is there: from here pauses count.
            self.deadline = max(self.deadline, monotonic() + self._pool.idle_timeout)
            self._check_unfinished_head(len(data))
            return
        self.deadline = monotonic() + self._pool.idle_timeout
        receiver = self._receiver
        if receiver is not None:
            receiver.upstream_data(answer)

    def eof_received(self) -> bool:
        self._end_seen = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.drop(self)
        receiver, answer = self._receiver, self._answer
        if receiver is None:
            return
        ends_by_close = answer.head_done and not answer.chunked and answer.length is None
        if ends_by_close and self._end_seen and exc is None and not self._spoiled:
            answer.complete = True
            self._spoiled = True
            receiver.upstream_data(answer)
            return
        if answer.head_done:
            self._fail(IncompleteResponse("The upstream closed the connection in the middle of its answer."))
        else:
            self._fail(UpstreamClosed("The upstream closed the connection without an answer."))

    def pause_writing(self) -> None:
        self._stalled = True
        if self._receiver is not None:
            self._receiver.upstream_paused(True)

    def resume_writing(self) -> None:
        self._stalled = False
        if self._receiver is not None:
            self._receiver.upstream_paused(False)

    # Parser callbacks

    def on_message_begin(self) -> None:
        if self._answer.complete:
            # A second answer to one request.
            self._spoiled = True
            raise ValueError("unsolicited answer")

    def on_status(self, reason: bytes) -> None:
        self._answer.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        if answer.head_done:
            answer.trailers.append((name, value))
        else:
            field = self._fields[name, value]
            answer.fields.append(field)
            if field[1] > 1:
                answer.special.append(field)

    def on_headers_complete(self) -> None:
        answer = self._answer
        parser = self._parser
        answer.status = status = parser.get_status_code()
        if not self._spoken:
            version = parser.get_http_version()
            if version not in ("1.1", "1.0"):
                raise ValueError(f"version {version}")
            self._spoken = True
        for field in answer.special:
            if field.kind == Kind.LENGTH:
                answer.length = int(field.value)
            elif field.kind == Kind.CODING:
                answer.chunked = True
            elif field.kind == Kind.UNKNOWN_CODING:
                raise ValueError("unknown transfer coding")
        if status == 101 and not parser.should_upgrade():
            raise ValueError("101 that names no protocol")
        if status < 200 and status != 101:
            return
        answer.head_done = True
        # llhttp forgets this when the message is complete.
        self._keep_alive = parser.should_keep_alive()
        if self._head_only or status in (204, 304):
            # llhttp does not know what was asked: the answer to HEAD ends with its head (RFC 9112 section 6.3).
            answer.complete = True
            self._spoiled = self._spoiled or self._head_only

    def on_body(self, body: bytes) -> None:
        answer = self._answer
        if not answer.complete:
            answer.pieces.append(body)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer.head_done:
            answer.complete = True
            return
        self._interims += 1
        if self._interims > MAX_INTERIM_RESPONSES:
            raise ValueError("too many interim responses")
        self._answer = Answer()
        if self._receiver is not None:
            self._receiver.upstream_interim(answer)

    # Inside

    def _check_unfinished_head(self, received: int) -> None:
        self._head_bytes += received
        if self._head_bytes > MAX_HEAD_BYTES:
            self._broken(MalformedResponse(f"The head of the upstream's answer is larger than {MAX_HEAD_BYTES} bytes."))

    def _switched(self, rest: bytes) -> None:
        receiver, answer = self._receiver, self._answer
        if receiver is not None and self._may_switch and answer.status == 101:
            receiver.upstream_switched(answer, rest)
        else:
            self._broken(MalformedResponse("The upstream switched protocols without being asked."))

    def _broken(self, error: MalformedResponse) -> None:
        """Pass on what was good of the answer, then fail."""
        answer, receiver = self._answer, self._receiver
        if receiver is not None and answer.head_done and answer.pieces:
            receiver.upstream_data(answer)
        self._fail(error)

    def _fail(self, error: UpstreamError) -> None:
        receiver, self._receiver = self._receiver, None
        self._pool.drop(self)
        self.transport.abort()
        if receiver is not None:
            receiver.upstream_failed(error)


class Pool:
    """Connections to one origin: the most recently used idle one first, a new one otherwise."""

    def __init__(
        self,
        origin: Origin,
        fields: FieldTable,
        *,
        ca_file: str | None = None,
        connect_timeout: float,
        first_byte_timeout: float,
        idle_timeout: float,
        keepalive: float,
    ) -> None:
        self.origin = origin
        self.fields = fields
        self.connect_timeout = connect_timeout
        self.first_byte_timeout = first_byte_timeout
        self.idle_timeout = idle_timeout
        self.keepalive = keepalive
        self._idle: deque[UpstreamConnection] = deque()
        self._connections: set[UpstreamConnection] = set()
        self._tls = tls_context(ca_file) if origin.scheme == "https" else None
        self._proxy = proxy_for(origin)

    def __repr__(self) -> str:
        return f"<Pool {self.origin.url} connections={len(self._connections)} idle={len(self._idle)}>"

    def get(self) -> UpstreamConnection | None:
        """An idle connection, or None: then `connect`."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            if connection.pending(0):
                # Bytes nobody asked for, or the end: the loop has only not come to it yet.
                connection.close()
                continue
            connection.idle_since = 0.0
            return connection
        return None

    def put(self, connection: UpstreamConnection) -> None:
        """Keep a clean connection for the next request."""
        if self.keepalive and not connection.transport.is_closing():
            connection.idle_since = monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    def drop(self, connection: UpstreamConnection) -> None:
        """Forget a connection that is closed or about to be."""
        self._connections.discard(connection)
        if connection.idle_since:
            try:
                self._idle.remove(connection)
            except ValueError:
                pass

    def sweep(self, now: float) -> None:
        """End what is over its deadline, and what was idle too long."""
        for connection in [one for one in self._connections if one.deadline < now]:
            connection.expire()
        while self._idle and self._idle[0].idle_since + self.keepalive < now:
            self._idle.popleft().close()

    def close(self) -> None:
        """Close idle connections; busy ones end with their exchange."""
        self.keepalive = 0
        while self._idle:
            self._idle.popleft().close()

    async def connect(self) -> UpstreamConnection:
        """A new connection, TLS done.

        Raises:
            UpstreamError: DnsFailed, ConnectFailed, TlsFailed or ConnectTimeout.
        """
        try:
            async with asyncio.timeout(self.connect_timeout):
                connection = await self._connect()
        except TimeoutError:
            raise ConnectTimeout(f"{self._where} could not be reached within {self.connect_timeout:g} s.") from None
        except (socket.gaierror, UnicodeError) as error:
            why = error.strerror if isinstance(error, socket.gaierror) else "it is no host name"
            raise DnsFailed(f"The name of {self._where} could not be resolved: {why}.") from None
        except ssl.SSLError as error:
            raise TlsFailed(f"TLS with {self.origin.authority} failed: {_tls_reason(error)}.") from None
        except OSError as error:
            raise ConnectFailed(f"{self._where} could not be reached: {_os_reason(error)}.") from None
        self._connections.add(connection)
        return connection

    @property
    def _where(self) -> str:
        return self._proxy.url if self._proxy else self.origin.authority

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        target = self._proxy or self.origin
        addresses = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=0.25, loop=loop)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._proxy is not None:
                await self._proxy.open_tunnel(loop, sock, self.origin)
        except BaseException:
            sock.close()
            raise
        server_name = self.origin.host if self._tls else None
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(self), sock=sock, ssl=self._tls, server_hostname=server_name
        )
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        connection.pending = poll.poll
        return connection


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return error.reason or str(error)


def _os_reason(error: OSError) -> str:
    nested = getattr(error, "exceptions", None)
    if nested:
        return _os_reason(nested[0])
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
