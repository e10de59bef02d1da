"""Entries of the cache as they are read: one by its key with the answer to serve, or many for people to look at.

A lookup reads the answer alone: of the parts that an exchange uses it fetches those of the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

import apsw
import msgspec

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.stores.base import CachedAnswer, CacheEntry, CacheStats, EntryPage, EntryQuery
from gemini_caching_proxy.stores.codec import Codec, unpack_numbers
from gemini_caching_proxy.stores.records import Dissected, FetchPart, restore_response

from .connection import Value, fetch_all, fetch_one
from .facets import Facets
from .filters import Filter
from .summaries import uuid_of

MOST_KNOWN_HEADERS = 1000
"""Header templates that one reader remembers: a part never changes under its number, and few serve many answers."""
_COLUMNS = (
    "n.key, e.id, n.facet, n.kind, n.stored_ns, e.conversation, n.size, n.pinned, n.hits, n.last_hit_ns,"
    " n.saved_nanousd, n.saved_us"
)
_ENTRY = f"SELECT {_COLUMNS} FROM entries n JOIN exchanges e ON e.sequence = n.sequence WHERE n.key = ?"  # noqa: S608
_ANSWER = (
    f"SELECT {_COLUMNS}, e.ttfb_us, e.duration_us, d.record, d.response, u.parts"  # noqa: S608
    " FROM entries n CROSS JOIN exchanges e ON e.sequence = n.sequence CROSS JOIN details d ON d.sequence = n.sequence"
    " CROSS JOIN uses u ON u.sequence = n.sequence WHERE n.key = ?"
)
_CURSOR = re.compile("e[.]([0-9a-f]{1,16})[.]((?:[0-9a-f]{2})*)")
_TOP = 2**63 - 1
_END = b"\xff" * 64
"""Behind every key that starts with what stands before it."""


class Answers:
    """Answers what is asked about the cache, on one connection; all but `has` in the running transaction."""

    def __init__(self, connection: apsw.Connection, facets: Facets, codec: Codec, part: FetchPart) -> None:
        self._connection = connection
        self._facets = facets
        self._codec = codec
        self._part = part
        self._headers: dict[int, tuple[bytes, bytes, str]] = {}

    def has(self, key: bytes) -> bool:
        """Whether there is an entry: what most lookups end with, so it needs no transaction around it."""
        return self._connection.execute("SELECT 1 FROM entries WHERE key = ?", (key,)).get is not None

    def find(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        """See `ExchangeStore.find_cached`."""
        for key in keys:
            row = fetch_one(self._connection, _ANSWER, (key,))
            if row is not None:
                return self._answer(row)
        return None

    def _answer(self, row: tuple[Any, ...]) -> CachedAnswer:
        *columns, first_byte_us, duration_us, record, response, uses = row
        parts = list(unpack_numbers(uses, self._codec))
        cut = Dissected(parts, self._codec.unpack(record), self._codec.unpack(response))
        headers = parts[1]

        def fetch(number: int) -> tuple[bytes, bytes, str]:
            return self._template(number) if number == headers else self._part(number)

        entry = self._entry(columns)
        shape = self._facets[columns[2]].stream_shape
        return CachedAnswer(entry, restore_response(cut, fetch), shape, first_byte_us, duration_us)  # type: ignore[arg-type]

    def _template(self, number: int) -> tuple[bytes, bytes, str]:
        known = self._headers.get(number)
        if known is None:
            if len(self._headers) >= MOST_KNOWN_HEADERS:
                self._headers.clear()
            known = self._headers[number] = self._part(number)
        return known

    def _entry(self, row: Sequence[Any]) -> CacheEntry:
        key, exchange, number, kind, stored_ns, conversation, size, pinned, *counters = row
        hits, last_hit_ns, saved_nanousd, saved_us = counters
        facet = self._facets[number]
        return CacheEntry(
            key=key,
            exchange=UUID(bytes=exchange),
            kind=kind,
            stored_ns=stored_ns,
            provider=facet.provider,
            operation=facet.operation,
            model=facet.model,
            credential=facet.credential,
            conversation=uuid_of(conversation),
            size=size,
            pinned=bool(pinned),
            hits=hits,
            last_hit_ns=last_hit_ns,
            saved_nanousd=saved_nanousd,
            saved_us=saved_us,
        )

    def page(self, query: EntryQuery, limit: int, cursor: str | None) -> EntryPage:
        """See `ExchangeStore.entries`."""
        sql, parameters = page_statement(query, self._facets.matching_entries(query), cursor, limit + 1)
        found = fetch_all(self._connection, sql, parameters)
        rows = [fetch_one(self._connection, _ENTRY, (key,)) for _, key in found[:limit]]
        following = None
        if len(found) > limit:
            stored_ns, key = found[limit - 1]
            following = f"e.{stored_ns:x}.{key.hex()}"
        return EntryPage(tuple(map(self._entry, rows)), following)

    def resolve(self, prefix: str) -> CacheEntry:
        """See `ExchangeStore.resolve_entry`."""
        digits = prefix.replace("-", "").lower()
        if not digits or any(digit not in "0123456789abcdef" for digit in digits):
            raise NotFound(f"{prefix!r} is no part of a key or of an exchange's id: hex digits are.")
        found = self._keys_starting_with(digits)
        if not found and len(digits) <= 32:
            found = self._of_exchanges_starting_with(digits) or self._of_exchanges_ending_in(digits)
        if len(found) != 1:
            how_many = "No entry has" if not found else "More than one entry has"
            raise NotFound(f"{how_many} a key, or an exchange, that is named by {prefix}.")
        return self._entry(fetch_one(self._connection, _ENTRY, (found[0],)))

    def _keys_starting_with(self, digits: str) -> list[bytes]:
        odd = len(digits) % 2
        first, last = bytes.fromhex(digits + "0" * odd), bytes.fromhex(digits + "f" * odd) + _END
        return self._keys("SELECT key FROM entries WHERE key BETWEEN ? AND ? LIMIT 2", (first, last))

    def _of_exchanges_starting_with(self, digits: str) -> list[bytes]:
        first, last = bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f"))
        return self._keys(
            "SELECT n.key FROM exchanges e CROSS JOIN entries n ON n.sequence = e.sequence WHERE e.id BETWEEN ? AND ?"
            " LIMIT 2",
            (first, last),
        )

    def _of_exchanges_ending_in(self, digits: str) -> list[bytes]:
        # Walks the index of ids. Whole bytes are compared in SQL; an odd digit in front is checked here.
        whole = len(digits) // 2
        rows = self._connection.execute(
            "SELECT e.id, n.key FROM exchanges e INDEXED BY exchanges_by_id CROSS JOIN entries n"
            " ON n.sequence = e.sequence WHERE substr(e.id, ?) = ?",
            (17 - whole, bytes.fromhex(digits[len(digits) - 2 * whole :])),
        )
        return list(islice((key for exchange, key in rows if exchange.hex().endswith(digits)), 2))

    def _keys(self, sql: str, parameters: Sequence[Value]) -> list[bytes]:
        return [key for (key,) in fetch_all(self._connection, sql, parameters)]

    def stats(self) -> CacheStats:
        """See `ExchangeStore.cache_stats`."""
        sums = fetch_one(
            self._connection,
            "SELECT entries, errors, pinned, answer_bytes, hits, saved_nanousd, saved_us,"
            " (SELECT min(stored_ns) FROM entries) FROM entry_sums",
        )
        return CacheStats(*sums)

    def part_owners(self, digests: Iterable[bytes], limit: int) -> tuple[UUID, ...]:
        """See `ExchangeStore.part_owners`."""
        owners: set[tuple[int, int, bytes]] = set()
        for digest in digests:
            owners.update(
                fetch_all(
                    self._connection,
                    "SELECT e.started_ns, e.sequence, e.id FROM parts p JOIN exchanges e ON e.sequence = p.owner"
                    " WHERE p.digest = ?",
                    (digest,),
                )
            )
        return tuple(UUID(bytes=key) for _, _, key in sorted(owners, reverse=True)[:limit])


def _parse_cursor(cursor: str | None) -> tuple[int, bytes]:
    if cursor is None:
        return _TOP, _END
    found = _CURSOR.fullmatch(cursor)
    if found is None or int(found[1], 16) > _TOP:
        raise ValueError(f"{cursor!r} is no cursor for entries.")
    return int(found[1], 16), bytes.fromhex(found[2])


def page_statement(
    query: EntryQuery, facets: Sequence[int] | None, cursor: str | None, limit: int
) -> tuple[str, tuple[Value, ...]]:
    """SQL, and its parameters, for when and under which keys the entries of a page are stored.

    Keys alone: the index by time holds all that most choices ask for, so only its pages are read.
    """
    before = _parse_cursor(cursor)
    if query.stored_before_ns is not None:
        before = min(before, (query.stored_before_ns, b""))
    chosen = entry_conditions(query, facets)
    sql = (
        f"SELECT n.stored_ns, n.key FROM entries n WHERE {chosen.sql} AND (n.stored_ns, n.key) < (?, ?)"  # noqa: S608
        " ORDER BY n.stored_ns DESC, n.key DESC LIMIT ?"
    )
    return sql, (*chosen.parameters, *before, limit)


def entry_conditions(query: EntryQuery, facets: Sequence[int] | None) -> Filter:
    """All of a choice as SQL conditions over `entries n`; `facets` are those that its other fields allow."""
    found: list[tuple[str, int | bytes | str]] = []
    fixed = [] if query.pinned is None else ["n.pinned" if query.pinned else "NOT n.pinned"]
    if query.key is not None:
        found.append(("n.key = ?", query.key))
    if query.exchange is not None:
        found.append(("n.sequence = (SELECT sequence FROM exchanges WHERE id = ?)", query.exchange.bytes))
    if query.conversation is not None:
        found.append(
            ("n.sequence IN (SELECT sequence FROM exchanges WHERE conversation = ?)", query.conversation.bytes)
        )
    if query.kind is not None:
        found.append(("n.kind = ?", query.kind))
    if query.stored_before_ns is not None:
        found.append(("+n.stored_ns < ?", query.stored_before_ns))
    if query.larger_than is not None:
        found.append(("n.size > ?", query.larger_than))
    if facets is not None:
        found.append(("+n.facet IN (SELECT value FROM json_each(?))", msgspec.json.encode(facets).decode()))
    sql = " AND ".join([*(condition for condition, _ in found), *fixed])
    return Filter(sql or "1", tuple(value for _, value in found))
