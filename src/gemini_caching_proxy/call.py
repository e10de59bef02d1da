"""One call as it is put to the upstream and as its answer is put to the client: heads, framing, and what is recorded.

Bodies pass through re-framed and otherwise byte for byte. Of the head, only what is hop-by-hop changes, plus: Host, the
credential, `alt-svc` (dropped), URLs on the upstream's own origin in `Location` and `X-Goog-Upload-*-URL` (rewritten so
that the next call comes through us too), and CORS fields for browsers.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from .capture import Capture, JournalCapture, Recording, Unrecorded
from .credentials import Settlement
from .providers.base import Route
from .relay.downstream import ClientConnection
from .relay.http1 import CHUNKED_LINE, Kind, Request, connection_named, forwarded_lines, name_of
from .relay.upstream import Answer, Origin


@dataclass(frozen=True, slots=True)
class Plan:
    """Where requests for one target go; remembered per target."""

    route: Route
    upstream_target: bytes
    """As it is asked for upstream, base path included."""
    query: bytes
    recorded_target: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the calls of a worker share."""

    origin: Origin
    upstream: str
    """The base URL, as recorded."""
    recording: Recording | None
    public_url: bytes | None
    scheme: bytes
    """Of our listener."""
    spawn: Callable[[Coroutine[Any, Any, None]], Any]
    upload_started: Callable[[bytes, str | None], None]
    """Told the rewritten upload URL and the fingerprint of who began it."""


class Call:
    """A request, settled and ready to be sent, and how to answer it."""

    __slots__ = ("_around", "_client", "_plan", "_request", "_settlement", "chunked", "cors", "ends_by_close")

    def __init__(
        self,
        around: Surroundings,
        client: ClientConnection,
        request: Request,
        plan: Plan,
        settlement: Settlement,
        cors: bytes,
    ) -> None:
        self._around = around
        self._client = client
        self._request = request
        self._plan = plan
        self._settlement = settlement
        self.cors = cors
        self.chunked = False
        """Whether the answer is written in chunks; known with its head."""
        self.ends_by_close = False
        """Whether the client can tell the end of the answer only by the connection's."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> Any:
        """Run something that has to wait; the caller may cancel it."""
        return self._around.spawn(work)

    def capture(self, body: bytes, *, done: bool) -> Capture:
        """Begin the record with as much of the body as is there."""
        recording = self._around.recording
        if recording is None:
            return Unrecorded()
        request, plan, settlement = self._request, self._plan, self._settlement
        return JournalCapture(
            recording,
            head_ns=request.head_ns,
            client=self._client.peer,
            method=request.method.decode("latin-1"),
            target=plan.recorded_target,
            http_version="1.1" if request.minor_version else "1.0",
            headers=[recorded for _, _, recorded in request.fields],
            route=plan.route,
            upstream=self._around.upstream,
            credential=settlement.fingerprint,
            credential_source=settlement.source,
            secrets=settlement.secrets,
            websocket=request.websocket,
            length=request.length,
            body=body,
            body_done=done,
        )

    def head(self) -> bytes:
        """The request's head for the upstream."""
        request, around, settlement = self._request, self._around, self._settlement
        lines = forwarded_lines(request.fields, request.connection, settlement.lines)
        framing = CHUNKED_LINE if request.chunked else b""
        if request.websocket:
            framing = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b%b\r\n" % (
            request.method,
            self._plan.upstream_target,
            around.origin.host_line,
            b"".join(lines),
            settlement.added,
            framing,
        )

    def answer_head(self, answer: Answer) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """The answer's head for the client, and its fields as recorded. Settles `chunked` and `ends_by_close`."""
        request = self._request
        lines: list[bytes] = []
        recorded: list[tuple[bytes, bytes]] = []
        named: set[bytes] = set()
        for kind, line, record in answer.fields:
            recorded.append(record)
            if kind == Kind.PASS or (kind == Kind.LENGTH and not answer.chunked):
                lines.append(line)
            elif kind == Kind.URL:
                lines.append(self._rewritten(line))
            elif kind == Kind.CORS and not self.cors:
                lines.append(line)
            elif kind == Kind.CONNECTION:
                named |= connection_named((record[1],))
        if named:
            lines = [line for line in lines if name_of(line) not in named]
        if self.cors:
            lines.append(self.cors)
        lines.append(self._framing(answer))
        head = b"HTTP/1.1 %d %b\r\n%b\r\n" % (answer.status, answer.reason, b"".join(lines))
        if not request.keep_alive and request.minor_version and answer.status != 101:
            head = head[:-2] + b"Connection: close\r\n\r\n"
        return head, recorded

    def _framing(self, answer: Answer) -> bytes:
        request = self._request
        if answer.status == 101:
            return b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        if request.method == b"HEAD" or answer.status in (204, 304):
            # What a GET would have been framed as (RFC 9110 section 9.3.2), for HEAD alone.
            return CHUNKED_LINE if answer.chunked and request.method == b"HEAD" and request.minor_version else b""
        if answer.length is not None and not answer.chunked:
            return b"" if request.minor_version or not request.keep_alive else b"Connection: keep-alive\r\n"
        if request.minor_version:
            self.chunked = True
            return CHUNKED_LINE
        self.ends_by_close = True
        return b""

    def _rewritten(self, line: bytes) -> bytes:
        """A line whose URL is on the upstream's origin, moved to the URL the client knows us by."""
        name, _, value = line[:-2].partition(b": ")
        rest = self._around.origin.path_of(value)
        if rest is None:
            return line
        url = self.client_base() + rest
        if name.lower() == b"x-goog-upload-url":
            self._around.upload_started(url, self._settlement.fingerprint)
        return b"%b: %b\r\n" % (name, url)

    def client_base(self) -> bytes:
        """The base URL the client reached us by, with the path prefix it used."""
        around = self._around
        base = around.public_url or b"%b://%b" % (around.scheme, self._request.host)
        return base + self._plan.route.prefix


def interim_head(answer: Answer) -> bytes:
    """A 1xx response, to be passed on as it came (RFC 9110 section 15.2)."""
    lines = b"".join(line for kind, line, _ in answer.fields if kind == Kind.PASS)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (answer.status, answer.reason, lines)
