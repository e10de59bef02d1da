"""Cassettes: what goes in comes out, nothing secret goes in, and what is damaged is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories import agent_session, body, exchange, exchange_id, response, sse
from gemini_caching_proxy.cassette import CassetteAnswers, CassetteWriter, read_cassette, write_cassette
from gemini_caching_proxy.cassette.records import COPY, FAILED, INCOMPLETE, REDACTED, TUNNEL
from gemini_caching_proxy.errors import CassetteError
from gemini_caching_proxy.exchange import (
    CacheUse,
    Chunk,
    EntryKind,
    Exchange,
    Failure,
    FailureKind,
    Response,
    Verdict,
)
from stores.strategies import exchanges

CANARY = "canary-c0ffee-5ec2e7"
FINGERPRINT = "fp_00112233aabbccdd"


def written(*them: Exchange) -> bytes:
    file = io.BytesIO()
    with CassetteWriter(file) as writer:
        for one in them:
            writer.add(one)
    assert writer.bytes == len(file.getvalue())
    return file.getvalue()


def read(data: bytes, folder: Path) -> list[Exchange]:
    path = folder / "read.cassette"
    path.write_bytes(data)
    return list(read_cassette(path))


def round_trip(folder: Path, *them: Exchange) -> list[Exchange]:
    return read(written(*them), folder)


def answer_of(one: Exchange) -> Response:
    assert isinstance(one.outcome, Response)
    return one.outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cassettes")


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None, max_examples=60)
@given(st.lists(exchanges(), max_size=5))
def test_what_goes_in_comes_out(folder: Path, them: list[Exchange]) -> None:
    kept = [
        one
        for one in them
        if isinstance(one.outcome, Response)
        and one.stream_shape != "websocket"
        and one.outcome.status != 101
        and all(each.complete and not each.redacted for each in (one.request_body, one.outcome.body))
        and not any(mark in one.outcome.reason for mark in (b"\r", b"\n", b"\0"))
    ]
    found = round_trip(folder, *kept)
    assert len(found) == len(kept)
    for one, again in zip(kept, found, strict=True):
        for name in (
            "id", "started_ns", "provider", "operation", "method", "upstream", "model", "stream_shape", "timing",
            "http_version", "request_chunks",
        ):  # fmt: skip
            assert getattr(again, name) == getattr(one, name), name
        given_, read_ = answer_of(one), answer_of(again)
        assert again.request_body == body(one.request_body.data)
        assert read_.body == body(given_.body.data)
        assert (read_.status, read_.reason) == (given_.status, given_.reason)
        assert sum(chunk.size for chunk in read_.chunks) == len(given_.body.data)
        assert set(again.request_headers) <= set(one.request_headers)
        assert set(read_.headers) <= set(given_.headers)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8))
def test_chunks_keep_their_bounds_and_times(folder: Path, chunks: list[bytes]) -> None:
    one = exchange(outcome=response(chunks))
    (again,) = round_trip(folder, one)
    assert answer_of(again).chunks == answer_of(one).chunks
    assert answer_of(again).body == answer_of(one).body


def test_chunks_that_do_not_add_up_become_one(folder: Path) -> None:
    one = exchange(outcome=replace(response([b"abc"]), chunks=(Chunk(7, 1),)))
    (again,) = round_trip(folder, one)
    assert answer_of(again).chunks == (Chunk(7, 3),)


def test_harmless_headers_stay_and_nothing_of_a_person_or_a_machine(folder: Path) -> None:
    secret = CANARY.encode()
    one = exchange(
        target=f"/v1beta/models/m:generateContent?key={FINGERPRINT}&alt=sse&$fields=candidates",
        credential=CANARY,
        client_address=f"{CANARY}:123",
        request_headers=(
            (b"Host", secret + b".example.com"),
            (b"Content-Type", b"application/json"),
            (b"User-Agent", b"my-agent/1.0"),
            (b"X-Goog-Api-Key", secret),
            (b"Authorization", b"Bearer " + secret),
            (b"Cookie", b"session=" + secret),
            (b"X-Goog-User-Project", secret),
            (b"X-Somebody", secret),
            (b"Via", b"1.1 " + secret),
            (b"X-Forwarded-For", secret),
            (b"X-Forwarded-Host", secret),
            (b"Traceparent", secret),
            (b"Referer", b"https://example.com/?token=" + secret),
            (b"Accept-Language", FINGERPRINT.encode()),
        ),
        outcome=response(
            [b"{}"],
            headers=((b"Content-Type", b"application/json"), (b"Set-Cookie", b"id=" + secret), (b"X-Odd", secret)),
            trailers=((b"X-Odd-Trailer", secret), (b"Server-Timing", b"gfet4t7; dur=1")),
        ),
    )
    (again,) = round_trip(folder, one)
    assert again.request_headers == ((b"Content-Type", b"application/json"), (b"User-Agent", b"my-agent/1.0"))
    assert again.user_agent == "my-agent/1.0"
    assert answer_of(again).headers == ((b"Content-Type", b"application/json"),)
    assert answer_of(again).trailers == ((b"Server-Timing", b"gfet4t7; dur=1"),)
    assert again.target == "/v1beta/models/m:generateContent?alt=sse&$fields=candidates"
    assert (again.credential, again.credential_source, again.client_address) == (None, "none", "")
    assert CANARY not in repr(again)
    assert FINGERPRINT not in repr(again)


def test_a_target_whose_only_parameter_was_a_key_has_none(folder: Path) -> None:
    (again,) = round_trip(folder, exchange(target=f"/v1beta/models?key={FINGERPRINT}"))
    assert again.target == "/v1beta/models"


@pytest.mark.parametrize(
    ("reason", "over"),
    [
        (FAILED, {"outcome": Failure(FailureKind.READ_TIMEOUT)}),
        (FAILED, {"outcome": Failure(FailureKind.INCOMPLETE_RESPONSE, partial=response(sse("Half")))}),
        (INCOMPLETE, {"request_body": body(b"{}", complete=False)}),
        (INCOMPLETE, {"outcome": response([b"{"], body=body(b"{", size=900, complete=False))}),
        (REDACTED, {"request_body": body(b"{}", redacted=True)}),
        (REDACTED, {"outcome": response([b"{}"], body=body(b"{}", redacted=True))}),
        (TUNNEL, {"stream_shape": "websocket", "outcome": response([], status=101)}),
    ],
)
def test_what_cannot_be_answered_with_is_left_out_and_counted(
    folder: Path, reason: str, over: dict[str, object]
) -> None:
    file = io.BytesIO()
    kept = exchange()
    with CassetteWriter(file) as writer:
        assert writer.add(kept)
        assert not writer.add(exchange(**over))
    assert writer.left_out == {reason: 1}
    assert writer.exchanges == 1
    assert [one.id for one in read(file.getvalue(), folder)] == [kept.id]


def test_errors_of_any_status_are_kept(folder: Path) -> None:
    them = [exchange(outcome=response([b"{}"], status=status)) for status in (400, 404, 429, 500, 503)]
    assert [answer_of(one).status for one in round_trip(folder, *them)] == [400, 404, 429, 500, 503]


def test_a_hit_is_left_out_where_its_source_is_in_and_stays_where_not(folder: Path) -> None:
    source = exchange()
    hit = exchange(cache=CacheUse(Verdict.HIT, b"k", source=source.id))
    stranger = exchange(cache=CacheUse(Verdict.HIT, b"k", source=exchange_id()))
    miss = exchange(cache=CacheUse(Verdict.MISS, b"k"))
    file = io.BytesIO()
    with CassetteWriter(file) as writer:
        for one in (source, hit, stranger, miss):
            writer.add(one)
    assert writer.left_out == {COPY: 1}
    found = read(file.getvalue(), folder)
    assert [one.id for one in found] == [source.id, stranger.id, miss.id]
    assert all(one.cache is None for one in found)


def test_the_same_exchanges_make_the_same_bytes() -> None:
    them = list(agent_session(20))
    first = written(*them)
    again = written(*(replace(one, cache=None, usage=None, conversation=None, credential="another") for one in them))
    assert first == again


def test_a_long_session_costs_what_is_new_in_it(folder: Path) -> None:
    them = list(agent_session(200))
    data = written(*them)
    passed = sum(one.request_body.size + answer_of(one).body.size for one in them)
    assert passed > 30_000_000
    assert len(data) < passed * 0.008
    found = read(data, folder)
    assert [one.request_body.data for one in found] == [one.request_body.data for one in them]
    assert [answer_of(one).body.data for one in found] == [answer_of(one).body.data for one in them]


def test_every_cut_and_every_changed_byte_is_noticed(folder: Path) -> None:
    them = [exchange(asked=f"question {number}", answer="x" * number) for number in range(12)]
    data = written(*them)
    ids = [one.id for one in them]
    for end in range(len(data)):
        with pytest.raises(CassetteError):
            read(data[:end], folder)
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        # A bit that has no meaning (in the compressor's head) may change; then all is there as it was.
        with contextlib.suppress(CassetteError):
            assert [one.id for one in read(changed, folder)] == ids
            assert read(changed, folder) == read(data, folder)


def test_damage_is_told_in_a_sentence_that_names_the_file(folder: Path) -> None:
    data = written(exchange())
    for damaged in (data[:-20], data + b"more", data + data, data[:60] + b"\r\n" + data[60:]):
        with pytest.raises(CassetteError, match=r"read\.cassette is damaged \(.*\): take it from the repository"):
            read(damaged, folder)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"GIF89a", b"gemini-proxy cassette x\n", b"\0" * 100, b"version https://git-lfs"]
)
def test_what_is_no_cassette_is_told(folder: Path, data: bytes) -> None:
    with pytest.raises(CassetteError, match="is no cassette"):
        read(data, folder)


def test_a_newer_version_is_told(folder: Path) -> None:
    data = written(exchange()).replace(b"cassette 1\n", b"cassette 2\n", 1)
    with pytest.raises(CassetteError, match="is of version 2, and this program reads up to 1: install a newer"):
        read(data, folder)


def test_a_file_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(CassetteError, match="No such file"):
        list(read_cassette(folder / "nothing.cassette"))
    with pytest.raises(CassetteError, match="directory"):
        list(read_cassette(folder))


def test_a_record_cannot_bring_a_field_that_ends_its_line(folder: Path) -> None:
    file = io.BytesIO()
    with CassetteWriter(file) as writer:
        writer.add(exchange(outcome=response([b"{}"], headers=((b"Server", b"x"),), reason=b"OK\r\nX-Evil: 1")))
    with pytest.raises(CassetteError, match="damaged"):
        read(file.getvalue(), folder)


def test_writing_replaces_a_file_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.cassette"
    assert write_cassette(path, [exchange()]) == 1
    before = path.read_bytes()

    def breaking() -> Iterator[Exchange]:
        yield exchange()
        raise RuntimeError("the store went away")

    with pytest.raises(RuntimeError):
        write_cassette(path, breaking())
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.cassette"]
    with pytest.raises(CassetteError, match="cannot be written: No such file"):
        write_cassette(tmp_path / "nowhere" / "a.cassette", [exchange()])


# Answers


def key_of(one: Exchange) -> bytes:
    return blake3(one.request_body.data).digest(16)


def entry_of(one: Exchange) -> tuple[bytes, EntryKind] | None:
    response = one.response
    if response is None:
        return None
    return key_of(one), "answer" if response.status == 200 else "error"


def asked(text: str, at: int, **over: object) -> Exchange:
    return exchange(asked=text, started_ns=10**18 + at * 10**9, id=exchange_id(10**18 + at * 10**9), **over)


def source_of(answers: CassetteAnswers, one: Exchange) -> UUID | None:
    found = answers.find([key_of(one)])
    return None if found is None else found.entry.exchange


def test_answers_are_found_by_the_first_key_that_has_one() -> None:
    one, two = asked("one", 1), asked("two", 2)
    answers = CassetteAnswers([one, two], entry_of)
    assert (len(answers), answers.exchanges) == (2, 2)
    found = answers.find([b"nothing", key_of(two), key_of(one)])
    assert found is not None
    assert found.entry.exchange == two.id
    assert found.response == two.outcome
    assert (found.stream_shape, found.first_byte_us, found.duration_us) == ("sse", 400_000, 460_000)
    assert found.entry.stored_ns == two.started_ns + 460_000_000
    assert found.entry.credential is None
    assert answers.find([b"nothing"]) is None
    assert asyncio.run(answers.find_cached([key_of(one)])) == answers.find([key_of(one)])


def test_a_newer_answer_takes_the_place_of_an_older_one_whatever_the_order() -> None:
    old, new = asked("same", 1), asked("same", 2)
    for them in ([old, new], [new, old]):
        assert source_of(CassetteAnswers(them, entry_of), old) == new.id


def test_an_error_never_takes_the_place_of_an_answer() -> None:
    good, bad = asked("same", 1), asked("same", 2, outcome=response([b"{}"], status=429))
    for them in ([good, bad], [bad, good]):
        assert source_of(CassetteAnswers(them, entry_of), good) == good.id
    assert source_of(CassetteAnswers([bad], entry_of), good) == bad.id


def test_what_can_serve_nobody_is_not_among_the_answers() -> None:
    answers = CassetteAnswers([asked("one", 1)], lambda _: None)
    assert (len(answers), answers.exchanges) == (0, 1)
