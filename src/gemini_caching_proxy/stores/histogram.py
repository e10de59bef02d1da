"""Histograms with buckets that grow by a tenth, so that a percentile read from one is at most 5 % off. No I/O.

Written as text that adds up by concatenation: a character stands for one, 8, 64, … in a bucket. So SQLite sums up
histograms with `group_concat`, and one pass over the characters reads the sum.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

GROWTH = 1.1
MOST_BUCKETS = 256
"""The last begins at ten hours."""
_LOG_GROWTH = math.log(GROWTH)

_FIRST = 0x100
_BITS = 3
_LEVELS = 7
"""256 characters each for ones, eights, …: U+0100 to U+07FF, which UTF-8 writes in two bytes."""

Histogram = dict[int, int]
"""Bucket → count."""


def bucket_of(microseconds: int) -> int:
    """0 for nothing (or less), then bucket i from 1.1^(i-1) up to 1.1^i."""
    return 0 if microseconds <= 0 else min(int(math.log(microseconds) / _LOG_GROWTH) + 1, MOST_BUCKETS - 1)


def value_of(bucket: int) -> int:
    """The value in a bucket's middle, in ratio: sqrt(1.1), 4.9 %, from both its ends."""
    return 0 if bucket == 0 else round(GROWTH ** (bucket - 0.5))


def encode(histogram: Mapping[int, int]) -> str:
    return "".join([_encode(bucket, count) for bucket, count in sorted(histogram.items())])


@lru_cache(maxsize=1 << 14)
def _encode(bucket: int, count: int) -> str:
    text = ""
    for level in range(_LEVELS):
        last = level == _LEVELS - 1
        digit = count if last else count % (1 << _BITS)
        text += chr(_FIRST + level * MOST_BUCKETS + bucket) * digit
        count >>= _BITS
    return text


def condense(encoded: str) -> str:
    """The same sum in as few characters as can be."""
    total: Histogram = {}
    merge_encoded(total, encoded)
    return encode(total)


def merge_encoded(into: Histogram, encoded: str) -> None:
    """Add histograms: one, or several concatenated."""
    for character, count in Counter(encoded).items():
        level, bucket = divmod(ord(character) - _FIRST, MOST_BUCKETS)
        into[bucket] = into.get(bucket, 0) + (count << _BITS * level)


def percentile(histogram: Mapping[int, int], share: float) -> int | None:
    """The value of nearest rank: the least with at least `share` (0 to 1) of all at or below it; None for none."""
    return percentiles(histogram, (share,))[0]


def percentiles(histogram: Mapping[int, int], shares: Sequence[float]) -> list[int | None]:
    """As `percentile`, for shares in rising order."""
    buckets = sorted(histogram)
    if not buckets:
        return [None] * len(shares)
    passed = list(accumulate(histogram[bucket] for bucket in buckets))
    return [value_of(buckets[bisect_left(passed, math.ceil(share * passed[-1]))]) for share in shares]
