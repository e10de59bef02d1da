"""Finding exchanges by their words, in order of intake, without gathering all matches.

A text carries the sequence number of the exchange that brought it in, so texts in falling order of it are exchanges in
falling order, each exchange's side by side, and a page ends as soon as it is full. What leads the walk is whatever
leaves the fewest texts to look at: the rarest of the words, the words that a beginning stands for, the few exchanges
that a filter leaves. The server checks the rest on the texts themselves, stretch by stretch, so that no single question
takes long however little there is to find.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from pymongo import ASCENDING, DESCENDING

from gemini_caching_proxy.stores.facets import INT64_MAX

from .connection import Database, Document
from .extents import Extents
from .filters import Choice, Terms, Walk
from .keys import Keys
from .schema import TEXTS
from .texts import READ_AT_ONCE, Text, TextReader

FEW_TEXTS: Final = 2000
"""So many are all looked at, whatever else is asked for."""
FEW_EXCHANGES: Final = 3000
"""So many are asked for their words, rather than all that hold the words for the filter."""
FEW_BEGUN: Final = 5000
"""Texts with words that begin alike, which have to be put in order."""
MOST_COUNTED: Final = 8
"""Of many words the longest, which are likely the rarest."""
SHORTEST_STRETCH, LONGEST_STRETCH = 500, 32_000
"""Texts that one question looks at."""
LISTED: Final = 500
"""Exchanges that one question asks for."""
TOGETHER: Final = 100
"""Matches that are checked at a time."""
_UNBOUNDED: Final = 2**31 - 1
_CARRIED: Final = {"sequence": 1, "exchange": 1}


@dataclass(frozen=True, slots=True)
class Match:
    text: UUID | bytes
    """Id of the text that matched: the exchange's, for its own text, or a part's digest."""
    exchange: UUID
    sequence: int
    """The text's: exchanges are found in its order."""


class Search:
    """Finds words in the texts of a database."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._collection = database[TEXTS]
        self._keys = keys
        self._extents = Extents(database)
        self.texts = TextReader(database)

    def newest(self, terms: Terms, choice: Choice, *, before: int | None = None) -> AsyncGenerator[Match, None]:
        """Exchanges of a choice, its `contains` too, that hold the terms: each once, the newest taken in first.

        A match's exchange may be missing: not written yet, or pruned just now. Whoever breaks off must close this.

        Args:
            before: only texts with a lower sequence number.
        """
        highest = choice.horizon if before is None else min(choice.horizon, before - 1)
        return self._found(terms, choice, Walk(1, highest))

    def following(self, terms: Terms, choice: Choice, *, after: int) -> AsyncGenerator[Match, None]:
        """As `newest`, of texts with a higher sequence number than `after`, the oldest first."""
        return self._found(terms, choice, Walk(max(after, 0) + 1, choice.horizon, ASCENDING))

    async def _found(self, terms: Terms, choice: Choice, walk: Walk) -> AsyncGenerator[Match, None]:
        wanted = choice.query.contains
        besides = None if wanted is None else Terms.of(wanted)
        if choice.is_empty or (wanted is not None and besides is None):
            return
        last: UUID | None = None
        async with aclosing(self._batches(terms, choice, walk)) as batches:
            async for batch in batches:
                holding = await self._verified(terms, batch)
                if besides is not None:
                    holding = await self._holding(besides, holding)
                for match in holding:
                    if match.exchange != last:
                        last = match.exchange
                        yield match

    async def _batches(self, terms: Terms, choice: Choice, walk: Walk) -> AsyncGenerator[list[Match], None]:
        """Texts that hold the words, some at a time."""
        rest = {"$and": [terms.condition, choice.conditions]} if choice.conditions else terms.condition
        batch: list[Match] = []
        async with aclosing(self._both(terms, choice, walk)) as stretches:
            async for condition, index in stretches:
                pipeline: list[Document] = [
                    {"$match": condition},
                    {"$sort": {"sequence": walk.direction}},
                    # Keeps the two conditions apart: the first alone decides how the index is used.
                    {"$limit": _UNBOUNDED},
                    {"$match": rest},
                    {"$project": _CARRIED},
                ]
                async with await self._collection.aggregate(pipeline, hint=index, batchSize=TOGETHER) as cursor:
                    async for each in cursor:
                        batch.append(_match(each))
                        if len(batch) == TOGETHER:
                            yield batch
                            batch = []
        yield batch

    async def _both(self, terms: Terms, choice: Choice, walk: Walk) -> AsyncGenerator[tuple[Document, str], None]:
        """Conditions that lead to all candidates in order, each with the index for it.

        The newest texts are not in the index of words yet; they are few, and all looked at.
        """
        indexed = replace(walk, highest=min(walk.highest, choice.indexed))
        fresh = replace(walk, lowest=max(walk.lowest, choice.indexed + 1))
        for part in (fresh, indexed) if walk.direction == DESCENDING else (indexed, fresh):
            if part.is_over:
                continue
            stretches = self._stretches(terms, choice, part) if part is indexed else self._walked({}, choice, part)
            async with aclosing(stretches):
                async for stretch in stretches:
                    yield stretch

    async def _stretches(self, terms: Terms, choice: Choice, walk: Walk) -> AsyncGenerator[tuple[Document, str], None]:
        """As `_both`, for texts that are in the index."""
        rarest, count = await self._rarest(terms.words, walk)
        listed: Sequence[int] | None = None
        if count > FEW_TEXTS:
            if choice.conditions:
                listed = await self._keys.few(choice, FEW_EXCHANGES)
            if listed is None and terms.beginning is not None:
                listed = await self._begun(terms)
        if listed is not None:
            for sequences in _in_order(listed, walk):
                yield {"sequence": {"$in": sequences}}, "sequence"
            return
        led = {} if rarest is None else {"words": rarest, "indexed": True}
        async with aclosing(self._walked(led, choice, walk)) as stretches:
            async for stretch in stretches:
                yield stretch

    async def _walked(self, led: Document, choice: Choice, walk: Walk) -> AsyncGenerator[tuple[Document, str], None]:
        """The walk in stretches, led by a word or by nothing."""
        index = "words" if led else "sequence"
        size = SHORTEST_STRETCH
        while not (walk := await self._extents.trimmed(walk, choice)).is_over:
            edge = await self._edge({**led, "sequence": walk.span}, index, walk.direction, size)
            stretch = walk if edge is None else walk.until(edge)
            yield {**led, "sequence": stretch.span}, index
            if edge is None:
                return
            walk, size = walk.beyond(edge), min(4 * size, LONGEST_STRETCH)

    async def _rarest(self, words: Sequence[str], walk: Walk) -> tuple[str | None, int]:
        """The word that the fewest texts hold, and how many; counted no further than tells whether they are few."""
        if not words:
            return None, FEW_TEXTS + 1
        tried = sorted(words, key=len, reverse=True)[:MOST_COUNTED]
        counts = [await self._count({"words": word, "sequence": walk.span, "indexed": True}) for word in tried]
        count = min(counts)
        return tried[counts.index(count)], count

    async def _count(self, condition: Document) -> int:
        return await self._collection.count_documents(condition, hint="words", limit=FEW_TEXTS + 1)

    async def _edge(self, condition: Document, index: str, direction: int, size: int) -> int | None:
        """Sequence number of the last text of a stretch; None if all that is left is no more than one."""
        found = self._collection.find(
            condition,
            {"_id": 0, "sequence": 1},
            sort=[("sequence", direction)],
            hint=index,
            skip=size,
            limit=1,
        )
        return next((int(each["sequence"]) for each in await found.to_list()), None)

    async def _begun(self, terms: Terms) -> list[int] | None:
        """Sequence numbers of texts with a word of that beginning, in no order; None if they are many."""
        first, last = terms.span
        inside = {"indexed": True}
        keys: Any = self._collection.find(inside, return_key=True, hint="words", limit=1, skip=FEW_BEGUN)
        ends = [[("words", word), ("sequence", INT64_MAX), ("indexed", False)] for word in (first, last)]
        if await keys.min(ends[0]).max(ends[1]).to_list():
            return None
        keys = self._collection.find(inside, return_key=True, hint="words")
        return [int(each["sequence"]) async for each in keys.min(ends[0]).max(ends[1])]

    async def _verified(self, terms: Terms, matches: list[Match]) -> list[Match]:
        """Those whose texts have the phrases."""
        if not terms.phrases or not matches:
            return matches
        found: list[Match] = []
        for start in range(0, len(matches), READ_AT_ONCE):
            some = matches[start : start + READ_AT_ONCE]
            texts = await self.texts.fetch([match.text for match in some])
            found += await asyncio.to_thread(_verified, terms, some, texts)
        return found

    async def _holding(self, terms: Terms, matches: list[Match]) -> list[Match]:
        """Those whose exchanges hold other terms, in whichever of their texts."""
        if not matches:
            return matches
        numbers = sorted({match.sequence for match in matches})
        condition = {"$and": [{"sequence": {"$in": numbers}}, terms.condition]}
        found = [_match(each) async for each in self._collection.find(condition, _CARRIED, hint="sequence")]
        holding = {match.exchange for match in await self._verified(terms, found)}
        return [match for match in matches if match.exchange in holding]


def _verified(terms: Terms, matches: Sequence[Match], texts: Mapping[UUID | bytes, Text]) -> list[Match]:
    present = [(match, texts[match.text]) for match in matches if match.text in texts]
    return [match for match, text in present if terms.holds(text.text, whole=text.is_whole)]


def _match(document: Document) -> Match:
    return Match(document["_id"], document["exchange"], int(document["sequence"]))


def _in_order(sequences: Sequence[int], walk: Walk) -> Iterator[list[int]]:
    within = {each for each in sequences if walk.lowest <= each <= walk.highest}
    ordered = sorted(within, reverse=walk.direction == DESCENDING)
    for start in range(0, len(ordered), LISTED):
        yield ordered[start : start + LISTED]
