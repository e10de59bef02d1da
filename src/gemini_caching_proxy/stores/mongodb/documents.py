"""An exchange as a document and back.

Most fields are there for people and for queries. What they do not say exactly (bytes of headers, chunk by chunk times,
the glue between parts) is in `record`, as `stores/records.py` makes it, packed beside what the model said; restoring
takes that, the parts, and the fields that `records.Columns` names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import msgspec
from blake3 import blake3
from bson import Int64

from gemini_caching_proxy.exchange import Exchange, Response
from gemini_caching_proxy.stores.base import Summary
from gemini_caching_proxy.stores.codec import Codec
from gemini_caching_proxy.stores.facets import INT64_MAX, Facet, bounded, clean, facet_digest
from gemini_caching_proxy.stores.marks import chain_mark, response_mark
from gemini_caching_proxy.stores.phrases import index_words
from gemini_caching_proxy.stores.records import (
    DIGEST_BYTES,
    Columns,
    Dissected,
    dissect,
    own_text,
    preview,
    restore,
    restore_response,
    stored_text,
)
from gemini_caching_proxy.stores.tallies import measure_of

from .connection import Document
from .parts import Draft, Interning, PartReader, expanded, in_runs, values_apart

LONGEST_TEXT: Final = 256 * 1024
"""Characters of what was asked or said that stand in the open."""
LARGEST_BYTES: Final = 1024 * 1024
"""Of `record`, before it is compressed, in the document; more of it is a part."""
MOST_CHUNKS: Final = 20_000
"""Chunks whose times and sizes stand in the open."""
LONGEST_VALUES: Final = 4096
"""Characters of header values that stand in the open."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_SYSTEM: Final = re.compile(rb'"(?:systemInstruction|system_instruction|system)"\s*:\s*\Z')
_record_encoder = msgspec.msgpack.Encoder()
_record_decoder = msgspec.msgpack.Decoder(tuple[bytes, bytes])
_FACET_FIELDS: Final = tuple(field.name for field in fields(Facet))


@dataclass(slots=True)
class Sketch:
    """An exchange cut up, but for what only its place in the store decides."""

    exchange: Exchange
    facet: Facet
    facet_digest: bytes
    document: Document
    drafts: list[Draft]
    """Parts it uses."""
    words: list[str]
    """Of its own text."""


def sketch(exchange: Exchange, codec: Codec) -> Sketch:
    """Cut up an exchange. Raises whatever an exchange that cannot be kept makes go wrong."""
    interning = Interning()
    cut = dissect(exchange, interning)
    facet = Facet.of(exchange)
    digest = facet_digest(facet)
    drafts = interning.drafts
    document = _identity(exchange, facet, digest) | _details(exchange, cut)
    references = _references(exchange, cut, drafts)
    _pack(document, cut, codec, drafts, exchange)
    document["parts"] = references
    _set_header_values(document, exchange, cut, drafts)
    words = index_words(own_text(exchange))
    return Sketch(exchange, facet, digest, document, drafts, words)


def _identity(exchange: Exchange, facet: Facet, digest: bytes) -> Document:
    started_us = exchange.started_ns // 1000
    document: Document = {
        "_id": exchange.id,
        "sequence": Int64(0),
        "started": _date(started_us),
        "started_ns": Int64(exchange.started_ns),
        "facet": digest,
    }
    document |= _facet_fields(facet)
    document |= {
        "is_error": exchange.is_error,
        "target": clean(exchange.target),
        "client_address": clean(exchange.client_address),
    }
    _set(document, "finish_reason", _cleaned(exchange.finish_reason))
    _set(document, "response_id", _cleaned(exchange.response_id))
    _set(document, "conversation", exchange.conversation)
    _set(document, "parent", exchange.parent)
    marks = []
    if exchange.chain:
        marks.append(chain_mark(exchange.chain[-1], exchange.credential or ""))
    if exchange.response_id:
        marks.append(response_mark(exchange.response_id))
    if marks:
        document["marks"] = marks
    return document


@lru_cache(maxsize=4096)
def _facet_fields(facet: Facet) -> Mapping[str, Any]:
    return {name: value for name in _FACET_FIELDS if (value := getattr(facet, name)) is not None}


def _date(microseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=microseconds // 1000)
    except OverflowError:
        return _EPOCH


def _details(exchange: Exchange, cut: Dissected) -> Document:
    said, asked = preview(exchange)
    text = exchange.response_text
    shown = cut.response[:said].decode() if said else asked
    document: Document = {"preview": shown, "timing": _timing(exchange)}
    measure = measure_of(exchange)
    _set(document, "usage", _usage(exchange))
    if exchange.price is not None:
        document["price"] = {
            "input_nanousd": _fit(exchange.price.input_nanousd),
            "output_nanousd": _fit(exchange.price.output_nanousd),
            "total_nanousd": _fit(measure[5]),
            "model_ref": clean(exchange.price.model_ref),
        }
    document["request"] = {"bytes": _fit(measure[6])}
    _set(document["request"], "system", _system_part(exchange))
    _set(document["request"], "text", clean(exchange.request_text[:LONGEST_TEXT]) or None)
    response = exchange.response
    if response is not None:
        document["response"] = _response(response, measure[7])
        _set(document["response"], "text", clean(text[:LONGEST_TEXT]) or None)
    elif text:
        document["said"] = clean(text[:LONGEST_TEXT])
    if exchange.failure is not None:
        document["failure_detail"] = clean(exchange.failure.detail)
    _set(document, "decode_error", _cleaned(exchange.decode_error))
    _set(document, "cache", _cache(exchange, measure))
    if exchange.entry_key is not None:
        document["entry"] = {"key": exchange.entry_key, "kind": exchange.entry_kind or "answer"}
    return document


def _system_part(exchange: Exchange) -> bytes | None:
    """The part that is the system instruction, where the request has a field of its own for it."""
    for before, piece in pairwise(exchange.request_pieces):
        if before.digest is None and len(before.data) > 8 and _BEFORE_SYSTEM.search(before.data[-64:]):
            return piece.digest
    return None


def _set_header_values(document: Document, exchange: Exchange, cut: Dissected, drafts: list[Draft]) -> None:
    """Values that the parts of headers leave out because they differ each time; once more, for people."""
    named = [("request", exchange.request_headers)]
    if exchange.response is not None:
        named.append(("response", exchange.response.headers))
    for number, (name, headers) in zip(cut.parts, named, strict=False):
        values = values_apart(drafts[number].data, headers)
        if values and sum(map(len, values)) <= LONGEST_VALUES:
            document[name]["header_values"] = values


def _timing(exchange: Exchange) -> Document:
    timing = exchange.timing
    values = {
        "request_done_us": timing.request_done_us,
        "connected_us": timing.connected_us,
        "ttfb_us": timing.first_byte_us,
        "ttft_us": timing.first_content_us,
        "duration_us": timing.last_byte_us,
    }
    return {name: _fit(value) for name, value in values.items() if value is not None}


def _usage(exchange: Exchange) -> Document | None:
    usage = exchange.usage
    if usage is None:
        return None
    names = ("input_tokens", "cached_tokens", "output_tokens", "thoughts_tokens", "tool_use_tokens", "total_tokens")
    document = {name: _fit(bounded(value)) for name in names if (value := getattr(usage, name)) is not None}
    _set(document, "service_tier", _cleaned(usage.service_tier))
    return document


def _response(response: Response, size: int) -> Document:
    document: Document = {"bytes": _fit(size), "chunk_count": len(response.chunks)}
    if response.chunks and len(response.chunks) <= MOST_CHUNKS:
        document["chunks"] = {
            "offsets_us": [_fit(chunk.offset_us) for chunk in response.chunks],
            "sizes": [chunk.size for chunk in response.chunks],
        }
    return document


def _cache(exchange: Exchange, measure: Sequence[int | None]) -> Document | None:
    use = exchange.cache
    if use is None:
        return None
    document: Document = {"verdict": use.verdict.value}
    _set(document, "key", use.key)
    _set(document, "source", use.source)
    _set(document, "detail", clean(use.detail) or None)
    _set(document, "saved_nanousd", measure[10])
    _set(document, "saved_us", measure[11])
    return document


def _references(exchange: Exchange, cut: Dissected, drafts: list[Draft]) -> Document:
    """References by what they are for; names of kinds are put on the drafts, and lists join them."""
    numbers = cut.parts
    heads = 1 if exchange.response is None else 2
    requests, responses = cut.part_counts
    ends = (heads, heads + requests, heads + requests + responses, len(numbers))
    groups: dict[str, list[bytes]] = {}
    start = 0
    for name, end in zip(("headers", "request", "response", "chain"), ends, strict=True):
        groups[name] = [drafts[number].digest for number in numbers[start:end]]
        for number in numbers[start:end]:
            if name in ("headers", "chain"):
                drafts[number].kind = name  # type: ignore[assignment]
        start = end
    for name, references in groups.items():
        groups[name], lists = in_runs(references)
        drafts.extend(lists)
    return {name: references for name, references in groups.items() if references}


def _pack(document: Document, cut: Dissected, codec: Codec, drafts: list[Draft], exchange: Exchange) -> None:
    """Put what only we can read into the document, or into a part if it is large."""
    said = len(clean(exchange.response_text).encode())
    if len(exchange.response_text) > LONGEST_TEXT:
        document["text_cut"] = True
        said = 0
    record = _record_encoder.encode((cut.record, cut.response[said:]))
    if len(record) <= LARGEST_BYTES:
        document["record"] = codec.pack_beside(record, text_of(document).encode())
    else:
        digest = blake3(record).digest(length=DIGEST_BYTES)
        drafts.append(Draft(digest, record, kind="blob"))
        document["record"], document["record_part"] = b"", digest


def _set(document: Document, name: str, value: Any) -> None:
    if value is not None:
        document[name] = value


def _cleaned(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _fit(value: int | None) -> int | None:
    return bounded(value, INT64_MAX)


# The way back.

SUMMARY_FIELDS: Final = {
    "record": 0,
    "parts": 0,
    "request.text": 0,
    "response.text": 0,
    "request.header_values": 0,
    "response.header_values": 0,
    "response.chunks": 0,
}
"""A projection that leaves out what lists do not show."""


def references_of(document: Document) -> list[bytes]:
    """Everything that restoring the document needs."""
    groups = document["parts"]
    found = [each for name in ("headers", "request", "response", "chain") for each in groups.get(name, ())]
    return found + _blobs(document)


def answer_references_of(document: Document) -> list[bytes]:
    """What restoring the response alone needs."""
    groups = document["parts"]
    return [*groups["headers"][1:2], *groups.get("response", ()), *_blobs(document)]


def _blobs(document: Document) -> list[bytes]:
    return [document["record_part"]] if "record_part" in document else []


def _dissected(document: Document, parts: Mapping[bytes, Document], reader: PartReader, codec: Codec) -> Dissected:
    said = text_of(document).encode()
    if "record_part" in document:
        both = reader.part(parts[document["record_part"]])[1]
    else:
        both = codec.unpack_beside(document["record"], said)
    record, glue = _record_decoder.decode(both)
    return Dissected([], record, glue if document.get("text_cut") else said + glue)


def text_of(document: Document) -> str:
    """What the model said, as far as it stands in the open."""
    response: Document = document.get("response", {})
    return str(response.get("text", document.get("said", "")))


def text_references_of(document: Document) -> list[bytes]:
    """What `searched_text_of` needs."""
    return _blobs(document)


def searched_text_of(document: Document, parts: Mapping[bytes, Document], reader: PartReader, codec: Codec) -> str:
    """All of `records.own_text` that can be read back, also what is too long for the open."""
    cut = _dissected(document, parts, reader, codec)
    return stored_text(cut.record, cut.response)


def restored(document: Document, parts: Mapping[bytes, Document], reader: PartReader, codec: Codec) -> Exchange:
    """The exchange; `parts` as `PartReader.fetch` has them for `references_of`."""
    columns = Columns(
        id=document["_id"],
        started_ns=int(document["started_ns"]),
        target=document["target"],
        client_address=document["client_address"],
        finish_reason=document.get("finish_reason"),
        conversation=document.get("conversation"),
        parent=document.get("parent"),
    )
    cut = _dissected(document, parts, reader, codec)
    groups = document["parts"]
    flat = [
        each
        for name in ("headers", "request", "response", "chain")
        for each in expanded(groups.get(name, ()), dict(parts))
    ]
    cut.parts.extend(range(len(flat)))
    return restore(columns, facet_of(document), cut, lambda number: reader.part(parts[flat[number]]))


def restored_response(
    document: Document, parts: Mapping[bytes, Document], reader: PartReader, codec: Codec
) -> Response:
    """The response; `parts` as `PartReader.fetch` has them for `answer_references_of`."""
    cut = _dissected(document, parts, reader, codec)
    groups = document["parts"]
    answers = expanded(groups.get("response", ()), dict(parts))
    cut.parts.extend(range(2 + len(answers)))
    flat = [b"", groups["headers"][1], *answers]
    return restore_response(cut, lambda number: reader.part(parts[flat[number]]), without_request=True)


def facet_of(document: Document) -> Facet:
    return Facet(**{name: document.get(name) for name in _FACET_FIELDS})  # type: ignore[arg-type]


def summary_of(document: Document) -> Summary:
    """The row of a list, from a document read with `SUMMARY_FIELDS`."""
    facet = facet_of(document)
    timing, usage = document["timing"], document.get("usage", {})
    response, cache = document.get("response", {}), document.get("cache", {})
    return Summary(
        id=document["_id"],
        sequence=int(document["sequence"]),
        started_ns=int(document["started_ns"]),
        provider=facet.provider,
        operation=facet.operation,
        method=facet.method,
        target=document["target"],
        model=facet.model,
        model_version=facet.model_version,
        status=facet.status,
        failure=facet.failure_kind,
        finish_reason=document.get("finish_reason"),
        stream_shape=facet.stream_shape,  # type: ignore[arg-type]
        client_address=document["client_address"],
        user_agent=facet.user_agent,
        credential=facet.credential,
        request_bytes=int(document["request"]["bytes"]),
        response_bytes=int(response.get("bytes", 0)),
        chunk_count=int(response.get("chunk_count", 0)),
        ttfb_us=_plain(timing.get("ttfb_us")),
        ttft_us=_plain(timing.get("ttft_us")),
        duration_us=_plain(timing.get("duration_us")),
        input_tokens=_plain(usage.get("input_tokens")),
        cached_tokens=_plain(usage.get("cached_tokens")),
        output_tokens=_plain(usage.get("output_tokens")),
        thoughts_tokens=_plain(usage.get("thoughts_tokens")),
        total_tokens=_plain(usage.get("total_tokens")),
        price_nanousd=_plain(document.get("price", {}).get("total_nanousd")),
        conversation=document.get("conversation"),
        parent=document.get("parent"),
        preview=document["preview"],
        verdict=facet.cache_verdict,
        saved_nanousd=_plain(cache.get("saved_nanousd")),
    )


def _plain(value: int | None) -> int | None:
    """Without the library's own type of integer."""
    return None if value is None else int(value)
