"""Parts that nobody uses any more, deleted while any number of writers use and make parts.

Epochs keep the two apart. A sweep raises the epoch of the state, then waits until every writer that began before is
done: what those use is in their exchanges by then. Writers that begin later see the new epoch, forget which parts they
know and mark each one they use with the epoch (`PartWriter.write`), or make it anew when it is gone. So a part that no
exchange from before uses and that has an older epoch is used by nobody, and the deletion asks for that older epoch: one
that is marked in the last moment stays. This holds for a sweep that slept too: it only ever deletes older epochs.

An orphan is a part whose owner is gone, or never came. It goes to its heir, the oldest exchange that uses it, by itself
or through a list of parts; without heirs it is deleted, then its text and file. Which texts go is announced before in
the state, for a prune that dies in between; files that belong to no part are found by looking for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID, uuid4

from bson import Int64
from pymongo import DeleteOne, ReturnDocument, UpdateOne

from . import state
from .connection import Database, Document
from .files import Files
from .pace import Pace
from .schema import INTERACTIONS, PARTS, STATE, TEXTS

T = TypeVar("T")

OWNERS: Final = 5000
"""Parts whose owners one look for orphans checks."""
ORPHANS: Final = 50_000
"""For which heirs are looked for at once; each look goes through all exchanges."""
AT_ONCE: Final = 500
"""Parts that one step gives away or deletes at most."""
MOST_LOOKED_AT: Final = 50_000
"""Exchanges, or rather sequence numbers, that one step of that look goes through at most."""
PAUSE_S: Final = 0.05
ZERO: Final = UUID(int=0)


class Tenure(Protocol):
    """The time during which this sweep is the only one."""

    async def keep(self) -> None:
        """Between steps. Raises once another has taken over."""

    async def announce(self, what: Document) -> None:
        """Write down what is about to be deleted."""


class Sweep:
    """One sweep. Call `run` once."""

    def __init__(self, database: Database, tenure: Tenure) -> None:
        """`database`: reads its primary."""
        self._database = database
        self._parts = database[PARTS]
        self._texts = database[TEXTS]
        self._files = Files(database)
        self._tenure = tenure
        self._giving, self._deleting = Pace(AT_ONCE), Pace(AT_ONCE)
        self._epoch = 0
        self._last = 0
        """Exchanges up to this sequence number may use parts without having marked them."""

    def __repr__(self) -> str:
        return f"<Sweep epoch={self._epoch}>"

    async def run(self) -> int:
        """Give away or delete all orphans; how many were deleted."""
        self._last = (await state.look(self._database)).horizon
        deleted = 0
        if await self._has_orphans():
            await self._begin()
            async for orphans in self._orphans():
                deleted += await self._settle(orphans)
        await self._files.sweep(self._tenure.keep)
        return deleted

    async def _has_orphans(self) -> bool:
        async with aclosing(self._orphans(most=1)) as some:
            async for _ in some:
                return True
        return False

    async def _begin(self) -> None:
        """Raise the epoch, and wait for those who began to write before."""
        document = await self._database[STATE].find_one_and_update(
            {"_id": "state"},
            {"$inc": {"epoch": Int64(1)}},
            return_document=ReturnDocument.AFTER,
        )
        assert document is not None, "the schema makes it"
        self._epoch, self._last = int(document["epoch"]), int(document["next"]) - 1
        opened: Document = document["open"]
        while True:
            now = await _now(self._database)
            opened = {name: each for name, each in opened.items() if _is_at_work(now, name, each)}
            if not opened:
                return
            await self._tenure.keep()
            await asyncio.sleep(PAUSE_S)

    # Who is an orphan.

    async def _orphans(self, most: int = ORPHANS) -> AsyncGenerator[dict[bytes, Document], None]:
        """Parts whose owner is gone, by digest, some at a time."""
        found: dict[bytes, Document] = {}
        last = ZERO
        while owners := await self._owners(last):
            await self._tenure.keep()
            last = owners[-1]
            gone = set(owners) - (await self._sequences(owners)).keys()
            for some in _some(gone, AT_ONCE):
                async for part in self._parts.find(
                    {"owner": {"$in": some}, "owner_sequence": {"$lte": self._last}},
                    {"kind": 1, "owner": 1, "file": 1},
                ):
                    found[part["_id"]] = part
                if len(found) >= most:
                    yield found
                    found = {}
        if found:
            yield found

    async def _owners(self, last: UUID) -> list[UUID]:
        """The next owners of parts, in order."""
        cursor = self._parts.find(
            {"owner": {"$gt": last}}, {"_id": 0, "owner": 1}, sort=[("owner", 1)], hint="owner", limit=OWNERS
        )
        return list(dict.fromkeys([each["owner"] async for each in cursor]))

    async def _sequences(self, exchanges: Iterable[UUID]) -> dict[UUID, int]:
        """Of those that are there."""
        cursor = self._database[INTERACTIONS].find({"_id": {"$in": list(exchanges)}}, {"sequence": 1})
        return {each["_id"]: int(each["sequence"]) async for each in cursor}

    # What becomes of them.

    async def _settle(self, orphans: dict[bytes, Document]) -> int:
        """Give each to its heir or delete it; how many were deleted."""
        lists = await self._lists_with(orphans)
        owners = await self._sequences({each["owner"] for each in lists.values()})
        for digest, each in lists.items():
            if each["owner"] not in owners and each["owner_sequence"] <= self._last:
                orphans[digest] = each
        oldest = await self._oldest_users(orphans.keys())
        for digest, each in lists.items():
            through = oldest.get(digest) if digest in orphans else owners.get(each["owner"])
            if through is not None:
                for part in each["parts"]:
                    if part in orphans:
                        oldest[part] = min(through, oldest.get(part, through))
        inherited = [part for digest, part in orphans.items() if digest in oldest]
        for some in self._giving.portions(inherited):
            await self._tenure.keep()
            await self._give(some, oldest)
        unused = [part for digest, part in orphans.items() if digest not in oldest]
        deleted = 0
        for some in self._deleting.portions(unused):
            await self._tenure.keep()
            deleted += await self._delete(some)
        return deleted

    async def _lists_with(self, orphans: dict[bytes, Document]) -> dict[bytes, Document]:
        """Lists that stand for any of these parts, and lists among them."""
        found: dict[bytes, Document] = {}
        fields = dict.fromkeys(("kind", "parts", "owner", "owner_sequence"), 1)
        for some in _some(orphans, AT_ONCE):
            async for each in self._parts.find({"kind": "list", "parts": {"$in": some}}, fields, hint="members"):
                found[each["_id"]] = each
        return found

    async def _oldest_users(self, parts: Iterable[bytes]) -> dict[bytes, int]:
        """Part → sequence number of the oldest exchange that refers to it."""
        oldest: dict[bytes, int] = {}
        wanted = set(parts)
        low = await self._first() - 1
        pace = Pace(MOST_LOOKED_AT)
        while wanted and low < self._last:
            await self._tenure.keep()
            began = monotonic()
            high = min(low + pace.size, self._last)
            async for document in await self._database[INTERACTIONS].aggregate(_users(low, high, wanted)):
                for part in wanted.intersection(document["refs"]):
                    oldest[part] = min(document["sequence"], oldest.get(part, document["sequence"]))
            wanted -= oldest.keys()
            low = high
            pace.learn(monotonic() - began)
        return oldest

    async def _first(self) -> int:
        first = await self._database[INTERACTIONS].find_one({}, {"_id": 0, "sequence": 1}, sort=[("sequence", 1)])
        return self._last + 1 if first is None else int(first["sequence"])

    async def _give(self, parts: Sequence[Document], oldest: dict[bytes, int]) -> None:
        """Text first: a part that has its heir is looked at no more."""
        fields = dict.fromkeys(("sequence", "facet", "started_ns", "conversation"), 1)
        sequences = {oldest[part["_id"]] for part in parts}
        cursor = self._database[INTERACTIONS].find({"sequence": {"$in": list(sequences)}}, fields)
        heirs = {int(each["sequence"]): each async for each in cursor}
        texts = await self._text_sequences(parts)
        moves, gifts = [], []
        for part in parts:
            heir = heirs.get(oldest[part["_id"]])
            if heir is None:
                continue
            if part["_id"] in texts:
                moves.append(_move(part["_id"], texts[part["_id"]], heir))
            owned = {"owner": heir["_id"], "owner_sequence": heir["sequence"]}
            gifts.append(UpdateOne({"_id": part["_id"], "owner": part["owner"]}, {"$set": owned}))
        if moves:
            await self._texts.bulk_write(moves, ordered=False)
        if gifts:
            await self._parts.bulk_write(gifts, ordered=False)

    async def _text_sequences(self, parts: Iterable[Document]) -> dict[bytes, int]:
        """Of the texts that parts have: what tells a text from one that was written since."""
        cursor = self._texts.find({"_id": {"$in": [part["_id"] for part in parts]}}, {"sequence": 1})
        return {each["_id"]: each["sequence"] async for each in cursor}

    async def _delete(self, parts: Sequence[Document]) -> int:
        texts = await self._text_sequences(parts)
        announced = {"token": uuid4(), "parts": list(texts), "sequences": list(texts.values())}
        if texts:
            await self._tenure.announce(announced)
        deleted = 0
        for part in parts:
            if "file" in part:
                gone = await self._parts.find_one_and_delete({"_id": part["_id"], "epoch": {"$lt": self._epoch}})
                if gone is not None:
                    deleted += 1
                    await self._files.delete(gone["file"])
        digests = [part["_id"] for part in parts if "file" not in part]
        done = await self._parts.delete_many({"_id": {"$in": digests}, "epoch": {"$lt": self._epoch}})
        if texts:
            await forget_texts(self._database, announced)
        return deleted + done.deleted_count


async def forget_texts(database: Database, announced: Document) -> None:
    """Delete the announced texts of parts that are gone, and take back the announcement."""
    cursor = database[PARTS].find({"_id": {"$in": announced["parts"]}}, {"_id": 1})
    there = {each["_id"] async for each in cursor}
    gone = [
        DeleteOne({"_id": digest, "sequence": sequence})
        for digest, sequence in zip(announced["parts"], announced["sequences"], strict=True)
        if digest not in there
    ]
    if gone:
        await database[TEXTS].bulk_write(gone, ordered=False)
    mine: dict[str, Any] = {"pruning.token": announced["token"]}
    await state.change(database, {"$unset": {"pruning": ""}}, **mine)


def _move(digest: bytes, sequence: int, heir: Document) -> UpdateOne:
    """A part's text to the part's heir, unless somebody was faster."""
    owned = {"exchange": heir["_id"], **{name: heir[name] for name in ("sequence", "facet", "started_ns")}}
    update: Document = {"$set": owned}
    if "conversation" in heir:
        owned["conversation"] = heir["conversation"]
    else:
        update["$unset"] = {"conversation": ""}
    return UpdateOne({"_id": digest, "sequence": sequence}, update)


def _users(low: int, high: int, wanted: set[bytes]) -> list[Document]:
    """Exchanges with sequence numbers in (low, high] that refer to any of these parts."""
    groups: list[Any] = [{"$ifNull": [f"$parts.{name}", []]} for name in ("headers", "request", "response", "chain")]
    return [
        {"$match": {"sequence": {"$gt": low, "$lte": high}}},
        {"$project": {"_id": 0, "sequence": 1, "refs": {"$concatArrays": [*groups, ["$record_part"]]}}},
        {"$match": {"refs": {"$in": list(wanted)}}},
    ]


@dataclass(frozen=True, slots=True)
class _Now:
    """The state, and the time by the server's clock."""

    time: datetime
    opened: Document


async def _now(database: Database) -> _Now:
    cursor = await database[STATE].aggregate([{"$match": {"_id": "state"}}, {"$project": {"open": 1, "now": "$$NOW"}}])
    async for document in cursor:
        return _Now(document["now"], document.get("open", {}))
    raise AssertionError("the schema makes it")


def _is_at_work(now: _Now, name: str, opened: Document) -> bool:
    """Whether a writer is still at the batch that it had begun."""
    still = now.opened.get(name)
    late = now.time - timedelta(seconds=state.ABANDONED_SECONDS)
    return still is not None and still["from"] == opened["from"] and opened["since"] >= late


def _some(things: Iterable[T], at_once: int) -> Iterable[list[T]]:
    ordered = list(things)
    return (ordered[start : start + at_once] for start in range(0, len(ordered), at_once))
