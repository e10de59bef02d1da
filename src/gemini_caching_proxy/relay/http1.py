"""HTTP/1.1 heads: what a header field means to a proxy, the checks llhttp leaves to us, and how heads are written.

Field names and values are bytes as they came, in their order; nothing here does I/O. Fields repeat from request to
request, so what a field means, how it is forwarded and how it is recorded is worked out once and remembered
(`FieldTable`, bounded).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import IntEnum
from itertools import count
from typing import Any, Final, NamedTuple

from gemini_caching_proxy.errors import (
    HeadersTooLarge,
    MalformedRequest,
    MethodRefused,
    RequestRejected,
    UriTooLong,
    VersionRefused,
    WireError,
)

ERROR_DOMAIN: Final = "gemini-caching-proxy"
CHUNKED_LINE: Final = b"Transfer-Encoding: chunked\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
MOST_REMEMBERED_BYTES: Final = 8192
"""A larger head is worked out anew each time, so that strangers cannot fill the memory."""


class Kind(IntEnum):
    """What a proxy does with a field besides forwarding it; PASS and DROP are all there is to most."""

    PASS = 0
    DROP = 1
    HOST = 2
    LENGTH = 3
    CODING = 4
    CONNECTION = 5
    UPGRADE = 6
    EXPECT = 7
    CREDENTIAL = 8
    ORIGIN = 9
    FETCH_SITE = 10
    PREFLIGHT = 11
    URL = 12
    CORS = 13
    UNKNOWN_CODING = 14


# RFC 9110 section 7.6.1; `HTTP2-Settings` belongs to an upgrade that is never passed on.
_HOP_BY_HOP = {
    b"keep-alive": Kind.DROP,
    b"proxy-connection": Kind.DROP,
    b"proxy-authorization": Kind.DROP,
    b"proxy-authenticate": Kind.DROP,
    b"te": Kind.DROP,
    b"http2-settings": Kind.DROP,
    b"connection": Kind.CONNECTION,
    b"upgrade": Kind.UPGRADE,
    b"content-length": Kind.LENGTH,
    b"transfer-encoding": Kind.CODING,
}
REQUEST_KINDS: Final = _HOP_BY_HOP | {
    b"host": Kind.HOST,
    b"expect": Kind.EXPECT,
    b"x-goog-api-key": Kind.CREDENTIAL,
    b"authorization": Kind.CREDENTIAL,
    b"origin": Kind.ORIGIN,
    b"sec-fetch-site": Kind.FETCH_SITE,
    b"access-control-request-method": Kind.PREFLIGHT,
    b"access-control-request-headers": Kind.PREFLIGHT,
    # For us alone.
    b"x-cache-mode": Kind.DROP,
    b"x-replay-speed": Kind.DROP,
}
RESPONSE_KINDS: Final = _HOP_BY_HOP | {
    # Would invite clients to leave the proxy for HTTP/3 at the upstream.
    b"alt-svc": Kind.DROP,
    b"location": Kind.URL,
    b"x-goog-upload-url": Kind.URL,
    b"x-goog-upload-control-url": Kind.URL,
    b"access-control-allow-origin": Kind.CORS,
    b"access-control-allow-credentials": Kind.CORS,
    b"access-control-expose-headers": Kind.CORS,
}


class Field(NamedTuple):
    """What one header field means here; equal fields are one object."""

    number: int
    """Unique per distinct field; 0 for every Content-Length."""
    kind: int
    line: bytes
    """`Name: value` CRLF, to be forwarded."""
    recorded: tuple[bytes, bytes]
    """Name and value after redaction."""
    value: bytes


class FieldTable(dict[tuple[bytes, bytes], Field]):
    """(name, value) -> Field, filled on demand and emptied when full."""

    def __init__(self, kinds: dict[bytes, Kind], redact: Callable[[bytes, bytes], bytes], *, most: int = 8192) -> None:
        super().__init__()
        self._kinds = kinds
        self._redact = redact
        self._most = most
        self._numbers = count(1)

    def __missing__(self, pair: tuple[bytes, bytes]) -> Field:
        name, value = pair
        kind = self._kinds.get(name.lower(), Kind.PASS)
        if kind == Kind.CONNECTION and value.strip().lower() in (b"keep-alive", b"close"):
            kind = Kind.DROP
        elif kind == Kind.CODING and value.strip().lower() != b"chunked":
            kind = Kind.UNKNOWN_CODING
        number = 0 if kind == Kind.LENGTH else next(self._numbers)
        field = Field(number, int(kind), b"%b: %b\r\n" % pair, (name, self._redact(name, value)), value)
        if len(name) + len(value) <= 1024:
            if len(self) >= self._most:
                self.clear()
            self[pair] = field
        return field


class Shape:
    """What a request's head says, Content-Length aside. Requests with equal heads share one shape."""

    __slots__ = (
        "chunked",
        "connection",
        "credentials",
        "expects_continue",
        "fetch_site",
        "fields",
        "host",
        "keep_alive",
        "method",
        "method_text",
        "minor_version",
        "origin",
        "plan",
        "preflight",
        "preflight_headers",
        "target",
        "upgrade",
        "websocket",
    )

    def __init__(self, method: bytes, target: bytes, minor_version: int, fields: tuple[Field, ...]) -> None:
        self.method = method
        self.method_text = method.decode("latin-1")
        self.target = target
        self.minor_version = minor_version
        self.fields = fields
        """In their order; Content-Length is whatever it was in the first request of this shape."""
        self.keep_alive = True
        self.host = b""
        self.chunked = False
        self.expects_continue = False
        self.upgrade = b""
        self.websocket = False
        self.origin = b""
        self.fetch_site = b""
        self.preflight = False
        self.preflight_headers = b""
        self.credentials: tuple[bytes, ...] = ()
        """Lines that carry a credential."""
        self.connection: tuple[bytes, ...] = ()
        self.plan: Any = None
        """For whoever answers requests of this shape: what was worked out for it."""


class Request:
    """A request as it is being read from a client. Body pieces are taken away as they are forwarded."""

    __slots__ = ("complete", "fields", "head_ns", "length", "pieces", "shape", "target", "trailers")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[Field] = []
        self.pieces: list[bytes] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.shape: Shape | None = None
        """None until the head is read and found good."""
        self.length: Field | None = None
        """The Content-Length field."""
        self.complete = False
        self.head_ns = 0

    @property
    def announced_size(self) -> int | None:
        """The body's size if the head tells it."""
        return int(self.length.value) if self.length is not None else None


class Limits:
    """What a request head may be."""

    __slots__ = ("max_header_bytes", "max_header_fields", "max_target_bytes")

    def __init__(self, *, max_header_bytes: int, max_header_fields: int, max_target_bytes: int) -> None:
        self.max_header_bytes = max_header_bytes
        self.max_header_fields = max_header_fields
        self.max_target_bytes = max_target_bytes


class ShapeTable:
    """Remembers the shapes of request heads, bounded."""

    def __init__(self, limits: Limits, *, most: int = 4096) -> None:
        self.limits = limits
        self._most = most
        self._shapes: dict[tuple[Any, ...], Shape] = {}

    def settle(self, request: Request, method: bytes, version: str, keep_alive: bool, head_bytes: int) -> None:
        """Check a head that llhttp accepted and give the request its shape (RFC 9112 sections 3.2, 6.1, 9.3).

        Args:
            head_bytes: an upper bound of the head's size; it is only added up when this is over the limit.

        Raises:
            RequestRejected: the message must not be forwarded.
        """
        fields = request.fields
        numbers = [field[0] for field in fields]
        key = (method, request.target, version, keep_alive, *numbers)
        shape = self._shapes.get(key)
        if shape is None:
            shape = settled_shape(request, method, version, self.limits, head_bytes)
            shape.keep_alive = keep_alive
            # Heads that are large or hold a field which is not remembered would only fill the table.
            if len(request.target) + sum(len(field.line) for field in fields) <= MOST_REMEMBERED_BYTES:
                if len(self._shapes) >= self._most:
                    self._shapes.clear()
                self._shapes[key] = shape
        if 0 in numbers:
            request.length = fields[numbers.index(0)]
        request.shape = shape


def settled_shape(request: Request, method: bytes, version: str, limits: Limits, head_bytes: int) -> Shape:
    """The shape of a head. Raises RequestRejected."""
    if version not in ("1.1", "1.0"):
        raise VersionRefused(f"HTTP/{version} is not spoken here: use HTTP/1.1.")
    if head_bytes > limits.max_header_bytes:
        head_bytes = len(request.target) + sum(len(field.line) for field in request.fields)
    too_large = oversize(request, limits, head_bytes)
    if too_large is not None:
        raise too_large
    if method == b"CONNECT":
        raise MethodRefused("CONNECT is refused: this is a reverse proxy, use its address as the base URL.")
    if method in _NOT_HTTP:
        raise MethodRefused(f"{method.decode()} is no method of HTTP.")
    shape = Shape(method, request.target, int(version[2]), tuple(request.fields))
    hosts = 0
    for field in request.fields:
        hosts += field.kind == Kind.HOST
        _settle_field(shape, field)
    if hosts > 1 or (hosts == 0 and shape.minor_version):
        raise MalformedRequest("A request needs exactly one Host header.")
    if shape.chunked and not shape.minor_version:
        raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
    shape.websocket = (
        shape.upgrade == b"websocket"
        and method == b"GET"
        and shape.minor_version == 1
        and not shape.chunked
        and b"upgrade" in connection_tokens(shape.connection)
    )
    return shape


def _settle_field(shape: Shape, field: Field) -> None:
    kind, value = field.kind, field.value
    if kind == Kind.HOST:
        shape.host = value
    elif kind == Kind.CODING:
        shape.chunked = True
    elif kind == Kind.UNKNOWN_CODING:
        raise MalformedRequest("The only Transfer-Encoding that is understood is `chunked`.")
    elif kind == Kind.EXPECT:
        shape.expects_continue = value.strip().lower() == b"100-continue"
    elif kind == Kind.UPGRADE:
        shape.upgrade = value.strip().lower()
    elif kind == Kind.ORIGIN:
        shape.origin = value
    elif kind == Kind.FETCH_SITE:
        shape.fetch_site = value
    elif kind == Kind.PREFLIGHT:
        shape.preflight = True
        if field.recorded[0].lower() == b"access-control-request-headers":
            shape.preflight_headers = value
    elif kind == Kind.CREDENTIAL:
        shape.credentials += (field.line,)
    elif kind == Kind.CONNECTION:
        shape.connection += (value,)


def oversize(request: Request, limits: Limits, head_bytes: int) -> RequestRejected | None:
    """The error for a head over a limit, read to its end or not."""
    if len(request.target) > limits.max_target_bytes:
        return UriTooLong(f"The request target is longer than {limits.max_target_bytes} bytes.")
    if len(request.fields) > limits.max_header_fields:
        return HeadersTooLarge(f"The request has more than {limits.max_header_fields} header fields.")
    if head_bytes > limits.max_header_bytes:
        return HeadersTooLarge(f"The request head is larger than {limits.max_header_bytes} bytes.")
    return None


# llhttp also reads RTSP and Icecast requests, whose methods these are.
_NOT_HTTP: Final = frozenset(
    b"DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH SOURCE PRI".split()
)
_NEVER_FORWARDED: Final = frozenset({Kind.DROP, Kind.CONNECTION, Kind.CODING, Kind.HOST, Kind.EXPECT, Kind.UPGRADE})


def connection_tokens(values: tuple[bytes, ...]) -> set[bytes]:
    """What `Connection` fields list, in lower case."""
    return {token.strip().lower() for value in values for token in value.split(b",")}


def connection_named(values: tuple[bytes, ...]) -> set[bytes]:
    """Names of the fields that `Connection` declares hop-by-hop, besides the usual ones (RFC 9110 section 7.6.1)."""
    named = connection_tokens(values)
    return named - {b"", b"close", b"keep-alive", b"upgrade", b"content-length", b"host", b"transfer-encoding"}


def forwarded_fields(shape: Shape, credentials: tuple[bytes, ...]) -> list[Field]:
    """The fields of a request that pass end to end, credentials only as far as they were chosen to."""
    named = connection_named(shape.connection)
    wanted = list(credentials)
    passing = []
    for field in shape.fields:
        if field.kind == Kind.CREDENTIAL:
            if field.line in wanted:
                # Once, however often the client repeats it.
                wanted.remove(field.line)
                passing.append(field)
        elif field.kind not in _NEVER_FORWARDED and field.recorded[0].lower() not in named:
            passing.append(field)
    return passing


def rebuild_head(request: Request) -> bytes:
    """The head again without its upgrade offer, for a parser that took it for a tunnel (RFC 9110 section 7.8)."""
    shape = request.shape
    assert shape is not None
    lines = [field.line for field in request.fields if field.kind not in (Kind.UPGRADE, Kind.CONNECTION)]
    tokens = sorted(connection_tokens(shape.connection) - {b"", b"upgrade"})
    if tokens:
        lines.append(b"Connection: %b\r\n" % b", ".join(tokens))
    version = b"HTTP/1.%d" % shape.minor_version
    return b"%b %b %b\r\n%b\r\n" % (shape.method, request.target, version, b"".join(lines))


def framed(pieces: list[bytes]) -> list[bytes]:
    """Pieces of a body as chunks (RFC 9112 section 7.1), one each."""
    out: list[bytes] = []
    for piece in pieces:
        out += (b"%x\r\n" % len(piece), piece, b"\r\n")
    return out


def trailer_section(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """The last chunk with trailer fields (RFC 9112 section 7.1.2), without those a proxy must not pass on."""
    lines = [b"%b: %b\r\n" % pair for pair in trailers if pair[0].lower() not in _NOT_IN_TRAILERS]
    return b"0\r\n%b\r\n" % b"".join(lines)


_NOT_IN_TRAILERS: Final = frozenset(_HOP_BY_HOP) | {
    b"host",
    b"authorization",
    b"x-goog-api-key",
    b"set-cookie",
    b"trailer",
}


def error_message(error: WireError, *, extra: bytes = b"", close: bool, head_only: bool = False) -> bytes:
    """A whole HTTP/1.1 response for an error of ours, in the shape of the Gemini API's errors."""
    reason = type(error).__name__
    body = json.dumps(
        {
            "error": {
                "code": error.status,
                "message": str(error),
                "status": error.google_status,
                "details": [
                    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": ERROR_DOMAIN}
                ],
            }
        }
    ).encode()
    proxy_status = f"Proxy-Status: gemini-proxy; error={error.proxy_status}\r\n" if error.proxy_status else ""
    head = (
        f"HTTP/1.1 {error.status} {_REASONS.get(error.status, 'Error')}\r\n"
        f"Content-Type: application/json; charset=UTF-8\r\nContent-Length: {len(body)}\r\n{proxy_status}"
    ).encode()
    if close:
        head += b"Connection: close\r\n"
    return head + extra + b"\r\n" + (b"" if head_only else body)


def json_message(status: int, document: object, *, head_only: bool = False) -> bytes:
    """A whole HTTP/1.1 response with a JSON body, for answers that are ours."""
    body = json.dumps(document).encode()
    head = (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n"
        % (
            status,
            _REASONS.get(status, "OK").encode(),
            len(body),
        )
    )
    return head if head_only else head + body


_REASONS = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
