"""Two connections joined byte for byte after a protocol switch (WebSocket), with counts and back-pressure.

When either side ends, what it sent still reaches the other, which then ends too; `done` is called once with the bytes
that went up and down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Tunnel:
    """Joins a client transport and an upstream transport."""

    def __init__(
        self, client: asyncio.Transport, upstream: asyncio.Transport, done: Callable[[int, int], None]
    ) -> None:
        self._done = done
        self._open = 2
        self.client = TunnelSide(self, client)
        self.upstream = TunnelSide(self, upstream)
        self.client.other, self.upstream.other = self.upstream, self.client
        client.set_protocol(self.client)
        upstream.set_protocol(self.upstream)
        client.resume_reading()
        upstream.resume_reading()

    def __repr__(self) -> str:
        return f"<Tunnel up={self.client.received} down={self.upstream.received}>"

    def side_lost(self) -> None:
        """One of the two transports is gone."""
        self._open -= 1
        if self._open == 0:
            self._done(self.client.received, self.upstream.received)

    def abort(self) -> None:
        """End both sides now."""
        self.client.transport.abort()
        self.upstream.transport.abort()


class TunnelSide(asyncio.Protocol):
    """One end of a tunnel."""

    other: TunnelSide

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self.transport = transport
        self.received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.other.transport.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.other.transport.close()
        self._tunnel.side_lost()

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()
