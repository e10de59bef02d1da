"""The one document that orders what many writers do.

A writer draws the sequence numbers of a batch from it and is `open` until the batch is in. The horizon is the last
number before which nobody is at work: what is read ends there, so a batch shows as a whole or not at all. Whoever
changes the document changes it in one atomic step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from bson import Int64
from pymongo import ReturnDocument

from gemini_caching_proxy.errors import StoreUnavailable

from .connection import Database, Document
from .schema import NEW_STATE, STATE

ABANDONED_SECONDS: Final = 20
"""A batch open for longer was left by a writer that died."""
_ID: Final = {"_id": "state"}
_LEFT_OUT: Final = {"pruning": 0}
"""What a prune is about to delete, which is long and nobody else's business."""


@dataclass(frozen=True, slots=True)
class State:
    """One look at it."""

    next: int
    horizon: int
    """Everything up to this sequence number is there."""
    settled: int
    """Everything up to this one is in rollups and sums."""
    settling: int
    """Up to where somebody is at it; `settled` when nobody is."""
    indexed: int
    """Texts up to this sequence number are in the index of words; never more than `settled`."""
    epoch: int
    """Goes up when parts are about to be deleted: which parts are there is to be asked again."""
    exchanges: int
    """Settled ones."""
    body_bytes: int
    cache_changes: int
    """Goes up when entries were evicted, pinned or made by hand."""
    open: dict[str, int]
    """Writer → first number of what it is writing."""

    @classmethod
    def of(cls, document: Document) -> State:
        opened = {name: int(each["from"]) for name, each in document.get("open", {}).items()}
        following = int(document["next"])
        settled = int(document["settled"])
        return cls(
            next=following,
            horizon=min(opened.values(), default=following) - 1,
            settled=settled,
            settling=int(document.get("settling") or settled),
            indexed=int(document.get("indexed", 0)),
            epoch=int(document["epoch"]),
            exchanges=int(document["exchanges"]),
            body_bytes=int(document["body_bytes"]),
            cache_changes=int(document["cache_changes"]),
            open=opened,
        )


async def look(database: Database) -> State:
    """How things stand."""
    document = await database[STATE].find_one(_ID, _LEFT_OUT)
    return State.of(NEW_STATE if document is None else document)


async def draw(database: Database, writer: str, count: int) -> tuple[int, State]:
    """`count` sequence numbers: the first of them, and the state right after. The writer is open from here on."""
    opened = f"open.{writer}"
    document = await database[STATE].find_one_and_update(
        _ID,
        [
            {
                "$set": {
                    opened: {"from": "$next", "since": "$$NOW"},
                    "next": {"$add": ["$next", Int64(count)]},
                }
            }
        ],
        return_document=ReturnDocument.AFTER,
    )
    if document is None:
        raise StoreUnavailable("The database was emptied behind our back; it is set up again.")
    state = State.of(document)
    await _close_abandoned(database, document, writer)
    return state.open[writer], state


async def _close_abandoned(database: Database, document: Document, writer: str) -> None:
    """Close what dead writers left open; by the server's clock."""
    now: datetime = document["open"][writer]["since"]
    late = now - timedelta(seconds=ABANDONED_SECONDS)
    for name, each in document["open"].items():
        if each["since"] < late:
            await database[STATE].update_one(
                {**_ID, f"open.{name}.since": each["since"]}, {"$unset": {f"open.{name}": ""}}
            )


async def close_abandoned(database: Database) -> None:
    """As every draw does it, for whoever draws none."""
    late = {"$subtract": ["$$NOW", ABANDONED_SECONDS * 1000]}
    at_work = {"$filter": {"input": {"$objectToArray": "$open"}, "cond": {"$gte": ["$$this.v.since", late]}}}
    await database[STATE].update_one(_ID, [{"$set": {"open": {"$arrayToObject": at_work}}}])


async def close(database: Database, writer: str) -> None:
    """The writer's batch is in, or was given up."""
    await database[STATE].update_one(_ID, {"$unset": {f"open.{writer}": ""}})


async def change(database: Database, update: Any, **where: Any) -> bool:
    """Change it if it is as `where` says; whether it was."""
    done = await database[STATE].update_one({**_ID, **where}, update)
    return done.matched_count == 1


async def agree(database: Database, name: str, offer: bytes) -> bytes:
    """What all use under a name: what the first of them offered."""
    document = await database[STATE].find_one_and_update(
        {"_id": name}, {"$setOnInsert": {"value": offer}}, upsert=True, return_document=ReturnDocument.AFTER
    )
    assert document is not None, "it was just made if it was missing"
    return bytes(document["value"])
