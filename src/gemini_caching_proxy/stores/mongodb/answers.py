"""Entries of the cache as they are read: one by its key with the answer to serve, or many for people to look at.

A lookup reads the answer alone: the exchange's document without the request's text and parts, then the answer's parts.
An entry whose exchange is gone, which a prune that died may leave for a while, is no entry when something is to be
served.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from pymongo import DESCENDING

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.stores.base import CachedAnswer, CacheEntry, CacheStats, EntryPage, EntryQuery
from gemini_caching_proxy.stores.codec import Codec
from gemini_caching_proxy.stores.facets import INT64_MAX, bounded

from . import state
from .connection import Database, Document
from .documents import answer_references_of, restored_response
from .facets import Facets
from .parts import PartReader
from .reader import ids_ending_in, uuid_range
from .schema import CACHE, INTERACTIONS, PARTS

MOST_KNOWN_HEADERS: Final = 1000
"""Header templates that one reader remembers: what a digest stands for never changes, and few serve many answers."""
_ANSWER: Final = dict.fromkeys(
    ("request", "response.chunks", "preview", "usage", "price", "marks", "parts.request", "parts.chain"), 0
)
_NEWEST: Final = [("stored_ns", DESCENDING), ("_id", DESCENDING)]
_CURSOR: Final = re.compile("e[.]([0-9a-f]{1,16})[.]((?:[0-9a-f]{2})*)")

Stamp = tuple[int, int]
"""Settled up to, changes by hand: as long as both are the same, so are all entries."""


class Answers:
    """Answers what is asked about the cache."""

    def __init__(self, database: Database, facets: Facets) -> None:
        self._database = database
        self._entries = database[CACHE]
        self._facets = facets
        self._parts = PartReader(database)
        self._codec = Codec()
        self._headers: dict[bytes, Document] = {}
        self._known_stats: tuple[Stamp, CacheStats] | None = None

    def __repr__(self) -> str:
        return f"<Answers headers={len(self._headers)}>"

    # One, to be served.

    async def find(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        """See `ExchangeStore.find_cached`."""
        if not keys:
            return None
        found = {entry["_id"]: entry async for entry in self._entries.find({"_id": {"$in": list(keys)}})}
        for key in keys:
            if key in found:
                answer = await self._answer(found[key])
                if answer is not None:
                    return answer
        return None

    async def _answer(self, entry: Document) -> CachedAnswer | None:
        interactions = self._database[INTERACTIONS]
        document = await interactions.find_one({"_id": entry["exchange"]}, _ANSWER)
        if document is None:
            return None
        parts = await self._fetch(document)
        try:
            response = restored_response(document, parts, self._parts, self._codec)
        except KeyError:
            # Pruned between the two readings; otherwise a part is missing, which must not go unseen.
            if await interactions.find_one({"_id": entry["exchange"]}, {"_id": 1}) is None:
                return None
            raise
        timing = document["timing"]
        return CachedAnswer(
            entry_of(entry),
            response,
            document["stream_shape"],
            _plain(timing.get("ttfb_us")),
            _plain(timing.get("duration_us")),
        )

    async def _fetch(self, document: Document) -> Mapping[bytes, Document]:
        headers, *others = answer_references_of(document)
        known = self._headers.get(headers)
        if known is not None:
            return {headers: known, **(await self._parts.fetch(others) if others else {})}
        parts = await self._parts.fetch([headers, *others])
        if headers in parts:
            if len(self._headers) >= MOST_KNOWN_HEADERS:
                self._headers.clear()
            self._headers[headers] = parts[headers]
        return parts

    # Many, to be looked at.

    async def page(self, query: EntryQuery, limit: int, cursor: str | None) -> EntryPage:
        """See `ExchangeStore.entries`."""
        after = {} if cursor is None else _after(*_parse_cursor(cursor))
        conditions = {"$and": [await chosen(self._database, self._facets, query), after]}
        found = await self._entries.find(conditions, sort=_NEWEST, limit=limit + 1).to_list()
        following = None
        if len(found) > limit:
            last = found[limit - 1]
            following = f"e.{last['stored_ns']:x}.{last['_id'].hex()}"
        return EntryPage(tuple(map(entry_of, found[:limit])), following)

    async def resolve(self, prefix: str) -> CacheEntry:
        """See `ExchangeStore.resolve_entry`."""
        digits = prefix.replace("-", "").lower()
        if not digits or any(digit not in "0123456789abcdef" for digit in digits):
            raise NotFound(f"{prefix!r} is no part of a key or of an exchange's id: hex digits are.")
        found = await self._keyed(digits)
        if not found and len(digits) <= 32:
            found = await self._two({"exchange": uuid_range(digits)}) or await self._of_exchange_ending_in(digits)
        if len(found) != 1:
            how_many = "No entry has" if not found else "More than one entry has"
            raise NotFound(f"{how_many} a key, or an exchange, that is named by {prefix}.")
        return entry_of(found[0])

    async def _keyed(self, digits: str) -> list[Document]:
        """At most two whose key starts with these. Binary values are in order of length first."""
        found: list[Document] = []
        length = len(digits) // 2 + len(digits) % 2
        while len(found) < 2:
            first, last = (bytes.fromhex(digits.ljust(2 * length, filling)) for filling in "0f")
            found += await self._two({"_id": {"$gte": first, "$lte": last}})
            longer = await self._entries.find_one({"_id": {"$gt": b"\xff" * length}}, {"_id": 1}, sort=[("_id", 1)])
            if longer is None:
                break
            length = len(longer["_id"])
        return found[:2]

    async def _two(self, condition: Document) -> list[Document]:
        return await self._entries.find(condition, limit=2).to_list()

    async def _of_exchange_ending_in(self, digits: str) -> list[Document]:
        exchanges = await ids_ending_in(self._database, CACHE, digits, field="exchange")
        return await self._two({"exchange": {"$in": exchanges}}) if exchanges else []

    async def part_owners(self, digests: Sequence[bytes], limit: int) -> tuple[UUID, ...]:
        """See `ExchangeStore.part_owners`."""
        parts = self._database[PARTS].find({"_id": {"$in": list(set(digests))}}, {"owner": 1})
        owners = {part["owner"] async for part in parts}
        if not owners or limit < 1:
            return ()
        cursor = self._database[INTERACTIONS].find(
            {"_id": {"$in": list(owners)}},
            {"_id": 1},
            sort=[("started_ns", DESCENDING), ("sequence", DESCENDING)],
            limit=limit,
        )
        return tuple([document["_id"] async for document in cursor])

    # All.

    async def stats(self) -> CacheStats:
        """See `ExchangeStore.cache_stats`. Goes through an index of all entries, unless nothing changed since."""
        before = await self._stamp()
        if self._known_stats is not None and self._known_stats[0] == before:
            return self._known_stats[1]
        stats = await self._sum_up()
        if before is not None and await self._stamp() == before:
            self._known_stats = before, stats
        return stats

    async def _stamp(self) -> Stamp | None:
        """None while entries are being settled."""
        seen = await state.look(self._database)
        return None if seen.settling != seen.settled else (seen.settled, seen.cache_changes)

    async def _sum_up(self) -> CacheStats:
        sizes, hits, errors, pinned, first = await asyncio.gather(
            sum_of_sizes(self._database),
            self._hits(),
            self._entries.count_documents({"kind": "error"}, hint="errors"),
            self._entries.count_documents({"pinned": True}, hint="pinned"),
            self._entries.find_one({}, {"_id": 0, "stored_ns": 1}, sort=[("stored_ns", 1), ("_id", 1)]),
        )
        oldest_ns = None if first is None else int(first["stored_ns"])
        return CacheStats(sizes[0], errors, pinned, sizes[1], *hits, oldest_ns)

    async def _hits(self) -> tuple[int, int, int]:
        """How many, and the money and time they saved."""
        names = ("hits", "saved_nanousd", "saved_us")
        sums: Document = {"_id": None, **{name: {"$sum": f"${name}"} for name in names}}
        cursor = await self._entries.aggregate([{"$match": {"hits": {"$gt": 0}}}, {"$group": sums}], hint="hits")
        async for row in cursor:
            return int(row["hits"]), int(row["saved_nanousd"]), int(row["saved_us"])
        return 0, 0, 0


async def sum_of_sizes(database: Database) -> tuple[int, int]:
    """How many entries there are, and the bytes of their answers."""
    sums = {"_id": None, "entries": {"$sum": 1}, "bytes": {"$sum": "$size"}}
    async for row in await database[CACHE].aggregate([{"$group": sums}], hint="size"):
        return int(row["entries"]), int(row["bytes"])
    return 0, 0


async def chosen(database: Database, facets: Facets, query: EntryQuery) -> Document:
    """A choice of entries as a condition."""
    found: dict[str, Any] = {}
    values = {
        "_id": query.key,
        "exchange": query.exchange,
        "conversation": query.conversation,
        "kind": query.kind,
        "pinned": query.pinned,
    }
    found |= {name: {"$eq": value} for name, value in values.items() if value is not None}
    if query.stored_before_ns is not None:
        found["stored_ns"] = {"$lt": bounded(query.stored_before_ns, INT64_MAX)}
    if query.larger_than is not None:
        found["size"] = {"$gt": bounded(query.larger_than, INT64_MAX)}
    if facets.matching_entries(query) is not None:
        await facets.refresh((await state.look(database)).horizon)
        found["facet"] = {"$in": list(facets.matching_entries(query) or ())}
    return found


def entry_of(document: Document) -> CacheEntry:
    """The entry that a document is."""
    return CacheEntry(
        key=document["_id"],
        exchange=document["exchange"],
        kind=document["kind"],
        stored_ns=int(document["stored_ns"]),
        provider=document["provider"],
        operation=document["operation"],
        model=document.get("model"),
        credential=document.get("credential"),
        conversation=document.get("conversation"),
        size=int(document["size"]),
        pinned=document["pinned"],
        hits=int(document["hits"]),
        last_hit_ns=_plain(document.get("last_hit_ns")),
        saved_nanousd=int(document["saved_nanousd"]),
        saved_us=int(document["saved_us"]),
    )


def _plain(value: int | None) -> int | None:
    """Without the library's own type of integer."""
    return None if value is None else int(value)


def _parse_cursor(cursor: str) -> tuple[int, bytes]:
    found = _CURSOR.fullmatch(cursor)
    if found is None or int(found[1], 16) > INT64_MAX:
        raise ValueError(f"{cursor!r} is no cursor for entries.")
    return int(found[1], 16), bytes.fromhex(found[2])


def _after(stored_ns: int, key: bytes) -> Document:
    """What comes after an entry, newest first."""
    return {"$or": [{"stored_ns": {"$lt": stored_ns}}, {"stored_ns": stored_ns, "_id": {"$lt": key}}]}
