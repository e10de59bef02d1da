"""Taking exchanges in, without transactions: idempotent steps in an order that leaves nothing half there.

Everything is encoded before anything is written. Then come parts and texts, which show nowhere by themselves, then the
exchanges, then the journal's positions; the batch shows when the writer is closed. A writer that dies in between leaves
what the next attempt finds as done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import bson
from blake3 import blake3
from bson import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError

from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.stores.base import AddResult, Gap, JournalPosition
from gemini_caching_proxy.stores.codec import Codec
from gemini_caching_proxy.stores.facets import INT64_MAX, bounded, clean
from gemini_caching_proxy.stores.phrases import index_words

from . import state
from .connection import CODEC, Database, Document, at_once, duplicates, only_duplicates, unwaiting
from .documents import Sketch, sketch
from .facets import Facets
from .parts import PartWriter
from .schema import FACETS, GAPS, INTERACTIONS, POSITIONS, TEXTS

STALE_SECONDS: Final = state.ABANDONED_SECONDS / 2
"""Numbers drawn longer ago may count as abandoned by now: new ones are drawn."""


@dataclass(slots=True)
class Batch:
    """What one batch writes."""

    exchanges: list[RawBSONDocument] = field(default_factory=list)
    parts: list[Document] = field(default_factory=list)
    texts: list[Document] = field(default_factory=list)
    facets: list[Document] = field(default_factory=list)


class Writer:
    """The one of a store that adds. One call at a time."""

    def __init__(self, database: Database, name: str) -> None:
        """`name`: whose batches these are; of two writers with one name each closes what the other left open."""
        self._database = database
        self._before = unwaiting(database)
        self._name = name
        self._codec = Codec()
        self._parts = PartWriter(self._before)
        self._facets = Facets(database)

    def __repr__(self) -> str:
        return f"<Writer {self._name}>"

    async def begin(self) -> None:
        """Close what a predecessor of this name left open."""
        await state.close(self._before, self._name)

    async def add(self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition]) -> AddResult:
        """See `ExchangeStore.add`."""
        new = await self._new(exchanges)
        sketches = [sketch(each, self._codec) for each in new]
        added = await self._write(sketches) if sketches else 0
        if sketches:
            await at_once(self.note(positions), state.close(self._before, self._name))
        else:
            await self.note(positions)
        return AddResult(added=added, duplicates=len(exchanges) - added)

    async def _new(self, exchanges: Sequence[Exchange]) -> list[Exchange]:
        distinct: dict[UUID, Exchange] = {}
        for each in exchanges:
            distinct.setdefault(each.id, each)
        if not distinct:
            return []
        cursor = self._database[INTERACTIONS].find({"_id": {"$in": list(distinct)}}, {"_id": 1})
        known = {document["_id"] async for document in cursor}
        return [each for name, each in distinct.items() if name not in known]

    async def _write(self, sketches: Sequence[Sketch]) -> int:
        drawn = _now()
        first, seen = await state.draw(self._before, self._name, len(sketches))
        self._parts.begin(seen.epoch)
        try:
            batch = self._batch(sketches, first)
        except BaseException:
            await state.close(self._before, self._name)
            raise
        _, made, left = await at_once(
            self._insert(self._before, FACETS, batch.facets),
            self._parts.write(batch.parts),
            self._insert_texts(batch.texts),
        )
        if left:
            await self._before[TEXTS].bulk_write([_taking(text, made) for text in left], ordered=False)
        if _now() - drawn > STALE_SECONDS:
            return await self._write(sketches)
        added = await self._insert(self._database, INTERACTIONS, batch.exchanges)
        self._facets.learn(each.facet for each in sketches)
        return added

    def _batch(self, sketches: Sequence[Sketch], first: int) -> Batch:
        batch = Batch()
        facets: dict[bytes, Document] = {}
        brought: set[bytes] = set()
        for sequence, each in enumerate(sketches, first):
            document = each.document
            document["sequence"] = Int64(sequence)
            batch.exchanges.append(RawBSONDocument(bson.encode(document, codec_options=CODEC)))
            if each.words:
                batch.texts.append(_text(document["_id"], each, sequence, each.words))
            for draft in self._parts.unknown(each.drafts, brought):
                batch.parts.append(self._parts.document(draft, each.exchange.id, sequence))
                words = index_words(draft.text) if draft.text else []
                if words:
                    batch.texts.append(_text(draft.digest, each, sequence, words))
            if not self._facets.knows(each.facet):
                facets[each.facet_digest] = self._facets.document(each.facet, each.facet_digest, sequence)
        batch.facets = list(facets.values())
        return batch

    async def _insert(
        self, database: Database, name: str, documents: Sequence[Document] | Sequence[RawBSONDocument]
    ) -> int:
        """Insert what is not there yet; how many those were."""
        if not documents:
            return 0
        try:
            await database[name].insert_many(documents, ordered=False)
        except BulkWriteError as error:
            return len(documents) - only_duplicates(error)
        return len(documents)

    async def _insert_texts(self, texts: Sequence[Document]) -> list[Document]:
        """Insert texts; those that are there already.

        An attempt that broke off left it, with a number that will not be, or a part that was pruned did, or the part is
        somebody else's and so is its text.
        """
        if not texts:
            return []
        try:
            await self._before[TEXTS].insert_many(texts, ordered=False)
        except BulkWriteError as error:
            return [texts[index] for index in duplicates(error)]
        return []

    async def note(self, positions: Sequence[JournalPosition]) -> None:
        """Write down how far journals are taken in."""
        if positions:
            await self._database[POSITIONS].bulk_write(
                [
                    UpdateOne(
                        {"_id": each.journal},
                        {"$set": {"segment": Int64(each.segment), "offset": Int64(each.offset)}},
                        upsert=True,
                    )
                    for each in positions
                ],
                ordered=False,
            )

    async def add_gap(self, gap: Gap, positions: Sequence[JournalPosition]) -> None:
        """See `ExchangeStore.add_gap`."""
        name = blake3(f"{gap.first_ns} {gap.last_ns} {gap.exchanges} {clean(gap.reason)}".encode()).digest(length=16)
        document = {
            "exchanges": bounded(gap.exchanges, INT64_MAX),
            "first_ns": bounded(gap.first_ns, INT64_MAX),
            "last_ns": bounded(gap.last_ns, INT64_MAX),
            "reason": clean(gap.reason),
        }
        await self._database[GAPS].update_one({"_id": name}, {"$setOnInsert": document}, upsert=True)
        await self.note(positions)

    async def forget_journal(self, journal: str) -> None:
        """See `ExchangeStore.forget_journal`."""
        await self._database[POSITIONS].delete_one({"_id": journal})


def _taking(text: Document, made: set[bytes]) -> ReplaceOne[Document] | UpdateOne:
    """What makes a text ours that is there, if it is ours."""
    name, exchange = text["_id"], text["exchange"]
    if name == exchange or name in made:
        return ReplaceOne({"_id": name}, text, upsert=True)
    return UpdateOne({"_id": name, "exchange": exchange}, {"$set": {"sequence": text["sequence"]}})


def _now() -> float:
    """Seconds that go on while the machine sleeps: what others take for abandoned goes by that."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _text(name: UUID | bytes, each: Sketch, sequence: int, words: list[str]) -> Document:
    exchange = each.exchange
    document: Document = {"_id": name, "sequence": Int64(sequence), "exchange": exchange.id}
    document |= {"facet": each.facet_digest, "started_ns": Int64(exchange.started_ns), "words": words}
    if exchange.conversation is not None:
        document["conversation"] = exchange.conversation
    return document
