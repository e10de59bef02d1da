"""Sums worked out by the server: of exchanges, and of rollups. A row of them per group, ready for a tally.

Percentiles need more than sums. Of exchanges the server gathers the durations, two numbers each, in documents of
bounded size, and `histogram.bucket_of` puts them into buckets here; of rollups it gathers the histograms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gemini_caching_proxy.exchange import Verdict
from gemini_caching_proxy.stores.base import StatsGroup
from gemini_caching_proxy.stores.facets import client_name
from gemini_caching_proxy.stores.histogram import Histogram, bucket_of
from gemini_caching_proxy.stores.tallies import DAY_S, SUM_COLUMNS, Span, Tally, time_key

from .connection import Database, Document
from .rollups import Key
from .schema import INTERACTIONS, ROLLUPS

GATHERED: Final = 65_536
"""Sequence numbers whose durations are gathered in one document: 2 MB at most."""
ROWS: Final = 1000
"""That come with one answer of the server, if they are not too large."""

ChosenScopes = tuple[str, ...] | Document
"""These, or a condition."""

_SERVED: Final = [Verdict.HIT.value, Verdict.COLLAPSED.value]
_SUMMED: Final[Document] = {
    "exchanges": {"$sum": 1},
    "errors": {"$sum": {"$cond": ["$is_error", 1, 0]}},
    "input_tokens": {"$sum": "$usage.input_tokens"},
    "cached_tokens": {"$sum": "$usage.cached_tokens"},
    "output_tokens": {"$sum": "$usage.output_tokens"},
    "thoughts_tokens": {"$sum": "$usage.thoughts_tokens"},
    "total_tokens": {"$sum": "$usage.total_tokens"},
    "priced": {"$sum": {"$cond": [{"$gt": ["$price.total_nanousd", None]}, 1, 0]}},
    "total_nanousd": {"$sum": "$price.total_nanousd"},
    "request_bytes": {"$sum": "$request.bytes"},
    "response_bytes": {"$sum": "$response.bytes"},
    "cache_hits": {"$sum": {"$cond": [{"$in": ["$verdict", _SERVED]}, 1, 0]}},
    "saved_nanousd": {"$sum": "$cache.saved_nanousd"},
    "saved_us": {"$sum": "$cache.saved_us"},
    "durations": {"$push": "$timing.duration_us"},
    "ttfts": {"$push": "$timing.ttft_us"},
}

_BY: Final[Mapping[StatsGroup | None, tuple[Document, Callable[[Document], str]]]] = {
    None: ({}, lambda name: ""),
    "model": (
        {"model": "$model", "version": "$model_version"},
        lambda name: name.get("model") or name.get("version") or "",
    ),
    "operation": ({"operation": "$operation"}, lambda name: str(name["operation"])),
    "status": ({"status": "$status"}, lambda name: "" if name.get("status") is None else str(name["status"])),
    "client": ({"client": "$user_agent"}, lambda name: client_name(name.get("client"))),
    "credential": ({"credential": "$credential"}, lambda name: name.get("credential") or ""),
    "hour": (
        {"date": {"$dateTrunc": {"date": "$started", "unit": "hour"}}},
        lambda name: time_key(int(name["date"].timestamp()), "hour"),
    ),
    "day": (
        {"date": {"$dateTrunc": {"date": "$started", "unit": "day"}}},
        lambda name: time_key(int(name["date"].timestamp()), "day"),
    ),
}
"""What exchanges are grouped by, and the group's key as `StatsRow` and `Facet.group_key` have it."""


async def add_exchanges(
    database: Database, condition: Document, index: str, group: StatsGroup | None, tally: Callable[[str], Tally]
) -> int:
    """Add the exchanges that a condition leaves to the tallies of their groups; how many they were.

    Args:
        tally: the one of a group's key.
    """
    named, key_of = _BY[group]
    some = {"$subtract": ["$sequence", {"$mod": ["$sequence", GATHERED]}]}
    pipeline: list[Document] = [{"$match": condition}, {"$group": {"_id": {**named, "some": some}, **_SUMMED}}]
    options: dict[str, Any] = {"hint": index, "allowDiskUse": True, "batchSize": ROWS}
    count = 0
    async with await database[INTERACTIONS].aggregate(pipeline, **options) as cursor:
        async for row in cursor:
            one = tally(key_of(row["_id"]))
            one.merge([int(row[name]) for name in SUM_COLUMNS], "", "")
            _count(one.durations, row["durations"])
            _count(one.ttfts, row["ttfts"])
            count += int(row["exchanges"])
    return count


def _count(histogram: Histogram, values: Sequence[int]) -> None:
    for value in values:
        bucket = bucket_of(value)
        histogram[bucket] = histogram.get(bucket, 0) + 1


_START: Final = "$start"


def _day(start: str) -> Document:
    """The day's first second; the server's remainder of a negative number is negative."""
    within = {"$mod": [{"$add": [{"$mod": [start, DAY_S]}, DAY_S]}, DAY_S]}
    return {"$subtract": [start, within]}


@dataclass(frozen=True, slots=True)
class RollupRow:
    """Of one group."""

    group: str | int
    """The scope, or the Unix second with which the group's time begins."""
    sums: list[int]
    durations: str
    ttfts: str
    later: dict[Key, int]
    """Rollups in it that count exchanges after the number asked for, and through which."""


async def rollup_rows(
    database: Database, span: Span, scopes: ChosenScopes, group: StatsGroup | None, settled: int
) -> AsyncIterator[RollupRow]:
    """Rollups of a time range, per hour or day, else per scope."""
    chosen = scopes if isinstance(scopes, dict) else {"$in": list(scopes)}
    later = {"$cond": [{"$gt": ["$through", settled]}, ["$scope", "$start", "$through"], "$$REMOVE"]}
    name = {"hour": _START, "day": _day(_START)}.get(group or "", "$scope")
    pipeline: list[Document] = [
        {"$match": {"grain": span.grain, "scope": chosen, "start": {"$gte": span.start, "$lt": span.end}}},
        {
            "$group": {
                "_id": name,
                **{column: {"$sum": f"${column}"} for column in SUM_COLUMNS},
                "durations": {"$push": "$durations"},
                "ttfts": {"$push": "$ttfts"},
                "later": {"$push": later},
            }
        },
    ]
    options: dict[str, Any] = {"hint": "key", "allowDiskUse": True, "batchSize": ROWS}
    async with await database[ROLLUPS].aggregate(pipeline, **options) as cursor:
        async for row in cursor:
            yield RollupRow(
                row["_id"],
                [int(row[column]) for column in SUM_COLUMNS],
                "".join(row["durations"]),
                "".join(row["ttfts"]),
                {Key(span.grain, int(start), scope): int(through) for scope, start, through in row["later"]},
            )
