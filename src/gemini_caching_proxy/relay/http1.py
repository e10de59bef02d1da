"""HTTP/1.1 heads: what a header field means to a proxy, the checks llhttp leaves to us, and how heads are written.

Field names and values are bytes as they came, in their order; nothing here does I/O. Fields repeat from request to
request, so what a field means, how it is forwarded and how it is recorded is worked out once and remembered
(`FieldTable`, bounded).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from ..errors import (
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

Field = tuple[int, bytes, tuple[bytes, bytes]]
"""A `Kind`, the line to forward, and the name and value to record."""


class FieldTable(dict[tuple[bytes, bytes], Field]):
    """(name, value) -> Field, filled on demand and emptied when full."""

    def __init__(self, kinds: dict[bytes, Kind], redact: Callable[[bytes, bytes], bytes], *, most: int = 8192) -> None:
        super().__init__()
        self._kinds = kinds
        self._redact = redact
        self._most = most

    def __missing__(self, pair: tuple[bytes, bytes]) -> Field:
        name, value = pair
        kind = self._kinds.get(name.lower(), Kind.PASS)
        field = (int(kind), b"%b: %b\r\n" % pair, (name, self._redact(name, value)))
        if len(value) <= 1024:
            if len(self) >= self._most:
                self.clear()
            self[pair] = field
        return field


class Request:
    """A request as it is being read from a client. Body pieces are taken away as they are forwarded."""

    __slots__ = (
        "chunked",
        "complete",
        "connection",
        "credentials",
        "expects_continue",
        "fetch_site",
        "fields",
        "head_done",
        "head_ns",
        "host",
        "keep_alive",
        "length",
        "method",
        "minor_version",
        "origin",
        "pieces",
        "preflight",
        "preflight_headers",
        "target",
        "trailers",
        "upgrade",
        "websocket",
    )

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[Field] = []
        self.pieces: list[bytes] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.head_done = False
        self.complete = False
        self.method = b""
        self.minor_version = 1
        self.keep_alive = True
        self.host = b""
        self.length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.upgrade = b""
        self.websocket = False
        self.origin = b""
        self.fetch_site = b""
        self.preflight = False
        self.preflight_headers = b""
        self.credentials: tuple[bytes, ...] = ()
        self.connection: tuple[bytes, ...] = ()
        self.head_ns = 0

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)


class Limits:
    """What a request head may be."""

    __slots__ = ("max_header_bytes", "max_header_fields", "max_target_bytes")

    def __init__(self, *, max_header_bytes: int, max_header_fields: int, max_target_bytes: int) -> None:
        self.max_header_bytes = max_header_bytes
        self.max_header_fields = max_header_fields
        self.max_target_bytes = max_target_bytes


def settle_head(request: Request, method: bytes, version: str, limits: Limits, head_bytes: int) -> None:
    """Check a head that llhttp accepted, and fill in what its fields say (RFC 9112 sections 3.2, 6.1, 9.3).

    Args:
        head_bytes: an upper bound of the head's size; it is only added up when this is over the limit.

    Raises:
        RequestRejected: the message must not be forwarded.
    """
    if version not in ("1.1", "1.0"):
        raise VersionRefused(f"HTTP/{version} is not spoken here: use HTTP/1.1.")
    if head_bytes > limits.max_header_bytes:
        head_bytes = len(request.target) + sum(len(line) for _, line, _ in request.fields)
    too_large = oversize(request, limits, head_bytes)
    if too_large is not None:
        raise too_large
    if method == b"CONNECT":
        raise MethodRefused("CONNECT is refused: this is a reverse proxy, use its address as the base URL.")
    request.method = method
    request.minor_version = int(version[2])
    hosts = 0
    for kind, line, _ in request.fields:
        if kind > Kind.DROP:
            hosts += kind == Kind.HOST
            _settle_field(request, kind, line)
    if hosts > 1 or (hosts == 0 and request.minor_version):
        raise MalformedRequest("A request needs exactly one Host header.")
    if request.chunked and not request.minor_version:
        raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
    request.websocket = request.upgrade == b"websocket" and method == b"GET"
    request.head_done = True


def _settle_field(request: Request, kind: int, line: bytes) -> None:
    if kind == Kind.HOST:
        request.host = value_of(line)
    elif kind == Kind.LENGTH:
        request.length = int(value_of(line))
    elif kind == Kind.CODING:
        if value_of(line).strip().lower() != b"chunked":
            raise MalformedRequest("The only Transfer-Encoding that is understood is `chunked`.")
        request.chunked = True
    elif kind == Kind.EXPECT:
        request.expects_continue = value_of(line).strip().lower() == b"100-continue"
    elif kind == Kind.UPGRADE:
        request.upgrade = value_of(line).strip().lower()
    elif kind == Kind.ORIGIN:
        request.origin = value_of(line)
    elif kind == Kind.FETCH_SITE:
        request.fetch_site = value_of(line)
    elif kind == Kind.PREFLIGHT:
        request.preflight = True
        if name_of(line) == b"access-control-request-headers":
            request.preflight_headers = value_of(line)
    elif kind == Kind.CREDENTIAL:
        request.credentials += (line,)
    elif kind == Kind.CONNECTION:
        request.connection += (value_of(line),)


def oversize(request: Request, limits: Limits, head_bytes: int) -> RequestRejected | None:
    """The error for a head over a limit, read to its end or not."""
    if len(request.target) > limits.max_target_bytes:
        return UriTooLong(f"The request target is longer than {limits.max_target_bytes} bytes.")
    if len(request.fields) > limits.max_header_fields:
        return HeadersTooLarge(f"The request has more than {limits.max_header_fields} header fields.")
    if head_bytes > limits.max_header_bytes:
        return HeadersTooLarge(f"The request head is larger than {limits.max_header_bytes} bytes.")
    return None


def value_of(line: bytes) -> bytes:
    """The value of a field line made by `FieldTable`."""
    return line[line.index(b": ") + 2 : -2]


def name_of(line: bytes) -> bytes:
    """The lower-case name of a field line made by `FieldTable`."""
    return line[: line.index(b": ")].lower()


_NEVER_FORWARDED: Final = frozenset(
    {Kind.DROP, Kind.CONNECTION, Kind.CODING, Kind.HOST, Kind.EXPECT, Kind.UPGRADE, Kind.CREDENTIAL}
)


def connection_named(values: tuple[bytes, ...]) -> set[bytes]:
    """Names of the fields that `Connection` declares hop-by-hop, besides those known to be so (RFC 9110 section 7.6.1)."""
    named = {token.strip().lower() for value in values if value.lower() != b"keep-alive" for token in value.split(b",")}
    return named - {b"", b"close", b"keep-alive", b"upgrade", b"content-length", b"host", b"transfer-encoding"}


def forwarded_lines(fields: list[Field], connection: tuple[bytes, ...], credentials: tuple[bytes, ...]) -> list[bytes]:
    """The lines of a request that pass end to end, credentials only as far as they were chosen to."""
    lines = [line for kind, line, _ in fields if kind not in _NEVER_FORWARDED or line in credentials]
    named = connection_named(connection) if connection else None
    return [line for line in lines if name_of(line) not in named] if named else lines


def rebuild_head(request: Request) -> bytes:
    """The head again without its upgrade offer, for a parser that took the offer for a tunnel (RFC 9110 section 7.8)."""
    lines = [line for kind, line, _ in request.fields if kind not in (Kind.UPGRADE, Kind.CONNECTION)]
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method, request.target, b"".join(lines))


def trailer_section(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """The last chunk with trailer fields (RFC 9112 section 7.1.2), without those a proxy must not pass on."""
    lines = [b"%b: %b\r\n" % pair for pair in trailers if pair[0].lower() not in _NOT_IN_TRAILERS]
    return b"0\r\n%b\r\n" % b"".join(lines)


_NOT_IN_TRAILERS: Final = frozenset(_HOP_BY_HOP) | {b"host", b"authorization", b"x-goog-api-key", b"set-cookie", b"trailer"}


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


def json_message(status: int, document: object, *, extra: bytes = b"") -> bytes:
    """A whole HTTP/1.1 response with a JSON body, for answers that are ours."""
    body = json.dumps(document).encode()
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: %d\r\n%b\r\n%b"
        % (status, _REASONS.get(status, "OK").encode(), len(body), extra, body)
    )


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
