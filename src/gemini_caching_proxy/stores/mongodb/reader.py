"""Reading one exchange, and looking things up by key."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, cast
from uuid import UUID

import bson
from bson import Binary
from bson.binary import UUID_SUBTYPE
from pymongo import DESCENDING

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.stores.base import ChainMatch, Gap, JournalPosition, StoreSize
from gemini_caching_proxy.stores.codec import Codec
from gemini_caching_proxy.stores.marks import chain_mark, response_mark

from . import state
from .connection import CODEC, Database, Document
from .documents import references_of, restored
from .parts import PartReader
from .schema import GAPS, INTERACTIONS, PARTS, POSITIONS, STATE

_NEWEST: Final = [("started_ns", DESCENDING), ("sequence", DESCENDING)]
_HEX: Final = re.compile("[0-9a-f]{1,32}")


class Reader:
    """Reads what one key leads to."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parts = PartReader(database)
        self._codec = Codec()

    async def get(self, exchange_id: UUID) -> Exchange:
        """See `ExchangeStore.get`."""
        document = await self._database[INTERACTIONS].find_one({"_id": exchange_id})
        if document is None:
            raise NotFound(f"No exchange has the id {exchange_id}.")
        parts = await self._parts.fetch(references_of(document))
        try:
            return restored(document, parts, self._parts, self._codec)
        except KeyError:
            # Pruned between the two readings; otherwise a part is missing, which must not go unseen.
            if await self._database[INTERACTIONS].find_one({"_id": exchange_id}, {"_id": 1}) is None:
                raise NotFound(f"No exchange has the id {exchange_id}.") from None
            raise

    async def known(self, ids: Sequence[UUID]) -> frozenset[UUID]:
        """See `ExchangeStore.known`."""
        cursor = self._database[INTERACTIONS].find({"_id": {"$in": list(ids)}}, {"_id": 1})
        return frozenset([document["_id"] async for document in cursor])

    async def resolve(self, prefix: str) -> UUID:
        """See `ExchangeStore.resolve`."""
        digits = prefix.replace("-", "").lower()
        if not _HEX.fullmatch(digits):
            raise NotFound(f"{prefix!r} is no part of an exchange's id: 1 to 32 hex digits are.")
        found = await ids_starting_with(self._database, INTERACTIONS, digits)
        if not found:
            found = await ids_ending_in(self._database, INTERACTIONS, digits)
        if len(found) != 1:
            how_many = "No exchange has" if not found else "More than one exchange has"
            raise NotFound(f"{how_many} an id that starts with or ends in {prefix}.")
        return found[0]

    async def find_chain_tips(self, tips: Sequence[bytes], scope: str) -> Mapping[bytes, ChainMatch]:
        """See `ExchangeStore.find_chain_tips`."""
        marks = {chain_mark(tip, scope): tip for tip in tips}
        found = await self._marked(list(marks))
        return {marks[mark]: match for mark, match in found.items()}

    async def find_response_id(self, response_id: str) -> ChainMatch | None:
        """See `ExchangeStore.find_response_id`."""
        mark = response_mark(response_id)
        return (await self._marked([mark])).get(mark)

    async def _marked(self, marks: Sequence[bytes]) -> dict[bytes, ChainMatch]:
        """For each mark that some exchange has the newest of those, in one question."""
        if not marks:
            return {}
        newest = {
            "from": INTERACTIONS,
            "localField": "mark",
            "foreignField": "marks",
            "pipeline": [
                {"$sort": dict(_NEWEST)},
                {"$limit": 1},
                {"$project": {"conversation": {"$ifNull": ["$conversation", "$_id"]}}},
            ],
            "as": "found",
        }
        # The marks are the rows; an aggregation has to begin with some document.
        cursor = await self._database[STATE].aggregate(
            [
                {"$match": {"_id": "state"}},
                {"$project": {"mark": {"$literal": list(marks)}}},
                {"$unwind": "$mark"},
                {"$lookup": newest},
                {"$unwind": "$found"},
            ]
        )
        return {
            bytes(row["mark"]): ChainMatch(row["found"]["_id"], row["found"]["conversation"]) async for row in cursor
        }

    async def positions(self) -> Mapping[str, JournalPosition]:
        """See `ExchangeStore.positions`."""
        return {
            document["_id"]: JournalPosition(document["_id"], int(document["segment"]), int(document["offset"]))
            async for document in self._database[POSITIONS].find()
        }

    async def gaps(self) -> tuple[Gap, ...]:
        """See `ExchangeStore.gaps`."""
        cursor = self._database[GAPS].find().sort([("first_ns", 1), ("_id", 1)])
        return tuple(
            [
                Gap(int(each["exchanges"]), int(each["first_ns"]), int(each["last_ns"]), each["reason"])
                async for each in cursor
            ]
        )

    async def size(self) -> StoreSize:
        """See `ExchangeStore.size`."""
        seen = await state.look(self._database)
        unsettled = await self._unsettled(seen)
        parts = await self._database[PARTS].estimated_document_count()
        figures = await self._database.command("dbStats")
        return StoreSize(
            exchanges=seen.exchanges + unsettled[0],
            parts=parts,
            file_bytes=int(figures["storageSize"] + figures.get("indexSize", 0)),
            body_bytes=seen.body_bytes + unsettled[1],
        )

    async def cache_changes(self) -> int:
        """See `ExchangeStore.cache_changes`."""
        return (await state.look(self._database)).cache_changes

    async def _unsettled(self, seen: state.State) -> tuple[int, int]:
        """Exchanges, and bytes of their bodies, that are not in the sums yet."""
        if seen.settled >= seen.horizon:
            return 0, 0
        cursor = await self._database[INTERACTIONS].aggregate(
            [
                {"$match": {"sequence": {"$gt": seen.settled, "$lte": seen.horizon}}},
                {
                    "$group": {
                        "_id": None,
                        "exchanges": {"$sum": 1},
                        "bytes": {"$sum": {"$add": ["$request.bytes", {"$ifNull": ["$response.bytes", 0]}]}},
                    }
                },
            ]
        )
        async for row in cursor:
            return int(row["exchanges"]), int(row["bytes"])
        return 0, 0


def uuid_range(digits: str) -> Document:
    """A condition on `_id` for UUIDs that start with these hex digits."""
    first, last = bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f"))
    return {"$gte": Binary(first, UUID_SUBTYPE), "$lte": Binary(last, UUID_SUBTYPE)}


async def ids_starting_with(database: Database, name: str, digits: str, *, field: str = "_id") -> list[UUID]:
    """At most two."""
    cursor = database[name].find({field: uuid_range(digits)}, {field: 1}).limit(2)
    return [document[field] async for document in cursor]


async def ids_ending_in(database: Database, name: str, digits: str, *, field: str = "_id") -> list[UUID]:
    """At most two; walks the index of ids."""
    found: list[UUID] = []
    whole_bytes = bytes.fromhex(digits[len(digits) % 2 :])
    cursor = database[name].find_raw_batches({}, {"_id": field == "_id", field: 1}, hint=[(field, 1)])
    async for batch in cast(AsyncIterator[bytes], cursor):
        if whole_bytes in batch:
            ids = (document[field] for document in bson.decode_all(batch, CODEC))
            found += [each for each in ids if each.hex.endswith(digits)]
            if len(found) > 1:
                break
    return found[:2]
