"""`list`, `search` and `stats`: many exchanges at once."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, get_args

import typer
from rich.padding import Padding
from rich.text import Text

from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import store_exists
from gemini_caching_proxy.stores.base import Query, StatsGroup

from .access import first_steps, reading
from .figures import NONE, bytes_text, cost_text, count_text, duration_text
from .listing import Listing, spans_days
from .options import FILTERS, FOLDER, JSON, Bundle, Filters, limit_option, option, refuse, with_options
from .records import hit_record, stats_record, summary_record
from .table import TableColumn, fitting_table
from .terminal import note, one_line, output, put, visible, write_json

NOTHING_FITS = "No recorded exchange fits."

CURSOR = Bundle(
    (option("cursor", str, "Go on where an earlier page ended.", "--cursor", metavar="CURSOR"),),
    lambda values: values["cursor"],
)


@with_options(
    limit=limit_option(30, "Most exchanges to list"), cursor=CURSOR, json=JSON, filters=FILTERS, settings=FOLDER
)
async def list_exchanges(settings: Settings, filters: Filters, limit: int, cursor: str | None, json: bool) -> None:
    """List recorded exchanges, newest first.

    The id is the end of the exchange's id: `gemini-proxy show` takes it as it stands here.
    """
    if not store_exists(settings):
        note(first_steps(settings))
        return
    async with reading(settings) as store:
        try:
            page = await store.list(await filters.resolved(store), limit=limit, cursor=cursor)
        except ValueError as error:
            raise refuse("--cursor", error) from None
    if json:
        for summary in page.items:
            write_json(summary_record(summary))
    else:
        console = output()
        now = datetime.now().astimezone()
        listing = Listing(console.width, days=spans_days(page.items, now))
        if page.items:
            console.print(listing.head(), soft_wrap=True)
        for summary in page.items:
            console.print(listing.line(summary, now), soft_wrap=True)
        if not page.items:
            note(first_steps(settings) if filters == Filters(Query()) else NOTHING_FITS)
    if page.next_cursor is not None:
        note(f"More: --cursor {page.next_cursor}")


@with_options(limit=limit_option(20, "Most exchanges to find"), json=JSON, filters=FILTERS, settings=FOLDER)
async def search(
    text: Annotated[str, typer.Argument(help="Words to find, all of them.", show_default=False)],
    settings: Settings,
    filters: Filters,
    limit: int,
    json: bool,
) -> None:
    """Find exchanges by the words in requests and answers."""
    if not store_exists(settings):
        note(first_steps(settings))
        return
    async with reading(settings) as store:
        hits = await store.search(text, await filters.resolved(store), limit=limit)
    if json:
        for hit in hits:
            write_json(hit_record(hit))
        return
    console = output()
    now = datetime.now().astimezone()
    listing = Listing(console.width, days=spans_days((hit.summary for hit in hits), now))
    for hit in hits:
        console.print(listing.line(hit.summary, now, preview=False), soft_wrap=True)
        put(Padding(_snippet(hit.snippet), (0, 0, 0, 4), expand=False))
    if not hits:
        note(NOTHING_FITS)


def _snippet(snippet: str) -> Text:
    """The text around a match, the match highlighted."""
    text = Text()
    for index, part in enumerate(snippet.replace("\x03", "\x02").split("\x02")):
        # Marks come in pairs, so every second part is a match.
        text.append(visible(" ".join(part.split(" ")).replace("\n", " ")), "bold yellow" if index % 2 else "")
    return text


GROUP = Bundle(
    (option("by", StatsGroup, "One line per value of this.", "--by", metavar="|".join(get_args(StatsGroup))),),
    lambda values: values["by"],
)

STATS_COLUMNS = (
    TableColumn("calls", 6, lambda row: count_text(row.exchanges)),
    TableColumn("errors", 6, lambda row: count_text(row.errors) if row.errors else "", style="red"),
    TableColumn("in", 6, lambda row: count_text(row.input_tokens)),
    TableColumn("cached", 6, lambda row: count_text(row.cached_tokens), least_terminal=100),
    TableColumn("out", 6, lambda row: count_text(row.output_tokens)),
    TableColumn("thoughts", 8, lambda row: count_text(row.thoughts_tokens), least_terminal=100),
    TableColumn("cost", 9, lambda row: cost_text(row.total_nanousd if row.priced else None)),
    TableColumn(
        "unpriced",
        8,
        lambda row: count_text(row.exchanges - row.priced) if row.exchanges > row.priced else "",
        least_terminal=90,
    ),
    TableColumn("hits", 6, lambda row: count_text(row.cache_hits) if row.cache_hits else "", least_terminal=100),
    TableColumn("saved", 8, lambda row: cost_text(row.saved_nanousd) if row.cache_hits else "", least_terminal=110),
    TableColumn("p50", 6, lambda row: duration_text(row.duration_us_p50)),
    TableColumn("p95", 6, lambda row: duration_text(row.duration_us_p95)),
    TableColumn("p99", 6, lambda row: duration_text(row.duration_us_p99)),
    TableColumn("ttft p50", 8, lambda row: duration_text(row.ttft_us_p50), least_terminal=110),
    TableColumn("ttft p95", 8, lambda row: duration_text(row.ttft_us_p95), least_terminal=120),
    TableColumn("sent", 10, lambda row: bytes_text(row.request_bytes), least_terminal=140),
    TableColumn("received", 10, lambda row: bytes_text(row.response_bytes), least_terminal=140),
)


@with_options(by=GROUP, json=JSON, filters=FILTERS, settings=FOLDER)
async def stats(settings: Settings, filters: Filters, by: StatsGroup | None, json: bool) -> None:
    """Sum up tokens, cost, latency and errors.

    p50, p95 and p99 are how long whole exchanges took. Exchanges without a known price are counted as unpriced: the
    cost is that of the others.
    """
    if not store_exists(settings):
        note(first_steps(settings))
        return
    async with reading(settings) as store:
        rows = await store.stats(await filters.resolved(store), group=by)
    if json:
        for row in rows:
            write_json(stats_record(row, by))
        return
    rows = tuple(row for row in rows if row.exchanges)
    if not rows:
        note(NOTHING_FITS)
        return
    width = output().width
    put(fitting_table(by or "", rows, STATS_COLUMNS, lambda row: one_line(row.key) or (NONE if by else "all"), width))
    unpriced, exchanges = sum(row.exchanges - row.priced for row in rows), sum(row.exchanges for row in rows)
    if unpriced:
        note(f"{unpriced} of {exchanges} exchanges have no known price; they are not in the cost.")
