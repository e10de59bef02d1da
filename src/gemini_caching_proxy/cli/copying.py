"""`copy`: the whole record from one store into another, and the proof that it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gemini_caching_proxy.cache.changes import cache_changed
from gemini_caching_proxy.errors import StoreError, StoreUnavailable
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.stores.base import ExchangeStore
from gemini_caching_proxy.transfer import Comparison, Counts, Transfer, compare, journal_name

from .figures import bytes_text, cost_text, count_text
from .options import FOLDER, JSON, Bundle, option, refuse, with_options
from .places import Place, place_of
from .terminal import Output, note, say, write_json

LINE_SECONDS: Final = 5.0
"""Between two lines on the progress, where there is no terminal."""
MOST_NAMED: Final = 20
GOES_ON: Final = "What is copied stays; the same command goes on from there."

PLACES = Bundle(
    (
        option("source", str, "Store to read.", "--from", metavar="STORE"),
        option("target", str, "Store to write; it may hold other exchanges.", "--to", metavar="STORE"),
        option("thorough", bool, "Compare every exchange byte for byte, not a sample.", "--thorough"),
        option(
            "from_start", bool, "Begin with the oldest exchange, whatever an earlier run has copied.", "--from-start"
        ),
    ),
    dict,
)


@with_options(places=PLACES, json=JSON, settings=FOLDER)
async def copy(settings: Settings, places: Mapping[str, Any], json: bool) -> None:
    """Copy the whole record into another store, and compare.

    A STORE is sqlite (the file in the data folder), sqlite:///path/to/file, mongodb://host/database, or the word store:
    the one that GEMINI_PROXY_STORE or --store names, so no password need stand on a command line. It works beside a
    running proxy, can be stopped at any time, and goes on where it was when called again; what is in the target already
    stays as it is. The exit code is 1 if something of the source is missing or different in the target.
    """
    source, target = _places(places, settings)
    if source.path is not None and not source.path.exists():
        raise StoreUnavailable(f"There is no store at {source.path}, so there is nothing to copy.")
    journal = journal_name(source.identity)
    # A copy that was killed may have left a batch half done: under the same name this one closes it.
    writer = journal.replace("-", "")
    async with _opened(source, writer, read_only=True) as from_store, _opened(target, writer) as to_store:
        note(f"Copying from {source.name} to {target.name}")
        counts = await _copy(from_store, to_store, journal, anew=places["from_start"])
        if target.path is not None and target.is_same(place_of("sqlite", settings)):
            cache_changed(settings)
        found = await _compare(from_store, to_store, counts, thorough=places["thorough"])
    if json:
        write_json(copy_record(source.name, target.name, counts, found))
    else:
        _report(counts, found)
    if found.differences or counts.refused:
        raise typer.Exit(1)


def _places(places: Mapping[str, Any], settings: Settings) -> tuple[Place, Place]:
    found = []
    for flag, name in (("--from", "source"), ("--to", "target")):
        if places[name] is None:
            raise refuse(flag, "is needed")
        try:
            found.append(place_of(places[name], settings))
        except ValueError as error:
            raise refuse(flag, error) from None
    source, target = found
    if source.is_same(target):
        raise refuse("--to", f"names the store that --from names too, {source.name}")
    return source, target


@asynccontextmanager
async def _opened(place: Place, writer: str, *, read_only: bool = False) -> AsyncIterator[ExchangeStore]:
    store = place.make(writer)
    await store.open(read_only=read_only)
    try:
        yield store
    finally:
        await store.aclose()


async def _copy(source: ExchangeStore, target: ExchangeStore, journal: str, *, anew: bool) -> Counts:
    with Display("Copied", "copying") as display:
        transfer = Transfer(
            source,
            target,
            journal,
            on_progress=lambda counts: display.show(counts.read, counts.expected, counts.bytes),
        )
        try:
            return await transfer.run(anew=anew)
        except (StoreError, asyncio.CancelledError):
            if transfer.counts.through:
                note(f"Stopped after {_exchanges(transfer.counts.read)}. {GOES_ON}")
            raise


async def _compare(source: ExchangeStore, target: ExchangeStore, counts: Counts, *, thorough: bool) -> Comparison:
    total = (await source.size()).exchanges
    with Display("Compared", "comparing") as display:
        return await compare(
            source,
            target,
            counts.through,
            thorough=thorough,
            on_progress=lambda found: display.show(found.exchanges, total),
        )


class Display:
    """How far it is: a bar on a terminal, a line now and then elsewhere; both on standard error."""

    def __init__(self, done: str, doing: str) -> None:
        """`done` begins a line ("Copied"), `doing` stands before the bar."""
        console = Output(stderr=True, markup=False, highlight=False, emoji=False)
        self._done = done
        self._began = self._told = monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task(doing, total=None, facts="")

    def __repr__(self) -> str:
        return f"<Display {self._done}>"

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int, size: int | None = None) -> None:
        """`size`: bytes of bodies done, where that is known."""
        now = monotonic()
        rate = f"{count_text(round(done / max(now - self._began, 0.001)))}/s"
        facts = rate if size is None else f"{bytes_text(size)}, {rate}"
        # A source that grows has more than it had at the start.
        total = max(done, total)
        self._bar.update(self._task, completed=done, total=total, facts=facts)
        if self._bar.disable and now - self._told >= LINE_SECONDS:
            self._told = now
            note(f"{self._done} {done} of {total} exchanges ({facts})")


def copy_record(source: str, target: str, counts: Counts, found: Comparison) -> dict[str, Any]:
    """The line of `copy --json`."""
    return {
        "from": source,
        "to": target,
        "resumed": counts.resumed,
        "added": counts.added,
        "duplicates": counts.duplicates,
        "body_bytes": counts.bytes,
        "gaps_added": counts.gaps,
        "refused": [{"id": str(one.id), "why": one.why} for one in counts.refused],
        "compared": {
            "exchanges": found.exchanges,
            "whole": found.whole,
            "gaps": found.gaps,
            "entries": found.entries,
            "pinned": found.pinned,
        },
        "only_in_target": found.only_in_target,
        "other_answers": found.other_answers,
        "differences": found.differences,
        "examples": [{"what": one.what, "name": one.name, "how": one.how} for one in found.examples],
        "pruned": found.pruned,
        "pruned_tokens": found.pruned_tokens,
        "pruned_nanousd": found.pruned_nanousd,
    }


def _report(counts: Counts, found: Comparison) -> None:
    known = f"; {counts.duplicates} were there already" if counts.duplicates else ""
    before = " after those of an earlier run" if counts.resumed else ""
    say(f"Copied {_exchanges(counts.added)}{before}{known} ({bytes_text(counts.bytes)} of bodies read).")
    looked_at = (
        f"Compared {_exchanges(found.exchanges)} ({found.whole} byte for byte), {_counted(found.gaps, 'gap')} and "
        f"{_counted(found.entries, 'entry', 'entries')} of the cache ({found.pinned} pinned): "
    )
    say(looked_at + ("no difference." if not found.differences else f"{_counted(found.differences, 'difference')}."))
    if found.only_in_target:
        say(f"The target holds {_exchanges(found.only_in_target)} from elsewhere.")
    if found.other_answers:
        say(f"For {_counted(found.other_answers, 'key')} of the cache the target keeps another answer.")
    if found.pruned:
        say(_pruned(found))
    for refused in counts.refused[:MOST_NAMED]:
        note(f"Not copied: exchange {refused.id}, {refused.why}")
    if len(counts.refused) > MOST_NAMED:
        note(f"Not copied: {_exchanges(len(counts.refused) - MOST_NAMED)} more")
    for one in found.examples:
        note(f"Different: {one.what} {one.name} {one.how}")
    if found.differences > len(found.examples):
        note(f"Different: {found.differences - len(found.examples)} more")
    if found.differences and not counts.refused:
        note("`gemini-proxy copy --from-start` copies everything that is missing.")


def _pruned(found: Comparison) -> str:
    sums = ""
    if found.pruned_tokens is not None:
        sums = f" ({count_text(found.pruned_tokens)} tokens, {cost_text(found.pruned_nanousd)})"
    return (
        f"Not copied: the sums{sums} of {_exchanges(found.pruned or 0)} that were pruned from the source; "
        "its statistics alone still know them."
    )


def _exchanges(count: int) -> str:
    return _counted(count, "exchange")


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
