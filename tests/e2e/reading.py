"""Reading the record of a running program through its store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import UUID

from gemini_caching_proxy.cli.access import reading
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.stores.base import ExchangeStore, Query, StatsGroup, StatsRow

from .serving import ProxyProcess

T = TypeVar("T")


def read(proxy: ProxyProcess, work: Callable[[ExchangeStore], Awaitable[T]]) -> T:
    """What `work` finds in the store of this program."""

    async def run() -> T:
        async with reading(proxy.settings) as store:
            return await work(store)

    return asyncio.run(run())


def get_all(proxy: ProxyProcess, ids: Sequence[UUID]) -> list[Exchange]:
    async def run(store: ExchangeStore) -> list[Exchange]:
        return [await store.get(each) for each in ids]

    return read(proxy, run)


def statistics(proxy: ProxyProcess, group: StatsGroup | None = None) -> tuple[StatsRow, ...]:
    return read(proxy, lambda store: store.stats(Query(), group=group))
