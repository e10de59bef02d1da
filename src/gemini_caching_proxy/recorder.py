"""Journal -> exchanges -> what they say -> the store, in a process of its own that never slows a worker.

Invariants: every exchange in a journal reaches the store exactly once however often this process dies, because ids are
made by the worker, a batch is committed together with the journals' positions, and a segment is deleted only after
that. The store being away, full or damaged loses nothing: the journal keeps what is not stored, and `recorder.json`
says so.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from uuid import UUID

from .assembly import OpenExchange, assemble
from .cache.index import Index
from .cache_watch import CacheWatch
from .carryover import Carryover
from .conversation import Turn
from .decoding import understand
from .errors import FolderInUse, FormatTooNew
from .exchange import Exchange
from .feed import Batch, Feed, batches
from .heartbeat import Heartbeat
from .instance import instance_name
from .journal import Position, journals
from .log import get_logger
from .persistence import Persistence, Stopped
from .providers import providers
from .providers.base import Provider
from .settings import Settings
from .storage import is_shared, make_store
from .stores.base import ExchangeStore

POLL_SECONDS = 0.04
READ_BYTES = 1024 * 1024
ROUND_EXCHANGES = 2048
ROUND_BYTES = 16 * 1024 * 1024
"""A round reads about this much before it stores what ended."""
LOCK_PATIENCE_SECONDS = 5.0
STOP_SECONDS = 10.0
"""What is in the journal when the recorder is told to stop gets this long to reach the store; the rest keeps."""
NICENESS = 10

log = get_logger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Record until `stop`, then take in what is left.

    Raises:
        FolderInUse: another recorder holds the data folder and does not end within seconds.
    """
    async with hold_lock(settings.data_dir):
        # Not the idle class: on a machine that is busy building, the record would stand still.
        os.nice(NICENESS)
        known = providers()
        index = Index.from_settings(settings, known)
        name = instance_name(settings.data_dir)
        await Recorder(settings, lambda: make_store(settings, writer=name), known, index).run(stop)


@asynccontextmanager
async def hold_lock(data_dir: Path, patience: float = LOCK_PATIENCE_SECONDS) -> AsyncIterator[None]:
    """Be the one recorder of a data folder; a predecessor that is dying gets `patience` seconds."""
    fd = _open_lock(data_dir)
    try:
        deadline = monotonic() + patience
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > deadline:
                    raise FolderInUse(f"Another recorder is at work on {data_dir}; stop it first.") from None
            await asyncio.sleep(0.05)
        yield
    finally:
        os.close(fd)


def _open_lock(data_dir: Path) -> int:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(data_dir / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


class Recorder:
    """Takes in the journals of one data folder."""

    def __init__(
        self,
        settings: Settings,
        make_store: Callable[[], ExchangeStore],
        providers: Mapping[str, Provider],
        index: Index | None = None,
    ) -> None:
        """`index` makes the entries of the cache; without it there are none."""
        self._settings = settings
        self._index = index
        self._providers = providers
        self._feeds: dict[str, Feed] = {}
        self._persistence = Persistence(make_store, settings)
        self._heartbeat = Heartbeat(settings, self._persistence, self._feeds)
        self._held: list[tuple[Feed, OpenExchange]] = []
        self._read_trouble: set[str] = set()
        self._cache_watch = CacheWatch(settings, self._persistence) if is_shared(settings) else None
        self._reread = True
        """Whether journals may still hold exchanges that are stored: from a start until a round without any."""

    def __repr__(self) -> str:
        return f"<Recorder of {self._settings.data_dir}: {len(self._feeds)} journals, {self._persistence!r}>"

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and what was journaled is stored, or `STOP_SECONDS` have passed."""
        async with asyncio.TaskGroup() as group:
            beat = group.create_task(self._heartbeat.keep_beating())
            try:
                await self._work(stop)
            except Stopped:
                log.info("stopped before everything was stored; the journal keeps the rest")
            finally:
                beat.cancel()
                await self._persistence.aclose()
                self._heartbeat.write(stopped=True)

    async def _work(self, stop: asyncio.Event) -> None:
        self._persistence.stop = stop
        positions = await self._persistence.positions()
        known = {name: Position(at.segment, at.offset) for name, at in positions.items()}
        deadline = None
        while True:
            stopping = stop.is_set()
            busy = await self._round(known)
            if self._cache_watch is not None:
                await self._cache_watch.look()
            if stopping:
                deadline = deadline or monotonic() + STOP_SECONDS
                if not busy or monotonic() > deadline:
                    return
            elif not busy:
                try:
                    await asyncio.wait_for(stop.wait(), POLL_SECONDS)
                except TimeoutError:
                    pass

    async def _round(self, known: Mapping[str, Position]) -> bool:
        """Read a bounded amount and store what ended; whether there was anything."""
        self._discover(known)
        ended, busy = self._read()
        await self._store(ended)
        for feed in list(self._feeds.values()):
            await self._store_gaps(feed)
            await self._tidy(feed)
        return busy

    def _discover(self, known: Mapping[str, Position]) -> None:
        folder = self._settings.journal_dir
        for name in journals(folder):
            if name not in self._feeds:
                carryover = Carryover(self._settings.data_dir / "carryover", name)
                self._feeds[name] = Feed(folder, name, known.get(name, Position(0, 0)), carryover)

    def _read(self) -> tuple[list[tuple[Feed, OpenExchange]], bool]:
        """What ended, in an order in which no turn overtakes the one it extends, whichever workers had them.

        The journal that is furthest in the past is read first. What began after the newest record read of a journal
        that has more to read is held back: what it extends may be there.
        """
        count, size, busy = 0, 0, False
        hungry = list(self._feeds.values())
        while hungry and count < ROUND_EXCHANGES and size < ROUND_BYTES:
            feed = min(hungry, key=lambda each: each.clock_ns)
            came, moved = self._read_feed(feed)
            if not moved:
                hungry.remove(feed)
            busy = busy or moved
            self._held.extend((feed, exchange) for exchange in came)
            count += len(came)
            size += sum(exchange.body_bytes for exchange in came)
        if len(self._feeds) > 1:
            self._held.sort(key=lambda each: each[1].started_ns)
        horizon = min((feed.clock_ns for feed in hungry), default=None)
        ready = [each for each in self._held if horizon is None or each[1].started_ns <= horizon]
        self._held = [each for each in self._held if horizon is not None and each[1].started_ns > horizon]
        return ready, busy

    def _read_feed(self, feed: Feed) -> tuple[list[OpenExchange], bool]:
        try:
            came = feed.read(READ_BYTES)
        except (OSError, FormatTooNew) as error:
            if feed.name not in self._read_trouble:
                log.error("a journal cannot be read on; it is kept and tried again", journal=feed.name, why=str(error))
                self._read_trouble.add(feed.name)
            return [], False
        if feed.name in self._read_trouble and came[1]:
            self._read_trouble.discard(feed.name)
            log.info("a journal can be read again", journal=feed.name)
        return came

    async def _store(self, ended: Sequence[tuple[Feed, OpenExchange]]) -> None:
        """Store what ended, in batches: while the store takes in one, the next is understood."""
        duplicates = self._persistence.counts.duplicates
        storing: asyncio.Task[None] | None = None
        try:
            waiting = list(batches(ended))
            for number, batch in enumerate(waiting, 1):
                turns = await self._understood(batch)
                if storing is not None:
                    await storing
                more = number < len(waiting)
                storing = asyncio.get_running_loop().create_task(self._store_batch(batch, turns, more=more))
            if storing is not None:
                await storing
        finally:
            if storing is not None and not storing.done():
                storing.cancel()
                await asyncio.wait({storing})
        if ended and self._persistence.counts.duplicates == duplicates:
            self._reread = False

    async def _understood(self, batch: Batch) -> list[Turn]:
        known = await self._known(batch) if self._reread else frozenset()
        turns = []
        for _, open_exchange in batch.members:
            if open_exchange.id in known:
                continue
            exchange = await self._assembled(open_exchange)
            if exchange is not None:
                turns.append(understand(exchange, self._providers, self._index))
            await asyncio.sleep(0)
        return turns

    async def _store_batch(self, batch: Batch, turns: Sequence[Turn], *, more: bool) -> None:
        """One batch of the store: exchanges, and where reading goes on once they are there."""
        positions = {feed: feed.safe_position(batch.ids) for feed in batch.feeds}
        moved = [feed.journal_position(at) for feed, at in positions.items()]
        await self._persistence.add(turns, moved, more=more)
        for feed, at in positions.items():
            feed.stored(batch.of(feed), at)
        self._heartbeat.changed()

    async def _assembled(self, open_exchange: OpenExchange) -> Exchange | None:
        try:
            return assemble(open_exchange.records(), self._settings.body_head_bytes)
        except Exception as error:  # noqa: BLE001 - the outermost ring: no record may stop the recorder
            log.error("records make no exchange; they are kept", error=type(error).__name__)
            await self._persistence.reject(open_exchange.id.hex(), list(open_exchange.records()))
            return None

    async def _known(self, batch: Batch) -> frozenset[bytes]:
        """Spares decoding what a crashed predecessor stored without getting to say so."""
        known = await self._persistence.known([UUID(bytes=each) for each in batch.ids])
        self._persistence.counts.duplicates += len(known)
        return frozenset(each.bytes for each in known)

    async def _store_gaps(self, feed: Feed) -> None:
        while feed.gaps:
            gap, _ = feed.gaps[0]
            await self._persistence.add_gap(gap)
            feed.gaps.pop(0)
            self._heartbeat.changed()

    async def _tidy(self, feed: Feed) -> None:
        """Carry over what has been open for long, and finish a journal whose writer is gone."""
        if feed.wants_carrying():
            await self._carry_over(feed)
        if feed.name in self._read_trouble or not feed.settled or not feed.reader.finished:
            return
        left = feed.abandon()
        await self._store([(feed, exchange) for exchange in left])
        # Its place is forgotten first: a journal without one is read again, a place without journal stays for ever, for
        # nobody can tell whether it is another proxy's.
        await self._persistence.forget_journal(feed.name)
        if feed.remove():
            del self._feeds[feed.name]
            self._heartbeat.journal_done(feed)

    async def _carry_over(self, feed: Feed) -> None:
        try:
            position = feed.carry_over()
        except OSError as error:
            log.warning("open exchanges could not be carried over; old segments stay", why=str(error))
            return
        await self._persistence.add((), [feed.journal_position(position)])
        feed.stored((), position)
