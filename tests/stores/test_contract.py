"""What every store promises. Each test runs on each kind of store, through the contract's methods alone."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kinds import COMMON_KINDS, KINDS, Door
from strategies import exchanges

from factories import (
    DAY_NS,
    HOUR_NS,
    NOW_NS,
    agent_session,
    body,
    chain_of,
    content,
    exchange,
    exchange_id,
    glue,
    join,
    request_pieces,
    response,
    sse,
)
from gemini_caching_proxy.errors import NotFound, StoreUnavailable
from gemini_caching_proxy.exchange import (
    Body,
    CacheUse,
    Exchange,
    Failure,
    FailureKind,
    Price,
    Timing,
    Usage,
    Verdict,
)
from gemini_caching_proxy.stores.base import ChainMatch, Gap, JournalPosition, Query, StatsGroup, Summary

FEW = settings(
    max_examples=25,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def ids(items: Iterable[Any]) -> list[UUID]:
    return [item.id for item in items]


ANY = Query()


def everything(store: Door, query: Query = ANY, limit: int = 500) -> list[Summary]:
    """All pages of a list."""
    found: list[Summary] = []
    cursor = None
    while True:
        page = store.list(query, limit=limit, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


# Keeping.


@FEW
@given(batch=st.lists(exchanges(), min_size=1, max_size=2))
def test_any_exchange_comes_back_as_it_was(lasting: Door, batch: list[Exchange]) -> None:
    batch = [replace(each, id=exchange_id()) for each in batch]  # an id of an earlier example would be a duplicate
    lasting.add(batch)
    for each in batch:
        assert lasting.get(each.id) == each


def test_a_session_comes_back_as_it_was(store: Door) -> None:
    session = list(agent_session(12))
    for start in range(0, len(session), 5):
        store.add(session[start : start + 5])
    for each in session:
        assert store.get(each.id) == each


@pytest.mark.parametrize(
    "outcome",
    [
        response([b"\xff\x00raw" * 400]),
        response(status=429, headers=((b"Retry-After", b"7"), (b"X\xfe", b"\xfd")), trailers=((b"t", b"\r\xe9"),)),
        Failure(FailureKind.CONNECT_TIMEOUT, "no answer", 504),
        Failure(FailureKind.INCOMPLETE_RESPONSE, "cut", None, response(sse("half an answ"))),
    ],
)
def test_any_outcome_comes_back(store: Door, outcome: Any) -> None:
    each = exchange(outcome=outcome)
    store.add([each])
    assert store.get(each.id) == each


def test_pieces_that_are_not_the_body_never_replace_it(store: Door) -> None:
    each = exchange(request_body=body(b'{"really": "sent"}'), request_pieces=(glue(b'{"something": "else"}'),))
    store.add([each])
    assert store.get(each.id).request_body == each.request_body


def test_neighbouring_glue_still_joins_to_the_body(store: Door) -> None:
    pieces = (glue(b""), glue(b"["), glue(b" "), content("x"), content("y"), glue(b"]"), glue(b""))
    each = exchange(request_pieces=pieces)
    store.add([each])
    found = store.get(each.id)
    assert found.request_body == each.request_body
    assert join(found.request_pieces) == each.request_body.data
    assert [p for p in found.request_pieces if p.digest] == [p for p in pieces if p.digest]


def test_a_body_kept_in_part_says_so(store: Door) -> None:
    each = exchange(request_body=Body(b"head", 10**9, "ab" * 32, complete=False, redacted=True))
    store.add([each])
    assert store.get(each.id).request_body == each.request_body
    assert store.list(Query()).items[0].request_bytes == 10**9


def test_text_that_utf8_cannot_hold_is_kept_all_the_same(store: Door) -> None:
    each = exchange(
        answer="before \ud800 after", outcome=response(), response_text="before \ud800 after", model="m\udfff"
    )
    store.add([each])
    assert store.get(each.id).outcome == each.outcome
    assert ids(everything(store, Query(contains="after"))) == [each.id]


def test_absurd_numbers_do_not_keep_a_batch_out(store: Door) -> None:
    absurd = exchange(usage=Usage(10**30, -(10**30), 2**63, 2**64, None, 10**19), price=Price(1, 2, 10**25))
    store.add([absurd, exchange(), absurd])
    assert store.get(absurd.id).request_body == absurd.request_body
    assert store.stats(Query())[0].exchanges == 2


def test_the_second_time_changes_nothing(store: Door) -> None:
    first, second = exchange(answer="first"), exchange(answer="second")
    assert store.add([first]).added == 1
    before = store.size(), store.stats(Query()), store.last_sequence()
    again = store.add([first, replace(first, model="other"), first])
    assert (again.added, again.duplicates) == (0, 3)
    assert (store.size(), store.stats(Query()), store.last_sequence()) == before
    mixed = store.add([second, first, second])
    assert (mixed.added, mixed.duplicates) == (1, 2)
    assert store.get(first.id) == first
    assert store.stats(Query())[0].exchanges == 2


def test_a_part_is_kept_once(store: Door) -> None:
    shared = content("the same system instruction " * 50)
    store.add([exchange(request_pieces=request_pieces([shared]))])
    parts = store.size().parts
    store.add([exchange(request_pieces=request_pieces([shared, shared])) for _ in range(5)])
    assert store.size().parts == parts


def test_an_empty_store_answers_everything(store: Door) -> None:
    assert store.list(Query()).items == ()
    assert store.after(0, Query()) == ()
    assert store.last_sequence() == 0
    assert store.search("word", Query()) == ()
    assert [row.exchanges for row in store.stats(Query())] == [0]
    assert store.stats(Query(), group="model") == ()
    assert store.positions() == {}
    assert store.gaps() == ()
    assert store.size().exchanges == 0
    assert store.find_chain_tips([b"x" * 16], "") == {}
    assert store.find_response_id("x") is None
    assert store.prune(older_than_ns=NOW_NS).exchanges == 0
    assert store.add([]).added == 0
    with pytest.raises(NotFound):
        store.get(exchange_id())


# All or nothing.


def poisoned(**over: Any) -> Exchange:
    """An exchange that no store can keep."""
    return exchange(started_ns=NOW_NS, **{"id": exchange_id(), "target": None, **over})


def test_a_poisoned_batch_changes_nothing(store: Door) -> None:
    store.add([exchange(answer="kept")], [JournalPosition("a", 1, 10)])
    before = (
        store.size(),
        store.stats(Query(), group="model"),
        store.positions(),
        store.last_sequence(),
        everything(store),
    )
    fresh = exchange(answer="never", asked="neverasked", model="never-model")
    with pytest.raises(Exception):  # noqa: B017 - whatever it is
        store.add([fresh, poisoned()], [JournalPosition("a", 1, 20), JournalPosition("b", 0, 5)])
    after = (
        store.size(),
        store.stats(Query(), group="model"),
        store.positions(),
        store.last_sequence(),
        everything(store),
    )
    assert after == before
    assert store.search("neverasked", Query()) == ()


def test_after_a_poisoned_batch_the_rest_of_it_can_be_added(store: Door) -> None:
    fresh = exchange(asked="a part that was rolled back", model="rolled-back-model")
    with pytest.raises(Exception):  # noqa: B017
        store.add([fresh, poisoned()])
    store.add([fresh], [JournalPosition("a", 0, 1)])
    assert store.get(fresh.id) == fresh
    assert ids(store.list(Query(model="rolled-back-model")).items) == [fresh.id]


def test_positions_go_with_their_batch(store: Door) -> None:
    store.add([exchange()], [JournalPosition("a", 0, 100), JournalPosition("b", 3, 7)])
    store.add([], [JournalPosition("a", 1, 8)])
    assert store.positions() == {"a": JournalPosition("a", 1, 8), "b": JournalPosition("b", 3, 7)}
    store.forget_journal("a")
    store.forget_journal("a")
    assert set(store.positions()) == {"b"}


def test_a_gap_is_told_once(store: Door) -> None:
    late, early = Gap(3, 50, 60, "journal full"), Gap(1, 10, 20, "disk failed")
    store.add_gap(late, [JournalPosition("a", 1, 1)])
    store.add_gap(early)
    store.add_gap(late, [JournalPosition("a", 1, 2)])
    assert store.gaps() == (early, late)
    assert store.positions()["a"].offset == 2


def test_what_was_added_is_there_after_closing(kind: str, tmp_path: Path) -> None:
    each = exchange()
    with Door(kind, tmp_path) as store:
        store.add([each], [JournalPosition("a", 0, 1)])
        store.add_gap(Gap(1, 2, 3, "x"))
        sequence = store.last_sequence()
    with Door(kind, tmp_path) as store:
        assert store.get(each.id) == each
        assert store.positions() == {"a": JournalPosition("a", 0, 1)}
        assert store.last_sequence() == sequence
        store.add([exchange()])
        assert store.last_sequence() > sequence


def test_a_closed_store_says_so(kind: str, tmp_path: Path) -> None:
    store = Door(kind, tmp_path)
    store.run(store.store.aclose())
    with pytest.raises(StoreUnavailable):
        store.list(Query())
    store.close()


# Finding.

MODELS = ["gemini-2.5-flash", "gemini-2.5-pro", "gpt-5", None]
WORDS = ["alpha", "beta", "gamma", "delta"]
AGENTS = ["google-genai-sdk/1.2 gl-python/3.11", "GeminiCLI/0.9", "Geminicli-fork", None]
CONVERSATIONS = [exchange_id(NOW_NS + n) for n in range(3)]


def varied(rng: random.Random, count: int) -> list[Exchange]:
    """Exchanges that differ in everything a query asks for, with ties in time."""
    return [_varied(rng, NOW_NS + rng.randrange(-40, 40) * HOUR_NS // 8) for _ in range(count)]


def _varied(rng: random.Random, started_ns: int) -> Exchange:
    said = " ".join(rng.sample(WORDS, rng.randint(0, 3)))
    asked = " ".join(rng.sample(WORDS, rng.randint(0, 2))) + f" unique{rng.randrange(10**9)}"
    answer = response(sse(said), status=rng.choice([200, 200, 404, 429, 500]))
    kind = rng.choice(list(FailureKind))
    outcome = rng.choice(
        [answer, answer, answer, Failure(kind, "", rng.choice([None, 504])), Failure(kind, "", None, answer)]
    )
    model = rng.choice(MODELS)
    return exchange(
        started_ns=started_ns,
        outcome=outcome,
        asked=asked,
        response_text=said,
        model=model,
        model_version=rng.choice([model, "gemini-2.5-flash-002", None]),
        operation=rng.choice(["generate_content", "count_tokens"]),
        provider=rng.choice(["gemini", "openai"]),
        method=rng.choice(["POST", "POST", "GET"]),
        user_agent=rng.choice(AGENTS),
        credential=rng.choice(["fp:1", "fp:2", None]),
        conversation=rng.choice([*CONVERSATIONS, None]),
        usage=rng.choice([None, Usage(rng.randrange(99), None, rng.randrange(99), 3, None, rng.randrange(99))]),
        price=rng.choice([None, Price(1, 2, rng.randrange(10**6))]),
        timing=Timing(1, 2, 3, rng.choice([None, rng.randrange(10**6)]), rng.choice([None, rng.randrange(10**8)])),
        cache=rng.choice([None, _use(rng)]),
    )


def _use(rng: random.Random) -> CacheUse:
    use = CacheUse(rng.choice(list(Verdict)), detail="because")
    if not use.served:
        return use
    return replace(use, saved_nanousd=rng.choice([None, rng.randrange(10**6)]), saved_us=rng.randrange(10**6))


def holds(words: str, text: str) -> bool:
    return set(words.lower().split()) <= set(text.lower().split())


def passes(each: Exchange, query: Query) -> bool:
    """The meaning of a query, said again."""
    checks = [
        query.model is None or any(_model(query.model, m) for m in (each.model, each.model_version)),
        query.operation is None or each.operation == query.operation,
        query.provider is None or each.provider == query.provider,
        query.method is None or each.method == query.method,
        query.status is None or each.status == query.status,
        query.status_class is None or (each.status is not None and each.status // 100 == query.status_class),
        query.errors is None or each.is_error == query.errors,
        query.failure is None or (each.failure is not None and each.failure.kind == query.failure),
        query.since_ns is None or each.started_ns >= query.since_ns,
        query.until_ns is None or each.started_ns < query.until_ns,
        query.conversation is None or each.conversation == query.conversation,
        query.credential is None or each.credential == query.credential,
        query.verdict is None or (each.cache is not None and each.cache.verdict == query.verdict),
        query.client is None or (each.user_agent or "").lower().startswith(query.client.lower()),
        query.contains is None
        or any(holds(query.contains, text) for text in [each.response_text, *(p.text for p in each.request_pieces)]),
    ]
    return all(checks)


def _model(wanted: str, model: str | None) -> bool:
    if model is None:
        return False
    return model.startswith(wanted[:-1]) if wanted.endswith("*") else model == wanted


times = st.integers(-42, 42).map(lambda eighth: NOW_NS + eighth * HOUR_NS // 8)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(
        ["gemini-2.5-flash", "gemini-2.5-pro", "gemini*", "gpt-5", "*", "gemini", "gemini-2.5-flash-002"]
    ),
    "operation": st.sampled_from(["generate_content", "count_tokens", "other"]),
    "provider": st.sampled_from(["gemini", "openai"]),
    "status": st.sampled_from([200, 404, 504]),
    "status_class": st.sampled_from([2, 4, 5]),
    "errors": st.booleans(),
    "failure": st.sampled_from(FailureKind),
    "since_ns": times,
    "until_ns": times,
    "conversation": st.sampled_from(CONVERSATIONS),
    "contains": st.sampled_from([*WORDS, "alpha beta", "ALPHA", "nowhere"]),
    "credential": st.sampled_from(["fp:1", "fp:2", "fp:3"]),
    "client": st.sampled_from(["google", "GEMINICLI", "geminicli/", "x", "%", "_"]),
    "method": st.sampled_from(["GET", "POST", "PUT"]),
    "verdict": st.sampled_from(Verdict),
}
single_queries = st.one_of([st.builds(Query, **{name: values}) for name, values in FIELDS.items()])
any_queries = st.fixed_dictionaries({}, optional=FIELDS).map(lambda fields: Query(**fields))


POPULATION = varied(random.Random(5), 150)


@pytest.fixture(params=COMMON_KINDS, scope="module")
def populated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with Door(str(request.param), tmp_path_factory.mktemp("populated")) as door:
        for start in range(0, len(POPULATION), 40):
            door.add(POPULATION[start : start + 40])
        yield door


def expected(population: Sequence[Exchange], query: Query) -> list[UUID]:
    """What a list must show, in order: by start, or by arrival for words; of equals the later arrived first."""
    arrived = [each for each in reversed(population) if passes(each, query)]
    return ids(arrived if query.contains is not None else sorted(arrived, key=lambda each: -each.started_ns))


@settings(max_examples=80, deadline=None)
@given(query=single_queries | any_queries, limit=st.sampled_from([1, 7, 50, 500]))
def test_lists_show_what_the_query_means(populated: Door, query: Query, limit: int) -> None:
    assert ids(everything(populated, query, limit)) == expected(POPULATION, query)


@settings(max_examples=60, deadline=None)
@given(query=single_queries | any_queries, skip=st.integers(0, 150))
def test_following_shows_what_the_query_means(populated: Door, query: Query, skip: int) -> None:
    arrived = populated.after(0, Query())
    assert ids(arrived) == ids(POPULATION)
    sequence = arrived[skip - 1].sequence if skip else 0
    assert ids(populated.after(sequence, query)) == ids(each for each in POPULATION[skip:] if passes(each, query))
    assert (
        ids(populated.after(sequence, query, limit=3))
        == ids(each for each in POPULATION[skip:] if passes(each, query))[:3]
    )


def test_last_sequence_is_the_newest_arrivals(populated: Door) -> None:
    assert populated.last_sequence() == populated.after(0, Query())[-1].sequence


def test_a_summary_says_what_the_exchange_says(populated: Door) -> None:
    shown = {item.id: item for item in everything(populated)}
    for each in POPULATION:
        item, usage, answer = shown[each.id], each.usage or Usage(), each.response
        assert (item.started_ns, item.provider, item.operation, item.method, item.target) == (
            each.started_ns, each.provider, each.operation, each.method, each.target,
        )  # fmt: skip
        assert (item.model, item.model_version, item.status) == (each.model, each.model_version, each.status)
        assert item.failure == (each.failure.kind if each.failure else None)
        assert (item.finish_reason, item.stream_shape) == (each.finish_reason, each.stream_shape)
        assert (item.client_address, item.user_agent, item.credential) == (
            each.client_address, each.user_agent, each.credential,
        )  # fmt: skip
        assert item.request_bytes == each.request_body.size
        assert item.response_bytes == (answer.body.size if answer else 0)
        assert item.chunk_count == (len(answer.chunks) if answer else 0)
        assert (item.ttfb_us, item.ttft_us, item.duration_us) == (
            each.timing.first_byte_us, each.timing.first_content_us, each.timing.last_byte_us,
        )  # fmt: skip
        assert (item.input_tokens, item.cached_tokens, item.output_tokens) == (
            usage.input_tokens, usage.cached_tokens, usage.output_tokens,
        )  # fmt: skip
        assert (item.thoughts_tokens, item.total_tokens) == (usage.thoughts_tokens, usage.total_tokens)
        assert item.price_nanousd == (each.price.total_nanousd if each.price else None)
        assert (item.conversation, item.parent) == (each.conversation, each.parent)
        assert item.verdict == (each.cache.verdict if each.cache else None)
        assert item.saved_nanousd == (each.cache.saved_nanousd if each.cache else None)
        asked = [piece.text for piece in each.request_pieces if piece.text][-1]
        assert item.preview == (each.response_text or asked)[:200]


@pytest.mark.parametrize("said", ["é" * 150 + "x" * 100, "𝄞" * 300, "short", ""])
def test_a_preview_is_the_first_200_characters(store: Door, said: str) -> None:
    store.add([exchange(outcome=response(sse(said)), response_text=said, asked="q" * 300)])
    assert store.list(Query()).items[0].preview == (said or "q" * 300)[:200]


@pytest.mark.parametrize(
    "query", [Query(), Query(model="gemini*"), Query(contains="alpha"), Query(conversation=CONVERSATIONS[0])]
)
def test_paging_is_stable_while_exchanges_come_in(store: Door, query: Query) -> None:
    rng = random.Random(8)
    first = varied(rng, 60)
    store.add(first)
    whole = ids(everything(store, query))
    seen: list[UUID] = []
    cursor = None
    while True:
        page = store.list(query, limit=4, cursor=cursor)
        seen += ids(page.items)
        store.add([replace(each, started_ns=NOW_NS + DAY_NS) for each in varied(rng, 3)])
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == whole


def test_exchanges_of_one_instant_page_without_loss(store: Door) -> None:
    same = [exchange(started_ns=NOW_NS) for _ in range(10)]
    store.add(same)
    assert sorted(ids(everything(store, limit=3))) == sorted(ids(same))


@pytest.mark.parametrize(
    "cursor", ["", "x", "t", "t.1", "t.1.2.3", "t.g.h", "m.zz", "m", "€", "t.1." + "f" * 17, "m." + "f" * 17, "t.-1.1"]
)
@pytest.mark.parametrize("query", [Query(), Query(contains="alpha")])
def test_a_wrong_cursor_is_refused(store: Door, cursor: str, query: Query) -> None:
    with pytest.raises(ValueError):
        store.list(query, cursor=cursor)


def test_what_is_stored_is_known(store: Door) -> None:
    stored, other = [exchange() for _ in range(3)], exchange()
    store.add(stored)
    assert store.known([*(each.id for each in stored), other.id]) == {each.id for each in stored}
    assert store.known([other.id]) == store.known([]) == frozenset()


def test_ids_are_found_by_their_start_or_end(store: Door) -> None:
    one, two = UUID("01920000-0000-7000-8000-0000000000ab"), UUID("01920000-0000-7000-8000-0000000010cd")
    store.add([exchange(id=one), exchange(id=two)])
    assert store.resolve(str(one)) == one
    assert store.resolve(two.hex.upper()) == two
    assert store.resolve("ab") == one
    assert store.resolve("0cd") == two
    assert store.resolve("10CD") == two
    for wrong in ("0192", "01920000-0000", "ffff", "", "xyz", "%", "0" * 33):
        with pytest.raises(NotFound):
            store.resolve(wrong)


# Threads.


def test_the_newest_exchange_with_a_chain_is_found(store: Door) -> None:
    contents = [content(str(n)) for n in range(30)]
    chain = chain_of(contents)
    old = exchange(chain=chain[:20], credential="fp:1", conversation=CONVERSATIONS[0], started_ns=NOW_NS)
    retry = exchange(chain=chain[:20], credential="fp:1", conversation=CONVERSATIONS[1], started_ns=NOW_NS + 5)
    late = exchange(chain=chain[:20], credential="fp:1", conversation=CONVERSATIONS[2], started_ns=NOW_NS - 5)
    other = exchange(chain=chain[:20], credential="fp:2", conversation=CONVERSATIONS[2], started_ns=NOW_NS + 9)
    nobody = exchange(chain=chain[:10], credential=None, conversation=None)
    store.add([old, retry, late, other, nobody])
    assert store.find_chain_tips(chain, "fp:1") == {chain[19]: ChainMatch(retry.id, CONVERSATIONS[1])}
    assert store.find_chain_tips([chain[19]], "fp:2") == {chain[19]: ChainMatch(other.id, CONVERSATIONS[2])}
    assert store.find_chain_tips(chain, "") == {chain[9]: ChainMatch(nobody.id, nobody.id)}
    assert store.find_chain_tips([], "fp:1") == {}


def test_an_answers_id_finds_its_exchange(store: Door) -> None:
    each = exchange(response_id="resp_1", conversation=CONVERSATIONS[0])
    store.add([each, exchange(response_id="resp_2"), exchange(response_id="")])
    assert store.find_response_id("resp_1") == ChainMatch(each.id, CONVERSATIONS[0])
    assert store.find_response_id("resp_") is None
    assert store.find_response_id("") is None


# Searching.


def test_search_finds_asked_and_said(store: Door) -> None:
    asked, said = exchange(asked="Tell me about quokkas"), exchange(answer="A wombat, Sir.")
    aside = exchange(request_text="numbat in the instructions")
    store.add([asked, said, aside])
    assert ids(hit.summary for hit in store.search("quokkas", Query())) == [asked.id]
    assert ids(hit.summary for hit in store.search("WOMBAT", Query())) == [said.id]
    assert ids(hit.summary for hit in store.search("numbat", Query())) == [aside.id]
    assert store.search("platypus", Query()) == ()


def test_all_words_must_be_in_one_text(store: Door) -> None:
    both = exchange(asked="red green blue", answer="yellow")
    store.add([both, exchange(asked="red", answer="green")])
    assert ids(hit.summary for hit in store.search("blue red", Query())) == [both.id]
    assert store.search("red yellow", Query()) == ()


def test_the_last_word_may_be_begun_only(store: Door) -> None:
    each = exchange(asked="international affairs")
    store.add([each])
    assert ids(hit.summary for hit in store.search("affairs inter", Query())) == [each.id]
    assert store.search("inter affairs", Query()) == ()
    assert store.list(Query(contains="inter")).items == ()


def test_a_snippet_marks_the_match(store: Door) -> None:
    store.add([exchange(asked="lead " * 60 + "the Größe of it" + " trail" * 60), exchange(answer="Größe first")])
    said, asked = (hit.snippet for hit in store.search("größe", Query()))
    assert said.startswith("\x02Größe\x03 first")
    assert "lead the \x02Größe\x03 of it trail" in asked
    assert len(asked) < 300


def test_search_is_newest_first_and_filtered(store: Door) -> None:
    many = [exchange(asked=f"needle number {n}", model="a" if n % 2 else "b") for n in range(20)]
    store.add(many)
    assert ids(hit.summary for hit in store.search("needle", Query(), limit=3)) == ids(reversed(many[-3:]))
    assert ids(hit.summary for hit in store.search("needle", Query(model="a"))) == ids(reversed(many[1::2]))
    assert ids(hit.summary for hit in store.search("needle", Query(contains="seven"))) == []


def test_a_part_counts_for_the_exchange_that_brought_it_in(store: Door) -> None:
    session = list(agent_session(6))
    store.add(session)
    begun_with = next(piece.text for piece in session[0].request_pieces if piece.digest)[:80]
    assert ids(hit.summary for hit in store.search(begun_with, Query())) == [session[0].id]


HOSTILE = [
    '"', '""', '" OR "', "a AND b", "NOT", "NEAR(a b)", "text:alpha", "alpha*", "^alpha", "(", ")", "-alpha", "+",
    "{a b}", "'; DROP TABLE exchanges; --", "\0", "alpha\0beta", "*", "%", "alpha\n", "𝄞", "\ud800",
    "$where", "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("typed", HOSTILE)
def test_what_users_type_is_never_query_language(populated: Door, typed: str) -> None:
    populated.search(typed, Query())
    populated.list(Query(contains=typed))
    populated.after(0, Query(contains=typed))
    populated.stats(Query(contains=typed))
    assert len(everything(populated)) == 150


@settings(max_examples=50, deadline=None)
@given(typed=st.text(max_size=40))
def test_any_text_can_be_searched_for(populated: Door, typed: str) -> None:
    for hit in populated.search(typed, Query(), limit=3):
        assert hit.snippet.count("\x02") <= 1


def test_query_language_is_looked_up_as_words(store: Door) -> None:
    each = exchange(asked="this AND that", answer="x")
    store.add([each, exchange(asked="this that")])
    assert ids(hit.summary for hit in store.search("this AND that", Query())) == [each.id]


@FEW
@given(
    words=st.lists(
        st.text("abcdefghijklmnopqrstuvwxyzäßñжд0123456789", min_size=2, max_size=12), min_size=1, max_size=6
    )
)
def test_every_word_of_a_text_finds_it(lasting: Door, words: list[str]) -> None:
    each = exchange(answer=" ".join(words))
    lasting.add([each])
    for word in words:
        assert each.id in ids(hit.summary for hit in lasting.search(word, Query(), limit=500))


# Statistics.


def rank(values: Sequence[int], share: float) -> int | None:
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


def close(found: int | None, wanted: int | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return abs(found - wanted) <= 1 + 0.05 * wanted


GROUPS: dict[StatsGroup, Callable[[Exchange], str]] = {
    "model": lambda each: each.model or each.model_version or "",
    "day": lambda each: datetime.fromtimestamp(each.started_ns // 10**9, UTC).strftime("%Y-%m-%d"),
    "hour": lambda each: datetime.fromtimestamp(each.started_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:00Z"),
    "client": lambda each: (each.user_agent or "").split("/")[0],
    "operation": lambda each: each.operation,
    "status": lambda each: "" if each.status is None else str(each.status),
    "credential": lambda each: each.credential or "",
}


def check_stats(store: Door, population: Sequence[Exchange], query: Query, group: StatsGroup | None) -> None:
    chosen = [each for each in population if passes(each, query)]
    key = GROUPS[group] if group is not None else lambda each: ""
    groups = {
        value: [each for each in chosen if key(each) == value]
        for value in ({""} if group is None else set(map(key, chosen)))
    }
    rows = store.stats(query, group=group)
    order = (lambda row: row.key) if group in ("day", "hour") else lambda row: (-row.exchanges, row.key)
    assert list(rows) == sorted(rows, key=order)
    assert {row.key for row in rows} == set(groups)
    for row in rows:
        members = groups[row.key]
        usages = [each.usage or Usage() for each in members]
        prices = [each.price.total_nanousd for each in members if each.price]
        durations = [each.timing.last_byte_us for each in members if each.timing.last_byte_us is not None]
        ttfts = [each.timing.first_content_us for each in members if each.timing.first_content_us is not None]
        assert (row.exchanges, row.errors) == (len(members), sum(each.is_error for each in members))
        assert row.input_tokens == sum(usage.input_tokens or 0 for usage in usages)
        assert row.cached_tokens == sum(usage.cached_tokens or 0 for usage in usages)
        assert row.output_tokens == sum(usage.output_tokens or 0 for usage in usages)
        assert row.thoughts_tokens == sum(usage.thoughts_tokens or 0 for usage in usages)
        assert row.total_tokens == sum(usage.total_tokens or 0 for usage in usages)
        assert (row.priced, row.total_nanousd) == (len(prices), sum(prices))
        assert row.request_bytes == sum(each.request_body.size for each in members)
        assert row.response_bytes == sum(each.response.body.size for each in members if each.response)
        served = [each.cache for each in members if each.cache and each.cache.served]
        assert row.cache_hits == len(served)
        assert row.saved_nanousd == sum(use.saved_nanousd or 0 for use in served)
        assert row.saved_us == sum(use.saved_us or 0 for use in served)
        for share in (50, 95, 99):
            assert close(getattr(row, f"duration_us_p{share}"), rank(durations, share / 100))
            assert close(getattr(row, f"ttft_us_p{share}"), rank(ttfts, share / 100))


@settings(max_examples=80, deadline=None)
@given(query=single_queries | any_queries, group=st.none() | st.sampled_from(sorted(GROUPS)))
def test_statistics_are_right(populated: Door, query: Query, group: StatsGroup | None) -> None:
    check_stats(populated, POPULATION, query, group)


@pytest.mark.parametrize("group", [None, *GROUPS])
def test_statistics_over_days_with_ends_inside_an_hour(store: Door, group: StatsGroup | None) -> None:
    rng = random.Random(3)
    spread = [replace(each, started_ns=NOW_NS + rng.randrange(45 * DAY_NS)) for each in varied(rng, 300)]
    store.add(spread)
    query = Query(since_ns=NOW_NS + HOUR_NS // 3, until_ns=NOW_NS + 44 * DAY_NS + HOUR_NS * 7 // 5)
    check_stats(store, spread, query, group)
    check_stats(store, spread, replace(query, model="gemini*", errors=False), group)


def test_statistics_add_up_over_many_batches(store: Door) -> None:
    rng = random.Random(9)
    same = [replace(each, started_ns=NOW_NS, model="m", timing=Timing(last_byte_us=1000)) for each in varied(rng, 200)]
    for start in range(0, 200, 7):
        store.add(same[start : start + 7])
    check_stats(store, same, Query(), None)
    check_stats(store, same, Query(model="m"), "model")


# Pruning.


def test_prune_deletes_what_is_older(store: Door) -> None:
    old, edge, new = (exchange(started_ns=NOW_NS + n, asked=f"word{n}") for n in (-1, 0, 1))
    store.add([old, edge, new])
    result = store.prune(older_than_ns=NOW_NS)
    assert result.exchanges == 1
    assert ids(everything(store)) == [new.id, edge.id]
    with pytest.raises(NotFound):
        store.get(old.id)
    assert store.search("word-1", Query()) == () or store.search("word", Query(), limit=9)[0].summary.id == new.id
    assert store.get(edge.id) == edge
    assert store.prune(older_than_ns=NOW_NS).exchanges == 0
    assert store.size().exchanges == 2
    assert store.size().body_bytes == sum(
        e.request_body.size + (e.response.body.size if e.response else 0) for e in (edge, new)
    )


def test_a_shared_part_goes_with_its_last_user(store: Door) -> None:
    shared = content("sharedword")
    users = [
        exchange(started_ns=NOW_NS + n, request_pieces=request_pieces([shared, content(f"own{n}x")])) for n in range(3)
    ]
    store.add(users)
    for gone in (1, 2):
        assert store.prune(older_than_ns=NOW_NS + gone).exchanges == 1
        assert [store.get(each.id) for each in users[gone:]] == users[gone:]
        assert ids(hit.summary for hit in store.search("sharedword", Query())) == [users[gone].id]
        assert store.search(f"own{gone - 1}x", Query()) == ()
    assert store.prune(older_than_ns=NOW_NS + 3).parts >= 2
    assert store.size().parts == 0
    assert store.search("sharedword", Query()) == ()


def test_an_heir_is_listed_once_however_it_matches(store: Door) -> None:
    shared, other = content("needle one"), content("needle two")
    first = exchange(started_ns=NOW_NS, request_pieces=request_pieces([shared, other]), answer="x")
    middle = exchange(started_ns=NOW_NS + 2, asked="needle in between")
    heir = exchange(
        started_ns=NOW_NS + 1, request_pieces=request_pieces([shared, other, content("new")]), answer="a needle"
    )
    plain = exchange(started_ns=NOW_NS + 3, request_pieces=request_pieces([shared, other]), answer="y")
    store.add([first, middle, heir, plain])
    store.prune(older_than_ns=NOW_NS + 1)
    for limit in (1, 2, 50):
        assert ids(everything(store, Query(contains="needle"), limit)) == [heir.id, middle.id]
    store.prune(older_than_ns=NOW_NS + 2)
    for limit in (1, 2, 50):
        assert sorted(ids(everything(store, Query(contains="needle"), limit))) == sorted([plain.id, middle.id])


def test_prune_keeps_what_was_spent(store: Door) -> None:
    rng = random.Random(4)
    spread = [replace(each, started_ns=NOW_NS + rng.randrange(3 * DAY_NS)) for each in varied(rng, 60)]
    store.add(spread)
    store.prune(older_than_ns=NOW_NS + 2 * DAY_NS)
    for group in (None, "model", "day", "hour"):
        check_stats(store, spread, Query(), group)
        check_stats(store, spread, Query(errors=True, since_ns=NOW_NS + HOUR_NS), group)


def test_prune_of_everything_leaves_a_working_store(store: Door) -> None:
    session = list(agent_session(10))
    store.add(session, [JournalPosition("a", 0, 1)])
    before = store.last_sequence()
    result = store.prune(older_than_ns=NOW_NS + DAY_NS)
    assert (result.exchanges, store.size().exchanges, store.size().parts) == (10, 0, 0)
    assert store.find_chain_tips(session[-1].chain, session[-1].credential) == {}
    assert store.positions() == {"a": JournalPosition("a", 0, 1)}
    store.add(session)
    assert [store.get(each.id) for each in session] == session
    assert store.after(before, Query())[0].id == session[0].id


@pytest.mark.parametrize("seed", range(8))
def test_prune_and_add_in_turn_lose_nothing(store: Door, seed: int) -> None:
    rng = random.Random(seed)
    shared = [content(f"shared {n}") for n in range(6)]
    start = NOW_NS
    kept: list[Exchange] = []
    for cut in rng.choices(range(31), k=4):
        fresh = [
            exchange(
                started_ns=start + rng.randrange(31),
                request_pieces=request_pieces(rng.sample(shared, rng.randint(1, 6))),
            )
            for _ in range(6)
        ]
        store.add(fresh)
        store.prune(older_than_ns=start + cut)
        kept = [each for each in kept + fresh if each.started_ns >= start + cut]
        for each in kept:
            assert store.get(each.id) == each
    assert store.size().exchanges == len(kept)
    store.prune(older_than_ns=start + 31)
    assert (store.size().exchanges, store.size().parts) == (0, 0)


# Side by side.


def test_a_reader_beside_the_writer_sees_whole_batches(kind: str, tmp_path: Path) -> None:
    with Door(kind, tmp_path) as writer:
        writer.add([exchange()])
        with Door(kind, tmp_path, read_only=True) as reader:
            for batch in range(20):
                writer.add([exchange(model=f"m{batch}") for _ in range(5)])
                assert len(everything(reader)) == reader.stats(Query())[0].exchanges == 6 + 5 * batch
                assert len(reader.list(Query(model=f"m{batch}")).items) == 5


def test_readers_and_writer_at_once(kind: str, tmp_path: Path) -> None:
    """Each reading sees a state between two batches, and nobody is turned away."""
    import asyncio

    async def run() -> None:
        writer, reader = KINDS[kind](tmp_path), KINDS[kind](tmp_path)
        await writer.open()
        await reader.open(read_only=True)
        done = asyncio.Event()

        async def write() -> None:
            for _ in range(30):
                await writer.add([exchange(answer="countme") for _ in range(7)])
            await writer.prune(older_than_ns=NOW_NS)
            done.set()

        async def read() -> int:
            rounds = 0
            while not done.is_set() or not rounds:
                listed = await reader.list(Query(), limit=500)
                assert len(listed.items) % 7 == 0
                assert (await reader.stats(Query()))[0].exchanges % 7 == 0
                assert len(await reader.search("countme", Query(), limit=500)) % 7 == 0
                rounds += 1
            return rounds

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            readers = [group.create_task(read()) for _ in range(3)]
        assert all(task.result() > 0 for task in readers)
        assert (await reader.size()).exchanges == 210
        await reader.aclose()
        await writer.aclose()

    asyncio.run(run())


def test_a_read_only_store_refuses_to_write(kind: str, tmp_path: Path) -> None:
    with Door(kind, tmp_path) as writer:
        writer.add([exchange()])
        with Door(kind, tmp_path, read_only=True) as reader:
            for work in (
                lambda: reader.add([exchange()]),
                lambda: reader.prune(older_than_ns=NOW_NS + 1),
                lambda: reader.forget_journal("a"),
                lambda: reader.add_gap(Gap(1, 1, 1, "")),
            ):
                with pytest.raises(StoreUnavailable):
                    work()


def test_parts_that_another_writer_pruned_are_made_again(kind: str, tmp_path: Path) -> None:
    shared = content("a part that the first writer remembers")
    with Door(kind, tmp_path) as recorder, Door(kind, tmp_path) as pruner:
        recorder.add([exchange(started_ns=NOW_NS - 1, request_pieces=request_pieces([shared]))])
        pruner.prune(older_than_ns=NOW_NS)
        again = exchange(request_pieces=request_pieces([shared]))
        recorder.add([again])
        assert recorder.get(again.id) == again


ADDING = """
import asyncio, itertools, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from factories import exchange
from kinds import KINDS
from gemini_caching_proxy.stores.base import JournalPosition

async def main():
    store = KINDS[sys.argv[1]](Path(sys.argv[2]))
    await store.open()
    for batch in itertools.count():
        added = [exchange(asked=f"batch {batch} item {item}", response_id=f"{batch}.{item}") for item in range(8)]
        await store.add(added, [JournalPosition("journal", 0, batch + 1)])
        print(batch + 1, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("batches", [1, 5, 12])
def test_a_kill_in_the_middle_leaves_rows_and_positions_in_step(kind: str, tmp_path: Path, batches: int) -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", ADDING, kind, str(tmp_path), str(tests), str(tests / "stores")]
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = [int(line) for line in itertools.islice(process.stdout, batches)]
            os.kill(process.pid, signal.SIGKILL)
            told += [int(line) for line in process.stdout if line.endswith("\n")]
        with Door(kind, tmp_path) as store:
            noted = store.positions()["journal"].offset
            assert noted >= max(told)
            present = [store.find_response_id(f"{noted - 1}.{item}") for item in range(8)]
            assert all(present)
            assert store.find_response_id(f"{max(noted, 10**6)}.0") is None
            assert store.size().exchanges % 8 == 0
            assert store.stats(Query())[0].exchanges == len(everything(store)) == store.size().exchanges
            for match in present:
                assert store.get(match.exchange).response_text
