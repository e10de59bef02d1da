"""The path of one request: gate, route, credential, record or upstream, and back; with a capture in the stream.

A `Passage` is a small state machine that both connections call. It ends exactly once: by `_finish` (a whole answer),
`fail` (none, or half of one) or `client_gone`. What the client sees and what is recorded is decided here; where the
answer comes from is found out in inquiry.py.
"""

from __future__ import annotations

from typing import Literal

from .call import AnswerHead, Call, interim_head
from .errors import RequestRejected, UpstreamError, WireError
from .exchange import FailureKind
from .inquiry import Inquiry
from .relay.downstream import ClientConnection
from .relay.http1 import LAST_CHUNK, Request, Shape, error_message, framed, trailer_section
from .relay.tunnel import Tunnel
from .relay.upstream import Answer, Pool


class Passage(Inquiry):
    """One request on its way through."""

    __slots__ = ("_done", "_head", "_passages", "_policy", "_tunnel")

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
        super().__init__(client, request, shape, call, pool)
        self._passages = passages
        self._policy = policy
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
            self._capture = self._call.capture(request, peer, body)
            self.inquire(pieces)
            return
        for piece in pieces:
            capture.request_data(piece)
        if request.complete:
            capture.request_done()
        self.continue_body(pieces)

    def client_broke(self, error: RequestRejected) -> None:
        self.stop_inquiry()
        self.fail(error, FailureKind.REQUEST_INCOMPLETE)

    def client_gone(self) -> None:
        self._client, self.paused = None, False
        if self._done or (self._flight is not None and self._flight.leave(self)):
            return
        if self._policy == "drain" and self._request.complete and self.calling and not self._shape.websocket:
            self.pause_upstream(False)
            return
        self.stop_inquiry()
        self._record_end(FailureKind.CLIENT_GONE, "The client left before it had the whole answer.")

    # What the upstream connection calls

    def upstream_data(self, answer: Answer) -> None:
        capture, flight = self._capture, self._flight
        assert capture is not None
        pieces, answer.pieces = answer.pieces, []
        first = self._head is None
        head = self._head = self._head or self._call.answer_head(answer)
        recorded = head.recorded if first else None
        out = [head.data, self.own_lines(answer.status), b"\r\n"] if first else []
        out += framed(pieces) if head.chunked else pieces
        if answer.complete:
            capture.answer(answer, [b"".join(pieces)] if self.at_once else pieces, recorded)
            self._finish(answer, head, out)
        else:
            if self._client is not None and out:
                self._client.write(b"".join(out))
            # After they went on: recording delays no chunk.
            capture.answer(answer, pieces, recorded)
        if flight is not None:
            flight.came(self, answer, pieces)

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
        client.write(head.data + self.own_lines(101) + b"\r\n" + rest)
        self._tunnel = Tunnel(client.detach(), upstream.detach(), self._tunnel_closed)
        self._tunnel.upstream.received += len(rest)
        for piece in early:
            self._tunnel.client.data_received(piece)

    def upstream_failed(self, error: UpstreamError) -> None:
        self._upstream, flight = None, self._flight
        self.fail(error, error.kind)
        if flight is not None:
            flight.failed(self, error)

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
        self.stop_inquiry()
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

    def fail(self, error: WireError, kind: FailureKind) -> None:
        """No whole answer: an error where nothing was sent yet, a visible break where something was."""
        if self._done:
            return
        client, self._client = self._client, None
        if client is None or self._head is not None:
            self._record_end(kind, str(error))
            if client is not None:
                client.cut(hard=self._head is not None and self._head.ends_by_close)
            return
        capture, extra = self._capture, self._call.cors + self.own_lines(error.status)
        assert capture is not None
        message = error_message(error, extra=extra, close=True, head_only=self._shape.method == b"HEAD")
        self._record_end(kind, str(error), error.status)
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
