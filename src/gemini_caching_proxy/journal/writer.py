"""The writing side of a journal, and the one place that says what happens when disk space or the disk fails.

The policy: recording never stops the traffic. Records that cannot be written are dropped, and with one record its whole
exchange, so nothing half passes for whole; dropped exchanges are counted, and once writing works again a `Gap` record
that tells of them goes in front of everything else. No exception reaches the caller.

It knows nothing of event loops: the caller decides when to `flush`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gemini_caching_proxy.log import get_logger

from .records import Begin, Chunk, End, Gap, RequestChunk, WholeExchange, Written, encode_records
from .segments import (
    HEAD_BYTES,
    HEADER_BYTES,
    check_name,
    folder_bytes,
    frame_head,
    header,
    segment_path,
    segments,
    take_lock,
)

MIB: Final = 1024 * 1024
CROWDED_BYTES: Final = MIB
FRAME_BYTES: Final = MIB
"""A frame is closed once its payload is about this long."""
RETRY_S: Final = 0.02
"""Pause before another segment is opened after none could be written."""
QUIET_S: Final = 1.0
"""Least time between two messages about lost exchanges."""

FIRST: Final = (Begin, WholeExchange)
"""What an exchange can begin with."""
LAST: Final = (End, WholeExchange)
"""What an exchange can end with."""

_log = get_logger(__name__)

_SAME_SEGMENT = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors after which the segment itself is sound: room may come back."""


class JournalWriter:
    """Appends one worker's records. Owned by one thread.

    `pending_bytes`: about how much waits for `flush`. `folder_bytes`: size of all journals in the folder, own writes
    included, as of `account_folder`. `gap_exchanges`: exchanges lost since the start. `sync_failures`: segments that
    could not be synced. Raises FolderInUse if the name is taken, OSError if the folder cannot be used.
    """

    def __init__(
        self, folder: Path, name: str, *, max_bytes: int, segment_bytes: int = 64 * MIB, sync_ms: int = 100
    ) -> None:
        check_name(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.name = name
        self.pending_bytes = 0
        self.gap_exchanges = 0
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._lock_fd = take_lock(folder, name)
        self._number = max(segments(folder, name), default=-1) + 1
        self._fd = -1
        self._offset = 0
        self._retry_at = 0.0
        self._quiet_until = 0.0
        self._pending: list[Written] = []
        self._lost: set[bytes] = set()
        """Ids of exchanges that lost a record and have not ended."""
        self._gap: Gap | None = None
        """What was lost since the last gap record."""
        self._syncer = _Syncer(folder, sync_ms)
        self.folder_bytes = 0
        self.account_folder()

    def __repr__(self) -> str:
        return (
            f"<JournalWriter {self.name} segment={self._number} offset={self._offset} pending={len(self._pending)} "
            f"gap_exchanges={self.gap_exchanges} healthy={self.healthy}>"
        )

    @property
    def healthy(self) -> bool:
        """Whether records are being kept and synced now."""
        return self._gap is None and not self._syncer.broken

    @property
    def sync_failures(self) -> int:
        return self._syncer.failures

    def append(self, record: Written, size: int = 0) -> None:
        """Queue a record; cheap, never fails. An exchange's last record must be its `End` or `WholeExchange`.

        `size`: about how many bytes it has, where the caller knows.
        """
        self._pending.append(record)
        self.pending_bytes += size or _size_of(record)

    def flush(self) -> bool:
        """Hand all queued records to the operating system, in order.

        True: they survive the death of this process. False: something was lost and counted.
        """
        records, size = self._pending, self.pending_bytes
        if not records and self._gap is None:
            return True
        self._pending, self.pending_bytes = [], 0
        whole = True
        for batch in (records,) if size <= FRAME_BYTES else _split(records):
            kept = self._without_lost(batch) if self._lost else batch
            whole = self._write(kept) and len(kept) == len(batch) and whole
        return whole

    def account_folder(self) -> None:
        """Measure the folder anew: the recorder deletes segments, and other workers write there too."""
        try:
            self.folder_bytes = folder_bytes(self._folder)
        except OSError as error:
            _log.warning("journal folder cannot be measured", folder=str(self._folder), error=str(error))

    def close(self) -> None:
        """Flush, sync and let go of the journal. Harmless when repeated."""
        if self._lock_fd < 0:
            return
        self.flush()
        self._retire()
        self._syncer.close()
        os.close(self._lock_fd)
        self._lock_fd = -1

    def _write(self, records: list[Written]) -> bool:
        """One frame, a due gap record in front of it."""
        if not records and self._gap is None:
            return True
        try:
            payload = encode_records([self._gap, *records] if self._gap else records)
        except (ValueError, TypeError, OverflowError):
            return self._write_encodable(records)
        reason: str | None = "journal is full"
        if self.folder_bytes + HEAD_BYTES + len(payload) <= self._max_bytes:
            reason = self._append_frame(payload)
        if reason is not None:
            self._lose(records, reason)
            return False
        if self._gap is not None:
            self._say("journal keeps exchanges again", lost=self._gap.exchanges)
            self._gap = None
        return True

    def _write_encodable(self, records: list[Written]) -> bool:
        """Lose only the exchanges whose records cannot be encoded, which is a mistake of the caller."""
        for record in records:
            try:
                encode_records([record])
            except (ValueError, TypeError, OverflowError) as error:
                self._lose([record], f"record cannot be encoded: {type(error).__name__}")
        self._write(self._without_lost(records))
        return False

    def _append_frame(self, payload: bytes) -> str | None:
        """None when written, else why not. A failed segment is given up for a new one, once."""
        reason = "disk failed"
        for _ in range(2):
            if self._syncer.failed or self._syncer.crowded or self._offset >= self._segment_bytes:
                self._retire()
            try:
                if self._fd < 0:
                    self._open_segment()
                _write_all(self._fd, frame_head(self._offset, payload), payload)
            except OSError as error:
                reason = errno.errorcode.get(error.errno or 0, "disk failed")
                if self._cut_back(error):
                    break
            else:
                written = HEAD_BYTES + len(payload)
                self._offset += written
                self.folder_bytes += written
                self._syncer.unsynced += written
                return None
        else:
            self._retry_at = time.monotonic() + RETRY_S
        return reason

    def _open_segment(self) -> None:
        """Start the next segment. Raises OSError; the number stays unused then."""
        if time.monotonic() < self._retry_at:
            raise OSError(errno.EAGAIN, "waiting to try again")
        path = segment_path(self._folder, self.name, self._number)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, header())
            except OSError:
                os.close(fd)
                path.unlink()
                raise
        except OSError:
            self._retry_at = time.monotonic() + RETRY_S
            raise
        self._fd, self._offset = fd, HEADER_BYTES
        self.folder_bytes += HEADER_BYTES
        self._syncer.watch(fd)

    def _cut_back(self, error: OSError) -> bool:
        """After a failed write: remove the torn frame. True if there is no point in trying again now."""
        if self._fd < 0:
            return True
        try:
            os.ftruncate(self._fd, self._offset)
            sound = error.errno in _SAME_SEGMENT
        except OSError:
            sound = False
        if not sound:
            self._retire()
        return sound

    def _retire(self) -> None:
        """Give the segment up; the next frame starts a new one."""
        if self._fd < 0:
            return
        self._syncer.retire(self._fd)
        if self._offset == HEADER_BYTES:
            with contextlib.suppress(OSError):  # an empty file is no harm
                segment_path(self._folder, self.name, self._number).unlink()
        self._fd, self._offset = -1, 0
        self._number += 1

    def _lose(self, records: list[Written], reason: str) -> None:
        """Drop records and their exchanges, and remember what to tell."""
        now = time.time_ns()
        if self._gap is None:
            self._gap = Gap(exchanges=0, first_ns=now, last_ns=now, reason=reason)
            self._say("journal cannot keep exchanges", reason=reason)
        gap = self._gap
        for record in records:
            if isinstance(record, Gap):
                continue
            if record.id not in self._lost:
                self._lost.add(record.id)
                self.gap_exchanges += 1
                gap.exchanges += 1
                gap.last_ns = now
                if not isinstance(record, FIRST):
                    gap.begun.append(record.id)
            if isinstance(record, LAST):
                self._lost.discard(record.id)

    def _say(self, event: str, **details: object) -> None:
        """Log, but not for every frame where room comes and goes."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            _log.error(event, journal=self.name, gap_exchanges=self.gap_exchanges, **details)

    def _without_lost(self, records: list[Written]) -> list[Written]:
        kept = []
        for record in records:
            if isinstance(record, Gap) or record.id not in self._lost:
                kept.append(record)
            elif isinstance(record, LAST):
                self._lost.discard(record.id)
        return kept


def _size_of(record: Written) -> int:
    """About how many bytes a record takes."""
    if isinstance(record, Chunk | RequestChunk):
        return len(record.data) + 48
    if isinstance(record, WholeExchange):
        return len(record.begin.body) + len(record.data) + 768
    if isinstance(record, Begin):
        return len(record.body) + 512
    return 256


class _Syncer:
    """Makes segments durable off the caller's thread; the only one to close them while its thread lives."""

    def __init__(self, folder: Path, interval_ms: int) -> None:
        self.unsynced = 0
        """Bytes of the current segment that the last sync may not have covered."""
        self.crowded = False
        """So much is unsynced that the writer should move on to a new segment: while a file is synced, appends to it
        wait (4 ms of every 100 at 70 MB/s), and a file that gets no more of them is synced without anybody waiting."""
        self.failed = False
        """The current segment could not be synced: what is in it may be lost whatever a second sync says."""
        self.broken = False
        """The last sync failed."""
        self.failures = 0
        self._folder = folder
        self._fd = -1
        self._new_file = False
        self._retired: deque[int] = deque()
        self._stopped = False
        self._wake = threading.Event()
        self._interval_s = interval_ms / 1000
        self._thread: threading.Thread | None = None
        if interval_ms:
            self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
            self._thread.start()

    def watch(self, fd: int) -> None:
        self._fd, self._new_file, self.unsynced = fd, True, HEADER_BYTES

    def retire(self, fd: int) -> None:
        """Sync and close a segment that gets no more frames."""
        self._fd, self.failed, self.crowded, self.unsynced = -1, False, False, 0
        self._retired.append(fd)
        if self._thread is None:
            os.close(self._retired.pop())
        else:
            self._wake.set()

    def close(self) -> None:
        if self._thread is not None:
            self._stopped = True
            self._wake.set()
            self._thread.join()
        self._sync_all()

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self._sync_all()

    def _sync_all(self) -> None:
        if self._new_file:
            self._new_file = False
            self._sync_folder()
        while self._retired:
            fd = self._retired.popleft()
            self._sync(fd)
            os.close(fd)
        if self.unsynced > CROWDED_BYTES and not self.crowded and not self._stopped:
            self.crowded = True
        elif self.unsynced:
            self.unsynced, self.crowded = 0, False
            fd = self._fd
            if fd >= 0 and not self._sync(fd) and fd == self._fd:
                self.failed = True

    def _sync(self, fd: int) -> bool:
        try:
            os.fdatasync(fd)
        except OSError as error:
            self.failures += 1
            self.broken = True
            _log.error("journal segment cannot be synced", folder=str(self._folder), error=str(error))
            return False
        self.broken = False
        return True

    def _sync_folder(self) -> None:
        """A new file survives a power cut only once its folder is synced too."""
        try:
            fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            os.fsync(fd)
        except OSError as error:
            _log.warning("journal folder cannot be synced", folder=str(self._folder), error=str(error))
        finally:
            os.close(fd)


def _split(records: list[Written]) -> Iterator[list[Written]]:
    """Runs of records of about FRAME_BYTES each."""
    batch: list[Written] = []
    size = 0
    for record in records:
        batch.append(record)
        size += _size_of(record)
        if size >= FRAME_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_all(fd: int, *pieces: bytes) -> None:
    """Write every byte or raise OSError; some may be written then."""
    written = os.writev(fd, pieces)
    total = sum(map(len, pieces))
    if written == total:
        return
    rest = memoryview(b"".join(pieces))[written:]
    while rest:
        rest = rest[os.write(fd, rest) :]
