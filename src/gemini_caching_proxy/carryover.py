"""Open exchanges carried past the end of old journal segments, so that one long stream does not keep all of them.

A carryover file belongs to one place in one journal and holds the records, from before that place, of the exchanges
that were open there. It is on disk before the store hears of the place and deleted after the store has a later one, so
whatever place the store names, reading can go on from there. Frames carry length and CRC32C: a damaged one costs one
exchange.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
from crc32c import crc32c

from .assembly import ExchangeRecord, OpenExchange
from .journal import Position

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[ExchangeRecord])


class Carryover:
    """The carryover files of one journal."""

    def __init__(self, folder: Path, journal: str) -> None:
        self._folder = folder
        self._journal = journal

    def __repr__(self) -> str:
        return f"<Carryover of {self._journal} in {self._folder}>"

    def save(self, position: Position, exchanges: Iterable[OpenExchange]) -> None:
        """Raises OSError: then nothing may be said to the store."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._path(position)
        partial = path.with_suffix(".partial")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            for exchange in exchanges:
                frame = _encoder.encode(list(exchange.records()))
                file.write(len(frame).to_bytes(8, "little") + crc32c(frame).to_bytes(4, "little") + frame)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(self._folder)

    def load(self, position: Position) -> tuple[list[list[ExchangeRecord]], int]:
        """The records of each exchange that was carried to `position`, and how many were damaged."""
        try:
            data = self._path(position).read_bytes()
        except FileNotFoundError:
            return [], 0
        exchanges, damaged, start = [], 0, 0
        while start < len(data):
            size = int.from_bytes(data[start : start + 8], "little")
            frame = data[start + 12 : start + 12 + size]
            try:
                if crc32c(frame) != int.from_bytes(data[start + 8 : start + 12], "little"):
                    raise ValueError("a damaged frame")
                exchanges.append(_decoder.decode(frame))
            except (ValueError, msgspec.MsgspecError):
                damaged += 1
            start += 12 + size
        return exchanges, damaged

    def keep_only(self, position: Position | None) -> None:
        """Delete the files of other places; with None all of them."""
        keep = self._path(position).name if position is not None else ""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name.startswith(f"{self._journal}@") and path.name != keep:
                path.unlink(missing_ok=True)

    def _path(self, position: Position) -> Path:
        return self._folder / f"{self._journal}@{position.segment}-{position.offset}.open"


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
