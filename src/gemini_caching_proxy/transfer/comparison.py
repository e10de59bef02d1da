"""Whether what is in one store is in another too: every exchange's summary, whole exchanges, gaps and entries.

Both stores are read in the order of their lists and merged, page by page, so memory does not grow with them. What one
of them takes in or loses meanwhile is no difference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from gemini_caching_proxy.errors import NotFound, StoreCorrupt
from gemini_caching_proxy.exchange import Exchange, Piece
from gemini_caching_proxy.stores.base import CacheEntry, EntryQuery, ExchangeStore, Query, Summary, replaces

from .entries import each_entry, entry_under
from .parallel import gathered

PAGE: Final = 500
SAMPLE: Final = 500
"""Exchanges that are compared as a whole, about, unless all are."""
MOST_EXAMPLES: Final = 20
STEP: Final = 100
"""Exchanges between two words on the progress."""
TRIES: Final = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Difference:
    """Something of the source that is not, or not the same, in the target."""

    what: str
    """`exchange`, `gap`, `entry`."""
    name: str
    """The exchange's id, the entry's key, the gap's reason."""
    how: str
    """A clause for people."""


@dataclass(slots=True)
class Comparison:
    """What comparing found."""

    exchanges: int = 0
    """Exchanges of the source whose summaries were looked for in the target."""
    whole: int = 0
    """Of those, compared as a whole."""
    only_in_target: int = 0
    """Exchanges that the target has from elsewhere."""
    gaps: int = 0
    entries: int = 0
    pinned: int = 0
    """Of these entries."""
    other_answers: int = 0
    """Keys of the source under which the target has an answer of its own that is newer or pinned."""
    differences: int = 0
    examples: list[Difference] = field(default_factory=list)
    """The first `MOST_EXAMPLES` of the differences."""
    pruned: int | None = None
    """Exchanges that only the source's statistics still know; None if the source was too busy to tell."""
    pruned_tokens: int | None = None
    """Their tokens and what they cost, with the same exception."""
    pruned_nanousd: int | None = None

    def differs(self, what: str, name: object, how: str) -> None:
        self.differences += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(Difference(what, str(name), how))


async def compare(
    source: ExchangeStore,
    target: ExchangeStore,
    through: int,
    *,
    thorough: bool = False,
    on_progress: Callable[[Comparison], None] = lambda _: None,
) -> Comparison:
    """Look for everything of `source` in `target`.

    Args:
        through: sequence in the source of the last exchange that is expected in the target.
        thorough: compare every exchange as a whole, not a sample.

    Raises:
        StoreError: one of the two cannot be used.
    """
    check = _Check(source, target, through, Comparison(), on_progress)
    await check.exchanges(thorough=thorough)
    await check.gaps()
    await check.entries()
    await check.statistics()
    on_progress(check.found)
    return check.found


@dataclass(slots=True)
class _Sums:
    exchanges: int = 0
    tokens: int = 0
    nanousd: int = 0

    def add(self, summary: Summary) -> None:
        self.exchanges += 1
        self.tokens += summary.total_tokens or 0
        self.nanousd += summary.price_nanousd or 0


class _Check:
    """One comparison under way."""

    def __init__(
        self,
        source: ExchangeStore,
        target: ExchangeStore,
        through: int,
        found: Comparison,
        on_progress: Callable[[Comparison], None],
    ) -> None:
        self.found = found
        self._source = source
        self._target = target
        self._through = through
        self._on_progress = on_progress
        self._sums = _Sums()

    async def exchanges(self, *, thorough: bool) -> None:
        step = 1 if thorough else max(1, (await self._source.size()).exchanges // SAMPLE)
        ours, theirs = (_Groups(_summaries(store), _started_ns) for store in (self._source, self._target))
        while (moment := await _newest(ours, theirs)) is not None:
            left = {one.id: one for one in await ours.at(moment)}
            right = {one.id: one for one in await theirs.at(moment)}
            self.found.only_in_target += len(right.keys() - left.keys())
            for one in left.values():
                self._sums.add(one)
                if one.sequence <= self._through:
                    await self._exchange(one, right.get(one.id), whole=_chosen(one.id, step))

    async def _exchange(self, one: Summary, other: Summary | None, *, whole: bool) -> None:
        found = self.found
        found.exchanges += 1
        if found.exchanges % STEP == 0:
            self._on_progress(found)
        if other is None:
            if await _has(self._source, one.id):
                found.differs("exchange", one.id, "is missing")
            return
        names = _differing(replace(one, sequence=0), replace(other, sequence=0))
        if not names and whole:
            found.whole += 1
            names = await self._whole(one.id)
        if names:
            found.differs("exchange", one.id, f"differs in {', '.join(names)}")

    async def _whole(self, exchange_id: UUID) -> list[str]:
        """Names of the fields that differ."""
        try:
            one, other = await gathered((self._source.get(exchange_id), self._target.get(exchange_id)))
        except NotFound:
            # Pruned meanwhile.
            return []
        except StoreCorrupt:
            return ["its bytes, which cannot be read"]
        return _differing(_without_search_texts(one), _without_search_texts(other))

    async def gaps(self) -> None:
        known = set(await self._target.gaps())
        for gap in await self._source.gaps():
            self.found.gaps += 1
            if gap not in known:
                self.found.differs("gap", gap.reason, f"of {gap.exchanges} exchanges is missing")

    async def entries(self) -> None:
        ours, theirs = (_Groups(each_entry(store, EntryQuery()), _stored_ns) for store in (self._source, self._target))
        while (moment := await _newest(ours, theirs)) is not None:
            left = {one.key: one for one in await ours.at(moment)}
            right = {one.key: one for one in await theirs.at(moment)}
            for one in left.values():
                other = right.pop(one.key, None)
                if other is None or other.exchange != one.exchange:
                    await self._lacks(one)
                else:
                    self._count(one)
                    self._same_entry(one, other)
            for other in right.values():
                await self._is_too_much(other)

    def _count(self, entry: CacheEntry) -> None:
        self.found.entries += 1
        self.found.pinned += entry.pinned

    def _same_entry(self, one: CacheEntry, other: CacheEntry) -> None:
        counters: dict[str, Any] = {"pinned": False, "hits": 0, "last_hit_ns": None, "saved_nanousd": 0, "saved_us": 0}
        names = _differing(replace(one, **counters), replace(other, **counters))
        if one.pinned and not other.pinned:
            names.append("the pin")
        if names:
            self.found.differs("entry", one.key.hex(), f"differs in {', '.join(names)}")

    async def _lacks(self, one: CacheEntry) -> None:
        """An entry of the source is not met in the target."""
        standing = await entry_under(self._target, one.key)
        now = await entry_under(self._source, one.key)
        if now is None or now.exchange != one.exchange:
            return
        if standing is not None and standing.exchange == one.exchange:
            self._count(one)
        elif standing is not None and (standing.pinned or replaces(standing, one)):
            self._count(one)
            self.found.other_answers += 1
        elif await _has(self._target, one.exchange):
            self._count(one)
            self.found.differs("entry", one.key.hex(), f"of exchange {one.exchange} is missing")

    async def _is_too_much(self, other: CacheEntry) -> None:
        """An entry of the target is not met in the source."""
        now = await entry_under(self._source, other.key)
        if other.pinned or (now is not None and now.exchange == other.exchange):
            return
        if await _has(self._source, other.exchange):
            self.found.differs("entry", other.key.hex(), f"of exchange {other.exchange} stands only in the target")

    async def statistics(self) -> None:
        """What the source's statistics know of exchanges that are no longer there."""
        for _ in range(TRIES):
            before = await self._source.size()
            (row,) = await self._source.stats(Query())
            if (await self._source.size()).exchanges == before.exchanges:
                break
        else:
            return
        self.found.pruned = max(0, row.exchanges - before.exchanges)
        if before.exchanges == self._sums.exchanges:
            self.found.pruned_tokens = row.total_tokens - self._sums.tokens
            self.found.pruned_nanousd = row.total_nanousd - self._sums.nanousd


class _Groups(Generic[T]):
    """Items that come newest first, taken by their moment."""

    def __init__(self, items: AsyncIterator[T], moment: Callable[[T], int]) -> None:
        self._items = items
        self._moment = moment
        self._next: T | None = None
        self._begun = False

    async def moment(self) -> int | None:
        """That of the next items; None at the end."""
        if not self._begun:
            self._begun = True
            await self._advance()
        return None if self._next is None else self._moment(self._next)

    async def at(self, moment: int) -> list[T]:
        """All items of this moment."""
        found: list[T] = []
        while self._next is not None and self._moment(self._next) == moment:
            found.append(self._next)
            await self._advance()
        return found

    async def _advance(self) -> None:
        self._next = await anext(self._items, None)


async def _newest(*groups: _Groups[Any]) -> int | None:
    moments = [moment for group in groups if (moment := await group.moment()) is not None]
    return max(moments, default=None)


async def _summaries(store: ExchangeStore) -> AsyncIterator[Summary]:
    cursor = None
    while True:
        page = await store.list(Query(), limit=PAGE, cursor=cursor)
        for summary in page.items:
            yield summary
        cursor = page.next_cursor
        if cursor is None:
            return


def _started_ns(summary: Summary) -> int:
    return summary.started_ns


def _stored_ns(entry: CacheEntry) -> int:
    return entry.stored_ns


def _chosen(exchange_id: UUID, step: int) -> bool:
    """Whether an exchange is one of the sample: one in `step`, the same ones each time."""
    return int.from_bytes(exchange_id.bytes[8:]) % step == 0


async def _has(store: ExchangeStore, exchange_id: UUID) -> bool:
    try:
        await store.get(exchange_id)
    except NotFound:
        return False
    except StoreCorrupt:
        return True
    return True


def _differing(one: Any, other: Any) -> list[str]:
    """Names of the fields in which two values of a dataclass differ."""
    if one == other:
        return []
    return [each.name for each in fields(one) if getattr(one, each.name) != getattr(other, each.name)]


def _without_search_texts(exchange: Exchange) -> Exchange:
    """What search finds a part by belongs to the part, and the target may know the part from elsewhere."""

    def bare(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        return tuple(replace(piece, text="") for piece in pieces)

    return replace(
        exchange, request_pieces=bare(exchange.request_pieces), response_pieces=bare(exchange.response_pieces)
    )
