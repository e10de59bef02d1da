"""What the recorder says about itself, in one small file, and what anybody can see of the journal from outside.

The file is replaced as a whole, about once a second and when something changes; readers never wait for the recorder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import msgspec

from .journal import Position, journals
from .journal.segments import segment_path, segments
from .settings import Settings

STATUS_FILE = "recorder.json"
ALIVE_WITHIN_NS = 10_000_000_000
"""A recorder whose heartbeat is older is gone or stuck; decoding one huge body takes seconds."""
RUNNING = "running"
STORE_UNAVAILABLE = "store_unavailable"
STOPPED = "stopped"
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """The recorder at `heartbeat_ns`. Counts are since this recorder's start."""

    pid: int
    heartbeat_ns: int
    """Unix time."""
    state: str = RUNNING
    """`running`, `stopped`, or `store_unavailable: ` and a sentence that says why."""
    stored: int = 0
    """Exchanges taken into the store."""
    duplicates: int = 0
    """Exchanges read again after a crash, already in the store."""
    undecoded: int = 0
    """Exchanges kept without being understood."""
    rejected: int = 0
    """Exchanges that the store could not take in any form; they are in the folder `rejected`."""
    damaged_frames: int = 0
    orphan_records: int = 0
    """Records whose exchange's first record was damaged."""
    gaps: int = 0
    """Gap records: exchanges that never reached the journal."""
    gap_exchanges: int = 0
    open_exchanges: int = 0
    """Begun and not ended."""
    backlog_bytes: int = 0
    """Journal that is not taken in."""
    oldest_unstored_ns: int | None = None
    """Start of the oldest exchange that is not stored, running ones included."""
    taken: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By journal, the segment and offset before which everything that ended is stored."""

    def alive(self, now_ns: int) -> bool:
        """Whether a recorder is at work. Running is not the same as storing: see `state`."""
        return self.state != STOPPED and now_ns - self.heartbeat_ns < ALIVE_WITHIN_NS


def read_status(data_dir: Path) -> RecorderStatus | None:
    """The last thing a recorder on this folder said; None if none ever did."""
    try:
        return msgspec.json.decode((data_dir / STATUS_FILE).read_bytes(), type=RecorderStatus)
    except (OSError, msgspec.MsgspecError):
        return None


def write_status(data_dir: Path, status: RecorderStatus) -> None:
    """Raises OSError, such as a full disk: the recorder itself goes on."""
    path = data_dir / STATUS_FILE
    partial = path.with_suffix(".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(status))
    partial.replace(path)


def journal_ends(folder: Path) -> dict[str, Position]:
    """The end of each journal that has anything in it."""
    ends = {}
    for name in journals(folder):
        numbers = segments(folder, name)
        if numbers:
            ends[name] = Position(numbers[-1], _size(segment_path(folder, name, numbers[-1])))
    return ends


def backlog(folder: Path, taken: Mapping[str, tuple[int, int]]) -> int:
    """Bytes of all journals behind the places (segment, offset) up to which they are taken in."""
    total = 0
    for name in journals(folder):
        first, offset = taken.get(name, (0, 0))
        for number in segments(folder, name):
            if number >= first:
                total += max(0, _size(segment_path(folder, name, number)) - (offset if number == first else 0))
    return total


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def wait_drained(settings: Settings, timeout: float) -> bool:
    """Wait until every exchange that had ended in the journal at the time of the call is stored.

    An exchange that still runs cannot be stored before its end and is not waited for.

    Args:
        timeout: seconds.

    Returns:
        False if it took longer than `timeout`, as with no recorder running.
    """
    deadline = monotonic() + timeout
    waiting = journal_ends(settings.journal_dir)
    while True:
        waiting = _not_taken(settings, waiting)
        if not waiting:
            return True
        if monotonic() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)


def _not_taken(settings: Settings, ends: Mapping[str, Position]) -> dict[str, Position]:
    present = journal_ends(settings.journal_dir)
    status = read_status(settings.data_dir)
    taken = status.taken if status is not None else {}
    return {
        name: end
        for name, end in ends.items()
        if name in present and (end.segment, end.offset) > tuple(taken.get(name, (0, 0)))
    }
