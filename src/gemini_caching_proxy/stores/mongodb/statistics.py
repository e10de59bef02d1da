"""Statistics: whole blocks, days and hours from rollups; from exchanges what is inside an hour, or not settled yet.

Nothing has to stand still for it. A rollup says up to which sequence number it counts, so an exchange that is settled
while the question runs is counted by itself exactly if its rollup was read before. Every answer is that of one horizon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from gemini_caching_proxy.stores.base import Query, StatsGroup, StatsRow
from gemini_caching_proxy.stores.facets import Facet
from gemini_caching_proxy.stores.tallies import (
    FOREVER,
    GRAINS,
    SECOND_NS,
    Groups,
    Span,
    Tally,
    spans,
    stats_rows,
    time_key,
)

from . import state
from .connection import Database, Document
from .facets import Facets
from .filters import Choice, Terms, conditions
from .keys import Keys
from .rollups import ALL, DIMENSIONS, FACET, FOLDED, Key, Scopes, measured
from .schema import INTERACTIONS
from .search import Match, Search
from .sums import ChosenScopes, add_exchanges, rollup_rows

ASKED_TOGETHER: Final = 100
"""Scopes of one question: what the server gathers for one day of so many stays far below 16 MB."""
LISTED: Final = 1000
"""Exchanges found by their words that are added up at a time."""
_SECONDS: Final = dict(GRAINS)
_ALL, _FACET = 0, len(DIMENSIONS) + 2
"""Places in `rollups.scopes_of`."""


class Statistics:
    """Answers `stats`."""

    def __init__(self, database: Database, facets: Facets) -> None:
        self._database = database
        self._facets = facets
        self._scopes = Scopes(database)
        self._search = Search(database, Keys(database))

    def __repr__(self) -> str:
        return f"<Statistics with {self._facets!r}>"

    async def rows(self, query: Query, group: StatsGroup | None) -> tuple[StatsRow, ...]:
        """One row per group value; see `ExchangeStore.stats`."""
        if query.contains is not None:
            answer = await self._of_words(query, query.contains, group)
        elif query.conversation is not None:
            answer = _Answer(group)
            choice = await self._choice(query)
            await self._add(answer, choice.conditions, "conversation", choice.horizon)
        else:
            answer = await self._of_rollups(query, group)
        return stats_rows(answer.groups, group)

    async def _choice(self, query: Query) -> Choice:
        """The query as things stand."""
        seen = await state.look(self._database)
        await self._facets.refresh(seen.horizon)
        return Choice(query, self._facets.matching(query), seen.horizon, seen.indexed)

    async def _add(self, answer: _Answer, condition: Document, index: str, horizon: int, *, after: int = 0) -> int:
        """Add exchanges with sequence numbers from after `after` up to the horizon; how many there were."""
        within = {**condition, "sequence": {"$gt": after, "$lte": horizon}}
        return await add_exchanges(self._database, within, index, answer.group, answer.tally)

    async def _of_rollups(self, query: Query, group: StatsGroup | None) -> _Answer:
        finest = group if group in ("day", "hour") else None
        covering = list(spans(query.since_ns, query.until_ns, finest_wanted=finest))
        rolled = [span for span in covering if span.grain != "exchange"]
        while True:
            answer = _Answer(group)
            seen = await state.look(self._database)
            await self._facets.refresh(seen.horizon)
            plan = self._plan(query, group)
            for span in rolled:
                await self._add_rollups(answer, span, plan, seen.settled)
            choice = await self._choice(query)
            # A new combination of values can make the scopes the wrong ones.
            if plan == self._plan(query, group):
                break
        if choice.is_empty:
            return answer
        for span in covering:
            if span.grain == "exchange":
                within = replace(query, since_ns=span.start, until_ns=span.end)
                await self._add(answer, conditions(within, choice.digests), "time", choice.horizon)
        if rolled and choice.horizon > seen.settled:
            await self._add_unsettled(answer, choice, plan, seen.settled)
        return answer

    async def _add_rollups(self, answer: _Answer, span: Span, plan: _Plan, settled: int) -> None:
        for scopes in plan.batches():
            async for row in rollup_rows(self._database, span, scopes, answer.group, settled):
                answer.tally(self._key(row.group, plan, answer.group)).merge(row.sums, row.durations, row.ttfts)
                answer.later |= row.later
        answer.spans.append(span)

    def _key(self, row: str | int, plan: _Plan, group: StatsGroup | None) -> str:
        """The key of the group that a row of rollups belongs to."""
        if group is None:
            return ""
        if group in ("day", "hour"):
            return time_key(int(row), group)
        value = str(row).partition(":")[2]
        return self._scopes.facets[bytes.fromhex(value)].group_key(group) if plan.place == _FACET else value

    async def _add_unsettled(self, answer: _Answer, choice: Choice, plan: _Plan, settled: int) -> None:
        """Exchanges that the rollups did not count when they were read."""
        since_ns, until_ns = _times(answer.spans)
        within = conditions(replace(choice.query, since_ns=since_ns, until_ns=until_ns), choice.digests)
        edge = max(answer.later.values(), default=settled)
        if edge > settled:
            await self._add_one_by_one(answer, {**within, "sequence": {"$gt": settled, "$lte": edge}}, plan)
        if choice.horizon > edge:
            await self._add(answer, within, "sequence", choice.horizon, after=edge)

    async def _add_one_by_one(self, answer: _Answer, condition: Document, plan: _Plan) -> None:
        """Those of which each may have been counted by its rollup, or not."""
        async for document in self._database[INTERACTIONS].find(condition, FOLDED, hint="sequence"):
            digest, second = document["facet"], int(document["started_ns"]) // SECOND_NS
            await self._scopes.learn([digest])
            rollup = answer.rollup_of(second, self._scopes.scopes[digest][plan.place])
            if int(document["sequence"]) > answer.later.get(rollup, 0):
                facet = self._scopes.facets[digest]
                tally = answer.tally(_facet_key(facet, second, answer.group))
                tally.count(measured(document), is_error=facet.is_error, is_served=facet.is_served)

    def _plan(self, query: Query, group: StatsGroup | None) -> _Plan:
        """The fewest scopes that hold exactly what the query asks for, and tell the groups apart."""
        matching = self._facets.matching(query)
        dimension = None if group in (None, "day", "hour") else group
        if matching is None:
            if dimension is None:
                return _Plan(_ALL, (ALL,))
            # Up to the character after the colon: every value.
            return _Plan(1 + DIMENSIONS.index(dimension), {"$gte": f"{dimension}:", "$lt": f"{dimension};"})
        known = [(digest, self._scopes.of(digest, facet)) for digest, facet in self._facets.items()]
        wanted = set(matching)
        found = [_Plan(_FACET, tuple(sorted(f"{FACET}:{digest.hex()}" for digest in wanted)))]
        for place in range(_FACET) if dimension is None else [1 + DIMENSIONS.index(dimension)]:
            scopes = {values[place] for digest, values in known if digest in wanted}
            if all(digest in wanted for digest, values in known if values[place] in scopes):
                found.append(_Plan(place, tuple(sorted(scopes))))
        return min(found, key=lambda plan: len(plan.scopes))

    async def _of_words(self, query: Query, contains: str, group: StatsGroup | None) -> _Answer:
        answer = _Answer(group)
        terms = Terms.of(contains)
        if terms is None:
            return answer
        choice = await self._choice(replace(query, contains=None))
        strayed: set[UUID] = set()
        batch: list[Match] = []
        async with aclosing(self._search.newest(terms, choice)) as matches:
            async for match in matches:
                batch.append(match)
                if len(batch) == LISTED:
                    strayed |= await self._add_matches(answer, batch, choice.horizon)
                    batch = []
        strayed |= await self._add_matches(answer, batch, choice.horizon)
        for exchange in strayed:
            await self._add_strayed(answer, exchange, terms, choice)
        return answer

    async def _add_matches(self, answer: _Answer, matches: Sequence[Match], horizon: int) -> set[UUID]:
        """Add the exchanges that were found; those whose texts have another number than they are left over."""
        sequences = [match.sequence for match in matches]
        condition = {"$and": [{"sequence": {"$in": sequences}}, {"sequence": {"$lte": horizon}}]}
        count = await add_exchanges(self._database, condition, "sequence", answer.group, answer.tally)
        if count == len(matches):
            return set()
        ids = [match.exchange for match in matches]
        strayed = self._database[INTERACTIONS].find(
            {"_id": {"$in": ids}, "sequence": {"$nin": sequences, "$lte": horizon}}, {"_id": 1}
        )
        return {document["_id"] async for document in strayed}

    async def _add_strayed(self, answer: _Answer, exchange: UUID, terms: Terms, choice: Choice) -> None:
        """Add an exchange that was written at the second attempt, unless another of its texts was found as well."""
        document = await self._database[INTERACTIONS].find_one({"_id": exchange}, {"sequence": 1})
        if document is None:
            return
        async with aclosing(self._search.newest(terms, choice, before=document["sequence"] + 1)) as matches:
            async for match in matches:
                if (match.exchange, match.sequence) == (exchange, document["sequence"]):
                    return
                break
        await add_exchanges(self._database, {"_id": exchange}, "_id_", answer.group, answer.tally)


@dataclass(slots=True)
class _Answer:
    """What was added up so far."""

    group: StatsGroup | None
    groups: Groups = field(default_factory=dict)
    later: dict[Key, int] = field(default_factory=dict)
    """Rollups that count more than was settled when the question began, and through which sequence number."""
    spans: list[Span] = field(default_factory=list)
    """That the rollups are of."""

    def __post_init__(self) -> None:
        if self.group is None:
            self.groups[""] = Tally()

    def tally(self, key: str) -> Tally:
        tally = self.groups.get(key)
        if tally is None:
            tally = self.groups[key] = Tally()
        return tally

    def rollup_of(self, second: int, scope: str) -> Key:
        """Which of the rollups is the one of an exchange."""
        grain = next(span.grain for span in self.spans if span.start <= second < span.end)
        return Key(grain, second - second % _SECONDS[grain], scope)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which scopes to read."""

    place: int
    """Theirs in `rollups.scopes_of`."""
    scopes: ChosenScopes

    def batches(self) -> list[ChosenScopes]:
        """Them, some at a time."""
        if isinstance(self.scopes, Mapping):
            return [self.scopes]
        return [self.scopes[at : at + ASKED_TOGETHER] for at in range(0, len(self.scopes), ASKED_TOGETHER)]


def _facet_key(facet: Facet, second: int, group: StatsGroup | None) -> str:
    """The key of an exchange's group."""
    if group is None:
        return ""
    if group in ("day", "hour"):
        return time_key(second, group)
    return facet.group_key(group)


def _times(rolled: Sequence[Span]) -> tuple[int | None, int | None]:
    """The nanoseconds that these spans cover together; open ends stay open."""
    start, end = rolled[0].start, rolled[-1].end
    return None if start == -FOREVER else start * SECOND_NS, None if end == FOREVER else end * SECOND_NS
