"""Statistics: put together from whole days, whole hours and, for ends inside an hour, exchanges.

A question about text or a conversation reads exchanges only, through their index; what was pruned is then missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import apsw
import msgspec

from gemini_caching_proxy.stores.base import Query, StatsGroup, StatsRow
from gemini_caching_proxy.stores.tallies import (
    DAY_S,
    SECOND_NS,
    SUM_COLUMNS,
    Groups,
    Span,
    Tally,
    spans,
    stats_rows,
    time_key,
)

from .facets import Facets
from .filters import conditions
from .rollups import ALL_FACETS, MEASURE_COLUMNS

_SUMS = ", ".join(f"sum({name})" for name in SUM_COLUMNS)


class Statistics:
    """Answers `stats` on one connection."""

    def __init__(self, connection: apsw.Connection, facets: Facets) -> None:
        self._connection = connection
        self._facets = facets

    def rows(self, query: Query, group: StatsGroup | None) -> tuple[StatsRow, ...]:
        """One row per group value; see `ExchangeStore.stats`."""
        groups: Groups = {"": Tally()} if group is None else {}
        if query.contains is not None or query.conversation is not None:
            self._add_exchanges(query, group, groups)
        else:
            for span in spans(
                query.since_ns, query.until_ns, finest_wanted=group if group in ("day", "hour") else None
            ):
                if span.grain == "exchange":
                    within = replace(query, since_ns=span.start, until_ns=span.end)
                    self._add_exchanges(within, group, groups)
                else:
                    self._add_rollups(span, query, group, groups)
        return stats_rows(groups, group)

    def _add_rollups(self, span: Span, query: Query, group: StatsGroup | None, groups: Groups) -> None:
        facets = self._facets.matching(query)
        if facets is None and group in (None, "day", "hour"):
            facets = [ALL_FACETS]
        elif facets is None:
            facets = self._facets.numbers()
        key = {None: "0", "hour": "start", "day": f"start - start % {DAY_S}"}.get(group, "facet")
        found = self._connection.execute(
            f"SELECT {key}, {_SUMS}, group_concat(durations, ''), group_concat(ttfts, '') FROM rollups"  # noqa: S608
            " WHERE grain = ? AND start >= ? AND start < ? AND facet IN (SELECT value FROM json_each(?)) GROUP BY 1",
            (span.grain, span.start, span.end, msgspec.json.encode(facets).decode()),
        )
        for value, *sums, durations, ttfts in found:
            self._tally(groups, group, value, value).merge(sums, durations, ttfts)

    def _add_exchanges(self, query: Query, group: StatsGroup | None, groups: Groups) -> None:
        for started_ns, facet, *measure in self._exchanges(query):
            tally = self._tally(groups, group, started_ns // SECOND_NS, facet)
            one = self._facets[facet]
            tally.count(tuple(measure), is_error=one.is_error, is_served=one.is_served)  # type: ignore[arg-type]

    def _exchanges(self, query: Query) -> Iterator[tuple[int, ...]]:
        chosen = conditions(query, self._facets.matching(query))
        return self._connection.execute(
            f"SELECT e.started_ns, e.facet, {MEASURE_COLUMNS} FROM exchanges e WHERE {chosen.sql}",  # noqa: S608
            chosen.parameters,
        )

    def _tally(self, groups: Groups, group: StatsGroup | None, start_s: int, facet: int) -> Tally:
        key = self._key(group, start_s, facet)
        tally = groups.get(key)
        if tally is None:
            tally = groups[key] = Tally()
        return tally

    def _key(self, group: StatsGroup | None, start_s: int, facet: int) -> str:
        if group is None:
            return ""
        if group in ("day", "hour"):
            return time_key(start_s, group)
        return self._facets[facet].group_key(group)
