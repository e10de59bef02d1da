"""The way of one request to the upstream: a connection is taken or made, and the body follows as it comes.

Until there is a connection the body waits here, bounded: beyond `MAX_WAITING_BYTES` the client is held back. Nothing is
ever sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gemini_caching_proxy.errors import UpstreamError

from .http1 import LAST_CHUNK, Request, Shape, framed, trailer_section
from .upstream import Pool, Receiver, UpstreamConnection

MAX_WAITING_BYTES = 256 * 1024
COPY_BYTES = 16 * 1024
"""Up to this size joining is cheaper than handing over several buffers."""


class Outbound(Receiver):
    """One request on its way out. What comes back is for the subclass, which is the `Receiver`."""

    __slots__ = ("_connecting", "_pool", "_request", "_sent", "_shape", "_upstream", "_waiting")

    def __init__(self, request: Request, shape: Shape, pool: Pool) -> None:
        self._request = request
        self._shape = shape
        self._pool = pool
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[bytes] = []
        self._sent = False
        """Whether the whole request was written."""

    def request_head(self) -> bytes:
        """The head to send."""
        raise NotImplementedError

    def connected(self) -> None:
        """A new connection was made; the request goes out now."""
        raise NotImplementedError

    def hold_client(self, paused: bool) -> None:
        """The client sends faster than the upstream takes (or no longer)."""
        raise NotImplementedError

    def dispatch(
        self,
        upstream: UpstreamConnection | None,
        pieces: list[bytes],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """Begin on a pooled connection or, without one, on one to be made; with what is there of the body."""
        self._waiting = pieces
        if upstream is not None:
            self._ask(upstream)
        else:
            self._connecting = spawn(self._connect())

    def forward(self, pieces: list[bytes]) -> None:
        """More of the body, or (with `request.complete`) its end."""
        if self._sent:
            return
        if self._upstream is not None:
            self._send(b"", pieces)
            self._upstream.extend_deadline()
            return
        self._waiting += pieces
        if sum(map(len, self._waiting)) > MAX_WAITING_BYTES:
            self.hold_client(True)

    def drop_upstream(self) -> None:
        """Close the upstream call, whatever state it is in."""
        if self._connecting is not None:
            self._connecting.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.cancel()

    async def _connect(self) -> None:
        try:
            upstream = await self._pool.connect()
        except UpstreamError as error:
            self.upstream_failed(error)
            return
        self._connecting = None
        # Before what waits is written, which may fill the upstream and hold the client back again.
        self.hold_client(False)
        self.connected()
        self._ask(upstream)

    def _ask(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        upstream.ask(self, head_only=self._shape.method == b"HEAD", may_switch=self._shape.websocket)
        waiting, self._waiting = self._waiting, []
        self._send(self.request_head(), waiting)

    def _send(self, head: bytes, pieces: list[bytes]) -> None:
        """Write, framed as the request's head says."""
        request, upstream = self._request, self._upstream
        assert upstream is not None
        self._sent = request.complete
        out = [head]
        if self._shape.chunked:
            out += framed(pieces)
            if request.complete:
                out.append(trailer_section(request.trailers) if request.trailers else LAST_CHUNK)
        else:
            out += pieces
        if pieces and len(pieces[-1]) > COPY_BYTES:
            upstream.transport.writelines(out)
        else:
            upstream.write(b"".join(out))
