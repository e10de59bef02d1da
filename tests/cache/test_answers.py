"""Recorded answers as they are served, and the hot ones in memory."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.cache.answers import HotAnswers, lasting
from gemini_caching_proxy.exchange import StreamShape
from inflight import JSON, recorded_answer

KEY = b"k" * 16
PLAIN = json.dumps({"candidates": [], "text": "plain " * 40}).encode()


def never(body: bytes, have: StreamShape, want: StreamShape) -> tuple[bytes, ...] | None:
    raise AssertionError("not asked for another shape")


def in_two(body: bytes, have: StreamShape, want: StreamShape) -> tuple[bytes, ...] | None:
    return body[:5], body[5:]


def test_as_it_is() -> None:
    answer = recorded_answer(KEY, PLAIN)
    assert answer.variant("unary", lambda coding: False, never) is answer


def test_without_its_coding() -> None:
    coded = gzip.compress(PLAIN)
    answer = recorded_answer(
        KEY, coded, headers=(JSON, (b"Content-Encoding", b"gzip")), coding=("gzip",), chunks=(coded[:20], coded[20:])
    )
    assert answer.variant("unary", lambda coding: coding == "gzip", never) is answer
    plain = answer.variant("unary", lambda coding: False, never)
    assert plain is not None
    assert b"".join(plain.chunks) == PLAIN
    assert plain.headers == (JSON,)
    assert plain.exchange == answer.exchange
    assert answer.variant("unary", lambda coding: False, never) is plain, "made once"


def test_in_another_shape() -> None:
    answer = recorded_answer(KEY, PLAIN, offsets_us=(900,))
    events = answer.variant("sse", lambda coding: True, in_two)
    assert events is not None
    assert events.chunks == (PLAIN[:5], PLAIN[5:])
    assert events.offsets_us == (450, 900)
    assert events.headers == ((b"Content-Type", b"text/event-stream"),)
    assert not events.has_length


def test_what_cannot_be_put_into_another_shape() -> None:
    answer = recorded_answer(KEY, PLAIN)
    assert answer.variant("sse", lambda coding: True, lambda body, have, want: None) is None
    broken = recorded_answer(KEY, b"no gzip", headers=((b"Content-Encoding", b"gzip"),), coding=("gzip",))
    assert broken.variant("unary", lambda coding: False, never) is None


def test_an_error_has_one_shape() -> None:
    answer = recorded_answer(KEY, PLAIN, status=429)
    assert answer.variant("sse", lambda coding: True, never) is answer


def test_fields_of_one_moment_do_not_last() -> None:
    fields = [(b"DATE", b"now"), (b"Server", b"x"), (b"Set-Cookie", b"a"), (b"X-Secret", b"fp_0123"), (b"vary", b"y")]
    assert lasting(fields) == ((b"Server", b"x"), (b"vary", b"y"))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4000)), max_size=40))
def test_memory_is_bounded(puts: list[tuple[int, int]]) -> None:
    hot = HotAnswers(20_000)
    newest: dict[bytes, bytes] = {}
    for number, size in puts:
        answer = recorded_answer(bytes([number]) * 16, b"x" * size)
        hot.put(answer)
        newest[answer.key] = answer.exchange
        assert hot.bytes <= 20_000
    for key, exchange in newest.items():
        found = hot.get(key)
        assert found is None or found.exchange == exchange, "never an older one"
    if puts:
        assert hot.get(answer.key) is answer or answer.size > 5000
    for key in newest:
        hot.drop(key)
    assert (len(hot), hot.bytes) == (0, 0)


def test_the_longest_unused_goes_first() -> None:
    hot = HotAnswers(12_000)
    answers = [recorded_answer(bytes([number]) * 16, b"x" * 1500) for number in range(5)]
    for answer in answers[:4]:
        hot.put(answer)
    assert hot.get(answers[0].key) is answers[0]
    hot.put(answers[4])
    assert hot.get(answers[1].key) is None
    assert hot.get(answers[0].key) is answers[0]


def test_what_has_less_of_a_claim_does_not_take_the_place() -> None:
    new, old, error = (
        recorded_answer(KEY, PLAIN, age_s=5),
        recorded_answer(KEY, PLAIN, age_s=500),
        recorded_answer(KEY, PLAIN, kind="error", status=429),
    )
    pinned = recorded_answer(KEY, PLAIN, pinned=True, age_s=9000)
    for better, *worse in ([new, old, error], [pinned, new, old, error], [old, error]):
        for other in worse:
            for order in ((better, other), (other, better)):
                hot = HotAnswers(100_000)
                for answer in order:
                    hot.put(answer)
                assert hot.get(KEY) is better


@pytest.mark.parametrize("size", [0, 1])
def test_no_memory_at_all(size: int) -> None:
    hot = HotAnswers(size)
    hot.put(recorded_answer(KEY, PLAIN))
    assert hot.get(KEY) is None
