"""The recorder's hold on its store: it insists.

Invariants: an operation returns when it is done, however long the store is away, locked or full; meanwhile `state`
says why, and one line is logged per change. A store file that is damaged is moved aside, never deleted or repaired,
and a new one takes over. An exchange that the store cannot take in any form becomes a file in the folder `rejected`,
so that it cannot stop others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import msgspec

from .conversation import Found, Questions, Threads, Turn
from .errors import StoreCorrupt, StoreError, StoreUnavailable
from .exchange import Exchange
from .journal import Gap as GapRecord
from .log import get_logger
from .recording_status import RUNNING, STORE_UNAVAILABLE
from .settings import Settings
from .stores.base import ChainMatch, ExchangeStore, Gap, JournalPosition

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
FAILURES_TO_REOPEN = 3
MOST_MOVED_ASIDE = 2
"""A third damaged file in a row is a damaged disk: then wait as for any trouble."""
REJECTED_FOLDER = "rejected"

T = TypeVar("T")
log = get_logger(__name__)


class Stopped(Exception):
    """The recorder is told to stop while the store does not answer."""


@dataclass(slots=True)
class Counts:
    """Since the recorder's start."""

    stored: int = 0
    duplicates: int = 0
    undecoded: int = 0
    rejected: int = 0
    gaps: int = 0
    gap_exchanges: int = 0


class Persistence:
    """A store behind patience."""

    def __init__(self, make_store: Callable[[], ExchangeStore], settings: Settings) -> None:
        self.counts = Counts()
        self.state = RUNNING
        self.stop = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self._make_store = make_store
        self._settings = settings
        self._store: ExchangeStore | None = None
        self._opening = asyncio.Lock()
        self._threads = Threads()

    def __repr__(self) -> str:
        return f"<Persistence {self.state}, {self.counts.stored} stored>"

    async def positions(self) -> Mapping[str, JournalPosition]:
        return await self._insist(lambda store: store.positions())

    async def forget_journal(self, name: str) -> None:
        await self._insist(lambda store: store.forget_journal(name))

    async def add_gap(self, gap: GapRecord) -> None:
        told = Gap(gap.exchanges, gap.first_ns, gap.last_ns, gap.reason)
        await self._insist(lambda store: store.add_gap(told))
        self.counts.gaps += 1
        self.counts.gap_exchanges += gap.exchanges
        log.warning("exchanges are missing from the record", exchanges=gap.exchanges, reason=gap.reason)

    async def cache_changes(self) -> int:
        return await self._insist(lambda store: store.cache_changes())

    async def known(self, ids: Sequence[UUID]) -> frozenset[UUID]:
        """Those of these exchanges that are stored."""
        return await self._insist(lambda store: store.known(ids))

    async def add(self, turns: Sequence[Turn], positions: Sequence[JournalPosition], *, more: bool = False) -> None:
        """Thread the exchanges and take them in, with the positions that go with them; `more` follows at once."""
        questions = self._threads.questions(turns)
        found = await self._insist(lambda store: ask(store, questions))
        exchanges = self._threads.place(turns, found)
        try:
            result = await self._insist(lambda store: store.add(exchanges, positions, more=more))
        except (Stopped, StoreError):
            raise
        except Exception as error:  # noqa: BLE001 - a batch with something that no store can hold must not block the rest
            log.warning("a batch cannot be stored as it is; trying one by one", error=type(error).__name__)
            for exchange in exchanges:
                await self._add_alone(exchange)
            await self._insist(lambda store: store.add((), positions))
            return
        self._count(result.added, result.duplicates, exchanges)

    async def reject(self, name: str, what: object) -> None:
        """Keep what cannot be stored as a file."""
        data = msgspec.json.encode(what)

        async def write(_: ExchangeStore) -> None:
            folder = self._settings.data_dir / REJECTED_FOLDER
            try:
                _write_private(folder, f"{name}.json", data)
            except OSError as error:
                raise StoreUnavailable(f"{folder} cannot be written: {error.strerror}.") from error

        await self._insist(write)
        self.counts.rejected += 1
        log.error("an exchange cannot be stored and is kept as a file", file=f"{REJECTED_FOLDER}/{name}.json")

    async def aclose(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(StoreError):
                await store.aclose()

    async def _add_alone(self, exchange: Exchange) -> None:
        """As understood, else as it came, else as a file."""
        for form in (exchange, _undecoded(exchange)):
            try:
                result = await self._insist(lambda store, form=form: store.add((form,)))  # type: ignore[misc]
            except (Stopped, StoreError):
                raise
            except Exception as error:  # noqa: BLE001 - see `add`
                log.warning("an exchange cannot be stored in one form", id=str(exchange.id), error=type(error).__name__)
            else:
                self._count(result.added, result.duplicates, (form,))
                return
        await self.reject(str(exchange.id), _undecoded(exchange))

    def _count(self, added: int, duplicates: int, exchanges: Sequence[Exchange]) -> None:
        self.counts.stored += added
        self.counts.duplicates += duplicates
        self.counts.undecoded += sum(1 for exchange in exchanges if exchange.decode_error is not None)

    async def _insist(self, work: Callable[[ExchangeStore], Awaitable[T]]) -> T:
        """Do `work`, whatever the store's troubles. Raises Stopped, and what is no trouble of a store."""
        pause, failures, moved = FIRST_PAUSE_SECONDS, 0, 0
        while True:
            try:
                result = await work(await self._opened())
            except StoreError as error:
                failures += 1
                self._enter(f"{STORE_UNAVAILABLE}: {error}")
                if isinstance(error, StoreCorrupt) and moved < MOST_MOVED_ASIDE:
                    moved += 1
                    await self._move_aside(error)
                elif failures % FAILURES_TO_REOPEN == 0:
                    await self.aclose()
            else:
                self._enter(RUNNING)
                return result
            await self._wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _opened(self) -> ExchangeStore:
        async with self._opening:
            if self._store is None:
                store = self._make_store()
                try:
                    await store.open()
                except BaseException:
                    with contextlib.suppress(StoreError):
                        await store.aclose()
                    raise
                self._store = store
            return self._store

    async def _wait(self, seconds: float) -> None:
        if self.stop.is_set():
            raise Stopped
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def _move_aside(self, error: StoreCorrupt) -> None:
        await self.aclose()
        path = self._settings.sqlite_path
        if not path.exists():
            return
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        try:
            for suffix in ("", "-wal", "-shm", "-journal"):
                part = path.with_name(path.name + suffix)
                if part.exists():
                    part.rename(f"{part}.corrupt-{stamp}")
        except OSError as failure:
            log.error("a damaged store cannot be moved aside", path=str(path), why=str(failure))
            return
        self._threads.forget()
        log.error(
            "THE STORE WAS DAMAGED: it is moved aside with all that was in it, and a new one takes over",
            moved_to=f"{path}.corrupt-{stamp}",
            why=str(error),
        )

    def _enter(self, state: str) -> None:
        if state == self.state:
            return
        was, self.state = self.state, state
        if state == RUNNING:
            log.info("the store is available again")
        elif was == RUNNING:
            log.error("the store is unavailable; the journal keeps everything until it is back", why=state)
        self.on_change()


def _write_private(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


async def ask(store: ExchangeStore, questions: Questions) -> Found:
    """What the store knows of conversations; raises as stores do."""
    tips: dict[tuple[str, bytes], ChainMatch] = {}
    for scope, asked in questions.tips.items():
        for tip, match in (await store.find_chain_tips(asked, scope)).items():
            tips[scope, tip] = match
    answers: dict[str, ChainMatch] = {}
    for response_id in questions.response_ids:
        known = await store.find_response_id(response_id)
        if known is not None:
            answers[response_id] = known
    return Found(tips, answers)


def _undecoded(exchange: Exchange) -> Exchange:
    """The exchange as it came, with its place in the conversation."""
    return replace(
        exchange,
        model_version=None,
        finish_reason=None,
        response_id=None,
        usage=None,
        price=None,
        request_pieces=(),
        response_pieces=(),
        request_text="",
        response_text="",
        decode_error=exchange.decode_error or "What the bodies say cannot be stored.",
    )
