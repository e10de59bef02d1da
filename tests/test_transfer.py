"""Copying between stores and comparing them, at the door of the package: real stores, some of them with a defect."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories import NOW_NS, agent_session, exchange, recorded, served
from gemini_caching_proxy.errors import StoreCorrupt, StoreUnavailable
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.stores.base import (
    AddResult,
    CacheEntry,
    EntryQuery,
    ExchangeStore,
    Gap,
    JournalPosition,
    Query,
)
from gemini_caching_proxy.stores.sqlite import SQLiteStore
from gemini_caching_proxy.transfer import Comparison, Counts, Transfer, compare, journal_name

sys.path.append(str(Path(__file__).parent / "stores"))
import strategies
from kinds import KINDS, drop_databases

JOURNAL = journal_name("somewhere")
KEY, OTHER_KEY = b"k" * 16, b"o" * 16
SECOND_NS = 10**9


@asynccontextmanager
async def opened(*stores: ExchangeStore) -> AsyncIterator[None]:
    for store in stores:
        await store.open()
    try:
        yield
    finally:
        for store in stores:
            await store.aclose()


class Pair:
    """A source and a target."""

    def __init__(
        self, folder: Path, source: type[SQLiteStore] | str = SQLiteStore, target: type[SQLiteStore] | str = SQLiteStore
    ):
        """Each of them a class, or one of `KINDS`."""
        self.source = _made(source, folder / "source")
        self.target = _made(target, folder / "target")

    def run(self, work: Callable[[], Any]) -> Any:
        async def within() -> Any:
            async with opened(self.source, self.target):
                return await work()

        return asyncio.run(within())

    async def copy(self, **how: Any) -> Counts:
        return await Transfer(self.source, self.target, JOURNAL).run(**how)

    async def copy_and_compare(self, **how: Any) -> tuple[Counts, Comparison]:
        counts = await self.copy()
        return counts, await compare(self.source, self.target, counts.through, **how)


def _made(kind: type[SQLiteStore] | str, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    return KINDS[kind](folder) if isinstance(kind, str) else kind(folder / "store.sqlite3")


PAIRS = [("sqlite", "sqlite"), *([("sqlite", "mongodb"), ("mongodb", "sqlite")] if "mongodb" in KINDS else [])]


@pytest.fixture(params=PAIRS, ids=" to ".join)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Of any two kinds."""
    yield Pair(tmp_path, *request.param)
    drop_databases(tmp_path)


async def everything(store: ExchangeStore) -> list[Exchange]:
    """In the order of intake."""
    found: list[UUID] = []
    at = 0
    while page := await store.after(at, Query()):
        found += [one.id for one in page]
        at = page[-1].sequence
    return [await store.get(one) for one in found]


async def entries(store: ExchangeStore) -> dict[bytes, CacheEntry]:
    assert await store.settled()
    page = await store.entries(EntryQuery(), limit=1000)
    return {entry.key: entry for entry in page.items}


def at(second: int, key: bytes = KEY, **over: Any) -> Exchange:
    """An exchange that can be served under a key."""
    return recorded(key, started_ns=NOW_NS + second * SECOND_NS, **over)


def test_everything_arrives_in_the_order_it_came(pair: Pair) -> None:
    session = list(agent_session(120))
    late_starts = [exchange(started_ns=NOW_NS - second * SECOND_NS) for second in range(130)]
    gap = Gap(7, NOW_NS, NOW_NS + 5, "disk full")

    async def work() -> None:
        await pair.source.add([*session, *late_starts])
        await pair.source.add_gap(gap)
        counts, found = await pair.copy_and_compare(thorough=True)
        assert (counts.added, counts.duplicates, counts.gaps, counts.resumed) == (250, 0, 1, False)
        assert await everything(pair.target) == await everything(pair.source)
        assert await pair.target.gaps() == (gap,)
        assert (found.exchanges, found.whole, found.gaps, found.differences) == (250, 250, 1, 0)
        assert await pair.target.stats(Query(), group="model") == await pair.source.stats(Query(), group="model")
        again, _ = await pair.copy_and_compare()
        assert (again.added, again.duplicates, again.gaps, again.resumed) == (0, 0, 0, True)
        anew = await pair.copy(anew=True)
        assert (anew.added, anew.duplicates) == (0, 250)

    pair.run(work)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(strategies.exchanges(), min_size=1, max_size=8, unique_by=lambda one: one.id))
def test_any_exchange_arrives_equal(tmp_path_factory: pytest.TempPathFactory, exchanges: list[Exchange]) -> None:
    pair = Pair(tmp_path_factory.mktemp("any"))

    async def work() -> None:
        await pair.source.add(exchanges)
        counts, found = await pair.copy_and_compare(thorough=True)
        assert counts.added == len(exchanges)
        assert await everything(pair.target) == await everything(pair.source)
        assert await entries(pair.target) == await entries(pair.source)
        assert (found.whole, found.differences) == (len(exchanges), 0)

    pair.run(work)


# Stopping and going on


class FailsLater(SQLiteStore):
    """Takes in so many batches, then is away."""

    batches = 2

    async def add(self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition] = ()) -> AddResult:
        if not self.batches:
            raise StoreUnavailable("away")
        self.batches -= 1
        return await super().add(exchanges, positions)


def test_it_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    pair = Pair(tmp_path, target=FailsLater)
    exchanges = [exchange(started_ns=NOW_NS + second) for second in range(450)]

    async def work() -> None:
        await pair.source.add(exchanges)
        with pytest.raises(StoreUnavailable):
            await pair.copy()
        assert (await pair.target.size()).exchanges == 200
        pair.target.batches = 100  # type: ignore[attr-defined]
        counts, found = await pair.copy_and_compare(thorough=True)
        # The batch that was taken in last is read again: whether its entries were seen to is not noted.
        assert (counts.added, counts.duplicates, counts.resumed) == (250, 100, True)
        assert found.differences == 0
        assert await everything(pair.target) == exchanges

    pair.run(work)


class DiesAfterAdding(SQLiteStore):
    """Takes a batch in, and is away before anything else can be asked."""

    dead = False

    async def add(self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition] = ()) -> AddResult:
        result = await super().add(exchanges, positions)
        self.dead = True
        return result

    async def entries(self, *args: Any, **kwargs: Any) -> Any:
        if self.dead:
            raise StoreUnavailable("away")
        return await super().entries(*args, **kwargs)


def test_entries_of_a_batch_that_broke_off_are_seen_to_later(tmp_path: Path) -> None:
    pair = Pair(tmp_path, target=DiesAfterAdding)

    async def work() -> None:
        await pair.source.add([at(0), at(1, OTHER_KEY)])
        await pair.source.evict(EntryQuery(key=KEY))
        await pair.source.add_entry((await everything(pair.source))[0].id, b"x" * 16, "answer")
        await pair.source.pin(OTHER_KEY, pinned=True)
        with pytest.raises(StoreUnavailable):
            await pair.copy()
        assert (await pair.target.size()).exchanges

    pair.run(work)
    whole = Pair(tmp_path)

    async def go_on() -> None:
        _, found = await whole.copy_and_compare()
        assert found.differences == 0
        assert await entries(whole.target) == await entries(whole.source)

    whole.run(go_on)


class Grows(SQLiteStore):
    """Takes something in while it is read."""

    more: tuple[Exchange, ...] = ()

    async def after(self, *args: Any, **kwargs: Any) -> Any:
        more, self.more = self.more, ()
        if more:
            await self.add(more)
        return await super().after(*args, **kwargs)


def test_what_came_meanwhile_is_copied_too(tmp_path: Path) -> None:
    pair = Pair(tmp_path, source=Grows)
    before, meanwhile, later = exchange(started_ns=1), exchange(started_ns=2), exchange(started_ns=3)

    async def work() -> None:
        await pair.source.add([before])
        pair.source.more = (meanwhile,)  # type: ignore[attr-defined]
        counts = await pair.copy()
        assert counts.added == 2
        await pair.source.add([later])
        found = await compare(pair.source, pair.target, counts.through)
        assert (found.exchanges, found.differences) == (2, 0)
        again, _ = await pair.copy_and_compare()
        assert (again.added, again.resumed) == (1, True)

    pair.run(work)


def test_another_store_in_the_place_of_the_source_is_copied_from_its_start(tmp_path: Path) -> None:
    pair = Pair(tmp_path)

    async def first() -> None:
        await pair.source.add([exchange(started_ns=second) for second in range(3)])
        await pair.copy()

    async def second() -> None:
        await pair.source.add([exchange(started_ns=second) for second in range(9)])
        counts, found = await pair.copy_and_compare()
        assert (counts.added, counts.resumed) == (9, False)
        assert (found.differences, found.only_in_target) == (0, 3)

    pair.run(first)
    for path in (tmp_path / "source").iterdir():
        path.unlink()
    pair.run(second)


def test_what_is_pruned_meanwhile_is_no_loss(tmp_path: Path) -> None:
    class Prunes(SQLiteStore):
        async def get(self, exchange_id: UUID) -> Exchange:
            await self.prune(older_than_ns=NOW_NS)
            return await super().get(exchange_id)

    pair = Pair(tmp_path, source=Prunes)

    async def work() -> None:
        await pair.source.add([exchange(started_ns=NOW_NS - SECOND_NS), exchange(started_ns=NOW_NS)])
        counts, found = await pair.copy_and_compare(thorough=True)
        assert (counts.added, counts.refused) == (1, [])
        assert (found.exchanges, found.differences, found.pruned) == (1, 0, 1)
        assert (found.pruned_tokens, found.pruned_nanousd) == (35, 65_500)

    pair.run(work)


# What cannot be copied


class Refuses(SQLiteStore):
    """Cannot hold one exchange."""

    poison: UUID | None = None

    async def add(self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition] = ()) -> AddResult:
        if any(one.id == self.poison for one in exchanges):
            raise ValueError("no such text can be stored")
        return await super().add(exchanges, positions)


def test_an_exchange_that_the_target_refuses_stops_no_other(tmp_path: Path) -> None:
    pair = Pair(tmp_path, target=Refuses)
    exchanges = [at(second, bytes([second]) * 16) for second in range(5)]
    pair.target.poison = exchanges[2].id  # type: ignore[attr-defined]

    async def work() -> None:
        await pair.source.add(exchanges)
        counts, found = await pair.copy_and_compare()
        assert [one.id for one in counts.refused] == [exchanges[2].id]
        assert "no such text can be stored" in counts.refused[0].why
        assert counts.added == 4
        assert [(one.what, one.name) for one in found.examples] == [("exchange", str(exchanges[2].id))]
        assert len(await entries(pair.target)) == 4

    pair.run(work)


def test_an_exchange_that_is_damaged_in_the_source_stops_no_other(tmp_path: Path) -> None:
    exchanges = [exchange(started_ns=second) for second in range(3)]

    class Damaged(SQLiteStore):
        async def get(self, exchange_id: UUID) -> Exchange:
            if exchange_id == exchanges[1].id:
                raise StoreCorrupt("a part is damaged")
            return await super().get(exchange_id)

    pair = Pair(tmp_path, source=Damaged)

    async def work() -> None:
        await pair.source.add(exchanges)
        counts, found = await pair.copy_and_compare()
        assert [one.id for one in counts.refused] == [exchanges[1].id]
        assert (counts.added, found.differences) == (2, 1)

    pair.run(work)


# Entries of the cache


def test_entries_are_as_in_the_source(pair: Pair) -> None:
    evicted, pinned, newer = at(0, b"e" * 16), at(1, b"p" * 16), at(2, b"p" * 16)
    replaced, standing = at(3), at(4)
    several, plain = at(5, b"s" * 16), exchange(started_ns=NOW_NS + 6 * SECOND_NS)
    hit = served(standing, started_ns=NOW_NS + 7 * SECOND_NS, use={"saved_nanousd": 5, "saved_us": 9})

    async def work() -> None:
        await pair.source.add([evicted, pinned])
        await pair.source.pin(b"p" * 16, pinned=True)
        await pair.source.add([newer, served(pinned, use={"key": b"p" * 16}), replaced, standing, several, plain, hit])
        await pair.source.evict(EntryQuery(key=b"e" * 16))
        await pair.source.add_entry(several.id, b"t" * 16, "error")
        await pair.source.add_entry(plain.id, b"u" * 16, "answer")
        _, found = await pair.copy_and_compare()
        had, has = await entries(pair.source), await entries(pair.target)
        assert has == had
        assert has[KEY].hits == has[b"p" * 16].hits == 1
        assert has[b"p" * 16].pinned
        assert set(has) == {KEY, b"p" * 16, b"s" * 16, b"t" * 16, b"u" * 16}
        assert (found.entries, found.pinned, found.differences) == (5, 1, 0)

    pair.run(work)


@pytest.mark.parametrize("later", [0, 1])
def test_an_older_answer_that_stands_again_stands_in_the_target(pair: Pair, later: int) -> None:
    """Also when both ended at once: then the one taken in later counts as the newer."""
    older, newer = at(0), at(later)

    async def work() -> None:
        await pair.source.add([older, *[exchange(started_ns=NOW_NS + second) for second in range(150)], newer])
        await pair.source.evict(EntryQuery(key=KEY))
        await pair.source.add_entry(older.id, KEY, "answer")
        _, found = await pair.copy_and_compare()
        assert (await entries(pair.target))[KEY].exchange == older.id
        assert found.differences == 0

    pair.run(work)


def test_answers_that_the_target_has_of_its_own_stay_where_they_would_stay(pair: Pair) -> None:
    own_newer, own_older, own_pinned = at(10), at(0, OTHER_KEY), at(0, b"p" * 16)
    own_under_evicted = at(0, b"e" * 16)
    ours = [at(5), at(5, OTHER_KEY), at(5, b"p" * 16), at(5, b"e" * 16)]

    async def work() -> None:
        await pair.target.add([own_newer, own_older, own_pinned, own_under_evicted])
        await pair.target.pin(b"p" * 16, pinned=True)
        await pair.source.add(ours)
        await pair.source.evict(EntryQuery(key=b"e" * 16))
        _, found = await pair.copy_and_compare()
        has = {key: entry.exchange for key, entry in (await entries(pair.target)).items()}
        assert has == {
            KEY: own_newer.id,
            OTHER_KEY: ours[1].id,
            b"p" * 16: own_pinned.id,
            b"e" * 16: own_under_evicted.id,
        }
        assert (found.other_answers, found.only_in_target, found.differences) == (2, 4, 0)

    pair.run(work)


def test_an_exchange_that_the_target_has_already_gets_its_entry(pair: Pair) -> None:
    one, other = at(0), at(1, OTHER_KEY)

    async def work() -> None:
        await pair.source.add([one, other])
        await pair.target.add([one, other])
        await pair.target.evict(EntryQuery(key=KEY))
        _, found = await pair.copy_and_compare()
        assert await entries(pair.target) == await entries(pair.source)
        assert found.differences == 0

    pair.run(work)


def test_a_pin_of_the_source_takes_the_place_of_a_newer_answer(pair: Pair) -> None:
    ours = at(0)

    async def work() -> None:
        await pair.target.add([at(5)])
        await pair.source.add([ours])
        await pair.source.pin(KEY, pinned=True)
        _, found = await pair.copy_and_compare()
        (entry,) = (await entries(pair.target)).values()
        assert (entry.exchange, entry.pinned, found.differences) == (ours.id, True, 0)

    pair.run(work)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([KEY, OTHER_KEY]), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.sampled_from([KEY, OTHER_KEY]), st.integers(0, 3)),
        st.tuples(st.sampled_from(["evict", "pin", "unpin", "again"]), st.sampled_from([KEY, OTHER_KEY]), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPERATIONS)
def test_whatever_was_done_to_entries_they_come_out_the_same(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, bytes, int]]
) -> None:
    pair = Pair(tmp_path_factory.mktemp("entries"))

    async def do(name: str, key: bytes, second: int, first: Exchange) -> None:
        known = await entries(pair.source)
        if name in ("add", "fail"):
            kind = "answer" if name == "add" else "error"
            await pair.source.add([at(second, key, entry_kind=kind)])
        elif name == "evict":
            await pair.source.evict(EntryQuery(key=key))
        elif name == "again":
            await pair.source.add_entry(first.id, key, "answer")
        elif key in known:
            await pair.source.pin(key, pinned=name == "pin")

    async def work() -> None:
        first = at(1, KEY)
        await pair.source.add([first])
        for operation in operations:
            await do(*operation, first)
        _, found = await pair.copy_and_compare()

        def facts(all_: dict[bytes, CacheEntry]) -> dict[bytes, Any]:
            return {key: (entry.exchange, entry.kind, entry.pinned, entry.stored_ns) for key, entry in all_.items()}

        assert facts(await entries(pair.target)) == facts(await entries(pair.source))
        assert found.differences == 0

    pair.run(work)


# Comparing


def test_what_differs_is_named(pair: Pair) -> None:
    same, missing, other, body = (exchange(started_ns=NOW_NS + second) for second in range(4))
    evicted, unpinned, too_much = (at(second, bytes([second]) * 16) for second in range(5, 8))
    gap = Gap(2, 1, 2, "disk full")

    async def work() -> None:
        await pair.source.add([same, missing, other, body, evicted, unpinned, too_much])
        await pair.source.add_gap(gap)
        await pair.source.pin(unpinned.entry_key or b"", pinned=True)
        await pair.source.evict(EntryQuery(exchange=too_much.id))
        await pair.target.add(
            [
                *(same, replace(other, target="/else"), replace(body, request_headers=()), evicted, unpinned, too_much),
                exchange(started_ns=NOW_NS + 99),
            ]
        )
        await pair.target.evict(EntryQuery(exchange=evicted.id))
        found = await compare(pair.source, pair.target, await pair.source.last_sequence(), thorough=True)
        assert {(one.what, one.name): one.how for one in found.examples} == {
            ("exchange", str(missing.id)): "is missing",
            ("exchange", str(other.id)): "differs in target",
            ("exchange", str(body.id)): "differs in request_headers",
            ("gap", "disk full"): "of 2 exchanges is missing",
            ("entry", (b"\5" * 16).hex()): f"of exchange {evicted.id} is missing",
            ("entry", (b"\6" * 16).hex()): "differs in the pin",
            ("entry", (b"\7" * 16).hex()): f"of exchange {too_much.id} stands only in the target",
        }
        assert (found.differences, found.exchanges, found.only_in_target) == (7, 7, 1)

    pair.run(work)


def test_a_sample_is_a_part_and_all_is_all(tmp_path: Path) -> None:
    pair = Pair(tmp_path)

    async def work() -> None:
        for start in range(0, 1500, 500):
            await pair.source.add([exchange(started_ns=start + one, answer="") for one in range(500)])
        counts, found = await pair.copy_and_compare()
        assert found.exchanges == 1500
        assert 300 < found.whole < 700
        assert (await compare(pair.source, pair.target, counts.through, thorough=True)).whole == 1500

    pair.run(work)


def test_many_exchanges_of_one_moment_are_told_apart(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    exchanges = [exchange(started_ns=NOW_NS) for _ in range(1200)]

    async def work() -> None:
        await pair.source.add(exchanges)
        await pair.target.add([*reversed(exchanges[1:]), exchange(started_ns=NOW_NS)])
        found = await compare(pair.source, pair.target, await pair.source.last_sequence())
        assert [one.name for one in found.examples] == [str(exchanges[0].id)]
        assert (found.differences, found.only_in_target) == (1, 1)

    pair.run(work)
