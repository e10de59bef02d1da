"""The moment of writing, and the measure of bodies."""

from __future__ import annotations

import asyncio
from pathlib import Path

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy import recording
from gemini_caching_proxy.journal import Begin, Chunk, End, JournalReader, JournalWriter, ResponseHead, WholeExchange
from gemini_caching_proxy.recording import BodyMeter, Recording
from gemini_caching_proxy.redaction import Redactor

REDACTOR = Redactor(bytes(32))
PIECES = st.lists(st.binary(max_size=60), max_size=12)


def measure(pieces: list[bytes], limit: int, head: int, length: int | None) -> tuple[BodyMeter, bytes]:
    meter = BodyMeter(REDACTOR.scrubber(), limit, head, length)
    return meter, b"".join(meter.take(piece) for piece in pieces) + meter.rest()


@given(PIECES, st.integers(min_value=1, max_value=300))
def test_a_body_within_the_limit_is_kept_whole(pieces: list[bytes], limit: int) -> None:
    body = b"".join(pieces)
    meter, kept = measure(pieces, limit, 10, None)
    assert meter.size == len(body)
    assert kept == body[:limit]
    assert (meter.digest() is None) == (len(body) <= limit)


@given(PIECES, st.integers(min_value=1, max_value=100), st.integers(min_value=0, max_value=200))
def test_a_body_announced_too_long_keeps_its_head_and_hash(pieces: list[bytes], limit: int, head: int) -> None:
    body = b"".join(pieces) + b"x" * limit + b"y"
    meter, kept = measure([*pieces, b"x" * limit, b"y"], limit, head, len(body))
    assert kept == body[: min(limit, head)]
    assert meter.digest() == blake3(body).hexdigest()


def test_long_bodies_are_hashed_whatever_the_pieces() -> None:
    body = bytes(range(256)) * (recording.HASH_FROM_BYTES // 256 + 5)
    for size in (1000, 65536, len(body)):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        meter, kept = measure(pieces, recording.HASH_FROM_BYTES, 1000, None)
        assert kept == body[: recording.HASH_FROM_BYTES]
        assert meter.digest() == blake3(body).hexdigest()


def end(number: int) -> End:
    return End(number.to_bytes(16, "big"), 1, None, None, 0, 0)


def test_last_bytes_wait_for_the_file(tmp_path: Path) -> None:
    """When `finish` is called, a reader finds the exchange in the journal."""
    found: list[tuple[int, bool]] = []

    async def scene() -> None:
        journal = JournalWriter(tmp_path, "w", max_bytes=1 << 20, sync_ms=0)
        shared = Recording(asyncio.get_running_loop(), journal, REDACTOR, max_body_bytes=1000, head_bytes=10)
        done = asyncio.Event()

        def finish(data: bytes, close: bool) -> None:
            reader = JournalReader(tmp_path, "w")
            found.append((len([record for record, _ in reader.read() if isinstance(record, End)]), close))
            reader.close()
            if data == b"last":
                done.set()

        for number in range(3):
            shared.append(end(number))
            shared.commit(finish, b"last" if number == 2 else b"", number == 1)
        assert not found, "not before the loop's next turn"
        await asyncio.wait_for(done.wait(), 5)
        journal.close()

    asyncio.run(scene())
    assert found == [(3, False), (3, True), (3, False)]


def test_records_of_running_exchanges_do_not_wait_long(tmp_path: Path) -> None:
    async def scene() -> list[object]:
        journal = JournalWriter(tmp_path, "w", max_bytes=1 << 20, sync_ms=0)
        shared = Recording(asyncio.get_running_loop(), journal, REDACTOR, max_body_bytes=1000, head_bytes=10)
        shared.append(end(1))
        while journal.pending_bytes:
            await asyncio.sleep(recording.FLUSH_SECONDS)
        reader = JournalReader(tmp_path, "w")
        records = [record for record, _ in reader.read()]
        reader.close()
        journal.close()
        return records

    assert asyncio.run(asyncio.wait_for(scene(), 5)) == [end(1)]


def test_a_short_exchange_comes_out_as_the_records_it_stands_for(tmp_path: Path) -> None:
    begin = Begin(
        bytes(16), 1, "127.0.0.1:1", "POST", "/v1/models/m:generateContent", "1.1", [(b"Host", b"x")], "gemini",
        "generate_content", "m", "http://u", None, "none", False, b"asked", 3,
    )  # fmt: skip
    journal = JournalWriter(tmp_path, "w", max_bytes=1 << 20, sync_ms=0)
    journal.append(WholeExchange(begin, 2, 9, 200, b"OK", [(b"A", b"b")], b"answered"))
    journal.append(WholeExchange(begin, 2, 9, 204, b"", [], b""))
    assert journal.flush()
    reader = JournalReader(tmp_path, "w")
    records = [record for record, _ in reader.read()]
    reader.close()
    journal.close()
    head = ResponseHead(bytes(16), 9, 200, b"OK", [(b"A", b"b")])
    whole = [begin, head, Chunk(bytes(16), 9, b"answered"), End(bytes(16), 9, 2, 3, 5, 8)]
    assert records == [*whole, begin, ResponseHead(bytes(16), 9, 204, b"", []), End(bytes(16), 9, 2, 3, 5, 0)]
