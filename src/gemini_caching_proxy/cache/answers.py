"""Recorded answers as they are served, and the hot ones that a worker holds in memory.

An answer keeps what was recorded: chunk boundaries, times, and the fields of its head that are not of one moment or one
connection. Other shapes of it are made when they are first asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from gemini_caching_proxy.content_coding import content_codings, uncoded
from gemini_caching_proxy.exchange import EntryKind, Headers, StreamShape
from gemini_caching_proxy.stores.base import CachedAnswer, replaces

_NOT_KEPT = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length date age expires"
    b" server-timing alt-svc set-cookie cache-status proxy-status via x-exchange-id x-source-exchange-id"
    b" retry-after x-guploader-uploadid location access-control-allow-origin access-control-allow-credentials"
    b" access-control-expose-headers".split()
)
"""Fields of one moment, one connection or one client; what is needed of them is made anew."""
_FINGERPRINT = b"fp_"
"""A field that held a secret is not served in its redacted form."""
_CONTENT_TYPES: dict[str, bytes] = {
    "sse": b"text/event-stream",
    "json_array": b"application/json; charset=UTF-8",
    "unary": b"application/json; charset=UTF-8",
}

Reshape = Callable[[bytes, StreamShape, StreamShape], tuple[bytes, ...] | None]


@dataclass(slots=True)
class RecordedAnswer:
    """An answer that can be served again and again."""

    key: bytes
    exchange: bytes
    """Id of the exchange that it was recorded in, 16 bytes."""
    kind: EntryKind
    pinned: bool
    stored_ns: int
    """When it was whole (Unix ns)."""
    status: int
    reason: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    chunks: tuple[bytes, ...]
    offsets_us: tuple[int, ...]
    """When each chunk came, from the first byte of the answer on."""
    shape: StreamShape
    has_length: bool
    """Whether the answer told its length in advance."""
    duration_us: int
    coding: tuple[str, ...] = ()
    variants: dict[tuple[StreamShape, bool], RecordedAnswer | None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes it takes, about."""
        return sum(map(len, self.chunks)) + sum(len(name) + len(value) + 64 for name, value in self.headers) + 1024

    def variant(self, shape: StreamShape, accepted: Callable[[str], bool], reshape: Reshape) -> RecordedAnswer | None:
        """The answer in the shape and the content-codings that a client wants; None if it cannot be put into them."""
        shape = shape if self.status == 200 else self.shape
        keep_coding = all(map(accepted, self.coding))
        if shape == self.shape and keep_coding:
            return self
        known = self.variants.get((shape, keep_coding), self)
        if known is self:
            known = self.variants[shape, keep_coding] = self._in_shape(shape, reshape)
        return known

    def _in_shape(self, shape: StreamShape, reshape: Reshape) -> RecordedAnswer | None:
        plain = uncoded(self.headers, b"".join(self.chunks), map(len, self.chunks))
        if plain.error is not None:
            return None
        chunks: tuple[bytes, ...] | None
        if shape == self.shape:
            ends = (0, *plain.ends)
            chunks = tuple(plain.data[start:end] for start, end in pairwise(ends))
        else:
            chunks = reshape(plain.data, self.shape, shape)
        if chunks is None:
            return None
        last = self.offsets_us[-1] if self.offsets_us else 0
        offsets = self.offsets_us if len(chunks) == len(self.offsets_us) else _spread(len(chunks), last)
        dropped = {b"content-encoding"} | ({b"content-type", b"content-disposition"} if shape != self.shape else set())
        headers = [pair for pair in self.headers if pair[0].lower() not in dropped]
        if shape != self.shape:
            headers.insert(0, (b"Content-Type", _CONTENT_TYPES[shape]))
        return RecordedAnswer(
            self.key,
            self.exchange,
            self.kind,
            self.pinned,
            self.stored_ns,
            self.status,
            self.reason,
            tuple(headers),
            chunks,
            offsets,
            shape,
            shape == "unary",
            self.duration_us,
        )


def _spread(count: int, last_us: int) -> tuple[int, ...]:
    """Times for chunks that never were: evenly up to the time of the last that was."""
    return tuple(last_us * (index + 1) // count for index in range(count))


def from_store(found: CachedAnswer) -> RecordedAnswer:
    """What the store gave, as it is served."""
    entry, response = found.entry, found.response
    data, start = response.body.data, 0
    chunks = []
    for chunk in response.chunks:
        chunks.append(data[start : start + chunk.size])
        start += chunk.size
    if start < len(data):
        chunks.append(data[start:])
    first = found.first_byte_us or 0
    offsets = [max(0, chunk.offset_us - first) for chunk in response.chunks]
    offsets += [offsets[-1] if offsets else 0] * (len(chunks) - len(offsets))
    return RecordedAnswer(
        entry.key,
        entry.exchange.bytes,
        entry.kind,
        entry.pinned,
        entry.stored_ns,
        response.status,
        response.reason,
        lasting(response.headers),
        tuple(chunks),
        tuple(offsets),
        found.stream_shape,
        any(name.lower() == b"content-length" for name, _ in response.headers),
        found.duration_us or 0,
        tuple(content_codings(response.headers)),
    )


def lasting(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The fields of a head that hold for every time it is served."""
    return tuple(
        (name, value) for name, value in headers if name.lower() not in _NOT_KEPT and _FINGERPRINT not in value
    )


class HotAnswers:
    """The answers used last, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._answers: OrderedDict[bytes, tuple[RecordedAnswer, int]] = OrderedDict()
        self.bytes = 0
        self.clearings = 0
        """How often all was dropped: what was looked up before the last time may be out of date."""

    def __repr__(self) -> str:
        return f"<HotAnswers {len(self._answers)}, {self.bytes} bytes>"

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: bytes) -> RecordedAnswer | None:
        found = self._answers.get(key)
        if found is None:
            return None
        self._answers.move_to_end(key)
        return found[0]

    def put(self, answer: RecordedAnswer) -> None:
        """Take an answer in.

        One that is larger than a quarter of the room stays out, and one that has less of a claim than what is held
        (`replaces`): the store may be behind what this worker has seen.
        """
        known = self._answers.get(answer.key)
        if known is not None and not replaces(answer, known[0]):
            return
        size = answer.size
        self.drop(answer.key)
        if size > self._most_bytes // 4:
            return
        self._answers[answer.key] = (answer, size)
        self.bytes += size
        while self.bytes > self._most_bytes:
            _, (_, freed) = self._answers.popitem(last=False)
            self.bytes -= freed

    def drop(self, key: bytes) -> None:
        found = self._answers.pop(key, None)
        if found is not None:
            self.bytes -= found[1]

    def clear(self) -> None:
        self._answers.clear()
        self.bytes = 0
        self.clearings += 1
