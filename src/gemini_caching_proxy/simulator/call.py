"""One request being answered: its body as it streams in, and raw bytes out.

A `Call` writes whatever it is told: what is a correct answer is decided above, so that faults can be played. It does
not parse and does not keep connections; its `Channel` does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from .ledger import Headers, Ledger, Received

HIGH_WATER = 256 * 1024
"""Bytes of a body, or of answers, that wait in memory before the peer is held back."""


class ClientGoneError(Exception):
    """The peer closed the connection while an answer was under way."""


class Channel(Protocol):
    """The connection as a call sees it."""

    @property
    def ledger(self) -> Ledger: ...

    async def write(self, data: bytes) -> None: ...

    async def read_raw(self) -> bytes: ...

    def start_raw(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def reset(self) -> None: ...

    async def finish(self) -> None: ...


class Call:
    """One request being answered."""

    def __init__(self, channel: Channel, received: Received, *, keep_alive: bool, upgrade: bool) -> None:
        self.received = received
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        """Whether the request asked for another protocol."""
        self._channel = channel
        self._pieces: deque[bytes] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        expect = received.header(b"expect") or b""
        self._continue_due = expect.lower() == b"100-continue"

    def __repr__(self) -> str:
        return f"<Call {self.received.request_line!r} connection={self.received.connection}>"

    @property
    def method(self) -> bytes:
        return self.received.method

    @property
    def target(self) -> bytes:
        return self.received.target

    @property
    def headers(self) -> Headers:
        return self.received.headers

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, its name in lower case."""
        return self.received.header(name)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives; the client is held back while nobody takes it."""
        if self._continue_due and not self.received.body_complete and not self._pieces:
            self._continue_due = False
            await self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._queued -= len(piece)
                if self._queued < HIGH_WATER:
                    self._channel.resume()
                yield piece
            if self.received.body_complete:
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def body(self) -> bytes:
        """The whole body in memory."""
        return b"".join([piece async for piece in self.pieces()])

    async def drain_body(self) -> None:
        """Reads what is left of the body and forgets it."""
        async for _ in self.pieces():
            pass

    async def write(self, data: bytes) -> None:
        """Puts bytes on the wire as a write of their own, waiting while the peer reads slowly.

        Raises:
            ClientGoneError: the connection is closed.
        """
        await self._channel.write(data)
        self.received.bytes_sent += len(data)

    async def read_raw(self) -> bytes:
        """After an upgrade: the next bytes from the peer, b"" at the end."""
        return await self._channel.read_raw()

    def start_raw(self) -> None:
        """From here on input is no HTTP any more."""
        self._channel.start_raw()

    def reset(self) -> None:
        """Aborts the connection with a RST."""
        self._channel.reset()

    async def finish(self) -> None:
        """Sends everything written and a FIN, and closes once the peer has closed or a second has passed."""
        await self._channel.finish()

    def feed(self, piece: bytes) -> None:
        """Takes a piece of the body in."""
        received = self.received
        received.body_size += len(piece)
        received.digest.update(piece)
        if received.body_size > self._channel.ledger.keep_body_bytes:
            received.kept = None
        elif received.kept is not None:
            received.kept += piece
        self._pieces.append(piece)
        self._queued += len(piece)
        if self._queued >= HIGH_WATER:
            self._channel.pause()
        self._arrived.set()
        self._channel.ledger.note_change()

    def complete(self) -> None:
        """Says that the body is whole."""
        self.received.body_complete = True
        self._arrived.set()
        self._channel.ledger.note_change()
