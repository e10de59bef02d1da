"""Takes secrets out of one body as it streams by.

Invariant: whatever the chunks, what comes out is what would come out of the whole body in one chunk (but for secrets
longer than the patience of their format, whose fingerprint is then that of their beginning); a chunk's end is held back
only while it may be the start of a secret.
"""

from __future__ import annotations

from .formats import CONTEXT_BYTES
from .needles import Needles


class BodyScrubber:
    """For one body: `feed` its chunks, then `finish`. `redacted`: whether anything was replaced."""

    __slots__ = ("_before", "_eating", "_held", "_needles", "_search", "redacted")

    def __init__(self, needles: Needles) -> None:
        self.redacted = False
        self._needles = needles
        self._search = needles.search
        self._held = b""
        self._before = b""
        self._eating: frozenset[int] = frozenset()
        """While a secret goes on that is too long to wait for its end: what it can be made of."""

    def feed(self, data: bytes) -> bytes:
        """What may be written now: the very object when nothing is suspicious, maybe nothing yet."""
        if self._held:
            data = self._held + data
            self._held = b""
        if self._eating:
            data = self._eat(data)
        if not data:
            return data
        hits = self._search(data)
        if not hits and data[-1] not in self._needles.last_bytes:
            self._before = data[-CONTEXT_BYTES:] if len(data) >= CONTEXT_BYTES else self._context(data)
            return data
        return self._scrub(data, hits, final=False)

    def finish(self) -> bytes:
        """What was held back. A secret that the body's end cuts off is replaced if a good part of it is there."""
        data, self._held = self._held, b""
        return self._scrub(data, self._search(data), final=True) if data else b""

    def _scrub(self, data: bytes, hits: list[tuple[int, int, int]], *, final: bool) -> bytes:
        found, wait = self._needles.find(data, hits, self._before, final=final, cut=final)
        self._held = data[wait:]
        if not found:
            data = data[:wait]
            self._before = self._context(data)
            return data
        self.redacted = True
        pieces: list[bytes] = []
        at = 0
        for each, fingerprint in found:
            pieces += (data[at : each.start], fingerprint)
            at = each.end
        self._eating = found[-1][0].rest if at == wait else frozenset()
        pieces.append(data[at:wait])
        self._before = self._context(data[:wait])
        return b"".join(pieces)

    def _context(self, data: bytes) -> bytes:
        """What precedes the next data once `data` has gone out."""
        return (self._before + data[-CONTEXT_BYTES:])[-CONTEXT_BYTES:]

    def _eat(self, data: bytes) -> bytes:
        rest = data.lstrip(bytes(self._eating))
        if rest:
            self._eating = frozenset()
        return rest
