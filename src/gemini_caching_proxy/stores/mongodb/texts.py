"""Reading texts that search found: to check phrases on them, and to show what stands around a match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gemini_caching_proxy.stores.codec import Codec

from .connection import Database, Document
from .documents import LONGEST_TEXT, searched_text_of, text_of, text_references_of
from .parts import PartReader
from .schema import INTERACTIONS, PARTS

READ_AT_ONCE: Final = 20
"""Texts; each may be megabytes."""
_IN_THE_OPEN: Final = {"request.text": 1, "response.text": 1, "said": 1, "text_cut": 1}


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    is_whole: bool
    """An exchange's own is not: text between parts is searched but not kept."""


class TextReader:
    """Reads the texts of parts, by digest, and of exchanges, by id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parts = PartReader(database)
        self._codec = Codec()

    async def fetch(self, names: Sequence[UUID | bytes]) -> dict[UUID | bytes, Text]:
        """Those that are there."""
        own = [name for name in names if isinstance(name, UUID)]
        parts = [name for name in names if not isinstance(name, UUID)]
        found: dict[UUID | bytes, Text] = {}
        if parts:
            found |= await self._of_parts(parts)
        if own:
            found |= await self._of_exchanges(own)
        return found

    async def _of_parts(self, digests: Sequence[bytes]) -> dict[UUID | bytes, Text]:
        cursor = self._database[PARTS].find({"_id": {"$in": list(digests)}}, {"text": 1, "text_cut": 1})
        found = {each["_id"]: each async for each in cursor}
        cut = [digest for digest, each in found.items() if each.get("text_cut")]
        texts: dict[UUID | bytes, Text] = {digest: Text(each.get("text", ""), True) for digest, each in found.items()}
        for digest in cut:
            # One at a time: they are long.
            for document in (await self._parts.fetch([digest])).values():
                texts[digest] = Text(self._parts.part(document)[2], True)
        return texts

    async def _of_exchanges(self, ids: Sequence[UUID]) -> dict[UUID | bytes, Text]:
        cursor = self._database[INTERACTIONS].find({"_id": {"$in": list(ids)}}, _IN_THE_OPEN)
        found = {each["_id"]: each async for each in cursor}
        return {name: Text(await self._own(document), False) for name, document in found.items()}

    async def _own(self, document: Document) -> str:
        asked: str = document.get("request", {}).get("text", "")
        if not document.get("text_cut") and len(asked) < LONGEST_TEXT:
            return "\n".join(filter(None, [text_of(document), asked]))
        whole = await self._database[INTERACTIONS].find_one({"_id": document["_id"]})
        if whole is None:
            return ""
        parts = await self._parts.fetch(text_references_of(whole))
        return searched_text_of(whole, parts, self._parts, self._codec)
