from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from fakes import START_NS, exchange_records, new_id
from gemini_caching_proxy.assembly import SPILL_BYTES, Assembly, assemble
from gemini_caching_proxy.exchange import Chunk, Exchange, Failure, FailureKind, Response
from gemini_caching_proxy.journal import Begin, End, Position, Record, ResponseHead
from gemini_caching_proxy.journal import Chunk as ChunkRecord

HEAD_BYTES = 16
HERE = Position(0, 16)


def assembled(records: list[Record]) -> Exchange:
    return assemble(records, HEAD_BYTES)


def test_a_whole_exchange() -> None:
    records = exchange_records(b"a question", [b"an ", b"answer"], pieces=3, lasts_ms=40)
    exchange = assembled(records)
    assert exchange.id == UUID(bytes=records[0].id)
    assert exchange.started_ns == START_NS
    assert exchange.request_body.data == b"a question"
    assert exchange.request_body.complete
    assert exchange.request_body.digest == blake3(b"a question").hexdigest()
    assert exchange.request_chunks == 3
    assert exchange.user_agent == "tests/1"
    assert (exchange.model, exchange.credential, exchange.credential_source) == ("m", "key-1", "client")
    assert isinstance(exchange.outcome, Response)
    assert exchange.outcome.body.data == b"an answer"
    assert exchange.outcome.body.complete
    assert exchange.outcome.chunks == (Chunk(10_001, 3), Chunk(20_001, 6))
    assert exchange.timing.request_done_us == 50
    assert exchange.timing.connected_us == 7
    assert exchange.timing.first_byte_us == 10_000
    assert exchange.timing.last_byte_us == 40_000


@given(
    bodies=st.lists(
        st.tuples(st.binary(max_size=40), st.lists(st.binary(min_size=1, max_size=9), max_size=5)), max_size=5
    ),
    order=st.randoms(use_true_random=False),
)
def test_any_interleaving_gives_the_same_exchanges(bodies: list[tuple[bytes, list[bytes]]], order: object) -> None:
    lines = [exchange_records(request, response, pieces=3) for request, response in bodies]
    expected = {records[0].id: assembled(records) for records in lines}
    waiting = [list(records) for records in lines]
    assembly, got = Assembly(), {}
    while waiting:
        records = order.choice(waiting)  # type: ignore[attr-defined]
        done = assembly.take(records.pop(0), HERE)
        if done is not None:
            got[done.id] = assembled(list(done.records()))
        if not records:
            waiting.remove(records)
    assert got == expected
    assert not assembly.open
    assert assembly.orphan_records == 0


def test_an_abandoned_exchange_keeps_what_came_and_says_so() -> None:
    records = exchange_records(b"question", [b"one", b"two"])[:-2]
    assembly = Assembly()
    for record in records:
        assert assembly.take(record, HERE) is None
    (left,) = assembly.abandon()
    exchange = assembled(list(left.records()))
    assert isinstance(exchange.outcome, Failure)
    assert exchange.outcome.kind is FailureKind.INTERRUPTED
    partial = exchange.outcome.partial
    assert partial is not None
    assert partial.body.data == b"one"
    assert not partial.body.complete
    assert exchange.request_body.complete
    assert exchange.timing.last_byte_us == partial.chunks[-1].offset_us
    assert assembly.abandon() == []


def test_an_interrupted_upload_is_not_a_whole_request() -> None:
    exchange = assembled(exchange_records(b"0123456789", pieces=5)[:3])
    assert exchange.request_body.data == b"012345"
    assert not exchange.request_body.complete
    assert isinstance(exchange.outcome, Failure)
    assert exchange.outcome.partial is None


def test_records_without_a_begin_are_counted_and_skipped() -> None:
    assembly = Assembly()
    for record in exchange_records()[1:]:
        assert assembly.take(record, HERE) is None
    assert assembly.orphan_records == 3
    assert not assembly.open


def test_a_lost_piece_makes_the_body_incomplete() -> None:
    records = exchange_records(b"q", [b"one", b"two", b"three"])
    del records[3]
    exchange = assembled(records)
    assert isinstance(exchange.outcome, Response)
    assert exchange.outcome.body.data == b"onethree"
    assert exchange.outcome.body.size == 11
    assert (exchange.outcome.body.complete, exchange.outcome.body.digest) == (False, "")


def test_a_lost_head_leaves_a_failure_that_says_why() -> None:
    records = [record for record in exchange_records() if not isinstance(record, ResponseHead)]
    outcome = assembled(records).outcome
    assert isinstance(outcome, Failure)
    assert "damaged" in outcome.detail


def test_a_body_over_the_limit_keeps_head_size_and_digest() -> None:
    records = exchange_records(b"q", [b"0123456789", b"abcdefghij", b"klm"])
    end = records[-1]
    assert isinstance(end, End)
    end.response_size, end.response_digest = 5000, "d" * 64
    response = assembled(records).response
    assert response is not None
    assert response.body.data == b"0123456789abcdef"
    assert (response.body.size, response.body.digest, response.body.complete) == (5000, "d" * 64, False)
    assert [chunk.size for chunk in response.chunks] == [10, 6]


def test_the_digest_of_a_redacted_body_is_of_what_is_kept() -> None:
    records = exchange_records(b"q", [b"key ****"])
    chunk, end = records[2], records[3]
    assert isinstance(chunk, ChunkRecord)
    assert isinstance(end, End)
    chunk.redacted, end.response_size = True, 40
    body = assembled(records).response.body  # type: ignore[union-attr]
    assert (body.size, body.complete, body.redacted) == (40, True, True)
    assert body.digest == blake3(b"key ****").hexdigest()
    end.response_digest = "d" * 64
    body = assembled(records).response.body  # type: ignore[union-attr]
    assert not body.complete
    assert body.digest != "d" * 64


@pytest.mark.parametrize("kind", list(FailureKind))
def test_every_failure_keeps_its_kind(kind: FailureKind) -> None:
    records = exchange_records(b"q", [b"part"], failure=kind.value)
    end = records[-1]
    assert isinstance(end, End)
    end.served_status, end.detail = 502, "It broke."
    outcome = assembled(records).outcome
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.detail, outcome.served_status) == (kind, "It broke.", 502)
    assert outcome.partial is not None
    assert (outcome.partial.body.data, outcome.partial.body.complete) == (b"part", False)


def test_a_failure_of_a_newer_version_is_kept_in_words() -> None:
    outcome = assembled(exchange_records(failure="abducted")).outcome
    assert isinstance(outcome, Failure)
    assert "abducted" in outcome.detail


def test_large_bodies_wait_on_disk_and_come_back_in_order() -> None:
    pieces = [bytes([number]) * (SPILL_BYTES // 3) for number in range(11)]
    records = exchange_records(b"q", pieces)
    assembly = Assembly()
    done = None
    for record in records:
        if assembly.open:
            held = next(iter(assembly.open.values()))
            assert sum(len(each.data) for each in held._held if isinstance(each, ChunkRecord)) <= SPILL_BYTES
        done = assembly.take(record, HERE)
    assert done is not None
    exchange = assembled(list(done.records()))
    assert exchange.response is not None
    assert exchange.response.body.data == b"".join(pieces)
    assert exchange == assembled(records)
    done.discard()


def test_without_room_on_disk_large_bodies_wait_in_memory(tmp_path: Path) -> None:
    records = exchange_records(b"q", [b"x" * SPILL_BYTES] * 3)
    assembly = Assembly(tmp_path / "missing")
    done = [assembly.take(record, HERE) for record in records][-1]
    assert done is not None
    assert assembled(list(done.records())) == assembled(records)


def test_a_websocket_keeps_its_counts() -> None:
    id = new_id()
    begin = exchange_records(id=id)[0]
    assert isinstance(begin, Begin)
    begin.websocket, begin.body = True, b""
    head = ResponseHead(id, 5, 101, b"Switching Protocols", [])
    exchange = assembled([begin, head, End(id, 900, 3, 1, 0, 0, tunnel_up=12, tunnel_down=34)])
    assert exchange.stream_shape == "websocket"
    assert (exchange.tunnel_bytes_up, exchange.tunnel_bytes_down) == (12, 34)
    assert isinstance(exchange.outcome, Response)
