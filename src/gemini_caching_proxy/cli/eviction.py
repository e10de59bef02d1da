"""`cache evict` and `cache rebuild`: entries go, entries come back; the exchanges stay."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime
from time import time_ns
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gemini_caching_proxy.cache.changes import cache_changed
from gemini_caching_proxy.cache.index import Index
from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import store_exists, store_name
from gemini_caching_proxy.stores.base import EntryQuery, ExchangeStore, Query

from .access import find, first_steps, writing
from .caching import CHOICE, entry_query, find_entry
from .figures import read_moment, read_size
from .options import FOLDER, JSON, Bundle, option, refuse, with_options
from .terminal import Output, note, say, write_json

PAGE = 500

WHICH = Bundle(
    (
        option("key", str, "The entry with this key (its beginning).", "--key", metavar="KEY"),
        option("exchange", str, "The entry of this exchange, by its id or the word last.", "--exchange", metavar="ID"),
        option("older_than", str, "Stored before: 12h, 30d, 4w ago, or a date.", "--older-than", metavar="AGE"),
        option("larger_than", str, "With an answer larger than: 500k, 20M.", "--larger-than", metavar="SIZE"),
        option(
            "to_size",
            str,
            "The longest unused, until the answers of the rest take no more than: 500M, 2G.",
            "--to-size",
            metavar="SIZE",
        ),
        option("all", bool, "Every entry, but for pinned ones.", "--all"),
        *CHOICE.parameters,
    ),
    dict,
)


@with_options(which=WHICH, json=JSON, settings=FOLDER)
async def evict(
    settings: Settings,
    which: Mapping[str, Any],
    json: bool,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget entries; the exchanges stay.

    What is forgotten is asked of the upstream again, and its new answer is remembered. Several choices must all hold.
    Pinned entries stay, unless --key, --exchange or --pinned chooses them. `--operation generate_content` is unary
    calls and streams alike.
    """
    size = _check(which)
    if not store_exists(settings):
        note(first_steps(settings))
        return
    if not yes:
        _ask(settings)
    async with writing(settings) as store:
        if size is not None:
            evicted = await store.evict_to(size)
        else:
            evicted = 0
            for query in await _queries(store, which):
                evicted += await store.evict(query)
    cache_changed(settings)
    if json:
        write_json({"evicted": evicted})
    else:
        say(f"Forgot {evicted} entr{'y' if evicted == 1 else 'ies'}; the exchanges stay.")


def _check(which: Mapping[str, Any]) -> int | None:
    """The size to shrink to, if that is asked for."""
    given = [name for name, value in which.items() if value not in (None, False)]
    if not given:
        raise refuse("--all", "is needed where nothing else says which entries")
    for alone in ("all", "to_size"):
        if alone in given and len(given) > 1:
            raise refuse("--" + alone.replace("_", "-"), "chooses by itself and takes no other choice beside it")
    return _size("--to-size", which["to_size"])


def _size(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return read_size(text)
    except ValueError as error:
        raise refuse(flag, error) from None


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = read_moment(text, datetime.now().astimezone())
    except ValueError as error:
        raise refuse("--older-than", error) from None
    if moment > time_ns():
        raise refuse("--older-than", f"{text!r} lies in the future")
    return moment


async def _queries(store: ExchangeStore, which: Mapping[str, Any]) -> list[EntryQuery]:
    query = replace(
        await entry_query(store, which),
        key=None if which["key"] is None else (await find_entry(store, which["key"])).key,
        exchange=None if which["exchange"] is None else UUID(await find(store, which["exchange"])),
        stored_before_ns=_moment(which["older_than"]),
        larger_than=_size("--larger-than", which["larger_than"]),
    )
    if query.operation is None:
        return [query]
    return [query, replace(query, operation=f"stream_{query.operation}")]


def _ask(settings: Settings) -> None:
    if not sys.stdin.isatty():
        raise refuse("--yes", "is needed where nobody can be asked")
    if not typer.confirm(f"Forget these entries of {store_name(settings)}?", err=True):
        note("Nothing was forgotten.")
        raise typer.Exit(1)


@with_options(json=JSON, settings=FOLDER)
async def rebuild(settings: Settings, json: bool) -> None:
    """Make the entries of all recorded exchanges again.

    For a record from before there was a cache, after a change of normalisers or namespaces, or to undo `cache evict`.
    It works beside a running proxy and can be broken off and begun again.
    """
    if not store_exists(settings):
        note(first_steps(settings))
        return
    indexes = {imported: Index.from_settings(settings, providers(), imported=imported) for imported in (False, True)}
    seen = made = 0
    async with writing(settings) as store:
        with _progress() as progress:
            task = progress.add_task("exchanges", total=(await store.size()).exchanges)
            async for exchange_id in _oldest_first(store):
                made += await _rebuild_one(store, indexes, exchange_id)
                seen += 1
                progress.update(task, completed=seen)
    cache_changed(settings)
    if json:
        write_json({"exchanges": seen, "entries": made})
    else:
        say(f"Looked at {seen} exchanges; {made} of them can answer.")


async def _rebuild_one(store: ExchangeStore, indexes: Mapping[bool, Index], exchange_id: UUID) -> bool:
    try:
        exchange = await store.get(exchange_id)
    except NotFound:
        # Pruned meanwhile.
        return False
    # What came in by `import` has no client.
    entry = indexes[not exchange.client_address].entry(exchange)
    return entry is not None and await store.add_entry(exchange_id, *entry)


async def _oldest_first(store: ExchangeStore) -> AsyncIterator[UUID]:
    """Every exchange in the order they came in."""
    sequence = 0
    while batch := await store.after(sequence, Query(), limit=PAGE):
        for summary in batch:
            yield summary.id
        sequence = batch[-1].sequence


def _progress() -> Progress:
    """A bar on a terminal; nothing elsewhere."""
    console = Output(stderr=True, markup=False, highlight=False, emoji=False)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
