"""`cache stats`, `cache list`, `cache show` and `cache pin`: what can be answered from the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, get_args

import msgspec
import typer
from rich.text import Text

from gemini_caching_proxy.cache.changes import cache_changed
from gemini_caching_proxy.cache.index import Index
from gemini_caching_proxy.cache.key import key_text
from gemini_caching_proxy.exchange import EntryKind, Exchange
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.providers.base import CacheSubject
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import store_exists
from gemini_caching_proxy.stores.base import CacheEntry, CacheStats, EntryQuery, ExchangeStore

from .access import find, first_steps, reading, writing
from .figures import bytes_text, clock_text, cost_text, count_text, duration_text, local_time
from .listing import OPERATION_NAMES, short_id
from .options import FILTER_PANEL, FOLDER, JSON, Bundle, conversation_of, limit_option, option, refuse, with_options
from .reading import CURSOR
from .records import cache_stats_record, entry_record
from .rendering import facts
from .terminal import note, one_line, output, put, say, styled, write_json

NOTHING_CACHED = "No recorded answer can be served."
KEY_DIGITS = 8
GAP = "  "
CANONICAL_CHARACTERS = 4000
ANSWER_CHARACTERS = 1000


@with_options(json=JSON, settings=FOLDER)
async def cache_stats(settings: Settings, json: bool) -> None:
    """Tell what the cache holds and what it saved."""
    if not store_exists(settings):
        note(first_steps(settings))
        return
    async with reading(settings) as store:
        stats = await store.cache_stats()
    if json:
        write_json(cache_stats_record(stats))
        return
    for name, text in _stats_lines(stats):
        output().print(Text(f"{name:<10}", "dim").append(text), soft_wrap=True)


def _stats_lines(stats: CacheStats) -> list[tuple[str, str]]:
    errors = f", {count_text(stats.errors)} of them errors, for replay alone" if stats.errors else ""
    lines = [
        ("entries", f"{count_text(stats.entries)}{errors}"),
        ("pinned", count_text(stats.pinned)),
        ("answers", bytes_text(stats.answer_bytes)),
        ("hits", count_text(stats.hits)),
        ("saved", f"{cost_text(stats.saved_nanousd)} and {duration_text(stats.saved_us)} of waiting"),
    ]
    if stats.oldest_ns is not None:
        lines.append(("oldest", f"{local_time(stats.oldest_ns):%Y-%m-%d %H:%M}"))
    return lines


CHOICE = Bundle(
    (
        option(
            "model", str, "Model asked for; gemini-3* matches any rest.", "--model", metavar="MODEL", panel=FILTER_PANEL
        ),
        option(
            "operation",
            str,
            "What was asked: generate_content, stream_generate_content, …",
            "--operation",
            metavar="NAME",
            panel=FILTER_PANEL,
        ),
        option(
            "conversation",
            str,
            "Entries of one conversation, by any id in it.",
            "--conversation",
            metavar="ID",
            panel=FILTER_PANEL,
        ),
        option("pinned", bool, "Only pinned ones.", "--pinned", panel=FILTER_PANEL),
    ),
    dict,
)
"""What `cache list` and `cache evict` choose entries by."""

KIND = Bundle(
    (
        option(
            "kind",
            EntryKind,
            "Only complete answers, or only errors.",
            "--kind",
            metavar="|".join(get_args(EntryKind)),
            panel=FILTER_PANEL,
        ),
    ),
    lambda values: values["kind"],
)


async def entry_query(store: ExchangeStore, choice: Mapping[str, Any]) -> EntryQuery:
    """The query that `CHOICE` makes.

    Raises:
        NotFound: there is no such conversation.
    """
    digits = choice["conversation"]
    return EntryQuery(
        model=choice["model"],
        operation=choice["operation"],
        conversation=None if digits is None else await conversation_of(store, digits),
        pinned=True if choice["pinned"] else None,
    )


@with_options(
    limit=limit_option(30, "Most entries to list"), cursor=CURSOR, kind=KIND, choice=CHOICE, json=JSON, settings=FOLDER
)
async def list_entries(
    settings: Settings,
    choice: Mapping[str, Any],
    kind: EntryKind | None,
    limit: int,
    cursor: str | None,
    json: bool,
) -> None:
    """List what can be answered from the record, newest first.

    `cache show`, `cache pin` and `cache evict --key` take a key as it stands here; `show` takes the exchange's id.
    """
    if not store_exists(settings):
        note(first_steps(settings))
        return
    async with reading(settings) as store:
        query = replace(await entry_query(store, choice), kind=kind)
        try:
            page = await store.entries(query, limit=limit, cursor=cursor)
        except ValueError as error:
            raise refuse("--cursor", error) from None
    if json:
        for entry in page.items:
            write_json(entry_record(entry))
    else:
        _print_list(page.items)
    if page.next_cursor is not None:
        note(f"More: --cursor {page.next_cursor}")


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    cell: Callable[[CacheEntry], str]
    style: str = ""
    right: bool = False
    least_terminal: int = 0


def _columns(now: datetime) -> tuple[_Column, ...]:
    return (
        _Column("key", KEY_DIGITS, lambda one: one.key.hex()[:KEY_DIGITS], "cyan"),
        _Column("exchange", 8, lambda one: short_id(one.exchange), "cyan"),
        _Column("stored", 11, lambda one: clock_text(one.stored_ns, now), "dim"),
        _Column("what", 8, lambda one: OPERATION_NAMES.get(one.operation, one.operation)),
        _Column("model", 22, lambda one: one_line(one.model or "–")),
        _Column("size", 9, lambda one: bytes_text(one.size), right=True),
        _Column("hits", 4, lambda one: count_text(one.hits) if one.hits else "", right=True),
        _Column(
            "saved", 8, lambda one: cost_text(one.saved_nanousd) if one.hits else "", right=True, least_terminal=90
        ),
    )


def _print_list(entries: tuple[CacheEntry, ...]) -> None:
    if not entries:
        note(NOTHING_CACHED)
        return
    console = output()
    columns = [one for one in _columns(datetime.now().astimezone()) if one.least_terminal <= console.width]
    console.print(_line([(one, Text(one.title, "bold")) for one in columns]).append("is", "bold"), soft_wrap=True)
    for entry in entries:
        line = _line([(one, Text(one.cell(entry), one.style)) for one in columns])
        line.append("error " if entry.kind == "error" else "", "yellow").append(
            "pinned" if entry.pinned else "", "green"
        )
        line.rstrip()
        console.print(line, soft_wrap=True)


def _line(cells: list[tuple[_Column, Text]]) -> Text:
    line = Text(no_wrap=True, end="")
    for column, cell in cells:
        cell.truncate(column.width, overflow="ellipsis")
        space = " " * (column.width - cell.cell_len)
        line.append(space if column.right else "").append_text(cell).append(GAP if column.right else space + GAP)
    return line


KEY_HELP = "Beginning of a key, or of its exchange's id (or the id's end), or the word last."
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help=KEY_HELP, show_default=False)]


async def find_entry(store: ExchangeStore, text: str) -> CacheEntry:
    """The entry that people mean.

    Raises:
        NotFound: none, or several.
    """
    digits = await find(store, text) if text == "last" else text
    return await store.resolve_entry(digits.rpartition(":")[2])


@with_options(json=JSON, settings=FOLDER)
async def show_entry(key: KeyArgument, settings: Settings, json: bool) -> None:
    """Show one entry: what was asked, and what it answers.

    The canonical request is what keys are made of: the request without what says the same in another way.
    """
    async with reading(settings) as store:
        entry = await find_entry(store, key)
        exchange = await store.get(entry.exchange)
    subject = Index.from_settings(settings, providers()).subject(exchange)
    if json:
        write_json({**entry_record(entry), "canonical": subject_record(subject), "answer": exchange.response_text})
    else:
        _print_entry(entry, exchange, subject)


def subject_record(subject: CacheSubject | str) -> dict[str, Any] | None:
    """What a request asks for, as JSON; None if it cannot be cached."""
    if isinstance(subject, str):
        return None
    return {
        "operation": subject.operation,
        "model": subject.model,
        "kind": subject.kind,
        "variant": subject.variant,
        "deterministic": subject.deterministic,
        "depends_on": subject.depends_on,
        "body": msgspec.Raw(subject.body or b"null"),
    }


def canonical_text(subject: CacheSubject) -> str:
    """The canonical request for people."""
    head = " ".join(filter(None, (subject.operation, subject.model, subject.variant)))
    body = msgspec.json.format(subject.body, indent=2).decode(errors="replace") if subject.body else ""
    return f"{head}\n{body}".rstrip()


def _print_entry(entry: CacheEntry, exchange: Exchange, subject: CacheSubject | str) -> None:
    put(Text(key_text(entry.key), "bold cyan"), Text(_use(entry), "dim"), facts(exchange))
    say("", "canonical request")
    put(_bounded(subject if isinstance(subject, str) else canonical_text(subject), CANONICAL_CHARACTERS))
    if exchange.response_text:
        say("", "answer")
        put(_bounded(exchange.response_text, ANSWER_CHARACTERS))


def _use(entry: CacheEntry) -> str:
    words = [
        entry.kind if entry.kind == "answer" else "error, for replay alone",
        f"stored {local_time(entry.stored_ns):%Y-%m-%d %H:%M:%S}",
        f"{entry.hits} hits",
    ]
    if entry.hits:
        words.append(f"saved {cost_text(entry.saved_nanousd)} and {duration_text(entry.saved_us)}")
    return ", ".join([*words, *(["pinned"] if entry.pinned else [])])


def _bounded(text: str, limit: int) -> Text:
    shown = styled(text[:limit])
    return shown.append(f" … {len(text) - limit} more characters", "dim") if len(text) > limit else shown


@with_options(json=JSON, settings=FOLDER)
async def pin(
    key: KeyArgument,
    settings: Settings,
    json: bool,
    off: Annotated[bool, typer.Option("--off", help="Let it go again.")] = False,
) -> None:
    """Keep an entry: never too old, never replaced."""
    async with writing(settings) as store:
        entry = await find_entry(store, key)
        await store.pin(entry.key, pinned=not off)
    cache_changed(settings)
    if json:
        write_json({"key": key_text(entry.key), "exchange": str(entry.exchange), "pinned": not off})
    else:
        say(f"{key_text(entry.key)} is {'no longer ' if off else ''}pinned.")
