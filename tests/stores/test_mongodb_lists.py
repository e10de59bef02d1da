"""Lists and search of the MongoDB store: each way of finding finds the same, through indexes, and nothing too early."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import Door, database_uri, drop_databases
from pymongo import MongoClient
from pymongo.database import Database as Collections

from factories import DAY_NS, HOUR_NS, NOW_NS, content, exchange, exchange_id, glue, request_pieces, response, sse
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.stores.base import Page, Query, Summary
from gemini_caching_proxy.stores.mongodb import extents, keys, lists, search
from gemini_caching_proxy.stores.mongodb.documents import LONGEST_TEXT
from gemini_caching_proxy.stores.phrases import tokens
from indexed import index_texts
from mongod import shared_server

WORDS = ["alpha", "beta", "gamma", "delta", "alphabet", "東", "京", "rare"]
MODELS = [f"model-{number}" for number in range(40)]
CONVERSATIONS = [exchange_id(NOW_NS + number) for number in range(2)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Door]:
    with Door("mongodb", tmp_path) as door:
        yield door


@contextmanager
def database_of(folder: Path) -> Iterator[Collections[dict[str, Any]]]:
    """The collections of the store of this folder, from outside."""
    with MongoClient[dict[str, Any]](database_uri(folder, shared_server()), uuidRepresentation="standard") as client:
        yield client.get_default_database()


def index(folder: Path, up_to: int | None = None) -> None:
    index_texts(database_uri(folder, shared_server()), up_to)


def ids(items: Iterable[Any]) -> list[UUID]:
    return [item.id for item in items]


def found(store: Door, text: str, query: Query | None = None, limit: int = 500) -> list[UUID]:
    return ids(hit.summary for hit in store.search(text, query or Query(), limit=limit))


def everything(store: Door, query: Query, limit: int) -> list[Summary]:
    shown: list[Summary] = []
    page = Page((), None)
    while True:
        page = store.list(query, limit=limit, cursor=page.next_cursor)
        shown += page.items
        if page.next_cursor is None:
            return shown


# Many facets, and words in every mixture.


def varied(rng: random.Random) -> Exchange:
    said = " ".join(rng.choices(WORDS, weights=[9, 9, 9, 9, 3, 3, 3, 1], k=rng.randint(0, 4)))
    asked = " ".join(rng.choices(WORDS, weights=[9, 9, 9, 9, 3, 3, 3, 1], k=rng.randint(0, 4)))
    return exchange(
        started_ns=NOW_NS + rng.randrange(-60, 60) * HOUR_NS // 8,
        asked=f"{asked} own{rng.randrange(10**9)}",
        outcome=response(sse(said), status=rng.choice([200, 200, 429, 500])),
        response_text=said,
        model=rng.choice(MODELS),
        user_agent=rng.choice(["sdk/1", "cli/2", None]),
        credential=rng.choice(["fp:1", "fp:2"]),
        conversation=rng.choice([*CONVERSATIONS, None]),
    )


RNG = random.Random(11)
POPULATION = [varied(RNG) for _ in range(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("lists")
    yield path
    drop_databases(path)


@pytest.fixture(scope="module")
def populated(folder: Path) -> Iterator[Door]:
    with Door("mongodb", folder) as door:
        for start in range(0, len(POPULATION), 150):
            door.add(POPULATION[start : start + 150])
        # Search has to find what is in the index of words and what is not yet.
        index(folder, len(POPULATION) // 2)
        yield door


def beside(words: Sequence[str], text: Sequence[str], *, begun: bool) -> bool:
    """Whether words stand side by side in a text, the last perhaps only begun."""
    pieces = [text[at : at + len(words)] for at in range(len(text) - len(words) + 1)]
    return any(
        piece[:-1] == words[:-1] and (piece[-1].startswith(words[-1]) if begun else piece[-1] == words[-1])
        for piece in pieces
    )


def holds(text: str, typed: str, *, begun: bool) -> bool:
    pieces = typed.split()
    return all(
        beside(tokens(piece), tokens(text), begun=begun and number == len(pieces) - 1 and len(piece) > 1)
        for number, piece in enumerate(pieces)
    )


def has(each: Exchange, typed: str, *, begun: bool) -> bool:
    return any(holds(text, typed, begun=begun) for text in [each.response_text, *(p.text for p in each.request_pieces)])


def passes(each: Exchange, query: Query) -> bool:
    return (
        query.model in (None, each.model, "model-1*" if (each.model or "").startswith("model-1") else None)
        and query.status in (None, each.status)
        and query.errors in (None, each.is_error)
        and query.credential in (None, each.credential)
        and query.conversation in (None, each.conversation)
        and (query.since_ns is None or each.started_ns >= query.since_ns)
        and (query.until_ns is None or each.started_ns < query.until_ns)
        and (query.contains is None or has(each, query.contains, begun=False))
    )


times = st.integers(-62, 62).map(lambda eighth: NOW_NS + eighth * HOUR_NS // 8)
queries = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from([*MODELS[:3], "model-1*", "none"]),
        "status": st.sampled_from([200, 429]),
        "errors": st.booleans(),
        "credential": st.sampled_from(["fp:1", "fp:3"]),
        "conversation": st.sampled_from(CONVERSATIONS),
        "since_ns": times,
        "until_ns": times,
    },
).map(lambda chosen: Query(**chosen))
typed_texts = st.lists(
    st.sampled_from([*WORDS, "alp", "alpha-beta", "beta.gam", "東京", "京東", "delta_rare", "nowhere"]),
    min_size=1,
    max_size=3,
).map(" ".join)
DEFAULT: dict[str, int] = {}
TINY = {"FEW_TEXTS": 0, "FEW_EXCHANGES": 0, "FEW_BEGUN": 0, "SHORTEST_STRETCH": 3, "LONGEST_STRETCH": 20, "TOGETHER": 3}
LISTING = {"FEW_TEXTS": 0, "FEW_EXCHANGES": 1000, "LISTED": 7}
BEGUN = {"FEW_TEXTS": 0, "FEW_EXCHANGES": 0, "FEW_BEGUN": 5000, "LISTED": 7}


@contextmanager
def ways(chosen: dict[str, int]) -> Iterator[None]:
    """Thresholds that make small stores take the ways of large ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.items():
            patch.setattr(search, name, value)
        yield


@pytest.mark.parametrize("chosen", [DEFAULT, TINY, LISTING, BEGUN], ids=["default", "tiny", "listing", "begun"])
@settings(max_examples=40, deadline=None)
@given(
    typed=typed_texts,
    query=queries,
    contains=st.none() | st.sampled_from(["alpha", "beta-gamma", "rare"]),
    limit=st.sampled_from([1, 4, 500]),
)
def test_each_way_of_searching_finds_the_same(
    populated: Door, chosen: dict[str, int], typed: str, query: Query, contains: str | None, limit: int
) -> None:
    arrived = [each for each in reversed(POPULATION) if passes(each, query)]
    both = [each for each in arrived if contains is None or has(each, contains, begun=False)]
    whole, narrowed = replace(query, contains=typed), replace(query, contains=contains)
    with ways(chosen):
        assert found(populated, typed, narrowed, limit) == ids(e for e in both if has(e, typed, begun=True))[:limit]
        listed = everything(populated, whole, max(limit, 4))
        assert ids(listed) == ids(e for e in arrived if has(e, typed, begun=False))
        assert ids(populated.after(0, whole, limit=limit)) == ids(reversed(listed))[:limit]


@pytest.mark.parametrize("walked", [0, 10, 5000])
@settings(max_examples=40, deadline=None)
@given(query=queries, limit=st.sampled_from([2, 30, 500]), skip=st.integers(0, 600))
def test_many_facets_or_few_the_list_is_right(
    populated: Door, walked: int, query: Query, limit: int, skip: int
) -> None:
    expected = [each for each in reversed(POPULATION) if passes(each, query)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "WALKED", walked)
        patch.setattr(keys, "MERGED", 20)
        patch.setattr(lists, "WINDOW", walked)
        patch.setattr(lists, "LONG_WINDOW", 50)
        patch.setattr(lists, "FEW_EXCHANGES", walked)
        shown = everything(populated, query, limit)
        first = populated.after(0, Query(), limit=1)[0].sequence
        followed = populated.after(first + skip - 1, query, limit=limit)
    assert ids(shown) == ids(sorted(expected, key=lambda each: -each.started_ns))
    assert ids(followed) == ids(each for each in POPULATION[skip:] if passes(each, query))[:limit]


# Through indexes alone.

ASKED = {
    "nothing": Query(),
    "few facets": Query(model="model-1", status=200),
    "many facets": Query(errors=False),
    "many facets, none of the newest": Query(credential="fp:1", until_ns=NOW_NS),
    "time": Query(since_ns=NOW_NS - HOUR_NS, until_ns=NOW_NS),
    "conversation": Query(conversation=CONVERSATIONS[0], errors=True),
}


@contextmanager
def noted(folder: Path, collection: str) -> Iterator[list[dict[str, Any]]]:
    """What the server notes of each question about a collection that it is asked in here."""
    found: list[dict[str, Any]] = []
    with database_of(folder) as database:
        database.command("profile", 2)
        try:
            yield found
        finally:
            database.command("profile", 0)
            found += database["system.profile"].find({"ns": f"{database.name}.{collection}"})
            database.drop_collection("system.profile")


@pytest.mark.parametrize("name", ASKED)
def test_a_list_reads_the_documents_of_its_page_only(populated: Door, folder: Path, name: str) -> None:
    with noted(folder, "gemini_interactions") as questions:
        page = populated.list(ASKED[name], limit=5)
        following = populated.list(ASKED[name], limit=5, cursor=page.next_cursor)
    assert (len(page.items), len(following.items)) == (5, 5)
    assert sum(each["docsExamined"] for each in questions) == 10
    assert not any(each.get("hasSortStage") for each in questions)


@pytest.mark.parametrize("name", [name for name in ASKED if name != "conversation"])
def test_following_reads_the_documents_of_its_page_only(populated: Door, folder: Path, name: str) -> None:
    with noted(folder, "gemini_interactions") as questions:
        shown = populated.after(0, ASKED[name], limit=5)
    assert sum(each["docsExamined"] for each in questions) == len(shown) == 5
    assert not any(each.get("hasSortStage") for each in questions)


def test_a_search_looks_at_the_texts_with_the_rarest_word_only(populated: Door, folder: Path) -> None:
    holding = sum(
        "rare" in tokens(text)
        for each in POPULATION
        for text in [each.response_text, *(piece.text for piece in each.request_pieces)]
    )
    index(folder)
    with noted(folder, "gemini_texts") as questions:
        assert populated.search("alpha rare x", Query()) == ()
        assert populated.search("alpha rare beta", Query())

    assert sum(each["docsExamined"] for each in questions) <= holding < 100
    assert not any(each.get("hasSortStage") for each in questions)


@pytest.mark.parametrize("day", [0, 4, 9])
@pytest.mark.parametrize(
    "query",
    [lambda day: Query(since_ns=at(day), until_ns=at(day + 1)), lambda day: Query(model=f"day-{day}")],
    ids=["time", "model"],
)
def test_a_search_passes_over_what_its_filter_leaves_out(
    store: Door, tmp_path: Path, query: Callable[[int], Query], day: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FEW_TEXTS", "FEW_EXCHANGES", "FEW_BEGUN"):
        monkeypatch.setattr(search, name, 0)
    monkeypatch.setattr(search, "SHORTEST_STRETCH", 8)
    monkeypatch.setattr(search, "LONGEST_STRETCH", 8)
    monkeypatch.setattr(extents, "BLOCK", 16)
    days = [
        [exchange(asked=f"needle {day}.{number}", started_ns=at(day), model=f"day-{day}") for number in range(40)]
        for day in range(10)
    ]
    for some in days:
        store.add(some)
    index(tmp_path)
    with noted(tmp_path, "gemini_texts") as questions:
        assert found(store, "nowhere needle", query(day)) == []
        assert found(store, "needle", query(day)) == ids(reversed(days[day]))
    assert sum(each["docsExamined"] for each in questions) < 2 * 80
    late = exchange(asked="needle late", started_ns=at(day), model=f"day-{day}")
    store.add([late])
    assert found(store, "needle", query(day)) == ids([late, *reversed(days[day])])
    assert ids(store.after(0, replace(query(day), contains="needle"))) == ids([*days[day], late])


def at(day: int) -> int:
    return NOW_NS + day * DAY_NS


# Nothing early, nothing half.


def test_what_is_being_written_does_not_show(store: Door, tmp_path: Path) -> None:
    added = [exchange(asked=f"needle {number}", model="m") for number in range(10)]
    store.add(added)
    first = store.after(0, Query(), limit=1)[0].sequence
    opened = {"open.other": {"from": first + 6, "since": datetime.now(UTC)}}
    with database_of(tmp_path) as database:
        database["gemini_state"].update_one({"_id": "state"}, {"$set": opened})
        for expected in (added[:6], added):
            assert ids(store.after(0, Query())) == ids(store.after(0, Query(contains="needle"))) == ids(expected)
            assert ids(store.list(Query(model="m")).items) == ids(reversed(expected))
            assert found(store, "needle") == found(store, "need") == ids(reversed(expected))
            assert store.last_sequence() == first + len(expected) - 1
            database["gemini_state"].update_one({"_id": "state"}, {"$unset": {"open.other": ""}})


def test_a_text_whose_exchange_never_came_is_passed_over(store: Door, tmp_path: Path) -> None:
    added = [exchange(asked=f"needle {number}") for number in range(9)]
    store.add(added)
    with database_of(tmp_path) as database:
        database["gemini_interactions"].delete_many({"_id": {"$in": ids(added[3:8])}})
    left = ids([added[8], *reversed(added[:3])])
    assert found(store, "needle", limit=2) == left[:2]
    assert ids(everything(store, Query(contains="needle"), 2)) == left


def test_an_exchange_whose_text_was_written_earlier_shows_once_it_is_there(store: Door, tmp_path: Path) -> None:
    late = exchange(asked="needle late")
    store.add([exchange(asked="needle early"), late])
    with database_of(tmp_path) as database:
        last = store.last_sequence()
        database["gemini_interactions"].update_one({"_id": late.id}, {"$set": {"sequence": last + 1}})
        assert found(store, "late") == []
        database["gemini_state"].update_one({"_id": "state"}, {"$inc": {"next": 1}})
        assert found(store, "late") == [late.id]


# Phrases.


def test_words_typed_in_one_piece_stand_side_by_side(store: Door) -> None:
    dotted = exchange(asked="call foo.bar() twice")
    apart = exchange(answer="foo and bar", outcome=response(), response_text="foo and bar, bar foo")
    said = exchange(answer="Foo, Bar!", outcome=response(), response_text="Foo, Bar!")
    store.add([dotted, apart, said])
    assert found(store, "foo.bar") == ids([said, dotted])
    assert found(store, "foo_ba") == ids([said, dotted])
    assert found(store, "bar/foo") == [apart.id]
    assert found(store, "foo bar") == ids([said, apart, dotted])
    assert ids(store.list(Query(contains="foo-bar")).items) == ids([said, dotted])


def test_text_without_spaces_is_found_by_any_piece_of_it(store: Door) -> None:
    asked = exchange(asked="私は東京大学の学生です")
    store.add([asked, exchange(asked="京東の大きい学校")])
    for piece in ("東京", "東京大学", "学生", "私", "大学の学"):
        assert found(store, piece) == [asked.id]
    assert found(store, "東大") == []
    (hit,) = store.search("東京", Query())
    assert "\x02東京\x03" in hit.snippet


def test_a_phrase_between_parts_is_found_by_its_words(store: Door) -> None:
    between = glue(b'"side.note"')
    each = exchange(request_pieces=(type(between)(between.data, None, "side.note"), content("main text")))
    store.add([each])
    assert found(store, "side.note") == [each.id]


@pytest.mark.parametrize("where", ["part", "answer", "request"])
def test_a_phrase_far_into_a_long_text_is_found(store: Door, where: str) -> None:
    long = "filler words " * (LONGEST_TEXT // 13 + 100)
    far, near = f"{long} far.away", f"away {long} far"
    over: dict[str, Any] = {
        "part": lambda text: {"request_pieces": request_pieces([content(text)])},
        "answer": lambda text: {"outcome": response(), "response_text": text},
        "request": lambda text: {"request_text": text},
    }[where]
    hit, miss = exchange(**over(far)), exchange(**over(near))
    store.add([hit, miss])
    assert found(store, "far-away") == [hit.id]
    assert "\x02far.away\x03" in store.search("far-away", Query())[0].snippet
