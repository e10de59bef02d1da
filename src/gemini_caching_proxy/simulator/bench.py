"""Answers made beforehand, for load: models `bench-…` are answered without parsing the body or asking for a key.

- `bench-unary[-BYTES]`: one JSON answer of about that size (2048).
- `bench-sse[-EVENTS[-MILLISECONDS]]`: an event stream (100 events, no pause), each event a write of its own.
"""

from __future__ import annotations

import re
from random import Random

from . import content
from .connection import QuickReply
from .reply import JSON_TYPE, Pacing, Reply, body_writes, chunk, head_bytes, last_chunk, one_line, pretty

_TARGET = re.compile(rb"/models/bench-(unary|sse)(?:-(\d{1,9}))?(?:-(\d{1,6}))?:")
MAX_REMEMBERED = 256
_HEADERS = (
    (b"Vary", b"Origin, X-Origin, Referer"),
    (b"Server", b"scaffolding on HTTPServer2"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Server-Timing", b"gfet4t7; dur=12"),
)


class Bench:
    """Remembers what it made for each target."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made: dict[bytes, QuickReply] = {}

    def reply(self, target: bytes) -> QuickReply | None:
        """The answer for a bench model's target, None for all others."""
        made = self._made.get(target)
        if made is not None or b"/models/bench-" not in target:
            return made
        found = _TARGET.search(target)
        if found is None:
            return None
        kind, first, second = found[1], int(found[2] or 0), int(found[3] or 0)
        made = self._unary(first or 2048) if kind == b"unary" else self._sse(first or 100, second / 1000)
        if len(self._made) >= MAX_REMEMBERED:
            self._made.clear()
        self._made[target] = made
        return made

    def _unary(self, size: int) -> QuickReply:
        rng = content.rng_for(self._seed, "bench")
        text = content.prose(rng, sentences=size // 70 + 1)
        value = _object(text[: max(1, size - 420)], 1, last=True)
        body = (pretty(value) + "\n").encode()
        head = head_bytes(Reply(200, ((b"Content-Type", JSON_TYPE), *_HEADERS)))
        return QuickReply((head + chunk(body) + last_chunk(),))

    def _sse(self, events: int, interval_s: float) -> QuickReply:
        rng = content.rng_for(self._seed, "bench")
        values = (_object(content.sentence(rng), number, last=number == events) for number in range(1, events + 1))
        pieces = tuple(f"data: {one_line(value)}\r\n\r\n".encode() for value in values)
        headers = ((b"Content-Type", b"text/event-stream"), (b"Content-Disposition", b"attachment"), *_HEADERS)
        reply = Reply(200, headers, pieces)
        *writes, end = (wire for _, wire in body_writes(reply, Pacing(), Random(0)))
        writes[0] = head_bytes(reply) + writes[0]
        writes[-1] += end
        return QuickReply(tuple(writes), interval_s)


def _object(text: str, number: int, *, last: bool) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    counts = {"promptTokenCount": 12, "candidatesTokenCount": 20 * number, "totalTokenCount": 12 + 20 * number}
    return {
        "candidates": [candidate],
        "usageMetadata": counts | {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}]},
        "modelVersion": "gemini-2.5-flash",
        "responseId": "bench0bench0bench0",
    }
