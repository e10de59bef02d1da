"""What people see in the database: documents, their validator, the view of whole exchanges, and what it all costs."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from bson import encode
from hypothesis import HealthCheck, given, settings
from pymongo.database import Database as Collections
from pymongo.errors import WriteError
from strategies import exchanges

from factories import (
    NOW_NS,
    Prose,
    agent_session,
    content,
    exchange,
    glue,
    join,
    part,
    request_pieces,
    response,
)
from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind
from gemini_caching_proxy.stores.mongodb import MongoDBStore, schema
from gemini_caching_proxy.stores.mongodb.connection import CODEC
from gemini_caching_proxy.stores.mongodb.documents import LONGEST_TEXT
from mongod import Database, fresh_database, shared_server

Documents = Collections[dict[str, Any]]
VIEW, INTERACTIONS, PARTS = "gemini_interactions_full", "gemini_interactions", "gemini_parts"


def fill(database: Database, exchanges: Sequence[Exchange], *, together: int = 50) -> None:
    async def add() -> None:
        store = MongoDBStore(database.uri)
        await store.open()
        try:
            for start in range(0, len(exchanges), together):
                await store.add(exchanges[start : start + together])
            assert await store.settled()
        finally:
            await store.aclose()

    asyncio.run(add())


def shown(database: Database, exchange: Exchange) -> dict[str, Any]:
    """What the view shows of an exchange, which is then in the database."""
    fill(database, [exchange])
    with database.opened() as collections:
        found = list(collections[VIEW].find({"_id": exchange.id}))
    (row,) = found
    return row


# The view.


def test_view_shows_headers_with_the_values_that_differ_each_time(mongod: Database) -> None:
    headers = ((b"x-goog-request-id", b"1"), (b"accept", b"*/*"), (b"traceparent", b"caf\xe9"), (b"x-request-id", b"2"))
    answered = response(headers=((b"Date", b"today"), (b"Retry-After", b"7"), (b"Server", b"s")))
    row = shown(mongod, exchange(request_headers=headers, outcome=answered))
    assert [(each["name"], each["value"]) for each in row["request"]["headers"]] == [
        ("x-goog-request-id", "1"),
        ("accept", "*/*"),
        ("traceparent", "café"),
        ("x-request-id", "2"),
    ]
    assert [(each["name"], each["value"]) for each in row["response"]["headers"]] == [
        ("Date", "today"),
        ("Retry-After", "7"),
        ("Server", "s"),
    ]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32, 33, 100])
def test_view_shows_the_parts_in_order(mongod: Database, count: int) -> None:
    contents = [content(f"number {each} of {count}") for each in range(count)]
    row = shown(mongod, exchange(request_pieces=request_pieces([*contents, contents[0]])))
    assert [each["text"] for each in row["request"]["parts"]] == [piece.text for piece in [*contents, contents[0]]]
    assert [each["part"] for each in row["request"]["parts"]] == [piece.digest for piece in [*contents, contents[0]]]


def test_view_shows_the_answer(mongod: Database) -> None:
    picture = part(bytes(range(256)) * 8)
    pieces = (glue(b'{"a": "'), picture, glue(b'"}'))
    row = shown(mongod, exchange(outcome=response([join(pieces)]), response_pieces=pieces, response_text="A picture."))
    assert row["response"]["text"] == "A picture."
    assert row["response"]["bytes"] == len(join(pieces))
    assert [(each["part"], each["size"]) for each in row["response"]["parts"]] == [(picture.digest, 2048)]
    assert not {"record", "parts", "facet", "marks"} & row.keys(), "nothing for the program alone"
    assert not {"header_values"} & (row["request"].keys() | row["response"].keys())


def test_view_shows_an_exchange_without_an_answer(mongod: Database) -> None:
    row = shown(mongod, exchange(outcome=Failure(FailureKind.CONNECT_FAILED, "nobody there")))
    assert "response" not in row
    assert (row["failure"], row["failure_detail"]) == ("connect_failed", "nobody there")
    assert len(row["request"]["parts"]) == 1


def test_view_shows_large_parts_without_their_data(mongod: Database) -> None:
    noise = random.Random(1).randbytes(20 * 1024 * 1024)
    large = part(noise, "a film")
    pieces = (glue(b'{"contents": ["'), content("Look:"), glue(b","), large, glue(b'"]}'))
    row = shown(mongod, exchange(request_pieces=pieces))
    assert [(each["size"], each["text"], "file" in each) for each in row["request"]["parts"]] == [
        (len(pieces[1].data), "Look:", False),
        (len(noise), "a film", True),
    ]
    assert len(encode(row, codec_options=CODEC)) < 16_000


def test_view_finds_one_exchange_through_indexes(mongod: Database) -> None:
    turns = list(agent_session(30, element_bytes=100, answer_bytes=50))
    fill(mongod, turns)
    with mongod.opened() as collections:
        plan = collections[VIEW].find({"_id": turns[-1].id}).explain()
        total = collections[PARTS].count_documents({})
    fields = list(fields_of(plan))
    assert ("stage", "COLLSCAN") not in fields
    assert not [value for name, value in fields if name == "collectionScans" and int(value)]
    examined = sum(int(value) for name, value in fields if name == "totalDocsExamined")
    assert 0 < examined < total * 2, "parts of this exchange, not all there are for each of them"


def fields_of(plan: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(plan, dict):
        for name, value in plan.items():
            if name != "rejectedPlans":
                yield name, value
                yield from fields_of(value)
    elif isinstance(plan, list):
        for each in plan:
            yield from fields_of(each)


@pytest.mark.slow
def test_view_of_one_exchange_is_fast_among_many(mongod: Database) -> None:
    turns = list(agent_session(200))
    fill(mongod, turns)
    with mongod.opened() as collections:
        multiply(collections, 50_000)
        assert collections[INTERACTIONS].estimated_document_count() >= 50_000
        times = []
        for turn in (turns[0], turns[100], turns[199]):
            for _ in range(5):
                begun = time.perf_counter()
                (row,) = collections[VIEW].find({"_id": turn.id})
                times.append(time.perf_counter() - begun)
            assert len(row["request"]["parts"]) == sum(piece.digest is not None for piece in turn.request_pieces)
    assert min(times[-5:]) < 0.5, times


def multiply(collections: Documents, count: int) -> None:
    """Fill up with copies of an exchange and of a part, under other names."""
    sample = collections[INTERACTIONS].find_one(sort=[("sequence", 1)])
    other = collections[PARTS].find_one({"kind": "part"})
    assert sample is not None
    assert other is not None
    for start in range(1, count + 1, 5000):
        numbers = range(start, start + 5000)
        copies = [
            {**sample, "_id": exchange().id, "sequence": 10**6 + number, "started_ns": NOW_NS - number}
            for number in numbers
        ]
        collections[INTERACTIONS].insert_many(copies, ordered=False)
        parts = [{**other, "_id": number.to_bytes(16, "big")} for number in numbers]
        collections[PARTS].insert_many(parts, ordered=False)


# The validator.


@pytest.fixture(scope="module")
def lasting() -> Iterator[tuple[MongoDBStore, asyncio.Runner, Documents]]:
    with fresh_database(shared_server()) as database, asyncio.Runner() as runner, database.opened() as collections:
        store = MongoDBStore(database.uri)
        runner.run(store.open())
        yield store, runner, collections
        runner.run(store.aclose())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(each=exchanges())
def test_every_exchange_passes_the_validator_and_comes_back(lasting: Any, each: Exchange) -> None:
    store, runner, collections = lasting
    each = replace(each, id=exchange().id)
    runner.run(store.add([each]))
    assert runner.run(store.get(each.id)) == each
    document = collections[INTERACTIONS].find_one({"_id": each.id})
    assert collections[INTERACTIONS].count_documents({"_id": each.id, **schema.VALIDATOR}) == 1, document
    assert collections[VIEW].count_documents({"_id": each.id}) == 1


@pytest.mark.parametrize("name", sorted(schema.VALIDATOR["$jsonSchema"]["required"]))
def test_a_document_that_lacks_something_is_refused(lasting: Any, name: str) -> None:
    store, runner, collections = lasting
    original = exchange()
    runner.run(store.add([original]))
    document = collections[INTERACTIONS].find_one({"_id": original.id})
    document["_id"] = exchange().id
    if name == "_id":
        # The server makes one where there is none, of a type that is none of ours.
        refused = {key: value for key, value in document.items() if key != "_id"} | {"_id": "an id"}
    else:
        refused = {key: value for key, value in document.items() if key != name}
    with pytest.raises(WriteError, match="failed validation"):
        collections[INTERACTIONS].insert_one(refused)
    collections[INTERACTIONS].insert_one(document)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence", 0),
        ("sequence", "1"),
        ("status", "200"),
        ("started", 1),
        ("is_error", 1),
        ("model", None),
        ("request", {}),
        ("response", {"bytes": 1}),
        ("conversation", "a"),
        ("marks", ["a"]),
        ("parts", []),
    ],
)
def test_a_document_of_the_wrong_shape_is_refused(lasting: Any, name: str, value: Any) -> None:
    store, runner, collections = lasting
    original = exchange()
    runner.run(store.add([original]))
    document = collections[INTERACTIONS].find_one({"_id": original.id})
    document |= {"_id": exchange().id, name: value}
    with pytest.raises(WriteError, match="failed validation"):
        collections[INTERACTIONS].insert_one(document)


# Documents.


def test_a_document_names_the_system_instruction(mongod: Database) -> None:
    said = part(b'{"parts": [{"text": "Be brief."}]}', "Be brief.")
    for name, expected in ((b"systemInstruction", said.digest), (b"system_instruction", said.digest), (b"tools", None)):
        pieces = (glue(b'{"' + name + b'" : '), said, glue(b', "contents": ['), content("Hi"), glue(b"]}"))
        assert shown(mongod, exchange(request_pieces=pieces))["request"].get("system") == expected


def test_long_texts_are_cut_in_the_open_and_come_back_whole(mongod: Database) -> None:
    text = Prose().text(LONGEST_TEXT + 5000)
    long = exchange(asked=text, answer=text)
    fill(mongod, [long])
    with mongod.opened() as collections:
        document = collections[INTERACTIONS].find_one({"_id": long.id})
        (asked,) = collections[PARTS].find({"kind": "part"})
    assert document is not None
    assert document["response"]["text"] == asked["text"] == text[:LONGEST_TEXT]
    assert document["text_cut"] is asked["text_cut"] is True
    assert asyncio.run(restored(mongod, long)) == long


async def restored(database: Database, exchange: Exchange) -> Exchange:
    store = MongoDBStore(database.uri)
    await store.open(read_only=True)
    try:
        return await store.get(exchange.id)
    finally:
        await store.aclose()


def test_a_part_costs_little_beside_its_text(mongod: Database) -> None:
    """The bytes of a part say again what its text says."""
    text = Prose(7).text(3000)
    fill(mongod, [exchange(asked=text)])
    with mongod.opened() as collections:
        (asked,) = collections[PARTS].find({"kind": "part"})
    assert asked["text"] == text
    assert len(asked["data"]) < 300, "the line ends, which JSON escapes"


# What a long session costs.


def test_a_long_session_costs_what_each_turn_adds(mongod: Database) -> None:
    """Of 200 turns in random prose, which has more different words than people's or programs' texts.

    About 5 % of the bytes sent are documents and 1 % indexes; half of both is for search by words.
    """
    turns = list(agent_session(200, element_bytes=1100, answer_bytes=560))
    sent = sum(turn.request_body.size for turn in turns)
    fill(mongod, turns, together=10)
    with mongod.opened() as collections:
        collections.client.admin.command("fsync")
        whole = collections.command("dbStats")
        words = collections.command("collStats", "gemini_texts")
    besides = whole["dataSize"] - words["size"]
    assert besides < 0.029 * sent, besides / sent
    assert words["size"] < 0.023 * sent, words["size"] / sent
    assert whole["indexSize"] < 0.012 * sent, whole["indexSize"] / sent


def test_a_turn_refers_to_runs_of_parts(mongod: Database) -> None:
    """Twice as long a conversation must not mean documents twice as large."""
    turns = list(agent_session(200, element_bytes=60, answer_bytes=20))
    fill(mongod, turns)
    with mongod.opened() as collections:
        documents = {
            len(encode({"parts": document["parts"]}))
            for document in collections[INTERACTIONS].find({"sequence": {"$gt": 150}}, {"parts": 1})
        }
    assert max(documents) < 1600, "a reference takes 25 bytes, and there are up to 450"
