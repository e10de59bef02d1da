"""Forgetting entries, beside a running writer: never more than a moment under the write lock. The exchanges stay.

Entries are chosen outside the lock and looked at again under it: one that was replaced, pinned or used meanwhile is
another one.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from gemini_caching_proxy.stores.base import EntryQuery

from .answers import entry_conditions
from .connection import fetch_all
from .facets import Facets
from .steps import READ_ROWS, in_short_steps

UNUSED_AT_ONCE = 50_000
"""Entries that one look for the longest unused gives; each look goes through all of them."""


class Eviction:
    """Forgets entries through a writing connection of its own."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def run(self, query: EntryQuery) -> int:
        """See `ExchangeStore.evict`."""
        facets = Facets()
        facets.refresh(self._connection)
        chosen = entry_conditions(query, facets.matching_entries(query))
        named = query.key is not None or query.exchange is not None or query.pinned is not None
        last: bytes = b""
        evicted = 0
        while rows := fetch_all(
            self._connection,
            f"SELECT n.key, n.sequence, n.pinned FROM entries n WHERE {chosen.sql} AND (? OR NOT n.pinned)"  # noqa: S608
            " AND n.key > ? ORDER BY n.key LIMIT ?",
            (*chosen.parameters, named, last, READ_ROWS),
        ):
            last = rows[-1][0]
            evicted += in_short_steps(self._connection, rows, self._delete)
        return evicted

    def _delete(self, row: tuple[bytes, int, int]) -> bool:
        self._connection.execute("DELETE FROM entries WHERE key = ? AND sequence = ? AND pinned = ?", row)
        return bool(self._connection.changes())

    def shrink_to(self, answer_bytes: int) -> int:
        """See `ExchangeStore.evict_to`."""
        evicted = 0
        while self._size() > answer_bytes:
            rows = fetch_all(
                self._connection,
                "SELECT key, sequence, hits FROM entries WHERE NOT pinned"
                " ORDER BY max(stored_ns, ifnull(last_hit_ns, stored_ns)), key LIMIT ?",
                (UNUSED_AT_ONCE,),
            )
            if not rows:
                break
            evicted += in_short_steps(self._connection, rows, self._shrinking(answer_bytes))
        return evicted

    def _shrinking(self, answer_bytes: int) -> Callable[[tuple[bytes, int, int]], bool]:
        def delete(row: tuple[bytes, int, int]) -> bool:
            if self._size() <= answer_bytes:
                return False
            self._connection.execute(
                "DELETE FROM entries WHERE key = ? AND sequence = ? AND hits = ? AND NOT pinned", row
            )
            return bool(self._connection.changes())

        return delete

    def _size(self) -> int:
        size: int = self._connection.execute("SELECT answer_bytes FROM entry_sums").get
        return size
