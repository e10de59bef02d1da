"""The cache's entries of copied exchanges: in the target as they are in the source.

Taking exchanges in makes entries by their own keys. What the source says beyond that follows: keys that were evicted or
that another answer holds there, keys that were given later, pins. Entries that the target has from elsewhere stay,
unless an answer of the source takes their place by the rule of `CacheEntry`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.exchange import Exchange, Response
from gemini_caching_proxy.stores.base import CacheEntry, EntryQuery, ExchangeStore, replaces

from .parallel import gathered

PAGE: Final = 500

SourceEntries = Mapping[UUID, tuple[CacheEntry, ...]]
"""The entries of each exchange."""


@dataclass(slots=True)
class Addition:
    """How taking in a batch went."""

    all_new: bool = False
    """Whether every exchange of it was new to the target, so that each has made the entry of its own key."""


async def each_entry(store: ExchangeStore, query: EntryQuery) -> AsyncIterator[CacheEntry]:
    """All entries that fit, newest first, read page by page."""
    cursor = None
    while True:
        page = await store.entries(query, limit=PAGE, cursor=cursor)
        for entry in page.items:
            yield entry
        cursor = page.next_cursor
        if cursor is None:
            return


async def entry_under(store: ExchangeStore, key: bytes) -> CacheEntry | None:
    """The entry that stands under a key."""
    page = await store.entries(EntryQuery(key=key), limit=1)
    return page.items[0] if page.items else None


@asynccontextmanager
async def bring_in_line(
    source: ExchangeStore, target: ExchangeStore, exchanges: Sequence[Exchange], entries: SourceEntries
) -> AsyncIterator[Addition]:
    """Around taking `exchanges` into the target: afterwards their entries are as `entries` has them.

    Done again for exchanges that are there already it changes nothing more.
    """
    unwanted = [
        (exchange.id, exchange.entry_key)
        for exchange in exchanges
        if exchange.entry_key is not None
        and isinstance(exchange.outcome, Response)
        and all(entry.key != exchange.entry_key for entry in entries[exchange.id])
    ]
    keys = list({key for _, key in unwanted})
    displaced = dict(zip(keys, await gathered(entry_under(target, key) for key in keys), strict=True))
    addition = Addition()
    yield addition
    await gathered(
        _withdraw(source, target, {one for one, its in unwanted if its == key}, key, displaced[key]) for key in keys
    )
    for exchange in exchanges:
        for entry in entries[exchange.id]:
            made = addition.all_new and (exchange.entry_key, exchange.entry_kind) == (entry.key, entry.kind)
            if entry.pinned or not made:
                await _give(target, entry)


async def _withdraw(
    source: ExchangeStore, target: ExchangeStore, unwanted: Set[UUID], key: bytes, displaced: CacheEntry | None
) -> None:
    """Take away an entry that the source has not got, and put back what it took the place of."""
    standing = await entry_under(target, key)
    if standing is None or standing.exchange not in unwanted or standing.pinned:
        return
    right = await entry_under(source, key)
    if right is not None and right.stored_ns != standing.stored_ns and replaces(right, standing):
        # The common case: an answer that was replaced by a newer one, which is still to come and will do it again.
        return
    await target.evict(EntryQuery(key=key, exchange=standing.exchange, pinned=False))
    for entry in (displaced, right):
        if entry is not None and entry.exchange not in unwanted:
            await _give(target, entry)


async def _give(target: ExchangeStore, entry: CacheEntry) -> None:
    """Make an entry as it is elsewhere, pin included. Its exchange may be one that is still to come."""
    try:
        stands = await target.add_entry(entry.exchange, entry.key, entry.kind)
        if entry.pinned and not stands:
            standing = await entry_under(target, entry.key)
            if standing is not None and not standing.pinned:
                await target.evict(EntryQuery(key=entry.key, exchange=standing.exchange))
                stands = await target.add_entry(entry.exchange, entry.key, entry.kind)
    except NotFound:
        return
    if entry.pinned and stands:
        await target.pin(entry.key, pinned=True)
