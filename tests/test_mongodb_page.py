"""Every query of `docs/mongodb.md`, run in the real `mongosh` on a database of which the answers are known."""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from factories import (
    DAY_NS,
    HOUR_NS,
    MINUTE_NS,
    agent_session,
    content,
    exchange,
    exchange_id,
    glue,
    part,
    recorded,
    request_pieces,
    response,
    served,
)
from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind, Price, Timing, Usage
from gemini_caching_proxy.stores.mongodb import MongoDBStore
from indexed import index_texts
from mongod import fresh_database, shared_server
from mongosh import need_mongosh, run_script

PAGE = Path(__file__).parents[1] / "docs/mongodb.md"
CONVERSATION = UUID("01980000-0000-7000-8000-00000000c0de")
LAST_TURN = UUID("01980000-0000-7000-8000-00000000beef")
NANO = 1_000_000_000
SECOND_NS = NANO
MODELS = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001")
CLIENTS = ("google-genai-sdk/1.55.0 gl-python/3.11.9", "curl/8.5.0", None)


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    index: str
    script: str
    """Declarations, then one expression that begins with `db.`."""

    def asked(self) -> str:
        declarations, query = re.fullmatch(r"(.*?)^(db\..*)", self.script.strip(), re.M | re.S).groups()  # type: ignore[union-attr]
        return (
            f"{{ {declarations}\n"
            f"const plan = {query}.explain('executionStats');\n"
            f"told([{self.title!r}, {query}.toArray(), plan]); }}\n"
        )


def sections() -> list[Section]:
    found = []
    for text in PAGE.read_text().split("\n### ")[1:]:
        script = re.search(r"```js\n(.*?)```", text, re.S)
        if script:
            names = re.findall(r"Index `(\w+)`", text)
            assert len(names) == 1, text
            found.append(Section(text.partition("\n")[0], names[0], script[1]))
    return found


SECTIONS = {section.title: section for section in sections()}


# What is in the database.


def varied(now: int) -> Iterator[Exchange]:
    """Of each kind that some query looks for, and of others that it must not find."""
    for number in range(60):
        yield exchange(
            started_ns=now - (2 + 7 * number) * MINUTE_NS - 100 * number,
            asked=f"question {number}",
            answer=f"answer {number}",
            model=MODELS[number % 3],
            user_agent=CLIENTS[number % 3],
            credential=f"fp:k1:{number % 4}",
            usage=Usage(10 + number, None, 3 * number, number or None, None, 10 + 5 * number),
            price=None if number % 7 == 6 else Price(number, 2 * number, 3000 * (number * 37 % 60), "m"),
            timing=Timing(1, 2, 3, None if number % 5 == 4 else 1000 * (number * 23 % 60 + 1), 90_000),
            request_pieces=request_pieces([content("padding " * (number * 29 % 60))]),
        )
    for number in range(6):
        at = now - (5 + number * 13) * MINUTE_NS - 5 * SECOND_NS
        outcome = response([b'{"error": {}}'], status=429 if number % 2 else 503)
        yield exchange(started_ns=at, outcome=outcome, usage=None, price=None)
        at += SECOND_NS
        yield exchange(started_ns=at, outcome=Failure(FailureKind.READ_TIMEOUT, "too slow"), usage=None, price=None)
    for days in (2, 9, 20, 45):
        yield exchange(started_ns=now - days * DAY_NS, answer="old", price=Price(1, 1, days * 10**9, "m"))
    yield from session(now - 10 * HOUR_NS)
    yield from cached(now - 3 * HOUR_NS)
    yield from worded(now - 2 * HOUR_NS)
    yield from instructed(now - 5 * HOUR_NS)
    yield from calling(now - 4 * HOUR_NS)


def session(start: int) -> Iterator[Exchange]:
    """A conversation with lists of parts, of well-known ids."""
    turns = list(agent_session(24, element_bytes=200, answer_bytes=100, started_ns=start))
    names = {turns[0].id: CONVERSATION, turns[-1].id: LAST_TURN}
    for turn in turns:
        parent = None if turn.parent is None else names.get(turn.parent, turn.parent)
        yield replace(turn, id=names.get(turn.id, turn.id), conversation=CONVERSATION, parent=parent)


def cached(start: int) -> Iterator[Exchange]:
    for key, hits in ((b"a" * 16, 3), (b"b" * 16, 1), (b"c" * 16, 0)):
        source = recorded(key, started_ns=start, answer=f"kept {hits}")
        yield source
        for _ in range(hits):
            start += SECOND_NS
            use = {"saved_nanousd": 65_500, "saved_us": 400_000}
            yield served(source, started_ns=start, use=use)
        start += SECOND_NS


def worded(start: int) -> Iterator[Exchange]:
    yield exchange(started_ns=start, answer="It is Rayleigh, and his scattering.")
    yield exchange(started_ns=start + SECOND_NS, asked="Scattering? By RAYLEIGH?", answer="Yes.")
    yield exchange(started_ns=start + 2 * SECOND_NS, asked="And Rayleigh?", answer="Nothing but scattering.")
    yield exchange(started_ns=start + 3 * SECOND_NS, asked="rayleighs", answer="scattering rays")


def instructed(start: int) -> Iterator[Exchange]:
    conversations = exchange_id(start), exchange_id(start)
    for number in range(5):
        said = f"You are assistant {number % 2}. " + "Be brief. " * 20
        pieces = (
            *(glue(b'{"systemInstruction": '), part(b'{"parts": [{"text": "' + said.encode() + b'"}]}', said)),
            *(glue(b', "contents": ['), content(f"instructed {number}"), glue(b"]}")),
        )
        at, conversation = start + number * SECOND_NS, conversations[number // 4]
        yield exchange(started_ns=at, request_pieces=pieces, answer="As told.", conversation=conversation)


def calling(start: int) -> Iterator[Exchange]:
    yield exchange(started_ns=start, answer='Let me see (it {is}).\nget_weather({"city":"Lisbon"})')
    yield exchange(started_ns=start + SECOND_NS, answer='get_weather({"city":"Porto"})\nread_file({"path":"a.py"})')
    yield exchange(started_ns=start - 2 * DAY_NS, answer='read_file({"path":"old.py"})')


# What the queries should find.


@dataclass(frozen=True, slots=True)
class Known:
    """What is in the database, in the order in which it came."""

    now: int
    exchanges: Sequence[Exchange]

    def since(self, age_ns: int) -> list[Exchange]:
        return [each for each in self.exchanges if each.started_ns >= self.now - age_ns]


def usd(each: Exchange) -> float | None:
    return None if each.price is None else each.price.total_nanousd / NANO


def newest(exchanges: Iterable[Exchange]) -> list[Exchange]:
    return sorted(exchanges, key=lambda each: -each.started_ns)


def date_of(each: Exchange) -> datetime:
    return datetime.fromtimestamp(each.started_ns // NANO, UTC).replace(hour=0, minute=0, second=0)


def milliseconds(each: Exchange) -> datetime:
    whole, rest = divmod(each.started_ns // 1_000_000, 1000)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest * 1000)


Check = Callable[[list[dict[str, Any]], Known], None]
CHECKS: dict[str, Check] = {}


def check(title: str) -> Callable[[Check], Check]:
    def keep(function: Check) -> Check:
        CHECKS[title] = function
        return function

    return keep


@check("The last 20 exchanges")
def _(found: list[dict[str, Any]], known: Known) -> None:
    expected = newest(known.since(DAY_NS))[:20]
    assert [row["_id"] for row in found] == [each.id for each in expected]
    assert [row.get("usd") for row in found] == [usd(each) for each in expected]
    assert [row.get("status") for row in found] == [each.status for each in expected]
    assert [row.get("usage", {}).get("input_tokens") for row in found] == [
        each.usage and each.usage.input_tokens for each in expected
    ]


@check("What went wrong")
def _(found: list[dict[str, Any]], known: Known) -> None:
    groups = defaultdict(list)
    for each in newest(known.since(HOUR_NS)):
        if each.is_error:
            groups[each.status, each.failure and each.failure.kind.value].append(each)
    assert len(groups) == 3
    rows = {(row["_id"].get("status"), row["_id"].get("failure")): row for row in found}
    assert rows.keys() == groups.keys()
    for key, errors in groups.items():
        assert rows[key]["exchanges"] == len(errors)
        assert rows[key]["example"] == errors[0].id
        assert rows[key]["newest"] == milliseconds(errors[0])
    assert [row["exchanges"] for row in found] == sorted(map(len, groups.values()), reverse=True)


@check("The dearest exchanges")
def _(found: list[dict[str, Any]], known: Known) -> None:
    expected = sorted((usd(each) or 0 for each in known.since(7 * DAY_NS)), reverse=True)[:10]
    assert [row["usd"] for row in found] == expected
    assert found[0]["usd"] == 2, "of two days ago"


@check("One conversation in order")
def _(found: list[dict[str, Any]], known: Known) -> None:
    turns = [each for each in known.exchanges if each.conversation == CONVERSATION]
    assert len(turns) == 24
    assert [row["_id"] for row in found] == [each.id for each in turns]
    assert [row["response"]["text"] for row in found] == [each.response_text for each in turns]
    assert [row.get("parent") for row in found] == [each.parent for each in turns]


@check("Tokens and cost by model and day")
def _(found: list[dict[str, Any]], known: Known) -> None:
    groups = defaultdict(list)
    for each in known.exchanges:
        groups[date_of(each), each.model].append(each)
    expected = [
        {
            "date": day,
            "model": model,
            "exchanges": len(group),
            "errors": sum(each.is_error for each in group),
            "input_tokens": sum(each.usage.input_tokens or 0 for each in group if each.usage),
            "output_tokens": sum(each.usage.output_tokens or 0 for each in group if each.usage),
            "thoughts_tokens": sum(each.usage.thoughts_tokens or 0 for each in group if each.usage),
            "usd": sum(each.price.total_nanousd for each in group if each.price) / NANO,
        }
        for (day, model), group in sorted(groups.items())
    ]
    assert found == expected


@check("The slowest first tokens")
def _(found: list[dict[str, Any]], known: Known) -> None:
    times = [each.timing.first_content_us for each in known.since(DAY_NS)]
    expected = sorted((time for time in times if time is not None), reverse=True)[:10]
    assert [row["seconds"] for row in found] == [time / 1e6 for time in expected]


@check("What was asked or said")
def _(found: list[dict[str, Any]], known: Known) -> None:
    expected = [
        each for each in known.exchanges if "Rayleigh, and" in each.response_text or each.response_text == "Yes."
    ]
    assert [row["_id"] for row in found] == [each.id for each in reversed(expected)]
    assert [row["model"] for row in found] == [each.model for each in reversed(expected)]


@check("Hits of the cache and what they saved")
def _(found: list[dict[str, Any]], known: Known) -> None:
    groups = defaultdict(list)
    for each in known.exchanges:
        groups[date_of(each)].append(each)
    rows = []
    for day, group in sorted(groups.items(), reverse=True):
        uses = [each.cache for each in group if each.cache is not None and each.cache.served]
        rows.append(
            {
                "date": day,
                "exchanges": len(group),
                "cache_hits": len(uses),
                "hit_ratio": len(uses) / len(group),
                "saved_usd": sum(use.saved_nanousd or 0 for use in uses) / NANO,
                "saved_seconds": sum(use.saved_us or 0 for use in uses) / 1e6,
            }
        )
    assert found == rows
    assert sum(row["cache_hits"] for row in found) == 4


@check("The exchanges of one client")
def _(found: list[dict[str, Any]], known: Known) -> None:
    of_client = [each for each in known.exchanges if (each.user_agent or "").startswith("google-genai-sdk/")]
    assert [row["_id"] for row in found] == [each.id for each in newest(of_client)[:20]]
    assert len(of_client) < len(known.exchanges)


@check("What each credential spent")
def _(found: list[dict[str, Any]], known: Known) -> None:
    # Days count as a whole, and one of 30 days ago began before.
    first = datetime.fromtimestamp(known.now / NANO - 30 * 24 * 3600, UTC)
    spent: dict[str | None, list[int]] = defaultdict(list)
    for each in known.exchanges:
        if date_of(each) >= first:
            spent[each.credential].append(each.price.total_nanousd if each.price else 0)
    assert len(spent) == 5
    assert {row["_id"]: row["usd"] for row in found} == {name: sum(prices) / NANO for name, prices in spent.items()}
    assert {row["_id"]: row["exchanges"] for row in found} == {name: len(prices) for name, prices in spent.items()}
    assert [row["usd"] for row in found] == sorted((row["usd"] for row in found), reverse=True)


@check("System instructions in use")
def _(found: list[dict[str, Any]], known: Known) -> None:
    assert [(row["exchanges"], row["conversations"]) for row in found] == [(3, 2), (2, 1)]
    assert [row["begins"] for row in found] == [
        (f"You are assistant {number}. " + "Be brief. " * 20)[:100] for number in (0, 1)
    ]


@check("Calls of tools")
def _(found: list[dict[str, Any]], known: Known) -> None:
    assert found == [{"_id": "get_weather", "calls": 2}, {"_id": "read_file", "calls": 1}]


@check("The largest requests")
def _(found: list[dict[str, Any]], known: Known) -> None:
    sizes = sorted((each.request_body.size for each in known.since(DAY_NS)), reverse=True)[:10]
    assert [row["mib"] for row in found] == [size / 1048576 for size in sizes]


@check("One whole exchange")
def _(found: list[dict[str, Any]], known: Known) -> None:
    turn = next(each for each in known.exchanges if each.id == LAST_TURN)
    assert [row["_id"] for row in found] == [LAST_TURN]
    asked = [piece for piece in turn.request_pieces if piece.digest is not None]
    assert len(asked) > 32
    assert [each["text"] for each in found[0]["request"]["parts"]] == [piece.text for piece in asked]
    assert turn.response is not None
    for shown, headers in ((found[0]["request"], turn.request_headers), (found[0]["response"], turn.response.headers)):
        assert [(each["name"].encode(), each["value"].encode()) for each in shown["headers"]] == list(headers)


@check("What a turn added")
def _(found: list[dict[str, Any]], known: Known) -> None:
    turn = next(each for each in known.exchanges if each.id == LAST_TURN)
    parts = [piece.text for piece in turn.request_pieces if piece.digest is not None]
    assert found == [{"_id": LAST_TURN, "new": parts[-2:], "said": turn.response_text}]


@check("The entries of the cache that are used most")
def _(found: list[dict[str, Any]], known: Known) -> None:
    sources = {each.entry_key: each for each in known.exchanges if each.entry_key is not None}
    assert [row["hits"] for row in found] == [3, 1]
    assert [row["exchange"] for row in found] == [sources[b"a" * 16].id, sources[b"b" * 16].id]
    assert [row["saved_usd"] for row in found] == [3 * 65_500 / NANO, 65_500 / NANO]


# The runs.


@dataclass(frozen=True, slots=True)
class Outcome:
    found: list[dict[str, Any]]
    plan: Any


@pytest.fixture(scope="module")
def known() -> Known:
    # The shell's own time is some seconds later: nothing may be so near an edge.
    now = time.time_ns()
    return Known(now, list(varied(now)))


@pytest.fixture(scope="module")
def outcomes(known: Known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    need_mongosh()
    with fresh_database(shared_server()) as database:
        asyncio.run(fill(database.uri, known.exchanges))
        index_texts(database.uri)
        script = "".join(section.asked() for section in SECTIONS.values())
        told = run_script(script, database.uri, tmp_path_factory.mktemp("home"))
        yield {title: Outcome(found, plan) for title, found, plan in told}


async def fill(uri: str, exchanges: Sequence[Exchange]) -> None:
    store = MongoDBStore(uri)
    await store.open()
    try:
        for start in range(0, len(exchanges), 50):
            await store.add(exchanges[start : start + 50])
        assert await store.settled()
    finally:
        await store.aclose()


def test_the_page_has_its_queries_and_each_has_a_test() -> None:
    assert len(SECTIONS) >= 10
    assert SECTIONS.keys() == CHECKS.keys()


@pytest.mark.parametrize("title", CHECKS)
def test_query_finds(title: str, outcomes: dict[str, Outcome], known: Known) -> None:
    CHECKS[title](outcomes[title].found, known)


@pytest.mark.parametrize("title", CHECKS)
def test_query_uses_the_index_that_the_page_names(title: str, outcomes: dict[str, Outcome]) -> None:
    plan = outcomes[title].plan
    assert SECTIONS[title].index in set(used_indexes(plan)), plan
    assert not list(scans(plan)), plan


def used_indexes(plan: Any) -> Iterator[str]:
    for name, value in fields_of(plan):
        if name == "indexName":
            yield value
        elif name == "indexesUsed":
            yield from value


def scans(plan: Any) -> Iterator[Any]:
    for name, value in fields_of(plan):
        if (name, value) == ("stage", "COLLSCAN") or (name == "collectionScans" and int(value)):
            yield name, value


def fields_of(plan: Any) -> Iterator[tuple[str, Any]]:
    """Every field of a plan that was chosen, however deep."""
    if isinstance(plan, dict):
        for name, value in plan.items():
            if name != "rejectedPlans":
                yield name, value
                yield from fields_of(value)
    elif isinstance(plan, list):
        for each in plan:
            yield from fields_of(each)
