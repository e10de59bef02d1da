"""Rollups as they are written: each exchange counts under its facet and under facet 0, which is all."""

from __future__ import annotations

import apsw

from gemini_caching_proxy.stores.histogram import condense, encode
from gemini_caching_proxy.stores.tallies import GRAINS, SECOND_NS, SUM_COLUMNS, Measure, Tally

from .connection import fetch_one

ALL_FACETS = 0
LONGEST_HISTOGRAM = 800
"""Characters; a longer one is written anew, with fewer if it can be."""

MEASURE_COLUMNS = (
    "e.input_tokens, e.cached_tokens, e.output_tokens, e.thoughts_tokens, e.total_tokens, e.price_nanousd,"
    " e.request_bytes, e.response_bytes, e.duration_us, e.ttft_us, e.saved_nanousd, e.saved_us"
)

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
