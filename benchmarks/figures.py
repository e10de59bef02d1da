"""Numbers from samples, and what they must reach. No I/O, no clock.

A verdict compares one value with one target. Throughput is judged by the ratio to the yardstick inside the same round,
because the machine's own speed drifts between rounds far more than the ratio does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; `percent` from 0 to 100.

    Raises:
        ValueError: no values, or a percentage that does not exist.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    if not 0 <= percent <= 100:
        raise ValueError(f"there is no {percent} % of a whole")
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def middle(values: Iterable[float]) -> float | None:
    """The median, or None where nothing was measured."""
    listed = list(values)
    return median(listed) if listed else None


def ratio_by_round(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """The median over rounds of ours / theirs; rounds that only one of them ran do not count."""
    shared = sorted(ours.keys() & theirs.keys())
    return middle(ours[each] / theirs[each] for each in shared if theirs[each] > 0)


@dataclass(frozen=True, slots=True)
class Target:
    """A figure the product must reach."""

    key: str
    label: str
    sense: Literal["at least", "at most"]
    limit: float
    unit: str

    def met_by(self, value: float) -> bool:
        return value >= self.limit if self.sense == "at least" else value <= self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured; `value` None means it was not measured in this run."""

    target: Target
    value: float | None
    why_absent: str = ""

    @property
    def word(self) -> Literal["pass", "MISS", "absent"]:
        if self.value is None:
            return "absent"
        return "pass" if self.target.met_by(self.value) else "MISS"


TARGETS = (
    Target("small_vs_nginx", "small unary, requests/s to nginx's", "at least", 0.5, "x"),
    Target("small_vs_naive", "small unary, requests/s to the naive relay's", "at least", 100, "x"),
    Target("agent_vs_nginx", "agent turn of 200 KB, requests/s to nginx's", "at least", 0.25, "x"),
    Target("sse_vs_nginx", "SSE of 100 chunks, streams/s to nginx's", "at least", 0.9, "x"),
    Target("added_p50_ms", "latency added over nginx at no load, p50", "at most", 0.3, "ms"),
    Target("added_p99_ms", "latency added over nginx at no load, p99", "at most", 3, "ms"),
    Target("chunk_added_p50_ms", "delay added per SSE chunk at no load, p50", "at most", 0.2, "ms"),
    Target("streams_rss_mb", "worker RSS with 1,000 concurrent streams", "at most", 200, "MB"),
    Target("streams_lost", "streams or events lost of 1,000 streams", "at most", 0, ""),
    Target("streams_reordered", "events out of order in 1,000 streams", "at most", 0, ""),
    Target("session_store_percent", "store of a 200-turn session to the bytes sent", "at most", 3, "%"),
    Target("recorder_per_s", "recorder, small exchanges drained per second", "at least", 500, "/s"),
    Target("recorder_keeps_up_s", "recorder behind after 500 exchanges/s", "at most", 2, "s"),
    Target("list_ms", "list over 1,000,000 exchanges", "at most", 200, "ms"),
    Target("stats_ms", "filtered stats over 1,000,000 exchanges", "at most", 200, "ms"),
    Target("search_ms", "search over 1,000,000 exchanges", "at most", 500, "ms"),
    Target("cache_hits_vs_misses", "answered from memory, requests/s to those of misses", "at least", 1.5, "x"),
    Target("cache_hit_memory_p50_ms", "answered from memory at no load, p50", "at most", 1, "ms"),
    Target("cache_hit_sqlite_p50_ms", "answered from a store of 1,000,000 at no load, p50", "at most", 3, "ms"),
    Target("cache_collapsed_calls", "upstream calls for 500 identical requests at once", "at most", 1, ""),
    Target("mongodb_per_s", "recorder into MongoDB, small exchanges drained per second", "at least", 1500, "/s"),
    Target("mongodb_keeps_up_s", "recorder into MongoDB behind after 500 exchanges/s", "at most", 2, "s"),
    Target("mongodb_session_percent", "data and indexes of a 200-turn session to the bytes sent", "at most", 5, "%"),
    Target("mongodb_list_ms", "MongoDB, list over 1,000,000 exchanges", "at most", 200, "ms"),
    Target("mongodb_stats_ms", "MongoDB, stats over 1,000,000 exchanges", "at most", 200, "ms"),
    Target("mongodb_search_ms", "MongoDB, search over 1,000,000 exchanges", "at most", 500, "ms"),
    Target("mongodb_lookup_ms", "MongoDB, cache lookup among 1,000,000, p50", "at most", 3, "ms"),
    Target("mongodb_outage_faults", "MongoDB away: calls failed, exchanges lost or doubled", "at most", 0, ""),
    Target("mongodb_outage_drained_s", "MongoDB away: drained after", "at most", 60, "s"),
    Target("mongodb_outage_p99", "MongoDB away: p99 of calls to that before", "at most", 1.2, "x"),
    Target("session_replay_hits", "turns of a 200-turn session replayed, same bytes", "at least", 200, ""),
)


def judge(measured: Mapping[str, float | None], absent: Mapping[str, str]) -> list[Verdict]:
    """A verdict per target; `absent` tells why a value is missing, under the target's key."""
    return [Verdict(each, measured.get(each.key), absent.get(each.key, "not run")) for each in TARGETS]
