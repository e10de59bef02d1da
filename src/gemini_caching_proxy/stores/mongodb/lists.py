"""Lists, following and search: which exchanges, then the rows of one page. No body is read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final
from uuid import UUID

from gemini_caching_proxy.stores.base import Hit, Page, Query, Summary
from gemini_caching_proxy.stores.facets import INT64_MAX
from gemini_caching_proxy.stores.phrases import snippet

from . import state
from .connection import Database, Document
from .documents import SUMMARY_FIELDS, summary_of
from .facets import Facets
from .filters import Choice, Terms
from .keys import Keys
from .schema import INTERACTIONS
from .search import Match, Search
from .texts import READ_AT_ONCE, Text

WINDOW: Final = 5000
"""Exchanges, right after where one is, that are walked through before anything else is tried."""
LONG_WINDOW: Final = 30_000
"""That one question walks through."""
FEW_EXCHANGES: Final = 5000
"""So many are put in order, rather than walking through all."""
_CURSOR_NUMBER: Final = re.compile("[0-9a-f]{1,15}|[0-7][0-9a-f]{15}")


class Lists:
    """Shows exchanges as rows."""

    def __init__(self, database: Database, facets: Facets) -> None:
        self._database = database
        self._facets = facets
        self._keys = Keys(database)
        self._search = Search(database, self._keys)

    async def choice(self, query: Query) -> Choice:
        """A query as things stand."""
        seen = await state.look(self._database)
        await self._facets.refresh(seen.horizon)
        return Choice(query, self._facets.matching(query), seen.horizon, seen.indexed)

    async def page(self, query: Query, limit: int, cursor: str | None) -> Page:
        """See `ExchangeStore.list`."""
        if query.contains is not None:
            return await self._page_of_words(query.contains, query, limit, cursor)
        numbers = _parse_cursor(cursor, "t", 2)
        before = None if numbers is None else (numbers[0], numbers[1])
        keys = await self._keys.newest(await self.choice(query), before, limit + 1)
        following = "t.{:x}.{:x}".format(*keys[limit - 1]) if len(keys) > limit else None
        return Page(await self._summaries([sequence for _, sequence in keys[:limit]]), following)

    async def _page_of_words(self, text: str, query: Query, limit: int, cursor: str | None) -> Page:
        numbers = _parse_cursor(cursor, "m", 1)
        found = await self._matching(
            text, replace(query, contains=None), limit + 1, before=numbers[0] if numbers else None
        )
        following = f"m.{found[limit - 1][0].sequence:x}" if len(found) > limit else None
        return Page(tuple(summary for _, summary in found[:limit]), following)

    async def after(self, sequence: int, query: Query, limit: int) -> tuple[Summary, ...]:
        """See `ExchangeStore.after`."""
        sequence = min(sequence, INT64_MAX)
        if query.contains is None:
            return await self._summaries(await self._following(sequence, await self.choice(query), limit))
        terms = Terms.of(query.contains)
        if terms is None:
            return ()
        choice = await self.choice(replace(query, contains=None))
        found = await self._shown(self._search.following(terms, choice, after=sequence), limit, choice.horizon)
        return tuple([summary for _, summary in found])

    async def _following(self, sequence: int, choice: Choice, limit: int) -> list[int]:
        if choice.is_empty:
            return []
        if not choice.conditions:
            return await self._keys.following(choice, sequence, limit)
        at = sequence + WINDOW
        found = await self._keys.following(choice, sequence, limit, up_to=at)
        if len(found) >= limit or at >= choice.horizon:
            return found
        few = await self._keys.few(choice, FEW_EXCHANGES)
        if few is not None:
            return sorted(each for each in few if each > sequence)[:limit]
        while len(found) < limit and at < choice.horizon:
            found += await self._keys.following(choice, at, limit - len(found), up_to=at + LONG_WINDOW)
            at += LONG_WINDOW
        return found

    async def last_sequence(self) -> int:
        """See `ExchangeStore.last_sequence`."""
        return await self._keys.last((await state.look(self._database)).horizon)

    async def search(self, text: str, query: Query, limit: int) -> tuple[Hit, ...]:
        """See `ExchangeStore.search`."""
        found = await self._matching(text, query, limit, last_is_prefix=True)
        hits: list[Hit] = []
        for start in range(0, len(found), READ_AT_ONCE):
            some = found[start : start + READ_AT_ONCE]
            texts = await self._search.texts.fetch([match.text for match, _ in some])
            hits += await asyncio.to_thread(_hits, text, some, texts)
        return tuple(hits)

    async def _matching(
        self, text: str, query: Query, limit: int, *, before: int | None = None, last_is_prefix: bool = False
    ) -> list[tuple[Match, Summary]]:
        terms = Terms.of(text, last_is_prefix=last_is_prefix)
        if terms is None:
            return []
        choice = await self.choice(query)
        return await self._shown(self._search.newest(terms, choice, before=before), limit, choice.horizon)

    async def _shown(
        self, matches: AsyncGenerator[Match, None], limit: int, horizon: int
    ) -> list[tuple[Match, Summary]]:
        """The first matches whose exchanges are there, with their rows."""
        found: dict[UUID, tuple[Match, Summary]] = {}
        waiting: dict[UUID, Match] = {}
        async with aclosing(matches):
            async for match in matches:
                if match.exchange not in found:
                    waiting.setdefault(match.exchange, match)
                if len(found) + len(waiting) >= limit:
                    found |= await self._rows(waiting, horizon)
                    waiting = {}
                    if len(found) >= limit:
                        break
        found |= await self._rows(waiting, horizon)
        return list(found.values())[:limit]

    async def _rows(self, matches: dict[UUID, Match], horizon: int) -> dict[UUID, tuple[Match, Summary]]:
        if not matches:
            return {}
        # A text may be older than its exchange, which somebody failed to write once and is about to write now.
        condition = {"_id": {"$in": list(matches)}, "sequence": {"$lte": horizon}}
        summaries = {each.id: each for each in await self._read(condition)}
        return {name: (match, summaries[name]) for name, match in matches.items() if name in summaries}

    async def _summaries(self, sequences: Sequence[int]) -> tuple[Summary, ...]:
        """Rows in this order; what was pruned just now is left out."""
        if not sequences:
            return ()
        found = {each.sequence: each for each in await self._read({"sequence": {"$in": list(sequences)}})}
        return tuple(found[sequence] for sequence in sequences if sequence in found)

    async def _read(self, condition: Document) -> list[Summary]:
        return [summary_of(each) async for each in self._database[INTERACTIONS].find(condition, SUMMARY_FIELDS)]


def _hits(typed: str, found: Sequence[tuple[Match, Summary]], texts: Mapping[UUID | bytes, Text]) -> list[Hit]:
    return [
        Hit(summary, snippet(texts[match.text].text, typed) if match.text in texts else "") for match, summary in found
    ]


def _parse_cursor(cursor: str | None, kind: str, numbers: int) -> list[int] | None:
    """The numbers of a cursor of this kind; None for none. Raises ValueError."""
    if cursor is None:
        return None
    found, *fields = cursor.split(".")
    if found != kind or len(fields) != numbers or not all(map(_CURSOR_NUMBER.fullmatch, fields)):
        raise ValueError(f"{cursor!r} is no cursor for this query.")
    return [int(field, 16) for field in fields]
