"""Opening the record for reading, beside a running `serve` or without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import is_shared, make_store, store_name
from gemini_caching_proxy.stores.base import ExchangeStore, Query

LAST = "last"


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[ExchangeStore]:
    """The store, open for reading only."""
    store = make_store(settings)
    await store.open(read_only=True)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def writing(settings: Settings) -> AsyncIterator[ExchangeStore]:
    """The store, open for changes."""
    store = make_store(settings)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def first_steps(settings: Settings) -> str:
    """What to do when there is nothing to show yet."""
    scheme = "https" if settings.tls_cert else "http"
    url = f"{scheme}://{settings.host}:{settings.port}"
    return (
        f"Nothing is recorded in {store_name(settings) if is_shared(settings) else settings.data_dir} yet.\n"
        f"Start the proxy with `gemini-proxy serve`, give your client the base URL {url} and ask it something.\n"
        "`gemini-proxy doctor` prints the exact setting for popular clients; `gemini-proxy demo` needs neither key nor "
        "network."
    )


async def find(store: ExchangeStore, digits: str) -> str:
    """The id that `digits` (its beginning, its end, or the word `last`) means.

    Raises:
        NotFound: none, or several.
    """
    if digits != LAST:
        return str(await store.resolve(digits))
    page = await store.list(Query(), limit=1)
    if not page.items:
        raise NotFound("Nothing is recorded yet, so there is no last exchange.")
    return str(page.items[0].id)
