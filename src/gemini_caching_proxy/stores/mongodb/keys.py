"""Finding exchanges through indexes alone: which ones, and in which order; no document is read.

The index of times gives them newest first. With a few facets the server merges what each has, so a rare facet is found
as fast as a common one. Many facets are mostly a large share of all exchanges: a short walk through the newest finds a
page of them. If it does not, the facets are rare lately, and are merged some at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pymongo import ASCENDING, DESCENDING

from gemini_caching_proxy.stores.base import Query
from gemini_caching_proxy.stores.facets import INT64_MAX

from .connection import Database, Document
from .filters import Choice, conditions
from .schema import INTERACTIONS

Key = tuple[int, int]
"""started_ns, sequence: the order of lists."""

MERGED: Final = 150
"""Facets that one question merges. From 200 on (internalQueryMaxScansToExplode) the server would read all they have."""
WALKED: Final = 5000
"""Newest exchanges looked through for many facets."""
_NEWEST: Final = [("started_ns", DESCENDING), ("sequence", DESCENDING)]
_KEY: Final = {"_id": 0, "started_ns": 1, "sequence": 1}


class Keys:
    """Asks the indexes of exchanges."""

    def __init__(self, database: Database) -> None:
        self._collection = database[INTERACTIONS]

    async def newest(self, choice: Choice, before: Key | None, limit: int) -> list[Key]:
        """The first `limit` keys of a choice, newest first, of those that come after `before`."""
        found: list[Key] = []
        for span in _spans(choice, before):
            if len(found) < limit and not choice.is_empty:
                found += await self._newest_in(span, choice.query.conversation, choice.digests, limit - len(found))
        return found

    async def _newest_in(
        self, span: Document, conversation: UUID | None, digests: Sequence[bytes] | None, limit: int
    ) -> list[Key]:
        if conversation is not None:
            span = {"conversation": conversation, **span}
            return await self._sorted(span if digests is None else span | _of(digests), "conversation", limit)
        if digests is None:
            return await self._sorted(span, "time", limit)
        if len(digests) <= MERGED:
            return await self._sorted(span | _of(digests), "facet", limit)
        return await self._newest_of_many(span, digests, limit)

    async def _newest_of_many(self, span: Document, digests: Sequence[bytes], limit: int) -> list[Key]:
        edge = await self._sorted(span, "time", 1, skip=WALKED)
        walked = span if not edge else _from(span, edge[0])
        found = await self._sorted(walked | _of(digests), "time", limit)
        if not edge or len(found) >= limit:
            return found
        # What ties with the edge is found twice, hence the set.
        for start in range(0, len(digests), MERGED):
            rest = span if len(found) < limit else _from(span, found[-1])
            some = _of(digests[start : start + MERGED])
            found = sorted({*found, *await self._sorted(rest | some, "facet", limit)}, reverse=True)[:limit]
        return found

    async def _sorted(self, condition: Document, index: str, limit: int, *, skip: int = 0) -> list[Key]:
        cursor = self._collection.find(condition, _KEY, sort=_NEWEST, hint=index, limit=limit, skip=skip)
        return [(int(each["started_ns"]), int(each["sequence"])) for each in await cursor.to_list()]

    async def few(self, choice: Choice, most: int) -> list[int] | None:
        """Sequence numbers of all that a choice leaves, in no order; None if they are more than `most`."""
        if choice.is_empty:
            return []
        index = "conversation" if choice.query.conversation else "time" if choice.digests is None else "facet"
        condition = {**choice.conditions, "sequence": {"$lte": choice.horizon}}
        cursor = self._collection.find(condition, {"_id": 0, "sequence": 1}, hint=index, limit=most + 1)
        found = [int(each["sequence"]) for each in await cursor.to_list()]
        return None if len(found) > most else found

    async def following(self, choice: Choice, sequence: int, limit: int, *, up_to: int | None = None) -> list[int]:
        """The first `limit` sequence numbers of a choice that are higher than `sequence`, in order."""
        top = choice.horizon if up_to is None else min(up_to, choice.horizon)
        condition = {**choice.conditions, "sequence": {"$gt": sequence, "$lte": top}}
        cursor = self._collection.find(
            condition, {"_id": 0, "sequence": 1}, sort=[("sequence", ASCENDING)], hint="sequence", limit=limit
        )
        return [int(each["sequence"]) for each in await cursor.to_list()]

    async def last(self, horizon: int) -> int:
        """The newest sequence number, 0 for none."""
        newest = await self._collection.find_one(
            {"sequence": {"$lte": horizon}}, {"_id": 0, "sequence": 1}, sort=[("sequence", DESCENDING)], hint="sequence"
        )
        return 0 if newest is None else int(newest["sequence"])


def _of(digests: Sequence[bytes]) -> Document:
    return {"facet": {"$in": list(digests)}}


def _from(span: Document, edge: Key) -> Document:
    """The part of a span that is as new as a key, or newer."""
    return {**span, "started_ns": {**span.get("started_ns", {}), "$gte": edge[0]}}


def _spans(choice: Choice, before: Key | None) -> list[Document]:
    """Conditions on times and sequence numbers, one after the other in the order of lists."""
    times = conditions(Query(since_ns=choice.query.since_ns, until_ns=choice.query.until_ns), None)
    seen = {"$lte": choice.horizon}
    # Without a bound on what the index begins with the server would read documents for the others.
    within = times.get("started_ns", {"$lte": INT64_MAX})
    if before is None:
        return [{"started_ns": within, "sequence": seen}]
    started_ns, sequence = before
    until = min(started_ns, within.get("$lt", started_ns))
    # Two questions rather than an $or, for which the server would read documents.
    return [
        {"started_ns": {**within, "$eq": started_ns}, "sequence": {**seen, "$lt": sequence}},
        {"started_ns": {**within, "$lt": until}, "sequence": seen},
    ]
