"""Putting texts into the index of words after they came in.

The index has an entry for every different word of every text: keeping it takes the server more work than all the rest
of recording. So texts come in without it, and are put in when there is time; search looks through the newest, that are
not in it yet, one by one.
"""

from __future__ import annotations

from typing import Final

from bson import Int64
from pymongo import ASCENDING

from . import state
from .connection import Database
from .schema import TEXTS
from .state import State

AT_ONCE: Final = 150
"""Texts of one step, which takes the server some ten milliseconds."""


class Indexing:
    """Indexes the texts of one database, step by step, by whoever may settle it."""

    def __init__(self, database: Database, *, at_once: int = AT_ONCE) -> None:
        self._database = database
        self._at_once = at_once

    async def step(self, seen: State) -> None:
        """Index the next texts. Done twice it changes nothing."""
        texts = self._database[TEXTS]
        rest = {"$gt": Int64(seen.indexed), "$lte": Int64(seen.settled)}
        edge = await texts.find_one(
            {"sequence": rest},
            {"_id": 0, "sequence": 1},
            sort=[("sequence", ASCENDING)],
            hint="sequence",
            skip=self._at_once - 1,
        )
        last = Int64(seen.settled if edge is None else edge["sequence"])
        await texts.update_many({"sequence": {**rest, "$lte": last}}, {"$set": {"indexed": True}}, hint="sequence")
        await state.change(self._database, {"$max": {"indexed": last}})
