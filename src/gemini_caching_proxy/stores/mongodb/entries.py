"""Entries of the cache as they are written: settled with their exchanges, counted with their hits, made anew, pinned.

Each step decides on the server, in one update of one entry, so whoever else changes it at that moment is before or
after. An entry knows the sequence numbers of the last exchange that wanted its place (`through`) and of the last that
hit it (`counted`): settling a range again changes nothing, but that an entry evicted in between may come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from bson import Int64
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.exchange import EntryKind, Verdict
from gemini_caching_proxy.stores.facets import INT64_MAX, bounded

from . import state
from .connection import Database, Document, only_duplicates
from .schema import CACHE, INTERACTIONS

FIELDS: Final = (
    *("sequence", "started_ns", "timing.duration_us", "response.bytes", "failure", "facet", "provider", "operation"),
    *("model", "credential", "conversation", "entry", "cache.verdict", "cache.key", "cache.source"),
    *("cache.saved_nanousd", "cache.saved_us"),
)
"""What is read of an exchange's document."""
_COPIED: Final = ("facet", "provider", "operation", "model", "credential", "conversation")
_SERVED: Final = (Verdict.HIT.value, Verdict.COLLAPSED.value)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def settle(database: Database, documents: Sequence[Document]) -> None:
    """Make the entries of some exchanges, in order of sequence, and count their hits."""
    wanting = [each for each in documents if "entry" in each and "failure" not in each]
    contested = await _make_new(database, wanting)
    if contested:
        await database[CACHE].bulk_write(made_operations(contested))
    await _count_hits(database, documents)


async def _make_new(database: Database, documents: Sequence[Document]) -> list[Document]:
    """Make the entries whose keys have none; the other exchanges, in order.

    Most keys are new, and an insertion costs a tenth of a decision on the server.
    """
    first: dict[bytes, Document] = {}
    for document in documents:
        first.setdefault(document["entry"]["key"], document)
    taken: set[bytes] = set()
    try:
        if first:
            await database[CACHE].insert_many([_first_entry(each) for each in first.values()], ordered=False)
    except BulkWriteError as error:
        only_duplicates(error)
        keys = list(first)
        taken = {keys[fault["index"]] for fault in error.details["writeErrors"]}
    return [each for each in documents if each["entry"]["key"] in taken or first[each["entry"]["key"]] is not each]


def _first_entry(document: Document) -> Document:
    entry = _entry(document, document["entry"]["kind"])
    return {"_id": document["entry"]["key"], "through": entry["sequence"], "counted": Int64(0), **entry}


def made_operations(documents: Iterable[Document]) -> list[UpdateOne]:
    """What makes the entries of these exchanges, each of which wants one; to be done in this order."""
    return [
        UpdateOne(
            {"_id": document["entry"]["key"]},
            _making(document, document["entry"]["kind"], settles=True),
            upsert=True,
        )
        for document in documents
    ]


def _making(document: Document, kind: EntryKind, *, settles: bool) -> list[Document]:
    """An update that makes an exchange's entry by the rule of `CacheEntry`.

    `settles`: the exchange's own entry is made, which happens once; otherwise one is made by hand.
    """
    new = _entry(document, kind)
    sequence = new["sequence"]
    through = {"$ifNull": ["$through", Int64(0)]}
    is_new = {"$eq": [{"$type": "$exchange"}, "missing"]}
    is_same = {"$eq": ["$exchange", new["exchange"]]}
    may: list[Any] = [{"$not": ["$pinned"]}, {"$not": [is_same]}, _is_better(kind, new["stored_ns"])]
    wins: Document = {"$or": [is_new, {"$and": may}]}
    if settles:
        wins = {"$and": [{"$lt": [through, sequence]}, wins]}
        through = {"$max": [through, sequence]}
    kept: Document = {"through": through, "counted": {"$ifNull": ["$counted", Int64(0)]}}
    if not settles:
        # Made again for the exchange that it has already, an entry keeps its counters.
        same_kind = {"$cond": [{"$and": [is_same, {"$not": ["$pinned"]}]}, {"$literal": kind}, "$kind"]}
        kept["kind"] = {"$cond": [is_new, "$$REMOVE", same_kind]}
    return [
        {"$set": {**kept, "wins": wins}},
        {
            "$replaceWith": {
                "$cond": [
                    "$wins",
                    # What the new one lacks (a model, a last hit) must not stay of the old one.
                    {"$mergeObjects": [_KEPT, {"$literal": new}]},
                    "$$ROOT",
                ]
            }
        },
        {"$unset": "wins"},
    ]


_KEPT: Final[Document] = {name: f"${name}" for name in ("_id", "through", "counted")}


def _is_better(kind: EntryKind, stored_ns: int) -> Document:
    """Of two that ended at once, the later taken in counts as the newer."""
    is_newer = {"$lte": ["$stored_ns", stored_ns]}
    return {"$cond": [{"$eq": ["$kind", {"$literal": kind}]}, is_newer, {"$eq": ["$kind", "error"]}]}


def _entry(document: Document, kind: EntryKind) -> Document:
    """An exchange's entry, unused, without its key."""
    stored_ns = _ended_ns(document)
    entry: Document = {"exchange": document["_id"], "sequence": Int64(document["sequence"]), "kind": kind}
    entry |= {name: document[name] for name in _COPIED if name in document}
    return entry | {
        "stored": _date(stored_ns),
        "stored_ns": Int64(stored_ns),
        "size": Int64(document.get("response", {}).get("bytes", 0)),
        "pinned": False,
        "hits": Int64(0),
        "used_ns": Int64(stored_ns),
        "saved_nanousd": Int64(0),
        "saved_us": Int64(0),
    }


def _ended_ns(document: Document) -> int:
    duration_us = document.get("timing", {}).get("duration_us", 0)
    return bounded(document["started_ns"] + duration_us * 1000, INT64_MAX) or 0


def _date(nanoseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=nanoseconds // 1_000_000)
    except OverflowError:
        return _EPOCH


# Hits.


@dataclass(slots=True)
class _Hits:
    """Of one entry, in some exchanges."""

    hits: int = 0
    saved_nanousd: int = 0
    saved_us: int = 0
    last_hit_ns: int = -INT64_MAX
    counted: int = 0

    def count(self, document: Document) -> None:
        use = document["cache"]
        self.hits += 1
        self.saved_nanousd += use.get("saved_nanousd", 0)
        self.saved_us += use.get("saved_us", 0)
        self.last_hit_ns = max(self.last_hit_ns, document["started_ns"])
        self.counted = max(self.counted, document["sequence"])

    def operation(self, key: bytes, source: UUID) -> UpdateOne:
        summed = {name: Int64(getattr(self, name)) for name in ("hits", "saved_nanousd", "saved_us")}
        last = Int64(self.last_hit_ns)
        return UpdateOne(
            {"_id": key, "exchange": source, "counted": {"$lt": Int64(self.counted)}},
            {
                "$inc": summed,
                "$max": {"last_hit_ns": last, "used_ns": last},
                "$set": {"counted": Int64(self.counted)},
            },
        )


async def _count_hits(database: Database, documents: Iterable[Document]) -> None:
    """Count a hit for the entry whose exchange a served one names as its source.

    An exchange may have entries under several keys: the hit is the one's that was asked for, else the lowest's.
    """
    served = [each for each in documents if _is_served(each)]
    if not served:
        return
    keys = await _keys_of(database, {document["cache"]["source"] for document in served})
    found: dict[tuple[bytes, UUID], _Hits] = {}
    for document in served:
        use = document["cache"]
        known = keys.get(use["source"])
        if known:
            key = use["key"] if use.get("key") in known else min(known)
            found.setdefault((key, use["source"]), _Hits()).count(document)
    if found:
        await database[CACHE].bulk_write(
            [hits.operation(key, source) for (key, source), hits in found.items()], ordered=False
        )


def _is_served(document: Document) -> bool:
    use = document.get("cache", {})
    return use.get("verdict") in _SERVED and "source" in use


async def _keys_of(database: Database, exchanges: set[UUID]) -> dict[UUID, set[bytes]]:
    keys: dict[UUID, set[bytes]] = {}
    async for entry in database[CACHE].find({"exchange": {"$in": list(exchanges)}}, {"exchange": 1}):
        keys.setdefault(entry["exchange"], set()).add(entry["_id"])
    return keys


# By hand.


async def add_entry(database: Database, exchange_id: UUID, key: bytes, kind: EntryKind) -> bool:
    """See `ExchangeStore.add_entry`."""
    document = await database[INTERACTIONS].find_one({"_id": exchange_id}, FIELDS)
    if document is None:
        raise NotFound(f"No exchange has the id {exchange_id}.")
    if "failure" in document:
        return False
    made = await _make(database, key, _making(document, kind, settles=False))
    if made["exchange"] != exchange_id:
        return False
    # A prune may have deleted the exchange since, and its entries before this one was there.
    if await database[INTERACTIONS].find_one({"_id": exchange_id}, {"_id": 1}) is None:
        await database[CACHE].delete_one({"_id": key, "exchange": exchange_id})
        raise NotFound(f"No exchange has the id {exchange_id}.")
    await changed(database)
    return True


async def _make(database: Database, key: bytes, update: list[Document]) -> Document:
    """The entry as it is after the update."""
    entries = database[CACHE]
    after = ReturnDocument.AFTER
    try:
        made = await entries.find_one_and_update({"_id": key}, update, upsert=True, return_document=after)
    except DuplicateKeyError:  # somebody made it at the same moment
        made = await entries.find_one_and_update({"_id": key}, update, upsert=True, return_document=after)
    assert made is not None, "it is upserted"
    return made


async def pin(database: Database, key: bytes, *, pinned: bool) -> None:
    """See `ExchangeStore.pin`."""
    done = await database[CACHE].update_one({"_id": key}, {"$set": {"pinned": pinned}})
    if not done.matched_count:
        raise NotFound(f"No entry has the key {key.hex()}.")
    await changed(database)


async def changed(database: Database) -> None:
    """Say that entries changed otherwise than by exchanges that came in."""
    await state.change(database, {"$inc": {"cache_changes": Int64(1)}})
