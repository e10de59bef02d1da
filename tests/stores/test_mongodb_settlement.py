"""Settling a MongoDB: each exchange counts once, whoever dies or sleeps; statistics are right at every moment."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import AutoReconnect
from strategies import exchanges

from factories import DAY_NS, HOUR_NS, NOW_NS, exchange, recorded, response, served
from gemini_caching_proxy.exchange import Exchange, Price, Timing, Usage, Verdict
from gemini_caching_proxy.stores.base import Query, StatsGroup, StatsRow
from gemini_caching_proxy.stores.codec import Codec
from gemini_caching_proxy.stores.facets import Facet, facet_digest
from gemini_caching_proxy.stores.histogram import MOST_BUCKETS, encode, merge_encoded
from gemini_caching_proxy.stores.mongodb import schema, state, statistics
from gemini_caching_proxy.stores.mongodb.connection import Client, Database, database_of, make_client
from gemini_caching_proxy.stores.mongodb.documents import sketch
from gemini_caching_proxy.stores.mongodb.facets import Facets
from gemini_caching_proxy.stores.mongodb.rollups import SLACK, Sums, measured, scopes_of
from gemini_caching_proxy.stores.mongodb.settlement import Settlement, await_settled
from gemini_caching_proxy.stores.mongodb.statistics import Statistics
from gemini_caching_proxy.stores.mongodb.writer import Writer
from gemini_caching_proxy.stores.tallies import (
    GRAINS,
    SECOND_NS,
    SUM_COLUMNS,
    Tally,
    measure_of,
    stats_rows,
    time_key,
)
from mongod import fresh_database, shared_server

FEW = settings(max_examples=25, deadline=None, phases=set(Phase) - {Phase.explain})
GROUPS: tuple[StatsGroup | None, ...] = (None, "model", "day", "hour", "client", "operation", "status", "credential")
LONG_ENOUGH_S = 60.0

Hook = Callable[[], Awaitable[None]]
STEPS = frozenset(
    {"find_one", "find_one_and_update", "update_one", "bulk_write", "delete_one", "aggregate", "insert_many"}
)
"""The operations that a hook is called around."""


class Hooked(AsyncDatabase[dict[str, Any]]):
    """A database that calls a hook before and after each operation of `STEPS`."""

    def __init__(self, database: Database, hook: Hook) -> None:
        super().__init__(database.client, database.name, codec_options=database.codec_options)
        self._hook = hook

    def __getitem__(self, name: str) -> Any:
        return HookedCollection(super().__getitem__(name), self._hook)


class HookedCollection:
    def __init__(self, collection: Any, hook: Hook) -> None:
        self._collection = collection
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name not in STEPS:
            return method

        async def step(*args: Any, **kwargs: Any) -> Any:
            await self._hook()
            result = await method(*args, **kwargs)
            await self._hook()
            return result

        return step


class Fate:
    """A hook that interferes at one step, counted from 0; `met` says whether it came to that."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.met = False
        self._count = 0

    async def __call__(self) -> None:
        count, self._count = self._count, self._count + 1
        if self.met:
            await self.after()
        elif count == self.at:
            self.met = True
            await self.interfere()

    async def interfere(self) -> None:
        raise NotImplementedError

    async def after(self) -> None:
        """What happens at later steps."""


class Death(Fate):
    """The connection is cut for good: what was sent before may have been done."""

    async def interfere(self) -> None:
        raise AutoReconnect("dead")

    async def after(self) -> None:
        raise AutoReconnect("dead")


class Sleep(Fate):
    def __init__(self, at: int | None) -> None:
        super().__init__(at)
        self.asleep = asyncio.Event()
        self.awake = asyncio.Event()

    async def interfere(self) -> None:
        self.asleep.set()
        await self.awake.wait()


class Meanwhile(Fate):
    """Something else happens before the step."""

    def __init__(self, at: int | None, action: Hook) -> None:
        super().__init__(at)
        self._action = action

    async def interfere(self) -> None:
        await self._action()


class Bench:
    """A database with writers, and everything that was added to it."""

    def __init__(self, client: Client) -> None:
        self.database = database_of(client)
        self.added: list[Exchange] = []
        self._writer = Writer(self.database, "bench")

    async def add(self, batch: Sequence[Exchange]) -> None:
        await self._writer.add(batch, ())
        self.added += batch

    def settlement(self, hook: Hook | None = None, **options: int) -> Settlement:
        database = self.database if hook is None else Hooked(self.database, hook)
        return Settlement(database, **options)

    def statistics(self, hook: Hook | None = None) -> Statistics:
        database = self.database if hook is None else Hooked(self.database, hook)
        return Statistics(database, Facets(self.database))

    async def expire_lease(self) -> None:
        """As if its time had run out."""
        await self.database["gemini_leases"].delete_many({})

    async def settle(self) -> None:
        """By a process that nothing happens to, once the lease of whoever had it has run out."""
        await self.expire_lease()
        settlement = self.settlement()
        assert await settlement.settle(patience_s=LONG_ENOUGH_S)
        await settlement.aclose()

    async def check(self) -> None:
        """Everything that follows from the exchanges is there, once."""
        seen = await state.look(self.database)
        assert seen.settled == seen.settling == seen.horizon
        sizes = [measure_of(each)[6] + measure_of(each)[7] for each in self.added]
        assert (seen.exchanges, seen.body_bytes) == (len(self.added), sum(sizes))
        assert await self._rollups() == rollups_of(self.added)
        assert await self._hits() == hits_of(self.added)

    async def _rollups(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        async for document in self.database["gemini_rollups"].find():
            sums = [document[name] for name in SUM_COLUMNS]
            found[document["_id"]] = (sums, read(document["durations"]), read(document["ttfts"]))
        return found

    async def _hits(self) -> dict[UUID, int]:
        return {each["exchange"]: each["hits"] async for each in self.database["gemini_cache"].find()}


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    """Of a database with nothing but the schema."""
    with fresh_database(shared_server()) as database:

        async def make() -> None:
            client = make_client(database.uri)
            await schema.complete(database_of(client), database.uri)
            await client.close()

        asyncio.run(make())
        yield database.uri


@asynccontextmanager
async def bench(uri: str) -> AsyncIterator[Bench]:
    client = make_client(uri)
    try:
        made = Bench(client)
        for name in schema.INDEXES:
            if name != schema.STATE:
                await made.database[name].delete_many({})
        await made.database[schema.STATE].replace_one({"_id": "state"}, {"version": 1, **schema.NEW_STATE})
        yield made
    finally:
        await client.close()


_random = random.Random(11)


def some(count: int, *, rng: random.Random = _random) -> list[Exchange]:
    """Exchanges that differ in what rollups tell apart; each can be served again, and some are."""
    found: list[Exchange] = []
    for _ in range(count):
        started_ns = NOW_NS + rng.randrange(3 * DAY_NS)
        over: dict[str, Any] = {
            "started_ns": started_ns,
            "model": rng.choice(["gemini-2.5-flash", "gemini-2.5-pro", None]),
            "model_version": rng.choice(["gemini-2.5-pro", None]),
            "operation": rng.choice(["generate_content", "count_tokens"]),
            "user_agent": rng.choice(["cli/1.0 x", "cli/2.0", None]),
            "credential": rng.choice(["fp:1", None]),
            "timing": Timing(1, 2, 3, rng.choice([None, 7, 90_000]), rng.choice([None, rng.randrange(10**7)])),
            "usage": rng.choice([None, Usage(rng.randrange(99), None, 5, 3, None, 8)]),
            "price": rng.choice([None, Price(1, 2, rng.randrange(10**6))]),
        }
        if found and rng.random() < 0.4:
            source = rng.choice(found)
            source = source if source.entry_key else found[0]
            use = {"saved_nanousd": rng.randrange(99), "saved_us": rng.choice([None, 12])}
            found.append(served(source, use=use, **over))
        else:
            status = rng.choice([200, 429])
            found.append(recorded(rng.randbytes(16), outcome=response(status=status), response_text="", **over))
    return found


def read(histogram: str) -> dict[int, int]:
    into: dict[int, int] = {}
    merge_encoded(into, histogram)
    return into


def rollups_of(population: Sequence[Exchange]) -> dict[str, Any]:
    """What the rollups of these must say, by id."""
    tallies: dict[str, Tally] = {}
    for each in population:
        facet, second = Facet.of(each), each.started_ns // SECOND_NS
        for scope in scopes_of(facet_digest(facet), facet):
            for grain, seconds in GRAINS:
                tally = tallies.setdefault(f"{grain} {second - second % seconds} {scope}", Tally())
                tally.count(measure_of(each), is_error=facet.is_error, is_served=facet.is_served)
    return {name: (list(map(int, tally.sums)), tally.durations, tally.ttfts) for name, tally in tallies.items()}


def hits_of(population: Sequence[Exchange]) -> dict[UUID, int]:
    counts = Counter(each.cache.source for each in population if each.cache is not None and each.cache.source)
    return {each.id: counts[each.id] for each in population if each.entry_key is not None}


def answer_of(population: Sequence[Exchange], query: Query, group: StatsGroup | None) -> tuple[StatsRow, ...]:
    """What statistics must say of these."""
    groups = {"": Tally()} if group is None else {}
    for each in population:
        facet = Facet.of(each)
        is_late = query.since_ns is not None and each.started_ns < query.since_ns
        if is_late or (query.until_ns is not None and each.started_ns >= query.until_ns) or not facet.matches(query):
            continue
        if group in ("day", "hour"):
            key = time_key(each.started_ns // SECOND_NS, group)
        else:
            key = "" if group is None else facet.group_key(group)
        tally = groups.setdefault(key, Tally())
        tally.count(measure_of(each), is_error=facet.is_error, is_served=facet.is_served)
    return stats_rows(groups, group)


QUERIES = (
    Query(),
    Query(model="gemini-2.5-pro"),
    Query(model="gemini*"),
    Query(status=429),
    Query(errors=False, client="cli"),
    Query(verdict=Verdict.HIT),
    Query(model="nothing"),
    Query(since_ns=NOW_NS + HOUR_NS // 3, until_ns=NOW_NS + 2 * DAY_NS + HOUR_NS * 7 // 5),
    Query(since_ns=NOW_NS + HOUR_NS * 3, operation="count_tokens"),
    Query(until_ns=NOW_NS + HOUR_NS // 2),
)


# What is counted.


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(each=exchanges())
def test_a_document_measures_as_its_exchange_does(each: Exchange) -> None:
    assert measured(sketch(each, Codec()).document) == measure_of(each)


def test_a_histogram_stays_as_short_as_it_can_be() -> None:
    """However often something is added."""
    rng = random.Random(4)
    sums, wanted = Sums(), dict[int, int]()
    for _ in range(300):
        new = {rng.randrange(100): 1, rng.randrange(100, MOST_BUCKETS): rng.randrange(1, 9)}
        sums = sums.plus(Sums(durations=encode(new)))
        for bucket, count in new.items():
            wanted[bucket] = wanted.get(bucket, 0) + count
        assert len(sums.durations) <= len(encode(wanted)) + SLACK
    assert read(sums.durations) == wanted


# Once.


def test_a_holder_may_die_between_any_two_steps(uri: str) -> None:
    async def main() -> None:
        async with bench(uri) as it:
            for at in range(100):
                await it.add(some(7))
                death = Death(at)
                dying = it.settlement(death)
                if await dying.settle(patience_s=LONG_ENOUGH_S):
                    assert at >= 12
                    assert not death.met
                    break
                assert death.met
                await it.settle()
                await it.check()

    asyncio.run(main())


@pytest.mark.parametrize("settles_more", [False, True])
def test_a_holder_may_sleep_between_any_two_steps(uri: str, settles_more: bool) -> None:
    """Others go on when its lease has run out; when it wakes up, it does nothing twice."""

    async def main() -> None:
        async with bench(uri) as it:
            # One for all rounds: what it remembers of earlier ones is outdated.
            sleep = Sleep(None)
            sleeper = it.settlement(lambda: sleep())
            for at in range(100):
                await it.add(some(7))
                sleep = Sleep(at)
                await it.expire_lease()
                sleeping = asyncio.ensure_future(sleeper.settle(patience_s=LONG_ENOUGH_S))
                asleep = asyncio.ensure_future(sleep.asleep.wait())
                await asyncio.wait([sleeping, asleep], return_when=asyncio.FIRST_COMPLETED)
                if not sleep.met:
                    assert at >= 10
                    asleep.cancel()
                    break
                await it.settle()
                if settles_more:
                    await it.add(some(5))
                    await it.settle()
                sleep.awake.set()
                await sleeping
                await it.settle()
                await it.check()

    asyncio.run(main())


Deed = tuple[str, int, int]
deeds: st.SearchStrategy[list[Deed]] = st.lists(
    st.tuples(
        st.sampled_from(["add", "settle", "sleep", "sleep", "wake", "kill", "expire"]),
        st.integers(0, 1),
        st.integers(0, 14),
    ),
    min_size=4,
    max_size=16,
)


class Actor:
    """A process that settles, and may be asleep in the middle of it."""

    def __init__(self, it: Bench) -> None:
        self._it = it
        self._sleep = Sleep(None)
        self._settlement = it.settlement(lambda: self._sleep(), longest_range=5)
        self._working: asyncio.Future[bool] | None = None

    async def settle(self, at: int | None) -> None:
        """Fall asleep at a step, if it comes to it."""
        if self._working is not None:
            return
        self._sleep = Sleep(at)
        self._working = asyncio.ensure_future(self._settlement.settle(patience_s=LONG_ENOUGH_S))
        asleep = asyncio.ensure_future(self._sleep.asleep.wait())
        await asyncio.wait([self._working, asleep], return_when=asyncio.FIRST_COMPLETED)
        asleep.cancel()
        if not self._sleep.met:
            await self.wake()

    async def wake(self) -> None:
        working, self._working = self._working, None
        self._sleep.awake.set()
        if working is not None:
            await working

    async def kill(self) -> None:
        working, self._working = self._working, None
        if working is not None:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


@FEW
@given(course=deeds, seed=st.integers(0, 2**16))
def test_whatever_happens_in_whatever_order_each_counts_once(uri: str, course: list[Deed], seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        async with bench(uri) as it:
            actors = [Actor(it), Actor(it)]
            for deed, who, number in course:
                actor = actors[who]
                if deed == "add":
                    await it.add(some(number + 1, rng=rng))
                elif deed in ("settle", "sleep"):
                    await actor.settle(number if deed == "sleep" else None)
                elif deed == "wake":
                    await actor.wake()
                elif deed == "kill":
                    await actor.kill()
                    actors[who] = Actor(it)
                else:
                    await it.expire_lease()
                answer = await it.statistics().rows(Query(), "model")
                assert answer == answer_of(it.added, Query(), "model")
            for actor in actors:
                await actor.wake()
            await it.settle()
            await it.check()

    asyncio.run(main())


def test_what_is_remembered_is_not_believed_when_the_database_was_put_back(uri: str) -> None:
    """To an earlier state: from a backup, or because a primary was lost with what it had not passed on."""

    async def main() -> None:
        async with bench(uri) as it:
            settlement = it.settlement()
            await it.add(some(6))
            assert await settlement.settle()
            for name in ("gemini_rollups", "gemini_cache"):
                await it.database[name].delete_many({})
            earlier = {"settled": 0, "exchanges": 0, "body_bytes": 0}
            await it.database[schema.STATE].update_one({"_id": "state"}, {"$set": earlier})
            assert await settlement.settle()
            await settlement.aclose()
            await it.check()

    asyncio.run(main())


def test_two_may_settle_at_once(uri: str) -> None:
    """And write at once, each with its own sequence numbers."""

    async def main() -> None:
        async with bench(uri) as it:

            async def work(name: str) -> None:
                rng = random.Random(name)
                writer, settlement = Writer(it.database, name), it.settlement(longest_range=9)
                for _ in range(12):
                    batch = some(6, rng=rng)
                    await writer.add(batch, ())
                    it.added += batch
                    await settlement.settle()
                await settlement.aclose()

            async with asyncio.TaskGroup() as group:
                group.create_task(work("one"))
                group.create_task(work("other"))
            await it.settle()
            await it.check()

    asyncio.run(main())


def test_a_long_backlog_is_settled_in_ranges(uri: str) -> None:
    async def main() -> None:
        async with bench(uri) as it:
            await it.add(some(40))
            settlement = it.settlement(longest_range=7)
            assert not await settlement.settle(patience_s=0.0)
            assert (await state.look(it.database)).settled == 7
            assert await settlement.settle(patience_s=LONG_ENOUGH_S)
            await settlement.aclose()
            await it.check()

    asyncio.run(main())


def test_what_another_writer_is_at_is_not_settled(uri: str) -> None:
    async def main() -> None:
        async with bench(uri) as it:
            await it.add(some(3))
            await state.draw(it.database, "slow", 5)
            await it.add(some(4))
            settlement = it.settlement()
            assert await settlement.settle()
            assert (await state.look(it.database)).settled == 3
            await state.close(it.database, "slow")
            assert await settlement.settle()
            await settlement.aclose()
            await it.check()

    asyncio.run(main())


def test_a_facet_that_somebody_deleted_does_not_stop_it(uri: str) -> None:
    async def main() -> None:
        async with bench(uri) as it:
            await it.add(some(4))
            await it.database["gemini_facets"].delete_many({})
            await it.settle()
            await it.check()

    asyncio.run(main())


# Who.


def test_the_next_one_goes_on_by_itself_when_the_holder_is_done(uri: str) -> None:
    """The holder gives the lease back when nobody asks it for a while, though it lives on."""

    async def main() -> None:
        async with bench(uri) as it:
            holder, next_one = it.settlement(), it.settlement()
            await it.add(some(2))
            assert await holder.settle()
            await it.add(some(2))
            assert not await next_one.settle()
            assert await await_settled(it.database, None, LONG_ENOUGH_S)
            await holder.aclose()
            await next_one.aclose()
            await it.check()

    asyncio.run(main())


def test_closing_settles_what_is_left_and_gives_the_lease_back(uri: str) -> None:
    async def main() -> None:
        async with bench(uri) as it:
            settlement = it.settlement(longest_range=3)
            await it.add(some(8))
            assert not await settlement.settle(patience_s=0.0)
            await settlement.aclose()
            await it.check()
            assert await it.database["gemini_leases"].count_documents({}) == 0

    asyncio.run(main())


def test_a_server_that_fails_does_not_fail_the_batch(uri: str) -> None:
    async def main() -> None:
        async with bench(uri) as it:
            await it.add(some(2))
            assert not await it.settlement(Death(0)).settle()
            await it.settle()
            await it.check()

    asyncio.run(main())


# Statistics meanwhile.


@pytest.mark.parametrize("group", GROUPS)
def test_statistics_are_right_at_every_step_of_settling(uri: str, group: StatsGroup | None) -> None:
    async def main() -> None:
        rng = random.Random(str(group))
        async with bench(uri) as it:
            sleep = Sleep(None)
            sleeper = it.settlement(lambda: sleep())
            for at in range(2, 100):
                await it.add(some(9, rng=rng))
                sleep = Sleep(at)
                sleeping = asyncio.ensure_future(sleeper.settle(patience_s=LONG_ENOUGH_S))
                asleep = asyncio.ensure_future(sleep.asleep.wait())
                await asyncio.wait([sleeping, asleep], return_when=asyncio.FIRST_COMPLETED)
                query = QUERIES[at % len(QUERIES)]
                assert await it.statistics().rows(query, group) == answer_of(it.added, query, group)
                if not sleep.met:
                    asleep.cancel()
                    break
                sleep.awake.set()
                await sleeping
            for query in QUERIES:
                assert await it.statistics().rows(query, group) == answer_of(it.added, query, group)

    asyncio.run(main())


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_a_question_may_be_overtaken_at_any_step(uri: str, query: Query) -> None:
    """It tells how things stood at one moment, before or after a batch that came in and was settled meanwhile."""

    async def main() -> None:
        rng = random.Random(5)
        async with bench(uri) as it:
            settlement = it.settlement()
            await it.add(some(25, rng=rng))

            async def overtake() -> None:
                # A new model, so a combination of values that the question did not know of.
                await it.add([replace(each, model=f"new-{rng.random()}") for each in some(6, rng=rng)[:4]])
                assert await settlement.settle()

            for at in range(100):
                group = GROUPS[at % len(GROUPS)]
                await it.add(some(5, rng=rng))
                before = list(it.added)
                fate = Meanwhile(at, overtake)
                found = await it.statistics(fate).rows(query, group)
                assert found in (answer_of(before, query, group), answer_of(it.added, query, group))
                if not fate.met:
                    break
            await settlement.aclose()

    asyncio.run(main())


def test_a_combination_that_comes_up_meanwhile_is_not_counted_with_those_asked_for(uri: str) -> None:
    """Rollups of a model answer for hits as long as the model has nothing but hits."""

    async def main() -> None:
        async with bench(uri) as it:
            settlement = it.settlement()
            source = recorded(model="other", started_ns=NOW_NS)
            await it.add([source])
            for at in range(100):
                model = f"all-hits-{at}"
                await it.add([served(source, model=model, operation=name, started_ns=NOW_NS) for name in "abc"])
                assert await settlement.settle()

                async def overtake(model: str = model) -> None:
                    await it.add([exchange(model=model, started_ns=NOW_NS + HOUR_NS)])
                    assert await settlement.settle()

                fate = Meanwhile(at, overtake)
                (row,) = await it.statistics(fate).rows(Query(model=model, verdict=Verdict.HIT), None)
                assert row.exchanges == 3
                if not fate.met:
                    break
            await settlement.aclose()

    asyncio.run(main())


def test_half_settled_ranges_are_told_apart_one_by_one(uri: str) -> None:
    """Rollups are read while a range is half in them: some count it, some do not yet."""

    async def main() -> None:
        async with bench(uri) as it:
            await it.add(some(30))
            await it.settle()
            await it.add(some(30))
            sleep = Sleep(4)
            sleeping = asyncio.ensure_future(it.settlement(sleep).settle())
            await sleep.asleep.wait()
            # As if the range's changes had come half way: take some of them back, by redoing them from the exchanges.
            first = rollups_of(it.added[:30])
            names = sorted(rollups_of(it.added))
            await it.expire_lease()
            await it.settle()
            await it.database[schema.STATE].update_one({"_id": "state"}, {"$set": {"settled": 30, "settling": 60}})
            for name in names[::2]:
                await _set_back(it, name, first.get(name), through=30)
            for query in QUERIES:
                for group in GROUPS:
                    assert await it.statistics().rows(query, group) == answer_of(it.added, query, group)
            sleep.awake.set()
            await sleeping

    asyncio.run(main())


async def _set_back(it: Bench, name: str, rollup: Any, through: int) -> None:
    """Make a rollup what it was; None: it was not there."""
    collection = it.database["gemini_rollups"]
    if rollup is None:
        await collection.delete_one({"_id": name})
        return
    sums, durations, ttfts = rollup
    values = dict(zip(SUM_COLUMNS, sums, strict=True))
    values |= {"durations": encode(durations), "ttfts": encode(ttfts), "through": through}
    await collection.update_one({"_id": name}, {"$set": values})


@pytest.mark.parametrize("listed", [1, 1000])
def test_an_exchange_written_at_the_second_attempt_counts_once_for_its_words(
    uri: str, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    """Its texts can carry the numbers of both attempts, and be found far apart."""
    monkeypatch.setattr(statistics, "LISTED", listed)

    async def main() -> None:
        async with bench(uri) as it:
            both = exchange(asked="heron one", answer="heron two")
            old = exchange(asked="osprey one", answer="nothing")
            first, _ = await state.draw(it.database, "gone", 5)
            await state.close(it.database, "gone")
            await it.add([exchange(asked="heron", answer="kite"), both, old])
            texts = it.database["gemini_texts"]
            parts = {"_id": {"$nin": [both.id, old.id]}, "exchange": {"$in": [both.id, old.id]}}
            assert (await texts.update_many(parts, {"$set": {"sequence": first}})).modified_count == 2
            for word, count in (("heron", 2), ("osprey", 1), ("one", 2), ("two", 1), ("heron two", 1), ("three", 0)):
                (row,) = await it.statistics().rows(Query(contains=word), None)
                assert (word, row.exchanges) == (word, count)

    asyncio.run(main())


def test_times_before_1970_have_their_days(uri: str) -> None:
    async def main() -> None:
        async with bench(uri) as it:
            early = [replace(each, started_ns=-5 * HOUR_NS * n - 1) for n, each in enumerate(some(20))]
            await it.add(early)
            for group in GROUPS:
                assert await it.statistics().rows(Query(), group) == answer_of(early, Query(), group)
            await it.settle()
            await it.check()
            for group in GROUPS:
                assert await it.statistics().rows(Query(), group) == answer_of(early, Query(), group)

    asyncio.run(main())
