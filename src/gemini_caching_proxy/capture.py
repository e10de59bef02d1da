"""The tee of one exchange: what passes is redacted, stamped and handed to the journal in order, and ended once.

A capture never delays or changes what it sees and never raises. Records reach the journal's files in groups: chunks of
running exchanges within `FLUSH_SECONDS`, and the records of an exchange that ends before its last bytes go to the
client (`Recording.commit`). Nothing here understands a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic_ns, time_ns
from typing import Protocol

from blake3 import blake3
from uuid_utils import uuid7

from .credentials import Settlement
from .exchange import FailureKind
from .journal import Begin, Chunk, End, JournalWriter, RequestChunk, ResponseHead, WholeAnswer
from .providers.base import Route
from .redaction import BodyScrubber, Needles, Redactor

FLUSH_SECONDS = 0.005
FLUSH_BYTES = 512 * 1024
HASH_FROM_BYTES = 1024 * 1024
"""Bodies up to this size are never hashed in the worker: the recorder sees all of them anyway."""

Finish = Callable[[bytes, bool], None]


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
        self.quick_bytes = min(max_body_bytes, HASH_FROM_BYTES)
        """A body of up to this size that is here as a whole needs no meter."""
        self._loop = loop
        self._held: list[tuple[Finish, bytes, bool]] = []
        self._flush_soon = False
        self._flush_later = False

    def append(self, record: Begin | RequestChunk | ResponseHead | Chunk | End | WholeAnswer, size: int = 256) -> None:
        """Take a record of about `size` bytes; it is in the file within `FLUSH_SECONDS`."""
        journal = self.journal
        journal.append(record, size)
        if journal.pending_bytes > FLUSH_BYTES:
            journal.flush()
        elif not self._flush_later:
            self._flush_later = True
            self._loop.call_later(FLUSH_SECONDS, self._flush_chunks)

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

    def _flush_held(self) -> None:
        self._flush_soon = False
        self.flush()

    def _flush_chunks(self) -> None:
        self._flush_later = False
        self.flush()


class BodyMeter:
    """Counts one body, cleans what is to be recorded of it, and stops recording past the limit."""

    __slots__ = ("_hash", "_head_only", "_kept", "_limit", "_recent", "_scrubber", "size")

    def __init__(self, scrubber: BodyScrubber, limit: int, head_bytes: int, length: int | None) -> None:
        """`length`: the announced size, None if unknown; an announced size over the limit keeps the head alone."""
        self._scrubber = scrubber
        self._head_only = length is not None and length > limit
        self._limit = min(limit, head_bytes) if self._head_only else limit
        self._recent: list[bytes] | None = []
        self._hash: blake3 | None = None
        self._kept = 0
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

    def withhold(self) -> None:
        """Nothing of the body was recorded after all."""
        self._limit = -1

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


class Capture(Protocol):
    """One exchange as it happens. `end` is called exactly once, last."""

    def request_data(self, data: bytes) -> None: ...

    def request_done(self) -> None: ...

    def connected(self) -> None: ...

    def response_head(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None
    ) -> None: ...

    def response_data(self, data: bytes) -> None: ...

    def whole_answer(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None, data: bytes
    ) -> None:
        """Head, body and end at once; instead of `response_head`, `response_data` and `end`."""
        ...

    def tunnel(self, up: int, down: int) -> None: ...

    def end(
        self,
        failure: FailureKind | None = None,
        detail: str = "",
        served_status: int | None = None,
        trailers: list[tuple[bytes, bytes]] | None = None,
    ) -> None: ...

    def commit(self, finish: Finish, data: bytes, close: bool) -> None:
        """Write the client's last bytes when the exchange is safe."""
        ...


class Unrecorded:
    """The capture of a proxy that does not record."""

    __slots__ = ()

    def request_data(self, data: bytes) -> None:
        pass

    def request_done(self) -> None:
        pass

    def connected(self) -> None:
        pass

    def response_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
        pass

    def response_data(self, data: bytes) -> None:
        pass

    def whole_answer(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None, data: bytes
    ) -> None:
        pass

    def tunnel(self, up: int, down: int) -> None:
        pass

    def end(
        self,
        failure: FailureKind | None = None,
        detail: str = "",
        served_status: int | None = None,
        trailers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        pass

    def commit(self, finish: Finish, data: bytes, close: bool) -> None:
        finish(data, close)


class RecordedShape(Protocol):
    """What a capture needs to know about a request's head."""

    method_text: str
    minor_version: int
    websocket: bool


class RecordedRequest(Protocol):
    """What a capture needs to know about a request as it is being read."""

    complete: bool
    head_ns: int
    """`time.monotonic_ns` when the head was read."""

    @property
    def announced_size(self) -> int | None: ...


class RecordedCall(Protocol):
    """What a capture needs to know about the call."""

    route: Route
    settlement: Settlement
    needles: Needles
    """For the bodies."""
    target: str
    """Redacted."""
    upstream: str


class JournalCapture:
    """The capture that writes records."""

    __slots__ = (
        "_call",
        "_coded",
        "_coding",
        "_connected_us",
        "_ended",
        "_head_ns",
        "_id",
        "_recording",
        "_request",
        "_request_done_us",
        "_request_size",
        "_response",
        "_tunnel",
    )

    def __init__(
        self,
        recording: Recording,
        call: RecordedCall,
        request: RecordedRequest,
        shape: RecordedShape,
        client: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        *,
        pooled: bool,
    ) -> None:
        """Begin: the head is read, and `body` came with it (all of the body if the request is complete).

        `pooled`: an upstream connection is at hand already.
        """
        settlement, route = call.settlement, call.route
        self._recording = recording
        self._head_ns = head_ns = request.head_ns
        self._id = uuid7().bytes
        self._call = call
        needles = call.needles
        self._tunnel: tuple[int, int] | None = None
        self._ended = False
        self._request: BodyMeter | None = None
        self._request_size = size = len(body)
        self._response: BodyMeter | None = None
        self._coding = b""
        now_us = (monotonic_ns() - head_ns) // 1000
        self._connected_us = now_us if pooled else None
        self._request_done_us = now_us if request.complete else None
        redacted = False
        if not request.complete or size > recording.quick_bytes or needles.search(body):
            self._request = meter = BodyMeter(
                BodyScrubber(needles), recording.max_body_bytes, recording.head_bytes, request.announced_size
            )
            body = meter.take(body)
            if request.complete:
                body += meter.rest()
            redacted = meter.redacted
        recording.append(
            Begin(
                self._id,
                time_ns() - now_us * 1000,
                client,
                shape.method_text,
                call.target,
                "1.1" if shape.minor_version else "1.0",
                headers,
                route.provider,
                route.operation,
                route.model,
                call.upstream,
                settlement.fingerprint,
                settlement.source,
                shape.websocket,
                body,
                self._request_done_us,
                redacted,
            ),
            size + 512,
        )

    def request_data(self, data: bytes) -> None:
        assert self._request is not None
        kept = self._request.take(data)
        if kept:
            self._record_request(kept)

    def request_done(self) -> None:
        if self._request_done_us is None:
            assert self._request is not None
            self._request_done_us = self._now_us()
            rest = self._request.rest()
            if rest:
                self._record_request(rest)

    def connected(self) -> None:
        self._connected_us = self._now_us()

    def response_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
        recording = self._recording
        limit, head = (
            (0, 0)
            if self._call.route.withhold_response and status < 400
            else (recording.max_body_bytes, recording.head_bytes)
        )
        self._response = BodyMeter(BodyScrubber(self._call.needles), limit, head, length)
        if status >= 400 and self._call.settlement.secrets:
            self._coded: list[Chunk] = []
            self._coding = next((value for name, value in headers if name.lower() == b"content-encoding"), b"")
        recording.append(ResponseHead(self._id, self._now_us(), status, reason, headers))

    def response_data(self, data: bytes) -> None:
        meter = self._response
        assert meter is not None
        kept = meter.take(data)
        if not kept:
            return
        chunk = Chunk(self._id, self._now_us(), kept, meter.redacted)
        if self._coding:
            self._coded.append(chunk)
        else:
            self._recording.append(chunk, len(kept) + 64)

    def whole_answer(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None, data: bytes
    ) -> None:
        call, recording = self._call, self._recording
        quick = status < 400 and self._request is None and not call.route.withhold_response
        if not quick or len(data) > recording.quick_bytes or call.needles.search(data):
            self.response_head(status, reason, headers, length)
            if data:
                self.response_data(data)
            self.end()
            return
        self._ended = True
        recording.append(
            WholeAnswer(
                self._id,
                (monotonic_ns() - self._head_ns) // 1000,
                self._connected_us,
                self._request_done_us,
                self._request_size,
                status,
                reason,
                headers,
                data,
            ),
            len(data) + 512,
        )

    def tunnel(self, up: int, down: int) -> None:
        self._tunnel = (up, down)

    def end(
        self,
        failure: FailureKind | None = None,
        detail: str = "",
        served_status: int | None = None,
        trailers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        if self._ended:
            return
        self._ended = True
        request, response = self._request, self._response
        if self._request_done_us is None and request is not None:
            rest = request.rest()
            if rest:
                self._record_request(rest)
        if response is not None:
            rest = response.rest()
            if rest:
                self._recording.append(Chunk(self._id, self._now_us(), rest, response.redacted))
            if self._coding:
                self._release_coded(response)
        redactor = self._recording.redactor
        self._recording.append(
            End(
                self._id,
                self._now_us(),
                self._connected_us,
                self._request_done_us,
                request.size if request is not None else self._request_size,
                response.size if response is not None else 0,
                failure.value if failure is not None else None,
                redactor.text(detail) if detail else "",
                served_status,
                request.digest() if request is not None else None,
                response.digest() if response is not None else None,
                [(name, redactor.header(name, value)) for name, value in trailers] if trailers else [],
                self._tunnel[0] if self._tunnel else None,
                self._tunnel[1] if self._tunnel else None,
            )
        )

    def commit(self, finish: Finish, data: bytes, close: bool) -> None:
        self._recording.commit(finish, data, close)

    def _release_coded(self, response: BodyMeter) -> None:
        """A compressed error may quote the key it complains about, where no scrubber sees it: look before writing."""
        body = b"".join(chunk.data for chunk in self._coded)
        if self._recording.redactor.compressed_body_holds_secret(body, self._coding, self._call.settlement.secrets):
            response.withhold()
            return
        for chunk in self._coded:
            self._recording.append(chunk)

    def _record_request(self, kept: bytes) -> None:
        assert self._request is not None
        self._recording.append(RequestChunk(self._id, self._now_us(), kept, self._request.redacted), len(kept) + 64)

    def _now_us(self) -> int:
        return (monotonic_ns() - self._head_ns) // 1000


_UNRECORDED: type[Capture] = Unrecorded
_JOURNAL: type[Capture] = JournalCapture
