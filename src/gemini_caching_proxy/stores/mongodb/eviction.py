"""Forgetting entries, beside everybody who makes and hits them, in short steps. The exchanges stay.

Entries are chosen first and looked at again when they are deleted: one that was replaced, pinned or used meanwhile is
another one.
"""

from __future__ import annotations

from typing import Final

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
        evicted = 0
        keys: list[bytes] = []
        # One walk through all of them: asked anew after each step, the server would go through what was deleted.
        async for entry in self._entries.find(condition, {"_id": 1}, batch_size=AT_ONCE):
            keys.append(entry["_id"])
            if len(keys) == AT_ONCE:
                evicted += await self._delete(keys, condition)
                keys = []
        return evicted + await self._delete(keys, condition)

    async def _delete(self, keys: list[bytes], condition: Document) -> int:
        """Delete those that are still so; how many."""
        if not keys:
            return 0
        done = await self._entries.delete_many({"$and": [{"_id": {"$in": keys}}, condition]})
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
            still = {"pinned": False, "used_ns": {"$lte": unused[-1]["used_ns"]}}
            deleted = await self._delete([each["_id"] for each in unused], still)
            evicted += deleted
            size -= sum(each["size"] for each in unused)
            if deleted < len(unused) or size <= answer_bytes:
                # Others make, use and forget entries at the same time.
                _, size = await sum_of_sizes(self._database)
        return evicted

    async def _longest_unused(self) -> list[Document]:
        return await self._entries.find(
            {"pinned": False},
            {"used_ns": 1, "size": 1},
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
