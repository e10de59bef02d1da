"""Exchanges for tests: realistic unless told otherwise. `exchange(model="x")` is the usual one, with another model."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from blake3 import blake3

from gemini_caching_proxy.exchange import (
    Body,
    CacheUse,
    Chunk,
    Exchange,
    Headers,
    Piece,
    Price,
    Response,
    Timing,
    Usage,
    Verdict,
)

NOW_NS = 1_767_225_600_000_000_000
"""2026-01-01 00:00 UTC."""
MINUTE_NS = 60_000_000_000
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS

_random = random.Random(20260101)


def exchange_id(started_ns: int | None = None) -> UUID:
    """A UUIDv7, different at each call, the same ones in each run."""
    milliseconds = (time.time_ns() if started_ns is None else started_ns) // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | _random.getrandbits(12) << 64 | 0b10 << 62
    return UUID(int=value | _random.getrandbits(62))


def digest(data: bytes) -> bytes:
    return blake3(data).digest(length=16)


def part(data: bytes, text: str = "") -> Piece:
    return Piece(data, digest(data), text)


def glue(data: bytes) -> Piece:
    return Piece(data)


def body(data: bytes = b"", **over: Any) -> Body:
    return Body(**{"data": data, "size": len(data), "digest": blake3(data).hexdigest(), **over})


def content(text: str, role: str = "user") -> Piece:
    """An element of `contents`, as a part."""
    return part(json.dumps({"role": role, "parts": [{"text": text}]}).encode(), text)


def request_pieces(contents: Sequence[Piece]) -> tuple[Piece, ...]:
    """A `generateContent` request around contents."""
    between: list[Piece] = [glue(b'{"contents": [')]
    for index, element in enumerate(contents):
        between += ([glue(b", ")] if index else []) + [element]
    return (*between, glue(b'], "generationConfig": {"temperature": 0.7}}'))


def join(pieces: Sequence[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def chain_of(contents: Sequence[Piece]) -> tuple[bytes, ...]:
    """Hashes over growing prefixes of the contents."""
    hashes, last = [], b""
    for element in contents:
        last = digest(last + (element.digest or b""))
        hashes.append(last)
    return tuple(hashes)


def sse(text: str, *, events: int = 3) -> list[bytes]:
    """An answer as server-sent events, one per item."""
    step = max(1, -(-len(text) // events))
    slices = [text[at : at + step] for at in range(0, len(text), step)] or [""]
    return [
        b"data: "
        + json.dumps({"candidates": [{"content": {"parts": [{"text": piece}], "role": "model"}}]}).encode()
        + b"\r\n\r\n"
        for piece in slices
    ]


REQUEST_HEADERS: Headers = (
    (b"host", b"127.0.0.1:8000"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"google-genai-sdk/1.55.0 gl-python/3.11.9"),
    (b"x-goog-api-client", b"google-genai-sdk/1.55.0 gl-python/3.11.9"),
    (b"x-goog-api-key", b"fp:k1:0123456789abcdef"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"content-length", b"321"),
)
RESPONSE_HEADERS: Headers = (
    (b"Content-Type", b"text/event-stream"),
    (b"Content-Disposition", b"attachment"),
    (b"Vary", b"Origin"),
    (b"Vary", b"X-Origin"),
    (b"Date", b"Thu, 01 Jan 2026 00:00:00 GMT"),
    (b"Server", b"scaffolding on HTTPServer2"),
    (b"X-XSS-Protection", b"0"),
    (b"X-Frame-Options", b"SAMEORIGIN"),
    (b"Server-Timing", b"gfet4t7; dur=412"),
    (b"Transfer-Encoding", b"chunked"),
)


def response(chunks: Sequence[bytes] = (b"{}",), *, first_us: int = 400_000, **over: Any) -> Response:
    data = b"".join(chunks)
    arrived = tuple(Chunk(first_us + 20_000 * index, len(chunk)) for index, chunk in enumerate(chunks))
    return Response(
        **{"status": 200, "reason": b"OK", "headers": RESPONSE_HEADERS, "body": body(data), "chunks": arrived, **over}
    )


def exchange(
    *, asked: str = "Why is the sky blue?", answer: str = "Because of Rayleigh scattering.", **over: Any
) -> Exchange:
    """One streamed `generateContent`, with whatever fields `over` sets.

    Args:
        asked: text of the one content, unless pieces or a body are given.
        answer: what the model says, unless an outcome is given.
    """
    started_ns = over.get("started_ns", NOW_NS)
    contents = [content(asked)]
    pieces = over.get("request_pieces", () if "request_body" in over else request_pieces(contents))
    defaults = {
        "id": exchange_id(started_ns),
        "started_ns": started_ns,
        "provider": "gemini",
        "operation": "stream_generate_content",
        "method": "POST",
        "target": "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        "upstream": "https://generativelanguage.googleapis.com",
        "outcome": response(sse(answer)),
        "model": "gemini-2.5-flash",
        "model_version": "gemini-2.5-flash",
        "stream_shape": "sse",
        "client_address": "127.0.0.1:50123",
        "user_agent": "google-genai-sdk/1.55.0 gl-python/3.11.9",
        "credential": "fp:k1:0123456789abcdef",
        "credential_source": "client",
        "request_headers": REQUEST_HEADERS,
        "request_body": body(join(pieces)),
        "request_pieces": pieces,
        "response_text": answer if "outcome" not in over else "",
        "timing": Timing(1_000, 35_000, 400_000, 400_100, 460_000),
        "finish_reason": "STOP",
        "usage": Usage(10, None, 20, 5, None, 35, raw=b'{"promptTokenCount": 10}'),
        "price": Price(3_000, 62_500, 65_500, "gemini-2.5-flash"),
        "chain": chain_of(contents) if pieces else (),
    }
    return Exchange(**{**defaults, **over})


def recorded(key: bytes = b"k" * 16, **over: Any) -> Exchange:
    """An exchange whose answer can be served again under this key."""
    return exchange(**{"entry_key": key, "entry_kind": "answer", **over})


def served(source: Exchange, **over: Any) -> Exchange:
    """An exchange that was answered with the answer of another one; `use` sets fields of its CacheUse."""
    use = {"verdict": Verdict.HIT, "key": source.entry_key, "source": source.id, **over.pop("use", {})}
    defaults: dict[str, Any] = {
        "outcome": source.outcome,
        "response_text": source.response_text[:200],
        "usage": None,
        "price": None,
        "cache": CacheUse(**use),
    }
    return exchange(**{**defaults, **over})


class Prose:
    """Random text with the statistics of language: a vocabulary, used with Zipf's weights."""

    def __init__(self, seed: int = 1, vocabulary: int = 5000) -> None:
        self._random = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgkqjxz"
        weights = [1 / (rank + 1.5) for rank in range(len(letters))]
        made: dict[str, None] = {}
        while len(made) < vocabulary:
            made["".join(self._random.choices(letters, weights, k=self._random.randint(2, 11)))] = None
        self.words = list(made)
        self._cumulative: list[float] = []
        total = 0.0
        for rank in range(vocabulary):
            total += 1 / (rank + 2.7)
            self._cumulative.append(total)

    def text(self, characters: int) -> str:
        """About as many characters, with punctuation now and then."""
        words = self._random.choices(self.words, cum_weights=self._cumulative, k=characters // 6 + 1)
        for at in range(9, len(words), 10):
            words[at] += self._random.choice([".", ",", ";", "():", "\n", " = "])
        return " ".join(words)[:characters]


def agent_session(
    turns: int, *, element_bytes: int = 1000, answer_bytes: int = 800, seed: int = 1, started_ns: int = NOW_NS
) -> Iterator[Exchange]:
    """A long session: each request repeats all before it and adds the last answer and a new message."""
    prose = Prose(seed)
    first = exchange_id(started_ns)
    previous: UUID | None = None
    contents: list[Piece] = []
    for turn in range(turns):
        start = started_ns + turn * MINUTE_NS // 4
        contents.append(content(prose.text(element_bytes - 50)))
        answer = prose.text(answer_bytes)
        pieces = request_pieces(contents)
        current = first if turn == 0 else exchange_id(start)
        yield exchange(
            id=current,
            started_ns=start,
            request_pieces=pieces,
            answer=answer,
            outcome=response(sse(answer)),
            response_text=answer,
            conversation=first,
            parent=previous,
            chain=chain_of(contents),
            client_address=f"127.0.0.1:{50000 + turn // 20}",
        )
        previous = current
        contents.append(content(answer + " " + prose.text(max(0, element_bytes - 60 - answer_bytes)), "model"))
