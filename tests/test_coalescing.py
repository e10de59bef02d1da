"""Flights: who calls, who follows, and what happens to each when something goes wrong. No connections, no clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemini_caching_proxy.cache.directives import Directives
from gemini_caching_proxy.caching import Caching
from gemini_caching_proxy.exchange import Verdict
from inflight import Caller, HandLookup, consult, make_answer, make_caching, make_plan, recorded_answer

ONE, TWO = b'{"candidates": [{"content": {"parts": [{"text": "a"}]}', b', "finishReason": "STOP"}]}'


@pytest.fixture
def lookup() -> HandLookup:
    return HandLookup()


@pytest.fixture
def caching(tmp_path: Path, lookup: HandLookup) -> Caching:
    return make_caching(tmp_path, lookup)


def ask(caching: Caching, count: int = 1) -> list[Caller]:
    plan = make_plan(caching)
    return [consult(caching, plan) for _ in range(count)]


def test_one_lookup_and_one_call_for_all(caching: Caching, lookup: HandLookup) -> None:
    crowd = ask(caching, 5)
    assert len(lookup.asked) == 1
    assert all(each.waits for each in crowd)
    lookup.answer()
    assert [each.calls for each in crowd] == [1, 0, 0, 0, 0]
    late = ask(caching, 2)
    assert not lookup.asked
    crowd[0].comes(ONE)
    later = ask(caching)
    assert later[0].body == ONE
    crowd[0].comes(TWO, complete=True)
    for each in [*crowd, *late, *later]:
        assert each.whole
        assert each.body == ONE + TWO
        assert each.flight is None
    assert not caching.flights
    (hit,) = ask(caching)
    assert hit.played is not None
    assert hit.played.exchange == crowd[0].exchange_id
    assert hit.played.chunks == (ONE, TWO)


def test_the_record_serves_all_that_wait(caching: Caching, lookup: HandLookup) -> None:
    crowd = ask(caching, 3)
    key = crowd[0].question.keys[0]
    lookup.entries[key] = recorded_answer(key, make_answer("recorded"))
    lookup.answer()
    assert [each.body for each in crowd] == [make_answer("recorded")] * 3
    assert [each.calls for each in crowd] == [0, 0, 0]
    assert not caching.flights
    (hit,) = ask(caching)
    assert hit.played is not None
    assert not lookup.asked, "it is in memory now"


def test_who_leaves_while_the_record_is_asked(caching: Caching, lookup: HandLookup) -> None:
    first, second = ask(caching, 2)
    first.client_gone()
    lookup.answer()
    assert (first.calls, second.calls) == (0, 1)
    (only,) = ask(caching)
    assert only.waits
    second.comes(ONE + TWO, complete=True)
    assert only.whole


def test_all_leave_while_the_record_is_asked(caching: Caching, lookup: HandLookup) -> None:
    (only,) = ask(caching)
    only.client_gone()
    assert not caching.flights
    (other,) = ask(caching)
    lookup.answer()
    lookup.answer()
    assert (only.calls, other.calls) == (0, 1)


@pytest.mark.parametrize("gone_first", ["caller", "follower"])
def test_the_call_goes_on_until_the_last_is_gone(gone_first: str, caching: Caching, lookup: HandLookup) -> None:
    caller, follower = ask(caching, 2)
    lookup.answer()
    caller.comes(ONE)
    first, last = (caller, follower) if gone_first == "caller" else (follower, caller)
    first.client_gone()
    assert caller.calling
    last.client_gone()
    assert not caller.calling
    assert not caching.flights


def test_a_caller_that_left_can_still_be_joined(caching: Caching, lookup: HandLookup) -> None:
    caller, follower = ask(caching, 2)
    lookup.answer()
    caller.client_gone()
    caller.comes(ONE)
    (late,) = ask(caching)
    follower.client_gone()
    assert caller.calling
    caller.comes(TWO, complete=True)
    assert late.body == ONE + TWO
    (hit,) = ask(caching)
    assert hit.played is not None, "what a call brought is kept, whoever made it"


@pytest.mark.parametrize("how", ["failed", "status"])
def test_a_failure_before_the_answer_is_the_callers_own(how: str, caching: Caching, lookup: HandLookup) -> None:
    caller, *followers = ask(caching, 4)
    lookup.answer()
    if how == "failed":
        caller.breaks()
    else:
        caller.comes(b"no", complete=True, status=503)
    assert [each.calls for each in followers] == [1, 1, 1]
    assert not caching.flights
    for number, each in enumerate(followers):
        assert each.note is not None
        assert each.note.verdict == Verdict.MISS
        each.comes(make_answer(f"own {number}"), complete=True)
        assert each.body == make_answer(f"own {number}")
    (again,) = ask(caching)
    assert again.body == make_answer("own 2"), "what each called for is kept"


def test_an_error_status_that_comes_in_pieces_is_not_shared(caching: Caching, lookup: HandLookup) -> None:
    caller, follower = ask(caching, 2)
    lookup.answer()
    caller.comes(b"n", status=429)
    assert follower.calls == 1
    caller.comes(b"o", complete=True)
    assert caller.body == b"no"
    assert follower.body == b""


def test_a_failure_within_the_answer_is_everybodys(caching: Caching, lookup: HandLookup) -> None:
    caller, follower = ask(caching, 2)
    lookup.answer()
    caller.comes(ONE)
    caller.breaks()
    assert follower.broken is not None
    assert follower.body == ONE
    assert follower.calls == 0
    (again,) = ask(caching)
    assert again.played is None


def test_a_stopped_caller_lets_the_others_go(caching: Caching, lookup: HandLookup) -> None:
    caller, follower = ask(caching, 2)
    lookup.answer()
    assert caller.flight is not None
    caller.flight.stopped(caller)
    assert follower.calls == 1


@pytest.mark.parametrize(
    "directives",
    [Directives(no_cache=True), Directives(no_store=True), Directives(max_age_s=5), Directives(only_if_cached=True)],
)
def test_some_neither_join_nor_are_joined(directives: Directives, caching: Caching, lookup: HandLookup) -> None:
    (caller,) = ask(caching)
    lookup.answer()
    other = consult(caching, make_plan(caching, "all", directives))
    lookup.answer_all()
    assert other.calls == (0 if directives.only_if_cached else 1)
    assert (other.refused is not None) == directives.only_if_cached
    (follower,) = ask(caching)
    assert follower.flight is caller.flight


def test_who_wants_a_recording_and_who_wants_an_answer_do_not_fly_together(
    caching: Caching, lookup: HandLookup
) -> None:
    """Neither is refused for the other's sake, nor called out for."""
    replaying = consult(caching, make_plan(caching, "replay"))
    (calling,) = ask(caching)
    lookup.answer_all()
    assert replaying.refused is not None
    assert calling.calls == 1
    (follower,) = ask(caching)
    again = consult(caching, make_plan(caching, "replay"))
    lookup.answer_all()
    calling.breaks()
    assert again.calls == 0
    assert again.refused is not None
    assert follower.calls == 1
    assert lookup.patient == [True, False, True]


def test_what_is_too_large_is_shared_but_not_held(caching: Caching, lookup: HandLookup) -> None:
    caller, follower = ask(caching, 2)
    lookup.answer()
    pieces = [b"x" * 6000, b"y" * 6000]
    caller.comes(pieces[0])
    caller.comes(pieces[1])
    (late,) = ask(caching)
    lookup.answer()
    assert late.calls == 1, "what is gone cannot be given to who comes late"
    caller.comes(complete=True)
    assert follower.body == b"".join(pieces)
    (again,) = ask(caching)
    assert again.played is None


def test_pressure(caching: Caching, lookup: HandLookup) -> None:
    caller, follower = ask(caching, 2)
    lookup.answer()
    caller.comes(ONE)
    caller.paused = True
    assert caller.flight is not None
    caller.flight.press()
    assert not caller.upstream_paused, "the follower shall not wait for it"
    follower.client_gone()
    assert caller.upstream_paused, "alone again"
    (late,) = ask(caching)
    assert not caller.upstream_paused
    assert late.body == ONE


@pytest.mark.parametrize("unfit", ["redacted", "unrecorded"])
def test_what_cannot_be_recorded_is_not_kept(unfit: str, caching: Caching, lookup: HandLookup) -> None:
    (caller,) = ask(caching)
    lookup.answer()
    caller.redacted = unfit == "redacted"
    caller.exchange_id = b"" if unfit == "unrecorded" else caller.exchange_id
    caller.comes(ONE + TWO, complete=True)
    (again,) = ask(caching)
    assert again.played is None


def test_what_was_looked_up_before_an_eviction_is_not_held(caching: Caching, lookup: HandLookup) -> None:
    (asking,) = ask(caching)
    key = asking.question.keys[0]
    lookup.entries[key] = recorded_answer(key, make_answer("evicted"))
    caching.hot.clear()
    lookup.answer()
    assert asking.played is not None
    assert caching.hot.get(key) is None
