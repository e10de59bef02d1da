"""Rollups: sums over many exchanges, kept as they come in.

Each exchange counts in the rollups of its UTC hour, its UTC day and its block of 16 days, in each under its facet and
under facet 0, which is all. Rollups are not undone by pruning: what was spent outlives the bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import add

import apsw

from .connection import fetch_one
from .histogram import Histogram, bucket_of, condense, encode, merge_encoded, percentiles

SECOND_NS = 1_000_000_000
HOUR_S = 3600
DAY_S = 24 * HOUR_S
HOUR_NS = HOUR_S * SECOND_NS
GRAINS = (("hour", HOUR_S), ("day", DAY_S), ("block", 16 * DAY_S))
"""From fine to coarse; each starts at multiples of its seconds since 1970 and holds whole ones of the one before."""
ALL_FACETS = 0
LONGEST_HISTOGRAM = 800
"""Characters; a longer one is written anew, with fewer if it can be."""

Measure = tuple[
    int | None,
    int | None,
    int | None,
    int | None,
    int | None,
    int | None,
    int,
    int,
    int | None,
    int | None,
    int | None,
    int | None,
]
"""input, cached, output, thoughts, total tokens, price, request bytes, response bytes, duration, ttft, saved money,
saved time."""

MEASURE_COLUMNS = (
    "e.input_tokens, e.cached_tokens, e.output_tokens, e.thoughts_tokens, e.total_tokens, e.price_nanousd,"
    " e.request_bytes, e.response_bytes, e.duration_us, e.ttft_us, e.saved_nanousd, e.saved_us"
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
    "cache_hits",
    "saved_nanousd",
    "saved_us",
)


@dataclass(slots=True)
class Tally:
    """Running sums of some exchanges."""

    sums: list[int] = field(default_factory=lambda: [0] * len(SUM_COLUMNS))
    """In the order of `SUM_COLUMNS`."""
    durations: Histogram = field(default_factory=dict)
    ttfts: Histogram = field(default_factory=dict)
    _stored: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    """Histograms not read yet."""

    def count(self, measure: Measure, *, is_error: bool, is_served: bool) -> None:
        """Add one exchange."""
        *tokens, price, request_bytes, response_bytes, duration, ttft, saved_nanousd, saved_us = measure
        numbers = [number or 0 for number in tokens]
        saved = (is_served, saved_nanousd or 0, saved_us or 0)
        row = (1, is_error, *numbers, price is not None, price or 0, request_bytes, response_bytes, *saved)
        self.sums = list(map(add, self.sums, row))
        _count(self.durations, duration)
        _count(self.ttfts, ttft)

    def merge(self, sums: Sequence[int], durations: str, ttfts: str) -> None:
        """Add a stored tally, or several added up in SQL."""
        self.sums = list(map(add, self.sums, sums))
        self._stored[0].append(durations)
        self._stored[1].append(ttfts)

    def percentiles(self, shares: Sequence[float]) -> tuple[list[int | None], list[int | None]]:
        """Of the durations and of the times to the first content, for shares in rising order."""
        # All stored ones are read as one text: a reading costs more than what a short text holds.
        merge_encoded(self.durations, "".join(self._stored[0]))
        merge_encoded(self.ttfts, "".join(self._stored[1]))
        self._stored = ([], [])
        return percentiles(self.durations, shares), percentiles(self.ttfts, shares)


def _count(histogram: Histogram, microseconds: int | None) -> None:
    if microseconds is not None:
        bucket = bucket_of(microseconds)
        histogram[bucket] = histogram.get(bucket, 0) + 1


_ADD = f"""
    INSERT INTO rollups (grain, facet, start, {", ".join(SUM_COLUMNS)}, durations, ttfts)
    VALUES ({", ".join("?" * (len(SUM_COLUMNS) + 5))})
    ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in SUM_COLUMNS)},
        durations = durations || excluded.durations, ttfts = ttfts || excluded.ttfts
    RETURNING max(length(durations), length(ttfts))
"""  # noqa: S608
_HISTOGRAMS = "SELECT durations, ttfts FROM rollups WHERE grain = ? AND facet = ? AND start = ?"
_CONDENSE = "UPDATE rollups SET durations = ?, ttfts = ? WHERE grain = ? AND facet = ? AND start = ?"


class Rollups:
    """What one batch adds to the rollups."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, int, int], Tally] = {}

    def count(self, started_ns: int, facet: int, measure: Measure, *, is_error: bool, is_served: bool) -> None:
        second = started_ns // SECOND_NS
        for grain, seconds in GRAINS:
            for number in (facet, ALL_FACETS):
                key = (grain, number, second - second % seconds)
                self._tallies.setdefault(key, Tally()).count(measure, is_error=is_error, is_served=is_served)

    def write(self, connection: apsw.Connection) -> None:
        """Add to the stored rollups, in the running transaction."""
        for key, tally in self._tallies.items():
            histograms = encode(tally.durations), encode(tally.ttfts)
            if connection.execute(_ADD, (*key, *tally.sums, *histograms)).get > LONGEST_HISTOGRAM:
                stored = fetch_one(connection, _HISTOGRAMS, key)
                connection.execute(_CONDENSE, (*map(condense, stored), *key))


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range: of Unix seconds for a rollup grain, of nanoseconds for exchanges."""

    grain: str
    """A rollup's, or `exchange`."""
    start: int
    end: int


FOREVER = 2**63 - 1


def spans(since_ns: int | None, until_ns: int | None, *, finest_wanted: str | None = None) -> Iterator[Span]:
    """The fewest rows that cover a time range: blocks in its middle, exchanges at its ends.

    Args:
        finest_wanted: the answer is wanted per `hour` or `day`, so nothing coarser will do.
    """
    since = -FOREVER if since_ns is None else since_ns
    until = FOREVER if until_ns is None else until_ns
    if since >= until:
        return
    first, last = _whole(since, until, HOUR_NS)
    if first >= last:
        yield Span("exchange", since, until)
        return
    if since < first:
        yield Span("exchange", since, first)
    usable = GRAINS if finest_wanted is None else GRAINS[: [name for name, _ in GRAINS].index(finest_wanted) + 1]
    start, end = (edge if abs(edge) == FOREVER else edge // SECOND_NS for edge in (first, last))
    yield from _rollup_spans(start, end, usable)
    if last < until:
        yield Span("exchange", last, until)


def _rollup_spans(start: int, end: int, grains: Sequence[tuple[str, int]]) -> Iterator[Span]:
    """Cover a range of whole units of the finest grain, the last grain of `grains` in the middle."""
    *finer, (grain, seconds) = grains
    first, last = _whole(start, end, seconds)
    if first >= last:
        yield from _rollup_spans(start, end, finer)
        return
    if start < first:
        yield from _rollup_spans(start, first, finer)
    yield Span(grain, first, last)
    if last < end:
        yield from _rollup_spans(last, end, finer)


def _whole(start: int, end: int, unit: int) -> tuple[int, int]:
    """The whole units inside a range; an open end stays open."""
    return start if start == -FOREVER else -(-start // unit) * unit, end if end == FOREVER else end // unit * unit
