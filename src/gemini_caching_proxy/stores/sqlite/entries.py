"""Entries of the cache as they are written: made with their exchanges, counted with their hits, pinned.

What the sums over all entries are, triggers keep (see the schema).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import apsw

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.exchange import EntryKind, Exchange, Response
from gemini_caching_proxy.stores.facets import INT64_MAX, bounded

from .connection import fetch_one

_MAKE = """
    INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, 0, 0, NULL, 0, 0)
    ON CONFLICT (key) DO UPDATE SET sequence = excluded.sequence, facet = excluded.facet, kind = excluded.kind,
        stored_ns = excluded.stored_ns, size = excluded.size, hits = 0, last_hit_ns = NULL, saved_nanousd = 0,
        saved_us = 0
    WHERE NOT pinned AND sequence <> excluded.sequence
        AND CASE WHEN kind = excluded.kind THEN stored_ns <= excluded.stored_ns ELSE kind = 'error' END
"""
"""The rule of `CacheEntry`. Of two that ended at once, the later taken in counts as the newer."""
_COUNT = """
    UPDATE entries SET hits = hits + 1, last_hit_ns = max(ifnull(last_hit_ns, ?1), ?1),
        saved_nanousd = saved_nanousd + ?2, saved_us = saved_us + ?3
    WHERE key = (
        SELECT n.key FROM exchanges e JOIN entries n ON n.sequence = e.sequence WHERE e.id = ?4
        ORDER BY n.key = ?5 DESC, n.key LIMIT 1
    )
"""
"""An exchange may have entries under several keys: a hit counts for the one that was asked for if it is one of them."""


class Entries:
    """What one batch does to the entries."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, ...]] = []
        self._hits: list[tuple[Any, ...]] = []

    def gather(self, exchange: Exchange, sequence: int, facet: int) -> None:
        """Note what an exchange that is new to the store makes or hits."""
        if exchange.entry_key is not None and isinstance(exchange.outcome, Response):
            stored_ns = _ended_ns(exchange.started_ns, exchange.timing.last_byte_us)
            size = bounded(exchange.outcome.body.size)
            self._made.append((exchange.entry_key, sequence, facet, exchange.entry_kind or "answer", stored_ns, size))
        use = exchange.cache
        if use is not None and use.served and use.source is not None:
            saved = bounded(use.saved_nanousd) or 0, bounded(use.saved_us) or 0
            self._hits.append((exchange.started_ns, *saved, use.source.bytes, use.key))

    def write(self, connection: apsw.Connection) -> None:
        """In the running transaction. Entries first: a batch may hold an exchange and, before it, those it served."""
        connection.executemany(_MAKE, self._made)
        connection.executemany(_COUNT, self._hits)


def add_entry(connection: apsw.Connection, exchange_id: UUID, key: bytes, kind: EntryKind) -> bool:
    """See `ExchangeStore.add_entry`."""
    row = fetch_one(
        connection,
        "SELECT e.sequence, e.facet, e.started_ns, e.duration_us, e.response_bytes, f.failure FROM exchanges e"
        " JOIN facets f ON f.id = e.facet WHERE e.id = ?",
        (exchange_id.bytes,),
    )
    if row is None:
        raise NotFound(f"No exchange has the id {exchange_id}.")
    sequence, facet, started_ns, duration_us, size, failure = row
    if failure is not None:
        return False
    connection.execute(_MAKE, (key, sequence, facet, kind, _ended_ns(started_ns, duration_us), size))
    # Made again for the exchange that it has already, an entry keeps its counters.
    same = "UPDATE entries SET kind = ? WHERE key = ? AND sequence = ? AND NOT pinned AND kind <> ?"
    connection.execute(same, (kind, key, sequence, kind))
    owner: int = connection.execute("SELECT sequence FROM entries WHERE key = ?", (key,)).get
    return owner == int(sequence)


def pin(connection: apsw.Connection, key: bytes, *, pinned: bool) -> None:
    """See `ExchangeStore.pin`."""
    connection.execute("UPDATE entries SET pinned = ? WHERE key = ?", (int(pinned), key))
    if not connection.changes():
        raise NotFound(f"No entry has the key {key.hex()}.")


def _ended_ns(started_ns: int, duration_us: int | None) -> int:
    return bounded(started_ns + (duration_us or 0) * 1000, INT64_MAX) or 0
