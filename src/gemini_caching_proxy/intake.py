"""Exchanges from elsewhere into a store: understood, threaded and indexed as if they had been recorded here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from .cache.index import Index
from .conversation import Threads
from .decoding import understand
from .exchange import Exchange
from .persistence import ask
from .providers.base import Provider
from .stores.base import AddResult, ExchangeStore

BATCH_EXCHANGES = 100
BATCH_BYTES = 16 * 1024 * 1024

T = TypeVar("T")


class Intake:
    """Takes exchanges in, batch by batch; adding one that is there already changes nothing."""

    def __init__(self, store: ExchangeStore, providers: Mapping[str, Provider], index: Index) -> None:
        """`index`: makes the keys under which their answers can be served from now on."""
        self._store = store
        self._providers = providers
        self._index = index
        self._threads = Threads()

    def __repr__(self) -> str:
        return f"<Intake into {self._store!r}>"

    async def take(self, exchanges: Iterable[Exchange]) -> AddResult:
        """Take in exchanges, oldest first for their conversations to be found.

        Raises:
            StoreError: those of earlier batches are in.
        """
        added = duplicates = 0
        for batch in batches(exchanges, kept_bytes):
            turns = [understand(self._indexed(exchange), self._providers) for exchange in batch]
            found = await ask(self._store, self._threads.questions(turns))
            result = await self._store.add(self._threads.place(turns, found))
            added += result.added
            duplicates += result.duplicates
        return AddResult(added, duplicates)

    def _indexed(self, exchange: Exchange) -> Exchange:
        entry = self._index.entry(exchange)
        return exchange if entry is None else replace(exchange, entry_key=entry[0], entry_kind=entry[1])


def batches(
    items: Iterable[T], size: Callable[[T], int], is_last: Callable[[T], bool] = lambda _: False
) -> Iterator[list[T]]:
    """Items in batches of bounded count and size, in order.

    Args:
        size: bytes of an item.
        is_last: whether a batch ends with an item in any case.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if len(batch) >= BATCH_EXCHANGES or total >= BATCH_BYTES or is_last(item):
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def kept_bytes(exchange: Exchange) -> int:
    """Bytes of both bodies, as far as they are recorded."""
    return len(exchange.request_body.data) + (len(exchange.response.body.data) if exchange.response else 0)
