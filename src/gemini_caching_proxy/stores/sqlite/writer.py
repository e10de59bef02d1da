"""Taking exchanges in: one batch, its rollups and its journal positions in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any
from uuid import UUID

import apsw

from gemini_caching_proxy.exchange import EntryKind, Exchange
from gemini_caching_proxy.stores.base import AddResult, Gap, JournalPosition
from gemini_caching_proxy.stores.codec import Codec, pack_numbers
from gemini_caching_proxy.stores.facets import Facet, clean
from gemini_caching_proxy.stores.marks import chain_mark, response_mark
from gemini_caching_proxy.stores.phrases import indexable
from gemini_caching_proxy.stores.records import dissect, own_text, preview
from gemini_caching_proxy.stores.tallies import measure_of

from .connection import transaction
from .entries import Entries, add_entry, pin
from .facets import Facets
from .rollups import Rollups

MOST_KNOWN_PARTS = 100_000
"""Part numbers remembered, about 20 MB."""


class Batch:
    """Rows that one batch adds, gathered so that each table is written in one go."""

    def __init__(self, next_number: int) -> None:
        self.next_number = next_number
        self.exchanges: list[tuple[Any, ...]] = []
        self.details: list[tuple[Any, ...]] = []
        self.uses: list[tuple[Any, ...]] = []
        self.parts: list[tuple[Any, ...]] = []
        self.words: list[tuple[int, str]] = []
        self.marks: list[tuple[bytes, int, int]] = []
        self.rollups = Rollups()
        self.entries = Entries()
        self.body_bytes = 0

    def take_number(self) -> int:
        self.next_number += 1
        return self.next_number - 1

    def write(self, connection: apsw.Connection) -> None:
        connection.executemany(f"INSERT INTO exchanges VALUES ({_marks(20)})", self.exchanges)  # noqa: S608
        connection.executemany(f"INSERT INTO details VALUES ({_marks(8)})", self.details)  # noqa: S608
        connection.executemany("INSERT INTO uses VALUES (?, ?)", self.uses)
        connection.executemany("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", self.parts)
        self.words.sort(
            key=itemgetter(0)
        )  # FTS5 spills its memory to disk whenever a number is not larger than the last
        connection.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", self.words)
        connection.executemany("INSERT OR IGNORE INTO marks VALUES (?, ?, ?)", self.marks)
        self.rollups.write(connection)
        self.entries.write(connection)
        connection.execute(
            "UPDATE state SET next_number = ?, exchanges = exchanges + ?, parts = parts + ?,"
            " body_bytes = body_bytes + ?",
            (self.next_number, len(self.exchanges), len(self.parts), self.body_bytes),
        )


def _marks(count: int) -> str:
    return ", ".join("?" * count)


class Writer:
    """The one that writes through a connection. All calls come from one thread."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._codec = Codec()
        self._facets = Facets()
        self._known_parts: dict[bytes, int] = {}
        self._data_version = -1

    def __repr__(self) -> str:
        return f"<Writer {self._facets!r} known parts {len(self._known_parts)}>"

    def add(self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition]) -> AddResult:
        """See `ExchangeStore.add`."""
        try:
            with transaction(self._connection):
                added = self._add_exchanges(exchanges) if exchanges else 0
                self._note(positions)
        except BaseException:
            # What the rolled-back batch taught may name rows that are not there.
            self._facets.forget()
            self._known_parts.clear()
            raise
        return AddResult(added=added, duplicates=len(exchanges) - added)

    def add_gap(self, gap: Gap, positions: Sequence[JournalPosition]) -> None:
        with transaction(self._connection):
            self._connection.execute(
                "INSERT OR IGNORE INTO gaps (first_ns, last_ns, exchanges, reason) VALUES (?, ?, ?, ?)",
                (gap.first_ns, gap.last_ns, gap.exchanges, clean(gap.reason)),
            )
            self._note(positions)

    def forget_journal(self, journal: str) -> None:
        with transaction(self._connection):
            self._connection.execute("DELETE FROM positions WHERE journal = ?", (journal,))

    def add_entry(self, exchange_id: UUID, key: bytes, kind: EntryKind) -> bool:
        """See `ExchangeStore.add_entry`."""
        with transaction(self._connection):
            return add_entry(self._connection, exchange_id, key, kind)

    def pin(self, key: bytes, *, pinned: bool) -> None:
        """See `ExchangeStore.pin`."""
        with transaction(self._connection):
            pin(self._connection, key, pinned=pinned)

    def _note(self, positions: Sequence[JournalPosition]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO positions (journal, segment, offset) VALUES (?, ?, ?)",
            [(position.journal, position.segment, position.offset) for position in positions],
        )

    def _add_exchanges(self, exchanges: Sequence[Exchange]) -> int:
        self._drop_stale_parts()
        batch = Batch(self._connection.execute("SELECT next_number FROM state").get)
        seen: set[bytes] = set()
        for exchange in exchanges:
            key = exchange.id.bytes
            if key not in seen and not self._has(key):
                seen.add(key)
                self._gather(exchange, batch)
        batch.write(self._connection)
        return len(seen)

    def _has(self, key: bytes) -> bool:
        return self._connection.execute("SELECT 1 FROM exchanges WHERE id = ?", (key,)).get is not None

    def _drop_stale_parts(self) -> None:
        """Another process may have pruned: `data_version` changes when any other connection commits."""
        version: int = self._connection.pragma("data_version")
        if version != self._data_version or len(self._known_parts) > MOST_KNOWN_PARTS:
            self._known_parts.clear()
            self._data_version = version

    def _gather(self, exchange: Exchange, batch: Batch) -> None:
        sequence = batch.take_number()

        def intern(digest: bytes, data: bytes, text: str) -> int:
            number = self._known_parts.get(digest)
            if number is None:
                number = self._find_part(digest) or self._new_part(digest, data, text, sequence, batch)
                self._known_parts[digest] = number
            return number

        cut = dissect(exchange, intern)
        codec = self._codec
        facet = self._facets.intern(self._connection, Facet.of(exchange))
        row = _exchange_row(sequence, exchange, facet)
        parent = None if exchange.parent is None else exchange.parent.bytes
        batch.exchanges.append(row)
        batch.details.append(
            (
                sequence,
                clean(exchange.target),
                clean(exchange.client_address),
                parent,
                *preview(exchange),
                codec.pack(cut.record),
                codec.pack(cut.response),
            )
        )
        batch.uses.append((sequence, pack_numbers(cut.parts, codec)))
        _add_words(batch, sequence, own_text(exchange))
        _add_marks(batch, sequence, exchange)
        is_served = exchange.cache is not None and exchange.cache.served
        batch.rollups.count(
            exchange.started_ns, facet, measure_of(exchange), is_error=exchange.is_error, is_served=is_served
        )
        batch.entries.gather(exchange, sequence, facet)
        batch.body_bytes += row[4] + row[5]

    def _find_part(self, digest: bytes) -> int | None:
        number: int | None = self._connection.execute("SELECT id FROM parts WHERE digest = ?", (digest,)).get
        return number

    def _new_part(self, digest: bytes, data: bytes, text: str, owner: int, batch: Batch) -> int:
        number = batch.take_number()
        batch.parts.append((number, digest, owner, len(data), self._codec.pack_part(data, text)))
        _add_words(batch, number, clean(text))
        return number


def _add_words(batch: Batch, number: int, text: str) -> None:
    if text:
        batch.words.append((number, indexable(text)))


def _add_marks(batch: Batch, sequence: int, exchange: Exchange) -> None:
    if exchange.chain:
        mark = chain_mark(exchange.chain[-1], exchange.credential or "")
        batch.marks.append((mark, exchange.started_ns, sequence))
    if exchange.response_id:
        batch.marks.append((response_mark(exchange.response_id), exchange.started_ns, sequence))


def _exchange_row(sequence: int, exchange: Exchange, facet: int) -> tuple[Any, ...]:
    *tokens, price, request_bytes, response_bytes, duration_us, ttft_us, saved_nanousd, saved_us = measure_of(exchange)
    return (
        sequence,
        exchange.id.bytes,
        exchange.started_ns,
        facet,
        request_bytes,
        response_bytes,
        0 if exchange.response is None else len(exchange.response.chunks),
        exchange.timing.first_byte_us,
        ttft_us,
        duration_us,
        *tokens,
        price,
        None if exchange.finish_reason is None else clean(exchange.finish_reason),
        None if exchange.conversation is None else exchange.conversation.bytes,
        saved_nanousd,
        saved_us,
    )
