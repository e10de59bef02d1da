"""Faults of the wire: what is sent is not what HTTP/1.1 allows, or stops where it must not.

`AT` arguments count events: `2` acts after two whole events, `2.5` in the middle of the third. An answer always lacks
something: a position at or past its end becomes the middle of its last event.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gemini_caching_proxy.simulator.call import Call
from gemini_caching_proxy.simulator.reply import LAST_CHUNK, Framing, Pacing, Reply, chunk, head_bytes

FOREVER_S = 3600.0
EVIL = b'{"error": {"code": 200, "message": "EVIL: an answer nobody asked for"}}'
_VALUES = {"cr": b"a\rb", "nul": b"a\0b", "lf": b"a\nb", "fold": b"a\r\n b", "high": b"\xff\xfe", "space": b"  a  "}


# On the request's head


async def reset_before_head(call: Call, argument: str) -> None:
    """RST instead of an answer; with `unread` before the body was read."""
    if argument != "unread":
        await call.drain_body()
    call.reset()


async def finish_before_head(call: Call, argument: str) -> None:
    """FIN instead of an answer; with `unread` before the body was read."""
    if argument != "unread":
        await call.drain_body()
    await call.finish()


async def never_answer(call: Call, argument: str) -> None:
    """Silence; with `unread` the body is left in the socket."""
    if argument != "unread":
        await call.drain_body()
    await asyncio.sleep(FOREVER_S)


async def early_reply(call: Call, argument: str) -> None:
    """A whole answer (413, or the status given) before the body is read, then FIN."""
    status = int(argument or 413)
    body = (
        b'{\n  "error": {\n    "code": %d,\n    "message": "Request payload size exceeds the limit"\n  }\n}\n' % status
    )
    reply = Reply(status, ((b"Content-Type", b"application/json"),), (body,), "length")
    call.received.status = status
    await call.write(head_bytes(reply, (b"Connection", b"close")) + body)
    await call.finish()


# In an answer


async def stall_after_head(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """The head, then silence."""
    await call.write(head_bytes(reply))
    await asyncio.sleep(FOREVER_S)


async def stall_at(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """AT: silence after that many events."""
    await _send_until(call, reply, argument, pacing)
    await asyncio.sleep(FOREVER_S)


async def reset_at(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """AT: RST after that many events."""
    await _send_until(call, reply, argument, pacing)
    await _let_out(call)
    call.reset()


async def finish_at(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """AT[,chunked|length|close]: FIN after that many events, under that framing."""
    position, _, framing = argument.partition(",")
    framings: dict[str, Framing] = {"chunked": "chunked", "length": "length", "close": "close"}
    await _send_until(call, replace(reply, framing=framings.get(framing, reply.framing)), position, pacing)
    await call.finish()


async def drip(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """Everything, correctly, one byte each so many milliseconds (200)."""
    pause = int(argument or 200) / 1000
    wire = head_bytes(reply, framing="length") + b"".join(reply.pieces)
    for index in range(len(wire)):
        await call.write(wire[index : index + 1])
        await asyncio.sleep(pause)


async def short_length(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """Content-Length smaller than the body by so many bytes (5); all bytes are sent."""
    await _with_length(call, reply, -int(argument or 5))


async def long_length(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """Content-Length greater than the body by so many bytes (5), then FIN."""
    await _with_length(call, reply, int(argument or 5))
    await call.finish()


async def bad_chunk_size(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """A chunk whose size is no number."""
    first, rest = _first_and_rest(reply)
    await call.write(head_bytes(reply, framing="chunked") + chunk(first))
    await call.write(b"zz\r\n" + rest + b"\r\n" + LAST_CHUNK)
    await call.finish()


async def missing_chunk_crlf(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """A chunk without the CR LF after its data."""
    first, rest = _first_and_rest(reply)
    await call.write(head_bytes(reply, framing="chunked") + chunk(first))
    await call.write(b"%x\r\n" % len(rest) + rest + LAST_CHUNK)
    await call.finish()


async def line_feeds_only(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """Head and chunk lines end in LF instead of CR LF."""
    head = head_bytes(reply, framing="chunked").replace(b"\r\n", b"\n")
    body = b"".join(b"%x\n%b\n" % (len(piece), piece) for piece in reply.pieces if piece)
    await call.write(head + body + b"0\n\n")
    await call.finish()


async def length_and_coding(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """Content-Length and Transfer-Encoding at once."""
    body = b"".join(reply.pieces)
    head = head_bytes(reply, (b"Content-Length", b"%d" % len(body)), framing="chunked")
    await call.write(head + chunk(body) + LAST_CHUNK)


async def two_lengths(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """Two Content-Length headers that contradict each other."""
    body = b"".join(reply.pieces)
    one_piece = replace(reply, pieces=(body,), size=None)
    await call.write(head_bytes(one_piece, (b"Content-Length", b"%d" % (len(body) // 2)), framing="length") + body)


async def two_responses(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """The whole answer and, in the same segment, another one that nobody asked for."""
    body = b"".join(reply.pieces)
    whole = head_bytes(replace(reply, pieces=(body,), size=None), framing="length") + body
    evil = Reply(200, ((b"Content-Type", b"application/json"),), (EVIL,))
    await call.write(whole + head_bytes(evil, framing="length") + EVIL)


async def body_on_head(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """The body that a HEAD request must not get."""
    await call.write(head_bytes(reply, framing="length") + b"".join(reply.pieces))


async def informational(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """STATUS[xCOUNT]: interim responses (103, once) before the answer."""
    status, _, count = (argument or "103").partition("x")
    phrase = {"100": b"Continue", "102": b"Processing", "103": b"Early Hints"}.get(status, b"Interim")
    for _ in range(int(count or 1)):
        await call.write(b"HTTP/1.1 %b %b\r\nLink: </style.css>; rel=preload\r\n\r\n" % (status.encode(), phrase))
    await call.write(head_bytes(reply, framing="chunked"))
    for piece in reply.pieces:
        await call.write(chunk(piece))
    await call.write(LAST_CHUNK)


async def header_value(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """A header value with a forbidden byte: cr, nul, lf, fold; or an odd but lawful one: high, space."""
    body = b"".join(reply.pieces)
    odd = (b"X-Odd", _VALUES.get(argument, _VALUES["cr"]))
    await call.write(head_bytes(replace(reply, pieces=(body,), size=None), odd, framing="length") + body)


async def garbage(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    """Bytes that are no HTTP at all."""
    await call.write(b"\x16\x03\x01 this is not HTTP \xff\xfe\r\n\r\n")
    await call.finish()


def _split_at(reply: Reply, argument: str) -> tuple[list[bytes], bytes, bytes]:
    """The events sent whole, and the next one cut in two."""
    events = list(reply.pieces) or [b""]
    position = float(argument or 1)
    if position >= len(events):
        position = len(events) - 0.5
    whole = int(position)
    kept = int(len(events[whole]) * (position - whole))
    return events[:whole], events[whole][:kept], events[whole][kept:]


async def _send_until(call: Call, reply: Reply, argument: str, pacing: Pacing) -> None:
    reply = reply.in_memory()
    whole, sent, missing = _split_at(reply, argument)
    await call.write(head_bytes(replace(reply, size=None)))
    for number, piece in enumerate(whole):
        if number:
            await asyncio.sleep(pacing.chunk_s)
        await call.write(chunk(piece) if reply.framing == "chunked" else piece)
    if sent:
        size_line = b"%x\r\n" % (len(sent) + len(missing)) if reply.framing == "chunked" else b""
        await call.write(size_line + sent)


async def _let_out(call: Call) -> None:
    """Gives what was written time to reach the peer: a RST discards what its kernel has not delivered."""
    await asyncio.sleep(0.02)


async def _with_length(call: Call, reply: Reply, difference: int) -> None:
    body = b"".join(reply.pieces)
    claimed = replace(reply, pieces=(), size=max(0, len(body) + difference))
    await call.write(head_bytes(claimed, framing="length") + body)


def _first_and_rest(reply: Reply) -> tuple[bytes, bytes]:
    events = list(reply.pieces) or [b"?"]
    if len(events) > 1:
        return events[0], b"".join(events[1:])
    middle = max(1, len(events[0]) // 2)
    return events[0][:middle], events[0][middle:]
