"""Segment files: their names, their header, their frames, and the lock of their writer.

    segment = header frame*
    header  = magic (8 bytes) · format version (u32) · CRC32C of these 12 bytes (u32)
    frame   = sync mark (8) · payload length (u32) · payload CRC32C (u32) · head CRC32C (u32) · payload

All integers are little-endian. The head's CRC covers the frame's own offset in the file besides length and payload CRC,
so a length is trusted only if it is whole, and bytes of a journal that travelled through the proxy as somebody's
request body are never taken for frames.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Final

from crc32c import crc32c

from gemini_caching_proxy.errors import FolderInUse, FormatTooNew

from .records import FORMAT_VERSION

SYNC: Final = b"\xff\xfeGCPj\xf5\xc1"
"""Not valid in UTF-8, so no text holds it."""
HEADER_BYTES: Final = 16
HEAD_BYTES: Final = 20

_MAGIC: Final = b"GCPJRNL\n"
_HEADER = struct.Struct("<8sII")
_HEAD = struct.Struct("<8sIII")
_PLACE = struct.Struct("<QII")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SEGMENT_FILE = re.compile(r"(.+)\.(\d{8,})\.journal")
_LOCK_FILE = re.compile(r"(.+)\.lock")


def segment_path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}.{number:08d}.journal"


def lock_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"


def check_name(name: str) -> None:
    """Raises ValueError for a name that cannot be part of a file name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a journal: use letters, digits, '.', '_' and '-'.")


def journals(folder: Path) -> list[str]:
    """Names of the journals in a folder, sorted; names made of times come out in their order."""
    names = set()
    for entry in _entries(folder):
        match = _SEGMENT_FILE.fullmatch(entry) or _LOCK_FILE.fullmatch(entry)
        if match:
            names.add(match[1])
    return sorted(names)


def segments(folder: Path, name: str) -> list[int]:
    """Numbers of the segments that exist, ascending."""
    found = (_SEGMENT_FILE.fullmatch(entry) for entry in _entries(folder))
    return sorted(int(match[2]) for match in found if match and match[1] == name)


def folder_bytes(folder: Path) -> int:
    """Bytes of all segments of all journals in a folder."""
    total = 0
    for entry in _entries(folder):
        if entry.endswith(".journal"):
            try:
                total += os.stat(folder / entry).st_size
            except FileNotFoundError:
                continue  # the recorder deleted it since
    return total


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def header() -> bytes:
    checked = _HEADER.pack(_MAGIC, FORMAT_VERSION, 0)[:12]
    return checked + crc32c(checked).to_bytes(4, "little")


def header_version(data: bytes) -> int | None:
    """Format version of a segment that starts with `data`; None if its header is damaged.

    Raises FormatTooNew.
    """
    if len(data) < HEADER_BYTES:
        return None
    magic, version, crc = _HEADER.unpack_from(data)
    if magic != _MAGIC or crc != crc32c(data[:12]) or version < 1:
        return None
    if version > FORMAT_VERSION:
        raise FormatTooNew(
            f"The journal is in format {version}, this program knows up to {FORMAT_VERSION}: "
            "run the newer version once more, or move the journal folder away."
        )
    return int(version)


def frame_head(offset: int, payload: bytes) -> bytes:
    """The 20 bytes in front of a payload whose frame starts at `offset`."""
    length, crc = len(payload), crc32c(payload)
    return _HEAD.pack(SYNC, length, crc, crc32c(_PLACE.pack(offset, length, crc)))


def payload_length(data: bytes, at: int, offset: int) -> int | None:
    """Length of the payload behind the frame head at `data[at:]`; None if there is no sound head.

    `offset` is where the frame starts in the file.
    """
    if len(data) - at < HEAD_BYTES:
        return None
    sync, length, crc, head_crc = _HEAD.unpack_from(data, at)
    if sync != SYNC or head_crc != crc32c(_PLACE.pack(offset, length, crc)):
        return None
    return int(length)


def payload_is_sound(data: bytes, at: int, payload: memoryview) -> bool:
    """Whether `payload` is what the frame head at `data[at:]` was written for."""
    return bool(_HEAD.unpack_from(data, at)[2] == crc32c(payload))


def take_lock(folder: Path, name: str) -> int:
    """Create and hold the writer's lock; returns its file descriptor. Raises FolderInUse if the name is taken."""
    path = lock_path(folder, name)
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise FolderInUse(f"A journal named {name} exists already in {folder}.") from None
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # a reader took the lock between our two calls, saw an empty journal and removed it


def lock_is_free(folder: Path, name: str) -> bool:
    """Whether no writer holds the lock: it closed the journal or died."""
    try:
        fd = os.open(lock_path(folder, name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
