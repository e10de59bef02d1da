"""Leases: who may do alone what several could start. Times are the server's, so clocks of proxies do not matter.

A holder that dies loses its lease when it runs out. A holder that only sleeps may wake up after that: what is done
under a lease must stand being done twice.
"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from .connection import Database
from .schema import LEASES

SECONDS: Final = 15


class Lease:
    """One process's claim to one kind of work."""

    def __init__(self, database: Database, work: str) -> None:
        self._database = database
        self._work = work
        self._holder = uuid4()

    def __repr__(self) -> str:
        return f"<Lease {self._work}>"

    async def take(self) -> bool:
        """Take it, or keep it for `SECONDS` more; False if another has it."""
        is_free = {
            "$or": [
                {"$eq": [{"$ifNull": ["$holder", self._holder]}, self._holder]},
                {"$lt": [{"$ifNull": ["$until", "$$NOW"]}, "$$NOW"]},
            ]
        }
        until = {"$add": ["$$NOW", SECONDS * 1000]}
        taken = {
            "holder": {"$cond": [is_free, self._holder, "$holder"]},
            "until": {"$cond": [is_free, until, "$until"]},
        }
        lease = self._database[LEASES].find_one_and_update
        try:
            document = await lease(
                {"_id": self._work}, [{"$set": taken}], upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:
            # Two found none at once; the other has it.
            return False
        return document is not None and document["holder"] == self._holder

    async def give_back(self) -> None:
        await self._database[LEASES].delete_one({"_id": self._work, "holder": self._holder})
