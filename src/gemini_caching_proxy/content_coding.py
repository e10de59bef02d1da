"""Bodies without their content-coding (RFC 9110 section 8.4.1), for reading them; the record keeps what was sent.

Invariant: work and memory are bounded whatever a body claims: at most `MAX_PLAIN_BYTES` come out, and past
`RATIO_FREE_BYTES` no more than `MAX_RATIO` times what went in. A body that breaks a bound or its format gives what was
read before, and the reason.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import brotli  # type: ignore[import-untyped]
import zstandard

from .exchange import Headers

MAX_PLAIN_BYTES = 32 * 1024 * 1024
MAX_RATIO = 100
RATIO_FREE_BYTES = 1024 * 1024
MAX_CODINGS = 2
STEP_BYTES = 64 * 1024
"""What one step of a decoder may put out."""
ZSTD_INPUT_STEP = 256
"""zstandard has no output limit on its incremental decoder, and one block of 4 bytes can mean 128 KiB."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A body with its content-coding removed."""

    data: bytes
    ends: tuple[int, ...] = ()
    """For each piece of the body as it came: how much of `data` was readable once it had arrived."""
    error: str | None = None
    """Why `data` is not all of it."""


class _Decoder(Protocol):
    def feed(self, data: bytes) -> Iterable[bytes]:
        """Outputs in steps of bounded size. Raises zlib.error, brotli.error or zstandard.ZstdError."""
        ...


class _Zlib:
    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._decoder = zlib.decompressobj(31 if gzip else 15)
        self._fresh = True

    def feed(self, data: bytes) -> Iterable[bytes]:
        while data:
            try:
                out = self._decoder.decompress(data, STEP_BYTES)
            except zlib.error:
                # "deflate" ought to have a zlib wrapper, but raw deflate is met in the wild.
                if self._gzip or not self._fresh:
                    raise
                self._decoder = zlib.decompressobj(-15)
                self._fresh = False
                continue
            self._fresh = False
            yield out
            data = self._decoder.unconsumed_tail
            if self._decoder.eof:
                data = self._decoder.unused_data
                if not self._gzip:
                    return
                self._decoder = zlib.decompressobj(31)


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterable[bytes]:
        yield self._decoder.process(data, output_buffer_limit=STEP_BYTES)
        while not self._decoder.can_accept_more_data():
            yield self._decoder.process(b"", output_buffer_limit=STEP_BYTES)


class _Zstd:
    def __init__(self) -> None:
        # RFC 8878 section 3.1.1.1.2 recommends to support windows of 8 MiB and to refuse more.
        decompressor = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)
        self._decoder = decompressor.decompressobj(read_across_frames=True)

    def feed(self, data: bytes) -> Iterable[bytes]:
        for start in range(0, len(data), ZSTD_INPUT_STEP):
            yield self._decoder.decompress(data[start : start + ZSTD_INPUT_STEP])


class _Chain:
    """Decoders one after the other."""

    def __init__(self, first: _Decoder, second: _Decoder) -> None:
        self._first, self._second = first, second

    def feed(self, data: bytes) -> Iterable[bytes]:
        for out in self._first.feed(data):
            yield from self._second.feed(out)


def content_codings(headers: Headers) -> tuple[str, ...]:
    """Codings in the order they were applied; `identity` left out."""
    values = [value.decode("latin-1") for name, value in headers if name.lower() == b"content-encoding"]
    names = (name.strip().lower() for value in values for name in value.split(","))
    return tuple(name.removeprefix("x-") for name in names if name not in ("", "identity"))


def uncoded(headers: Headers, data: bytes, sizes: Iterable[int] = ()) -> Plain:
    """`data` without the content-coding that `headers` name; `sizes` are those of the pieces it came in."""
    sizes = tuple(sizes)
    codings = content_codings(headers)
    if not codings or not data:
        return Plain(data, _ends(sizes))
    decoder = _decoder(codings)
    if decoder is None:
        return Plain(b"", (), f"content-encoding {', '.join(codings)[:80]} is unknown here")
    return _decode(decoder, codings[-1], data, sizes or (len(data),))


def _ends(sizes: tuple[int, ...]) -> tuple[int, ...]:
    total, ends = 0, []
    for size in sizes:
        total += size
        ends.append(total)
    return tuple(ends)


def _decoder(codings: tuple[str, ...]) -> _Decoder | None:
    if len(codings) > MAX_CODINGS:
        return None
    decoders = [_single(coding) for coding in reversed(codings)]
    if len(decoders) == 1:
        return decoders[0]
    first, second = decoders
    return None if first is None or second is None else _Chain(first, second)


def _single(coding: str) -> _Decoder | None:
    if coding in ("gzip", "deflate"):
        return _Zlib(gzip=coding == "gzip")
    if coding == "br":
        return _Brotli()
    return _Zstd() if coding == "zstd" else None


def _decode(decoder: _Decoder, coding: str, data: bytes, sizes: tuple[int, ...]) -> Plain:
    out: list[bytes] = []
    ends: list[int] = []
    total = start = 0
    error = None
    try:
        for size in sizes:
            piece = data[start : start + size]
            start += size
            for plain in decoder.feed(piece):
                out.append(plain)
                total += len(plain)
                if total > min(MAX_PLAIN_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * len(data))):
                    return Plain(b"".join(out), tuple(ends), f"{coding} body grows past what is read ({total} bytes)")
            ends.append(total)
    except (zlib.error, brotli.error, zstandard.ZstdError) as failure:
        error = f"{coding} body is damaged: {failure}"
    return Plain(b"".join(out), tuple(ends), error)
