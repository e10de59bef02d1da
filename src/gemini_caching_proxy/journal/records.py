"""What a journal holds: the records of exchanges, and how a frame's payload becomes records again.

Records of one exchange share its `id`: `Begin`, `RequestChunk`*, then `ResponseHead` and `Chunk`*, then exactly one
`End` (a worker that dies leaves it out: the reader of the journal then knows the exchange was interrupted).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

FORMAT_VERSION: Final = 2
"""Version of the records' shape, written in front of each segment."""

HeaderPairs = list[tuple[bytes, bytes]]


class Begin(msgspec.Struct, array_like=True, tag=1, gc=False):
    """A request's head was read and accepted; everything in it is redacted."""

    id: bytes
    """UUIDv7, 16 bytes."""
    started_ns: int
    """Unix time."""
    client: str
    """`address:port`."""
    method: str
    target: str
    http_version: str
    headers: HeaderPairs
    provider: str
    operation: str
    model: str | None
    upstream: str
    """Base URL called."""
    credential: str | None
    credential_source: str
    websocket: bool
    body: bytes
    """The request body as far as it came with the head."""
    body_done_us: int | None
    """Set when `body` is the whole request body."""
    redacted: bool = False


class RequestChunk(msgspec.Struct, array_like=True, tag=2, gc=False):
    id: bytes
    offset_us: int
    data: bytes
    redacted: bool = False


class ResponseHead(msgspec.Struct, array_like=True, tag=3, gc=False):
    id: bytes
    offset_us: int
    """First byte of the answer's head."""
    status: int
    reason: bytes
    headers: HeaderPairs


class Chunk(msgspec.Struct, array_like=True, tag=4, gc=False):
    id: bytes
    offset_us: int
    data: bytes
    redacted: bool = False


class End(msgspec.Struct, array_like=True, tag=5, gc=False):
    """How it ended. Sizes count bytes that passed; digests are set where the record does not hold all of them."""

    id: bytes
    offset_us: int
    connected_us: int | None
    request_done_us: int | None
    request_size: int
    response_size: int
    failure: str | None = None
    """A `FailureKind`; None = a complete response passed."""
    detail: str = ""
    served_status: int | None = None
    request_digest: str | None = None
    response_digest: str | None = None
    trailers: HeaderPairs = []
    tunnel_up: int | None = None
    tunnel_down: int | None = None


class Cached(msgspec.Struct, array_like=True, tag=8, gc=False):
    """What the cache said to the request; at most one per exchange, before its `End`."""

    id: bytes
    offset_us: int
    verdict: str
    key: bytes | None = None
    source: bytes | None = None
    """Id of the exchange whose answer was given."""
    source_us: int | None = None
    """What the source took."""
    detail: str = ""
    """Why it was not served."""


class WholeExchange(msgspec.Struct, array_like=True, tag=7, gc=False):
    """An exchange that was over before its `Begin` was written, and as simple as most short ones.

    A reader never sees it: it comes out as the `Begin`, `Cached`, `ResponseHead`, `Chunk`, `End` that it stands for.
    """

    begin: Begin
    connected_us: int | None
    offset_us: int
    status: int
    reason: bytes
    headers: HeaderPairs
    data: bytes
    cached: Cached | None = None

    @property
    def id(self) -> bytes:
        return self.begin.id

    def parts(self) -> list[Record]:
        """The records it stands for."""
        begin, at = self.begin, self.offset_us
        parts: list[Record] = [begin]
        if self.cached is not None:
            parts.append(self.cached)
        parts.append(ResponseHead(begin.id, at, self.status, self.reason, self.headers))
        if self.data:
            parts.append(Chunk(begin.id, at, self.data))
        parts.append(End(begin.id, at, self.connected_us, begin.body_done_us, len(begin.body), len(self.data)))
        return parts


class Gap(msgspec.Struct, array_like=True, tag=6, gc=False):
    """Exchanges that could not be kept: the journal was full or its disk failed."""

    exchanges: int
    first_ns: int
    """Unix time of the first loss."""
    last_ns: int
    reason: str
    begun: list[bytes] = []
    """Ids of those among them whose first records are in the journal already: no more of them will come."""


Record = Begin | RequestChunk | ResponseHead | Chunk | End | Gap | Cached
"""What a reader gives."""
Written = Record | WholeExchange
"""What a writer takes."""

Untyped = list[Any]
"""A payload's records as plain lists, before their shape is checked."""

CONVERTERS: Mapping[int, Callable[[Untyped], Untyped]] = {1: lambda records: records}
"""One step per version: `CONVERTERS[n]` turns records of version n into those of version n + 1.

Version 2 adds `Cached`, and otherwise reads what version 1 wrote.
"""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Written])


def encode_records(records: Sequence[Written]) -> bytes:
    """Raises ValueError, TypeError or OverflowError for a value that MessagePack cannot hold."""
    return _encoder.encode(records)


def decode_records(payload: bytes | memoryview, version: int = FORMAT_VERSION) -> list[Record]:
    """Raises msgspec.MsgspecError if the payload is not a list of records."""
    if version == FORMAT_VERSION:
        return _plain(_decoder.decode(payload))
    records: Untyped = msgspec.msgpack.decode(payload, type=list)
    for step in range(version, FORMAT_VERSION):
        records = CONVERTERS[step](records)
    return _plain(msgspec.convert(records, list[Written]))


def _plain(records: list[Written]) -> list[Record]:
    plain: list[Record] = []
    for record in records:
        if isinstance(record, WholeExchange):
            plain += record.parts()
        else:
            plain.append(record)
    return plain
