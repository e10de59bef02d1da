"""What only the MongoDB store promises about the cache: how entries look, what settling again does, what is read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from commands import watched
from kinds import Door, database_uri
from pymongo import MongoClient

from factories import NOW_NS, agent_session, body, recorded, response, served
from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.exchange import Exchange, Timing
from gemini_caching_proxy.stores.base import EntryQuery
from gemini_caching_proxy.stores.mongodb import entries, eviction
from mongod import shared_server

K1, K2, K3 = (bytes([number]) * 16 for number in (1, 2, 3))
ALL = EntryQuery()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Door]:
    with Door("mongodb", tmp_path) as door:
        yield door


@pytest.fixture
def raw(tmp_path: Path, store: Door) -> Iterator[Any]:
    """Another program's look into the database."""
    with MongoClient(database_uri(tmp_path, shared_server()), uuidRepresentation="standard", tz_aware=True) as client:
        yield client.get_default_database()


def settled_again(store: Door, raw: Any, *exchanges: Exchange) -> None:
    """As when a holder of the lease dies, and the next one goes through its range once more."""
    ids = [each.id for each in exchanges]
    fields = dict.fromkeys(entries.FIELDS, 1)
    documents = list(raw.gemini_interactions.find({"_id": {"$in": ids}}, fields).sort("sequence", 1))
    assert len(documents) == len(ids)
    store.run(entries.settle(store.store._writing.database, documents))


def test_an_entry_can_be_read(store: Door, raw: Any) -> None:
    each = recorded(K1, timing=Timing(last_byte_us=2_000_000), conversation=UUID(int=7))
    store.add([each, served(each, started_ns=NOW_NS + 10**10, use={"saved_nanousd": 5, "saved_us": 6})])
    assert raw.gemini_cache.find_one({}, {"facet": 0, "sequence": 0, "through": 0, "counted": 0}) == {
        "_id": K1,
        "exchange": each.id,
        "kind": "answer",
        "provider": "gemini",
        "operation": "stream_generate_content",
        "model": "gemini-2.5-flash",
        "credential": each.credential,
        "conversation": UUID(int=7),
        "stored": datetime.fromtimestamp(NOW_NS / 10**9 + 2, UTC),
        "stored_ns": NOW_NS + 2 * 10**9,
        "size": each.response.body.size if each.response else 0,
        "pinned": False,
        "hits": 1,
        "last_hit_ns": NOW_NS + 10**10,
        "used_ns": NOW_NS + 10**10,
        "saved_nanousd": 5,
        "saved_us": 6,
    }


def test_values_that_look_like_operators_are_values(store: Door) -> None:
    odd = recorded(K1, model="$model", operation="$$ROOT", credential="$exchange")
    store.add([odd])
    (entry,) = store.entries(ALL).items
    assert (entry.model, entry.operation, entry.credential) == ("$model", "$$ROOT", "$exchange")
    assert store.entries(EntryQuery(model="$model")).items == (entry,)
    for empty in (EntryQuery(model="$ne"), EntryQuery(provider="\ud800"), EntryQuery(larger_than=2**70)):
        assert store.entries(empty).items == ()
    assert store.entries(EntryQuery(stored_before_ns=2**70)).items == (entry,)


# Settling again.


def test_settling_again_changes_nothing(store: Door, raw: Any) -> None:
    rng = random.Random(1)
    first = [recorded(rng.choice([K1, K2, K3]), started_ns=NOW_NS + rng.randrange(3)) for _ in range(9)]
    hits = [served(each, use={"saved_nanousd": 3}) for each in rng.choices(first, k=20)]
    batch = [*first, *hits]
    rng.shuffle(batch)
    store.add(batch)
    before = store.entries(ALL).items
    assert sum(entry.hits for entry in before) > 0
    for part in (batch, batch[:9], batch[9:], hits):
        settled_again(store, raw, *part)
        assert store.entries(ALL).items == before
    more = [served(first[0]), *(recorded(key, started_ns=NOW_NS + 9) for key in (K1, K2))]
    store.add(more)
    before = store.entries(ALL).items
    for part in (batch, more, [*batch, *more]):
        settled_again(store, raw, *part)
        assert store.entries(ALL).items == before


def test_settling_again_undoes_nothing_done_by_hand(store: Door, raw: Any) -> None:
    older, newer, hit = recorded(K1), recorded(K1), served(recorded(K2))
    store.add([older, newer])
    store.add_entry(older.id, K1, "answer")
    store.add_entry(older.id, K2, "error")
    store.pin(K2, pinned=True)
    hit = served(older, use={"key": K2})
    store.add([hit])
    before = store.entries(ALL).items
    assert {entry.key: (entry.exchange, entry.hits) for entry in before} == {K1: (older.id, 0), K2: (older.id, 1)}
    settled_again(store, raw, older, newer, hit)
    assert store.entries(ALL).items == before


# Looking up.


def test_a_lookup_reads_no_part_of_the_request(store: Door, raw: Any) -> None:
    session = list(agent_session(20))
    split = recorded(K1, **{name: getattr(session[-1], name) for name in ("request_pieces", "request_body", "outcome")})
    whole = recorded(K2, request_body=body(b"r" * 5000), outcome=response([b"a" * 5000]), response_text="")
    store.add([*session, split, whole])
    for each in (split, whole):
        document = raw.gemini_interactions.find_one({"_id": each.id})
        headers = document["parts"]["headers"]
        needless = [headers[0], *document["parts"]["request"], *document["parts"].get("chain", ())]
        raw.gemini_parts.update_many({"_id": {"$in": needless}}, {"$set": {"kind": "spoilt"}, "$unset": {"size": ""}})
        assert store.find_cached([each.entry_key]).response == each.outcome
        with pytest.raises((KeyError, ValueError)):
            store.get(each.id)


def test_a_lookup_asks_three_times_and_remembers_headers(store: Door) -> None:
    first, second = recorded(K1), recorded(K2)
    store.add([first, second])
    for key, asked in ((K3, ["cache"]), (K1, ["cache", "interactions", "parts"]), (K2, ["cache", "interactions"])):
        with watched() as sent:
            store.find_cached([b"none" * 4, key])
        assert [each for each in sent if each.startswith("find")] == [f"find gemini_{name}" for name in asked]


def test_an_entry_whose_exchange_is_gone_is_no_answer(store: Door, raw: Any) -> None:
    gone, there = recorded(K1), recorded(K2)
    store.add([gone, there])
    raw.gemini_interactions.delete_one({"_id": gone.id})
    assert store.find_cached([K1]) is None
    assert store.find_cached([K1, K2]).entry.exchange == there.id


def test_a_missing_part_does_not_go_unseen(store: Door, raw: Any) -> None:
    each = recorded(K1)
    store.add([each])
    raw.gemini_parts.delete_many({})
    with pytest.raises(KeyError):
        store.find_cached([K1])


def test_keys_of_any_length_are_found_by_their_start(store: Door) -> None:
    keys = [b"\xab", b"\xab\xcd" * 3, b"\xab\xce" * 16, b"\xac" * 20]
    store.add([recorded(key) for key in keys])
    assert store.resolve_entry("ac").key == keys[3]
    assert store.resolve_entry("abcd").key == keys[1]
    assert store.resolve_entry("abc" + "ea").key == keys[2]
    for several in ("ab", "a"):
        with pytest.raises(NotFound, match="More than one"):
            store.resolve_entry(several)


# By which index.


def plan(raw: Any, condition: Any, sort: list[tuple[str, int]]) -> str:
    found = raw.gemini_cache.find(condition, sort=sort, limit=51).explain()
    return str(found["queryPlanner"]["winningPlan"])


NEWEST = [("stored_ns", -1), ("_id", -1)]


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ({}, "time"),
        ({"facet": {"$in": [b"a" * 16, b"b" * 16]}}, "facet"),
        ({"conversation": {"$eq": UUID(int=1)}}, "conversation"),
        ({"pinned": {"$eq": True}}, "pinned"),
        ({"kind": {"$eq": "error"}}, "errors"),
        ({"stored_ns": {"$lt": 5}}, "time"),
        ({"$and": [{}, {"$or": [{"stored_ns": {"$lt": 5}}, {"stored_ns": 5, "_id": {"$lt": b"x"}}]}]}, "time"),
    ],
)
def test_pages_are_found_by_an_index_without_sorting(store: Door, raw: Any, condition: Any, index: str) -> None:
    store.add([recorded(random.Random(number).randbytes(16), started_ns=NOW_NS + number) for number in range(40)])
    found = plan(raw, condition, NEWEST)
    assert f"'indexName': '{index}'" in found
    assert "'stage': 'SORT'" not in found
    assert "COLLSCAN" not in found


def test_the_longest_unused_are_found_by_an_index(store: Door, raw: Any) -> None:
    found = plan(raw, {"pinned": False}, [("used_ns", 1), ("_id", 1)])
    assert "'indexName': 'used'" in found
    assert "'stage': 'SORT'" not in found


# What others see.


def test_changes_by_hand_are_counted(store: Door, raw: Any) -> None:
    def changes() -> int:
        return int(raw.gemini_state.find_one()["cache_changes"])

    each = recorded(K1)
    store.add([each])
    seen = changes()
    for work in (
        lambda: store.pin(K1, pinned=True),
        lambda: store.add_entry(each.id, K2, "answer"),
        lambda: store.evict(EntryQuery(key=K1)),
        lambda: store.evict_to(0),
    ):
        work()
        assert changes() > seen
        seen = changes()
    assert (store.evict(EntryQuery()), store.evict_to(0), changes()) == (0, 0, seen)


def test_sums_are_asked_for_again_only_after_a_change(store: Door) -> None:
    each = recorded(K1)
    store.add([each])
    assert store.cache_stats().entries == 1
    with watched() as sent:
        assert store.cache_stats().entries == 1
    assert not any("gemini_cache" in each for each in sent)
    store.add([served(each)])
    assert store.cache_stats().hits == 1
    store.pin(K1, pinned=True)
    assert store.cache_stats().pinned == 1


# Evicting, while others are at it.


def test_what_was_used_or_replaced_meanwhile_is_not_evicted(
    store: Door, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = [recorded(bytes([n]) * 16, outcome=response([b"x" * 100]), started_ns=NOW_NS + n) for n in range(6)]
    store.add(coming)
    unused = eviction.Eviction._longest_unused

    async def then_used(self: Any) -> Any:
        found = await unused(self)
        monkeypatch.undo()
        again = recorded(coming[1].entry_key or b"", outcome=coming[1].outcome, started_ns=NOW_NS + 50)
        await store.store.add([served(coming[0], started_ns=NOW_NS + 10**9), again])
        return found

    monkeypatch.setattr(eviction.Eviction, "_longest_unused", then_used)
    assert store.evict_to(200) == 4
    assert {entry.key for entry in store.entries(ALL).items} == {coming[0].entry_key, coming[1].entry_key}


def test_two_who_shrink_at_once_evict_no_more_than_one_would(store: Door, tmp_path: Path) -> None:
    for round_ in range(3):
        store.add(
            [recorded(bytes([round_, n]) * 8, outcome=response([b"x" * 100]), started_ns=NOW_NS + n) for n in range(90)]
        )
        with Door("mongodb", tmp_path) as other:

            async def both(other: Door = other) -> list[int]:
                return await asyncio.gather(store.store.evict_to(3000), store.store.evict_to(3000))

            evicted = store.run(both())
            assert other.cache_stats().answer_bytes == 3000
        assert sum(evicted) == (60 if round_ == 0 else 90)
