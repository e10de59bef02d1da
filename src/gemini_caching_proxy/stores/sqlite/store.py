"""The store as the rest of the program sees it: the contract's methods, each run on a thread that may wait for the
disk.

One thread writes; a few read, each with a connection of its own. Pruning and eviction have their own connection and
thread. Opened with `read_only`, the store only has the readers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import apsw

from gemini_caching_proxy.errors import StoreUnavailable
from gemini_caching_proxy.exchange import EntryKind, Exchange
from gemini_caching_proxy.stores.base import (
    AddResult,
    CachedAnswer,
    CacheEntry,
    CacheStats,
    ChainMatch,
    EntryPage,
    EntryQuery,
    ExchangeStore,
    Gap,
    Hit,
    JournalPosition,
    Page,
    PruneResult,
    Query,
    StatsGroup,
    StatsRow,
    StoreSize,
    Summary,
)

from .connection import open_writer, store_errors
from .eviction import Eviction
from .pruning import Pruning
from .reader import Reader
from .writer import Writer

READERS = 3

T = TypeVar("T")


class SQLiteStore:
    """Exchanges in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None
        self._writer: Writer | None = None
        self._readers: deque[Reader] = deque()
        self._write_thread: ThreadPoolExecutor | None = None
        self._read_threads: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        state = "closed" if self._read_threads is None else "read-only" if self._writer is None else "open"
        return f"<SQLiteStore {self._path} {state}>"

    async def open(self, *, read_only: bool = False) -> None:
        if not read_only:
            self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._read_threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        try:
            if self._write_thread is not None:
                await self._run(self._write_thread, self._open_writer)
            await self._read(lambda reader: None)
        except BaseException:
            await self.aclose()
            raise

    def _open_writer(self) -> None:
        self._connection = open_writer(self._path)
        self._writer = Writer(self._connection)

    async def aclose(self) -> None:
        """Close everything; a second time does nothing."""
        for threads in (self._read_threads, self._write_thread):
            if threads is not None:
                await asyncio.to_thread(threads.shutdown)
        self._read_threads = self._write_thread = self._writer = None
        await asyncio.to_thread(self._close_connections)

    def _close_connections(self) -> None:
        while self._readers:
            self._readers.pop().close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        def bordered() -> T:
            with store_errors(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(threads, bordered)

    async def _read(self, work: Callable[[Reader], T]) -> T:
        if self._read_threads is None:
            raise StoreUnavailable(f"The store {self._path} is not open.")

        def with_reader() -> T:
            reader = self._take_reader()
            try:
                return work(reader)
            finally:
                self._readers.append(reader)

        return await self._run(self._read_threads, with_reader)

    def _take_reader(self) -> Reader:
        try:
            return self._readers.pop()
        except IndexError:
            return Reader(self._path)

    async def _write(self, work: Callable[[Writer], T]) -> T:
        writer = self._writer
        if writer is None or self._write_thread is None:
            raise StoreUnavailable(f"The store {self._path} is not open for writing.")
        return await self._run(self._write_thread, lambda: work(writer))

    async def add(
        self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition] = (), *, more: bool = False
    ) -> AddResult:
        return await self._write(lambda writer: writer.add(exchanges, positions))

    async def settled(self, patience_s: float = 10.0) -> bool:
        return True

    async def add_gap(self, gap: Gap, positions: Sequence[JournalPosition] = ()) -> None:
        await self._write(lambda writer: writer.add_gap(gap, positions))

    async def forget_journal(self, journal: str) -> None:
        await self._write(lambda writer: writer.forget_journal(journal))

    async def gaps(self) -> tuple[Gap, ...]:
        return await self._read(lambda reader: reader.gaps())

    async def positions(self) -> Mapping[str, JournalPosition]:
        return await self._read(lambda reader: reader.positions())

    async def get(self, exchange_id: UUID) -> Exchange:
        return await self._read(lambda reader: reader.get(exchange_id))

    async def known(self, ids: Sequence[UUID]) -> frozenset[UUID]:
        return await self._read(lambda reader: reader.known(ids))

    async def resolve(self, prefix: str) -> UUID:
        return await self._read(lambda reader: reader.resolve(prefix))

    async def list(self, query: Query, *, limit: int = 50, cursor: str | None = None) -> Page:
        return await self._read(lambda reader: reader.page(query, limit, cursor))

    async def after(self, sequence: int, query: Query, *, limit: int = 500) -> tuple[Summary, ...]:
        return await self._read(lambda reader: reader.after(sequence, query, limit))

    async def last_sequence(self) -> int:
        return await self._read(lambda reader: reader.last_sequence())

    async def search(self, text: str, query: Query, *, limit: int = 50) -> tuple[Hit, ...]:
        return await self._read(lambda reader: reader.search(text, query, limit))

    async def stats(self, query: Query, *, group: StatsGroup | None = None) -> tuple[StatsRow, ...]:
        return await self._read(lambda reader: reader.stats(query, group))

    async def find_chain_tips(self, tips: Sequence[bytes], scope: str) -> Mapping[bytes, ChainMatch]:
        return await self._read(lambda reader: reader.find_chain_tips(tips, scope))

    async def find_response_id(self, response_id: str) -> ChainMatch | None:
        return await self._read(lambda reader: reader.find_response_id(response_id))

    async def size(self) -> StoreSize:
        return await self._read(lambda reader: reader.size())

    async def find_cached(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        return await self._read(lambda reader: reader.find_cached(keys))

    async def entries(self, query: EntryQuery, *, limit: int = 50, cursor: str | None = None) -> EntryPage:
        return await self._read(lambda reader: reader.entries(query, limit, cursor))

    async def resolve_entry(self, prefix: str) -> CacheEntry:
        return await self._read(lambda reader: reader.resolve_entry(prefix))

    async def add_entry(self, exchange_id: UUID, key: bytes, kind: EntryKind) -> bool:
        return await self._write(lambda writer: writer.add_entry(exchange_id, key, kind))

    async def pin(self, key: bytes, *, pinned: bool) -> None:
        await self._write(lambda writer: writer.pin(key, pinned=pinned))

    async def evict(self, query: EntryQuery) -> int:
        return await self._aside(lambda connection: Eviction(connection).run(query))

    async def evict_to(self, answer_bytes: int) -> int:
        return await self._aside(lambda connection: Eviction(connection).shrink_to(answer_bytes))

    async def cache_stats(self) -> CacheStats:
        return await self._read(lambda reader: reader.cache_stats())

    async def cache_changes(self) -> int:
        return 0

    async def part_owners(self, digests: Sequence[bytes], *, limit: int = 100) -> tuple[UUID, ...]:
        return await self._read(lambda reader: reader.part_owners(digests, limit))

    async def prune(self, *, older_than_ns: int) -> PruneResult:
        return await self._aside(lambda connection: Pruning(connection, self._path).run(older_than_ns))

    async def _aside(self, work: Callable[[apsw.Connection], T]) -> T:
        """Long work that writes, on a thread and a connection of its own."""
        if self._writer is None:
            raise StoreUnavailable(f"The store {self._path} is not open for writing.")

        def with_connection() -> T:
            connection = open_writer(self._path)
            try:
                return work(connection)
            finally:
                connection.close()

        with ThreadPoolExecutor(1, thread_name_prefix="store-aside") as thread:
            return await self._run(thread, with_connection)


_: type[ExchangeStore] = SQLiteStore
