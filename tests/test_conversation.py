from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from fakes import LinesProvider, MemoryData, MemoryStore, exchange_records
from gemini_caching_proxy.assembly import assemble
from gemini_caching_proxy.conversation import Found, Threads, Turn, chain_of
from gemini_caching_proxy.decoding import understand
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.persistence import ask

PROVIDERS = {"lines": LinesProvider()}


def turn(*lines: str, at: int = 0, answer: str = "", lasts: int = 5, **over: object) -> Turn:
    """A request of these lines, `at` ms after the start of time."""
    request = "".join(f"{line}\n" for line in lines).encode()
    records = exchange_records(request, [answer.encode()], at_ms=at, lasts_ms=lasts, **over)  # type: ignore[arg-type]
    return understand(assemble(records, 1 << 20), PROVIDERS)


def placed(turns: Sequence[Turn], threads: Threads | None = None) -> list[Exchange]:
    return (threads or Threads()).place(turns, Found())


def test_turns_that_extend_one_another_are_one_conversation() -> None:
    one, two, three = placed([turn("a"), turn("a", "A", "b", at=10), turn("a", "A", "b", "B", "c", at=20)])
    assert (one.conversation, one.parent) == (one.id, None)
    assert (two.conversation, two.parent) == (one.id, one.id)
    assert (three.conversation, three.parent) == (one.id, two.id)


def test_forks_share_the_conversation_and_the_parent() -> None:
    one, left, right = placed([turn("a"), turn("a", "A", "b", at=10), turn("a", "A", "other", at=20)])
    assert left.conversation == right.conversation == one.id
    assert left.parent == right.parent == one.id


def test_an_exact_retry_is_a_fork_never_a_child() -> None:
    one, failed, again, after = placed(
        [
            turn("a"),
            turn("a", "A", "b", at=10, status=503),
            turn("a", "A", "b", at=20),
            turn("a", "A", "b", "B", "c", at=30),
        ]
    )
    assert failed.parent == again.parent == one.id
    assert failed.conversation == again.conversation == one.id
    assert after.parent == again.id


def test_a_retry_that_failed_later_is_not_what_the_next_turn_extends() -> None:
    _, good, failed, after = placed(
        [
            turn("a"),
            turn("a", "A", "b", at=10),
            turn("a", "A", "b", at=20, status=429),
            turn("a", "A", "b", "B", "c", at=30),
        ]
    )
    assert after.parent == good.id
    assert failed.conversation == after.conversation


def test_identical_first_turns_are_conversations_of_their_own() -> None:
    one, two = placed([turn("same"), turn("same", at=10)])
    assert one.conversation == one.id
    assert two.conversation == two.id


def test_twins_are_told_apart_by_the_answer_that_is_quoted() -> None:
    turns = [turn("same", at=number, answer=f"answer {number}\n") for number in range(5)]
    follow = [turn("same", f"answer {number}", "next", at=100 + number) for number in range(5)]
    exchanges = placed(turns + follow)
    assert [each.parent for each in exchanges[5:]] == [each.id for each in exchanges[:5]]


def test_a_turn_extends_only_what_had_ended_before_it_began() -> None:
    first = turn("same", at=0)
    child = turn("same", "x", "y", at=10, lasts=500)
    rerun = turn("same", at=100)
    one, two, three = placed([first, rerun, child])
    assert three.parent == one.id
    assert two.parent is None


def test_interleaved_conversations_and_sub_agents_stay_apart() -> None:
    main, sub, main2, sub2, sub3, main3 = placed(
        [
            turn("plan"),
            turn("you are a searcher", "find x", at=10),
            turn("plan", "P", "go", at=20),
            turn("you are a searcher", "find x", "X", "more", at=30),
            turn("you are a searcher", "find x", "X", "more", "Y", "done?", at=40),
            turn("plan", "P", "go", "G", "end", at=50),
        ]
    )
    assert {main.conversation, main2.conversation, main3.conversation} == {main.id}
    assert {sub.conversation, sub2.conversation, sub3.conversation} == {sub.id}
    assert (main3.parent, sub3.parent) == (main2.id, sub2.id)


def test_credentials_never_share_a_conversation() -> None:
    _, two = placed([turn("a"), turn("a", "A", "b", at=10, credential="key-2")])
    assert two.parent is None
    assert two.conversation == two.id


def test_counting_and_embedding_neither_start_nor_join() -> None:
    one, count, embed, two = placed(
        [
            turn("a"),
            turn("a", "A", "b", at=10, operation="count_tokens"),
            turn("a", "A", "b", at=11, operation="batch_embed_contents"),
            turn("a", "A", "b", "B", "c", at=20),
        ]
    )
    assert count.conversation is None
    assert embed.conversation is None
    assert two.parent == one.id


def test_a_named_answer_is_the_parent_even_unseen_parts_apart() -> None:
    threads = Threads()
    one, two, three = placed(
        [
            turn("hi", answer="#id r1\n"),
            turn("#after r1", "more", at=10, answer="#id r2\n"),
            turn("#after r2", "x", at=20),
        ],
        threads,
    )
    assert (two.parent, two.conversation) == (one.id, one.id)
    assert (three.parent, three.conversation) == (two.id, one.id)
    (stranger,) = placed([turn("#after unknown", "more", "and more", at=30)], threads)
    assert stranger.parent is None


def test_a_chain_depends_on_provider_order_and_every_part() -> None:
    parts = [b"a" * 16, b"b" * 16]
    chain = chain_of("gemini", parts)
    assert chain_of("gemini", parts[:1]) == chain[:1]
    assert chain_of("openai", parts)[1] != chain[1]
    assert chain_of("gemini", parts[::-1])[1] != chain[1]
    assert chain_of("gemini", parts, "r1")[0] != chain[0]


def test_the_store_is_asked_only_for_what_memory_does_not_know() -> None:
    threads = Threads()
    long = ["a", *(f"line {number}" for number in range(30))]
    placed([turn(*long)], threads)
    questions = threads.questions([turn(*long, "answer", "next", at=10)])
    assert sum(map(len, questions.tips.values())) == 1
    assert sum(map(len, threads.questions([turn("never", "seen", "before")]).tips.values())) == 2


@given(
    tree=st.lists(st.integers(0, 30), min_size=1, max_size=25),
    cuts=st.sets(st.integers(0, 25), max_size=6),
    capacity=st.sampled_from([1, 2, 1000]),
)
def test_any_tree_of_turns_is_found_whatever_memory_forgets(tree: list[int], cuts: set[int], capacity: int) -> None:
    """Turn i extends turn tree[i] % i; batches are cut anywhere and memory is lost at each cut."""
    lines: list[list[str]] = [["root"]]
    parents: list[int | None] = [None]
    for number, pick in enumerate(tree, start=1):
        parent = pick % number
        lines.append([*lines[parent], f"answer to {parent}", f"turn {number}"])
        parents.append(parent)
    turns = [turn(*each, at=10 * number) for number, each in enumerate(lines)]
    got = asyncio.run(_record(turns, cuts, capacity))
    ids = [each.exchange.id for each in turns]
    assert [got[id].parent for id in ids] == [None if each is None else ids[each] for each in parents]
    assert {each.conversation for each in got.values()} == {ids[0]}


async def _record(turns: list[Turn], cuts: set[int], capacity: int) -> dict[UUID, Exchange]:
    data = MemoryData()
    store = MemoryStore(data)
    threads = Threads(capacity)
    for number, each in enumerate(turns):
        if number in cuts:
            threads.forget()
        found = await ask(store, threads.questions([each]))  # type: ignore[arg-type]
        await store.add(threads.place([each], found))
    return data.exchanges


def test_a_turn_read_again_does_not_become_its_own_parent() -> None:
    again = turn("a", "A", "b", at=10)
    threads = Threads()
    one, two = placed([turn("a"), again], threads)
    (repeated,) = placed([again], threads)
    assert repeated.parent == two.parent == one.id
    named = replace(again, continues="r9", exchange=replace(again.exchange, response_id="r9"))
    (first,) = placed([named], threads)
    (second,) = placed([named], threads)
    assert first.parent != first.id
    assert second.parent != second.id
