"""How calls of one shape are put to the upstream, how answers are put to the client, and what is recorded of both.

Bodies pass through re-framed and otherwise byte for byte. Of the head, only what is hop-by-hop changes, plus: Host, the
credential, `alt-svc` (dropped), URLs on the upstream's own origin in `Location` and `X-Goog-Upload-*-URL` (rewritten so
that the next call comes through us too), and CORS fields for browsers. A `Call` is worked out once per shape.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .caching import Caching
from .capture import Capture, JournalCapture, Unrecorded
from .credentials import Settlement
from .providers.base import Route
from .question import Plan
from .recording import Recording
from .redaction import Redactor
from .relay.http1 import CHUNKED_LINE, Field, Kind, Request, Shape, connection_named, forwarded_fields
from .relay.origin import Origin
from .relay.upstream import Answer

MOST_HEADS = 64
_UNRECORDED = Unrecorded()
_CODING = int(Kind.CODING)
_BODILESS = frozenset({101, 204, 304})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the calls of a worker share."""

    origin: Origin
    upstream: str
    """The base URL, as recorded."""
    recording: Recording | None
    redactor: Redactor
    public_url: bytes | None
    scheme: bytes
    """Of our listener."""
    spawn: Callable[[Coroutine[Any, Any, None]], Any]
    """Runs something that has to wait; the result can be cancelled."""
    caching: Caching | None
    """None = no answer is ever taken from the record."""
    upload_started: Callable[[bytes, str | None], None]
    """Told the rewritten upload URL and the fingerprint of who began it."""


class AnswerHead(NamedTuple):
    """A response head, ready for the client and for the record."""

    data: bytes
    """Without the lines that differ from answer to answer, and without the empty line."""
    recorded: list[tuple[bytes, bytes]]
    chunked: bool
    """Whether the body is written in chunks."""
    ends_by_close: bool
    """Whether the client can tell the end of the body only by the connection's."""


class Call:
    """What requests of one shape become."""

    __slots__ = (
        "_around",
        "_client_base",
        "_head",
        "_heads",
        "_recorded",
        "_recording",
        "_shape",
        "_tail",
        "caching",
        "cors",
        "needles",
        "plan",
        "route",
        "settlement",
        "target",
        "upstream",
    )

    def __init__(
        self,
        around: Surroundings,
        shape: Shape,
        route: Route,
        target: bytes,
        recorded_target: str,
        settlement: Settlement,
        cors: bytes,
    ) -> None:
        """`target`: what is asked of the upstream, base path included; `cors`: lines for every answer."""
        self._around = around
        self._recording = around.recording
        self.upstream = around.upstream
        self._shape = shape
        self.route = route
        self.target = recorded_target
        self.settlement = settlement
        self.needles = around.redactor.needles(settlement.secrets)
        self.cors = cors
        self.caching = around.caching
        self.plan: Plan | None = None
        if around.caching is not None:
            self.plan = around.caching.plan(route, shape, settlement, recorded_target)
        self._heads: dict[tuple[int | bytes | None, ...], AnswerHead] = {}
        self._client_base = (around.public_url or b"%b://%b" % (around.scheme, shape.host)) + route.prefix
        self._head, self._tail = self._upstream_head(target)
        before, after = _around_length(shape.fields)
        self._recorded = ([field.recorded for field in before], [field.recorded for field in after])

    def _upstream_head(self, target: bytes) -> tuple[bytes, bytes]:
        """The head in two halves, with the Content-Length line to come in between."""
        shape = self._shape
        before, after = _around_length(forwarded_fields(shape, self.settlement.lines))
        framing = CHUNKED_LINE if shape.chunked else b""
        if shape.websocket:
            framing = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        first = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (shape.method, target, self._around.origin.host_line)
        lines_before, lines_after = (b"".join(field.line for field in fields) for fields in (before, after))
        return first + lines_before, lines_after + self.settlement.added + framing + b"\r\n"

    def head(self, request: Request) -> bytes:
        """The head of a request of this shape, for the upstream."""
        length = request.length
        return self._head + length.line + self._tail if length is not None else self._head + self._tail

    def spawn(self, work: Coroutine[Any, Any, None]) -> Any:
        """Run something that has to wait; the caller may cancel it."""
        return self._around.spawn(work)

    def capture(self, request: Request, client: str, body: bytes) -> Capture:
        """Begin the record of a request with as much of the body as is there."""
        recording = self._recording
        if recording is None:
            return _UNRECORDED
        before, after = self._recorded
        length = request.length
        headers = [*before, length.recorded, *after] if length is not None else before
        return JournalCapture(recording, self, request, self._shape, client, headers, body)

    def answer_head(self, answer: Answer) -> AnswerHead:
        """The head of an answer, for the client. Equal heads, which come in quick succession, are made once."""
        key = (answer.status, answer.length, answer.reason, *[field[0] for field in answer.fields])
        head = self._heads.get(key)
        if head is None:
            head = self._new_head(answer)
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head

    def _new_head(self, answer: Answer) -> AnswerHead:
        shape = self._shape
        status, fields = answer.status, answer.fields
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, answer.reason)]
        lines += [field[2] for field in fields if not field[1]]
        chunked = ends_by_close = False
        for field in answer.special:
            if field[1] != _CODING:
                self._add_special(lines, field, answer)
        if status in _BODILESS or shape.method == b"HEAD":
            lines.append(self._bodiless_framing(answer))
        elif answer.length is None or answer.chunked:
            if shape.minor_version:
                chunked = True
                lines.append(CHUNKED_LINE)
            else:
                ends_by_close = True
        if shape.keep_alive and not shape.minor_version and not ends_by_close:
            lines.append(b"Connection: keep-alive\r\n")
        if self.cors:
            lines.append(self.cors)
        if not shape.keep_alive and shape.minor_version and answer.status != 101:
            lines.append(b"Connection: close\r\n")
        return AnswerHead(b"".join(lines), [field[3] for field in fields], chunked, ends_by_close)

    def _add_special(self, lines: list[bytes], field: Field, answer: Answer) -> None:
        if field.kind == Kind.LENGTH:
            # Not where RFC 9110 section 8.6 forbids it: a client might wait for the bytes.
            if not answer.chunked and answer.status not in (101, 204):
                lines.append(field.line)
        elif field.kind == Kind.URL:
            lines.append(self._rewritten(field))
        elif field.kind == Kind.CORS and not self.cors:
            lines.append(field.line)
        elif field.kind == Kind.CONNECTION:
            named = connection_named((field.value,))
            lines[1:] = [line for line in lines[1:] if line.partition(b":")[0].lower() not in named]

    def _bodiless_framing(self, answer: Answer) -> bytes:
        if answer.status == 101:
            return b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        # HEAD tells how a GET would have been framed (RFC 9110 section 9.3.2).
        return CHUNKED_LINE if answer.chunked and self._shape.method == b"HEAD" and self._shape.minor_version else b""

    def _rewritten(self, field: Field) -> bytes:
        """A line whose URL is on the upstream's origin, moved to the URL the client knows us by."""
        rest = self._around.origin.path_of(field.value)
        if rest is None:
            return field.line
        url = self._client_base + rest
        name = field.recorded[0]
        if name.lower() == b"x-goog-upload-url":
            self._around.upload_started(url, self.settlement.fingerprint)
        return b"%b: %b\r\n" % (name, url)


def _around_length(fields: Sequence[Field]) -> tuple[Sequence[Field], Sequence[Field]]:
    """The fields before and after Content-Length; without one, all are before it."""
    at = next((index for index, field in enumerate(fields) if field.kind == Kind.LENGTH), len(fields))
    return fields[:at], fields[at + 1 :]


def interim_head(answer: Answer) -> bytes:
    """A 1xx response, to be passed on as it came (RFC 9110 section 15.2)."""
    lines = b"".join(field.line for field in answer.fields if field.kind == Kind.PASS)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (answer.status, answer.reason, lines)
