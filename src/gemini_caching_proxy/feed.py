"""One journal as the recorder takes it in: what was read, what ended, and from where reading must be possible again.

Invariant: `safe_position` never passes the begin of an exchange that is open or not yet stored, unless that exchange
was carried over (carryover.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .assembly import Assembly, ExchangeRecord, OpenExchange
from .carryover import Carryover
from .errors import FormatTooNew
from .journal import Begin, Gap, JournalReader, Position
from .stores.base import JournalPosition

BATCH_EXCHANGES = 256
BATCH_BYTES = 8 * 1024 * 1024
CARRY_SEGMENTS = 2
"""An open exchange is carried over once its begin lies this many segments back."""


class Feed:
    """A journal, its open exchanges, and those that ended and wait to be stored."""

    def __init__(self, folder: Path, name: str, start: Position, carryover: Carryover) -> None:
        self.name = name
        self.reader = JournalReader(folder, name, start.segment, start.offset)
        self.read_to = start
        self.committed = start
        """What the store knows."""
        self.gaps: list[tuple[Gap, Position]] = []
        """Gaps read and not yet stored, with the place before each."""
        self.clock_ns = 0
        """Time of the newest record that was read: how far into the past reading has come."""
        self._assembly = Assembly(folder if folder.is_dir() else None)
        self._unstored: dict[bytes, OpenExchange] = {}
        self._carryover = carryover
        self._folder = folder
        self._careful = False
        exchanges, self._damaged_before = carryover.load(start)
        for records in exchanges:
            self._restore(records, start)

    def __repr__(self) -> str:
        return f"<Feed {self.name} at {self.read_to}, stored to {self.committed}, {self.open_count} open>"

    @property
    def open_count(self) -> int:
        return len(self._assembly.open)

    @property
    def damaged_frames(self) -> int:
        return self.reader.damaged_frames + self._damaged_before

    @property
    def orphan_records(self) -> int:
        return self._assembly.orphan_records

    @property
    def oldest_begin_ns(self) -> int | None:
        """Start of the oldest exchange that is not stored."""
        starts = [each.started_ns for each in (*self._unstored.values(), *self._assembly.open.values())]
        return min(starts, default=None)

    @property
    def settled(self) -> bool:
        """Whether everything that was read and has ended is stored."""
        return not self._unstored and not self.gaps

    @property
    def taken_to(self) -> Position:
        """The place before which everything that has ended is stored."""
        return self.read_to if self.settled else self.committed

    def read(self, max_bytes: int) -> tuple[list[OpenExchange], bool]:
        """Take in about `max_bytes`; gives what ended, and whether there was anything to read.

        Raises FormatTooNew, OSError: then nothing was taken in, and the next reads go frame by frame up to the trouble.
        """
        try:
            records = self.reader.read(1 if self._careful else max_bytes)
        except (FormatTooNew, OSError):
            self._careful = True
            self._rewind()
            raise
        ended: list[OpenExchange] = []
        behind = self.read_to
        for record, after in records:
            if after != behind:
                # Records share a frame, and reading can only start at one: this is where the record's own begins.
                self.read_to, behind = behind, after
            if isinstance(record, Gap):
                ended.extend(self._gap(record))
            elif (exchange := self._assembly.take(record, self.read_to)) is not None:
                ended.append(exchange)
            if isinstance(record, Begin):
                self.clock_ns = max(self.clock_ns, record.started_ns)
        moved = self.reader.position != self.read_to
        self.read_to = self.reader.position
        self._unstored.update((exchange.id, exchange) for exchange in ended)
        return ended, moved

    def abandon(self) -> list[OpenExchange]:
        """The open exchanges of a journal whose writer is gone and which is read to its end."""
        left = self._assembly.abandon()
        self._unstored.update((exchange.id, exchange) for exchange in left)
        return left

    def stored(self, exchanges: Iterable[OpenExchange], position: Position) -> None:
        """The store has them, and knows `position`; segments before it go."""
        for exchange in exchanges:
            self._unstored.pop(exchange.id, None)
            exchange.discard()
        if position != self.committed:
            self.committed = position
            self.reader.remove_before(position)
            self._carryover.keep_only(position)

    def safe_position(self, about_to_store: Iterable[bytes] = ()) -> Position:
        """Where reading must start again once the exchanges with these ids are stored too."""
        needed = [self.read_to]
        if (first_open := self._assembly.first_open) is not None:
            needed.append(first_open)
        leaving = set(about_to_store)
        needed.extend(each.begin_at for each in self._unstored.values() if each.id not in leaving)
        needed.extend(before for _, before in self.gaps[:1])
        return min(needed)

    def wants_carrying(self) -> bool:
        first_open = self._assembly.first_open
        return first_open is not None and self.settled and self.read_to.segment - first_open.segment >= CARRY_SEGMENTS

    def carry_over(self) -> Position:
        """Make `read_to` a safe position. Raises OSError: then it is none."""
        self._carryover.save(self.read_to, self._assembly.open.values())
        for exchange in self._assembly.open.values():
            exchange.begin_at = self.read_to
        return self.read_to

    def journal_position(self, position: Position) -> JournalPosition:
        return JournalPosition(self.name, position.segment, position.offset)

    def remove(self) -> bool:
        """Delete the journal, all of which is stored. False if it turns out not to be finished."""
        if not self.reader.remove():
            return False
        self._carryover.keep_only(None)
        return True

    def _rewind(self) -> None:
        """What the reader read before it met trouble was lost with the exception."""
        self._damaged_before += self.reader.damaged_frames
        self.reader.close()
        self.reader = JournalReader(self._folder, self.name, self.read_to.segment, self.read_to.offset)

    def _gap(self, gap: Gap) -> list[OpenExchange]:
        self.gaps.append((gap, self.read_to))
        begun = (self._assembly.give_up(exchange_id) for exchange_id in gap.begun)
        return [exchange for exchange in begun if exchange is not None]

    def _restore(self, records: list[ExchangeRecord], at: Position) -> None:
        for record in records:
            self._assembly.take(record, at)


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes into the store in one transaction."""

    members: Sequence[tuple[Feed, OpenExchange]]

    @property
    def ids(self) -> set[bytes]:
        return {exchange.id for _, exchange in self.members}

    @property
    def feeds(self) -> list[Feed]:
        return list({id(feed): feed for feed, _ in self.members}.values())

    def of(self, feed: Feed) -> list[OpenExchange]:
        return [exchange for each, exchange in self.members if each is feed]


def batches(ended: Sequence[tuple[Feed, OpenExchange]]) -> Iterator[Batch]:
    """Batches of bounded count and size, in order."""
    members: list[tuple[Feed, OpenExchange]] = []
    size = 0
    for feed, exchange in ended:
        if members and (len(members) >= BATCH_EXCHANGES or size + exchange.body_bytes > BATCH_BYTES):
            yield Batch(members)
            members, size = [], 0
        members.append((feed, exchange))
        size += exchange.body_bytes
    if members:
        yield Batch(members)
