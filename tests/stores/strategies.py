"""Hypothesis strategies: any exchange that the contract allows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from factories import digest
from gemini_caching_proxy.exchange import (
    Body,
    CacheUse,
    Chunk,
    Exchange,
    Failure,
    FailureKind,
    Headers,
    Piece,
    Price,
    Response,
    Timing,
    Usage,
    Verdict,
)

texts = st.text(max_size=30)
counts = st.integers(0, 2**40)
some_counts = st.none() | counts
bytes_ = st.binary(max_size=60) | st.binary(min_size=1000, max_size=1100)
headers: st.SearchStrategy[Headers] = st.lists(
    st.tuples(
        st.sampled_from([b"Date", b"x-Request-ID", b"accept", b"\xff odd"]) | st.binary(max_size=8),
        st.binary(max_size=20),
    ),
    max_size=6,
).map(tuple)
hex_digests = (
    st.just("") | st.binary(min_size=32, max_size=32).map(bytes.hex) | st.text("0123456789ABCDEF xyz", max_size=9)
)


def _part(data: bytes, text: str) -> Piece:
    return Piece(data, digest(data + b"\0" + text.encode()), text)


parts = st.builds(_part, bytes_, texts)


@st.composite
def pieces(draw: st.DrawFn) -> tuple[Piece, ...]:
    """Parts with glue between some of them; never two glues side by side, which are one."""
    found: list[Piece] = []
    for piece in draw(st.lists(parts, max_size=6)):
        glue = draw(st.binary(max_size=4))
        found += ([Piece(glue)] if glue else []) + [piece]
    tail = draw(st.binary(max_size=40))
    return (*found, Piece(tail)) if tail else tuple(found)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Body, tuple[Piece, ...]]:
    split = draw(pieces() | st.just(()))
    data = b"".join(piece.data for piece in split) if split else draw(bytes_)
    return Body(data, draw(counts), draw(hex_digests), draw(st.booleans()), draw(st.booleans())), split


def responses(body: Body) -> st.SearchStrategy[Response]:
    chunks = st.lists(st.builds(Chunk, st.integers(0, 10**12), st.integers(0, 2**30)), max_size=8).map(tuple)
    return st.builds(Response, st.integers(100, 599), st.binary(max_size=12), headers, st.just(body), chunks, headers)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


keys = st.binary(min_size=16, max_size=16)
uses = st.builds(
    CacheUse,
    st.sampled_from(Verdict),
    maybe(keys),
    maybe(st.uuids()),
    texts,
    some_counts,
    maybe(st.integers(0, 10**13)),
)
hashes = st.binary(min_size=16, max_size=16)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    request_body, request_pieces = draw(bodies())
    response_body, response_pieces = draw(bodies())
    response = draw(responses(response_body))
    failures = st.builds(
        Failure, st.sampled_from(FailureKind), texts, maybe(st.integers(100, 599)), maybe(st.just(response))
    )
    outcome = draw(st.just(response) | failures)
    if isinstance(outcome, Failure) and outcome.partial is None:
        response_pieces = ()
    entry_key = draw(maybe(keys))
    micros = maybe(st.integers(0, 10**13))
    return Exchange(
        id=draw(st.uuids()),
        started_ns=draw(st.integers(0, 2**62)),
        provider=draw(texts),
        operation=draw(texts),
        method=draw(texts),
        target=draw(texts),
        upstream=draw(texts),
        outcome=outcome,
        http_version=draw(texts),
        model=draw(maybe(texts)),
        model_version=draw(maybe(texts)),
        stream_shape=draw(st.sampled_from(["unary", "sse", "json_array", "websocket"])),
        client_address=draw(texts),
        user_agent=draw(maybe(texts)),
        credential=draw(maybe(texts)),
        credential_source=draw(st.sampled_from(["client", "proxy", "none"])),
        request_headers=draw(headers),
        request_body=request_body,
        request_chunks=draw(counts),
        request_pieces=request_pieces,
        response_pieces=response_pieces,
        request_text=draw(texts),
        response_text=draw(texts | st.text(min_size=190, max_size=220)),
        timing=draw(st.builds(Timing, micros, micros, micros, micros, micros)),
        finish_reason=draw(maybe(texts)),
        response_id=draw(maybe(texts)),
        usage=draw(maybe(st.builds(Usage, *[some_counts] * 6, maybe(texts), st.binary(max_size=30)))),
        price=draw(maybe(st.builds(Price, counts, counts, counts, texts))),
        conversation=draw(maybe(st.uuids())),
        parent=draw(maybe(st.uuids())),
        chain=draw(st.lists(hashes, max_size=20).map(tuple) | st.lists(st.binary(max_size=5), max_size=3).map(tuple)),
        decode_error=draw(maybe(texts)),
        cache=draw(maybe(uses)),
        entry_key=entry_key,
        entry_kind=None if entry_key is None else draw(st.sampled_from(["answer", "error"])),
        tunnel_bytes_up=draw(some_counts),
        tunnel_bytes_down=draw(some_counts),
    )
