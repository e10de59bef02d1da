"""Pruning a MongoDB that others write to: nothing in use is lost, nothing unused is left, sums are lowered once."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from bson import ObjectId
from gridfs import GridFSBucket
from kinds import Door, database_uri
from pymongo import MongoClient

from factories import NOW_NS, body, chain_of, content, exchange, part, recorded, request_pieces
from gemini_caching_proxy.errors import NotFound, StoreUnavailable
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.stores.base import EntryQuery, Query
from gemini_caching_proxy.stores.mongodb import MongoDBStore, pruning, state, sweeping
from gemini_caching_proxy.stores.mongodb.leases import Lease
from mongod import shared_server

LARGE = 9 * 1024 * 1024


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Door]:
    with Door("mongodb", tmp_path) as door:
        yield door


@pytest.fixture
def raw(tmp_path: Path, store: Door) -> Iterator[Any]:
    """Another program's look into the database."""
    with MongoClient(database_uri(tmp_path, shared_server()), uuidRepresentation="standard", tz_aware=True) as client:
        yield client.get_default_database()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[MongoDBStore]:
    store = MongoDBStore(database_uri(folder, shared_server()))
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def shared(number: int) -> Any:
    return content(f"shared{number}x")


def using(rng: random.Random, started_ns: int, **over: Any) -> Exchange:
    """An exchange most of whose parts others use too; often with lists of parts and blocks of a chain."""
    first = rng.randrange(4)
    contents = [shared(number) for number in range(first, first + rng.choice([1, 3, 20, 37]))]
    contents.append(content(f"own {rng.random()}"))
    fields = {"request_pieces": request_pieces(contents), "chain": chain_of(contents), "conversation": None}
    headers = ((b"host", b"a"), (b"x-which", b"%d" % rng.randrange(5)))
    return exchange(**{**fields, "request_headers": headers, "started_ns": started_ns, **over})


def check(store: Door, raw: Any, kept: list[Exchange]) -> None:
    """That these exchanges are there and no others, with what they use and no more."""
    assert [store.get(each.id) for each in kept] == kept
    size = store.size()
    sizes = [each.request_body.size + each.response.body.size for each in kept if each.response]
    assert (size.exchanges, size.body_bytes) == (len(kept), sum(sizes))
    ids = {each.id for each in kept}
    assert {each["_id"] for each in raw.gemini_interactions.find({}, {"_id": 1})} == ids
    parts = {each["_id"]: each for each in raw.gemini_parts.find()}
    assert {each["owner"] for each in parts.values()} <= ids
    texts = list(raw.gemini_texts.find())
    assert {each["_id"] for each in texts if isinstance(each["_id"], bytes)} == {
        digest for digest, each in parts.items() if each.get("text")
    }
    for text in texts:
        owner = parts[text["_id"]]["owner"] if isinstance(text["_id"], bytes) else text["_id"]
        assert text["exchange"] == owner
        assert text["sequence"] == raw.gemini_interactions.find_one({"_id": owner})["sequence"]
    used = {each["file"] for each in parts.values() if "file" in each}
    assert {each["_id"] for each in raw["gemini_files.files"].find()} == used
    assert "pruning" not in raw.gemini_state.find_one()


def listed(raw: Any) -> set[str]:
    return {each["kind"] for each in raw.gemini_parts.find()}


def test_what_is_left_is_whole_and_no_more(store: Door, raw: Any) -> None:
    rng = random.Random(5)
    added = [using(rng, NOW_NS + number) for number in range(60)]
    rng.shuffle(added)
    for start in range(0, 60, 7):
        store.add(added[start : start + 7])
    assert listed(raw) == {"part", "headers", "chain", "list"}
    for cut in (0, 1, 17, 30, 59, 60):
        store.prune(older_than_ns=NOW_NS + cut)
        check(store, raw, [each for each in added if each.started_ns >= NOW_NS + cut])
    for collection in ("parts", "texts"):
        assert raw[f"gemini_{collection}"].count_documents({}) == 0


def test_many_orphans_are_handled_some_at_a_time(store: Door, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list and what is in it may come up in different rounds."""
    for name in ("OWNERS", "ORPHANS", "AT_ONCE"):
        monkeypatch.setattr(sweeping, name, 2)
    rng = random.Random(8)
    added = [using(rng, NOW_NS + number) for number in range(24)]
    for each in added:
        store.add([each])
    for cut in (5, 12, 24):
        store.prune(older_than_ns=NOW_NS + cut)
        check(store, raw, added[cut:])


# Writers of other processes.

ADDING = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from kinds import Door
from test_mongodb_pruning import coming

with Door("mongodb", Path(sys.argv[1])) as store:
    print("open", flush=True)
    for batch in coming(int(sys.argv[2])):
        store.add(batch)
"""
BATCHES = 60


def coming(writer: int) -> Iterator[list[Exchange]]:
    """What one writer adds: half of it is old enough to be pruned."""
    rng = random.Random(writer)
    for batch in range(BATCHES):
        made = []
        for number in range(rng.randint(1, 6)):
            name = UUID(int=writer << 64 | batch << 8 | number | 7 << 76 | 2 << 62)
            made.append(using(rng, NOW_NS + rng.choice([-1, 1]), id=name))
        if batch % 20 == 10:
            large = part(b"%d" % (batch % 3) * LARGE)
            name = UUID(int=writer << 64 | batch << 8 | 255 | 7 << 76 | 2 << 62)
            made.append(
                using(
                    rng, NOW_NS + rng.choice([-1, 1]), id=name, request_pieces=(large,), request_body=body(large.data)
                )
            )
        yield made


def test_nothing_is_lost_that_others_add_meanwhile(store: Door, raw: Any, tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", ADDING, str(tmp_path)]
    paths = [str(tests), str(tests / "stores")]
    writers = [subprocess.Popen([*command, str(number), *paths], stdout=subprocess.PIPE) for number in (1, 2)]
    pruned = rounds = 0
    try:
        for process in writers:
            assert process.stdout is not None
            assert process.stdout.readline()
        while any(process.poll() is None for process in writers):
            pruned += store.prune(older_than_ns=NOW_NS).exchanges
            rounds += 1
    finally:
        for process in writers:
            process.kill()
            process.communicate()
    assert [process.returncode for process in writers] == [0, 0]
    assert rounds > 2
    everything = [each for writer in (1, 2) for batch in coming(writer) for each in batch]
    kept = [each for each in everything if each.started_ns > NOW_NS]
    assert [store.get(each.id) for each in kept] == kept
    pruned += store.prune(older_than_ns=NOW_NS).exchanges
    assert pruned == len(everything) - len(kept)
    check(store, raw, kept)
    for number in range(5):
        hits = store.search(f"shared{number}x", Query())
        assert len(hits) == 1
        assert f"shared{number}x" in " ".join(piece.text for piece in store.get(hits[0].summary.id).request_pieces)
    store.prune(older_than_ns=NOW_NS + 2)
    check(store, raw, [])


def test_what_is_used_at_the_last_moment_stays(store: Door, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for heirs and the deletion somebody brings the same parts again, or only begins to."""
    rng = random.Random(2)
    old = [using(rng, NOW_NS - 1, request_pieces=request_pieces([shared(n) for n in range(20)])) for _ in range(2)]
    again = [using(rng, NOW_NS + 1, request_pieces=old[0].request_pieces) for _ in range(3)]
    store.add(old)
    delete = sweeping.Sweep._delete

    async def late(sweep: sweeping.Sweep, parts: Any) -> int:
        await store.store.add([again.pop()])
        return await delete(sweep, parts)

    with monkeypatch.context() as patched:
        patched.setattr(sweeping.Sweep, "_delete", late)
        brought = [*again]
        store.prune(older_than_ns=NOW_NS)
    brought = [each for each in brought if each not in again]
    assert brought
    store.prune(older_than_ns=NOW_NS)
    check(store, raw, brought[::-1])


def test_a_sweep_waits_for_those_who_began_before(store: Door, raw: Any, tmp_path: Path) -> None:
    store.add([using(random.Random(1), NOW_NS - 1)])

    async def run() -> None:
        async with opened(tmp_path) as other:
            database = other._writing.database
            _, drawn = await state.draw(database, "slow", 5)
            pruned = asyncio.ensure_future(other.prune(older_than_ns=NOW_NS))
            while (await state.look(database)).epoch == drawn.epoch:
                assert not pruned.done()
            for _ in range(20):
                assert await database.gemini_parts.count_documents({}) > 0
            assert not pruned.done()
            await state.close(database, "slow")
            assert (await pruned).parts > 0

    asyncio.run(run())
    check(store, raw, [])


def test_a_sweep_neither_waits_for_the_dead_nor_overlooks_who_came_after_them(store: Door, raw: Any) -> None:
    old = using(random.Random(1), NOW_NS - 1)
    heir = exchange(started_ns=NOW_NS + 1, request_pieces=old.request_pieces)
    store.add([old, heir])
    late = datetime.now(UTC) - timedelta(seconds=state.ABANDONED_SECONDS + 5)
    raw.gemini_state.update_one({}, {"$set": {"open.dead": {"from": 1, "since": late}}})
    assert store.prune(older_than_ns=NOW_NS).parts > 0
    check(store, raw, [heir])


def test_a_part_made_anew_has_its_text_anew(store: Door, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the deletion of a part and that of its text; the same exchange or another brings it."""
    forget_texts = sweeping.forget_texts
    for brought in (0, 1):
        old = using(random.Random(1), NOW_NS - 1)
        again = old if brought == 0 else exchange(started_ns=NOW_NS + 1, request_pieces=old.request_pieces)
        store.add([old])

        async def late(database: Any, announced: Any, again: Exchange = again) -> None:
            monkeypatch.undo()
            await store.store.add([again])
            await forget_texts(database, announced)

        monkeypatch.setattr(sweeping, "forget_texts", late)
        store.prune(older_than_ns=NOW_NS)
        check(store, raw, [again])
        store.prune(older_than_ns=NOW_NS + 2)
        check(store, raw, [])


def test_a_part_whose_owner_never_came_goes_to_who_uses_it(store: Door, raw: Any) -> None:
    kept = using(random.Random(1), NOW_NS + 1)
    store.add([kept])
    raw.gemini_parts.update_many({}, {"$set": {"owner": UUID(int=5)}})
    raw.gemini_parts.insert_one(
        {"_id": b"x" * 16, "kind": "part", "owner": UUID(int=6), "owner_sequence": 1, "epoch": 0}
    )
    assert store.prune(older_than_ns=NOW_NS).parts == 1
    check(store, raw, [kept])


# Prunes that die, and prunes at once.


DYING = """
import asyncio, itertools, os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from kinds import Door
from factories import NOW_NS
from commands import COMMANDS
from test_mongodb_pruning import in_small_steps

in_small_steps()
for line in sys.stdin:
    child = os.fork()
    if not child:
        with Door("mongodb", Path(sys.argv[1])) as store:
            numbers = itertools.count(1)
            COMMANDS.armed = lambda _: next(numbers) == int(line) and os.kill(os.getpid(), signal.SIGKILL)
            store.prune(older_than_ns=NOW_NS)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else "done", flush=True)
"""


def in_small_steps() -> None:
    pruning.AT_ONCE, sweeping.AT_ONCE = 3, 8  # type: ignore[misc]


def test_wherever_a_prune_is_killed_the_next_one_finishes_it(tmp_path: Path, store: Door, raw: Any) -> None:
    """Before each command that it sends."""
    rng = random.Random(3)
    kept: list[Exchange] = []
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", DYING, str(tmp_path), str(tests), str(tests / "stores")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as dying:
        assert dying.stdin is not None
        assert dying.stdout is not None
        for at in itertools.count(1):
            old = [using(rng, NOW_NS - 1, entry_key=rng.randbytes(16), entry_kind="answer") for _ in range(4)]
            fresh = using(rng, NOW_NS + at)
            store.add([*old, fresh])
            kept = [*kept, fresh]
            dying.stdin.write(f"{at}\n")
            dying.stdin.flush()
            outcome = dying.stdout.readline().strip()
            raw.gemini_leases.delete_one({"_id": "prune"})  # sooner than by waiting
            store.prune(older_than_ns=NOW_NS)
            check(store, raw, kept)
            assert store.entries(EntryQuery()).items == ()
            if outcome == "done":
                break
            assert outcome == "killed"
        dying.stdin.close()
    assert at > 30


def test_while_another_prunes_one_waits_then_says_so(
    store: Door, raw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add([exchange(started_ns=NOW_NS - 1)])

    async def run() -> None:
        async with opened(tmp_path) as other:
            lease = Lease(other._writing.database, "prune")
            assert await lease.take()
            monkeypatch.setattr(pruning, "WAIT_S", 0.0)
            with pytest.raises(StoreUnavailable, match="Another prune is at work"):
                await other.prune(older_than_ns=NOW_NS)
            monkeypatch.undo()
            waiting = asyncio.ensure_future(other.prune(older_than_ns=NOW_NS))
            await asyncio.sleep(0)
            assert not waiting.done()
            await lease.give_back()
            assert (await waiting).exchanges == 1

    asyncio.run(run())
    check(store, raw, [])


def test_prunes_at_once_count_each_exchange_once(store: Door, raw: Any, tmp_path: Path) -> None:
    rng = random.Random(3)
    store.add([using(rng, NOW_NS - 1) for _ in range(20)])

    async def run() -> None:
        async with opened(tmp_path) as one, opened(tmp_path) as two:
            prunes = (each.prune(older_than_ns=NOW_NS) for each in (one, two, one, two))
            assert sorted(each.exchanges for each in await asyncio.gather(*prunes)) == [0, 0, 0, 20]

    asyncio.run(run())
    check(store, raw, [])


def test_a_prune_that_slept_does_no_harm(
    store: Door, raw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read what to delete; before it goes on another one takes the lease, and is done."""
    rng = random.Random(3)
    old, kept = [using(rng, NOW_NS - 1) for _ in range(5)], using(rng, NOW_NS + 1)
    store.add([*old, kept])
    delete = pruning.Pruning._delete
    awake, asleep = asyncio.Event(), asyncio.Event()

    async def sleeping(self: Any, tenure: Any, documents: Any) -> int:
        asleep.set()
        await awake.wait()
        return await delete(self, tenure, documents)

    async def run() -> None:
        async with opened(tmp_path) as one, opened(tmp_path) as two:
            with monkeypatch.context() as patched:
                patched.setattr(pruning.Pruning, "_delete", sleeping)
                slow = asyncio.ensure_future(one.prune(older_than_ns=NOW_NS))
                await asleep.wait()
            await one._writing.database.gemini_leases.delete_one({"_id": "prune"})
            assert (await two.prune(older_than_ns=NOW_NS)).exchanges == 5
            await two.add([old[0]])
            awake.set()
            with pytest.raises(StoreUnavailable, match="took this one over"):
                await slow

    asyncio.run(run())
    check(store, raw, [kept, old[0]])


# Files.


def test_a_large_part_goes_with_its_file(store: Door, raw: Any) -> None:
    large = part(random.Random(1).randbytes(LARGE))
    old, new = (
        exchange(started_ns=NOW_NS + at, request_pieces=(large,), request_body=body(large.data)) for at in (-1, 1)
    )
    store.add([old])
    (file,) = raw["gemini_files.files"].find()
    store.add([new])
    store.prune(older_than_ns=NOW_NS)
    assert [each["_id"] for each in raw["gemini_files.files"].find()] == [file["_id"]]
    check(store, raw, [new])
    store.prune(older_than_ns=NOW_NS + 2)
    check(store, raw, [])
    assert raw["gemini_files.chunks"].count_documents({}) == 0
    store.add([new])
    check(store, raw, [new])


def test_files_of_no_part_are_deleted_when_they_are_old(store: Door, raw: Any) -> None:
    bucket = GridFSBucket(raw, "gemini_files")
    ago = datetime.now(UTC) - timedelta(hours=2)
    young, old = ObjectId(), ObjectId.from_datetime(ago)
    half, begun = ObjectId.from_datetime(ago + timedelta(minutes=1)), ObjectId()
    for name in (young, old):
        bucket.upload_from_stream_with_id(name, "ab" * 16, b"data")
    raw["gemini_files.files"].update_one({"_id": old}, {"$set": {"uploadDate": ago}})
    raw["gemini_files.chunks"].insert_many([{"files_id": name, "n": 0, "data": b"x"} for name in (half, begun)])
    store.prune(older_than_ns=NOW_NS)
    assert [each["_id"] for each in raw["gemini_files.files"].find()] == [young]
    assert {each["files_id"] for each in raw["gemini_files.chunks"].find()} == {young, begun}


# Entries.


def test_an_entry_made_while_its_exchange_goes_does_not_stay(
    store: Door, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = recorded(started_ns=NOW_NS - 1)
    store.add([old])
    announce = pruning.Tenure.announce

    async def late(tenure: Any, what: Any) -> None:
        await announce(tenure, what)
        if "exchanges" in what:
            await store.store.add_entry(old.id, b"l" * 16, "answer")
            await store.store.pin(b"l" * 16, pinned=True)

    monkeypatch.setattr(pruning.Tenure, "announce", late)
    changes = raw.gemini_state.find_one()["cache_changes"]
    store.prune(older_than_ns=NOW_NS)
    assert store.entries(EntryQuery()).items == ()
    assert raw.gemini_state.find_one()["cache_changes"] > changes
    with pytest.raises(NotFound):
        store.add_entry(old.id, b"l" * 16, "answer")
    check(store, raw, [])


def test_an_entry_pinned_in_time_keeps_its_exchange(store: Door, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = recorded(started_ns=NOW_NS - 1)
    store.add([old])
    without = pruning.Pruning._without_pinned

    async def pinned_after(self: Any, documents: Any) -> Any:
        found = await without(self, documents)
        monkeypatch.undo()
        await store.store.pin(old.entry_key, pinned=True)
        return found

    monkeypatch.setattr(pruning.Pruning, "_without_pinned", pinned_after)
    assert store.prune(older_than_ns=NOW_NS).exchanges == 0
    check(store, raw, [old])
    assert store.find_cached([old.entry_key]).entry.pinned
