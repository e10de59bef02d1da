"""An exchange as a record of a cassette, and back.

What the bodies say (usage, price, texts, conversation) is not in a record: whoever reads it can work that out anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

import msgspec
from blake3 import blake3

from gemini_caching_proxy.exchange import Body, Chunk, Exchange, Headers, Response, StreamShape, Timing
from gemini_caching_proxy.redaction.fingerprints import FINGERPRINT
from gemini_caching_proxy.redaction.headers import Kind, kind_of

FAILED: Final = "failed"
INCOMPLETE: Final = "incomplete"
REDACTED: Final = "redacted"
TUNNEL: Final = "tunnel"
COPY: Final = "copy"
TOO_LARGE: Final = "too large"
REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        FAILED: "no complete answer came",
        INCOMPLETE: "a body is not recorded as a whole",
        REDACTED: "a body held a credential, which is not in the record",
        TUNNEL: "WebSocket messages are not recorded",
        COPY: "answered from the recording of an exchange that is in",
        TOO_LARGE: "larger than a cassette's records may be",
    }
)
"""Why an exchange is kept out of a cassette, each with a sentence's end for people."""

_OF_THE_MACHINE: Final = frozenset(
    (
        *("host", "via", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-served-by", "cf-ray"),
        *("traceparent", "tracestate", "x-cloud-trace-context", "x-amzn-trace-id", "x-amzn-requestid"),
    )
)
"""Harmless fields that name machines or runs, and say nothing about what was asked or answered."""
_NO_FIELD: Final = re.compile(rb"[\r\n\0]")

Fields = list[tuple[bytes, bytes]]


class RecordError(Exception):
    """A record does not hold an exchange."""


class ExchangeRecord(msgspec.Struct, omit_defaults=True):
    """One exchange. Fields are only ever added; what is unknown is passed over."""

    id: bytes
    started_ns: int
    provider: str
    operation: str
    method: str
    target: str
    upstream: str
    status: int
    model: str | None = None
    http_version: str = "1.1"
    stream_shape: StreamShape = "unary"
    request_headers: Fields = msgspec.field(default_factory=list)
    request_body: bytes = b""
    request_chunks: int = 1
    reason: bytes = b""
    headers: Fields = msgspec.field(default_factory=list)
    body: bytes = b""
    chunks: list[int] = msgspec.field(default_factory=list)
    """Offset in microseconds and size of each chunk, one after the other."""
    trailers: Fields = msgspec.field(default_factory=list)
    timing: list[int | None] = msgspec.field(default_factory=list)
    """The fields of `Timing`, in order."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ExchangeRecord)


def why_left_out(exchange: Exchange) -> str | None:
    """A key of `REASONS` for an exchange that does not go into cassettes; None for one that does."""
    response = exchange.outcome
    if not isinstance(response, Response):
        return FAILED
    if exchange.stream_shape == "websocket" or response.status == 101:
        return TUNNEL
    for body in (exchange.request_body, response.body):
        if not body.complete:
            return INCOMPLETE
        if body.redacted:
            return REDACTED
    return None


def encode(exchange: Exchange) -> bytes:
    """The record of an exchange that is not left out."""
    response = exchange.outcome
    assert isinstance(response, Response), "a failure is left out"
    timing = exchange.timing
    return _encoder.encode(
        ExchangeRecord(
            id=exchange.id.bytes,
            started_ns=exchange.started_ns,
            provider=exchange.provider,
            operation=exchange.operation,
            method=exchange.method,
            target=_without_credentials(exchange.target),
            upstream=exchange.upstream,
            status=response.status,
            model=exchange.model,
            http_version=exchange.http_version,
            stream_shape=exchange.stream_shape,
            request_headers=_harmless(exchange.request_headers),
            request_body=exchange.request_body.data,
            request_chunks=exchange.request_chunks,
            reason=response.reason,
            headers=_harmless(response.headers),
            body=response.body.data,
            chunks=_numbers(response),
            trailers=_harmless(response.trailers),
            timing=[
                timing.request_done_us,
                timing.connected_us,
                timing.first_byte_us,
                timing.first_content_us,
                timing.last_byte_us,
            ],
        )
    )


def decode(data: bytes) -> Exchange:
    """The exchange of a record, without anything that its bodies say.

    Raises:
        RecordError
    """
    try:
        record = _decoder.decode(data)
        return _exchange(record)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise RecordError(str(error)) from None


def _exchange(record: ExchangeRecord) -> Exchange:
    response = Response(
        status=record.status,
        reason=record.reason,
        headers=_fields(record.headers),
        body=_body(record.body),
        chunks=_chunks(record.chunks, len(record.body)),
        trailers=_fields(record.trailers),
    )
    if not 100 <= record.status <= 599 or _NO_FIELD.search(record.reason):
        raise ValueError("no status line")
    headers = _fields(record.request_headers)
    agent = next((value for name, value in headers if name.lower() == b"user-agent"), None)
    return Exchange(
        id=UUID(bytes=record.id),
        started_ns=record.started_ns,
        provider=record.provider,
        operation=record.operation,
        method=record.method,
        target=record.target,
        upstream=record.upstream,
        outcome=response,
        http_version=record.http_version,
        model=record.model,
        stream_shape=record.stream_shape,
        user_agent=None if agent is None else agent.decode("latin-1"),
        request_headers=headers,
        request_body=_body(record.request_body),
        request_chunks=record.request_chunks,
        timing=Timing(*record.timing),
    )


def _body(data: bytes) -> Body:
    return Body(data, len(data), blake3(data).hexdigest())


def _fields(fields: Fields) -> Headers:
    # Fields are written into heads as they are: one that ends its line would be an answer of its own making.
    if any(_NO_FIELD.search(name) or _NO_FIELD.search(value) for name, value in fields):
        raise ValueError("no header field")
    return tuple(fields)


def _numbers(response: Response) -> list[int]:
    chunks, size = response.chunks, len(response.body.data)
    if sum(chunk.size for chunk in chunks) != size:
        chunks = (Chunk(chunks[0].offset_us if chunks else 0, size),)
    return [number for chunk in chunks for number in (chunk.offset_us, chunk.size)]


def _chunks(numbers: list[int], size: int) -> tuple[Chunk, ...]:
    chunks = tuple(map(Chunk, numbers[::2], numbers[1::2]))
    if len(numbers) % 2 or min(numbers, default=0) < 0 or sum(chunk.size for chunk in chunks) != size:
        raise ValueError("chunks that are not the body's")
    return chunks


def _harmless(headers: Headers) -> Fields:
    return [(name, value) for name, value in headers if _is_harmless(name, value)]


def _is_harmless(name: bytes, value: bytes) -> bool:
    word = name.decode("latin-1").lower()
    return (
        kind_of(word) is Kind.PLAIN
        and word not in _OF_THE_MACHINE
        and not FINGERPRINT.search(value)
        and not _NO_FIELD.search(name + value)
    )


def _without_credentials(target: str) -> str:
    """The target without the parameters whose value was a secret."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    kept = [pair for pair in query.split("&") if not FINGERPRINT.search(pair.encode("utf-8", "surrogatepass"))]
    return "?".join((path, "&".join(kept))) if kept else path
