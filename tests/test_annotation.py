"""What clients are told and what is recorded, in one value."""

from __future__ import annotations

from uuid import UUID

from gemini_caching_proxy import annotation
from gemini_caching_proxy.exchange import Verdict
from inflight import exchange_of, recorded_answer

KEY = b"k" * 16
TEXT = b'key="k1:' + KEY.hex().encode() + b'"'


def test_a_hit() -> None:
    answer = recorded_answer(KEY, b"{}")
    note = annotation.hit(answer, date=b"now", age_s=5, ttl_s=95)
    source = b"X-Source-Exchange-Id: " + str(exchange_of(answer)).encode()
    assert note.line.splitlines() == [
        b"Date: now", b"Age: 5", source, b"Cache-Status: gemini-proxy; hit; ttl=95; " + TEXT
    ]  # fmt: skip
    assert (note.verdict, note.source, note.source_us) == (Verdict.HIT, answer.exchange, answer.duration_us)
    error = annotation.hit(recorded_answer(KEY, b"{}", kind="error"), date=b"now", age_s=5, ttl_s=None)
    assert error.line.endswith(TEXT + b'; detail="a recorded error"\r\n')


def test_what_is_kept_is_said_to_be_only_if_it_is() -> None:
    for note in (annotation.miss(Verdict.MISS, KEY, 60), annotation.refetch(KEY, 60)):
        assert b"stored; ttl=60" in note.stored_line
        assert b"stored" not in note.line
    for note in (annotation.miss(Verdict.STALE, KEY, None), annotation.refetch(KEY, None)):
        assert b"stored" not in note.stored_line


def test_a_follower_names_whose_answer_it_got() -> None:
    source = UUID(int=7)
    note = annotation.collapsed(KEY, 60, source.bytes)
    assert note.line == b"X-Source-Exchange-Id: %b\r\nCache-Status: gemini-proxy; fwd=miss; collapsed; %b\r\n" % (
        str(source).encode(), TEXT,
    )  # fmt: skip
    assert annotation.collapsed(KEY, 60, b"").source is None


def test_what_is_not_forwarded_has_no_reason_why_it_was() -> None:
    assert b"fwd=bypass" in annotation.bypass("never").line
    assert b"fwd" not in annotation.bypass("never", unserved=True).line
    assert b"fwd" not in annotation.nothing_recorded(Verdict.MISS, KEY, "nothing").line
