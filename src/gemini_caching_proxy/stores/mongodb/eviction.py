"""Forgetting entries, beside everybody who makes and hits them, in short steps. The exchanges stay.

Entries are chosen first and looked at again when they are deleted: one that was replaced, pinned or used meanwhile is
another one.
"""

from __future__ import annotations

from typing import Final

from pymongo import DeleteOne

from gemini_caching_proxy.stores.base import EntryQuery

from . import entries
from .answers import chosen, sum_of_sizes
from .connection import Database, Document
from .facets import Facets
from .schema import CACHE

AT_ONCE: Final = 500
"""Entries that one step deletes."""


class Eviction:
    """Forgets entries."""

    def __init__(self, database: Database, facets: Facets) -> None:
        self._database = database
        self._entries = database[CACHE]
        self._facets = facets

    def __repr__(self) -> str:
        return f"<Eviction {self._database.name}>"

    async def run(self, query: EntryQuery) -> int:
        """See `ExchangeStore.evict`."""
        condition = await chosen(self._database, self._facets, query)
        named = query.key is not None or query.exchange is not None or query.pinned is not None
        if not named:
            condition["pinned"] = {"$eq": False}
        last: Document = {}
        evicted = 0
        while found := await self._next(condition, last):
            last = {"_id": {"$gt": found[-1]["_id"]}}
            evicted += await self._delete(
                [
                    DeleteOne({"_id": each["_id"], "exchange": each["exchange"], "pinned": each["pinned"]})
                    for each in found
                ]
            )
        return evicted

    async def _next(self, condition: Document, last: Document) -> list[Document]:
        fields = {"exchange": 1, "pinned": 1}
        return await self._entries.find({"$and": [condition, last]}, fields, sort=[("_id", 1)], limit=AT_ONCE).to_list()

    async def _delete(self, operations: list[DeleteOne]) -> int:
        done = await self._entries.bulk_write(operations, ordered=False)
        if done.deleted_count:
            await entries.changed(self._database)
        return done.deleted_count

    async def shrink_to(self, answer_bytes: int) -> int:
        """See `ExchangeStore.evict_to`."""
        evicted = 0
        _, size = await sum_of_sizes(self._database)
        while size > answer_bytes:
            unused = _fewest(await self._longest_unused(), size - answer_bytes)
            if not unused:
                break
            deleted = await self._delete([DeleteOne({**each, "pinned": False}) for each in unused])
            evicted += deleted
            size -= sum(each["size"] for each in unused)
            if deleted < len(unused) or size <= answer_bytes:
                # Others make, use and forget entries at the same time.
                _, size = await sum_of_sizes(self._database)
        return evicted

    async def _longest_unused(self) -> list[Document]:
        return await self._entries.find(
            {"pinned": False},
            {"exchange": 1, "hits": 1, "size": 1},
            sort=[("used_ns", 1), ("_id", 1)],
            hint="used",
            limit=AT_ONCE,
        ).to_list()


def _fewest(unused: list[Document], too_much: int) -> list[Document]:
    """The first of them that must go, until that many bytes are gone."""
    for number, each in enumerate(unused, 1):
        too_much -= each["size"]
        if too_much <= 0:
            return unused[:number]
    return unused
