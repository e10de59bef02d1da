"""Writing and reading the file of a cassette, one exchange at a time."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import msgspec
import zstandard
from blake3 import blake3

from gemini_caching_proxy.errors import CassetteError
from gemini_caching_proxy.exchange import Exchange

from .records import COPY, TOO_LARGE, RecordError, decode, encode, why_left_out

VERSION: Final = 1
TITLE: Final = b"gemini-proxy cassette "
MOST_RECORD_BYTES: Final = 512 * 1024 * 1024
LEVEL: Final = 9
WINDOW_LOG: Final = 26
"""Repeats are found over 64 MiB; the long turns of many sessions fit into that."""
MOST_WINDOW_BYTES: Final = 128 * 1024 * 1024
END_MARK: Final = b"\0\0\0\0"

LeftOut = Counter[str]
"""Exchanges that were kept out, by the reasons of `records.REASONS`."""


class End(msgspec.Struct):
    """What follows the last record."""

    exchanges: int
    digest: bytes
    """BLAKE3 (32 bytes) of all records, their lengths included."""


class CassetteWriter:
    """Writes a cassette into a binary file; a context manager, whose end completes the file.

    Memory is bounded by the largest exchange and the compressor's window (about 100 MB together for usual ones).
    """

    def __init__(self, file: BinaryIO) -> None:
        """`file` need not be seekable and is left open."""
        self._title = file.write(TITLE + str(VERSION).encode() + b"\n")
        parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG, enable_ldm=True)
        self._stream = zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file, closefd=False)
        self._hasher = blake3()
        self._ids: set[bytes] = set()
        self.exchanges = 0
        self.bytes = 0
        """Size of the file, once it is complete."""
        self.left_out: LeftOut = Counter()

    def __repr__(self) -> str:
        return f"<CassetteWriter {self.exchanges} exchanges>"

    def add(self, exchange: Exchange) -> bool:
        """Write an exchange, unless it belongs to those that are left out (then counted)."""
        reason = why_left_out(exchange)
        cache = exchange.cache
        if reason is None and cache is not None and cache.served and cache.source and cache.source.bytes in self._ids:
            reason = COPY
        record = encode(exchange) if reason is None else b""
        if len(record) > MOST_RECORD_BYTES:
            reason = TOO_LARGE
        if reason is not None:
            self.left_out[reason] += 1
            return False
        self._write(record)
        self._ids.add(exchange.id.bytes)
        self.exchanges += 1
        return True

    def close(self) -> None:
        """Complete the file."""
        end = End(self.exchanges, self._hasher.digest())
        self._stream.write(END_MARK + msgspec.msgpack.encode(end))
        self._stream.close()  # type: ignore[no-untyped-call]
        self.bytes = self._title + self._stream.tell()

    def _write(self, record: bytes) -> None:
        framed = len(record).to_bytes(4, "little") + record
        self._hasher.update(framed)
        self._stream.write(framed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A file that broke off must not look complete.
        if kind is None:
            self.close()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is written as a whole.

    Raises:
        CassetteError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            yield file
        draft.replace(path)
    except OSError as error:
        raise CassetteError(f"The cassette {path} cannot be written: {error.strerror or error}.") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def write_cassette(path: Path, exchanges: Iterable[Exchange]) -> int:
    """Write a cassette, in the order given; how many exchanges are in it (some are left out: `records.REASONS`).

    Raises:
        CassetteError: it cannot be written.
    """
    with replacing(path) as file, CassetteWriter(file) as writer:
        for exchange in exchanges:
            writer.add(exchange)
    return writer.exchanges


def read_cassette(path: Path) -> Iterator[Exchange]:
    """The exchanges of a cassette, one at a time; nothing is known of what their bodies say.

    The end of the iteration says that the file was whole.

    Raises:
        CassetteError: no such file, no cassette, of a newer version, or damaged.
    """
    try:
        with path.open("rb") as file:
            _check_title(path, file.readline(64))
            yield from _read(path, file)
    except OSError as error:
        raise CassetteError(f"The cassette {path} cannot be read: {error.strerror or error}.") from None


def _check_title(path: Path, line: bytes) -> None:
    version = line.removeprefix(TITLE).removesuffix(b"\n")
    if not line.startswith(TITLE) or not version.isdigit():
        raise CassetteError(f"{path} is no cassette: it does not begin as the files of `gemini-proxy export` do.")
    if int(version) != VERSION:
        raise CassetteError(
            f"The cassette {path} is of version {int(version)}, and this program reads up to {VERSION}: "
            "install a newer gemini-caching-proxy."
        )


def _read(path: Path, file: BinaryIO) -> Iterator[Exchange]:
    hasher, count = blake3(), 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW_BYTES)
    stream = decompressor.stream_reader(file, read_across_frames=True, closefd=False)
    try:
        while (mark := _exactly(stream, 4)) != END_MARK:
            size = int.from_bytes(mark, "little")
            if size > MOST_RECORD_BYTES:
                raise ValueError("a record is larger than any can be")
            record = _exactly(stream, size)
            hasher.update(mark)
            hasher.update(record)
            count += 1
            yield decode(record)
        end = msgspec.msgpack.decode(stream.read(4096), type=End)
        if end != End(count, hasher.digest()):
            raise ValueError("the checksum is another one")
        if stream.read(1):
            raise ValueError("more follows after the end")
    except (zstandard.ZstdError, msgspec.MsgspecError, RecordError, EOFError, ValueError) as error:
        raise CassetteError(
            f"The cassette {path} is damaged ({error}): take it from the repository again, or record it anew."
        ) from None


def _exactly(stream: zstandard.ZstdDecompressionReader, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("it ends too early")
    return data
