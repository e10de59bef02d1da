"""The tee of one exchange: what passes is redacted, stamped and handed to the journal in order, and ended once.

A capture never delays or changes what it sees and never raises. Nothing here understands a body.
"""

from __future__ import annotations

from time import monotonic_ns, time_ns
from typing import Protocol

from uuid_utils import uuid7

from .credentials import Settlement
from .exchange import FailureKind, Verdict
from .journal import Begin, Cached, Chunk, End, RequestChunk, ResponseHead, WholeExchange
from .providers.base import Route
from .recording import BodyMeter, Finish, Recording
from .redaction import BodyScrubber, Needles


class Capture(Protocol):
    """One exchange as it happens. `end` is called exactly once, last."""

    id_bytes: bytes
    """16 bytes; empty where nothing is recorded."""
    id_line: bytes
    """A head line that tells the id; empty where nothing is recorded."""

    @property
    def redacted(self) -> bool:
        """Whether a credential was found in what passed of the bodies."""
        ...

    def cached(
        self, verdict: Verdict, key: bytes | None, source: bytes | None, source_us: int | None, detail: str
    ) -> None:
        """What the cache said; once at most, before the answer."""
        ...

    def request_data(self, data: bytes) -> None: ...

    def request_done(self) -> None: ...

    def connected(self) -> None: ...

    def response_head(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None
    ) -> None: ...

    def answer(self, answer: RecordedAnswer, pieces: list[bytes], headers: list[tuple[bytes, bytes]] | None) -> None:
        """What is new of the answer: its head (`headers`, else None), body pieces, and its end when it is complete."""
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
    id_bytes = b""
    id_line = b""
    redacted = False

    def cached(
        self, verdict: Verdict, key: bytes | None, source: bytes | None, source_us: int | None, detail: str
    ) -> None:
        pass

    def request_data(self, data: bytes) -> None:
        pass

    def request_done(self) -> None:
        pass

    def connected(self) -> None:
        pass

    def response_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
        pass

    def answer(self, answer: RecordedAnswer, pieces: list[bytes], headers: list[tuple[bytes, bytes]] | None) -> None:
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


class RecordedAnswer(Protocol):
    """What a capture needs to know about an answer as it is being read."""

    status: int
    reason: bytes
    length: int | None
    complete: bool
    trailers: list[tuple[bytes, bytes]]


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

    # fmt: off
    __slots__ = (
        "_begun", "_body", "_cached", "_call", "_client", "_coded", "_coding", "_connected_us", "_ended", "_head_ns",
        "_headers", "_recording", "_request", "_request_done_us", "_response", "_shape", "_started_ns", "_tunnel",
        "id_bytes", "id_line",
    )
    # fmt: on

    def __init__(
        self,
        recording: Recording,
        call: RecordedCall,
        request: RecordedRequest,
        shape: RecordedShape,
        client: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
    ) -> None:
        """Begin: the head is read, and `body` came with it (all of the body if the request is complete)."""
        self._recording = recording
        self._call = call
        self._shape = shape
        self._client = client
        self._headers = headers
        self._head_ns = request.head_ns
        self._body = body
        self._request: BodyMeter | None = None
        self._response: BodyMeter | None = None
        self._tunnel: tuple[int, int] | None = None
        self._coding = b""
        self._begun = self._ended = False
        now_us = (monotonic_ns() - request.head_ns) // 1000
        self._started_ns = time_ns() - now_us * 1000
        identity = uuid7()
        self.id_bytes = identity.bytes
        self.id_line = b"X-Exchange-Id: %b\r\n" % str(identity).encode()
        self._cached: Cached | None = None
        self._connected_us: int | None = None
        self._request_done_us = now_us if request.complete else None
        if not request.complete or len(body) > recording.quick_bytes or call.needles.search(body):
            self._request = meter = BodyMeter(
                BodyScrubber(call.needles), recording.max_body_bytes, recording.head_bytes, request.announced_size
            )
            self._body = meter.take(body)
            if request.complete:
                self._body += meter.rest()
            self.begin()
        else:
            recording.open(self)

    def begin(self) -> None:
        """Append the first record, if none was."""
        if self._begun or self._ended:
            return
        self._begun = True
        self._recording.append(self._first_record(), len(self._body) + 512)

    def _first_record(self) -> Begin:
        call, shape, meter = self._call, self._shape, self._request
        route, settlement = call.route, call.settlement
        return Begin(
            self.id_bytes,
            self._started_ns,
            self._client,
            shape.method_text,
            call.target,
            "1.1" if shape.minor_version else "1.0",
            self._headers,
            route.provider,
            route.operation,
            route.model,
            call.upstream,
            settlement.fingerprint,
            settlement.source,
            shape.websocket,
            self._body,
            self._request_done_us,
            meter is not None and meter.redacted,
        )

    @property
    def redacted(self) -> bool:
        return any(meter is not None and meter.redacted for meter in (self._request, self._response))

    def cached(
        self, verdict: Verdict, key: bytes | None, source: bytes | None, source_us: int | None, detail: str
    ) -> None:
        self._cached = Cached(self.id_bytes, self._now_us(), verdict.value, key, source, source_us, detail)

    def _append_cached(self) -> None:
        cached, self._cached = self._cached, None
        if cached is not None:
            self._recording.append(cached)

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
        self.begin()
        self._append_cached()
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
        recording.append(ResponseHead(self.id_bytes, self._now_us(), status, reason, headers))

    def _response_data(self, data: bytes) -> None:
        meter = self._response
        assert meter is not None
        kept = meter.take(data)
        if not kept:
            return
        chunk = Chunk(self.id_bytes, self._now_us(), kept, meter.redacted)
        if self._coding:
            self._coded.append(chunk)
        else:
            self._recording.append(chunk, len(kept) + 64)

    def answer(self, answer: RecordedAnswer, pieces: list[bytes], headers: list[tuple[bytes, bytes]] | None) -> None:
        if headers is not None:
            if answer.complete and len(pieces) < 2 and self._kept_whole(answer, pieces, headers):
                return
            self.response_head(answer.status, answer.reason, headers, answer.length)
        for piece in pieces:
            self._response_data(piece)
        if answer.complete:
            self.end(trailers=answer.trailers)

    def _kept_whole(self, answer: RecordedAnswer, pieces: list[bytes], headers: list[tuple[bytes, bytes]]) -> bool:
        """Record an exchange that is over so soon as one record, if it is as simple as most."""
        call, recording = self._call, self._recording
        data = pieces[0] if pieces else b""
        if (
            self._begun
            or answer.status >= 400
            or answer.trailers
            or call.route.withhold_response
            or self._request_done_us is None
            or self._shape.websocket
            or len(data) > recording.quick_bytes
            or call.needles.search(data)
        ):
            return False
        self._ended = True
        at = (monotonic_ns() - self._head_ns) // 1000
        recording.append(
            WholeExchange(
                self._first_record(),
                self._connected_us,
                at,
                answer.status,
                answer.reason,
                headers,
                data,
                self._cached,
            ),
            len(self._body) + len(data) + 768,
        )
        return True

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
        self.begin()
        self._append_cached()
        self._ended = True
        request, response = self._request, self._response
        if self._request_done_us is None and request is not None:
            rest = request.rest()
            if rest:
                self._record_request(rest)
        if response is not None:
            rest = response.rest()
            if rest:
                self._recording.append(Chunk(self.id_bytes, self._now_us(), rest, response.redacted))
            if self._coding:
                self._release_coded(response)
        redactor = self._recording.redactor
        self._recording.append(
            End(
                self.id_bytes,
                self._now_us(),
                self._connected_us,
                self._request_done_us,
                request.size if request is not None else len(self._body),
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
            response.withhold(body)
            return
        for chunk in self._coded:
            self._recording.append(chunk)

    def _record_request(self, kept: bytes) -> None:
        assert self._request is not None
        self._recording.append(
            RequestChunk(self.id_bytes, self._now_us(), kept, self._request.redacted), len(kept) + 64
        )

    def _now_us(self) -> int:
        return (monotonic_ns() - self._head_ns) // 1000


_UNRECORDED: type[Capture] = Unrecorded
_JOURNAL: type[Capture] = JournalCapture
