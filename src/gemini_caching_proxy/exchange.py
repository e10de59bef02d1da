"""The domain: one request and its outcome through us, as everything above the journal sees it.

Invariants: an outcome is a `Response` or a `Failure`, never both, never neither; a `Failure` may hold the part of a
response that arrived. Bodies are bytes, never decoded here. All values are immutable and hold no secret: redaction
happened before the journal. This module does no I/O and parses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from uuid import UUID

Headers = tuple[tuple[bytes, bytes], ...]
StreamShape = Literal["unary", "sse", "json_array", "websocket"]


class FailureKind(StrEnum):
    """Why no complete response came."""

    DNS_ERROR = "dns_error"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_ERROR = "tls_error"
    READ_TIMEOUT = "read_timeout"
    UPSTREAM_CLOSED = "upstream_closed"
    """Closed before an answer began."""
    INCOMPLETE_RESPONSE = "incomplete_response"
    """Closed in the middle of an answer."""
    MALFORMED_RESPONSE = "malformed_response"
    CLIENT_GONE = "client_gone"
    """The client left before it had the whole answer."""
    REQUEST_INCOMPLETE = "request_incomplete"
    """The client's own message broke off or stalled."""
    NOT_RECORDED = "not_recorded"
    """Only a recorded answer was wanted, and there is none."""
    INTERRUPTED = "interrupted"
    """A process of ours died or was stopped in the middle."""


@dataclass(frozen=True, slots=True)
class Body:
    """A message body as it was on the wire (content-coding included, transfer-coding removed)."""

    data: bytes = b""
    """What is kept: the whole body, or its head when `complete` is false."""
    size: int = 0
    """Bytes that passed."""
    digest: str = ""
    """BLAKE3 hex of all bytes that passed; of the bytes before redaction never: of what is kept when `redacted`."""
    complete: bool = True
    """Whether `data` is all of it; false for a body over the limit or cut off."""
    redacted: bool = False
    """Whether a credential inside was replaced by a fingerprint, so `data` is not what was sent."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Body bytes as they arrived in one piece."""

    offset_us: int
    """Microseconds since the exchange's start."""
    size: int
    """Bytes; the chunks of a body add up to `len(body.data)`."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the upstream answered, any status."""

    status: int
    reason: bytes = b""
    headers: Headers = ()
    body: Body = field(default_factory=Body)
    chunks: tuple[Chunk, ...] = ()
    trailers: Headers = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """No complete response; `partial` is what arrived before it ended."""

    kind: FailureKind
    detail: str = ""
    """A sentence for people, free of secrets."""
    served_status: int | None = None
    """Status of the error that the client was given by us; None where it got none or already had a head."""
    partial: Response | None = None


Outcome = Response | Failure


class Verdict(StrEnum):
    """What the cache said to a request."""

    HIT = "hit"
    """Answered from the recording of another exchange."""
    COLLAPSED = "collapsed"
    """Answered by the upstream call of an identical request that was in flight."""
    MISS = "miss"
    """Nothing recorded answers it."""
    STALE = "stale"
    """What is recorded is too old."""
    BYPASS = "bypass"
    """The cache may not serve it, whatever is recorded."""


EntryKind = Literal["answer", "error"]
"""`answer`: a complete success. `error`: an error status or an ending that is not allowed, for replay mode alone."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How the cache dealt with one request."""

    verdict: Verdict
    key: bytes | None = None
    """Cache key; None where none was worked out."""
    source: UUID | None = None
    """The exchange whose answer was given (hit, collapsed)."""
    detail: str = ""
    """Why it was not served."""
    saved_nanousd: int | None = None
    """What the answer would have cost; None = unpriced or not served."""
    saved_us: int | None = None
    """How much longer the source took."""

    @property
    def served(self) -> bool:
        """Whether the answer came without an upstream call of its own."""
        return self.verdict in (Verdict.HIT, Verdict.COLLAPSED)


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds since the exchange's start (head of the request read); None = did not happen."""

    request_done_us: int | None = None
    """Last byte of the request read from the client."""
    connected_us: int | None = None
    """An upstream connection, new or pooled, was at hand."""
    first_byte_us: int | None = None
    """First byte of the answer's head (ttfb)."""
    first_content_us: int | None = None
    """First event that bears content (ttft); for a unary answer its first body byte."""
    last_byte_us: int | None = None
    """The end, whatever it was."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the provider's last usage statement has them. None = not stated (Gemini omits zeros)."""

    input_tokens: int | None = None
    """All of the prompt, cached part included."""
    cached_tokens: int | None = None
    output_tokens: int | None = None
    """The answer without thoughts."""
    thoughts_tokens: int | None = None
    tool_use_tokens: int | None = None
    total_tokens: int | None = None
    service_tier: str | None = None
    raw: bytes = b""
    """The usage object exactly as sent (JSON), modality details included."""


@dataclass(frozen=True, slots=True)
class Price:
    """Cost of an exchange in billionths of a US dollar (1e-9 USD), so that sums stay exact."""

    input_nanousd: int
    output_nanousd: int
    total_nanousd: int
    model_ref: str = ""
    """The model in the price list that was used."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice of a body. The pieces of a body, joined, are the body."""

    data: bytes
    digest: bytes | None = None
    """BLAKE3 (16 bytes) of `data` for a part, stored once under it; None for the glue between parts."""
    text: str = ""
    """Text inside the part that search should find; empty for none."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its outcome."""

    id: UUID
    """UUIDv7, made by the worker when the request's head was read."""
    started_ns: int
    """Unix time in nanoseconds, UTC."""
    provider: str
    operation: str
    method: str
    target: str
    """Path and query as the client sent them, secrets replaced."""
    upstream: str
    """Base URL that was called."""
    outcome: Outcome
    http_version: str = "1.1"
    model: str | None = None
    """Asked for."""
    model_version: str | None = None
    """That answered."""
    stream_shape: StreamShape = "unary"
    client_address: str = ""
    user_agent: str | None = None
    credential: str | None = None
    """Fingerprint of the key or token that the client used (or of the proxy's own key, when that was put in)."""
    credential_source: Literal["client", "proxy", "none"] = "none"
    request_headers: Headers = ()
    request_body: Body = field(default_factory=Body)
    request_chunks: int = 1
    request_pieces: tuple[Piece, ...] = ()
    """`request_body.data`, split. Empty = one piece."""
    response_pieces: tuple[Piece, ...] = ()
    """The response body's data, split. Empty = one piece."""
    request_text: str = ""
    """Text of the request that is in no part, for search."""
    response_text: str = ""
    """What the model said, for search and lists."""
    timing: Timing = field(default_factory=Timing)
    finish_reason: str | None = None
    response_id: str | None = None
    """Id that the provider gave the answer; a later request may name it as what it continues."""
    usage: Usage | None = None
    price: Price | None = None
    """None = unpriced: never to be read as 0."""
    conversation: UUID | None = None
    """Id of the first exchange of the thread."""
    parent: UUID | None = None
    """The exchange that this one extends."""
    chain: tuple[bytes, ...] = ()
    """Hash chain over the conversation parts of the request (16 bytes each): element i covers parts 0..i."""
    decode_error: str | None = None
    """Why a body could not be read; the bytes are kept all the same."""
    cache: CacheUse | None = None
    """None = the cache had no say (it is off, or the operation is one that is never cached)."""
    entry_key: bytes | None = None
    """Cache key under which this exchange's answer can be served to others; None = it cannot."""
    entry_kind: EntryKind | None = None
    """Set with `entry_key`."""
    tunnel_bytes_up: int | None = None
    """WebSocket only: bytes client to upstream after the handshake."""
    tunnel_bytes_down: int | None = None

    @property
    def response(self) -> Response | None:
        """The response, whole or partial."""
        return self.outcome if isinstance(self.outcome, Response) else self.outcome.partial

    @property
    def failure(self) -> Failure | None:
        return self.outcome if isinstance(self.outcome, Failure) else None

    @property
    def status(self) -> int | None:
        """HTTP status that the client was given; None = none."""
        if self.response is not None:
            return self.response.status
        return self.outcome.served_status if isinstance(self.outcome, Failure) else None

    @property
    def is_error(self) -> bool:
        """A failure, or a status of 400 or more."""
        return isinstance(self.outcome, Failure) or self.outcome.status >= 400
