"""The path of one request: gate, route, credential, upstream, and back; with a capture in the stream.

A `Passage` is a small state machine that both connections call. It ends exactly once: by `_finish` (a whole answer),
`_end` (none, or half of one) or `client_gone`. What the client sees and what is recorded is decided here.
"""

from __future__ import annotations

from typing import Literal

from .call import AnswerHead, Call, interim_head
from .capture import Capture
from .errors import RequestRejected, UpstreamError, WireError
from .exchange import FailureKind
from .relay.downstream import ClientConnection
from .relay.http1 import LAST_CHUNK, Request, Shape, error_message, framed, trailer_section
from .relay.outbound import Outbound
from .relay.tunnel import Tunnel
from .relay.upstream import Answer, Pool


class Passage(Outbound):
    """One request on its way through."""

    __slots__ = ("_call", "_capture", "_client", "_done", "_head", "_passages", "_policy", "_tunnel")

    def __init__(
        self,
        client: ClientConnection,
        request: Request,
        shape: Shape,
        call: Call,
        pool: Pool,
        passages: set[Passage],
        policy: Literal["cancel", "drain"],
    ) -> None:
        """`passages` holds all that are running; `policy` is for clients that leave."""
        super().__init__(request, shape, pool)
        self._client: ClientConnection | None = client
        self._call = call
        self._passages = passages
        self._policy = policy
        self._capture: Capture | None = None
        self._tunnel: Tunnel | None = None
        self._head: AnswerHead | None = None
        self._done = False
        passages.add(self)

    # What the client's connection calls

    def client_data(self) -> None:
        request, capture = self._request, self._capture
        if self._done:
            return
        # What follows a handshake stays there for the tunnel.
        pieces = [] if self._shape.websocket else request.pieces
        request.pieces = request.pieces if self._shape.websocket else []
        if capture is None:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            peer = self._client.peer if self._client is not None else ""
            upstream = self._pool.get()
            self._capture = self._call.capture(request, peer, body, pooled=upstream is not None)
            self.dispatch(upstream, pieces, self._call.spawn)
            return
        for piece in pieces:
            capture.request_data(piece)
        if request.complete:
            capture.request_done()
        self.forward(pieces)

    def client_paused(self, paused: bool) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading(paused)

    def client_broke(self, error: RequestRejected) -> None:
        self.drop_upstream()
        self._end(error, FailureKind.REQUEST_INCOMPLETE)

    def client_gone(self) -> None:
        self._client = None
        if self._done:
            return
        if self._policy == "drain" and self._request.complete and not self._shape.websocket:
            self.client_paused(False)
            return
        self.drop_upstream()
        self._record_end(FailureKind.CLIENT_GONE, "The client left before it had the whole answer.")

    # What the upstream connection calls

    def upstream_data(self, answer: Answer) -> None:
        capture = self._capture
        assert capture is not None
        pieces, answer.pieces = answer.pieces, []
        first = self._head is None
        head = self._head = self._head or self._call.answer_head(answer)
        recorded = head.recorded if first else None
        out = [head.data] if first else []
        out += framed(pieces) if head.chunked else pieces
        if answer.complete:
            capture.answer(answer, pieces, recorded)
            self._finish(answer, head, out)
            return
        if self._client is not None and out:
            self._client.write(b"".join(out))
        # After they went on: recording delays no chunk.
        capture.answer(answer, pieces, recorded)

    def upstream_interim(self, answer: Answer) -> None:
        if answer.status != 100 and self._client is not None and self._shape.minor_version:
            self._client.write(interim_head(answer))

    def upstream_switched(self, answer: Answer, rest: bytes) -> None:
        capture, client, upstream = self._capture, self._client, self._upstream
        assert capture is not None
        assert upstream is not None
        if client is None:
            return
        self._head = head = self._call.answer_head(answer)
        capture.response_head(101, answer.reason, head.recorded, None)
        early, self._request.pieces = self._request.pieces, []
        client.write(head.data + rest)
        self._tunnel = Tunnel(client.detach(), upstream.detach(), self._tunnel_closed)
        self._tunnel.upstream.received += len(rest)
        for piece in early:
            self._tunnel.client.data_received(piece)

    def upstream_failed(self, error: UpstreamError) -> None:
        self._upstream = None
        self._end(error, error.kind)

    def hold_client(self, paused: bool) -> None:
        if self._client is not None:
            self._client.pause_reading(paused)

    upstream_paused = hold_client

    def request_head(self) -> bytes:
        return self._call.head(self._request)

    def connected(self) -> None:
        assert self._capture is not None
        self._capture.connected()

    def interrupt(self) -> None:
        """The worker stops: end now, and say so in the record."""
        self.drop_upstream()
        client, self._client = self._client, None
        if self._tunnel is not None:
            self._count(self._tunnel.client.received, self._tunnel.upstream.received)
            self._tunnel.abort()
            client = None
        if not self._done:
            self._record_end(FailureKind.INTERRUPTED, "The proxy was stopped.")
            if client is not None:
                client.abort()

    def _finish(self, answer: Answer, head: AnswerHead, out: list[bytes]) -> None:
        """The answer is whole: record, then let the client have its last bytes."""
        capture, client, upstream = self._capture, self._client, self._upstream
        assert capture is not None
        self._done, self._upstream = True, None
        self._passages.discard(self)
        if upstream is not None:
            upstream.release(reusable=self._request.complete)
        if head.chunked:
            out.append(trailer_section(answer.trailers) if answer.trailers else LAST_CHUNK)
        if client is not None:
            capture.commit(client.finish, b"".join(out), head.ends_by_close)

    def _end(self, error: WireError, kind: FailureKind) -> None:
        """No whole answer: an error where nothing was sent yet, a visible break where something was."""
        if self._done:
            return
        client, self._client = self._client, None
        if client is None or self._head is not None:
            self._record_end(kind, str(error))
            if client is not None:
                client.cut(hard=self._head is not None and self._head.ends_by_close)
            return
        message = error_message(error, extra=self._call.cors, close=True, head_only=self._shape.method == b"HEAD")
        capture = self._capture
        self._record_end(kind, str(error), error.status)
        assert capture is not None
        capture.commit(client.finish, message, True)

    def _record_end(self, kind: FailureKind | None, detail: str, served_status: int | None = None) -> None:
        self._done = True
        self._passages.discard(self)
        if self._capture is not None:
            self._capture.end(kind, detail, served_status)

    def _count(self, up: int, down: int) -> None:
        if self._capture is not None:
            self._capture.tunnel(up, down)

    def _tunnel_closed(self, up: int, down: int) -> None:
        if not self._done:
            self._count(up, down)
            self._record_end(None, "")
