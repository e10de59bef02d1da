"""The store as the rest of the program sees it: the contract's methods, each within the border of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID, uuid4

from gemini_caching_proxy.errors import StoreUnavailable
from gemini_caching_proxy.exchange import EntryKind, Exchange
from gemini_caching_proxy.locations import shown_uri
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

from . import entries, schema, state
from .answers import Answers
from .connection import Client, Database, database_of, make_client, store_errors, unwaiting
from .eviction import Eviction
from .facets import Facets
from .lists import Lists
from .pruning import Pruning
from .reader import Reader
from .settlement import Settlement, await_settled
from .statistics import Statistics
from .writer import Writer

T = TypeVar("T")


class MongoDBStore:
    """Exchanges in a MongoDB database, which any number of proxies may share."""

    def __init__(self, uri: str, *, writer: str | None = None) -> None:
        """`writer`: a lasting name for who adds, letters and digits alone; none for who adds once."""
        self._uri = uri
        self._writer_name = writer or uuid4().hex
        self._client: Client | None = None
        self._readable: _Readable | None = None
        self._writable: _Writable | None = None

    def __repr__(self) -> str:
        state = "closed" if self._readable is None else "read-only" if self._writable is None else "open"
        return f"<MongoDBStore {shown_uri(self._uri)} {state}>"

    async def open(self, *, read_only: bool = False) -> None:
        self._client = make_client(self._uri)
        try:
            with store_errors(self._uri):
                database = database_of(self._client)
                await schema.check_server(database, self._uri)
                if read_only:
                    # Of a database that nobody wrote to yet everything is empty.
                    await schema.version_of(database, self._uri)
                else:
                    await schema.complete(database, self._uri)
                    self._writable = _Writable(database, self._writer_name)
                    await self._writable.writer.begin()
                self._readable = _Readable(database)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close everything; a second time does nothing."""
        client, self._client = self._client, None
        writable, self._writable = self._writable, None
        self._readable = None
        if writable is not None:
            with suppress(StoreUnavailable), store_errors(self._uri):
                await writable.settlement.aclose()
        if client is not None:
            await client.close()

    async def _read(self, work: Coroutine[Any, Any, T]) -> T:
        with store_errors(self._uri):
            return await work

    @property
    def _reading(self) -> _Readable:
        if self._readable is None:
            raise StoreUnavailable(f"The store {shown_uri(self._uri)} is not open.")
        return self._readable

    @property
    def _writing(self) -> _Writable:
        if self._writable is None:
            raise StoreUnavailable(f"The store {shown_uri(self._uri)} is not open for writing.")
        return self._writable

    async def add(
        self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition] = (), *, more: bool = False
    ) -> AddResult:
        writing = self._writing
        async with writing.turn:
            with store_errors(self._uri), writing.settlement.waiting():
                result = await writing.writer.add(exchanges, positions)
                if exchanges and not more:
                    await writing.settlement.settle()
        return result

    async def settled(self, patience_s: float = 10.0) -> bool:
        settlement = None if self._writable is None else self._writable.settlement
        return await self._read(await_settled(self._reading.database, settlement, patience_s))

    async def add_gap(self, gap: Gap, positions: Sequence[JournalPosition] = ()) -> None:
        await self._read(self._writing.writer.add_gap(gap, positions))

    async def forget_journal(self, journal: str) -> None:
        await self._read(self._writing.writer.forget_journal(journal))

    async def gaps(self) -> tuple[Gap, ...]:
        return await self._read(self._reading.reader.gaps())

    async def positions(self) -> Mapping[str, JournalPosition]:
        return await self._read(self._reading.reader.positions())

    async def get(self, exchange_id: UUID) -> Exchange:
        return await self._read(self._reading.reader.get(exchange_id))

    async def known(self, ids: Sequence[UUID]) -> frozenset[UUID]:
        return await self._read(self._reading.reader.known(ids))

    async def resolve(self, prefix: str) -> UUID:
        return await self._read(self._reading.reader.resolve(prefix))

    async def list(self, query: Query, *, limit: int = 50, cursor: str | None = None) -> Page:
        return await self._read(self._reading.lists.page(query, limit, cursor))

    async def after(self, sequence: int, query: Query, *, limit: int = 500) -> tuple[Summary, ...]:
        return await self._read(self._reading.lists.after(sequence, query, limit))

    async def last_sequence(self) -> int:
        return await self._read(self._reading.lists.last_sequence())

    async def search(self, text: str, query: Query, *, limit: int = 50) -> tuple[Hit, ...]:
        return await self._read(self._reading.lists.search(text, query, limit))

    async def stats(self, query: Query, *, group: StatsGroup | None = None) -> tuple[StatsRow, ...]:
        return await self._read(self._reading.statistics.rows(query, group))

    async def find_chain_tips(self, tips: Sequence[bytes], scope: str) -> Mapping[bytes, ChainMatch]:
        return await self._read(self._reading.reader.find_chain_tips(tips, scope))

    async def find_response_id(self, response_id: str) -> ChainMatch | None:
        return await self._read(self._reading.reader.find_response_id(response_id))

    async def size(self) -> StoreSize:
        return await self._read(self._reading.reader.size())

    async def prune(self, *, older_than_ns: int) -> PruneResult:
        return await self._read(self._writing.pruning.run(older_than_ns))

    async def find_cached(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        return await self._read(self._reading.answers.find(keys))

    async def entries(self, query: EntryQuery, *, limit: int = 50, cursor: str | None = None) -> EntryPage:
        return await self._read(self._reading.answers.page(query, limit, cursor))

    async def resolve_entry(self, prefix: str) -> CacheEntry:
        return await self._read(self._reading.answers.resolve(prefix))

    async def add_entry(self, exchange_id: UUID, key: bytes, kind: EntryKind) -> bool:
        return await self._read(entries.add_entry(self._writing.database, exchange_id, key, kind))

    async def pin(self, key: bytes, *, pinned: bool) -> None:
        await self._read(entries.pin(self._writing.database, key, pinned=pinned))

    async def evict(self, query: EntryQuery) -> int:
        return await self._read(self._writing.eviction.run(query))

    async def evict_to(self, answer_bytes: int) -> int:
        return await self._read(self._writing.eviction.shrink_to(answer_bytes))

    async def agree(self, name: str, offer: bytes) -> bytes:
        """What all proxies on this store use under a name: the first one's offer."""
        return await self._read(state.agree(self._writing.database, name, offer))

    async def cache_changes(self) -> int:
        return await self._read(self._reading.reader.cache_changes())

    async def cache_stats(self) -> CacheStats:
        return await self._read(self._reading.answers.stats())

    async def part_owners(self, digests: Sequence[bytes], *, limit: int = 100) -> tuple[UUID, ...]:
        return await self._read(self._reading.answers.part_owners(digests, limit))


class _Readable:
    """What reads a database."""

    def __init__(self, database: Database) -> None:
        facets = Facets(database)
        self.database = database
        self.reader = Reader(database)
        self.lists = Lists(database, facets)
        self.statistics = Statistics(database, facets)
        self.answers = Answers(database, facets)


class _Writable:
    """What writes one."""

    def __init__(self, database: Database, name: str) -> None:
        self.database = database
        self.turn = asyncio.Lock()
        """Batches are taken in one after the other."""
        self.writer = Writer(database, name)
        self.settlement = Settlement(unwaiting(database))
        self.eviction = Eviction(database, Facets(database))
        self.pruning = Pruning(database, self.settlement)


_: type[ExchangeStore] = MongoDBStore
