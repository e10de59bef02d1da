"""An upstream that answers from recorded exchanges, and says exactly what it was sent.

An entry is found by method, target (path and query) and body; the n-th request for the same gets the n-th entry, and
the last one again after that. What nothing matches is answered 404 and kept in `unmatched`.
"""

from __future__ import annotations

import hashlib
import ssl as tls
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .call import Call
from .ledger import Headers, Ledger, Received
from .reply import Reply, chunk, head_bytes, last_chunk
from .server import Server

_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"keep-alive")
NO_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class RecordedExchange:
    """One recorded exchange to play."""

    method: str
    target: str
    """Path and query as they will be asked for."""
    status: int
    headers: Headers
    """Response headers; those of framing decide the framing and are written anew."""
    body: bytes = b""
    request_body: bytes | None = b""
    """What the request has to bring; None takes any body."""
    chunks: tuple[int, ...] = ()
    """Sizes of the pieces to send the body in; empty sends it whole."""

    @property
    def framing(self) -> Literal["chunked", "length", "close"]:
        names = {name.lower(): value.lower() for name, value in self.headers}
        if b"content-length" in names:
            return "length"
        return "close" if names.get(b"connection") == b"close" and b"transfer-encoding" not in names else "chunked"

    def pieces(self) -> list[bytes]:
        """The body as it will be sent.

        Raises:
            ValueError: `chunks` do not add up to the body.
        """
        if not self.chunks:
            return [self.body] if self.body else []
        if sum(self.chunks) != len(self.body):
            raise ValueError(f"chunks add up to {sum(self.chunks)}, the body has {len(self.body)} bytes")
        ends = [sum(self.chunks[: index + 1]) for index in range(len(self.chunks))]
        return [self.body[end - size : end] for end, size in zip(ends, self.chunks, strict=True)]


class ReplayUpstream(Server):
    """Serves entries; `ledger.requests` holds the raw heads and bodies that arrived."""

    def __init__(
        self,
        entries: Iterable[RecordedExchange],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: tls.SSLContext | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(host=host, port=port, ssl=ssl, ledger=ledger or Ledger(keep_body_bytes=256 << 20))
        self._entries: dict[tuple[str, str, str | None], list[RecordedExchange]] = defaultdict(list)
        self._asked: dict[tuple[str, str, str | None], int] = defaultdict(int)
        self.unmatched: list[Received] = []
        """Requests that no entry answers."""
        for entry in entries:
            self._entries[_key(entry.method, entry.target, entry.request_body)].append(entry)

    async def serve(self, call: Call) -> None:
        body = await call.body()
        entry = self._find(call.method.decode("latin-1"), call.target.decode("latin-1"), body)
        if entry is None:
            self.unmatched.append(call.received)
            text = b'{"error": {"code": 404, "message": "no recorded exchange matches", "status": "NOT_FOUND"}}'
            entry = RecordedExchange("", "", 404, ((b"content-type", b"application/json"),), text)
        call.received.status = entry.status
        await _play(call, entry)

    def _find(self, method: str, target: str, body: bytes) -> RecordedExchange | None:
        for key in (_key(method, target, body), _key(method, target, None)):
            if entries := self._entries.get(key):
                number = self._asked[key]
                self._asked[key] += 1
                return entries[min(number, len(entries) - 1)]
        return None


async def _play(call: Call, entry: RecordedExchange) -> None:
    headers = tuple(pair for pair in entry.headers if pair[0].lower() not in _FRAMING)
    pieces: Sequence[bytes] = entry.pieces()
    without_body = entry.status in NO_BODY or call.method == b"HEAD"
    framing = entry.framing
    call.keep_alive = call.keep_alive and framing != "close"
    head = head_bytes(Reply(entry.status, headers, tuple(pieces), "none" if entry.status in NO_BODY else framing))
    if without_body:
        await call.write(head)
        return
    for piece in pieces:
        await call.write(head + (chunk(piece) if framing == "chunked" else piece))
        head = b""
    if framing == "chunked" or head:
        await call.write(head + (last_chunk() if framing == "chunked" else b""))


def _key(method: str, target: str, body: bytes | None) -> tuple[str, str, str | None]:
    return method.upper(), target, None if body is None else hashlib.sha256(body).hexdigest()
