"""Settlement: what follows from exchanges is worked out after them, in sequence order, exactly once.

Whoever holds the lease goes through (settled, horizon] in ranges. A range is written down as begun before anything else
is changed, and as done at last, with the sums of the state in the same step. Once begun it is finished with the same
end by whoever comes next; every document it changes carries the end of the last range it has in it. So a holder may
die, or sleep and wake up, between any two steps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

from bson import Int64
from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from . import entries, state
from .connection import Database, Document
from .indexing import Indexing
from .leases import SECONDS, Lease
from .rollups import FOLDED, Fold, Rollups, Scopes
from .schema import INTERACTIONS, STATE
from .state import State

LONGEST_RANGE: Final = 2000
"""Sequence numbers that are settled at once."""
PATIENCE_S: Final = 0.5
"""How long one call goes on; what is left then is settled in the background or by the next."""
QUIET_S: Final = 0.1
"""Without a new batch for so long, there is time to index."""
BREATH_S: Final = 0.02
"""Between two steps of it."""
MOST_UNINDEXED: Final = 50_000
"""Sequence numbers; beyond, indexing does not wait for a quiet time."""
PAUSE_S: Final = 0.5
"""Before the background looks whether something is left, and before a lease nobody needs is given back."""
LOOK_S: Final = 0.05
"""Between two looks whether others have settled something."""
_SEQUENCE: Final = [("sequence", 1)]
_READ: Final = dict.fromkeys((*FOLDED, *entries.FIELDS), 1)

_HORIZON: Final[Document] = {
    "$subtract": [
        {"$ifNull": [{"$min": {"$map": {"input": {"$objectToArray": "$open"}, "in": "$$this.v.from"}}}, "$next"]},
        1,
    ]
}
"""As `State.horizon`."""


def _beginning(longest_range: int) -> list[Document]:
    """An update that begins the next range, unless one is begun, or there is nothing to settle."""
    end = {"$min": [_HORIZON, {"$add": ["$settled", Int64(longest_range)]}]}
    begun = {"$cond": [{"$gt": ["$$end", "$settled"]}, "$$end", "$$REMOVE"]}
    return [{"$set": {"settling": {"$let": {"vars": {"end": end}, "in": {"$ifNull": ["$settling", begun]}}}}}]


_log = logging.getLogger(__name__)


class Settlement:
    """Settles one database, together with the settlements of other processes."""

    def __init__(self, database: Database, *, longest_range: int = LONGEST_RANGE) -> None:
        self._database = database
        self._beginning = _beginning(longest_range)
        self._lease = Lease(database, "settle")
        self._held_until = 0.0
        """By the monotonic clock; well before it really ends."""
        self._turn = asyncio.Lock()
        self._scopes = Scopes(database)
        self._rollups = Rollups(database)
        self._indexing = Indexing(database)
        self._reached = -1
        """Up to where this one settled; others' doing shows by a state that is elsewhere."""
        self._asked = 0.0
        self._batches = 0
        self._background: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Settlement reached={self._reached}>"

    async def settle(self, *, patience_s: float = PATIENCE_S) -> bool:
        """Settle up to the horizon. False if something is left: another holds the lease, time is up, or it failed.

        It never fails for what the server does: exchanges that are in stay in, and what follows from them can wait.
        """
        self._asked = monotonic()
        try:
            return await self._settle(patience_s)
        except PyMongoError as error:
            _log.warning("Sums wait: settling failed (%s); the next batch tries again.", type(error).__name__)
            return False
        finally:
            if self._background is None or self._background.done():
                self._background = asyncio.get_running_loop().create_task(self._follow_up())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While a batch is taken in, and shortly after, nothing is indexed."""
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1
            self._asked = monotonic()

    async def aclose(self) -> None:
        """Settle what is left if nobody else does, and give the lease back."""
        background, self._background = self._background, None
        if background is not None:
            background.cancel()
            with suppress(asyncio.CancelledError):
                await background
        if await self._settle(PATIENCE_S):
            await self._give_back()

    async def _follow_up(self) -> None:
        """Settle what was left or came in elsewhere, then index; give the lease back when no one asks any more."""
        indexes = False
        try:
            while True:
                await asyncio.sleep(BREATH_S if indexes else PAUSE_S)
                indexes = await self._index()
                if indexes or monotonic() - self._asked < PAUSE_S or not await self._settle(PATIENCE_S):
                    continue
                if monotonic() - self._asked >= PAUSE_S:
                    await self._give_back()
                    return
        except PyMongoError as error:
            _log.debug("Settling in the background failed, the next batch tries again: %s", type(error).__name__)

    async def _index(self) -> bool:
        """Index some texts if there is time; whether there may be more. For who has the lease."""
        if monotonic() >= self._held_until:
            return False
        seen = await state.look(self._database)
        left = seen.settled - seen.indexed
        if left > MOST_UNINDEXED or (left > 0 and not self._batches and monotonic() - self._asked > QUIET_S):
            await self._indexing.step(seen)
        return left > 0

    async def _give_back(self) -> None:
        async with self._turn:
            if self._held_until:
                self._held_until = 0.0
                await self._lease.give_back()

    async def _settle(self, patience_s: float) -> bool:
        async with self._turn:
            end = monotonic() + patience_s
            while await self._is_held():
                if not await self._settle_range():
                    return True
                if monotonic() > end:
                    break
            return False

    async def _is_held(self) -> bool:
        """Whether the lease is ours for some seconds more."""
        asked = monotonic()
        if asked < self._held_until:
            return True
        self._held_until = asked + SECONDS / 2 if await self._lease.take() else 0.0
        return self._held_until > 0

    async def _settle_range(self) -> bool:
        """Whether there may be more."""
        try:
            seen = await self._begin()
            if seen.settling == seen.settled:
                return False
            if seen.settled != self._reached:
                self._rollups.forget()
            documents = await self._read(seen)
            await self._apply(documents, seen.settling)
            await self._finish(seen, documents)
        except BaseException:
            self._rollups.forget()
            raise
        self._reached = seen.settling
        return seen.settling < seen.horizon

    async def _begin(self) -> State:
        document = await self._database[STATE].find_one_and_update(
            {"_id": "state"}, self._beginning, return_document=ReturnDocument.AFTER
        )
        assert document is not None, "the schema makes it"
        return State.of(document)

    async def _read(self, seen: State) -> list[Document]:
        within = {"sequence": {"$gt": Int64(seen.settled), "$lte": Int64(seen.settling)}}
        cursor = self._database[INTERACTIONS].find(within, _READ, sort=_SEQUENCE, batch_size=LONGEST_RANGE)
        return await cursor.to_list()

    async def _apply(self, documents: Sequence[Document], through: int) -> None:
        await self._scopes.learn({document["facet"] for document in documents})
        fold = Fold()
        for document in documents:
            fold.count(document, self._scopes.facets[document["facet"]])
        await self._rollups.add(fold.additions(self._scopes.scopes), through)
        await entries.settle(self._database, documents)

    async def _finish(self, seen: State, documents: Sequence[Document]) -> None:
        body_bytes = sum(each["request"]["bytes"] + each.get("response", {}).get("bytes", 0) for each in documents)
        where: dict[str, Any] = {"settled": Int64(seen.settled), "settling": Int64(seen.settling)}
        await state.change(
            self._database,
            {
                "$set": {"settled": Int64(seen.settling)},
                "$unset": {"settling": ""},
                "$inc": {"exchanges": Int64(len(documents)), "body_bytes": Int64(body_bytes)},
            },
            **where,
        )


async def await_settled(database: Database, settlement: Settlement | None, patience_s: float) -> bool:
    """See `ExchangeStore.settled`. Without a settlement of its own it waits for those of others."""
    last = (await state.look(database)).next - 1
    end = monotonic() + patience_s
    while (await state.look(database)).settled < last:
        if monotonic() > end:
            return False
        if settlement is None or not await settlement.settle():
            await asyncio.sleep(LOOK_S)
    return True
