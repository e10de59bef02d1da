"""What the captures of a worker share: the journal, the moment of writing, and the measure of bodies.

Records reach the journal's files in groups: chunks of running exchanges within `FLUSH_SECONDS`, and the records of an
exchange that ends before its last bytes go to the client (`Recording.commit`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from blake3 import blake3

from .journal import JournalWriter, Written
from .redaction import BodyScrubber, Redactor

FLUSH_SECONDS = 0.005
FLUSH_BYTES = 512 * 1024
HASH_FROM_BYTES = 256 * 1024
"""A body of unknown length is held this long to be hashed from its start if it grows over the limit."""
QUICK_BYTES = 1024 * 1024
"""A body of up to this size that is here as a whole needs no meter."""

Finish = Callable[[bytes, bool], None]


class Beginning(Protocol):
    """An exchange whose record is not begun yet."""

    def begin(self) -> None:
        """Append the first record, if none was."""


class Recording:
    """What the captures of a worker share: the journal, the redactor and the moment of writing."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal: JournalWriter,
        redactor: Redactor,
        *,
        max_body_bytes: int,
        head_bytes: int,
    ) -> None:
        self.journal = journal
        self.redactor = redactor
        self.max_body_bytes = max_body_bytes
        self.head_bytes = head_bytes
        self.quick_bytes = min(max_body_bytes, QUICK_BYTES)
        self._loop = loop
        self._held: list[tuple[Finish, bytes, bool]] = []
        self._unbegun: list[Beginning] = []
        self._flush_soon = False
        self._flush_later = False

    def open(self, capture: Beginning) -> None:
        """An exchange is under way; it is asked to `begin` its record if it still is at the next flush of chunks."""
        self._unbegun.append(capture)
        if not self._flush_later:
            self._flush_chunks_later()

    def append(self, record: Written, size: int = 256) -> None:
        """Take a record of about `size` bytes; it is in the file within `FLUSH_SECONDS`."""
        journal = self.journal
        journal.append(record, size)
        if journal.pending_bytes > FLUSH_BYTES:
            journal.flush()
        elif not self._flush_later:
            self._flush_chunks_later()

    def commit(self, finish: Finish, data: bytes, close: bool) -> None:
        """Call `finish(data, close)` as soon as everything appended so far is in the file."""
        self._held.append((finish, data, close))
        if not self._flush_soon:
            self._flush_soon = True
            self._loop.call_soon(self._flush_held)

    def flush(self) -> None:
        """Write what is pending, and let go what waited for it."""
        self.journal.flush()
        held, self._held = self._held, []
        for finish, data, close in held:
            finish(data, close)

    def _flush_chunks_later(self) -> None:
        self._flush_later = True
        self._loop.call_later(FLUSH_SECONDS, self._flush_chunks)

    def _flush_held(self) -> None:
        self._flush_soon = False
        self.flush()

    def _flush_chunks(self) -> None:
        self._flush_later = False
        unbegun, self._unbegun = self._unbegun, []
        for capture in unbegun:
            capture.begin()
        self.flush()


class BodyMeter:
    """Counts one body, cleans what is to be recorded of it, and stops recording past the limit."""

    __slots__ = ("_hash", "_limit", "_recent", "_scrubber", "size")

    def __init__(self, scrubber: BodyScrubber, limit: int, head_bytes: int, length: int | None) -> None:
        """`length`: the announced size, None if unknown; an announced size over the limit keeps the head alone."""
        self._scrubber = scrubber
        self._limit = min(limit, head_bytes) if length is not None and length > limit else limit
        known_to_fit = length is not None and length <= limit
        self._recent: list[bytes] | None = None if known_to_fit else []
        self._hash: blake3 | None = None
        self.size = 0

    @property
    def redacted(self) -> bool:
        return self._scrubber.redacted

    def take(self, data: bytes) -> bytes:
        """What of `data` is to be recorded."""
        size = self.size = self.size + len(data)
        if self._hash is not None:
            self._hash.update(data)
        elif self._recent is not None:
            self._recent.append(data)
            if size > HASH_FROM_BYTES:
                self._start_hash()
        if size > self._limit:
            data = data[: max(0, self._limit - (size - len(data)))]
            if not data:
                return b""
        return self._scrubber.feed(data)

    def rest(self) -> bytes:
        """What the scrubber still held back."""
        return self._scrubber.finish()

    def withhold(self, body: bytes) -> None:
        """Nothing of the body was recorded after all."""
        self._limit = -1
        self._hash = blake3(body)

    def digest(self) -> str | None:
        """BLAKE3 hex of everything, if the record does not hold everything."""
        if self.size <= self._limit:
            return None
        if self._hash is None:
            self._start_hash()
        assert self._hash is not None
        return self._hash.hexdigest()

    def _start_hash(self) -> None:
        self._hash = blake3()
        for data in self._recent or ():
            self._hash.update(data)
        self._recent = None
