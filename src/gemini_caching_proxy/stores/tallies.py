"""Tallies: what sums over exchanges are made of, and which of them cover a time range. No I/O.

Stores keep rollups: each exchange counts in those of its UTC hour, its UTC day and its block of 16 days. They are not
undone by pruning: what was spent outlives the bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import add
from typing import Literal

from gemini_caching_proxy.exchange import Exchange

from .base import StatsGroup, StatsRow
from .facets import bounded
from .histogram import Histogram, bucket_of, merge_encoded, percentiles

SECOND_NS = 1_000_000_000
HOUR_S = 3600
DAY_S = 24 * HOUR_S
HOUR_NS = HOUR_S * SECOND_NS
GRAINS = (("hour", HOUR_S), ("day", DAY_S), ("block", 16 * DAY_S))
"""From fine to coarse; each starts at multiples of its seconds since 1970 and holds whole ones of the one before."""

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


def measure_of(exchange: Exchange) -> Measure:
    """What the exchange adds to sums."""
    usage, timing, response = exchange.usage, exchange.timing, exchange.response
    use = exchange.cache if exchange.cache is not None and exchange.cache.served else None
    tokens = (None,) * 5 if usage is None else (
        bounded(usage.input_tokens),
        bounded(usage.cached_tokens),
        bounded(usage.output_tokens),
        bounded(usage.thoughts_tokens),
        bounded(usage.total_tokens),
    )  # fmt: skip
    return (
        *tokens,
        None if exchange.price is None else bounded(exchange.price.total_nanousd),
        bounded(exchange.request_body.size) or 0,
        0 if response is None else bounded(response.body.size) or 0,
        timing.last_byte_us,
        timing.first_content_us,
        None if use is None else bounded(use.saved_nanousd),
        None if use is None else bounded(use.saved_us),
    )


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


Groups = dict[str, Tally]
"""Key of a group → its tally."""


def time_key(start_s: int, group: Literal["day", "hour"]) -> str:
    """The day or hour that a Unix second lies in, as `StatsRow.key` has it."""
    return datetime.fromtimestamp(start_s, UTC).strftime("%Y-%m-%d" if group == "day" else "%Y-%m-%dT%H:00Z")


def stats_rows(groups: Groups, group: StatsGroup | None) -> tuple[StatsRow, ...]:
    """Rows in the order that `ExchangeStore.stats` promises."""
    rows = [_stats_row(key, tally) for key, tally in groups.items()]
    in_time = group in ("day", "hour")
    return tuple(sorted(rows, key=lambda row: (0 if in_time else -row.exchanges, row.key)))


def _stats_row(key: str, tally: Tally) -> StatsRow:
    exchanges, errors, input_tokens, cached, output, thoughts, total, priced, nanousd, sent, received, *cache = (
        tally.sums
    )
    cache_hits, saved_nanousd, saved_us = cache
    durations, ttfts = tally.percentiles((0.50, 0.95, 0.99))
    return StatsRow(
        key=key,
        exchanges=exchanges,
        errors=errors,
        input_tokens=input_tokens,
        cached_tokens=cached,
        output_tokens=output,
        thoughts_tokens=thoughts,
        total_tokens=total,
        priced=priced,
        total_nanousd=nanousd,
        request_bytes=sent,
        response_bytes=received,
        duration_us_p50=durations[0],
        duration_us_p95=durations[1],
        duration_us_p99=durations[2],
        ttft_us_p50=ttfts[0],
        ttft_us_p95=ttfts[1],
        ttft_us_p99=ttfts[2],
        cache_hits=cache_hits,
        saved_nanousd=saved_nanousd,
        saved_us=saved_us,
    )
