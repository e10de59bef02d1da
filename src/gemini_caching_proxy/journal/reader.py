"""The reading side of a journal: follows a live writer, and reads past any damage.

A torn frame at the end of the segment that a living writer appends to is a frame to wait for; anywhere else it is
damage. Damage costs the frames it touches: reading goes on at the next frame whose checksums hold. Deleting is done
only when asked.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gemini_caching_proxy.log import get_logger

from .records import FORMAT_VERSION, Record, decode_records
from .segments import (
    HEAD_BYTES,
    HEADER_BYTES,
    SYNC,
    header_version,
    lock_is_free,
    lock_path,
    payload_is_sound,
    payload_length,
    segment_path,
    segments,
)

MIB: Final = 1024 * 1024

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place between two frames of a journal."""

    segment: int
    offset: int


class JournalReader:
    """Reads the records of one journal from a position on. Owned by one thread.

    `damaged_frames` and `damaged_bytes` count what could not be read since this reader was made.
    """

    def __init__(self, folder: Path, name: str, segment: int = 0, offset: int = 0) -> None:
        self.name = name
        self.damaged_frames = 0
        self.damaged_bytes = 0
        self._folder = folder
        self._segment = segment
        self._offset = offset
        self._fd = -1
        self._version = FORMAT_VERSION
        self._searched = (-1, -1)
        """Offset and file size at which a search for a later frame found none."""

    def __repr__(self) -> str:
        return (
            f"<JournalReader {self.name} segment={self._segment} offset={self._offset} "
            f"damaged_frames={self.damaged_frames}>"
        )

    @property
    def position(self) -> Position:
        """Where the next frame is read."""
        return Position(self._segment, self._offset)

    @property
    def writer_alive(self) -> bool:
        return not lock_is_free(self._folder, self.name)

    @property
    def finished(self) -> bool:
        """Whether the writer is gone and everything it left was read."""
        if self.writer_alive:
            return False
        left = [number for number in segments(self._folder, self.name) if number >= self._segment]
        if not left:
            return True
        return left == [self._segment] and self._size_of(self._segment) <= self._offset

    def read(self, max_bytes: int = 4 * MIB) -> list[tuple[Record, Position]]:
        """The next records, empty if there are none now, each with the place to read on from once it is dealt with.

        That is the end of its frame for a frame's last record, and the start of its frame for the others: reading
        starts at frames, and what follows in the frame must not be lost. Takes about `max_bytes` of frames, or one
        frame if that is longer. Raises FormatTooNew, OSError.
        """
        records: list[tuple[Record, Position]] = []
        budget = max_bytes
        while budget > 0:
            taken = self._take(budget, records, final=False)
            if not taken:
                if not self._segment_is_final():
                    break
                # Only now is it sure that nothing is appended any more; there may be more than a moment ago.
                taken = self._take(budget, records, final=True)
            if not taken and not self._next_segment():
                break
            budget -= taken
        return records

    def remove_before(self, position: Position) -> None:
        """Delete the segments that lie wholly before a position."""
        for number in segments(self._folder, self.name):
            if number < position.segment:
                segment_path(self._folder, self.name, number).unlink(missing_ok=True)

    def remove(self) -> bool:
        """Delete a finished journal, lock file included. False, and nothing is done, if it is not finished."""
        path = lock_path(self._folder, self.name)
        try:
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            lock = -1
        try:
            if not self.finished:
                return False
            if lock >= 0:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.close()
            for number in segments(self._folder, self.name):
                segment_path(self._folder, self.name, number).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            if lock >= 0:
                os.close(lock)
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _size_of(self, number: int) -> int:
        try:
            return os.stat(segment_path(self._folder, self.name, number)).st_size
        except FileNotFoundError:
            return 0

    def _segment_is_final(self) -> bool:
        """Whether nothing will be appended to the current segment. The order of the two questions matters."""
        gone = not self.writer_alive
        return gone or any(number > self._segment for number in segments(self._folder, self.name))

    def _open(self) -> bool:
        """Open the current segment, or the first behind it if it is not there."""
        if self._fd >= 0:
            return True
        numbers = [number for number in segments(self._folder, self.name) if number >= self._segment]
        if not numbers:
            return False
        if numbers[0] != self._segment:
            self._segment, self._offset = numbers[0], 0
        path = segment_path(self._folder, self.name, self._segment)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            start = os.pread(fd, HEADER_BYTES, 0)
            self._version = header_version(start) or FORMAT_VERSION
        except BaseException:
            os.close(fd)
            raise
        if len(start) < HEADER_BYTES and self._offset == 0 and not self._segment_is_final():
            os.close(fd)  # its writer is about to write the header
            return False
        self._fd = fd
        self._searched = (-1, -1)
        return True

    def _next_segment(self) -> bool:
        if not any(number > self._segment for number in segments(self._folder, self.name)):
            return False
        self.close()
        self._segment, self._offset = self._segment + 1, 0
        return True

    def _take(self, budget: int, records: list[tuple[Record, Position]], *, final: bool) -> int:
        """Read on by about `budget` bytes; returns how many were read or found damaged."""
        if not self._open():
            return 0
        start = self._offset
        if start == 0 and header_version(os.pread(self._fd, HEADER_BYTES, 0)):
            self._offset = HEADER_BYTES
        data = os.pread(self._fd, budget + HEAD_BYTES, self._offset)
        length = payload_length(data, 0, self._offset)
        if length is not None and length + HEAD_BYTES > len(data):
            data = os.pread(self._fd, length + HEAD_BYTES, self._offset)
        self._offset += self._take_frames(data, records)
        if self._offset == start and data:
            self._offset = self._behind_damage(final=final)
        return self._offset - start

    def _take_frames(self, data: bytes, records: list[tuple[Record, Position]]) -> int:
        """Decode the sound frames at the start of `data`; returns their bytes."""
        view = memoryview(data)
        at = 0
        while (length := payload_length(data, at, self._offset + at)) is not None:
            payload = view[at + HEAD_BYTES : at + HEAD_BYTES + length]
            if len(payload) < length or not payload_is_sound(data, at, payload):
                break
            at += HEAD_BYTES + length
            before = Position(self._segment, self._offset + at - HEAD_BYTES - length)
            after = Position(self._segment, self._offset + at)
            try:
                decoded = decode_records(payload, self._version)
            except msgspec.MsgspecError as error:
                self._count_damage(1, before.offset, after.offset, str(error))
                continue
            records.extend([(record, before) for record in decoded[:-1]])
            records.extend([(record, after) for record in decoded[-1:]])
        return at

    def _behind_damage(self, *, final: bool) -> int:
        """Offset to go on at; the same as now while the frame here may still become whole."""
        size = os.fstat(self._fd).st_size
        if self._searched == (self._offset, size) and not final:
            return self._offset
        found, frames = self._find_frame(self._offset + 1, size)
        if found is None and not final:
            self._searched = (self._offset, size)
            return self._offset
        end = size if found is None else found
        self._count_damage(frames + 1, self._offset, end, "checksum does not match")
        return end

    def _find_frame(self, start: int, size: int) -> tuple[int | None, int]:
        """Offset of the next sound frame, and how many unsound ones with a sound head were passed."""
        unsound = 0
        at = start
        while at < size:
            block = os.pread(self._fd, MIB, at)
            index = block.find(SYNC)
            while index >= 0:
                offset = at + index
                head = os.pread(self._fd, HEAD_BYTES, offset)
                length = payload_length(head, 0, offset)
                if length is not None:
                    payload = os.pread(self._fd, length, offset + HEAD_BYTES)
                    if len(payload) == length and payload_is_sound(head, 0, memoryview(payload)):
                        return offset, unsound
                    unsound += 1
                index = block.find(SYNC, index + 1)
            at += max(len(block) - len(SYNC) + 1, 1)
        return None, unsound

    def _count_damage(self, frames: int, start: int, end: int, why: str) -> None:
        self.damaged_frames += frames
        self.damaged_bytes += end - start
        path = segment_path(self._folder, self.name, self._segment)
        _log.warning("journal damaged", file=str(path), offset=start, bytes=end - start, why=why)
