"""Every error of the house, as one tree.

    ProxyError
    ├── ConfigError                 a setting is wrong: exit 2
    ├── FolderInUse                 another process holds the data folder: exit 3
    ├── CassetteError               no cassette, one of a newer version, or a damaged one; or it cannot be written
    ├── RequestRejected             the client's message is refused, nothing was forwarded
    │   ├── MalformedRequest  400   not HTTP/1.1, or ambiguous
    │   ├── HostNotAllowed    403   Host or Origin is not on the allow-list
    │   ├── UriTooLong        414
    │   ├── HeadersTooLarge   431
    │   ├── RequestTimedOut   408   the client did not finish its message in time
    │   ├── MethodRefused     501   CONNECT, or an upgrade that is not WebSocket
    │   ├── VersionRefused    505
    │   └── Overloaded        503   a limit of ours is reached, or recording is mandatory and impossible
    ├── NotRecorded           504   only a recorded answer was wanted, and there is none
    ├── UpstreamError               no complete answer came
    │   ├── DnsFailed         502 dns_error
    │   ├── ConnectFailed     502 connection_refused
    │   ├── TlsFailed         502 tls_protocol_error
    │   ├── ConnectTimeout    504 connection_timeout
    │   ├── ReadTimeout       504 connection_read_timeout
    │   ├── UpstreamClosed    502 connection_terminated       closed before an answer began
    │   ├── MalformedResponse 502 http_protocol_error
    │   └── IncompleteResponse 502 http_response_incomplete   closed in the middle of an answer
    └── StoreError
        ├── StoreUnavailable        cannot be opened or reached now
        │   └── StoreCorrupt        the file is damaged or no database: it is moved aside, never repaired in place
        ├── NotFound                no such exchange
        └── FormatTooNew            written by a newer version

`status` is the HTTP status a client gets, `kind` how a failure is recorded, `proxy_status` the error token of RFC 9209
section 2.3, `google_status` the word for it in a Gemini error body. Errors of libraries are mapped to these at one
border each.
"""

from __future__ import annotations

from .exchange import FailureKind


class ProxyError(Exception):
    """Root of everything this package raises on purpose. Its text is a sentence a user can act on."""


class ConfigError(ProxyError):
    """A setting cannot work. The text names the setting and says what to do."""


class FolderInUse(ProxyError):
    """The data folder belongs to another running process."""


class CassetteError(ProxyError):
    """A cassette cannot be read or written. The text names the file and says what to do."""


class WireError(ProxyError):
    """An error with a face on the wire."""

    status: int = 500
    google_status: str = "INTERNAL"
    proxy_status: str | None = "proxy_internal_error"


class RequestRejected(WireError):
    status, google_status, proxy_status = 400, "INVALID_ARGUMENT", "http_request_error"


class MalformedRequest(RequestRejected):
    pass


class HostNotAllowed(RequestRejected):
    status, google_status, proxy_status = 403, "PERMISSION_DENIED", "http_request_denied"


class UriTooLong(RequestRejected):
    status, google_status = 414, "INVALID_ARGUMENT"


class HeadersTooLarge(RequestRejected):
    status, google_status = 431, "INVALID_ARGUMENT"


class RequestTimedOut(RequestRejected):
    status, google_status = 408, "DEADLINE_EXCEEDED"


class MethodRefused(RequestRejected):
    status, google_status = 501, "UNIMPLEMENTED"


class VersionRefused(RequestRejected):
    status, google_status = 505, "UNIMPLEMENTED"


class Overloaded(RequestRejected):
    status, google_status, proxy_status = 503, "UNAVAILABLE", "proxy_internal_response"


class NotRecorded(WireError):
    """Replay mode or `only-if-cached` (RFC 9111 section 5.2.1.7) without a recording that serves."""

    status, google_status, proxy_status = 504, "DEADLINE_EXCEEDED", None
    kind = FailureKind.NOT_RECORDED


class UpstreamError(WireError):
    status, google_status = 502, "UNAVAILABLE"
    kind = FailureKind.UPSTREAM_CLOSED


class DnsFailed(UpstreamError):
    proxy_status = "dns_error"
    kind = FailureKind.DNS_ERROR


class ConnectFailed(UpstreamError):
    proxy_status = "connection_refused"
    kind = FailureKind.CONNECT_FAILED


class TlsFailed(UpstreamError):
    proxy_status = "tls_protocol_error"
    kind = FailureKind.TLS_ERROR


class ConnectTimeout(UpstreamError):
    status, google_status, proxy_status = 504, "DEADLINE_EXCEEDED", "connection_timeout"
    kind = FailureKind.CONNECT_TIMEOUT


class ReadTimeout(UpstreamError):
    status, google_status, proxy_status = 504, "DEADLINE_EXCEEDED", "connection_read_timeout"
    kind = FailureKind.READ_TIMEOUT


class UpstreamClosed(UpstreamError):
    proxy_status = "connection_terminated"


class MalformedResponse(UpstreamError):
    proxy_status = "http_protocol_error"
    kind = FailureKind.MALFORMED_RESPONSE


class IncompleteResponse(UpstreamError):
    proxy_status = "http_response_incomplete"
    kind = FailureKind.INCOMPLETE_RESPONSE


class StoreError(ProxyError):
    pass


class StoreUnavailable(StoreError):
    """The store cannot be opened or reached now; trying again later may help."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice
        """What to do about it, where that is known."""


class StoreCorrupt(StoreUnavailable):
    """The store's file is damaged or is no database; waiting does not help, moving it aside does."""


class NotFound(StoreError):
    """No exchange has this id."""


class FormatTooNew(StoreError):
    """The file was written by a newer version of this program."""
