"""What only the SQLite store promises: the file, its size, its versions, other processes beside it."""

from __future__ import annotations

import itertools
import math
import os
import random
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import Door

from factories import (
    HOUR_NS,
    NOW_NS,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    Prose,
    agent_session,
    content,
    exchange,
    request_pieces,
    response,
    sse,
)
from gemini_caching_proxy.errors import FormatTooNew, StoreCorrupt, StoreUnavailable
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.stores import histogram, phrases, tallies
from gemini_caching_proxy.stores.base import Query
from gemini_caching_proxy.stores.sqlite import SQLiteStore, connection, expression, reader, sqlite_version


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


def opened(path: Path, *, read_only: bool = False) -> Door:
    assert path.name == "store.sqlite3"
    return Door("sqlite", path.parent, read_only=read_only)


@pytest.fixture
def store(path: Path) -> Iterator[Door]:
    with opened(path) as door:
        yield door


@contextmanager
def raw_connection(path: Path) -> Iterator[apsw.Connection]:
    """Another program's look into the file; apsw's own `with` would be a transaction."""
    with closing(apsw.Connection(str(path))) as raw:
        yield raw


# Size.


def test_an_agent_session_takes_three_percent_of_what_was_sent(path: Path) -> None:
    """200 turns, each request repeating all before it: the file, index included, against the bytes of the requests."""
    session = list(agent_session(200, element_bytes=1020))
    sent = sum(each.request_body.size for each in session)
    assert session[-1].request_body.size >= 400_000
    with opened(path) as store:
        for start in range(0, 200, 8):
            store.add(session[start : start + 8])
        assert store.get(session[-1].id) == session[-1]
    assert path.stat().st_size / sent <= 0.03


def test_interleaved_sessions_stay_as_small(path: Path) -> None:
    sessions = [list(agent_session(100, seed=seed)) for seed in range(3)]
    sent = sum(each.request_body.size for session in sessions for each in session)
    with opened(path) as store:
        for turn in zip(*sessions, strict=True):
            store.add(turn)
    assert path.stat().st_size / sent <= 0.06  # half as long, so each request repeats half as much


def test_headers_that_repeat_are_kept_once(store: Door) -> None:
    def dated(n: int) -> Exchange:
        request = (*REQUEST_HEADERS[:-1], (b"content-length", str(n).encode()))
        answer = (*RESPONSE_HEADERS, (b"Date", b"day %d" % n), (b"Server-Timing", b"dur=%d" % n))
        return exchange(asked="same", request_headers=request, outcome=response(sse(f"answer {n}"), headers=answer))

    several = [dated(n) for n in range(5)]
    store.add(several[:1])
    parts = store.size().parts
    store.add(several[1:])
    assert store.size().parts == parts
    assert [store.get(each.id) for each in several] == several


def test_filters_work_with_more_combinations_than_can_be_looked_up_apart(store: Door) -> None:
    odd = [exchange(user_agent=f"agent-{n}/1", started_ns=NOW_NS + n, model="m" if n % 3 else "x") for n in range(1600)]
    store.add(odd)
    wanted = [each.id for each in reversed(odd) if each.model == "m"]
    assert len(wanted) > reader.MOST_FACETS_APART
    first = store.list(Query(model="m"), limit=500)
    second = store.list(Query(model="m"), limit=500, cursor=first.next_cursor)
    assert [item.id for item in (*first.items, *second.items)] == wanted[:1000]
    assert store.stats(Query(model="m"))[0].exchanges == len(wanted)


def test_statistics_and_lists_do_not_read_bodies(path: Path) -> None:
    with opened(path) as store:
        store.add([exchange(answer="x" * 1000) for _ in range(10)])
    with raw_connection(path) as raw:
        raw.execute("UPDATE parts SET data = x''; UPDATE uses SET parts = x''; UPDATE details SET record = x''")
    with opened(path, read_only=True) as store:
        assert len(store.list(Query(model="gemini*")).items) == 10
        assert store.stats(Query(), group="model")[0].exchanges == 10


# The file.


def test_the_file_is_for_its_owner_only(path: Path, store: Door) -> None:
    store.add([exchange()])
    for name in os.listdir(path.parent):
        assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600, name


def test_the_file_is_kept_as_documented(path: Path, store: Door) -> None:
    with raw_connection(path) as raw:
        assert raw.pragma("journal_mode") == "wal"
        assert raw.pragma("auto_vacuum") == 2
        assert raw.pragma("user_version") == 2


def test_this_sqlite_is_safe() -> None:
    connection.require_safe_version(sqlite_version())


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.51", "2.9.9"])
def test_an_sqlite_that_corrupts_is_refused(version: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"3\.51\.3"):
        connection.require_safe_version(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "4.0.0", "3.100.1.2"])
def test_a_later_sqlite_is_taken(version: str) -> None:
    connection.require_safe_version(version)


MOUNTS = r"""
23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 23 0:30 / /mnt/vio rw - virtiofs share rw
31 23 0:31 / /mnt/nfs rw - nfs4 host:/x rw
32 31 254:1 / /mnt/nfs/disk rw - xfs /dev/vdb rw
33 23 0:33 / /mnt/with\040space rw,nosuid master:2 shared:9 - fuse.sshfs host: rw
34 23 0:34 / /c rw - 9p drvfs rw
35 23 0:35 / /share rw - cifs //host/x rw
36 23 0:36 / /run rw - tmpfs tmpfs rw
37 23 0:36 / /over rw - overlay overlay rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/home/me/x.sqlite3", "wal"),
        ("/mnt/vio/x.sqlite3", "delete"),
        ("/mnt/viola/x.sqlite3", "wal"),
        ("/mnt/nfs/x", "delete"),
        ("/mnt/nfs/disk/deep/x", "wal"),
        ("/mnt/with space/x", "delete"),
        ("/c/Users/x", "delete"),
        ("/share/x", "delete"),
        ("/run/x", "wal"),
        ("/over/x", "wal"),
    ],
)
def test_the_journal_mode_goes_by_the_file_system(path: str, mode: str) -> None:
    assert connection.journal_mode(Path(path), MOUNTS) == mode


def test_without_a_mount_table_it_is_wal() -> None:
    assert connection.journal_mode(Path("/x"), "") == "wal"


def test_without_wal_it_works_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "journal_mode", lambda path, mounts: "delete")
    with opened(path) as store, opened(path, read_only=True) as reader:
        session = list(agent_session(5))
        for each in session:
            store.add([each])
            assert reader.get(each.id) == each
        with raw_connection(path) as raw:
            assert raw.pragma("journal_mode") == "delete"
        assert store.prune(older_than_ns=session[3].started_ns).exchanges == 3
        assert reader.get(session[4].id) == session[4]
    assert [name.name for name in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "content", [b"this is no database, but long enough to be one" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes, read_only: bool) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"store\.sqlite3"):
        opened(path, read_only=read_only)
    assert path.read_bytes() == content


def test_damage_shows_as_a_store_that_is_corrupt(path: Path) -> None:
    session = list(agent_session(30))
    with opened(path) as store:
        store.add(session)
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(1).randbytes(len(data) - 4096)
    path.write_bytes(data)

    def use() -> None:
        with opened(path) as store:
            store.get(session[0].id)
            store.add([exchange()])

    with pytest.raises(StoreUnavailable):
        use()


@pytest.mark.parametrize("damage", ["UPDATE details SET record = x'01ffff'", "UPDATE details SET record = x'00c1'"])
def test_a_damaged_record_shows_as_a_store_that_is_corrupt(path: Path, store: Door, damage: str) -> None:
    each = exchange()
    store.add([each])
    with raw_connection(path) as raw:
        raw.execute(damage)
    with pytest.raises(StoreCorrupt):
        store.get(each.id)
    assert len(store.list(Query()).items) == 1


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    with raw_connection(path) as raw:
        raw.execute("CREATE TABLE theirs (x)")
    for read_only in (False, True):
        with pytest.raises(StoreUnavailable, match="another program"):
            opened(path, read_only=read_only)


def test_a_newer_format_is_refused(path: Path) -> None:
    opened(path).close()
    with raw_connection(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    for read_only in (False, True):
        with pytest.raises(FormatTooNew, match="99"):
            opened(path, read_only=read_only)


def test_reading_a_store_that_is_not_there_says_so(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no store"):
        opened(path, read_only=True)
    assert not path.exists()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Door("sqlite", tmp_path / "file" / "folder")


def test_a_failed_opening_leaves_no_thread(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    before = threading.active_count()
    with pytest.raises(StoreUnavailable):
        opened(path)
    assert threading.active_count() == before


def test_its_state_can_be_seen(path: Path) -> None:
    assert repr(SQLiteStore(path)).endswith("closed>")
    with opened(path) as store:
        assert repr(store.store).endswith("open>")
        with opened(path, read_only=True) as reader:
            assert repr(reader.store).endswith("read-only>")


# Other processes.


def test_a_long_reader_does_not_hold_up_the_writer(path: Path, store: Door) -> None:
    store.add([exchange()])
    with raw_connection(path) as raw:
        raw.execute("BEGIN")
        assert raw.execute("SELECT count(*) FROM exchanges").get == 1
        began = time.monotonic()
        store.add([exchange() for _ in range(10)])
        store.prune(older_than_ns=NOW_NS - 1)
        assert time.monotonic() - began < 5
        assert raw.execute("SELECT count(*) FROM exchanges").get == 1
        raw.execute("ROLLBACK")
    assert store.size().exchanges == 11


def test_readers_are_not_turned_away_while_another_process_writes(path: Path, store: Door) -> None:
    store.add([exchange()])
    with raw_connection(path) as raw, opened(path, read_only=True) as reader:
        raw.execute("BEGIN IMMEDIATE; DELETE FROM exchanges")
        assert len(reader.list(Query()).items) == 1
        assert reader.stats(Query())[0].exchanges == 1
        raw.execute("ROLLBACK")


def test_a_reader_never_writes(path: Path, store: Door) -> None:
    reader = connection.open_reader(path)
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM exchanges")
    reader.close()


def test_a_writer_waits_for_another(path: Path, store: Door) -> None:
    with raw_connection(path) as raw:
        raw.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.2, lambda: None)
        adding = threading.Thread(target=lambda: store.add([exchange()]))
        adding.start()
        release.start()
        release.join()
        raw.execute("COMMIT")
        adding.join()
    assert store.size().exchanges == 1


# Pruning.


def test_prune_makes_the_file_smaller(path: Path, store: Door) -> None:
    prose = Prose(4)
    old = [exchange(started_ns=NOW_NS - 1, asked=prose.text(3000), answer=prose.text(2000)) for _ in range(300)]
    new = [exchange(started_ns=NOW_NS, asked=prose.text(3000), answer=prose.text(2000)) for _ in range(30)]
    store.add(old + new)
    before = store.size().file_bytes
    result = store.prune(older_than_ns=NOW_NS)
    after = store.size().file_bytes
    assert (result.exchanges, result.bytes_freed) == (300, before - after)
    assert after < before / 4
    assert [store.get(each.id) for each in new] == new


def test_what_was_pruned_is_not_in_the_file_any_more(path: Path) -> None:
    with opened(path) as store:
        store.add(
            [exchange(started_ns=NOW_NS - 1, asked=f"xyzzyplugh{n}", answer=f"quuxfrobnicate{n}") for n in range(50)]
        )
        store.add([exchange()])
        store.prune(older_than_ns=NOW_NS)
    for name in path.parent.iterdir():
        data = name.read_bytes()
        assert b"xyzzyplugh" not in data
        assert b"quuxfrobnicate" not in data


def test_a_prune_that_died_is_finished_by_the_next(path: Path, store: Door) -> None:
    session = list(agent_session(8))
    store.add(session)
    with raw_connection(path) as raw:  # as far as a prune may have come: exchanges gone, their parts not
        first = raw.execute("SELECT min(sequence) FROM exchanges").get
        for table in ("exchanges", "details", "uses"):
            raw.execute(f"DELETE FROM {table} WHERE sequence = ?", (first,))
    assert [store.get(each.id) for each in session[1:]] == session[1:]
    store.prune(older_than_ns=session[0].started_ns)
    with raw_connection(path) as raw:
        orphans = "SELECT count(*) FROM parts WHERE owner NOT IN (SELECT sequence FROM exchanges)"
        assert raw.execute(orphans).get == 0
    assert [store.get(each.id) for each in session[1:]] == session[1:]


def test_adding_goes_on_during_a_prune(path: Path) -> None:
    """While one process prunes, a writer that reuses the parts being looked at never loses one."""
    shared = [content(f"shared {n} " * 20) for n in range(40)]
    rng = random.Random(2)

    def batch(started_ns: int) -> list[Exchange]:
        return [exchange(started_ns=started_ns, request_pieces=request_pieces(rng.sample(shared, 5))) for _ in range(8)]

    with opened(path) as writer, opened(path) as pruner:
        for _ in range(40):
            writer.add(batch(NOW_NS - 1))
        kept: list[Exchange] = []
        pruning = threading.Thread(target=lambda: pruner.prune(older_than_ns=NOW_NS))
        pruning.start()
        while pruning.is_alive() or not kept:
            added = batch(NOW_NS)
            writer.add(added)
            kept += added
        pruning.join()
        assert [writer.get(each.id) for each in kept] == kept
        pruner.prune(older_than_ns=NOW_NS)
        assert [writer.get(each.id) for each in kept] == kept
        assert writer.size().exchanges == len(kept)


# Words.


@pytest.mark.parametrize("typed", ["世界", "你好", "界你", "こんに", "ちは", "안녕", "녕하세", "𠀀"])
def test_any_piece_of_a_text_without_spaces_is_found(store: Door, typed: str) -> None:
    each = exchange(asked="Say 世界你好 and こんにちは and 안녕하세요 and 𠀀𠀁")
    store.add([each, exchange(asked="你 世 界 こ 𠀁")])
    hits = store.search(typed, Query())
    assert [hit.summary.id for hit in hits][-1] == each.id
    assert f"\x02{typed}\x03" in hits[-1].snippet


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("two words", '"two" "words"'),
        ("snake_case foo.bar", '"snake_case" "foo.bar"'),
        ('say "hi"', '"say" """hi"""'),
        ("世界", '" 世  界 "'),
        ("--- !", None),
        ("", None),
        ("a\0b", '"a" "b"'),
    ],
)
def test_what_is_typed_becomes_quoted_words(typed: str, expected: str | None) -> None:
    assert expression.match_expression(typed) == expected


@pytest.mark.parametrize(
    ("text", "typed", "snippet"),
    [
        ("one two three", "two", "one \x02two\x03 three"),
        ("one two three", "TW", "one \x02tw\x03o three".replace("tw\x03o", "tw\x03o")),
        ("the café is", "cafe", "the \x02café\x03 is"),
        ("call foo_bar(x)", "foo bar", "call \x02foo\x03_bar(x)"),
        ("call foo_bar(x)", "foo_bar", "call \x02foo_bar\x03(x)"),
        ("nothing here", "absent", "nothing here"),
        ("a.b*c", "b*", "a.\x02b\x03*c"),
    ],
)
def test_a_snippet_shows_the_match(text: str, typed: str, snippet: str) -> None:
    assert phrases.snippet(text, typed) == snippet


def test_a_rare_filter_finds_the_same_words(path: Path, store: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exchanges are asked one by one where a filter leaves few; it must make no difference."""
    shared = [content(f"needle {n}") for n in range(4)]
    rng = random.Random(6)
    many = [
        exchange(
            started_ns=NOW_NS + n,
            request_pieces=request_pieces(rng.sample(shared, 2)),
            answer=rng.choice(["needle", "needle", "hay"]),
            model=rng.choice(["a", "a", "a", "b"]),
        )
        for n in range(40)
    ]
    store.add(many)
    store.prune(older_than_ns=NOW_NS + 5)
    found = {}
    for few in (0, 1000):
        monkeypatch.setattr(reader, "FEW_EXCHANGES", few)
        cursor, pages = None, []
        while True:
            page = store.list(Query(contains="needle", model="a"), limit=3, cursor=cursor)
            pages.append([item.id for item in page.items])
            cursor = page.next_cursor
            if cursor is None:
                break
        found[few] = pages
    assert found[0] == found[1000]
    assert len(found[0]) > 2


# Statistics.


@given(values=st.lists(st.integers(0, 10**10), min_size=1, max_size=200), share=st.floats(0.01, 1))
def test_a_percentile_is_at_most_five_percent_off(values: list[int], share: float) -> None:
    counted: dict[int, int] = {}
    for value in values:
        bucket = histogram.bucket_of(value)
        counted[bucket] = counted.get(bucket, 0) + 1
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    found = histogram.percentile(counted, share)
    assert found is not None
    assert abs(found - exact) <= 0.05 * exact + 0.5


@given(st.lists(st.dictionaries(st.integers(0, 255), st.integers(1, 10**7), max_size=8), max_size=4))
def test_histograms_add_up_by_concatenation(several: list[dict[int, int]]) -> None:
    total: dict[int, int] = {}
    histogram.merge_encoded(total, "".join(map(histogram.encode, several)))
    assert total == {key: sum(each.get(key, 0) for each in several) for key in set(itertools.chain(*several))}


moments = st.none() | st.integers(-3, 40 * 24 * 4).map(lambda quarter: NOW_NS + quarter * HOUR_NS // 4)


@settings(max_examples=300)
@given(since=moments, until=moments, finest=st.sampled_from([None, "day", "hour"]), at=st.integers(-3, 40 * 24 * 4))
def test_every_moment_of_a_time_range_is_in_one_span(
    since: int | None, until: int | None, finest: str | None, at: int
) -> None:
    moment = NOW_NS + at * HOUR_NS // 4 + 7
    units = {"exchange": 1} | {name: seconds * 10**9 for name, seconds in tallies.GRAINS}
    spans = list(tallies.spans(since, until, finest_wanted=finest))
    holding = 0
    for span in spans:
        start_of_cell = moment // units[span.grain] * units[span.grain] // (1 if span.grain == "exchange" else 10**9)
        holding += span.start <= start_of_cell < span.end
    assert holding == ((since is None or moment >= since) and (until is None or moment < until))
    assert all(units[span.grain] <= units[finest or "block"] for span in spans)
    if since is None and until is None:
        assert len(spans) == 1


# Speed. The limits are far from what is measured on a quiet machine, so that only a change of kind breaks them.


@pytest.mark.slow
def test_the_recorder_is_kept_up_with(path: Path) -> None:
    prose = Prose(3)
    batches = [[exchange(asked=prose.text(300), answer=prose.text(300)) for _ in range(64)] for _ in range(30)]
    with opened(path) as store:
        began = time.process_time()
        for batch in batches:
            store.add(batch)
        assert 30 * 64 / (time.process_time() - began) > 500
