"""Files of large parts that belong to no part: what a writer or a prune left that died between the two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from bson import ObjectId
from gridfs.asynchronous import AsyncGridFSBucket
from gridfs.errors import NoFile

from .connection import Database, Document
from .schema import FILES, PARTS

AGE: Final = timedelta(hours=1)
"""A younger file may be one whose part is about to be written."""
AT_ONCE: Final = 500
_FIRST: Final = ObjectId(b"\0" * 12)

Keep = Callable[[], Awaitable[None]]


class Files:
    """The GridFS bucket of parts over `parts.LARGEST_INLINE`. A file's name is its part's digest in hex."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bucket = AsyncGridFSBucket(database, FILES)
        self._files = database[f"{FILES}.files"]
        self._chunks = database[f"{FILES}.chunks"]

    def __repr__(self) -> str:
        return f"<Files {self._database.name}>"

    async def delete(self, file: ObjectId) -> None:
        """Delete one; a second time does nothing."""
        with suppress(NoFile):
            await self._bucket.delete(file)

    async def sweep(self, keep: Keep) -> None:
        """Delete old files that no part refers to, and old chunks of no file. `keep` is called between steps."""
        hello = await self._database.command("hello")
        before: datetime = hello["localTime"].replace(tzinfo=UTC) - AGE
        await self._sweep_files(before, keep)
        await self._sweep_chunks(ObjectId.from_datetime(before), keep)

    async def _sweep_files(self, before: datetime, keep: Keep) -> None:
        last = _FIRST
        while found := await self._next(last):
            await keep()
            last = found[-1]["_id"]
            digests = {each["_id"]: bytes.fromhex(each["filename"]) for each in found}
            cursor = self._database[PARTS].find({"_id": {"$in": list(digests.values())}}, {"file": 1})
            used = {part.get("file") async for part in cursor}
            for each in found:
                if each["_id"] not in used and each["uploadDate"] < before:
                    await self.delete(each["_id"])

    async def _next(self, last: ObjectId) -> list[Document]:
        return await self._files.find(
            {"_id": {"$gt": last}}, {"filename": 1, "uploadDate": 1}, sort=[("_id", 1)], limit=AT_ONCE
        ).to_list()

    async def _sweep_chunks(self, before: ObjectId, keep: Keep) -> None:
        """A file's document is written after its chunks."""
        last = _FIRST
        while True:
            await keep()
            within = {"files_id": {"$gt": last, "$lt": before}, "n": 0}
            cursor = self._chunks.find(within, {"_id": 0, "files_id": 1}, sort=[("files_id", 1), ("n", 1)])
            named = [each["files_id"] async for each in cursor.limit(AT_ONCE)]
            if not named:
                return
            last = named[-1]
            whole = {each["_id"] async for each in self._files.find({"_id": {"$in": named}}, {"_id": 1})}
            alone = [each for each in named if each not in whole]
            if alone:
                await self._chunks.delete_many({"files_id": {"$in": alone}})
