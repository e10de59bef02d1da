"""What every store promises about the cache. Each test runs on each kind of store, through the contract's methods."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import COMMON_KINDS, Door

from factories import (
    DAY_NS,
    NOW_NS,
    agent_session,
    chain_of,
    content,
    exchange,
    exchange_id,
    part,
    recorded,
    request_pieces,
    response,
    served,
    sse,
)
from gemini_caching_proxy.errors import NotFound, StoreUnavailable
from gemini_caching_proxy.exchange import CacheUse, Exchange, Failure, FailureKind, Timing, Verdict
from gemini_caching_proxy.stores.base import CachedAnswer, CacheEntry, CacheStats, EntryQuery, Query

MS = 1_000_000
K1, K2, K3 = (bytes([number]) * 16 for number in (1, 2, 3))


def entry_of(each: Exchange, **over: Any) -> CacheEntry:
    """The entry that an exchange makes, unused."""
    assert each.response is not None
    fields = {
        "key": each.entry_key,
        "exchange": each.id,
        "kind": each.entry_kind,
        "stored_ns": each.started_ns + (each.timing.last_byte_us or 0) * 1000,
        "provider": each.provider,
        "operation": each.operation,
        "model": each.model,
        "credential": each.credential,
        "conversation": each.conversation,
        "size": each.response.body.size,
    }
    return CacheEntry(**{**fields, **over})


def all_entries(store: Door, query: EntryQuery | None = None, limit: int = 500) -> list[CacheEntry]:
    found: list[CacheEntry] = []
    cursor = None
    while True:
        page = store.entries(query or EntryQuery(), limit=limit, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def at(offset_ns: int, lasts_us: int = 0, **over: Any) -> dict[str, Any]:
    """When an exchange started, after NOW_NS, and how long it took."""
    return {"started_ns": NOW_NS + offset_ns, "timing": Timing(last_byte_us=lasts_us), **over}


# Looking up.


def test_an_answer_is_found_by_its_key(store: Door) -> None:
    session = list(agent_session(6))
    last = replace(session[-1], entry_key=K1, entry_kind="answer")
    store.add([*session[:-1], last])
    found = store.find_cached([K1])
    assert found == CachedAnswer(entry_of(last), last.outcome, "sse", 400_000, 460_000)


@pytest.mark.parametrize(
    "answer",
    [
        response([b"\xff\x00raw" * 700]),
        response([], headers=(), reason=b"", trailers=((b"t", b"v"),)),
        response(status=429, headers=((b"Retry-After", b"7"), (b"X\xfe", b"\xfd"))),
        response(sse("long " * 2000, events=9)),
    ],
)
@pytest.mark.parametrize("said", ["", "what it said"])
def test_any_answer_comes_back_as_it_was(store: Door, answer: Any, said: str) -> None:
    each = recorded(outcome=answer, response_text=said, stream_shape="unary", timing=Timing())
    store.add([each])
    assert store.find_cached([each.entry_key]) == CachedAnswer(entry_of(each), answer, "unary", None, None)


def test_an_answer_cut_into_parts_comes_back_joined(store: Door) -> None:
    pieces = (part(b'{"image": "'), part(b"QUJD" * 900), part(b'"}'))
    each = recorded(outcome=response([piece.data for piece in pieces]), response_pieces=pieces)
    store.add([each])
    assert store.find_cached([each.entry_key]).response == each.outcome


def test_the_first_key_that_has_an_entry_counts(store: Door) -> None:
    one, two = recorded(K1), recorded(K2)
    store.add([one, two])
    assert store.find_cached([K1, K2]).entry.exchange == one.id
    assert store.find_cached([K2, K1]).entry.exchange == two.id
    assert store.find_cached([K3, K2]).entry.exchange == two.id
    assert store.find_cached([K3]) is None
    assert store.find_cached([]) is None
    assert store.find_cached([b""]) is None


def test_what_has_no_key_or_no_answer_makes_no_entry(store: Door) -> None:
    broken = Failure(FailureKind.INCOMPLETE_RESPONSE, "cut", None, response(sse("half")))
    store.add([exchange(), recorded(K1, outcome=broken), recorded(K2, outcome=Failure(FailureKind.DNS_ERROR))])
    assert all_entries(store) == []
    assert store.find_cached([K1, K2]) is None


def test_a_poisoned_batch_makes_no_entry_and_counts_no_hit(store: Door) -> None:
    first = recorded(K1)
    store.add([first])
    with pytest.raises(Exception):  # noqa: B017 - whatever it is
        store.add([recorded(K2), served(first), exchange(target=None)])
    assert all_entries(store) == [entry_of(first)]
    assert store.cache_stats().entries == 1


def test_an_entry_is_there_after_closing(kind: str, tmp_path: Path) -> None:
    first = recorded(K1)
    with Door(kind, tmp_path) as store:
        store.add([first, served(first, **at(5))])
        store.pin(K1, pinned=True)
    with Door(kind, tmp_path, read_only=True) as store:
        assert all_entries(store) == [entry_of(first, pinned=True, hits=1, last_hit_ns=NOW_NS + 5)]
        assert store.find_cached([K1]).response == first.outcome


# Which answer an entry has.


def orders(which: str) -> list[Any]:
    """The four orders in which an older and a newer exchange may come in, in one batch and in two."""
    return [pytest.param(order, batches, id=f"{which}-{order}-{batches}") for order in (1, -1) for batches in (1, 2)]


def taken_in(store: Door, older: Exchange, newer: Exchange, order: int, batches: int) -> CacheEntry:
    coming = [older, newer][::order]
    for batch in [coming] if batches == 1 else [[each] for each in coming]:
        store.add(batch)
    (entry,) = all_entries(store)
    return entry


@pytest.mark.parametrize(("order", "batches"), orders("same"))
@pytest.mark.parametrize("kind_of_both", ["answer", "error"])
def test_the_newer_of_a_kind_takes_the_place(store: Door, order: int, batches: int, kind_of_both: str) -> None:
    """Newer is what ended later, whichever began first or came in first."""
    older = recorded(K1, entry_kind=kind_of_both, **at(10, lasts_us=1))
    newer = recorded(K1, entry_kind=kind_of_both, **at(0, lasts_us=2))
    assert taken_in(store, older, newer, order, batches) == entry_of(newer)


@pytest.mark.parametrize(("order", "batches"), orders("mixed"))
def test_an_error_never_takes_the_place_of_an_answer(store: Door, order: int, batches: int) -> None:
    answer = recorded(K1, **at(0))
    error = recorded(K1, entry_kind="error", outcome=response(status=429), **at(10))
    assert taken_in(store, answer, error, order, batches) == entry_of(answer)


@pytest.mark.parametrize(("order", "batches"), orders("mixed"))
def test_an_answer_takes_the_place_of_an_error_even_of_a_newer_one(store: Door, order: int, batches: int) -> None:
    answer, error = recorded(K1, **at(0)), recorded(K1, entry_kind="error", **at(10))
    assert taken_in(store, answer, error, order, batches) == entry_of(answer)


def test_of_two_that_ended_at_once_the_later_taken_in_stays(store: Door) -> None:
    one, two = recorded(K1), recorded(K1)
    store.add([one, two])
    assert all_entries(store) == [entry_of(two)]


@pytest.mark.parametrize("kind_of_new", ["answer", "error"])
@pytest.mark.parametrize("kind_of_old", ["answer", "error"])
def test_a_pinned_entry_stays(store: Door, kind_of_old: str, kind_of_new: str) -> None:
    first, later = recorded(K1, entry_kind=kind_of_old, **at(0)), recorded(K1, entry_kind=kind_of_new, **at(9))
    store.add([first])
    store.pin(K1, pinned=True)
    store.add([later])
    assert all_entries(store) == [entry_of(first, pinned=True)]
    assert not store.add_entry(later.id, K1, kind_of_new)
    store.pin(K1, pinned=False)
    assert all_entries(store) == [entry_of(first)]


def test_a_replaced_entry_starts_with_no_hits(store: Door) -> None:
    first, later = recorded(K1, **at(0)), recorded(K1, **at(9))
    store.add([first, served(first, use={"saved_nanousd": 5, "saved_us": 7})])
    store.add([later, served(first)])  # served before the new one was known
    assert all_entries(store) == [entry_of(later)]
    assert store.cache_stats().hits == 0


# Making entries anew, pinning.


def test_an_entry_can_be_made_for_what_was_recorded_before(store: Door) -> None:
    old = exchange(**at(3, lasts_us=4), conversation=exchange_id())
    store.add([old])
    assert store.add_entry(old.id, K1, "answer")
    made = entry_of(old, key=K1, kind="answer")
    assert all_entries(store) == [made]
    assert store.find_cached([K1]) == CachedAnswer(made, old.outcome, "sse", None, 4)
    assert store.get(old.id) == old


def test_making_entries_anew_goes_by_the_same_rule(store: Door) -> None:
    older, newer = exchange(**at(0)), exchange(**at(9))
    store.add([older, newer])
    assert store.add_entry(newer.id, K1, "answer")
    assert not store.add_entry(older.id, K1, "answer")
    assert all_entries(store)[0].exchange == newer.id


def test_an_entry_made_again_keeps_its_hits(store: Door) -> None:
    first = recorded(K1)
    store.add([first, served(first, **at(5), use={"saved_nanousd": 5})])
    before = all_entries(store)
    assert store.add_entry(first.id, K1, "answer")
    assert all_entries(store) == before
    assert store.add_entry(first.id, K1, "error")
    assert all_entries(store) == [replace(before[0], kind="error")]
    assert store.cache_stats().errors == 1


def test_an_exchange_may_have_entries_under_several_keys(store: Door) -> None:
    first = recorded(K2)
    store.add([first])
    assert store.add_entry(first.id, K1, "answer")
    assert store.add_entry(first.id, K3, "answer")
    store.add(
        [served(first, **at(1)), served(first, **at(2), use={"key": K3}), served(first, **at(3), use={"key": None})]
    )
    hits = {entry.key: (entry.hits, entry.last_hit_ns) for entry in all_entries(store, EntryQuery(exchange=first.id))}
    assert hits == {K2: (1, NOW_NS + 1), K3: (1, NOW_NS + 2), K1: (1, NOW_NS + 3)}


def test_only_whole_responses_can_be_made_entries(store: Door) -> None:
    failed = exchange(outcome=Failure(FailureKind.INCOMPLETE_RESPONSE, "", None, response(sse("half"))))
    store.add([failed])
    assert not store.add_entry(failed.id, K1, "answer")
    assert all_entries(store) == []


def test_what_is_not_there_cannot_be_changed(store: Door) -> None:
    with pytest.raises(NotFound):
        store.add_entry(exchange_id(), K1, "answer")
    for pinned in (True, False):
        with pytest.raises(NotFound):
            store.pin(K1, pinned=pinned)
    assert store.evict(EntryQuery(key=K1)) == 0
    assert store.evict(EntryQuery(exchange=exchange_id())) == 0
    assert store.evict_to(0) == 0


# Hits.


def test_hits_are_counted_with_what_they_saved(store: Door) -> None:
    first = recorded(K1)
    store.add([first])
    store.add([served(first, **at(50), use={"saved_nanousd": 100, "saved_us": 7})])
    store.add(
        [
            served(first, **at(20), use={"verdict": Verdict.COLLAPSED, "saved_nanousd": None, "saved_us": 3}),
            served(first, **at(30), use={"saved_nanousd": 20, "saved_us": None}),
        ]
    )
    counted = {"hits": 3, "last_hit_ns": NOW_NS + 50, "saved_nanousd": 120, "saved_us": 10}
    assert all_entries(store) == [entry_of(first, **counted)]
    assert store.cache_stats() == CacheStats(1, 0, 0, entry_of(first).size, 3, 120, 10, entry_of(first).stored_ns)


@pytest.mark.parametrize("verdict", [Verdict.MISS, Verdict.STALE, Verdict.BYPASS])
def test_what_was_not_served_is_no_hit(store: Door, verdict: Verdict) -> None:
    first = recorded(K1)
    store.add([first, served(first, use={"verdict": verdict}), exchange(cache=CacheUse(Verdict.HIT, K1))])
    store.add([served(first, use={"source": exchange_id()})])
    assert all_entries(store) == [entry_of(first)]


def test_the_second_time_counts_no_hit(store: Door) -> None:
    first = recorded(K1)
    batch = [served(first, use={"saved_nanousd": 3}), first, served(first)]
    for _ in range(3):
        store.add([*batch, batch[0]])
    assert [(entry.hits, entry.saved_nanousd) for entry in all_entries(store)] == [(2, 3)]
    assert store.stats(Query())[0].cache_hits == 2


def test_the_second_time_brings_no_evicted_entry_back(store: Door) -> None:
    first = recorded(K1)
    store.add([first])
    store.evict(EntryQuery())
    store.add([first, served(first)])
    assert all_entries(store) == []


def test_many_hits_of_a_long_answer_cost_one_copy(store: Door) -> None:
    said = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz ", k=50_000))
    first = recorded(K1, outcome=response(sse(said)), response_text=said)
    hits = [served(first) for _ in range(200)]
    store.add([first, hits[0]])
    size = store.size()
    store.add(hits[1:])
    assert store.size().parts == size.parts
    assert store.size().file_bytes - size.file_bytes < 50 * len(said) / 2
    for hit in hits[::50]:
        assert store.get(hit.id) == hit


# Lists.


def test_entries_are_listed_newest_first_and_paged_without_loss(store: Door) -> None:
    rng = random.Random(4)
    coming = [recorded(rng.randbytes(16), **at(rng.randrange(5))) for _ in range(23)]
    store.add(coming)
    for limit in (1, 4, 500):
        listed = all_entries(store, limit=limit)
        assert [entry.stored_ns for entry in listed] == sorted((e.stored_ns for e in listed), reverse=True)
        assert sorted(entry.key for entry in listed) == sorted(each.entry_key or b"" for each in coming)


def test_paging_is_stable_while_entries_come_in(store: Door) -> None:
    coming = [recorded(bytes([n]) * 16, **at(n)) for n in range(9)]
    store.add(coming)
    first = store.entries(EntryQuery(), limit=4)
    store.add([recorded(bytes([99]) * 16, **at(99))])
    store.evict(EntryQuery(key=first.items[-1].key))
    rest = all_entries_from(store, first.next_cursor)
    assert [entry.exchange for entry in rest] == [each.id for each in reversed(coming[:5])]


def all_entries_from(store: Door, cursor: str) -> list[CacheEntry]:
    return list(store.entries(EntryQuery(), limit=500, cursor=cursor).items)


@pytest.mark.parametrize(
    "cursor",
    ["", "e", "e.1", "e.g.00", "e.1.0", "e.1.zz", "e." + "f" * 17 + ".00", "e.ffffffffffffffff.00", "t.1.2", "€"],
)
def test_a_wrong_cursor_is_refused(store: Door, cursor: str) -> None:
    with pytest.raises(ValueError):
        store.entries(EntryQuery(), cursor=cursor)


def test_cursors_of_exchanges_and_entries_are_not_mixed_up(store: Door) -> None:
    store.add([recorded(bytes([n]) * 16) for n in range(3)])
    with pytest.raises(ValueError):
        store.entries(EntryQuery(), cursor=store.list(Query(), limit=1).next_cursor)
    with pytest.raises(ValueError):
        store.list(Query(), cursor=store.entries(EntryQuery(), limit=1).next_cursor)


CONVERSATIONS = [exchange_id(NOW_NS + n) for n in range(3)]
MODELS = ["gemini-2.5-flash", "gemini-2.5-pro", "text-embedding-004", None]


def varied_entry(rng: random.Random, key: bytes) -> Exchange:
    kind = rng.choice(["answer", "answer", "error"])
    return recorded(
        key,
        entry_kind=kind,
        provider=rng.choice(["gemini", "openai"]),
        operation=rng.choice(["generate_content", "stream_generate_content", "count_tokens"]),
        model=rng.choice(MODELS),
        credential=rng.choice(["fp:1", "fp:2", None]),
        conversation=rng.choice([*CONVERSATIONS, None]),
        outcome=response([rng.randbytes(rng.randrange(2000))], status=200 if kind == "answer" else 429),
        **at(rng.randrange(20)),
    )


ENTRIES = [varied_entry(random.Random(n), bytes([n]) * 16) for n in range(120)]


@pytest.fixture(params=COMMON_KINDS, scope="module")
def populated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with Door(str(request.param), tmp_path_factory.mktemp("entries")) as door:
        door.add(ENTRIES)
        for each in ENTRIES[::7]:
            door.pin(each.entry_key, pinned=True)
        yield door


def passes(entry: CacheEntry, query: EntryQuery) -> bool:
    """The meaning of a choice, said again."""
    same = ("key", "exchange", "provider", "operation", "credential", "conversation", "kind", "pinned")
    return (
        all(getattr(query, name) in (None, getattr(entry, name)) for name in same)
        and (query.model is None or has_model(query.model, entry.model))
        and (query.stored_before_ns is None or entry.stored_ns < query.stored_before_ns)
        and (query.larger_than is None or entry.size > query.larger_than)
    )


def has_model(wanted: str, model: str | None) -> bool:
    return model is not None and (model.startswith(wanted[:-1]) if wanted.endswith("*") else model == wanted)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "key": st.sampled_from([each.entry_key for each in ENTRIES[:9]] + [b"", b"z" * 16]),
    "exchange": st.sampled_from([each.id for each in ENTRIES[:9]]) | st.just(UUID(int=5)),
    "provider": st.sampled_from(["gemini", "openai", ""]),
    "operation": st.sampled_from(["generate_content", "count_tokens", "count_*"]),
    "model": st.sampled_from(["gemini-2.5-flash", "gemini*", "*", "gemini", "text-embedding-004", ""]),
    "credential": st.sampled_from(["fp:1", "fp:2", ""]),
    "conversation": st.sampled_from([*CONVERSATIONS, UUID(int=5)]),
    "kind": st.sampled_from(["answer", "error"]),
    "pinned": st.booleans(),
    "stored_before_ns": st.integers(-1, 21).map(lambda n: NOW_NS + n),
    "larger_than": st.sampled_from([0, 500, 1999, 10**9]),
}
choices = st.one_of(
    *[st.builds(EntryQuery, **{name: values}) for name, values in FIELDS.items()],
    st.fixed_dictionaries({}, optional=FIELDS).map(lambda fields: EntryQuery(**fields)),
)


@settings(max_examples=120, deadline=None)
@given(query=choices, limit=st.sampled_from([1, 5, 500]))
def test_lists_show_what_the_query_means(populated: Door, query: EntryQuery, limit: int) -> None:
    everything = [entry_of(each, pinned=n % 7 == 0) for n, each in enumerate(ENTRIES)]
    found = all_entries(populated, query, limit)
    assert sorted(found, key=lambda entry: entry.key) == [entry for entry in everything if passes(entry, query)]
    assert [entry.stored_ns for entry in found] == sorted((entry.stored_ns for entry in found), reverse=True)


def test_the_sums_are_right(populated: Door) -> None:
    sizes = [entry_of(each).size for each in ENTRIES]
    errors = sum(each.entry_kind == "error" for each in ENTRIES)
    pinned, oldest = len(ENTRIES[::7]), min(each.started_ns for each in ENTRIES)
    assert populated.cache_stats() == CacheStats(len(ENTRIES), errors, pinned, sum(sizes), 0, 0, 0, oldest)


def test_an_empty_store_has_no_entries(store: Door) -> None:
    assert store.cache_stats() == CacheStats(0, 0, 0, 0, 0, 0, 0, None)
    assert store.entries(EntryQuery()).next_cursor is None
    assert store.evict(EntryQuery()) == 0
    assert store.part_owners([b"x" * 16]) == ()


def test_entries_are_found_by_the_start_of_a_key_or_an_id(store: Door) -> None:
    one, two = UUID("01920000-0000-7000-8000-0000000000ab"), UUID("01920000-0000-7000-8000-0000000010cd")
    keys = bytes.fromhex("ab" + "00" * 15), bytes.fromhex("ac" + "00" * 15)
    store.add([recorded(keys[0], id=one), recorded(keys[1], id=two), exchange(id=UUID(int=one.int + 1))])
    for text, wanted in {
        keys[0].hex(): one,
        "AB0": one,
        "ab": one,  # keys go first: the other's id ends in it too
        "ac": two,
        str(one): one,
        "0cd": two,
        "10CD": two,
        "00ab": one,
    }.items():
        assert store.resolve_entry(text).exchange == wanted, text
    for wrong in ("a", "0192", "ffff", "00ac", "", "xyz", "%", "k1:ab", "0" * 33, keys[0].hex() + "00"):
        with pytest.raises(NotFound):
            store.resolve_entry(wrong)


def test_an_exchange_with_several_entries_names_none(store: Door) -> None:
    first = recorded(K1)
    store.add([first])
    store.add_entry(first.id, K2, "answer")
    with pytest.raises(NotFound):
        store.resolve_entry(str(first.id))
    assert store.resolve_entry(K2.hex()).key == K2


def test_the_owner_of_a_part_is_the_oldest_exchange_with_it(store: Door) -> None:
    shared, own, other = content("shared"), content("own"), content("other")
    first = exchange(request_pieces=request_pieces([shared]), **at(0))
    second = exchange(request_pieces=request_pieces([shared, own]), **at(1))
    third = exchange(request_pieces=request_pieces([own, other]), **at(2))
    store.add([first])
    store.add([second, third])
    digests = [piece.digest or b"" for piece in (shared, own, other)]
    assert store.part_owners([*digests, b"?" * 16, digests[0]]) == (third.id, second.id, first.id)
    assert store.part_owners(digests[1:]) == (third.id, second.id)
    assert store.part_owners(digests, limit=2) == (third.id, second.id)
    assert store.part_owners([]) == ()
    store.prune(older_than_ns=NOW_NS + 1)
    assert store.part_owners(digests[:1]) == (second.id,)


# Evicting.


@settings(max_examples=40, deadline=None)
@given(query=choices)
def test_evicting_takes_what_the_query_means(lasting: Door, query: EntryQuery) -> None:
    chosen = [replace(each, id=exchange_id(), conversation=each.conversation) for each in ENTRIES[:40]]
    lasting.evict(EntryQuery(pinned=True))
    lasting.evict(EntryQuery())
    lasting.add(chosen)
    for each in chosen[::7]:
        lasting.pin(each.entry_key, pinned=True)
    if query.exchange is not None and query.exchange in [each.id for each in ENTRIES[:40]]:
        query = replace(query, exchange=chosen[[each.id for each in ENTRIES[:40]].index(query.exchange)].id)
    named = query.key is not None or query.exchange is not None or query.pinned is not None
    before = all_entries(lasting)
    gone = [entry for entry in before if passes(entry, query) and (named or not entry.pinned)]
    assert lasting.evict(query) == len(gone)
    assert all_entries(lasting) == [entry for entry in before if entry not in gone]
    assert all(lasting.get(each.id).id == each.id for each in chosen[:3])


def test_evicting_to_a_size_takes_the_longest_unused(store: Door) -> None:
    coming = [recorded(bytes([n]) * 16, outcome=response([b"x" * 100]), **at(n)) for n in range(6)]
    store.add(coming)
    store.pin(coming[1].entry_key, pinned=True)
    store.add([served(coming[0], **at(100)), served(coming[3], **at(50)), served(coming[5], **at(1))])
    assert store.evict_to(600) == 0
    assert store.evict_to(350) == 3  # 2 and 4, then 5, whose answer is newer than its only hit
    assert {entry.exchange for entry in all_entries(store)} == {coming[n].id for n in (0, 1, 3)}
    assert store.evict_to(299) == 1
    assert {entry.exchange for entry in all_entries(store)} == {coming[n].id for n in (0, 1)}
    assert store.evict_to(0) == 1
    assert [entry.exchange for entry in all_entries(store)] == [coming[1].id]


def test_an_evicted_key_can_be_filled_again(store: Door) -> None:
    first, older = recorded(K1, **at(5)), recorded(K1, **at(1))
    store.add([first])
    assert store.evict(EntryQuery(model="gemini*")) == 1
    assert store.find_cached([K1]) is None
    store.add([older])
    assert store.find_cached([K1]).entry == entry_of(older)


# Pruning.


def test_prune_deletes_the_entries_of_what_it_deletes(store: Door) -> None:
    old, new = recorded(K1, **at(-1)), recorded(K2, **at(0))
    store.add([old, new])
    store.add_entry(old.id, K3, "answer")
    store.prune(older_than_ns=NOW_NS)
    assert all_entries(store) == [entry_of(new)]
    assert store.find_cached([K1, K3]) is None
    assert store.cache_stats().entries == 1


def test_prune_keeps_the_exchange_of_a_pinned_entry(store: Door) -> None:
    contents = [content(f"part {n}") for n in range(4)]
    old = [
        recorded(
            bytes([n]) * 16, request_pieces=request_pieces(contents[:n]), chain=chain_of(contents[:n]), **at(-9 + n)
        )
        for n in range(1, 5)
    ]
    store.add(old)
    store.pin(old[2].entry_key, pinned=True)
    assert store.prune(older_than_ns=NOW_NS).exchanges == 3
    assert store.size().exchanges == 1
    assert store.get(old[2].id) == old[2]
    assert store.find_cached([each.entry_key for each in old]).response == old[2].outcome
    assert set(store.find_chain_tips(old[2].chain, old[2].credential)) == {old[2].chain[-1]}
    assert store.prune(older_than_ns=NOW_NS).exchanges == 0
    store.pin(old[2].entry_key, pinned=False)
    assert store.prune(older_than_ns=NOW_NS).exchanges == 1
    assert (store.size().exchanges, store.size().parts, all_entries(store)) == (0, 0, [])


def test_an_exchange_with_one_pinned_entry_of_two_stays_with_both(store: Door) -> None:
    old = recorded(K1, **at(-5))
    store.add([old])
    store.add_entry(old.id, K2, "answer")
    store.pin(K2, pinned=True)
    store.prune(older_than_ns=NOW_NS)
    assert {entry.key for entry in all_entries(store)} == {K1, K2}


def test_what_was_saved_outlives_its_exchanges(store: Door) -> None:
    first = recorded(K1, **at(0))
    store.add([first, *(served(first, **at(n), use={"saved_nanousd": 10, "saved_us": 1}) for n in range(5))])
    store.prune(older_than_ns=NOW_NS + DAY_NS)
    for query in (Query(), Query(verdict=Verdict.HIT)):
        (row,) = store.stats(query)
        assert (row.cache_hits, row.saved_nanousd, row.saved_us) == (5, 50, 5)
    assert store.stats(Query(verdict=Verdict.MISS))[0].exchanges == 0


# Side by side.


def test_a_read_only_store_refuses_to_change_entries(kind: str, tmp_path: Path) -> None:
    first = recorded(K1)
    with Door(kind, tmp_path) as writer:
        writer.add([first])
        with Door(kind, tmp_path, read_only=True) as reader:
            for work in (
                lambda: reader.add_entry(first.id, K1, "answer"),
                lambda: reader.pin(K1, pinned=True),
                lambda: reader.evict(EntryQuery()),
                lambda: reader.evict_to(0),
            ):
                with pytest.raises(StoreUnavailable):
                    work()
            assert all_entries(reader) == [entry_of(first)]


def test_one_changes_entries_while_another_adds(kind: str, tmp_path: Path) -> None:
    with Door(kind, tmp_path) as recorder, Door(kind, tmp_path) as other:
        kept = recorded(K1)
        recorder.add([kept])
        other.pin(K1, pinned=True)
        rng = random.Random(6)
        for _ in range(30):
            recorder.add([recorded(rng.randbytes(16)) for _ in range(20)])
        evicted: list[int] = []
        evicting = threading.Thread(target=lambda: evicted.append(other.evict(EntryQuery())))
        evicting.start()
        added = 0
        while evicting.is_alive() or not added:
            recorder.add([recorded(rng.randbytes(16)), served(kept)])
            added += 1
        evicting.join()
        left = all_entries(recorder)
        assert [entry.key for entry in left if entry.pinned] == [K1]
        assert {entry.key: entry.hits for entry in left}[K1] == added
        assert 600 <= evicted[0] <= 600 + added
        assert len(left) == 1 + 600 + added - evicted[0]
        stats = recorder.cache_stats()
        assert (stats.entries, stats.pinned, stats.hits) == (len(left), 1, added)
        assert stats.answer_bytes == sum(entry.size for entry in left)
