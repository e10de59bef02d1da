from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fakes import LinesProvider, MemoryData, MemoryStore, exchange_records, new_id
from gemini_caching_proxy.errors import FolderInUse, StoreCorrupt, StoreUnavailable
from gemini_caching_proxy.exchange import Failure, FailureKind
from gemini_caching_proxy.journal import End, Gap, JournalWriter, Record, journals
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.recorder import Recorder, hold_lock
from gemini_caching_proxy.recording_status import RUNNING, RecorderStatus, backlog, read_status, wait_drained
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.stores.base import Query
from gemini_caching_proxy.stores.sqlite import SQLiteStore

PROVIDERS = {"lines": LinesProvider()}
SOON = 20.0
TRAFFIC = Path(os.environ.get("GEMINI_PROXY_TRAFFIC", Path(__file__).parents[2] / "shared/traffic")) / "gemini.jsonl"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", _env_file=None)


def writer(settings: Settings, name: str = "worker-0-1", segment_bytes: int = 1 << 20) -> JournalWriter:
    return JournalWriter(settings.journal_dir, name, max_bytes=1 << 30, segment_bytes=segment_bytes, sync_ms=0)


def write(journal: JournalWriter, *exchanges: Sequence[Record]) -> None:
    for records in exchanges:
        for record in records:
            journal.append(record)
        assert journal.flush()


def ids(exchanges: Sequence[Sequence[Record]]) -> set[UUID]:
    return {UUID(bytes=records[0].id) for records in exchanges}  # type: ignore[union-attr]


@contextlib.asynccontextmanager
async def recording(
    settings: Settings, data: MemoryData, trouble: Callable[[str], None] = lambda _: None
) -> AsyncIterator[asyncio.Event]:
    """A recorder at work; it stops when the block ends."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(Recorder(settings, lambda: MemoryStore(data, trouble), PROVIDERS).run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await task


async def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


async def status_where(settings: Settings, true: Callable[[RecorderStatus], object]) -> RecorderStatus:
    def fits() -> bool:
        status = read_status(settings.data_dir)
        return status is not None and bool(true(status))

    await until(fits)
    status = read_status(settings.data_dir)
    assert status is not None
    return status


def test_what_is_journaled_is_stored_understood_and_its_journal_goes(settings: Settings) -> None:
    data = MemoryData()
    journal = writer(settings)
    exchanges = [exchange_records(b"one\ntwo\n", [b"an ", b"answer"], at_ms=number) for number in range(100)]
    write(journal, *exchanges)
    journal.close()

    async def scenario() -> None:
        async with recording(settings, data):
            assert await wait_drained(settings, SOON)
            await until(lambda: not journals(settings.journal_dir))

    asyncio.run(scenario())
    assert set(data.exchanges) == ids(exchanges)
    assert list(data.exchanges) == [UUID(bytes=each[0].id) for each in exchanges]  # type: ignore[union-attr]
    first = next(iter(data.exchanges.values()))
    assert first.usage is not None
    assert first.response_text == "an answer"
    assert b"".join(piece.data for piece in first.request_pieces) == first.request_body.data
    assert first.timing.first_content_us == first.response.chunks[0].offset_us  # type: ignore[union-attr]
    assert data.positions == {}
    status = read_status(settings.data_dir)
    assert status is not None
    assert (status.stored, status.backlog_bytes, status.state) == (100, 0, "stopped")
    assert not status.alive(time.time_ns())


def test_a_running_worker_is_followed_within_moments(settings: Settings) -> None:
    data = MemoryData()

    async def scenario() -> None:
        journal = writer(settings)
        async with recording(settings, data):
            status = await status_where(settings, lambda status: status.state == RUNNING)
            assert status.alive(time.time_ns())
            slowest = 0.0
            for number in range(5):
                records = exchange_records(at_ms=number)
                write(journal, records[:2])
                write(journal, records[2:])
                written = time.monotonic()
                await until(lambda: len(data.exchanges) == number + 1)  # noqa: B023
                slowest = max(slowest, time.monotonic() - written)
            assert slowest < 1.0
            assert await wait_drained(settings, SOON)
            assert journals(settings.journal_dir) == [journal.name]
        journal.close()

    asyncio.run(scenario())


def test_a_killed_worker_leaves_interrupted_exchanges(settings: Settings, tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from fakes import exchange_records
from gemini_caching_proxy.journal import JournalWriter
journal = JournalWriter(Path({str(settings.journal_dir)!r}), "worker-0-9", max_bytes=1 << 30, sync_ms=0)
for records in (exchange_records(b"whole"), exchange_records(b"cut", [b"first", b"second"])[:-2]):
    for record in records:
        journal.append(record)
    journal.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    data = MemoryData()

    async def scenario() -> None:
        async with recording(settings, data):
            await until(lambda: not journals(settings.journal_dir))

    asyncio.run(scenario())
    whole, cut = sorted(data.exchanges.values(), key=lambda each: isinstance(each.outcome, Failure))
    assert whole.failure is None
    assert cut.failure is not None
    assert cut.failure.kind is FailureKind.INTERRUPTED
    assert cut.response is not None
    assert cut.response.body.data == b"first"


class Crash(BaseException):
    """The process dies here."""


CRASH_SITES = ["open", "positions", "find_chain_tips", "known", "add", "added", "add_gap", "forget_journal"]


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    crashes=st.lists(
        st.tuples(
            st.sampled_from(["open", "add", "added", "add_gap", "forget_journal", "find_chain_tips"]), st.integers(1, 5)
        ),
        max_size=4,
    ),
    count=st.integers(1, 150),
    segment_bytes=st.sampled_from([600, 5000, 1 << 20]),
    seed=st.randoms(use_true_random=False),
)
def test_a_crash_anywhere_loses_nothing_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    crashes: list[tuple[str, int]],
    count: int,
    segment_bytes: int,
    seed: object,
) -> None:
    settings = Settings(data_dir=tmp_path_factory.mktemp("crash"), _env_file=None)
    data = MemoryData()
    exchanges = [exchange_records(b"a\nb\n", [b"xy"] * 3, at_ms=number) for number in range(count)]
    workers = [writer(settings, f"worker-{number}-1", segment_bytes) for number in range(2)]
    waiting = [(workers[number % 2], list(each)) for number, each in enumerate(exchanges)]
    while waiting:
        chosen = seed.choice(waiting[:8])  # type: ignore[attr-defined]
        write(chosen[0], [chosen[1].pop(0)])
        if not chosen[1]:
            waiting.remove(chosen)
    write(workers[0], [Gap(3, 1, 2, "journal is full")])
    for journal in workers:
        journal.close()
    for operation, number in [*crashes, ("never", 0)]:
        left = [number]

        def trouble(at: str, operation: str = operation, left: list[int] = left) -> None:
            if at == operation:
                left[0] -= 1
                if left[0] == 0:
                    raise Crash

        with contextlib.suppress(BaseExceptionGroup, Crash):
            asyncio.run(_until_crash(settings, data, trouble))
    assert set(data.exchanges) == ids(exchanges)
    assert all(each.failure is None for each in data.exchanges.values())
    assert len(data.gaps) == 1
    assert journals(settings.journal_dir) == []
    assert data.positions == {}


async def _until_crash(settings: Settings, data: MemoryData, trouble: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    task = asyncio.ensure_future(Recorder(settings, lambda: MemoryStore(data, trouble), PROVIDERS).run(stop))
    await until(lambda: task.done() or not journals(settings.journal_dir))
    stop.set()
    await task


RECORDER = """
import asyncio, sys
sys.path[:0] = {path!r}
from pathlib import Path
from fakes import LinesProvider
from gemini_caching_proxy.recorder import Recorder
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.stores.sqlite import SQLiteStore
settings = Settings(data_dir=Path({data!r}), _env_file=None)
print("up", flush=True)
recorder = Recorder(settings, lambda: SQLiteStore(settings.sqlite_path), dict(lines=LinesProvider()))
asyncio.run(recorder.run(asyncio.Event()))
"""


def start_recorder(settings: Settings) -> subprocess.Popen[bytes]:
    program = RECORDER.format(path=sys.path, data=str(settings.data_dir))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.mark.slow
def test_a_recorder_killed_again_and_again_stores_everything_once(settings: Settings) -> None:
    seed = 20260101
    chance = random.Random(seed)
    journal = writer(settings, segment_bytes=20_000)
    sent: list[list[Record]] = []
    for _ in range(12):
        process = start_recorder(settings)
        for _ in range(chance.randint(1, 12)):
            burst = [exchange_records(b"q %d\n" % len(sent), [b"a"] * 3) for _ in range(chance.randint(1, 20))]
            write(journal, *burst)
            sent += burst
            time.sleep(chance.uniform(0.0, 0.05))  # so that the kill meets it in all kinds of work
        process.kill()
        process.communicate()
    journal.close()
    process = start_recorder(settings)
    try:
        asyncio.run(until(lambda: not journals(settings.journal_dir)))
    finally:
        process.kill()
        process.communicate()
    stored = asyncio.run(_stored(settings))
    assert len(stored) == len(set(stored)) == len(sent), f"seed {seed}"
    assert set(stored) == ids(sent), f"seed {seed}"


async def _stored(settings: Settings) -> list[UUID]:
    store = SQLiteStore(settings.sqlite_path)
    await store.open(read_only=True)
    found: list[UUID] = []
    cursor = None
    while True:
        page = await store.list(Query(), limit=500, cursor=cursor)
        found += [item.id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            await store.aclose()
            return found


def test_the_store_away_for_a_while_costs_nothing_and_is_told(settings: Settings) -> None:
    data = MemoryData()
    down = [True]

    def trouble(_: str) -> None:
        if down[0]:
            raise StoreUnavailable("The store is locked by the tests.")

    async def scenario() -> None:
        journal = writer(settings)
        exchanges = [exchange_records(at_ms=number) for number in range(20)]
        async with recording(settings, data, trouble):
            status = await status_where(settings, lambda status: status.state.startswith("store_unavailable"))
            assert "locked by the tests" in status.state
            write(journal, *exchanges[:10])
            assert not await wait_drained(settings, 0.3)
            down[0] = False
            assert await wait_drained(settings, SOON)
            down[0] = True
            write(journal, *exchanges[10:])
            status = await status_where(settings, lambda status: status.state.startswith("store_unavailable"))
            assert status.backlog_bytes > 0
            assert status.oldest_unstored_ns is not None
            assert len(data.exchanges) == 10
            down[0] = False
            assert await wait_drained(settings, SOON)
            await status_where(settings, lambda status: status.state == RUNNING and status.backlog_bytes == 0)
        assert set(data.exchanges) == ids(exchanges)
        journal.close()

    asyncio.run(scenario())


def test_told_to_stop_with_the_store_away_it_stops_and_the_journal_keeps(settings: Settings) -> None:
    data = MemoryData()

    def trouble(_: str) -> None:
        raise StoreUnavailable("gone")

    async def scenario() -> None:
        journal = writer(settings)
        write(journal, exchange_records())
        async with recording(settings, data, trouble):
            await status_where(settings, lambda status: status.state.startswith("store_unavailable"))
        async with recording(settings, data):
            assert await wait_drained(settings, SOON)
        assert len(data.exchanges) == 1
        journal.close()

    asyncio.run(scenario())


def test_a_damaged_store_is_moved_aside_and_a_new_one_takes_over(settings: Settings) -> None:
    settings.data_dir.mkdir()
    settings.sqlite_path.write_bytes(b"no database")
    data = MemoryData()

    def trouble(_: str) -> None:
        if settings.sqlite_path.exists():
            raise StoreCorrupt("It is no database.")

    async def scenario() -> None:
        journal = writer(settings)
        write(journal, exchange_records())
        async with recording(settings, data, trouble):
            assert await wait_drained(settings, SOON)
        journal.close()

    asyncio.run(scenario())
    assert len(data.exchanges) == 1
    (aside,) = settings.data_dir.glob("*.corrupt-*")
    assert aside.read_bytes() == b"no database"


def test_real_traffic_is_stored_byte_for_byte_and_understood(settings: Settings) -> None:
    if not TRAFFIC.exists():
        pytest.skip(f"recorded traffic is not at {TRAFFIC}")
    lines = [json.loads(line) for line in TRAFFIC.read_text().splitlines()]
    gemini = providers()["gemini"]
    exchanges = []
    for number, line in enumerate(lines):
        url = urlsplit(line["url"])
        target = f"{url.path}?{url.query}" if url.query else url.path
        route = gemini.route(line["method"].encode(), target.encode())
        body = (line["response_body"] or "").encode()
        exchanges.append(
            exchange_records(
                (line["request_body"] or "").encode(),
                [body[start : start + 1000] for start in range(0, len(body), 1000)],
                at_ms=number * 100,
                status=line["status"],
                operation=route.operation,
                headers=[(name.encode(), value.encode()) for name, value in line["response_headers"]],
                provider="gemini",
                target=target,
            )
        )

    async def scenario() -> None:
        journal = writer(settings)
        write(journal, *exchanges)
        stop = asyncio.Event()
        recorder = Recorder(settings, lambda: SQLiteStore(settings.sqlite_path), providers())
        task = asyncio.ensure_future(recorder.run(stop))
        assert await wait_drained(settings, SOON)
        stop.set()
        await task
        journal.close()
        store = SQLiteStore(settings.sqlite_path)
        await store.open(read_only=True)
        for line, records in zip(lines, exchanges, strict=True):
            exchange = await store.get(UUID(bytes=records[0].id))  # type: ignore[union-attr]
            assert exchange.request_body.data == (line["request_body"] or "").encode()
            assert exchange.response is not None
            assert exchange.response.body.data == (line["response_body"] or "").encode()
            if b'"usageMetadata"' in exchange.response.body.data and exchange.operation == "generate_content":
                assert exchange.usage is not None, line["source"]
        await store.aclose()

    asyncio.run(scenario())
    status = read_status(settings.data_dir)
    assert status is not None
    assert (status.stored, status.rejected) == (len(lines), 0)


@pytest.mark.parametrize("content", [b"no database at all, but text" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_sqlite_file_is_moved_aside(settings: Settings, content: bytes) -> None:
    settings.data_dir.mkdir()
    settings.sqlite_path.write_bytes(content)
    exchanges = [exchange_records(at_ms=number) for number in range(3)]

    async def scenario() -> None:
        journal = writer(settings)
        write(journal, *exchanges)
        stop = asyncio.Event()
        recorder = Recorder(settings, lambda: SQLiteStore(settings.sqlite_path), PROVIDERS)
        task = asyncio.ensure_future(recorder.run(stop))
        assert await wait_drained(settings, SOON)
        stop.set()
        await task
        assert set(await _stored(settings)) == ids(exchanges)
        journal.close()

    asyncio.run(scenario())
    (aside,) = (path for path in settings.data_dir.glob("*.corrupt-*") if "-wal" not in path.name)
    assert aside.read_bytes()[: len(content)] == content


def test_nothing_a_body_holds_stops_the_recorder(settings: Settings) -> None:
    data = MemoryData()
    bodies = [b"fine\n", b"POISON\n", b"\xff\xfe not text\n", b"fine too\n"]

    async def scenario() -> None:
        journal = writer(settings)
        write(journal, *(exchange_records(body, at_ms=number) for number, body in enumerate(bodies)))
        async with recording(settings, data):
            assert await wait_drained(settings, SOON)
            status = await status_where(settings, lambda status: status.stored == 4)
            assert status.undecoded == 2
        journal.close()

    asyncio.run(scenario())
    stored = {each.request_body.data: each for each in data.exchanges.values()}
    assert list(stored) == bodies
    assert stored[b"POISON\n"].decode_error == "RecursionError: too deep"
    assert "UnicodeDecodeError" in (stored[b"\xff\xfe not text\n"].decode_error or "")
    assert stored[b"fine\n"].decode_error is None


class Refusing(MemoryStore):
    """A store that cannot hold some exchanges, for reasons of its own."""

    async def add(self, exchanges, positions=(), *, more=False):  # type: ignore[no-untyped-def]
        for each in exchanges:
            if each.request_body.data == b"never\n" or (each.request_body.data == b"plain\n" and each.usage):
                raise OverflowError("too big for this store")
        return await super().add(exchanges, positions)


def test_what_no_store_can_hold_is_kept_as_a_file(settings: Settings) -> None:
    data = MemoryData()

    async def scenario() -> None:
        journal = writer(settings)
        for number, body in enumerate((b"one\n", b"never\n", b"plain\n", b"two\n")):
            write(journal, exchange_records(body, at_ms=number))
        stop = asyncio.Event()
        task = asyncio.ensure_future(Recorder(settings, lambda: Refusing(data), PROVIDERS).run(stop))
        assert await wait_drained(settings, SOON)
        stop.set()
        await task
        journal.close()

    asyncio.run(scenario())
    assert [each.request_body.data for each in data.exchanges.values()] == [b"one\n", b"plain\n", b"two\n"]
    (file,) = (settings.data_dir / "rejected").iterdir()
    assert b"lines" in file.read_bytes()
    status = read_status(settings.data_dir)
    assert status is not None
    assert (status.stored, status.rejected) == (3, 1)


def test_a_gap_is_told_once_and_its_begun_exchanges_end(settings: Settings) -> None:
    data = MemoryData()

    async def scenario() -> None:
        journal = writer(settings)
        id = new_id()
        write(journal, exchange_records(id=id)[:2], exchange_records(), [Gap(2, 5, 6, "journal is full", [id])])
        async with recording(settings, data):
            await until(lambda: len(data.exchanges) == 2)
            await status_where(settings, lambda status: status.gap_exchanges == 2)
        journal.close()
        assert data.exchanges[UUID(bytes=id)].failure is not None

    asyncio.run(scenario())
    (gap,) = data.gaps
    assert (gap.exchanges, gap.reason) == (2, "journal is full")


def test_a_long_stream_neither_keeps_old_segments_nor_is_lost(settings: Settings) -> None:
    data = MemoryData()
    stream = exchange_records(b"long\n", [b"part %d;" % number for number in range(40)])
    id = UUID(bytes=stream[0].id)  # type: ignore[union-attr]

    async def scenario() -> None:
        journal = writer(settings, segment_bytes=4000)
        write(journal, stream[:2])
        done = 2
        for _ in range(3):
            async with recording(settings, data):
                for _ in range(10):
                    write(journal, [stream[done]], *(exchange_records(b"small\n" * 50) for _ in range(8)))
                    done += 1
                assert await wait_drained(settings, SOON)
                await until(lambda: backlog(settings.journal_dir, {}) < 20_000)
                assert id not in data.exchanges
        async with recording(settings, data):
            write(journal, stream[done:])
            await until(lambda: id in data.exchanges)
        journal.close()
        async with recording(settings, data):
            await until(lambda: not journals(settings.journal_dir))

    asyncio.run(scenario())
    response = data.exchanges[id].response
    assert response is not None
    assert response.body.data == b"".join(b"part %d;" % number for number in range(40))
    assert data.exchanges[id].failure is None
    assert len(data.exchanges) == 241
    assert list((settings.data_dir / "carryover").iterdir()) == []


def test_turns_in_the_journals_of_several_workers_are_threaded(settings: Settings) -> None:
    data = MemoryData()
    first, second = writer(settings, "worker-1-1"), writer(settings, "worker-0-1")
    lines = ["t0"]
    for number in range(60):
        request = "".join(f"{line}\n" for line in lines).encode()
        write(first if number % 2 else second, exchange_records(request, at_ms=20 * number))
        lines += [f"a{number}", f"t{number + 1}"]
    for _ in range(2000):
        write(second, exchange_records(b"x\n" * 40, at_ms=20 * 60))
    first.close()
    second.close()

    async def scenario() -> None:
        async with recording(settings, data):
            await until(lambda: not journals(settings.journal_dir))

    asyncio.run(scenario())
    thread = sorted(
        (each for each in data.exchanges.values() if each.request_body.data.startswith(b"t0")),
        key=lambda e: e.started_ns,
    )
    assert len({each.conversation for each in thread}) == 1
    assert [each.parent for each in thread] == [None, *(each.id for each in thread[:-1])]


def test_waiting_does_not_wait_for_what_still_runs_or_comes_later(settings: Settings) -> None:
    data = MemoryData()

    async def scenario() -> None:
        journal = writer(settings)
        write(journal, exchange_records(), exchange_records()[:2])
        async with recording(settings, data):
            assert await wait_drained(settings, SOON)
            assert len(data.exchanges) == 1
            status = await status_where(settings, lambda status: status.open_exchanges == 1)
            assert status.backlog_bytes == 0
        write(journal, exchange_records())
        assert not await wait_drained(settings, 0.1)
        journal.close()

    asyncio.run(scenario())


def test_damage_in_a_journal_is_counted_and_costs_only_what_it_hits(settings: Settings) -> None:
    data = MemoryData()
    journal = writer(settings)
    exchanges = [exchange_records(b"x\n" * 50, at_ms=number) for number in range(30)]
    for records in exchanges:
        write(journal, *([record] for record in records))
    journal.close()
    (path,) = settings.journal_dir.glob("*.journal")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)

    async def scenario() -> None:
        async with recording(settings, data):
            await until(lambda: not journals(settings.journal_dir))
            status = await status_where(settings, lambda status: status.stored >= 29)
            assert status.damaged_frames == 1

    asyncio.run(scenario())
    assert len(data.exchanges) >= 29


def test_one_recorder_per_folder_and_a_dying_one_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hold_lock(tmp_path):
            with pytest.raises(FolderInUse, match=str(tmp_path)):
                async with hold_lock(tmp_path, patience=0.1):
                    pass
        async with hold_lock(tmp_path):
            successor = asyncio.ensure_future(_hold(tmp_path))
            await asyncio.sleep(0)
        assert await successor

    asyncio.run(scenario())


async def _hold(folder: Path) -> bool:
    async with hold_lock(folder, patience=SOON):
        return True


def test_status_of_nothing_is_none_and_an_old_heartbeat_is_dead(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / "recorder.json").write_bytes(b"{half")
    assert read_status(tmp_path) is None
    now = time.time_ns()
    assert RecorderStatus(1, now).alive(now)
    assert not RecorderStatus(1, now - 3_600_000_000_000).alive(now)


def test_an_end_without_anything_else_harms_nothing(settings: Settings) -> None:
    data = MemoryData()

    async def scenario() -> None:
        journal = writer(settings)
        write(journal, [End(new_id(), 1, None, None, 0, 0)], exchange_records())
        async with recording(settings, data):
            await until(lambda: data.exchanges)
            await status_where(settings, lambda status: status.orphan_records == 1)
        journal.close()

    asyncio.run(scenario())
    assert os.listdir(settings.data_dir)
