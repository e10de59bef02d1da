"""Deleting by age, beside a running writer: never more than a moment under the write lock.

Steps, each in short transactions: exchanges that started before; then parts whose owner is gone, which either go to the
oldest exchange that still uses them or, when none does, are deleted; then the index and the file are made smaller. The
search for users runs outside the lock. Exchanges that came in since are looked at again under it, and the writer
forgets the part numbers it remembers whenever another connection has written, so no part is deleted under a new user. A
prune that dies half-way leaves parts without an owner: the next one finds them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep

import apsw

from gemini_caching_proxy.stores.base import PruneResult
from gemini_caching_proxy.stores.codec import Codec, unpack_numbers

from .connection import fetch_all, transaction
from .steps import LOCK_S, PAUSE_S, READ_ROWS, in_short_steps

CANDIDATES = 500_000
"""Parts without an owner that are held in memory at once."""
MERGE_PAGES = 32
VACUUM_PAGES = 128
"""Pages per step, at most, of making the index and the file smaller."""
CHECKPOINT_WAIT_MS = 200
FOREVER = 2**63 - 1


def file_bytes(path: Path) -> int:
    """All that the store takes on disk."""
    sizes = 0
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-journal")):
        try:
            sizes += os.stat(name).st_size
        except FileNotFoundError:
            continue
    return sizes


class Pruning:
    """One prune through a writing connection of its own."""

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._codec = Codec()

    def run(self, older_than_ns: int) -> PruneResult:
        """See `ExchangeStore.prune`."""
        before = file_bytes(self._path)
        exchanges = self._delete_exchanges(older_than_ns)
        parts = self._delete_unused_parts()
        if exchanges or parts:
            self._delete_marks(older_than_ns)
            self._shrink()
        return PruneResult(exchanges, parts, max(0, before - file_bytes(self._path)))

    # Exchanges.

    def _delete_exchanges(self, older_than_ns: int) -> int:
        # From one to the next: those of pinned entries stay where they are.
        select = (
            "SELECT started_ns, sequence, request_bytes + response_bytes FROM exchanges"
            " WHERE started_ns < ? AND (started_ns, sequence) > (?, ?) ORDER BY started_ns, sequence LIMIT ?"
        )
        deleted, last = 0, (-FOREVER, 0)
        while rows := fetch_all(self._connection, select, (older_than_ns, *last, READ_ROWS)):
            last = rows[-1][:2]
            deleted += in_short_steps(self._connection, rows, self._delete_exchange)
        return deleted

    def _delete_exchange(self, row: tuple[int, int, int]) -> bool:
        _, sequence, body_bytes = row
        execute = self._connection.execute
        execute(
            "DELETE FROM exchanges WHERE sequence = ?1"
            " AND NOT EXISTS (SELECT 1 FROM entries n WHERE n.sequence = ?1 AND n.pinned)",
            (sequence,),
        )
        if not self._connection.changes():
            return False  # pinned, or another prune was faster
        execute("DELETE FROM entries WHERE sequence = ?", (sequence,))
        execute("DELETE FROM details WHERE sequence = ?", (sequence,))
        execute("DELETE FROM uses WHERE sequence = ?", (sequence,))
        execute("DELETE FROM words WHERE rowid = ?", (sequence,))
        execute("UPDATE state SET exchanges = exchanges - 1, body_bytes = body_bytes - ?", (body_bytes,))
        return True

    def _delete_marks(self, older_than_ns: int) -> None:
        # A mark without an exchange misleads nobody, so these may go last.
        last: tuple[bytes, int, int] = (b"", 0, 0)
        while rows := fetch_all(
            self._connection,
            "SELECT mark, started_ns, sequence FROM marks WHERE (mark, started_ns, sequence) > (?, ?, ?)"
            " ORDER BY mark, started_ns, sequence LIMIT ?",
            (*last, READ_ROWS),
        ):
            last = rows[-1]
            in_short_steps(self._connection, [row for row in rows if row[1] < older_than_ns], self._delete_mark)

    def _delete_mark(self, row: tuple[bytes, int, int]) -> bool:
        self._connection.execute(
            "DELETE FROM marks WHERE mark = ? AND started_ns = ? AND sequence = ?"
            " AND NOT EXISTS (SELECT 1 FROM exchanges e WHERE e.sequence = marks.sequence)",
            row,
        )
        return bool(self._connection.changes())

    # Parts.

    def _delete_unused_parts(self) -> int:
        deleted = 0
        while orphans := self._orphans():
            users = Users(self._connection, self._codec, orphans)
            users.look()
            deleted += in_short_steps(self._connection, sorted(orphans), partial(self._settle, users), users.look)
        return deleted

    def _orphans(self) -> set[int]:
        """Parts whose owner is gone, at most `CANDIDATES`."""
        found: set[int] = set()
        last = (-1, -1)
        while rows := fetch_all(
            self._connection,
            "SELECT p.owner, p.id, e.sequence FROM parts p LEFT JOIN exchanges e ON e.sequence = p.owner"
            " WHERE (p.owner, p.id) > (?, ?) ORDER BY p.owner, p.id LIMIT ?",
            (*last, READ_ROWS),
        ):
            last = rows[-1][:2]
            found.update(part for _, part, owner in rows if owner is None)
            if len(found) >= CANDIDATES:
                break
        return found

    def _settle(self, users: Users, part: int) -> bool:
        """Give a part to its heir or delete it; whether it was deleted."""
        heir = users.oldest.get(part)
        if heir is not None:
            self._connection.execute("UPDATE parts SET owner = ? WHERE id = ?", (heir, part))
            return False
        self._connection.execute("DELETE FROM parts WHERE id = ?", (part,))
        if not self._connection.changes():
            return False
        self._connection.execute("DELETE FROM words WHERE rowid = ?", (part,))
        self._connection.execute("UPDATE state SET parts = parts - 1")
        return True

    # The file.

    def _shrink(self) -> None:
        self._merge_index()
        while self._connection.pragma("freelist_count"):
            freed = self._connection.pragma("freelist_count")
            self._connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
            sleep(PAUSE_S)
            if self._connection.pragma("freelist_count") >= freed:
                break
        self._connection.set_busy_timeout(CHECKPOINT_WAIT_MS)
        with suppress(apsw.BusyError):  # a reader looks at an old state: the next checkpoint does it
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _merge_index(self) -> None:
        """Rewrite the full-text index step by step: only then are the deleted words gone from it."""
        self._merge_step(-1)  # less than nothing: all of the index, not only what is due
        pages = MERGE_PAGES
        more = True
        while more:
            began = monotonic()
            more = self._merge_step(pages)
            took = monotonic() - began
            pages = max(1, pages // 2) if took > LOCK_S else min(MERGE_PAGES, pages + 1)
            sleep(PAUSE_S)

    def _merge_step(self, pages: int) -> bool:
        """Whether it found something to do; see "The merge command" in SQLite's FTS5 documentation."""
        before = self._connection.total_changes()
        with transaction(self._connection):
            self._connection.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
        return self._connection.total_changes() - before >= 2


class Users:
    """Which exchanges use some parts, as far as it has looked."""

    def __init__(self, connection: apsw.Connection, codec: Codec, parts: set[int]) -> None:
        self._connection = connection
        self._codec = codec
        self._parts = parts
        self._seen = min(parts)  # whoever uses a part came later than the part, except its first owner
        self.oldest: dict[int, int] = {}
        """Part → the oldest exchange that uses it."""

    def look(self) -> None:
        """Go on through exchanges not seen yet."""
        for sequence, packed in self._unseen():
            for part in self._parts.intersection(unpack_numbers(packed, self._codec)):
                self.oldest.setdefault(part, sequence)

    def _unseen(self) -> Iterator[tuple[int, bytes]]:
        while rows := fetch_all(
            self._connection,
            "SELECT sequence, parts FROM uses WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (self._seen, READ_ROWS),
        ):
            yield from rows
            self._seen = rows[-1][0]
