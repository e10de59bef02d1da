"""Deleting by age, beside writers of any number of processes, in short steps. One prune at a time holds the lease.

Exchanges go first, then the parts that nobody uses any more (`sweeping.py`). There are no transactions, so what must
happen exactly once, lowering the sums of the state, is announced: a batch is written down in the state (`pruning`) with
what it will take off the sums; then its documents are deleted; then the sums are lowered and the announcement is taken
back, in one update. Whoever finds an announcement, left by a prune that died, finishes it. Only the holder whose mark
is in the state (`pruner`) may announce: one that lost the lease in its sleep announces nothing any more, so what it
read before it slept is never counted a second time.

Entries of a batch go before it is announced: a pin that came in time is still there and keeps its exchange, and one
that comes later finds no entry. Entries made by hand in between go after their exchanges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final
from uuid import UUID, uuid4

from bson import Int64
from pymongo import ReadPreference, ReturnDocument
from pymongo.errors import PyMongoError

from gemini_caching_proxy.errors import StoreUnavailable
from gemini_caching_proxy.stores.base import PruneResult
from gemini_caching_proxy.stores.facets import INT64_MAX, bounded

from . import entries, state
from .connection import Database, Document
from .leases import SECONDS, Lease
from .pace import Pace
from .schema import CACHE, INTERACTIONS, STATE, TEXTS
from .settlement import Settlement
from .sweeping import Sweep, forget_texts

AT_ONCE: Final = 300
"""Exchanges that one step deletes at most."""
WAIT_S: Final = SECONDS + 5
"""How long another prune is waited for; one that died is taken over within this time."""
SETTLE_S: Final = 30
"""How long settlement is waited for; what is not settled by then is left for the next prune."""
PAUSE_S: Final = 0.1


@dataclass(slots=True)
class Tenure:
    """The time during which a prune is the only one."""

    database: Database
    lease: Lease
    token: UUID
    renewed: float

    async def keep(self) -> None:
        """Between steps. Raises StoreUnavailable once another prune has taken over."""
        if monotonic() - self.renewed < SECONDS / 5:
            return
        self.renewed = monotonic()
        if not await self.lease.take():
            raise _taken_over()

    async def announce(self, what: Document) -> None:
        """Write down what is about to be deleted."""
        free = {"pruner": self.token, "pruning": {"$exists": False}}
        if not await state.change(self.database, {"$set": {"pruning": what}}, **free):
            raise _taken_over()


def _taken_over() -> StoreUnavailable:
    return StoreUnavailable("Another prune took this one over, for it stood still too long: it goes on there.")


class Pruning:
    """Prunes one database, and nobody else does at the same time."""

    def __init__(self, database: Database, settlement: Settlement) -> None:
        # What a secondary does not know yet must not be taken for gone.
        self._database = database.with_options(read_preference=ReadPreference.PRIMARY)
        self._settlement = settlement

    def __repr__(self) -> str:
        return f"<Pruning {self._database.name}>"

    async def run(self, older_than_ns: int) -> PruneResult:
        """See `ExchangeStore.prune`. `bytes_freed` are bytes of documents: the server uses their place again."""
        lease = Lease(self._database, "prune")
        await self._wait_for(lease)
        try:
            tenure = await self._begin(lease)
            before = await self._data_bytes()
            await self._settle(tenure)
            exchanges = await self._delete_exchanges(tenure, older_than_ns)
            parts = await Sweep(self._database, tenure).run()
            return PruneResult(exchanges, parts, max(0, before - await self._data_bytes()))
        finally:
            with suppress(PyMongoError):  # it runs out by itself
                await lease.give_back()

    async def _wait_for(self, lease: Lease) -> None:
        end = monotonic() + WAIT_S
        while not await lease.take():
            if monotonic() > end:
                raise StoreUnavailable(
                    "Another prune is at work on this database: wait until it is done, then prune again."
                )
            await asyncio.sleep(PAUSE_S)

    async def _begin(self, lease: Lease) -> Tenure:
        """Put our mark into the state, then finish what a predecessor announced."""
        tenure = Tenure(self._database, lease, uuid4(), monotonic())
        document = await self._database[STATE].find_one_and_update(
            {"_id": "state"}, {"$set": {"pruner": tenure.token}}, return_document=ReturnDocument.AFTER
        )
        assert document is not None, "the schema makes it"
        left = document.get("pruning")
        if left is not None:
            await (self._finish(left) if "exchanges" in left else forget_texts(self._database, left))
        await state.close_abandoned(self._database)
        return tenure

    async def _data_bytes(self) -> int:
        return int((await self._database.command("dbStats"))["dataSize"])

    async def _settle(self, tenure: Tenure) -> None:
        """Have everything settled that is there now: what is not, is not in the sums that pruning lowers."""
        horizon = (await state.look(self._database)).horizon
        end = monotonic() + SETTLE_S
        while True:
            await self._settlement.settle()
            if (await state.look(self._database)).settled >= horizon or monotonic() > end:
                return
            await tenure.keep()
            await asyncio.sleep(PAUSE_S)

    async def _delete_exchanges(self, tenure: Tenure, older_than_ns: int) -> int:
        settled = (await state.look(self._database)).settled
        deleted, last = 0, (-INT64_MAX, 0)
        pace = Pace(AT_ONCE)
        while documents := await self._old(older_than_ns, settled, last, pace.size):
            await tenure.keep()
            last = (documents[-1]["started_ns"], documents[-1]["sequence"])
            began = monotonic()
            deleted += await self._delete(tenure, documents)
            pace.learn(monotonic() - began)
        return deleted

    async def _old(self, older_than_ns: int, settled: int, last: tuple[int, int], limit: int) -> list[Document]:
        """The next after `last`, oldest first: exchanges of pinned entries stay where they are."""
        started_ns, sequence = last
        return (
            await self._database[INTERACTIONS]
            .find(
                {
                    "started_ns": {"$gte": started_ns, "$lt": bounded(older_than_ns, INT64_MAX)},
                    "sequence": {"$lte": settled},
                    "$or": [{"started_ns": {"$gt": started_ns}}, {"sequence": {"$gt": sequence}}],
                },
                dict.fromkeys(("started_ns", "sequence", "request.bytes", "response.bytes"), 1),
                sort=[("started_ns", 1), ("sequence", 1)],
                hint="time",
                limit=limit,
            )
            .to_list()
        )

    async def _delete(self, tenure: Tenure, documents: Sequence[Document]) -> int:
        loose = await self._without_pinned(documents)
        ids = [each["_id"] for each in loose]
        gone = await self._database[CACHE].delete_many({"exchange": {"$in": ids}, "pinned": False})
        if gone.deleted_count:
            await entries.changed(self._database)
        loose = await self._without_pinned(loose)
        if not loose:
            return 0
        announced = {
            "token": uuid4(),
            "exchanges": [each["_id"] for each in loose],
            "body_bytes": sum(each["request"]["bytes"] + each.get("response", {}).get("bytes", 0) for each in loose),
        }
        await tenure.announce(announced)
        await self._finish(announced)
        return len(loose)

    async def _without_pinned(self, documents: Sequence[Document]) -> list[Document]:
        """Those that have no pinned entry."""
        ids = [each["_id"] for each in documents]
        cursor = self._database[CACHE].find({"exchange": {"$in": ids}, "pinned": True}, {"exchange": 1})
        pinned = {entry["exchange"] async for entry in cursor}
        return [each for each in documents if each["_id"] not in pinned]

    async def _finish(self, announced: Document) -> None:
        """Delete what was announced, as often as it takes, and lower the sums once."""
        ids = announced["exchanges"]
        await self._database[INTERACTIONS].delete_many({"_id": {"$in": ids}})
        await self._database[TEXTS].delete_many({"_id": {"$in": ids}})
        late = await self._database[CACHE].delete_many({"exchange": {"$in": ids}})
        if late.deleted_count:
            await entries.changed(self._database)
        lowered = {"exchanges": Int64(-len(ids)), "body_bytes": Int64(-announced["body_bytes"])}
        mine: dict[str, Any] = {"pruning.token": announced["token"]}
        await state.change(self._database, {"$inc": lowered, "$unset": {"pruning": ""}}, **mine)
