"""What only the SQLite store promises about the cache: old files, what is read, by which index."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import first_format
import pytest
import zstandard
from kinds import Door

from factories import NOW_NS, agent_session, body, digest, exchange, recorded, response, served
from gemini_caching_proxy.errors import StoreCorrupt, StoreUnavailable
from gemini_caching_proxy.exchange import CacheUse, Verdict
from gemini_caching_proxy.stores.base import EntryQuery, Query
from gemini_caching_proxy.stores.sqlite import answers, connection, entries, schema, steps

KEY = b"k" * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


@pytest.fixture
def old(path: Path) -> Path:
    """A file as the first format's code made it."""
    path.write_bytes(zstandard.ZstdDecompressor().decompress(first_format.FILE.read_bytes()))
    return path


@pytest.fixture
def raw(path: Path, store: Door) -> Iterator[apsw.Connection]:
    """Another program's look into the file."""
    with closing(apsw.Connection(str(path))) as raw:
        yield raw


def opened(path: Path, *, read_only: bool = False) -> Door:
    return Door("sqlite", path.parent, read_only=read_only)


@pytest.fixture
def store(path: Path) -> Iterator[Door]:
    with opened(path) as door:
        yield door


def value(raw: apsw.Connection, sql: str) -> Any:
    return raw.execute(sql).get


# Files of the first format.


def test_a_file_of_the_first_format_is_brought_up_to_date(old: Path) -> None:
    kept = first_format.kept()
    with opened(old) as store:
        assert [store.get(each.id) for each in kept] == kept
        assert store.positions() == {first_format.POSITION.journal: first_format.POSITION}
        assert store.gaps() == (first_format.GAP,)
        assert store.size().exchanges == len(kept)
        assert {item.verdict for item in store.list(Query()).items} == {None}
        assert store.entries(EntryQuery()).items == ()
        (row,) = store.stats(Query())
        assert (row.exchanges, row.errors, row.total_tokens) == (len(kept), 2, 35 * len(kept))
        assert (row.cache_hits, row.saved_nanousd, row.saved_us) == (0, 0, 0)
        assert [hit.summary.id for hit in store.search("long", Query())] == [kept[-1].id]


def test_a_file_of_the_first_format_goes_on_growing(old: Path) -> None:
    kept = first_format.kept()
    before = NOW_NS - 1
    with opened(old) as store:
        again = store.add(kept)
        assert (again.added, again.duplicates) == (0, len(kept))
        source = recorded(KEY, outcome=kept[-1].outcome, started_ns=NOW_NS)
        store.add([source, served(source, use={"saved_nanousd": 3, "saved_us": 4})])
        assert store.add_entry(kept[0].id, b"o" * 16, "answer")
    with opened(old, read_only=True) as store:
        assert store.find_cached([b"o" * 16]).response == kept[0].outcome
        assert store.find_cached([KEY]).entry.hits == 1
        assert [item.verdict for item in store.list(Query(verdict=Verdict.HIT)).items] == [Verdict.HIT]
        for query in (Query(), Query(until_ns=before), Query(since_ns=before)):
            days = store.stats(query, group="day")
            assert sum(row.exchanges for row in days) == len(store.list(query).items)
            assert sum(row.cache_hits for row in days) == (0 if query.until_ns else 1)
    with opened(old) as store:
        store.prune(older_than_ns=before)
        assert [entry.key for entry in store.entries(EntryQuery()).items] == [KEY]
        assert store.stats(Query())[0].exchanges == len(kept) + 2


def test_an_old_combination_of_fields_is_still_the_same(old: Path) -> None:
    with opened(old) as store, closing(apsw.Connection(str(old))) as raw:
        facets = value(raw, "SELECT count(*) FROM facets")
        rollups = value(raw, "SELECT count(*) FROM rollups")
        store.add([exchange(started_ns=each.started_ns) for each in first_format.kept()[:4]])
        assert value(raw, "SELECT count(*) FROM facets") == facets
        assert value(raw, "SELECT count(*) FROM rollups") == rollups
        store.add([exchange(cache=CacheUse(verdict)) for verdict in Verdict])
        assert value(raw, "SELECT count(*) FROM facets") == facets + len(Verdict)
        assert value(raw, "SELECT count(DISTINCT digest) FROM facets") == facets + len(Verdict)


def test_a_new_combination_without_a_verdict_is_named_as_before(old: Path, tmp_path: Path) -> None:
    """A digest that another version wrote stands for the same fields in this one."""
    (tmp_path / "new").mkdir()
    with opened(old) as store, Door("sqlite", tmp_path / "new") as new:
        store.size()
        new.add(first_format.kept())
    digests = []
    for file in (old, tmp_path / "new" / "store.sqlite3"):
        with closing(apsw.Connection(str(file))) as raw:
            digests.append({digest for (digest,) in raw.execute("SELECT digest FROM facets")})
    assert digests[0] == digests[1]


def test_a_reader_of_a_file_of_the_first_format_says_so(old: Path) -> None:
    with pytest.raises(StoreUnavailable, match="older format"):
        opened(old, read_only=True)
    with closing(apsw.Connection(str(old))) as raw:
        assert raw.pragma("user_version") == 1


def test_a_migration_touches_no_row(old: Path) -> None:
    """Whatever is in the file, bringing it up to date writes to the schema alone."""
    with closing(apsw.Connection(str(old))) as raw:
        raw.execute("BEGIN IMMEDIATE")
        before = raw.total_changes()
        schema.m002_cache(raw)
        assert raw.total_changes() - before == 1  # the row of sums
        raw.execute("ROLLBACK")


def test_a_migration_that_fails_leaves_the_file_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(raw: apsw.Connection) -> None:
        schema.m002_cache(raw)
        raise apsw.FullError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (schema.m001_exchanges, broken))
        with pytest.raises(StoreUnavailable):
            opened(old)
    with opened(old) as store:
        assert store.get(first_format.kept()[0].id) == first_format.kept()[0]


def test_several_bring_a_file_up_to_date_at_once(old: Path) -> None:
    versions: list[int] = []

    def bring() -> None:
        with closing(connection.open_writer(old)) as writer:
            versions.append(schema.version_of(writer, str(old)))

    threads = [threading.Thread(target=bring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions == [schema.VERSION] * 4
    with opened(old) as store:
        assert store.size().exchanges == len(first_format.kept())


# What is read, and how.


def test_a_lookup_reads_no_part_of_the_request(store: Door, raw: apsw.Connection) -> None:
    session = list(agent_session(12))
    split = replace(session[-1], entry_key=KEY, entry_kind="answer")
    whole = recorded(b"w" * 16, request_body=body(b"r" * 5000), outcome=response([b"a" * 5000]), response_text="")
    store.add([*session[:-1], split, whole])
    sent = [piece.digest or b"" for piece in split.request_pieces] + [digest(whole.request_body.data)]
    raw.executemany("UPDATE parts SET data = x'01ffff' WHERE digest = ?", [(each,) for each in sent])
    for each in (split, whole):
        assert store.find_cached([each.entry_key]).response == each.outcome
        with pytest.raises(StoreCorrupt):
            store.get(each.id)


def test_a_pruned_header_is_not_served_from_memory(store: Door) -> None:
    """What a reader remembers by a part's number stays right: numbers are never used twice."""
    for round_ in range(3):
        answer = response(headers=((b"x-round", b"%d" % round_),))
        each = recorded(KEY, outcome=answer, started_ns=NOW_NS + round_)
        store.add([each])
        assert store.find_cached([KEY]).response == answer
        store.prune(older_than_ns=NOW_NS + round_ + 1)
        assert store.find_cached([KEY]) is None


ALL_PLANS = {
    "answer": (answers._ANSWER, 1),
    "presence": ("SELECT 1 FROM entries WHERE key = ?", 1),
    "hit": (entries._COUNT, 5),
    "oldest": ("SELECT min(stored_ns) FROM entries", 0),
    "by exchange": ("DELETE FROM entries WHERE sequence = ?", 1),
}


@pytest.mark.parametrize("name", sorted(ALL_PLANS))
def test_questions_about_entries_use_an_index(raw: apsw.Connection, name: str) -> None:
    sql, parameters = ALL_PLANS[name]
    steps = plan(raw, sql, (1,) * parameters)
    assert all(step.startswith(("SEARCH", "SCALAR SUBQUERY", "USE TEMP")) for step in steps), steps


def plan(raw: apsw.Connection, sql: str, parameters: Sequence[Any]) -> list[str]:
    return [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]


ID = UUID(int=1)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (EntryQuery(), "COVERING INDEX entries_by_time ((stored_ns,key)<(?,?))"),
        (EntryQuery(model="m"), "COVERING INDEX entries_by_time ((stored_ns,key)<(?,?))"),
        (EntryQuery(kind="error", larger_than=1), "COVERING INDEX entries_by_time ((stored_ns,key)<(?,?))"),
        (EntryQuery(stored_before_ns=1), "COVERING INDEX entries_by_time ((stored_ns,key)<(?,?))"),
        (EntryQuery(pinned=True), "INDEX entries_pinned"),
        (EntryQuery(key=KEY), "PRIMARY KEY (key=?)"),
        (EntryQuery(exchange=ID), "INDEX entries_by_exchange (sequence=?)"),
        (EntryQuery(conversation=ID, model="m"), "INDEX entries_by_exchange (sequence=?)"),
    ],
)
def test_lists_of_entries_use_an_index(raw: apsw.Connection, query: EntryQuery, wanted: str) -> None:
    sql, parameters = answers.page_statement(query, [1] if query.model else None, None, 50)
    assert wanted in plan(raw, sql, parameters)[0]


# Evicting many.


def test_much_work_is_done_in_short_transactions(raw: apsw.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=steps.LOCK_S / 3)
    pauses: list[float] = []
    monkeypatch.setattr(steps, "monotonic", lambda: next(clock))
    monkeypatch.setattr(steps, "sleep", pauses.append)
    seen: list[int] = []

    def act(item: int) -> bool:
        assert raw.in_transaction
        seen.append(item)
        return item % 2 == 0

    assert steps.in_short_steps(raw, range(10), act) == 5
    assert seen == list(range(10))
    assert len(pauses) >= 3


def test_evicting_many_never_holds_the_lock_for_long(path: Path, store: Door) -> None:
    store.add([exchange()])
    with closing(apsw.Connection(str(path))) as raw:
        raw.execute("BEGIN IMMEDIATE")
        raw.executemany(
            "INSERT INTO entries VALUES (?, 1, 1, 'answer', ?, 10, 0, 0, NULL, 0, 0)",
            ((number.to_bytes(16, "big"), number) for number in range(30_000)),
        )
        raw.execute("COMMIT")
        assert store.cache_stats().entries == 30_000
        evicted: list[int] = []
        evicting = threading.Thread(target=lambda: evicted.append(store.evict(EntryQuery())))
        evicting.start()
        raw.set_busy_timeout(5000)
        writes = 0
        while evicting.is_alive():
            raw.execute("INSERT OR REPLACE INTO positions VALUES ('x', 1, ?)", (writes,))
            writes += 1
        evicting.join()
    assert evicted == [30_000]
    assert writes >= 3
    assert store.cache_stats().answer_bytes == 0
