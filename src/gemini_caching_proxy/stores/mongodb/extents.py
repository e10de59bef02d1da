"""What exchanges lie where in the order of intake: times and facets of each block of sequence numbers.

A walk in that order leaves out whole blocks of which a filter lets nothing through. A block is looked at when a walk
first comes to it, through an index alone, and remembered: up to the horizon nothing comes in any more, and what is
pruned only makes a block hold less than is thought.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pymongo import DESCENDING

from .connection import Database, Document
from .filters import Choice, Walk
from .schema import INTERACTIONS

BLOCK: Final = 8192
"""Sequence numbers."""


@dataclass(frozen=True, slots=True)
class Extent:
    """One block's. An empty one ends before it begins."""

    first_ns: int = 0
    last_ns: int = -1
    facets: int = 0
    """A bit for each, as `Extents` numbers them."""


class Extents:
    """The blocks of a database, as far as one process knows them: about half a kilobyte each."""

    def __init__(self, database: Database) -> None:
        self._collection = database[INTERACTIONS]
        self._known: dict[int, Extent] = {}
        self._numbers: dict[bytes, int] = {}
        """Facet → its bit."""

    def __repr__(self) -> str:
        return f"<Extents {len(self._known)}>"

    async def trimmed(self, walk: Walk, choice: Choice) -> Walk:
        """The walk without the blocks at its beginning that have nothing of the choice."""
        if not choice.is_bounded:
            return walk
        wanted = None if choice.digests is None else set(choice.digests)
        while not walk.is_over:
            begin = walk.highest if walk.direction == DESCENDING else walk.lowest
            block = begin // BLOCK
            extent = await self._extent(block, choice.horizon)
            if self._may_hold(extent, choice, wanted):
                return walk
            walk = walk.beyond(block * BLOCK if walk.direction == DESCENDING else block * BLOCK + BLOCK - 1)
        return walk

    def _may_hold(self, extent: Extent, choice: Choice, wanted: set[bytes] | None) -> bool:
        since, until = choice.query.since_ns, choice.query.until_ns
        if extent.last_ns < extent.first_ns or (since is not None and extent.last_ns < since):
            return False
        if until is not None and extent.first_ns >= until:
            return False
        return wanted is None or any(extent.facets >> self._numbers.get(each, 0) & 1 for each in wanted)

    async def _extent(self, block: int, horizon: int) -> Extent:
        known = self._known.get(block)
        if known is not None:
            return known
        span = {"$gte": block * BLOCK, "$lte": min(block * BLOCK + BLOCK - 1, horizon)}
        times = {"first": {"$min": "$started_ns"}, "last": {"$max": "$started_ns"}}
        pipeline: list[Document] = [{"$match": {"sequence": span}}, {"$group": {"_id": "$facet", **times}}]
        rows = await (await self._collection.aggregate(pipeline, hint="sequence")).to_list()
        extent = Extent()
        if rows:
            facets = 0
            for row in rows:
                # Bit 0 stands for facets that no block has.
                facets |= 1 << self._numbers.setdefault(row["_id"], len(self._numbers) + 1)
            extent = Extent(min(int(row["first"]) for row in rows), max(int(row["last"]) for row in rows), facets)
        if block * BLOCK + BLOCK - 1 <= horizon:
            self._known[block] = extent
        return extent
