"""Exchanges from one store into another: in the order of their intake, batch by batch, from where it was left off.

Invariants: what a position in the target says is copied, is there with its entries, so a stop at any moment costs one
batch that is read again; an exchange that the target cannot take in is named and stops no other; memory is bounded by
two batches, or by the largest exchange.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from uuid import UUID

from blake3 import blake3

from gemini_caching_proxy.errors import NotFound, StoreCorrupt, StoreError, StoreUnavailable
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.intake import batches, kept_bytes
from gemini_caching_proxy.log import get_logger
from gemini_caching_proxy.stores.base import CacheEntry, EntryQuery, ExchangeStore, Gap, JournalPosition, Query, Summary

from .entries import SourceEntries, bring_in_line, each_entry
from .parallel import gathered

PAGE: Final = 500
SETTLED_SECONDS: Final = 45.0
"""The target gets that long: who died in the middle of something may hold it up, a copy that was killed too."""
ROUNDS: Final = 2
"""What came into the source while the first round ran is copied in the second."""

T = TypeVar("T")
log = get_logger(__name__)


def journal_name(source: str) -> str:
    """Under which the place in a source is noted in its target; `source` is what the source is known by."""
    return f"copy-{blake3(source.encode()).hexdigest(length=8)}"


@dataclass(frozen=True, slots=True)
class Refused:
    """An exchange that could not be copied."""

    id: UUID
    why: str


@dataclass(slots=True)
class Counts:
    """What one run did so far."""

    read: int = 0
    """Exchanges of the source that are dealt with."""
    added: int = 0
    duplicates: int = 0
    """Exchanges that the target had already."""
    bytes: int = 0
    """Of the bodies of the exchanges dealt with."""
    gaps: int = 0
    """Gaps that the target did not have."""
    resumed: bool = False
    """Whether an earlier run had copied a part."""
    expected: int = 0
    """Exchanges there were to copy at the start; an estimate when resumed."""
    through: int = 0
    """Sequence in the source up to which everything is dealt with."""
    refused: list[Refused] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is read of the source at once."""

    through: int
    """Sequence of its last exchange."""
    exchanges: tuple[Exchange, ...]
    entries: SourceEntries
    unreadable: tuple[Refused, ...]
    """Exchanges that are damaged in the source."""


class Transfer:
    """Copies one store into another. Both are open, the target for writing."""

    def __init__(
        self,
        source: ExchangeStore,
        target: ExchangeStore,
        journal: str,
        *,
        on_progress: Callable[[Counts], None] = lambda _: None,
    ) -> None:
        """`journal`: name of the position that the target keeps of this source."""
        self.counts = Counts()
        self._source = source
        self._target = target
        self._journal = journal
        self._on_progress = on_progress
        self._pinned: frozenset[UUID] = frozenset()

    def __repr__(self) -> str:
        return f"<Transfer {self._journal}: {self.counts.read} exchanges, up to {self.counts.through}>"

    async def run(self, *, anew: bool = False) -> Counts:
        """Copy what the target has not got yet; `anew` begins with the oldest exchange whatever was copied before.

        Raises:
            StoreError: one of the two cannot be used; what was copied stays, and another run goes on from there.
        """
        await self._begin(anew=anew)
        # A batch ends with an exchange that is pinned: the pin then stands before what would take its place comes.
        pinned = each_entry(self._source, EntryQuery(pinned=True))
        self._pinned = frozenset([entry.exchange async for entry in pinned])
        for _ in range(ROUNDS):
            last = await self._source.last_sequence()
            await self._source.settled()
            await self._copy_to(last)
        if self.counts.through:
            await self._target.add((), [self._position()])
        await self._copy_gaps()
        return self.counts

    async def _begin(self, *, anew: bool) -> None:
        last, total = await self._source.last_sequence(), (await self._source.size()).exchanges
        known = None if anew else (await self._target.positions()).get(self._journal)
        if known is not None and await self._is_of_this_source(known.offset):
            self.counts.through = known.offset
            self.counts.resumed = True
            total = round(total * (last - known.offset) / last) if last else 0
        self.counts.expected = total
        self._on_progress(self.counts)

    async def _is_of_this_source(self, sequence: int) -> bool:
        """Whether the source has, at this place, what was copied; not so if another store stands in its place now."""
        at_place = await self._source.after(sequence - 1, Query(), limit=1)
        if not at_place or at_place[0].sequence != sequence:
            return False
        try:
            await self._target.get(at_place[0].id)
        except NotFound:
            return False
        return True

    async def _copy_to(self, last: int) -> None:
        async with contextlib.aclosing(_ahead(self._read_to(last))) as coming:
            async for batch in coming:
                await self._write(batch)

    async def _read_to(self, last: int) -> AsyncGenerator[Batch, None]:
        at = self.counts.through
        while at < last:
            page = [one for one in await self._source.after(at, Query(), limit=PAGE) if one.sequence <= last]
            if not page:
                return
            for plan in batches(page, _passed_bytes, lambda one: one.id in self._pinned):
                yield await self._read(plan)
            at = page[-1].sequence

    async def _read(self, plan: Sequence[Summary]) -> Batch:
        read = await gathered(self._read_one(summary) for summary in plan)
        exchanges = [(one, entries) for one, entries in read if isinstance(one, Exchange)]
        return Batch(
            plan[-1].sequence,
            tuple(one for one, _ in exchanges),
            {one.id: entries for one, entries in exchanges},
            tuple(one for one, _ in read if isinstance(one, Refused)),
        )

    async def _read_one(self, summary: Summary) -> tuple[Exchange | Refused | None, tuple[CacheEntry, ...]]:
        """An exchange and its entries; None for one that was pruned meanwhile."""
        try:
            exchange = await self._source.get(summary.id)
        except NotFound:
            return None, ()
        except StoreCorrupt as error:
            return Refused(summary.id, f"it cannot be read: {error}"), ()
        if exchange.failure is not None:
            return exchange, ()
        query = EntryQuery(exchange=exchange.id)
        return exchange, tuple([entry async for entry in each_entry(self._source, query)])

    async def _write(self, batch: Batch) -> None:
        counts = self.counts
        async with bring_in_line(self._source, self._target, batch.exchanges, batch.entries) as outcome:
            outcome.all_new = await self._add(batch.exchanges)
        counts.refused += batch.unreadable
        counts.read += len(batch.exchanges) + len(batch.unreadable)
        counts.bytes += sum(map(kept_bytes, batch.exchanges))
        counts.through = batch.through
        self._on_progress(counts)

    async def _add(self, exchanges: Sequence[Exchange]) -> bool:
        """Take in a batch; whether all of it was new."""
        counts = self.counts
        # The place of the batch before: what its end says is copied has its entries too.
        positions = [self._position()] if counts.through else []
        try:
            result = await self._target.add(exchanges, positions)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - what no store can hold must not keep the rest out
            log.debug("a batch cannot be stored as it is; trying one by one", error=repr(error))
            return await self._add_one_by_one(exchanges)
        await self._await_target()
        counts.added += result.added
        counts.duplicates += result.duplicates
        return not result.duplicates

    async def _await_target(self) -> None:
        """Entries can only be seen to once they are made."""
        if not await self._target.settled(SETTLED_SECONDS):
            raise StoreUnavailable("The target is busy with what another writer left half done: try again in a minute.")

    async def _add_one_by_one(self, exchanges: Sequence[Exchange]) -> bool:
        all_new = True
        for exchange in exchanges:
            try:
                result = await self._target.add((exchange,))
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - see `_add`
                self.counts.refused.append(Refused(exchange.id, f"the target cannot take it in: {error!r}"))
                all_new = False
                continue
            self.counts.added += result.added
            self.counts.duplicates += result.duplicates
            all_new = all_new and bool(result.added)
        await self._await_target()
        return all_new

    def _position(self) -> JournalPosition:
        return JournalPosition(self._journal, 0, self.counts.through)

    async def _copy_gaps(self) -> None:
        known: set[Gap] = set(await self._target.gaps())
        for gap in await self._source.gaps():
            if gap not in known:
                await self._target.add_gap(gap)
                self.counts.gaps += 1


def _passed_bytes(summary: Summary) -> int:
    return summary.request_bytes + summary.response_bytes


async def _ahead(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items; each is fetched while the one before it is worked on."""

    async def fetch() -> tuple[T] | None:
        async for item in items:
            return (item,)
        return None

    loop = asyncio.get_running_loop()
    coming = loop.create_task(fetch())
    try:
        while (fetched := await coming) is not None:
            coming = loop.create_task(fetch())
            yield fetched[0]
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await items.aclose()
