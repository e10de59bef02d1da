"""`tail`: exchanges as they come in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial

from gemini_caching_proxy.errors import StoreCorrupt, StoreUnavailable
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import is_shared, store_exists
from gemini_caching_proxy.stores.base import ExchangeStore, Query, Summary

from .access import reading
from .listing import Listing
from .options import FILTERS, FOLDER, JSON, Filters, limit_option, with_options
from .records import summary_record
from .terminal import note, output, write_json

POLL_SECONDS = 0.25


@with_options(limit=limit_option(20, "Exchanges to show first"), json=JSON, filters=FILTERS, settings=FOLDER)
async def tail(settings: Settings, filters: Filters, limit: int, json: bool) -> None:
    """Follow exchanges live, one line each.

    It may be started before the proxy, and goes on when the store is away for a while. Ctrl-C ends it.
    """
    sink = _Sink(json)
    position: int | None = None
    told = False
    while True:
        if not store_exists(settings):
            if not told:
                note(f"Waiting for the first exchange in {settings.data_dir} …")
            told = True
        else:
            # Taken before the file is opened: a file that is put in its place afterwards must be noticed.
            still_there = partial(_is_same_file, settings, _identity(settings))
            try:
                async with reading(settings) as store:
                    query = await filters.resolved(store)
                    if position is None:
                        position = await _history(store, query, limit, sink)
                    position = await _follow(store, query, position, sink, still_there)
            except StoreCorrupt:
                raise
            except StoreUnavailable as error:
                if not told:
                    note(f"{error} Waiting …")
                told = True
        await asyncio.sleep(POLL_SECONDS)


class _Sink:
    """Where the lines go."""

    def __init__(self, json: bool) -> None:
        self._json = json
        self._console = output()
        self._titled = False

    def write(self, summary: Summary) -> None:
        if self._json:
            write_json(summary_record(summary))
            return
        listing = Listing(self._console.width)
        if not self._titled:
            self._titled = True
            self._console.print(listing.head(), soft_wrap=True)
        self._console.print(listing.line(summary, datetime.now().astimezone()), soft_wrap=True)
        self._console.file.flush()


async def _history(store: ExchangeStore, query: Query, limit: int, sink: _Sink) -> int:
    """Show what is there already; gives the place to follow from."""
    position = await store.last_sequence()
    page = await store.list(query, limit=limit)
    for summary in reversed(page.items):
        if summary.sequence <= position:
            sink.write(summary)
    return position


async def _follow(
    store: ExchangeStore, query: Query, position: int, sink: _Sink, still_there: Callable[[], bool]
) -> int:
    """Show what comes in as long as the file is `still_there`; gives where to begin in the one that takes its place."""
    while still_there():
        newest = await store.last_sequence()
        while newest > position:
            batch = await store.after(position, query)
            for summary in batch:
                sink.write(summary)
            position = batch[-1].sequence if batch else newest
        await asyncio.sleep(POLL_SECONDS)
    return 0


def _is_same_file(settings: Settings, identity: tuple[int, int] | None) -> bool:
    return _identity(settings) == identity


def _identity(settings: Settings) -> tuple[int, int] | None:
    if is_shared(settings):
        return None
    try:
        stat = settings.sqlite_path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
