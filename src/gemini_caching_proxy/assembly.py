"""Journal records -> raw exchanges: the records of many exchanges come interleaved, each exchange leaves once, whole.

Invariants: an exchange leaves at its `End`, or when its writer is gone (`abandon`), with every byte the journal holds;
what the journal does not hold is said (`Body.complete`, `Failure`), never guessed. Memory per open exchange is bounded:
beyond `SPILL_BYTES` its records wait in an unnamed temporary file. Nothing is parsed here.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Literal, cast
from uuid import UUID

import msgspec
from blake3 import blake3

from .exchange import Body, CacheUse, Chunk, Exchange, Failure, FailureKind, Headers, Response, Timing, Verdict
from .journal import Begin, Cached, End, HeaderPairs, Position, RequestChunk, ResponseHead
from .journal import Chunk as ChunkRecord

SPILL_BYTES = 1024 * 1024
"""Body bytes of one open exchange that are kept in memory."""
INTERRUPTED_DETAIL = "The recording process ended before the exchange did."
HEAD_LOST_DETAIL = "The head of the answer is missing from the journal (a damaged record)."

ExchangeRecord = Begin | RequestChunk | ResponseHead | ChunkRecord | End | Cached

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ExchangeRecord)


class OpenExchange:
    """The records of one exchange so far."""

    __slots__ = (
        "_held",
        "_held_bytes",
        "_spill",
        "_spill_folder",
        "_spilled",
        "begin_at",
        "body_bytes",
        "id",
        "started_ns",
    )

    def __init__(self, begin: Begin, begin_at: Position, spill_folder: Path | None = None) -> None:
        self.id = begin.id
        self.started_ns = begin.started_ns
        self.begin_at = begin_at
        """Where reading must start again to see all of it."""
        self.body_bytes = 0
        self._held: list[ExchangeRecord] = []
        self._held_bytes = 0
        self._spill: IO[bytes] | None = None
        self._spilled = 0
        """Bytes of whole frames in it."""
        self._spill_folder = spill_folder
        self.add(begin)

    def __repr__(self) -> str:
        return f"<OpenExchange {UUID(bytes=self.id)} from {self.begin_at}, {self.body_bytes} body bytes>"

    def add(self, record: ExchangeRecord) -> None:
        size = _body_bytes(record)
        self._held.append(record)
        self._held_bytes += size
        self.body_bytes += size
        if self._held_bytes > SPILL_BYTES:
            self._write_spill()

    def records(self) -> Iterator[ExchangeRecord]:
        """All records, in order."""
        if self._spill is not None:
            self._spill.seek(0)
            spilled = io.BytesIO(self._spill.read(self._spilled))
            while prefix := spilled.read(4):
                yield _decoder.decode(spilled.read(int.from_bytes(prefix, "little")))
        yield from self._held

    def discard(self) -> None:
        """Free what it holds; it must not be used after."""
        self._held = []
        if self._spill is not None:
            self._spill.close()

    def _write_spill(self) -> None:
        frames = [_encoder.encode(record) for record in self._held]
        try:
            if self._spill is None:
                self._spill = tempfile.TemporaryFile(dir=self._spill_folder, buffering=0)  # noqa: SIM115
            self._spill.seek(self._spilled)
            for frame in frames:
                _write_all(self._spill, len(frame).to_bytes(4, "little") + frame)
        except OSError:
            # A full disk: what was written half is written over next time, and meanwhile memory keeps it.
            self._held_bytes = 0
            return
        self._spilled = self._spill.tell()
        self._held = []
        self._held_bytes = 0


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _body_bytes(record: ExchangeRecord) -> int:
    if isinstance(record, RequestChunk | ChunkRecord):
        return len(record.data)
    return len(record.body) if isinstance(record, Begin) else 0


class Assembly:
    """The open exchanges of one journal."""

    def __init__(self, spill_folder: Path | None = None) -> None:
        """`spill_folder`: where large bodies wait; None = the system's folder for temporary files."""
        self._spill_folder = spill_folder
        self.open: dict[bytes, OpenExchange] = {}
        """By id, oldest `begin_at` first."""
        self.orphan_records = 0
        """Records of exchanges whose `Begin` was damaged: they cannot be kept."""

    def take(self, record: ExchangeRecord, begin_at: Position) -> OpenExchange | None:
        """Add a record; gives the exchange back when this was its last one.

        `begin_at` is a place in the journal at or before the record from which reading finds it again.
        """
        if isinstance(record, Begin):
            self.open[record.id] = OpenExchange(record, begin_at, self._spill_folder)
            return None
        exchange = self.open.get(record.id)
        if exchange is None:
            self.orphan_records += 1
            return None
        exchange.add(record)
        return self.open.pop(record.id) if isinstance(record, End) else None

    def abandon(self) -> list[OpenExchange]:
        """All open exchanges, for a journal whose writer is gone: no more will come."""
        left = list(self.open.values())
        self.open.clear()
        return left

    def give_up(self, exchange_id: bytes) -> OpenExchange | None:
        """An open exchange of which no more will come."""
        return self.open.pop(exchange_id, None)

    @property
    def first_open(self) -> Position | None:
        """The lowest place that an open exchange needs; None with none open."""
        return next(iter(self.open.values())).begin_at if self.open else None


class _BodyParts:
    """The pieces of one body as they come."""

    __slots__ = ("chunks", "pieces", "redacted")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.chunks: list[Chunk] = []
        self.redacted = False

    def add(self, data: bytes, offset_us: int, redacted: bool) -> None:
        self.pieces.append(data)
        self.chunks.append(Chunk(offset_us, len(data)))
        self.redacted = self.redacted or redacted

    def body(self, *, size: int | None, digest: str | None, complete: bool, head_bytes: int) -> Body:
        """`size` None = unknown: then it is what is kept. `digest` set = the journal does not hold all of the body."""
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        kept = len(data)
        lost = digest is None and size is not None and not self.redacted and kept != size
        if digest is not None and kept > head_bytes:
            data = data[:head_bytes]
            self._cut_chunks(head_bytes)
        if self.redacted or digest is None:
            digest, partial = blake3(data).hexdigest(), digest is not None
        else:
            partial = True
        return Body(
            data=data,
            size=kept if size is None else size,
            digest="" if lost else digest,
            complete=complete and not partial and not lost,
            redacted=self.redacted,
        )

    def _cut_chunks(self, size: int) -> None:
        left, cut = size, []
        for chunk in self.chunks:
            if left <= 0:
                break
            cut.append(Chunk(chunk.offset_us, min(chunk.size, left)))
            left -= chunk.size
        self.chunks = cut


def assemble(records: Iterable[ExchangeRecord], head_bytes: int) -> Exchange:
    """The exchange that one exchange's records tell; without an `End` it was interrupted.

    `head_bytes` of a body are kept where the journal does not hold all of it.
    """
    begin: Begin | None = None
    head: ResponseHead | None = None
    end: End | None = None
    cached: Cached | None = None
    request, response = _BodyParts(), _BodyParts()
    last_us = 0
    for record in records:
        if isinstance(record, ChunkRecord):
            response.add(record.data, record.offset_us, record.redacted)
        elif isinstance(record, RequestChunk):
            request.add(record.data, record.offset_us, record.redacted)
        elif isinstance(record, Begin):
            begin = record
            if record.body:
                request.add(record.body, 0, record.redacted)
            continue
        elif isinstance(record, ResponseHead):
            head = record
        elif isinstance(record, Cached):
            cached = record
        else:
            end = record
        last_us = max(last_us, record.offset_us)
    assert begin is not None, "an exchange starts with its Begin"
    return _exchange(begin, head, end, cached, request, response, last_us, head_bytes)


def _exchange(
    begin: Begin,
    head: ResponseHead | None,
    end: End | None,
    cached: Cached | None,
    request: _BodyParts,
    response: _BodyParts,
    last_us: int,
    head_bytes: int,
) -> Exchange:
    request_done_us = begin.body_done_us if end is None or end.request_done_us is None else end.request_done_us
    request_body = request.body(
        size=end.request_size if end else None,
        digest=end.request_digest if end else None,
        complete=request_done_us is not None or (end is None and _has_announced_length(begin.headers, request.pieces)),
        head_bytes=head_bytes,
    )
    return Exchange(
        id=UUID(bytes=begin.id),
        started_ns=begin.started_ns,
        provider=begin.provider,
        operation=begin.operation,
        method=begin.method,
        target=begin.target,
        upstream=begin.upstream,
        outcome=_outcome(head, end, response, head_bytes),
        http_version=begin.http_version,
        model=begin.model,
        stream_shape="websocket" if begin.websocket else "unary",
        client_address=begin.client,
        user_agent=_header(begin.headers, b"user-agent"),
        credential=begin.credential,
        credential_source=cast(Literal["client", "proxy", "none"], begin.credential_source),
        request_headers=_headers(begin.headers),
        request_body=request_body,
        request_chunks=max(1, len(request.pieces)),
        timing=Timing(
            request_done_us=request_done_us,
            connected_us=end.connected_us if end else None,
            first_byte_us=head.offset_us if head else None,
            last_byte_us=last_us,
        ),
        tunnel_bytes_up=end.tunnel_up if end else None,
        tunnel_bytes_down=end.tunnel_down if end else None,
        cache=_cache_use(cached, last_us),
    )


def _cache_use(cached: Cached | None, last_us: int) -> CacheUse | None:
    if cached is None:
        return None
    return CacheUse(
        Verdict(cached.verdict),
        cached.key,
        None if cached.source is None else UUID(bytes=cached.source),
        cached.detail,
        saved_us=None if cached.source_us is None else max(0, cached.source_us - last_us),
    )


def _outcome(head: ResponseHead | None, end: End | None, body: _BodyParts, head_bytes: int) -> Response | Failure:
    whole = end is not None and end.failure is None
    response = None
    if head is not None:
        kept = body.body(
            size=end.response_size if end else None,
            digest=end.response_digest if end else None,
            complete=whole,
            head_bytes=head_bytes,
        )
        trailers = _headers(end.trailers) if end else ()
        response = Response(head.status, head.reason, _headers(head.headers), kept, tuple(body.chunks), trailers)
    if whole and response is not None:
        return response
    if end is None:
        return Failure(FailureKind.INTERRUPTED, INTERRUPTED_DETAIL, partial=response)
    if end.failure is None:
        return Failure(FailureKind.INTERRUPTED, HEAD_LOST_DETAIL)
    return Failure(*_failure_kind(end.failure, end.detail), served_status=end.served_status, partial=response)


def _failure_kind(kind: str, detail: str) -> tuple[FailureKind, str]:
    try:
        return FailureKind(kind), detail
    except ValueError:
        return FailureKind.INTERRUPTED, f"{kind}: {detail}"


def _headers(pairs: HeaderPairs) -> Headers:
    return tuple((name, value) for name, value in pairs)


def _header(pairs: HeaderPairs, name: bytes) -> str | None:
    for field, value in pairs:
        if field.lower() == name:
            return value.decode("latin-1")
    return None


def _has_announced_length(pairs: HeaderPairs, pieces: list[bytes]) -> bool:
    """Whether a request of an interrupted exchange is whole: the worker could not tell any more."""
    announced = _header(pairs, b"content-length")
    return announced is not None and announced == str(sum(map(len, pieces)))
