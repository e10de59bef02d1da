"""The server side of one HTTP/1.1 connection, with the socket in reach so that it can misbehave.

`Connection` parses requests with llhttp and hands each to a `Service` as a `Call`, one at a time and in order. A `Call`
writes raw bytes: what is a correct answer is decided above. A peer that closes, resets or half-closes before the answer
is over counts as gone: the call's task is cancelled and the ledger notes the time.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import traceback
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, cast

import httptools

from .call import HIGH_WATER, Call, ClientGoneError
from .ledger import Ledger, Received

MAX_HEAD = 4 << 20
LINGER_S = 1.0
"""How long a half-closed connection is still read, so that unread input does not turn the FIN into a RST."""


@dataclass(frozen=True, slots=True)
class QuickReply:
    """Wire bytes made beforehand."""

    writes: tuple[bytes, ...]
    interval_s: float = 0.0
    """Pause between two writes."""


class Service(Protocol):
    """What a listener serves."""

    ledger: Ledger

    def quick_reply(self, target: bytes) -> QuickReply | None:
        """The answer to requests that need no thought; None for all others."""

    async def serve(self, call: Call) -> None:
        """Answers one request."""

    def refuse_connection(self) -> bool:
        """Whether to reset the connection that was just accepted, at its first bytes."""


class Connection(asyncio.Protocol):
    """Parses, queues and writes; see the module."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._number = 0
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._raw_head = bytearray()
        self._in_head = False
        self._in_message = False
        self._reset_message()
        self._calls: deque[Call] = deque()
        self._reading: Call | None = None
        self._answering: Call | None = None
        self._quick: QuickReply | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._mode = "http"
        self._raw = bytearray()
        self._raw_arrived = asyncio.Event()
        self._eof = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        ledger = self.service.ledger
        ledger.connections += 1
        ledger.open_connections += 1
        self._number = ledger.connections
        ledger.note_change()
        if self.service.refuse_connection():
            self._mode = "refuse"

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._peer_gone()
        self.service.ledger.open_connections -= 1
        self.service.ledger.note_change()

    def eof_received(self) -> bool:
        self._peer_gone()
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._mode == "discard":
            return
        if self._mode == "refuse":
            # Not on accept: a reset could then overtake the peer's connect() and look like a refused connection.
            self.reset()
            return
        if self._mode == "raw":
            self._take_raw(data)
            return
        if not self._in_message and not self._in_head:
            self._raw_head.clear()
            self._in_head = True
        if self._in_head:
            self._raw_head += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._take_raw(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_head()
        else:
            if self._in_head and len(self._raw_head) > MAX_HEAD:
                self._refuse_head()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._in_message = True
        self._reset_message()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._quick = self.service.quick_reply(self._target)
        if self._quick is not None:
            return
        method = self._parser.get_method()
        version = self._parser.get_http_version().encode()
        end = self._raw_head.find(b"\r\n\r\n")
        raw_head = bytes(self._raw_head[: end + 4])
        if not raw_head.startswith(method + b" " + self._target + b" "):
            # A pipelined request: its head does not begin what was read last, so it is put together again.
            lines = b"".join(b"%b: %b\r\n" % pair for pair in self._headers)
            raw_head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self._target, version, lines)
        received = Received(self._number, method, self._target, version, tuple(self._headers), raw_head)
        self.service.ledger.add(received)
        call = Call(self, received, keep_alive=self._parser.should_keep_alive(), upgrade=self._parser.should_upgrade())
        self._reading = call
        self._calls.append(call)
        self._start_next()

    def on_body(self, body: bytes) -> None:
        if self._reading is not None:
            self._reading.feed(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        if self._quick is not None:
            self.service.ledger.bench_requests += 1
            self._write_quickly(self._quick, 0, self._parser.should_keep_alive())
            return
        assert self._reading is not None
        self._reading.complete()
        self._reading = None

    # for Call

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    async def write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ClientGoneError
        transport.write(data)
        # Lets the loop flush: two writes in one turn would reach the socket as one.
        await asyncio.sleep(0)
        await self._writable.wait()

    async def read_raw(self) -> bytes:
        while not self._raw and not self._eof:
            self._raw_arrived.clear()
            await self._raw_arrived.wait()
        data = bytes(self._raw)
        self._raw.clear()
        self.resume()
        return data

    def start_raw(self) -> None:
        self._mode = "raw"

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def reset(self) -> None:
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def finish(self) -> None:
        transport = self._transport
        self._mode = "discard"
        if transport is None or transport.is_closing():
            return
        self.resume()
        if not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_S, transport.close)

    async def shut(self) -> None:
        """Aborts the connection and ends the task that answers on it."""
        task = self._task
        if self._transport is not None:
            self._transport.abort()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # inside

    def _reset_message(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []

    def _write_quickly(self, quick: QuickReply, index: int, keep_alive: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(quick.writes[index])
        index += 1
        if index < len(quick.writes):
            loop = asyncio.get_running_loop()
            if quick.interval_s:
                loop.call_later(quick.interval_s, self._write_quickly, quick, index, keep_alive)
            else:
                loop.call_soon(self._write_quickly, quick, index, keep_alive)
        elif not keep_alive:
            transport.close()

    def _start_next(self) -> None:
        if self._task is None and self._calls and self._mode == "http":
            self._task = asyncio.get_running_loop().create_task(self._run(self._calls.popleft()))

    async def _run(self, call: Call) -> None:
        self._answering = call
        try:
            await self.service.serve(call)
        except ClientGoneError:
            # A reset shows at a write before the loop reports the lost connection.
            call.received.client_closed_at = call.received.client_closed_at or monotonic()
        except Exception:  # noqa: BLE001 - the outermost ring: a bug of ours must show in the ledger, not hang a test
            self.service.ledger.crashes.append(traceback.format_exc())
            self.reset()
        finally:
            call.received.ended_at = monotonic()
            self.service.ledger.note_change()
            self._task = self._answering = None
            self._after(call)

    def _after(self, call: Call) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or self._mode == "discard":
            return
        if self._mode == "raw" or not call.keep_alive or not call.received.body_complete:
            transport.close()
            return
        self._start_next()

    def _take_raw(self, data: bytes) -> None:
        self._raw += data
        if len(self._raw) >= HIGH_WATER:
            self.pause()
        self._raw_arrived.set()

    def _peer_gone(self) -> None:
        if self._eof:
            return
        self._eof = True
        self._raw_arrived.set()
        if self._task is None or self._answering is None:
            return
        if self._mode != "discard":
            self._answering.received.client_closed_at = monotonic()
        self.service.ledger.note_change()
        self._task.cancel()

    def _refuse_head(self) -> None:
        if self._transport is not None and self._task is None:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        if self._transport is not None:
            self._transport.close()
