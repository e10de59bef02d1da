"""Rollups as they are written: sums of the exchanges of a range of sequence numbers, added to documents once.

An exchange counts in one document per grain and scope. A scope is everything (`all`), one value of a dimension
(`model:gemini-2.5-flash`, `verdict:hit`), or one facet (`facet:<digest in hex>`); so a question about one value reads
one document per hour, day or block. `through` is the last range that a document has in it: whoever adds a range again
finds it done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import add
from typing import Final, NamedTuple

from bson import Int64
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from gemini_caching_proxy.stores.base import StatsGroup
from gemini_caching_proxy.stores.facets import Facet
from gemini_caching_proxy.stores.histogram import condense, encode
from gemini_caching_proxy.stores.tallies import GRAINS, HOUR_S, SECOND_NS, SUM_COLUMNS, Measure, Tally

from .connection import Database, Document, only_duplicates
from .documents import SUMMARY_FIELDS, facet_of
from .schema import FACETS, INTERACTIONS, ROLLUPS

ALL: Final = "all"
FACET: Final = "facet"
DIMENSIONS: Final[tuple[StatsGroup, ...]] = ("model", "operation", "status", "client", "credential")
SLACK: Final = 256
"""Characters that a histogram may have grown since it was condensed."""
MOST_REMEMBERED: Final = 8192
"""Rollups that a writer knows by heart, about 3 KB each."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

FOLDED: Final = (
    *("sequence", "started_ns", "facet", "usage", "price.total_nanousd", "request.bytes", "response.bytes"),
    *("timing.duration_us", "timing.ttft_us", "cache.saved_nanousd", "cache.saved_us"),
)
"""The fields of an exchange's document that `Fold.count` takes."""


def measured(document: Document) -> Measure:
    """What an exchange's document adds to sums: as `tallies.measure_of` has it for the exchange."""
    usage, timing, cache = document.get("usage", {}), document.get("timing", {}), document.get("cache", {})
    return (
        usage.get("input_tokens"),
        usage.get("cached_tokens"),
        usage.get("output_tokens"),
        usage.get("thoughts_tokens"),
        usage.get("total_tokens"),
        document.get("price", {}).get("total_nanousd"),
        document["request"]["bytes"],
        document.get("response", {}).get("bytes", 0),
        timing.get("duration_us"),
        timing.get("ttft_us"),
        cache.get("saved_nanousd"),
        cache.get("saved_us"),
    )


def scopes_of(digest: bytes, facet: Facet) -> tuple[str, ...]:
    """Where exchanges of a facet count: all, the value of each dimension, the cache's verdict, the facet."""
    values = (f"{dimension}:{facet.group_key(dimension)}" for dimension in DIMENSIONS)
    return (ALL, *values, f"verdict:{facet.verdict or ''}", f"{FACET}:{digest.hex()}")


class Key(NamedTuple):
    """What names a rollup."""

    grain: str
    start: int
    """Unix seconds."""
    scope: str

    @property
    def id(self) -> str:
        return f"{self.grain} {self.start} {self.scope}"


@dataclass(slots=True)
class Sums:
    """What a rollup says, or what a range adds to it."""

    sums: Sequence[int] = (0,) * len(SUM_COLUMNS)
    durations: str = ""
    ttfts: str = ""
    through: int = 0
    condensed: tuple[int, int] = (0, 0)
    """Lengths of the histograms when they were condensed last."""

    def plus(self, other: Sums, through: int = 0) -> Sums:
        durations, first = _joined(self.durations, other.durations, self.condensed[0])
        ttfts, second = _joined(self.ttfts, other.ttfts, self.condensed[1])
        return Sums(tuple(map(add, self.sums, other.sums)), durations, ttfts, through, (first, second))

    @classmethod
    def of(cls, document: Document) -> Sums:
        sums = tuple(int(document[name]) for name in SUM_COLUMNS)
        return cls(sums, document["durations"], document["ttfts"], int(document["through"]))

    def document(self, key: Key) -> Document:
        dimension, _, value = key.scope.partition(":")
        document: Document = {"_id": key.id, "grain": key.grain, "scope": key.scope, "start": key.start}
        document |= {"date": _EPOCH + timedelta(seconds=key.start), "dimension": dimension}
        if value:
            document["value"] = value
        document.update(zip(SUM_COLUMNS, self.sums, strict=True))
        document |= {"durations": self.durations, "ttfts": self.ttfts, "through": Int64(self.through)}
        return document


def _joined(known: str, new: str, condensed: int) -> tuple[str, int]:
    """Both histograms as one, and its length when it was condensed last."""
    joined = known + new
    if len(joined) <= condensed + SLACK:
        return joined, condensed
    joined = condense(joined)
    return joined, len(joined)


@dataclass(slots=True)
class Fold:
    """Exchanges, added up by facet and hour."""

    tallies: dict[tuple[bytes, int], Tally] = field(default_factory=dict)

    def count(self, document: Document, facet: Facet) -> None:
        second = document["started_ns"] // SECOND_NS
        key = (document["facet"], int(second - second % HOUR_S))
        tally = self.tallies.get(key)
        if tally is None:
            tally = self.tallies[key] = Tally()
        tally.count(measured(document), is_error=facet.is_error, is_served=facet.is_served)

    def additions(self, scopes: Mapping[bytes, Sequence[str]]) -> dict[Key, Sums]:
        """What to add to which rollup."""
        found: dict[Key, Sums] = {}
        for (digest, hour), tally in self.tallies.items():
            one = Sums(tuple(map(int, tally.sums)), encode(tally.durations), encode(tally.ttfts))
            for grain, seconds in GRAINS:
                start = hour - hour % seconds
                for scope in scopes[digest]:
                    key = Key(grain, start, scope)
                    known = found.get(key)
                    found[key] = one if known is None else known.plus(one)
        return found


class Scopes:
    """The facets of a database by digest, with the scopes they count in; looked up when first met."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.facets: dict[bytes, Facet] = {}
        self.scopes: dict[bytes, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"<Scopes of {len(self.facets)} facets>"

    async def learn(self, digests: Iterable[bytes]) -> None:
        """Know these."""
        unknown = {digest for digest in digests if digest not in self.facets}
        if not unknown:
            return
        async for document in self._database[FACETS].find({"_id": {"$in": list(unknown)}}):
            self.of(document["_id"], facet_of(document))
        for digest in unknown - self.facets.keys():
            # Somebody deleted it, which must not stop what else there is to settle: an exchange says as much.
            found = await self._database[INTERACTIONS].find_one({"facet": digest}, SUMMARY_FIELDS)
            assert found is not None, "whoever asks has read one"
            self.of(digest, facet_of(found))

    def of(self, digest: bytes, facet: Facet) -> tuple[str, ...]:
        """Those of this facet."""
        scopes = self.scopes.get(digest)
        if scopes is None:
            self.facets[digest] = facet
            scopes = self.scopes[digest] = scopes_of(digest, facet)
        return scopes


class Rollups:
    """Adds to the rollups of a database. What it wrote it remembers, and believes as long as nobody else has written:
    every document is changed only if it is as remembered."""

    def __init__(self, database: Database) -> None:
        self._collection = database[ROLLUPS]
        self._known: dict[Key, Sums] = {}

    def __repr__(self) -> str:
        return f"<Rollups {len(self._known)} remembered>"

    def forget(self) -> None:
        """Somebody else may have written."""
        self._known.clear()

    async def add(self, additions: Mapping[Key, Sums], through: int) -> None:
        """Add the sums of the range that ends at `through` to every rollup that has it not in it yet."""
        pending = list(additions)
        while pending:
            await self._learn(pending)
            written = {
                key: known.plus(additions[key], through)
                for key in pending
                if (known := self._known[key]).through < through
            }
            pending = await self._write(written)
        while len(self._known) > MOST_REMEMBERED:
            del self._known[next(iter(self._known))]

    async def _learn(self, keys: Iterable[Key]) -> None:
        unknown = {key.id: key for key in keys if key not in self._known}
        if not unknown:
            return
        self._known |= {key: Sums() for key in unknown.values()}
        async for document in self._collection.find({"_id": {"$in": list(unknown)}}):
            self._known[unknown[document["_id"]]] = Sums.of(document)

    async def _write(self, written: Mapping[Key, Sums]) -> list[Key]:
        """Those that were not as remembered, which are forgotten."""
        if not written:
            return []
        keys = list(written)
        refused: set[Key] = set()
        changes = [
            ReplaceOne({"_id": key.id, "through": self._known[key].through}, sums.document(key), upsert=True)
            for key, sums in written.items()
        ]
        for key in keys:
            # Whatever happens to the writing: nothing is known of them until it has gone well.
            del self._known[key]
        try:
            await self._collection.bulk_write(changes, ordered=False)
        except BulkWriteError as error:
            # One that is there in another state cannot be put there anew.
            only_duplicates(error)
            refused = {keys[fault["index"]] for fault in error.details["writeErrors"]}
        self._known |= {key: sums for key, sums in written.items() if key not in refused}
        return list(refused)
