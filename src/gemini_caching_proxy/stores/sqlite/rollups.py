"""Rollups: sums over many exchanges, kept as they come in.

Each exchange counts in the rollups of its UTC hour and of its UTC day, in each under its facet and under facet 0, which is
all. Rollups are not undone by pruning: what was spent outlives the bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import add

import apsw

from .connection import fetch_one
from .histogram import Histogram, bucket_of, encode, merge_encoded

SECOND_NS = 1_000_000_000
HOUR_S = 3600
DAY_S = 24 * HOUR_S
HOUR_NS = HOUR_S * SECOND_NS
ALL_FACETS = 0

Measure = tuple[
    int | None, int | None, int | None, int | None, int | None, int | None, int, int, int | None, int | None
]
"""input, cached, output, thoughts, total tokens, price, request bytes, response bytes, duration, ttft."""

MEASURE_COLUMNS = (
    "e.input_tokens, e.cached_tokens, e.output_tokens, e.thoughts_tokens, e.total_tokens, e.price_nanousd,"
    " e.request_bytes, e.response_bytes, e.duration_us, e.ttft_us"
)
SUM_COLUMNS = (
    "exchanges",
    "errors",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "thoughts_tokens",
    "total_tokens",
    "priced",
    "total_nanousd",
    "request_bytes",
    "response_bytes",
)


@dataclass(slots=True)
class Tally:
    """Running sums of some exchanges."""

    sums: list[int] = field(default_factory=lambda: [0] * len(SUM_COLUMNS))
    """In the order of `SUM_COLUMNS`."""
    durations: Histogram = field(default_factory=dict)
    ttfts: Histogram = field(default_factory=dict)

    def count(self, measure: Measure, *, is_error: bool) -> None:
        """Add one exchange."""
        *tokens, price, request_bytes, response_bytes, duration, ttft = measure
        numbers = [number or 0 for number in tokens]
        row = (1, is_error, *numbers, price is not None, price or 0, request_bytes, response_bytes)
        self.sums = list(map(add, self.sums, row))
        _count(self.durations, duration)
        _count(self.ttfts, ttft)

    def merge(self, sums: Sequence[int], durations: str, ttfts: str) -> None:
        """Add a stored tally, or several added up in SQL."""
        self.sums = list(map(add, self.sums, sums))
        merge_encoded(self.durations, durations)
        merge_encoded(self.ttfts, ttfts)


def _count(histogram: Histogram, microseconds: int | None) -> None:
    if microseconds is not None:
        bucket = bucket_of(microseconds)
        histogram[bucket] = histogram.get(bucket, 0) + 1


_READ = f"SELECT {', '.join(SUM_COLUMNS)}, durations, ttfts FROM rollups WHERE grain = ? AND facet = ? AND start = ?"  # noqa: S608
_WRITE = f"INSERT OR REPLACE INTO rollups VALUES ({', '.join('?' * (len(SUM_COLUMNS) + 5))})"  # noqa: S608


class Rollups:
    """What one batch adds to the rollups."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, int, int], Tally] = {}

    def count(self, started_ns: int, facet: int, measure: Measure, *, is_error: bool) -> None:
        second = started_ns // SECOND_NS
        for grain, start in (("hour", second - second % HOUR_S), ("day", second - second % DAY_S)):
            for number in (facet, ALL_FACETS):
                self._tallies.setdefault((grain, number, start), Tally()).count(measure, is_error=is_error)

    def write(self, connection: apsw.Connection) -> None:
        """Add to the stored rollups, in the running transaction."""
        for key, tally in self._tallies.items():
            stored = fetch_one(connection, _READ, key)
            if stored is not None:
                *sums, durations, ttfts = stored
                tally.merge(sums, durations, ttfts)
            connection.execute(_WRITE, (*key, *tally.sums, encode(tally.durations), encode(tally.ttfts)))


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range: of Unix seconds for a rollup grain, of nanoseconds for exchanges."""

    grain: str
    """`day`, `hour`, or `exchange`."""
    start: int
    end: int


FOREVER = 2**63 - 1


def spans(since_ns: int | None, until_ns: int | None, *, by_hour: bool) -> Iterator[Span]:
    """The fewest rows that cover a time range: whole days, whole hours, exchanges at its ends.

    Args:
        by_hour: the answer is wanted per hour, so days will not do.
    """
    since = -FOREVER if since_ns is None else since_ns
    until = FOREVER if until_ns is None else until_ns
    first_hour = -(-since // HOUR_NS) * HOUR_S if since_ns is not None else -FOREVER
    last_hour = until // HOUR_NS * HOUR_S if until_ns is not None else FOREVER
    if since >= until:
        return
    if first_hour >= last_hour:
        yield Span("exchange", since, until)
        return
    if since_ns is not None and since < first_hour * SECOND_NS:
        yield Span("exchange", since, first_hour * SECOND_NS)
    yield from _whole_hours(first_hour, last_hour, by_hour=by_hour)
    if until_ns is not None and last_hour * SECOND_NS < until:
        yield Span("exchange", last_hour * SECOND_NS, until)


def _whole_hours(first: int, last: int, *, by_hour: bool) -> Iterator[Span]:
    first_day = first if first == -FOREVER else -(-first // DAY_S) * DAY_S
    last_day = last if last == FOREVER else last // DAY_S * DAY_S
    if by_hour or first_day >= last_day:
        yield Span("hour", first, last)
        return
    if first < first_day:
        yield Span("hour", first, first_day)
    yield Span("day", first_day, last_day)
    if last_day < last:
        yield Span("hour", last_day, last)
