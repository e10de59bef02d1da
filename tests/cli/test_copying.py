"""`copy`: between real files, in this process and as a program that is killed in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

import pytest

from factories import (
    NOW_NS,
    Prose,
    agent_session,
    body,
    exchange,
    glue,
    part,
    request_pieces,
    response,
    served,
    sse,
)
from factories import (
    recorded as servable,
)
from gemini_caching_proxy.cli import copying, main
from gemini_caching_proxy.cli.places import place_of
from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.stores.base import CacheEntry, EntryQuery, Gap, Query
from gemini_caching_proxy.stores.sqlite import SQLiteStore
from mongod import Database

from .conftest import Ran, Recorded, run_program

Call = Callable[..., Ran]
SECRET = "hunter2-not-a-real-one"


def with_store(path: Path, work: Callable[[SQLiteStore], Any]) -> Any:
    async def run() -> Any:
        store = SQLiteStore(path)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.aclose()

    return asyncio.run(run())


def fill(path: Path, exchanges: Sequence[Exchange]) -> None:
    async def add(store: SQLiteStore) -> None:
        for start in range(0, len(exchanges), 500):
            await store.add(exchanges[start : start + 500])

    with_store(path, add)


def all_of(path: Path) -> list[Exchange]:
    """In the order of intake."""

    async def read(store: SQLiteStore) -> list[Exchange]:
        found, at = [], 0
        while page := await store.after(at, Query()):
            found += [await store.get(one.id) for one in page]
            at = page[-1].sequence
        return found

    return with_store(path, read)  # type: ignore[no-any-return]


def entries_of(path: Path) -> dict[bytes, CacheEntry]:
    async def read(store: SQLiteStore) -> dict[bytes, CacheEntry]:
        page = await store.entries(EntryQuery(), limit=10_000)
        return {entry.key: entry for entry in page.items}

    return with_store(path, read)  # type: ignore[no-any-return]


def varied(count: int, seed: int = 7) -> Iterator[Exchange]:
    """Turns of a session, streams, unary calls, failures, hits, odd bytes, large bodies, in a mix."""
    random, prose = Random(seed), Prose(seed)
    session = agent_session(100)
    known: list[Exchange] = []
    for number in range(count - 1):
        over: dict[str, Any] = {"started_ns": NOW_NS + random.randrange(10**15)}
        shape = number % 8
        if shape in (0, 1) and (turn := next(session, None)) is not None:
            one = turn
        elif shape == 2:
            one = servable(random.randbytes(16) if number % 3 else b"k" * 16, answer=prose.text(300), **over)
            known.append(one)
        elif shape == 3 and known:
            one = served(random.choice(known), **over)
        elif shape == 4:
            partial = response(sse(prose.text(80))) if number % 3 else None
            kind = random.choice(list(FailureKind))
            one = exchange(outcome=Failure(kind, "It broke.", 502, partial), response_text="", usage=None, **over)
        elif shape == 5:
            data = random.randbytes(random.randrange(5000))
            one = exchange(request_body=body(data), outcome=response([data[:10], b"", data[10:]], status=429), **over)
        elif shape == 6:
            image = part(random.randbytes(20_000))
            one = exchange(request_pieces=(glue(b'{"inline": '), image, glue(b"}")), price=None, **over)
        else:
            asked = prose.text(200)
            one = exchange(asked=asked, model=random.choice(["a", "b"]), user_agent="ünïcode \U0001f600", **over)
        yield one
    yield exchange(request_pieces=request_pieces([part(random.randbytes(9_000_000))]), started_ns=NOW_NS)


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "a.sqlite3", tmp_path / "deep" / "down" / "b.sqlite3"


@pytest.mark.slow
def test_thousands_of_all_shapes_arrive_and_nothing_is_written_into_the_source(
    call: Call, files: tuple[Path, Path]
) -> None:
    source, target = files
    fill(source, list(varied(2200)))
    before = all_of(source)
    (record,) = call("copy", "--from", url(source), "--to", url(target), "--thorough", "--json").records
    assert (record["added"], record["duplicates"], record["refused"], record["differences"]) == (2200, 0, [], 0)
    assert record["compared"]["exchanges"] == record["compared"]["whole"] == 2200
    assert record["pruned"] == 0
    assert all_of(target) == all_of(source) == before
    assert entries_of(target) == entries_of(source)
    assert sum(entry.hits for entry in entries_of(target).values()) > 100
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert with_store(source, lambda store: store.positions()) == {}


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_doubles_nothing(call: Call, files: tuple[Path, Path]) -> None:
    source, target = files
    fill(source, list(varied(2500)))
    arguments = ["copy", "--from", url(source), "--to", url(target)]
    for _ in range(2):
        had = _count(target)
        process = subprocess.Popen(
            [sys.executable, "-m", "gemini_caching_proxy", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        deadline = monotonic() + 60
        while _count(target) < had + 300 and process.poll() is None:
            assert monotonic() < deadline
            sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert 600 <= _count(target) < 2500
    (record,) = call(*arguments, "--thorough", "--json").records
    assert record["resumed"]
    assert record["duplicates"] <= 100
    assert record["added"] + record["duplicates"] < 2500
    assert record["differences"] == 0
    assert all_of(target) == all_of(source)
    assert entries_of(target) == entries_of(source)
    stats = [with_store(path, lambda store: store.stats(Query(), group="day")) for path in files]
    assert stats[0] == stats[1]


def _count(path: Path) -> int:
    if not path.exists():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (count,) = connection.execute("SELECT count(*) FROM exchanges").fetchone()
        return int(count)
    except sqlite3.OperationalError:
        # The tables are being made.
        return 0
    finally:
        connection.close()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(call: Call, files: tuple[Path, Path]) -> None:
    source, target = files
    fill(source, list(varied(2500)))
    arguments = ["copy", "--from", url(source), "--to", url(target)]
    process = subprocess.Popen(
        [sys.executable, "-m", "gemini_caching_proxy", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while _count(target) < 300 and process.poll() is None:
        sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert out == ""
    assert call(*arguments).code == 0
    assert all_of(target) == all_of(source)


@pytest.mark.slow
def test_a_growing_source_is_followed(files: tuple[Path, Path]) -> None:
    source, target = files
    exchanges = list(varied(1600))
    fill(source, exchanges[:800])

    async def grow() -> Ran:
        store = SQLiteStore(source)
        await store.open()
        try:
            copying_ = asyncio.get_running_loop().create_task(
                asyncio.to_thread(run_program, "copy", "--from", url(source), "--to", url(target))
            )
            for start in range(800, 1600, 20):
                await store.add(exchanges[start : start + 20])
                await asyncio.sleep(0)
            return await copying_
        finally:
            await store.aclose()

    ran = asyncio.run(grow())
    assert ran.code == 0, ran.err
    again = run_program("copy", "--from", url(source), "--to", url(target), "--thorough")
    assert again.code == 0, again.err
    assert "no difference" in again.out
    assert all_of(target) == all_of(source)


def test_there_and_back_is_the_same(call: Call, recorded: Recorded, tmp_path: Path) -> None:
    away, back = tmp_path / "away.sqlite3", tmp_path / "home" / "exchanges.sqlite3"
    assert call("copy", "--from", "sqlite", "--to", url(away), *recorded.where).code == 0
    assert call("copy", "--from", url(away), "--to", "sqlite", "--data-dir", str(back.parent)).code == 0
    origin = recorded.folder / "exchanges.sqlite3"
    assert all_of(back) == all_of(origin)
    (into_origin,) = call("copy", "--from", url(back), "--to", url(origin), "--json").records
    assert (into_origin["added"], into_origin["duplicates"], into_origin["differences"]) == (0, 6, 0)


@pytest.mark.slow
def test_into_a_database_and_back_is_the_same(call: Call, files: tuple[Path, Path], mongod: Database) -> None:
    source, target = files
    fill(source, list(varied(700)))
    with_store(source, lambda store: store.pin(b"k" * 16, pinned=True))
    there = ("copy", "--from", url(source), "--to", mongod.uri, "--json", "--thorough")
    back = ("copy", "--from", mongod.uri, "--to", url(target), "--json", "--thorough")
    for arguments in (there, back):
        ran = call(*arguments)
        assert ran.code == 0, ran.err
        (record,) = ran.records
        assert (record["added"], record["compared"]["whole"], record["differences"]) == (700, 700, 0)
        assert record["compared"]["pinned"] == 1
    assert all_of(target) == all_of(source)
    assert entries_of(target) == entries_of(source)


@pytest.mark.slow
def test_killed_on_the_way_into_a_database_it_goes_on(call: Call, files: tuple[Path, Path], mongod: Database) -> None:
    source, _ = files
    fill(source, list(varied(1000)))
    arguments = ("copy", "--from", url(source), "--to", mongod.uri)
    process = subprocess.Popen(
        [sys.executable, "-m", "gemini_caching_proxy", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with mongod.opened() as collections:
        while collections["gemini_interactions"].count_documents({}) < 300 and process.poll() is None:
            sleep(0.005)
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    (record,) = call(*arguments, "--json", "--thorough").records
    assert record["added"] + record["duplicates"] < 1000
    assert (record["resumed"], record["compared"]["whole"], record["differences"]) == (True, 1000, 0)


def test_it_tells_what_it_did_in_words(call: Call, files: tuple[Path, Path]) -> None:
    source, target = files
    one, other = servable(b"k" * 16), servable(b"e" * 16)
    fill(source, [one, other, exchange(started_ns=NOW_NS - 10**15)])
    fill(target, [exchange()])

    async def prepare(store: SQLiteStore) -> None:
        await store.pin(b"k" * 16, pinned=True)
        await store.evict(EntryQuery(key=b"e" * 16))
        await store.add_gap(Gap(3, 1, 2, "disk full"))
        await store.prune(older_than_ns=NOW_NS - 10**14)

    with_store(source, prepare)
    ran = call("copy", "--from", url(source), "--to", url(target))
    assert ran.code == 0
    assert ran.err == f"Copying from {source} to {target}\n"
    first, second, third, fourth = ran.out.splitlines()
    assert first.startswith("Copied 2 exchanges (")
    assert second == (
        "Compared 2 exchanges (2 byte for byte), 1 gap and 1 entry of the cache (1 pinned): no difference."
    )
    assert third == "The target holds 1 exchange from elsewhere."
    assert fourth == (
        "Not copied: the sums (35 tokens, <$0.0001) of 1 exchange that were pruned from the source; "
        "its statistics alone still know them."
    )
    again = call("copy", "--from", url(source), "--to", url(target))
    assert again.out.startswith("Copied 0 exchanges after those of an earlier run (0 B of bodies read).")


def test_a_difference_is_exit_1_and_named_and_can_be_mended(call: Call, files: tuple[Path, Path]) -> None:
    source, target = files
    kept, lost = exchange(started_ns=NOW_NS), exchange(started_ns=NOW_NS - 10**15)
    fill(source, [lost, kept])
    assert call("copy", "--from", url(source), "--to", url(target)).code == 0
    with_store(target, lambda store: store.prune(older_than_ns=NOW_NS - 1))
    ran = call("copy", "--from", url(source), "--to", url(target))
    assert ran.code == 1
    assert "1 difference" in ran.out
    assert f"Different: exchange {lost.id} is missing" in ran.err
    assert "--from-start" in ran.err
    assert call("copy", "--from-start", "--from", url(source), "--to", url(target)).code == 0
    assert len(all_of(target)) == 2


def test_progress_is_lines_where_there_is_no_terminal(
    call: Call, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "LINE_SECONDS", 0)
    source, target = files
    fill(source, [exchange(started_ns=second) for second in range(250)])
    ran = call("copy", "--from", url(source), "--to", url(target))
    lines = ran.err.splitlines()
    copied = [line for line in lines if line.startswith("Copied")]
    assert [line.split(" exchanges")[0] for line in copied] == [
        "Copied 0 of 250",
        "Copied 100 of 250",
        "Copied 200 of 250",
        "Copied 250 of 250",
    ]
    assert all("iB, " in line and line.endswith("/s)") for line in copied[1:])
    assert any(line.startswith("Compared 250 of 250 exchanges (") for line in lines)
    assert "\x1b" not in ran.err


def test_progress_is_a_bar_on_a_terminal(files: tuple[Path, Path]) -> None:
    source, target = files
    fill(source, [exchange(started_ns=second) for second in range(250)])
    ours, its = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gemini_caching_proxy", "copy", "--from", url(source), "--to", url(target)],
        stdout=subprocess.PIPE,
        stderr=its,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(its)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert b"copying" in shown
    assert b"250/250" in shown
    assert b"iB, " in shown
    assert out.startswith(b"Copied 250 exchanges")


# Bad input


@pytest.mark.parametrize(
    ("source", "target", "code", "says"),
    [
        (None, "sqlite", 2, "--from: is needed"),
        ("sqlite", None, 2, "--to: is needed"),
        ("nowhere", "sqlite", 2, "'nowhere' is no store"),
        (f"postgres://me:{SECRET}@db/x", "sqlite", 2, "postgres:… is no store"),
        ("sqlite:///", "sqlite", 2, "is no store"),
        (f"mongodb://me:{SECRET}@with@db/x", "sqlite", 2, "no MongoDB URI"),
        (f"mongodb://me:{SECRET}@", "sqlite", 2, "no MongoDB URI"),
        ("sqlite:///a.sqlite3", "sqlite:///./x/../a.sqlite3", 2, "names the store that --from names too"),
        ("sqlite:///a.sqlite3", "sqlite:///link.sqlite3", 2, "names the store that --from names too"),
        ("sqlite:///a.sqlite3", "sqlite:///hard.sqlite3", 2, "names the store that --from names too"),
        (f"mongodb://me:{SECRET}@DB", "mongodb://db:27017/gemini_proxy?w=1", 2, "names the store that --from names"),
        ("sqlite:///missing.sqlite3", "sqlite:///b.sqlite3", 1, "There is no store at"),
        ("sqlite:///a.sqlite3", "sqlite:///no.folder/b.sqlite3", 1, "cannot be opened for writing"),
        ("sqlite:///a.sqlite3", "sqlite:///folder", 1, "cannot be opened for writing"),
        ("sqlite:///a.sqlite3", "sqlite:///junk.sqlite3", 1, "is damaged or no database"),
        ("sqlite:///junk.sqlite3", "sqlite:///b.sqlite3", 1, "is damaged or no database"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    call: Call, tmp_path: Path, source: str | None, target: str | None, code: int, says: str
) -> None:
    fill(tmp_path / "a.sqlite3", [exchange()])
    (tmp_path / "link.sqlite3").symlink_to("a.sqlite3")
    os.link(tmp_path / "a.sqlite3", tmp_path / "hard.sqlite3")
    (tmp_path / "no.folder").write_text("a file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk.sqlite3").write_bytes(b"no database" * 500)
    arguments = [*(["--from", source] if source else []), *(["--to", target] if target else [])]
    ran = call("copy", *arguments)
    assert ran.code == code
    assert says in ran.err
    assert SECRET not in ran.err + ran.out
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert not (tmp_path / "b.sqlite3").exists()


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        (f"mongodb://me:{SECRET}@db.example.com/team?tlsCertificateKeyFilePassword=x", "mongodb://db.example.com/team"),
        (f"mongodb+srv://me:{SECRET}@cluster.example.com", "mongodb+srv://cluster.example.com/gemini_proxy"),
        ("mongodb://a:1,b,c:27017/?replicaSet=rs0&appName=x@y", "mongodb://a:1,b,c:27017/gemini_proxy"),
    ],
)
def test_a_database_is_shown_without_user_password_and_options(uri: str, name: str) -> None:
    assert place_of(uri, Settings()).name == name


def test_the_store_of_the_settings_can_be_named(
    call: Call, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_PROXY_STORE", url(tmp_path / "team.sqlite3"))
    assert call("copy", "--from", "sqlite", "--to", "store", *recorded.where).code == 0
    assert len(all_of(tmp_path / "team.sqlite3")) == 6


def test_workers_of_the_target_are_told_that_entries_came(call: Call, recorded: Recorded, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    origin = url(recorded.folder / "exchanges.sqlite3")
    assert main(["copy", "--from", origin, "--to", "sqlite", "--data-dir", str(there)]) == 0
    assert (there / "cache.changed").exists()
