"""How an exchange is written: small structs in MessagePack, compressed, with part numbers in place of parts.

`dissect` and `restore` are inverses (but for neighbouring glue pieces, which come back as one, empty ones as none, and
text of glue, which is only searched). Parts are named through a callable, so this module meets no database. It
compresses; it understands no body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
from blake3 import blake3

from gemini_caching_proxy.exchange import (
    Body,
    CacheUse,
    Chunk,
    EntryKind,
    Exchange,
    Failure,
    Headers,
    Outcome,
    Piece,
    Price,
    Response,
    Timing,
    Usage,
)

from .codec import differences
from .facets import INT64_MAX, Facet, bounded, clean

CHAIN_BLOCK = 8
"""Chain hashes per part. The chains of a conversation share all blocks but the last, which stays in the record."""
LONG_BODY = 1024
"""An unsplit body from this size on is a part, unless it is an answer that says something and came from the upstream:
those hardly repeat."""
PREVIEW_CHARS = 200
DIGEST_BYTES = 16

InternPart = Callable[[bytes, bytes, str], int]
"""(digest, data, text) → number of the part, which is stored if it is new."""
FetchPart = Callable[[int], tuple[bytes, bytes, str]]
"""Number → (digest, data, text)."""


class StoredBody(msgspec.Struct, array_like=True, gc=False):
    size: int
    digest: bytes
    """Raw; empty where the hex form is not the usual one, then `odd_digest` has it."""
    odd_digest: str
    complete: bool
    redacted: bool
    split: bool
    """Whether the exchange gave pieces."""
    glue: list[bytes]
    """Bytes before, between and after the parts: one more than there are parts."""


class StoredResponse(msgspec.Struct, array_like=True, gc=False):
    status: int
    reason: bytes
    header_values: list[bytes]
    trailers: list[tuple[bytes, bytes]]
    body: StoredBody
    chunk_offsets: list[int]
    """Differences."""
    chunk_sizes: list[int]


class Record(msgspec.Struct, array_like=True, gc=False):
    """What of an exchange is in no column."""

    request_header_values: list[bytes]
    request: StoredBody
    request_chunks: int
    request_text: str
    response: StoredResponse | None
    detail: str | None
    """Of a failure."""
    served_status: int | None
    timing: tuple[int | None, int | None, int | None, int | None, int | None]
    usage: tuple[int | None, int | None, int | None, int | None, int | None, int | None, str | None, bytes] | None
    price: tuple[int, int, int, str] | None
    chain_tail: bytes
    response_id: str | None
    decode_error: str | None
    tunnel_bytes_up: int | None
    tunnel_bytes_down: int | None
    chain_widths: list[int] | None = None
    """Lengths of the chain's elements where they are not all 16 bytes."""
    cache: tuple[bytes | None, bytes | None, str, int | None, int | None] | None = None
    """Of a CacheUse, without its verdict, which is in the facet: key, source, detail, what it saved."""
    entry_key: bytes | None = None
    entry_kind: EntryKind | None = None


@dataclass(frozen=True, slots=True)
class Dissected:
    """An exchange cut up for the tables."""

    parts: list[int]
    """Numbers: headers of the request, of the response if there is one, parts of both bodies, blocks of the chain."""
    record: bytes
    response: bytes
    """What the model said (UTF-8), then the glue of the response body."""
    part_counts: tuple[int, int] = (0, 0)
    """Parts of the request's and of the response's body; not needed to restore."""


_timing_fields = attrgetter(*(field.name for field in fields(Timing)))
_usage_fields = attrgetter(*(field.name for field in fields(Usage)))
_price_fields = attrgetter(*(field.name for field in fields(Price)))
_encoder = msgspec.msgpack.Encoder()
_record_decoder = msgspec.msgpack.Decoder(Record)
_template_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]])


class _Envelope(msgspec.Struct, array_like=True, gc=False):
    record: Record
    part_counts: tuple[int, int]
    text_bytes: int
    glue_sizes: list[int]
    """Of the response body; the bytes are in the response column."""


_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)


def dissect(exchange: Exchange, intern: InternPart) -> Dissected:
    """Cut up an exchange; parts go through `intern`, headers that repeat as well."""
    response = exchange.response
    request_values, request_headers = _split_headers(exchange.request_headers, intern)
    parts = [request_headers]
    stored_response: StoredResponse | None = None
    response_parts: list[int] = []
    text = clean(exchange.response_text).encode()
    is_served = exchange.cache is not None and exchange.cache.served
    request_body, request_parts = _split_body(exchange.request_body, exchange.request_pieces, intern, may_repeat=True)
    if response is not None:
        values, response_headers = _split_headers(response.headers, intern)
        parts.append(response_headers)
        may_repeat = is_served or not text
        body, response_parts = _split_body(response.body, exchange.response_pieces, intern, may_repeat=may_repeat)
        stored_response = _stored_response(response, values, body)
    blocks, tail, widths = _split_chain(exchange.chain, intern)
    parts += request_parts + response_parts + blocks
    glue = [] if stored_response is None else stored_response.body.glue
    if stored_response is not None:
        stored_response.body.glue = []
    record = _record(exchange, request_values, request_body, stored_response, tail, widths)
    envelope = _Envelope(record, (len(request_parts), len(response_parts)), len(text), [len(piece) for piece in glue])
    return Dissected(parts, _encoder.encode(envelope), text + b"".join(glue), envelope.part_counts)


def _record(
    exchange: Exchange,
    request_values: list[bytes],
    request: StoredBody,
    response: StoredResponse | None,
    tail: bytes,
    widths: list[int] | None,
) -> Record:
    failure, usage, price = exchange.failure, exchange.usage, exchange.price
    return Record(
        request_header_values=request_values,
        request=request,
        request_chunks=exchange.request_chunks,
        request_text=clean(exchange.request_text),
        response=response,
        detail=None if failure is None else clean(failure.detail),
        served_status=None if failure is None else failure.served_status,
        timing=_fitting(_timing_fields(exchange.timing)),
        usage=None if usage is None else _fitting(_usage_fields(usage)),
        price=None if price is None else _fitting(_price_fields(price)),
        chain_tail=tail,
        chain_widths=widths,
        response_id=None if exchange.response_id is None else clean(exchange.response_id),
        decode_error=None if exchange.decode_error is None else clean(exchange.decode_error),
        tunnel_bytes_up=exchange.tunnel_bytes_up,
        tunnel_bytes_down=exchange.tunnel_bytes_down,
        cache=None if exchange.cache is None else _stored_use(exchange.cache),
        entry_key=exchange.entry_key,
        entry_kind=exchange.entry_kind,
    )


def _stored_use(use: CacheUse) -> Any:
    source = None if use.source is None else use.source.bytes
    return _fitting((use.key, source, use.detail, use.saved_nanousd, use.saved_us))


def _fitting(values: tuple[Any, ...]) -> Any:
    """The values with what MessagePack cannot hold made fit."""
    return tuple(
        bounded(value, INT64_MAX) if isinstance(value, int) else clean(value) if isinstance(value, str) else value
        for value in values
    )


def _stored_response(response: Response, values: list[bytes], body: StoredBody) -> StoredResponse:
    offsets = [part.offset_us for part in response.chunks]
    return StoredResponse(
        status=response.status,
        reason=response.reason,
        header_values=values,
        trailers=list(response.trailers),
        body=body,
        chunk_offsets=differences(offsets),
        chunk_sizes=[part.size for part in response.chunks],
    )


# Headers: names and lasting values are one part that many exchanges share; values that differ each time stay aside.

_PASSING = frozenset(
    b"age cf-ray content-length content-range content-disposition date etag expires if-modified-since if-none-match"
    b" last-modified location openai-processing-ms range server-timing set-cookie traceparent tracestate".split()
)
_PASSING_PARTS = (
    b"request-id",
    b"trace",
    b"ratelimit",
    b"session",
    b"upload",
    b"retry",
    b"latency",
    b"-time",
    b"goog-hash",
)


@lru_cache(maxsize=4096)
def _is_passing(name: bytes) -> bool:
    lowered = name.lower()
    return lowered in _PASSING or any(part in lowered for part in _PASSING_PARTS)


def _split_headers(headers: Headers, intern: InternPart) -> tuple[list[bytes], int]:
    template: list[tuple[bytes, bytes | None]] = []
    values: list[bytes] = []
    for name, value in headers:
        if _is_passing(name):
            template.append((name, None))
            values.append(value)
        else:
            template.append((name, value))
    return values, _intern_own(_encoder.encode(template), intern)


def _join_headers(template: bytes, values: Sequence[bytes]) -> Headers:
    waiting = iter(values)
    return tuple(
        (name, next(waiting) if value is None else value) for name, value in _template_decoder.decode(template)
    )


def _intern_own(data: bytes, intern: InternPart) -> int:
    return intern(blake3(data).digest(length=DIGEST_BYTES), data, "")


# Bodies.


def _split_body(
    body: Body, pieces: Sequence[Piece], intern: InternPart, *, may_repeat: bool
) -> tuple[StoredBody, list[int]]:
    # The bytes come first: pieces that are not the body are not used.
    split = bool(pieces) and b"".join([piece.data for piece in pieces]) == body.data
    glue: list[bytes] = [b""]
    parts: list[int] = []
    if split:
        for piece in pieces:
            if piece.digest is None:
                glue[-1] += piece.data
            else:
                parts.append(intern(piece.digest, piece.data, piece.text))
                glue.append(b"")
    elif may_repeat and len(body.data) >= LONG_BODY:
        parts.append(_intern_own(body.data, intern))
        glue.append(b"")
    else:
        glue[0] = body.data
    return StoredBody(body.size, *_short_digest(body.digest), body.complete, body.redacted, split, glue), parts


def _short_digest(digest: str) -> tuple[bytes, str]:
    try:
        raw = bytes.fromhex(digest)
    except ValueError:
        return b"", clean(digest)
    return (raw, "") if raw.hex() == digest else (b"", digest)


def _join_body(stored: StoredBody, parts: Sequence[int], fetch: FetchPart) -> tuple[Body, tuple[Piece, ...]]:
    pieces = [Piece(stored.glue[0])]
    for number, glue in zip(parts, stored.glue[1:], strict=True):
        digest, data, text = fetch(number)
        pieces += [Piece(data, digest, text), Piece(glue)]
    digest_text = stored.digest.hex() or stored.odd_digest
    body = Body(b"".join([piece.data for piece in pieces]), stored.size, digest_text, stored.complete, stored.redacted)
    kept = tuple(piece for piece in pieces if piece.data or piece.digest is not None) if stored.split else ()
    return body, kept


# Chains.


def _split_chain(hashes: Sequence[bytes], intern: InternPart) -> tuple[list[int], bytes, list[int] | None]:
    widths = None if all(len(item) == DIGEST_BYTES for item in hashes) else [len(item) for item in hashes]
    if widths is not None:
        return [], b"".join(hashes), widths
    whole = len(hashes) - len(hashes) % CHAIN_BLOCK
    blocks = [_intern_own(b"".join(hashes[at : at + CHAIN_BLOCK]), intern) for at in range(0, whole, CHAIN_BLOCK)]
    return blocks, b"".join(hashes[whole:]), None


def _join_chain(record: Record, blocks: Sequence[int], fetch: FetchPart) -> tuple[bytes, ...]:
    joined = b"".join([fetch(number)[1] for number in blocks]) + record.chain_tail
    widths = record.chain_widths
    if widths is None:
        widths = [DIGEST_BYTES] * (len(joined) // DIGEST_BYTES)
    return tuple(joined[end - width : end] for end, width in zip(accumulate(widths), widths, strict=True))


# Texts.


def preview(exchange: Exchange) -> tuple[int, str]:
    """Bytes of the response column that the preview is, or 0 and the text: the last thing the model was asked."""
    said = len(clean(exchange.response_text[:PREVIEW_CHARS]).encode())
    if said:
        return said, ""
    asked = (piece.text for piece in reversed(exchange.request_pieces))
    text = next(filter(None, asked), "") or exchange.request_text
    return 0, clean(text[:PREVIEW_CHARS])


def own_text(exchange: Exchange) -> str:
    """What search should find besides the parts' texts."""
    glue = [piece.text for piece in (*exchange.request_pieces, *exchange.response_pieces) if piece.digest is None]
    return clean("\n".join(filter(None, [exchange.response_text, exchange.request_text, *glue])))


def stored_text(record: bytes, response: bytes) -> str:
    """The part of `own_text` that can be read back: without glue."""
    envelope = _envelope_decoder.decode(record)
    said = response[: envelope.text_bytes].decode()
    return "\n".join(filter(None, [said, envelope.record.request_text]))


# The way back.


@dataclass(frozen=True, slots=True)
class Columns:
    """What of an exchange is in columns."""

    id: UUID
    started_ns: int
    target: str
    client_address: str
    finish_reason: str | None
    conversation: UUID | None
    parent: UUID | None


def restore(columns: Columns, facet: Facet, dissected: Dissected, fetch: FetchPart) -> Exchange:
    """The exchange that `dissect` cut up."""
    envelope = _envelope_decoder.decode(dissected.record)
    record, stored = envelope.record, envelope.record.response
    text = dissected.response[: envelope.text_bytes].decode()
    numbers = iter(dissected.parts)
    request_headers = _join_headers(fetch(next(numbers))[1], record.request_header_values)
    response_template = b"" if stored is None else fetch(next(numbers))[1]
    rest = list(numbers)
    requests, responses = envelope.part_counts
    request_body, request_pieces = _join_body(record.request, rest[:requests], fetch)
    response: Response | None = None
    response_pieces: tuple[Piece, ...] = ()
    if stored is not None:
        stored.body.glue = _response_glue(envelope, dissected)
        body, response_pieces = _join_body(stored.body, rest[requests : requests + responses], fetch)
        response = _response(stored, _join_headers(response_template, stored.header_values), body)
    return Exchange(
        id=columns.id,
        started_ns=columns.started_ns,
        provider=facet.provider,
        operation=facet.operation,
        method=facet.method,
        target=columns.target,
        upstream=facet.upstream,
        outcome=_outcome(facet, record, response),
        http_version=facet.http_version,
        model=facet.model,
        model_version=facet.model_version,
        stream_shape=facet.stream_shape,  # type: ignore[arg-type]
        client_address=columns.client_address,
        user_agent=facet.user_agent,
        credential=facet.credential,
        credential_source=facet.credential_source,  # type: ignore[arg-type]
        request_headers=request_headers,
        request_body=request_body,
        request_chunks=record.request_chunks,
        request_pieces=request_pieces,
        response_pieces=response_pieces,
        request_text=record.request_text,
        response_text=text,
        timing=Timing(*record.timing),
        finish_reason=columns.finish_reason,
        response_id=record.response_id,
        usage=None if record.usage is None else Usage(*record.usage),
        price=None if record.price is None else Price(*record.price),
        conversation=columns.conversation,
        parent=columns.parent,
        chain=_join_chain(record, rest[requests + responses :], fetch),
        decode_error=record.decode_error,
        tunnel_bytes_up=record.tunnel_bytes_up,
        tunnel_bytes_down=record.tunnel_bytes_down,
        cache=_cache_use(facet, record),
        entry_key=record.entry_key,
        entry_kind=record.entry_kind,
    )


def restore_response(dissected: Dissected, fetch: FetchPart, *, without_request: bool = False) -> Response:
    """The response of an exchange that `dissect` cut up and that has one; no part of the request is fetched.

    `without_request`: among the parts there are none of the request's body.
    """
    envelope = _envelope_decoder.decode(dissected.record)
    stored = envelope.record.response
    if stored is None:
        raise ValueError("the exchange has no response")
    requests, responses = envelope.part_counts
    if without_request:
        requests = 0
    _, headers, *parts = dissected.parts
    stored.body.glue = _response_glue(envelope, dissected)
    body, _ = _join_body(stored.body, parts[requests : requests + responses], fetch)
    return _response(stored, _join_headers(fetch(headers)[1], stored.header_values), body)


def _response_glue(envelope: _Envelope, dissected: Dissected) -> list[bytes]:
    ends = list(accumulate(envelope.glue_sizes, initial=envelope.text_bytes))
    return [dissected.response[start:end] for start, end in pairwise(ends)]


def _cache_use(facet: Facet, record: Record) -> CacheUse | None:
    verdict = facet.cache_verdict
    if verdict is None or record.cache is None:
        return None
    key, source, detail, saved_nanousd, saved_us = record.cache
    return CacheUse(verdict, key, None if source is None else UUID(bytes=source), detail, saved_nanousd, saved_us)


def _response(stored: StoredResponse, headers: Headers, body: Body) -> Response:
    chunks = tuple(map(Chunk, accumulate(stored.chunk_offsets), stored.chunk_sizes))
    return Response(stored.status, stored.reason, headers, body, chunks, tuple(stored.trailers))


def _outcome(facet: Facet, record: Record, response: Response | None) -> Outcome:
    kind = facet.failure_kind
    if kind is not None:
        return Failure(kind, record.detail or "", record.served_status, response)
    if response is None:
        raise ValueError("a record has neither a response nor a failure")
    return response
