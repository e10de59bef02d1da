"""The journal through its public door, on real files, real processes and really full disks."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_caching_proxy import journal
from gemini_caching_proxy.errors import FolderInUse, FormatTooNew
from gemini_caching_proxy.journal import (
    Begin,
    Chunk,
    End,
    Gap,
    JournalReader,
    JournalWriter,
    Position,
    Record,
    RequestChunk,
    ResponseHead,
    folder_bytes,
    journals,
)

ROOM = 1 << 40
binaries = st.binary(max_size=300)
ids = st.binary(min_size=16, max_size=16)
offsets = st.integers(0, 2**40)
header_pairs = st.lists(st.tuples(binaries, binaries), max_size=3)
optional_ints = st.none() | offsets
texts = st.text(max_size=40)
records = st.one_of(
    st.builds(
        Begin,
        ids,
        offsets,
        texts,
        texts,
        texts,
        texts,
        header_pairs,
        texts,
        texts,
        st.none() | texts,
        texts,
        st.none() | texts,
        texts,
        st.booleans(),
        binaries,
        optional_ints,
        st.booleans(),
    ),
    st.builds(RequestChunk, ids, offsets, binaries, st.booleans()),
    st.builds(ResponseHead, ids, offsets, st.integers(100, 599), binaries, header_pairs),
    st.builds(Chunk, ids, offsets, binaries, st.booleans()),
    st.builds(
        End, ids, offsets, optional_ints, optional_ints, offsets, offsets, st.none() | texts, texts, optional_ints
    ),
)


def writer(folder: Path, name: str = "w", **options: int) -> JournalWriter:
    return JournalWriter(folder, name, **({"max_bytes": ROOM, "sync_ms": 0} | options))


def number(n: int) -> bytes:
    return n.to_bytes(16, "big")


def begin(n: int, body: bytes = b"{}") -> Begin:
    return Begin(
        number(n), 1, "127.0.0.1:9", "POST", "/v1/x", "1.1", [(b"host", b"a")], "gemini", "generate_content", "m",
        "https://up.example", None, "none", False, body, 3,
    )  # fmt: skip


def exchange(n: int, size: int = 100) -> list[Record]:
    data = bytes([n % 251]) * size
    return [
        begin(n, data),
        ResponseHead(number(n), 4, 200, b"OK", []),
        Chunk(number(n), 5, data),
        End(number(n), 6, 1, 2, size, size),
    ]


def append_all(target: JournalWriter, items: list[Record]) -> None:
    for item in items:
        target.append(item)


def read_all(reader: JournalReader, max_bytes: int = 4 * 1024 * 1024) -> list[Record]:
    found: list[Record] = []
    while batch := reader.read(max_bytes):
        found.extend(record for record, _ in batch)
    return found


def written(folder: Path, frames: list[list[Record]], **options: int) -> Path:
    """A closed journal of one segment, one frame per list; returns the segment's path."""
    target = writer(folder, **options)
    for frame in frames:
        append_all(target, frame)
        assert target.flush()
    target.close()
    return folder / "w.00000000.journal"


def frame_ends(folder: Path) -> list[int]:
    """Offsets behind each frame of the first segment."""
    reader = JournalReader(folder, "w")
    ends = []
    while batch := reader.read(1):
        ends.append(batch[-1][1].offset)
    reader.close()
    return ends


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.lists(records, max_size=6), max_size=6),
    segment_bytes=st.sampled_from([1, 500, 1 << 20]),
    max_bytes=st.sampled_from([1, 300, 1 << 20]),
)
def test_what_is_written_is_read_under_any_batching(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Record]], segment_bytes: int, max_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    target = writer(folder, segment_bytes=segment_bytes)
    for batch in batches:
        append_all(target, batch)
        assert target.flush()
        assert target.pending_bytes == 0
    target.close()
    reader = JournalReader(folder, "w")
    assert read_all(reader, max_bytes) == [record for batch in batches for record in batch]
    assert reader.finished
    assert reader.damaged_frames == 0
    reader.close()


def test_long_flush_is_split_into_frames_in_order(tmp_path: Path) -> None:
    items = [record for n in range(40) for record in exchange(n, 100_000)]
    written(tmp_path, [items])
    assert len(frame_ends(tmp_path)) > 5
    assert read_all(JournalReader(tmp_path, "w")) == items


def test_a_record_longer_than_the_read_size_is_read(tmp_path: Path) -> None:
    items: list[Record] = [begin(1, os.urandom(5_000_000)), *exchange(2)]
    written(tmp_path, [items])
    assert read_all(JournalReader(tmp_path, "w"), 1000) == items


def test_pending_bytes_follow_the_bodies(tmp_path: Path) -> None:
    target = writer(tmp_path)
    target.append(begin(1, bytes(5000)))
    target.append(Chunk(number(1), 1, bytes(7000)))
    assert 12_000 <= target.pending_bytes < 14_000
    target.close()


def test_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "journal"
    segment = written(folder, [exchange(1)])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert segment.stat().st_mode & 0o777 == 0o600
    assert (folder / "w.lock").stat().st_mode & 0o777 == 0o600


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncation_loses_only_the_cut_frame(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    folder = tmp_path_factory.mktemp("journal")
    frames = [exchange(n) for n in range(5)]
    segment = written(folder, frames)
    ends = frame_ends(folder)
    size = int(segment.stat().st_size * cut)
    os.truncate(segment, size)
    whole = sum(1 for end in ends if end <= size)
    reader = JournalReader(folder, "w")
    assert read_all(reader) == [record for frame in frames[:whole] for record in frame]
    kept_to = ends[whole - 1] if whole else min(16, size) if size >= 16 else 0
    assert reader.damaged_bytes == size - kept_to
    assert reader.finished
    reader.close()


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_loses_only_its_frame(tmp_path_factory: pytest.TempPathFactory, place: float, flip: int) -> None:
    folder = tmp_path_factory.mktemp("journal")
    frames = [exchange(n) for n in range(4)]
    segment = written(folder, frames)
    ends = frame_ends(folder)
    data = bytearray(segment.read_bytes())
    at = int(len(data) * place)
    data[at] ^= flip
    segment.write_bytes(data)
    hit = next(i for i, end in enumerate(ends) if at < end)
    reader = JournalReader(folder, "w")
    expected = frames if at < 16 else frames[:hit] + frames[hit + 1 :]
    assert read_all(reader) == [record for frame in expected for record in frame]
    assert reader.damaged_frames == 1
    assert reader.finished
    reader.close()


def test_two_damaged_frames_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [exchange(n) for n in range(4)]
    segment = written(tmp_path, frames)
    ends = frame_ends(tmp_path)
    data = bytearray(segment.read_bytes())
    data[ends[0] + 50] ^= 1
    data[ends[1] + 50] ^= 1
    segment.write_bytes(data)
    reader = JournalReader(tmp_path, "w")
    assert read_all(reader) == [*frames[0], *frames[3]]
    assert (reader.damaged_frames, reader.damaged_bytes) == (2, ends[2] - ends[0])
    assert str(segment) in caplog.text
    assert str(ends[0]) in caplog.text


def test_frames_inside_a_body_are_never_taken_for_frames(tmp_path: Path) -> None:
    inner = written(tmp_path / "inner", [exchange(7)]).read_bytes()
    segment = written(tmp_path, [[begin(1, inner * 3)], exchange(2)])
    data = bytearray(segment.read_bytes())
    data[20] ^= 1
    segment.write_bytes(data)
    assert read_all(JournalReader(tmp_path, "w")) == exchange(2)


def test_zeros_at_the_end_after_a_power_cut_are_damage(tmp_path: Path) -> None:
    segment = written(tmp_path, [exchange(1)])
    with segment.open("ab") as file:
        file.write(bytes(5000))
    reader = JournalReader(tmp_path, "w")
    assert read_all(reader) == exchange(1)
    assert reader.damaged_bytes == 5000
    assert reader.finished


def test_missing_segments_are_passed_over(tmp_path: Path) -> None:
    frames = [exchange(n) for n in range(5)]
    written(tmp_path, frames, segment_bytes=1)
    for gone in (0, 2):
        (tmp_path / f"w.{gone:08d}.journal").unlink()
    reader = JournalReader(tmp_path, "w")
    assert read_all(reader) == [*frames[1], *frames[3], *frames[4]]
    assert reader.damaged_frames == 0


def test_newer_format_is_refused_in_a_sentence(tmp_path: Path) -> None:
    from crc32c import crc32c

    segment = written(tmp_path, [exchange(1)])
    data = bytearray(segment.read_bytes())
    data[8:12] = struct.pack("<I", journal.FORMAT_VERSION + 1)
    data[12:16] = struct.pack("<I", crc32c(bytes(data[:12])))
    segment.write_bytes(data)
    with pytest.raises(FormatTooNew, match=f"format {journal.FORMAT_VERSION + 1}"):
        JournalReader(tmp_path, "w").read()


def test_reading_resumes_at_any_reported_position(tmp_path: Path) -> None:
    frames = [[*exchange(2 * n), *exchange(2 * n + 1)] for n in range(6)]
    written(tmp_path, frames, segment_bytes=1500)
    everything = [record for frame in frames for record in frame]
    pairs = []
    reader = JournalReader(tmp_path, "w")
    while batch := reader.read(1000):
        pairs.extend(batch)
    for index, (_, position) in enumerate(pairs):
        rest = read_all(JournalReader(tmp_path, "w", position.segment, position.offset))
        in_frame = index % 8
        assert rest == everything[index + 1 if in_frame == 7 else index - in_frame :]


def test_reader_follows_a_live_writer(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path, "w")
    assert reader.read() == []
    target = writer(tmp_path, segment_bytes=2000)
    assert reader.writer_alive
    for n in range(40):
        append_all(target, exchange(n))
        assert reader.read() == []
        assert target.flush()
        assert [record for record, _ in reader.read()] == exchange(n)
        assert not reader.finished
    target.close()
    assert not reader.writer_alive
    assert reader.read() == []
    assert reader.finished


def test_torn_tail_is_waited_for_while_the_writer_lives(tmp_path: Path) -> None:
    target = writer(tmp_path)
    append_all(target, exchange(1))
    target.flush()
    segment = tmp_path / "w.00000000.journal"
    whole = segment.read_bytes()
    append_all(target, exchange(2))
    target.flush()
    second = segment.read_bytes()[len(whole) :]
    reader = JournalReader(tmp_path, "w")
    for cut in (1, 19, 20, 21, len(second) - 1):
        os.truncate(segment, len(whole) + cut)
        assert [record for record, _ in reader.read()] == (exchange(1) if cut == 1 else [])
        assert not reader.damaged_frames
    segment.write_bytes(whole + second)
    assert [record for record, _ in reader.read()] == exchange(2)
    os.truncate(segment, len(whole) + len(second))
    with segment.open("ab") as file:
        file.write(second[:30])
    assert reader.read() == []
    target.close()
    assert not reader.finished
    assert reader.read() == []
    assert (reader.damaged_bytes, reader.finished) == (30, True)


def test_damage_in_a_live_segment_does_not_stop_reading(tmp_path: Path) -> None:
    target = writer(tmp_path)
    for n in range(2):
        append_all(target, exchange(n))
        target.flush()
    with (tmp_path / "w.00000000.journal").open("r+b") as file:
        file.seek(16 + 8)
        file.write(b"\xff\xff\xff\x7f")
    reader = JournalReader(tmp_path, "w")
    assert [record for record, _ in reader.read()] == exchange(1)
    assert reader.damaged_frames == 1
    target.close()


def test_removing_before_a_position_keeps_what_is_needed(tmp_path: Path) -> None:
    written(tmp_path, [exchange(n) for n in range(4)], segment_bytes=1)
    reader = JournalReader(tmp_path, "w")
    reader.remove_before(Position(2, 16))
    assert sorted(path.name for path in tmp_path.glob("*.journal")) == ["w.00000002.journal", "w.00000003.journal"]
    assert read_all(reader) == [*exchange(2), *exchange(3)]


def test_a_journal_is_removed_only_when_finished(tmp_path: Path) -> None:
    target = writer(tmp_path)
    append_all(target, exchange(1))
    target.flush()
    reader = JournalReader(tmp_path, "w")
    read_all(reader)
    assert not reader.remove()
    target.close()
    unread = JournalReader(tmp_path, "w")
    assert not unread.remove()
    assert journals(tmp_path) == ["w"]
    assert reader.remove()
    assert list(tmp_path.iterdir()) == []
    assert journals(tmp_path) == []


def test_folder_is_listed_and_measured(tmp_path: Path) -> None:
    assert journals(tmp_path / "none") == []
    assert folder_bytes(tmp_path / "none") == 0
    for name in ("b.2", "a-1"):
        target = writer(tmp_path, name, segment_bytes=1)
        for n in range(3):
            append_all(target, exchange(n))
            target.flush()
        target.close()
    (tmp_path / "other.txt").write_text("x")
    assert journals(tmp_path) == ["a-1", "b.2"]
    assert folder_bytes(tmp_path) == sum(path.stat().st_size for path in tmp_path.glob("*.journal"))
    measured = writer(tmp_path, "c")
    assert measured.folder_bytes == folder_bytes(tmp_path)
    measured.close()


def test_second_writer_of_a_name_is_refused(tmp_path: Path) -> None:
    first = writer(tmp_path)
    with pytest.raises(FolderInUse, match="w"):
        writer(tmp_path)
    append_all(first, exchange(1))
    assert first.flush()
    first.close()
    first.close()
    assert read_all(JournalReader(tmp_path, "w")) == exchange(1)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "x" * 200])
def test_a_name_must_fit_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="journal"):
        writer(tmp_path, name)


def test_exchanges_over_the_budget_are_gaps(tmp_path: Path) -> None:
    target = writer(tmp_path, max_bytes=20_000, segment_bytes=4000)
    outcome: dict[int, bool] = {}
    for n in range(60):
        append_all(target, exchange(n, 500))
        outcome[n] = target.flush()
    assert outcome[0]
    assert not outcome[59]
    assert not target.healthy
    assert target.folder_bytes <= 20_000
    reader = JournalReader(tmp_path, "w")
    seen = read_all(reader)
    reader.remove_before(reader.position)
    target.account_folder()
    append_all(target, exchange(100, 500))
    assert target.flush()
    assert target.healthy
    target.close()
    later = read_all(reader)
    assert isinstance(later[0], Gap)
    assert later[1:] == exchange(100, 500)
    assert seen == [record for n, kept in outcome.items() if kept for record in exchange(n, 500)]
    lost = sum(not kept for kept in outcome.values())
    assert (later[0].exchanges, target.gap_exchanges) == (lost, lost)
    assert later[0].first_ns <= later[0].last_ns
    assert later[0].reason


def test_an_exchange_that_lost_a_record_loses_the_rest(tmp_path: Path) -> None:
    target = writer(tmp_path, max_bytes=3_000)
    first, second, third, fourth = exchange(1)
    append_all(target, [first])
    assert target.flush()
    append_all(target, [Chunk(number(1), 2, bytes(5000)), begin(2)])
    assert not target.flush()
    append_all(target, [second, *exchange(3), third])
    assert not target.flush()
    append_all(target, [fourth, *exchange(2)[1:]])
    assert not target.flush()
    append_all(target, exchange(1)[:1])
    assert target.flush(), "after its end an id is forgotten"
    target.close()
    found = read_all(JournalReader(tmp_path, "w"))
    gap = found[1]
    assert isinstance(gap, Gap)
    assert found == [first, gap, *exchange(3), first]
    assert (gap.exchanges, gap.begun) == (2, [number(1)])


def test_a_record_that_cannot_be_encoded_costs_only_its_exchange(tmp_path: Path) -> None:
    target = writer(tmp_path)
    bad = begin(2)
    bad.target = "/\udcff"
    append_all(target, [*exchange(1), bad, *exchange(2)[1:], *exchange(3)])
    assert not target.flush()
    target.close()
    found = read_all(JournalReader(tmp_path, "w"))
    assert [record for record in found if not isinstance(record, Gap)] == [*exchange(1), *exchange(3)]
    assert [record.exchanges for record in found if isinstance(record, Gap)] == [1]
    assert target.gap_exchanges == 1


def fill(target: JournalWriter, count: int, size: int, start: int = 0) -> dict[int, bool]:
    """Interleaved exchanges, flushed one by one; which were kept as far as the writer says."""
    kept: dict[int, bool] = {}
    for n in range(start, start + count):
        items = exchange(n, size)
        append_all(target, items[:2])
        head = target.flush()
        append_all(target, items[2:])
        kept[n] = target.flush() and head
    return kept


def check_gaps(folder: Path, kept: dict[int, bool], target: JournalWriter) -> None:
    reader = JournalReader(folder, "w")
    found = read_all(reader)
    gaps = [record for record in found if isinstance(record, Gap)]
    abandoned = {each for gap in gaps for each in gap.begun}
    ended = [record.id for record in found if isinstance(record, End)]
    assert ended == [number(n) for n, whole in kept.items() if whole]
    half = {record.id for record in found if isinstance(record, Begin)} - set(ended)
    assert half == abandoned
    missing = sum(not whole for whole in kept.values())
    assert missing > 0
    assert sum(gap.exchanges for gap in gaps) == missing == target.gap_exchanges
    assert reader.damaged_frames == 0
    reader.close()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_is_counted_exactly_and_recovers(tmp_path: Path) -> None:
    with small_disk(tmp_path, "300k"):
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(100_000))
        target = writer(tmp_path)
        kept = fill(target, 80, 3000)
        assert not target.healthy
        ballast.unlink()
        kept |= until_kept(target, 1000)
        kept |= fill(target, 10, 3000, start=10**9)
        assert target.healthy
        target.close()
        check_gaps(tmp_path, kept, target)
        assert all(kept[n] for n in range(10**9, 10**9 + 10))


def test_file_size_limit_is_counted_exactly_and_recovers(tmp_path: Path) -> None:
    target = writer(tmp_path)
    kept = fill(target, 3, 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        kept |= fill(target, 20, 3000, start=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not target.healthy
    kept |= until_kept(target, 1000)
    assert target.healthy
    target.close()
    check_gaps(tmp_path, kept, target)


def until_kept(target: JournalWriter, start: int) -> dict[int, bool]:
    """Go on until an exchange is kept again, as live traffic would."""
    kept: dict[int, bool] = {}
    deadline = time.monotonic() + 20
    for n in range(start, start + 1_000_000):
        kept |= fill(target, 1, 10, start=n)
        if kept[n]:
            return kept
        assert time.monotonic() < deadline
    raise AssertionError


WRITER = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from gemini_caching_proxy.journal import Chunk, End, JournalWriter
    sys.path.insert(0, sys.argv[1])
    from test_journal import exchange, append_all
    folder, sync_ms, segment_bytes = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    target = JournalWriter(folder, "w", max_bytes=1 << 40, segment_bytes=segment_bytes, sync_ms=sync_ms)
    os.write(1, b"%d\\n" % os.getpid())
    for n in range(30_000):
        append_all(target, exchange(n, 10 + n * 37 % 3000))
        if n % 3 == 0:
            kept = target.flush()
            os.write(1, b"%d %d\\n" % (n, kept))
    """)


@contextmanager
def running_writer(folder: Path, segment_bytes: int, *wrapper: str) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """The lines that a writing process prints after each flush, and how to kill it."""
    here = str(Path(__file__).parent)
    command = [*wrapper, sys.executable, "-c", WRITER, here, str(folder), "1", str(segment_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline() or 0)
        if not pid:
            pytest.skip(f"{command[0]} cannot run it here")
        try:
            yield process.stdout, lambda: os.kill(pid, signal.SIGKILL)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            process.stdout.read()


@pytest.mark.parametrize("lines", [1, 30, 400])
def test_what_was_flushed_survives_kill(tmp_path: Path, lines: int) -> None:
    with running_writer(tmp_path, 200_000) as (output, kill):
        reported = [output.readline() for _ in range(lines)]
        reader = JournalReader(tmp_path, "w")
        assert reader.writer_alive
        kill()
        reported += output.readlines()
    assert not reader.writer_alive
    last = int([line for line in reported if line.endswith(b" 1\n")][-1].split()[0])
    found = read_all(reader)
    expected = [record for n in range(last + 1) for record in exchange(n, 10 + n * 37 % 3000)]
    assert found[: len(expected)] == expected
    assert reader.finished
    reader.close()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_failed_sync_gives_the_segment_up(tmp_path: Path) -> None:
    fault = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1")
    with running_writer(tmp_path, 1 << 40, "strace", "-f", "-qq", *fault, "-o", "/dev/null") as (output, kill):
        while not (tmp_path / "w.00000001.journal").exists():
            assert output.readline().endswith(b" 1\n")
        kill()
    whole = [record.id for record in read_all(JournalReader(tmp_path, "w")) if isinstance(record, End)]
    assert whole == [number(n) for n in range(len(whole))]


def test_sync_thread_ends_with_its_writer(tmp_path: Path) -> None:
    import threading

    target = writer(tmp_path, sync_ms=1)
    append_all(target, exchange(1))
    target.flush()
    assert "journal-sync" in {thread.name for thread in threading.enumerate()}
    target.close()
    assert "journal-sync" not in {thread.name for thread in threading.enumerate()}
    assert target.sync_failures == 0
    assert target.healthy


def test_long_lived_objects_show_their_state(tmp_path: Path) -> None:
    target = writer(tmp_path)
    append_all(target, exchange(1))
    assert "pending=4" in repr(target)
    target.close()
    assert "segment=0" in repr(JournalReader(tmp_path, "w"))
