"""Faults of content: correctly framed answers that a careless relay or reader stumbles over.

The `sse-…` ones leave answers that are no event streams as they are.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import replace

import zstandard

from gemini_caching_proxy.simulator.reply import Reply, one_line

MIB = 1 << 20
_ERROR = {
    "error": {"code": 503, "message": "The model is overloaded. Please try again later.", "status": "UNAVAILABLE"}
}


def big_headers(reply: Reply, argument: str) -> Reply:
    """One header of so many bytes (9000)."""
    return reply.with_headers((b"X-Big", b"b" * int(argument or 9000)))


def many_headers(reply: Reply, argument: str) -> Reply:
    """So many more headers (1000)."""
    return reply.with_headers(*((b"X-Many-%d" % number, b"m") for number in range(int(argument or 1000))))


def set_cookie(reply: Reply, argument: str) -> Reply:
    """Two cookies."""
    return reply.with_headers(
        (b"Set-Cookie", b"session=simulated; Path=/; HttpOnly"), (b"Set-Cookie", b"tracker=simulated2; Path=/")
    )


def trailers(reply: Reply, argument: str) -> Reply:
    """Trailer fields after a chunked body."""
    fields = ((b"X-Checksum", b"abc123"), (b"Server-Timing", b"late; dur=5"))
    announced = reply.with_headers((b"Trailer", b"X-Checksum, Server-Timing"))
    return replace(announced, framing="chunked", trailers=fields)


def truncated(reply: Reply, argument: str) -> Reply:
    """N: only the first N events (all but the last), ended cleanly: what only the provider's own marker shows."""
    events = list(reply.pieces)
    kept = int(argument) if argument else len(events) - 1
    if len(events) < 2:
        return replace(reply, pieces=(b"".join(events)[: len(b"".join(events)) // 2],), size=None)
    return replace(reply, pieces=tuple(events[: max(1, kept)]), size=None)


def gzip_coded(reply: Reply, argument: str) -> Reply:
    """gzip, flushed at each event, also on event streams."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    pieces = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in reply.pieces]
    return _coded(reply, b"gzip", [*pieces, packer.flush()])


def zstd_coded(reply: Reply, argument: str) -> Reply:
    """Zstandard, flushed at each event."""
    packer = zstandard.ZstdCompressor().compressobj()
    pieces = [packer.compress(piece) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for piece in reply.pieces]
    return _coded(reply, b"zstd", [*pieces, packer.flush()])


def brotli_coded(reply: Reply, argument: str) -> Reply:
    """Brotli with uncompressed meta-blocks (RFC 7932 section 9.2), flushed at each event."""
    blocks = [piece[start : start + 65536] for piece in reply.pieces for start in range(0, len(piece), 65536)]
    pieces = []
    for number, block in enumerate(blocks):
        # From bit 0: window bits "0" (first block only), ISLAST 0, MNIBBLES 4, MLEN - 1, ISUNCOMPRESSED 1.
        bits = (len(block) - 1) << 3 | 1 << 19
        pieces.append((bits << 1 if number == 0 else bits).to_bytes(3, "little") + block)
    return _coded(reply, b"br", [*pieces, b"\x03" if blocks else b"\x06"])


def cut_gzip(reply: Reply, argument: str) -> Reply:
    """gzip that ends in the middle, in a body that is framed as whole."""
    packed = b"".join(gzip_coded(reply, "").pieces)
    return _coded(reply, b"gzip", [packed[: len(packed) // 2]])


def wrong_encoding(reply: Reply, argument: str) -> Reply:
    """Says gzip and is not."""
    return _coded(reply, b"gzip", reply.pieces)


def bomb(reply: Reply, argument: str) -> Reply:
    """gzip of so many MiB (64) of spaces before the answer, about 1:1000."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * MIB
    blank = b"".join(packer.compress(block) for _ in range(int(argument or 64)))
    return _coded(reply, b"gzip", [blank + packer.compress(b"".join(reply.pieces)) + packer.flush()])


def gzip_members(reply: Reply, argument: str) -> Reply:
    """So many (1025) gzip members one after another."""
    body, count = b"".join(reply.pieces), int(argument or 1025)
    step = max(1, -(-len(body) // count))
    members = [_member(body[start : start + step]) for start in range(0, len(body), step)]
    members += [_member(b"")] * (count - len(members))
    return _coded(reply, b"gzip", [b"".join(members)])


def sse_cr(reply: Reply, argument: str) -> Reply:
    """Lines end in CR alone."""
    return _events(reply, (piece.replace(b"\r\n", b"\r") for piece in reply.pieces))


def sse_lf(reply: Reply, argument: str) -> Reply:
    """Lines end in LF alone."""
    return _events(reply, (piece.replace(b"\r\n", b"\n") for piece in reply.pieces))


def sse_bom(reply: Reply, argument: str) -> Reply:
    """A byte order mark first."""
    return _events(reply, (b"\xef\xbb\xbf" * (number == 0) + piece for number, piece in enumerate(reply.pieces)))


def sse_multiline(reply: Reply, argument: str) -> Reply:
    """Each event's JSON over several `data:` lines."""
    return _events(reply, (_over_lines(piece) for piece in reply.pieces))


def sse_comments(reply: Reply, argument: str) -> Reply:
    """Comments, an `id:` and a `retry:` between the events."""
    return _events(reply, (b": keepalive\r\n\r\nid: 7\r\nretry: 1000\r\n" + piece for piece in reply.pieces))


def sse_unterminated(reply: Reply, argument: str) -> Reply:
    """No blank line after the last event."""
    events = list(reply.pieces)
    return _events(reply, [*events[:-1], *(event.rstrip(b"\r\n") for event in events[-1:])])


def sse_split_utf8(reply: Reply, argument: str) -> Reply:
    """Every piece is cut within a character of several bytes."""
    pieces: list[bytes] = []
    for piece in reply.pieces:
        # An ellipsis made of three bytes goes into the first text, so that there is something to cut.
        marked = piece.replace(b'"text": "', b'"text": "\xe2\x80\xa6', 1)
        at = marked.find(b"\xe2\x80\xa6") + 1 or len(marked)
        pieces += [part for part in (marked[:at], marked[at:]) if part]
    return _events(reply, pieces)


def sse_huge(reply: Reply, argument: str) -> Reply:
    """One event of so many MiB (8) in front."""
    value = {
        "candidates": [
            {"content": {"parts": [{"text": "h" * (int(argument or 8) * MIB)}], "role": "model"}, "index": 0}
        ]
    }
    return _events(reply, [f"data: {one_line(value)}\r\n\r\n".encode(), *reply.pieces])


def sse_done(reply: Reply, argument: str) -> Reply:
    """The `[DONE]` that the Gemini API does not send."""
    return _events(reply, [*reply.pieces, b"data: [DONE]\r\n\r\n"])


def error_mid_stream(reply: Reply, argument: str) -> Reply:
    """AT: an error object in place of the events from there on, then a clean end; the status stays 200."""
    kept = list(reply.pieces)[: int(argument or 1)]
    if _is_sse(reply):
        return replace(reply, pieces=(*kept, f"data: {one_line(_ERROR)}\r\n\r\n".encode()))
    if len(list(reply.pieces)) > 1:
        return replace(reply, pieces=(*kept, b"\n,\r\n" + json.dumps(_ERROR, indent=2).encode(), b"\n]"))
    return replace(reply, pieces=(json.dumps(_ERROR, indent=2).encode() + b"\n",), size=None)


def _is_sse(reply: Reply) -> bool:
    return reply.content_type.startswith(b"text/event-stream")


def _events(reply: Reply, pieces: Iterable[bytes]) -> Reply:
    return replace(reply, pieces=tuple(pieces), size=None) if _is_sse(reply) else reply


def _coded(reply: Reply, coding: bytes, pieces: Iterable[bytes]) -> Reply:
    return replace(reply.with_headers((b"Content-Encoding", coding)), pieces=tuple(pieces), size=None)


def _member(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def _over_lines(piece: bytes) -> bytes:
    try:
        value = json.loads(piece.removeprefix(b"data: "))
    except ValueError:
        return piece
    lines = json.dumps(value, indent=1, ensure_ascii=False).split("\n")
    return "".join(f"data: {line}\r\n" for line in lines).encode() + b"\r\n"
