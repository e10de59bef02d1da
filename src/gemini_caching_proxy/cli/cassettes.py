"""`export`, `import` and `replay`: exchanges as files that go into a repository."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from time import time_ns
from typing import Annotated, Any, BinaryIO
from uuid import UUID

import typer

from gemini_caching_proxy import supervisor
from gemini_caching_proxy.cache.changes import cache_changed
from gemini_caching_proxy.cache.index import Index
from gemini_caching_proxy.cassette import CassetteWriter, read_cassette
from gemini_caching_proxy.cassette.files import replacing
from gemini_caching_proxy.cassette.records import REASONS
from gemini_caching_proxy.errors import CassetteError, ConfigError
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.intake import Intake
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.recording_status import read_status, wait_drained
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import is_shared, store_exists
from gemini_caching_proxy.stores.base import ExchangeStore, Query

from .access import find, first_steps, reading, writing
from .figures import bytes_text
from .flags import SETTINGS
from .options import FILTERS, FOLDER, JSON, Bundle, Filters, option, read_settings, refuse, with_options
from .terminal import note, say, write_json

STDOUT = "-"
DRAIN_SECONDS = 10.0
PAGE = 500

CASSETTE = Bundle(
    (
        option("cassette", str, "File to write; - is standard output.", "--cassette", metavar="FILE"),
        option("force", bool, "Write over a file that is there.", "--force"),
    ),
    dict,
)


@with_options(target=CASSETTE, json=JSON, filters=FILTERS, settings=FOLDER)
async def export(
    settings: Settings,
    filters: Filters,
    target: Mapping[str, Any],
    json: bool,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Exchanges to write; all that fit the filters by default."),
    ] = None,
) -> None:
    """Write recorded exchanges into a cassette.

    A cassette is a small file for a repository: `gemini-proxy replay` answers from it without store or network. Keys,
    cookies and addresses are not in it. Left out, and counted, is what could not be answered with: calls that failed,
    bodies that are not recorded as a whole, bodies that held a credential, WebSockets.
    """
    if target["cassette"] is None:
        raise refuse("--cassette", "is needed: cassettes are the one format there is")
    if ids and filters != Filters(Query()):
        raise refuse("ID", "chooses by itself: give ids or filters, not both")
    # Before the store is looked for: a recorder that has just begun makes it.
    await _wait_for_recorder(settings)
    if not store_exists(settings):
        note(first_steps(settings))
        raise typer.Exit(1)
    path = _target(target["cassette"], force=target["force"])
    async with reading(settings) as store:
        chosen = await _by_id(store, ids) if ids else await _by_filter(store, filters)
        if not chosen:
            note("No recorded exchange fits, so there is nothing to write.")
            raise typer.Exit(1)
        if path is None:
            with _standard_output() as file:
                writer = await _write(file, store, chosen)
        else:
            with replacing(path) as file:
                writer = await _write(file, store, chosen)
    _report(writer, path, json=json)


def _target(text: str, *, force: bool) -> Path | None:
    """The file to write; None for standard output."""
    if text == STDOUT:
        if sys.stdout.isatty():
            raise refuse("--cassette", "- is standard output, and a terminal cannot show a cassette")
        return None
    path = Path(text).expanduser()
    if path.is_dir():
        raise refuse("--cassette", f"{path} is a folder")
    if path.exists() and not force:
        raise refuse("--cassette", f"{path} is there already; --force writes over it")
    return path


async def _wait_for_recorder(settings: Settings) -> None:
    """What a client has just seen is to be in the cassette."""
    status = read_status(settings.data_dir)
    if status is None or not status.alive(time_ns()):
        return
    if not await wait_drained(settings, DRAIN_SECONDS):
        note("gemini-proxy: the recorder is still busy, so the newest exchanges may be missing.")


async def _by_id(store: ExchangeStore, ids: list[str]) -> list[UUID]:
    found = {UUID(await find(store, digits)) for digits in ids}
    started = [(exchange.started_ns, exchange.id) for exchange in [await store.get(one) for one in found]]
    return [one for _, one in sorted(started)]


async def _by_filter(store: ExchangeStore, filters: Filters) -> list[UUID]:
    """Oldest first."""
    query = await filters.resolved(store)
    started: list[tuple[int, UUID]] = []
    cursor = None
    while True:
        page = await store.list(query, limit=PAGE, cursor=cursor)
        started += [(summary.started_ns, summary.id) for summary in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return [one for _, one in sorted(started)]


def _standard_output() -> BinaryIO:
    sys.stdout.flush()
    return os.fdopen(os.dup(sys.stdout.fileno()), "wb")


async def _write(file: BinaryIO, store: ExchangeStore, chosen: list[UUID]) -> CassetteWriter:
    with CassetteWriter(file) as writer:
        async for exchange in _each(store, chosen):
            writer.add(exchange)
    return writer


async def _each(store: ExchangeStore, chosen: list[UUID]) -> AsyncIterator[Exchange]:
    for one in chosen:
        yield await store.get(one)


def _report(writer: CassetteWriter, path: Path | None, *, json: bool) -> None:
    tell = note if path is None else say
    if json and path is not None:
        write_json({"exchanges": writer.exchanges, "bytes": writer.bytes, "left_out": dict(writer.left_out)})
        return
    where = path or "standard output"
    tell(f"Wrote {_counted(writer.exchanges)} to {where} ({bytes_text(writer.bytes)}).")
    for reason, count in sorted(writer.left_out.items()):
        note(f"Left out: {_counted(count)}, {REASONS[reason]}.")


def _counted(exchanges: int) -> str:
    return f"{exchanges} exchange{'' if exchanges == 1 else 's'}"


@with_options(json=JSON, settings=FOLDER)
async def import_cassette(
    settings: Settings,
    json: bool,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A cassette.", show_default=False)],
) -> None:
    """Take the exchanges of a cassette into the record.

    They are listed, searched and summed up as those recorded here, and every client can be answered from them. It works
    beside a running proxy; what is in the record already stays as it is.
    """
    path = file.expanduser()
    # Read to its end first: nothing of a damaged file is to get in.
    count = sum(1 for _ in read_cassette(path))
    if not is_shared(settings):
        settings.sqlite_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    index = Index.from_settings(settings, providers(), imported=True)
    async with writing(settings) as store:
        result = await Intake(store, providers(), index).take(read_cassette(path))
    cache_changed(settings)
    if json:
        write_json({"exchanges": count, "added": result.added, "duplicates": result.duplicates})
        return
    known = f"; {result.duplicates} were there already" if result.duplicates else ""
    say(f"Took in {_counted(result.added)} of {count}{known}.")


_REPLAY_HAS_NO = ("cassette", "cache", "data_dir", "store", "record")
SERVE = Bundle(
    tuple(parameter for parameter in SETTINGS.parameters if parameter.name not in _REPLAY_HAS_NO),
    dict,
)


@with_options(flags=SERVE, json=JSON)
def replay(
    flags: Mapping[str, Any],
    json: bool,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A cassette.", show_default=False)],
) -> None:
    """Answer from a cassette alone: no store, no network.

    What is not in the cassette is answered 504 with an explanation; the upstream is never called and nothing is
    recorded. `--port 0` takes a free port; the first line of output has the base URL, with `--json` as
    `{"url", "exchanges"}`.
    """
    path = file.expanduser().absolute()
    try:
        count = sum(1 for _ in read_cassette(path))
    except CassetteError as error:
        raise ConfigError(str(error)) from None

    def announce(url: str) -> None:
        if json:
            write_json({"url": url, "exchanges": count})
        else:
            say(f"Answering from {_counted(count)} of {path} on {url}")
            sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="gemini-proxy-replay-") as folder:
        fixed = {"cassette": path, "cache": "replay", "record": False, "store": "sqlite", "data_dir": Path(folder)}
        code = supervisor.run(read_settings({**flags, **fixed}), announce)
    if code:
        raise typer.Exit(code)
