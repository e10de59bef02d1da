"""An answer before it meets the wire, and the ways its bytes can be cut into writes.

A `Reply` is what the API means to say; `head_bytes` and `body_writes` turn it into HTTP/1.1 bytes under a `Pacing`.
Faults take the same `Reply` and put something else on the wire. Nothing here does I/O.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from random import Random
from typing import Any, Literal

Headers = tuple[tuple[bytes, bytes], ...]
Framing = Literal["chunked", "length", "close", "none"]
Writes = Literal["event", "split", "joined", "drip"]

JSON_TYPE = b"application/json; charset=UTF-8"
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer."""

    status: int = 200
    headers: Headers = ()
    """Headers besides those of framing and connection."""
    pieces: Iterable[bytes] = ()
    """The body as the origin would flush it: one event each for a stream. May be lazy; then it can be read once."""
    framing: Framing = "chunked"
    """`length` needs `pieces` in memory or `size`; `none` is for answers without a body by definition."""
    size: int | None = None
    """Body bytes for `length` framing when `pieces` is lazy."""
    trailers: Headers = ()
    reason: bytes | None = None

    @property
    def content_type(self) -> bytes:
        return self.header(b"content-type") or b""

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def with_headers(self, *more: tuple[bytes, bytes]) -> Reply:
        return replace(self, headers=(*self.headers, *more))

    def in_memory(self) -> Reply:
        """The same with its pieces read, so that they can be looked at more than once."""
        return replace(self, pieces=tuple(self.pieces))


@dataclass(frozen=True, slots=True)
class Pacing:
    """When and in which portions an answer leaves."""

    first_byte_s: float = 0.0
    """Pause before the first byte."""
    chunk_s: float = 0.0
    """Pause before every piece but the first."""
    writes: Writes = "event"
    """`event`: one piece a chunk and a write; `split`: cut within events; `joined`: several in one chunk and write;
    `drip`: every wire byte on its own."""
    drip_s: float = 0.0
    """Pause between the writes of `drip` and of a cut event."""


def status_line(status: int, reason: bytes | None = None) -> bytes:
    if reason is None:
        try:
            reason = HTTPStatus(status).phrase.encode()
        except ValueError:
            reason = b"Unknown"
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def head_bytes(reply: Reply, *extra: tuple[bytes, bytes], framing: Framing | None = None) -> bytes:
    """The head with its framing headers; `extra` go last, `framing` overrides the reply's."""
    lines = [status_line(reply.status, reply.reason)]
    lines += [b"%b: %b\r\n" % pair for pair in reply.headers]
    chosen = framing or reply.framing
    if chosen == "chunked":
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif chosen == "length":
        size = sum(map(len, reply.pieces)) if reply.size is None else reply.size
        lines.append(b"Content-Length: %d\r\n" % size)
    elif chosen == "close":
        lines.append(b"Connection: close\r\n")
    lines += [b"%b: %b\r\n" % pair for pair in extra]
    return b"".join(lines) + b"\r\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk; nothing for no data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: Headers = ()) -> bytes:
    return b"0\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in trailers) + b"\r\n"


def body_writes(reply: Reply, pacing: Pacing, rng: Random) -> Iterator[tuple[float, bytes]]:
    """(pause before, wire bytes) for each write of the body."""
    frame = chunk if reply.framing == "chunked" else bytes
    for number, piece in enumerate(_portions(reply.pieces, pacing, rng)):
        pause = pacing.chunk_s if number else 0.0
        parts = _cut(piece, rng) if pacing.writes == "split" else [piece]
        for part in parts:
            wire = frame(part)
            if pacing.writes == "drip":
                for index in range(len(wire)):
                    yield pause, wire[index : index + 1]
                    pause = pacing.drip_s
            elif wire:
                yield pause, wire
            pause = pacing.drip_s
    if reply.framing == "chunked":
        yield 0.0, last_chunk(reply.trailers)


def _portions(pieces: Iterable[bytes], pacing: Pacing, rng: Random) -> Iterator[bytes]:
    if pacing.writes != "joined":
        yield from pieces
        return
    held: list[bytes] = []
    wanted = rng.randint(2, 4)
    for piece in pieces:
        held.append(piece)
        if len(held) >= wanted:
            yield b"".join(held)
            held, wanted = [], rng.randint(2, 4)
    if held:
        yield b"".join(held)


def _cut(piece: bytes, rng: Random) -> list[bytes]:
    if len(piece) < 3:
        return [piece]
    first, second = sorted(rng.sample(range(1, len(piece)), 2))
    return [piece[:first], piece[first:second], piece[second:]]


def gzipped(reply: Reply) -> Reply:
    """The reply with its pieces gzip-coded and flushed one by one, as the API does for JSON when asked."""
    return replace(
        reply,
        headers=(*reply.headers, (b"content-encoding", b"gzip")),
        pieces=tuple(_gzip_pieces(reply.pieces)),
        size=None,
    )


def _gzip_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


def pretty(value: Any) -> str:
    """JSON as the API prints it: two spaces, UTF-8, `<` and `>` escaped (protobuf's printer)."""
    return _escape(json.dumps(value, indent=2, ensure_ascii=False))


def one_line(value: Any) -> str:
    """JSON as in the API's server-sent events: `"key": value,"key": value`."""
    return _escape(json.dumps(value, separators=(",", ": "), ensure_ascii=False))


def compact(value: Any) -> str:
    """JSON without any space, as the Interactions API prints it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _escape(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e")
