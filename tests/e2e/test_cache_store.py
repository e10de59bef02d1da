"""Where answers are found: after a restart, in other workers, in a store that is away, damaged, changed or slow."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gemini_caching_proxy.cli import main
from wire import Answered, ScriptedUpstream, ask

from .asking import SSE, Numbered, call, generate, is_hit, said
from .serving import ProxyProcess, wait_for

ONLY = b"Cache-Control: only-if-cached"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(Numbered()) as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def _numbered(upstream: ScriptedUpstream) -> None:
    upstream.script = Numbered()
    upstream.forget()


def command(proxy: ProxyProcess, *arguments: str) -> int:
    return main([*arguments, "--data-dir", str(proxy.data_dir)])


def hit(port: int, text: str, method: bytes = b"generateContent", **more: bytes) -> Answered:
    """The recorded answer, once there is one to be had; never by a call."""
    request = call(generate(text), method, ONLY, **more)
    return wait_for(lambda: found if is_hit(found := ask(port, request)) else None, what="a hit")


def test_hits_come_from_the_store_after_a_restart(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        unary, stream = (ask(proxy.port, call(generate("kept"), method)) for method in (b"generateContent", SSE))
        other = ask(proxy.port, call(generate("other"), SSE))
    assert is_hit(stream)
    with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        again = hit(proxy.port, "kept")
        assert again.body == unary.body
        assert again.header(b"x-source-exchange-id") == unary.header(b"x-exchange-id")
        assert hit(proxy.port, "kept", SSE).body == stream.body
        assert hit(proxy.port, "other", SSE).chunks == other.chunks
    assert len(upstream.requests) == 2


def test_a_replaying_proxy_answers_its_first_requests(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """However long it takes to open the store, and however many ask at once: it has nobody else to ask."""
    requests = [call(generate(f"question {number}"), SSE) for number in range(200)]
    with ProxyProcess(tmp_path, upstream=upstream.url) as proxy, ThreadPoolExecutor(8) as pool:
        recorded = list(pool.map(lambda request: ask(proxy.port, request), requests))
    with (
        ProxyProcess(tmp_path, upstream=upstream.url, cache="replay", cache_lookup_ms=1) as proxy,
        ThreadPoolExecutor(100) as pool,
    ):
        replayed = list(pool.map(lambda request: ask(proxy.port, request), requests))
    assert [answered.status for answered in replayed] == [200] * 200
    assert [answered.body for answered in replayed] == [answered.body for answered in recorded]


def test_other_workers_find_it_once_it_is_recorded(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url, workers=2) as proxy:
        first = ask(proxy.port, call(generate("shared by workers")))
        proxy.exchanges(1)
        # The kernel spreads connections over the workers: thirty that all go to one are out of the question.
        answers = [hit(proxy.port, "shared by workers") for _ in range(30)]
        assert {answered.body for answered in answers} == {first.body}
    assert len(upstream.requests) == 1


def test_eviction_takes_effect_at_once(
    tmp_path: Path, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        first = ask(proxy.port, call(generate("evict me")))
        kept = ask(proxy.port, call(generate("keep me"), model=b"gemini-2.5-pro"))
        proxy.exchanges(2)
        assert is_hit(ask(proxy.port, call(generate("evict me"))))
        assert command(proxy, "cache", "evict", "--model", "gemini-2.5-flash", "--yes") == 0
        fresh = ask(proxy.port, call(generate("evict me")))
        assert not is_hit(fresh)
        assert fresh.body != first.body
        assert hit(proxy.port, "keep me", model=b"gemini-2.5-pro").body == kept.body
        assert ask(proxy.port, call(generate("evict me"))).body == fresh.body
    capsys.readouterr()


def test_a_pinned_answer_does_not_age(
    tmp_path: Path, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url, cache_ttl="generation=0s") as proxy:
        first = ask(proxy.port, call(generate("pin me")))
        proxy.exchanges(1)
        request = call(generate("pin me"), b"generateContent", ONLY)
        assert ask(proxy.port, request).status == 504
        assert command(proxy, "cache", "pin", said(first)["key"]) == 0
        pinned = hit(proxy.port, "pin me")
        assert pinned.body == first.body
        assert "ttl" not in said(pinned)
        fresh = ask(proxy.port, call(generate("pin me"), b"generateContent", b"Cache-Control: no-cache"))
        assert fresh.body != first.body
        proxy.exchanges()
        assert ask(proxy.port, request).body == first.body, "what is pinned is not replaced"
        assert command(proxy, "cache", "pin", "--off", said(first)["key"]) == 0
        assert ask(proxy.port, request).status == 504
    capsys.readouterr()


def age_all(proxy: ProxyProcess, seconds: int) -> None:
    """Make all entries older, as if time had passed."""
    with sqlite3.connect(proxy.data_dir / "exchanges.sqlite3") as store:
        store.execute("UPDATE entries SET stored_ns = stored_ns - ?", (seconds * 10**9,))
    store.close()


def test_answers_age(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url, cache_ttl="generate_content=1h") as proxy:
        first = ask(proxy.port, call(generate("old")))
        assert said(first)["ttl"] == "3600"
        proxy.exchanges(1)
    age_all(proxy, 3000)
    with ProxyProcess(tmp_path, upstream=upstream.url, cache_ttl="generate_content=1h") as proxy:
        again = hit(proxy.port, "old")
        assert 3000 <= int(again.header(b"age") or 0) < 3200
        assert int(said(again)["ttl"]) == 3600 - int(again.header(b"age") or 0)
        young = call(generate("old"), b"generateContent", b"Cache-Control: max-age=2000", ONLY)
        assert ask(proxy.port, young).status == 504
        fresh = ask(proxy.port, call(generate("old"), b"generateContent", b"Cache-Control: max-age=2000"))
        assert said(fresh)["fwd"] == "stale"
        assert fresh.body != first.body
        proxy.exchanges()
    age_all(proxy, 3700)
    with ProxyProcess(tmp_path, upstream=upstream.url, cache_ttl="generate_content=1h") as proxy:
        wait_for(lambda: ask(proxy.port, call(generate("old"), b"generateContent", ONLY)).status == 504)
        renewed = ask(proxy.port, call(generate("old")))
        assert said(renewed)["fwd"] == "stale"
        assert ask(proxy.port, call(generate("old"))).body == renewed.body
    with ProxyProcess(tmp_path, upstream=upstream.url, cache="replay") as proxy:
        assert hit(proxy.port, "old").body == renewed.body


# A store in trouble


@contextmanager
def locked(path: Path) -> Iterator[None]:
    store = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        store.execute("PRAGMA locking_mode = EXCLUSIVE")
        store.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        store.close()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(bytes(data))


def remove(path: Path) -> None:
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        name.unlink(missing_ok=True)


def no_database(path: Path) -> None:
    remove(path)
    path.write_bytes(b"no database at all\n" * 1000)


@pytest.mark.parametrize("trouble", [remove, damage, no_database])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_store_in_trouble_is_a_miss(
    trouble: Callable[[Path], None], when: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        ask(proxy.port, call(generate("one")))
        ask(proxy.port, call(generate("two")))
        proxy.exchanges(2)
    path = proxy.data_dir / "exchanges.sqlite3"
    if when == "before":
        trouble(path)
    with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        if when == "meanwhile":
            assert hit(proxy.port, "one").status == 200
            trouble(path)
        for number in range(20):
            answered = ask(proxy.port, call(generate(f"new {number}")))
            assert answered.status == 200
            assert said(answered)["fwd"] == "miss"
        assert is_hit(ask(proxy.port, call(generate("new 0")))), "what is in memory serves all the same"
        assert ask(proxy.port, call(generate("two"))).status == 200


def test_a_locked_store_is_a_miss_within_its_time(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        ask(proxy.port, call(generate("one")))
        proxy.exchanges(1)
    with ExitStack() as lock:
        lock.enter_context(locked(proxy.data_dir / "exchanges.sqlite3"))
        with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
            for number in range(10):
                assert ask(proxy.port, call(generate(f"new {number}"))).status == 200
            lock.close()
            hit(proxy.port, "one")
            assert len(proxy.exchanges()) >= 11


# What is kept


def test_one_copy_of_a_body_however_many_hits(
    tmp_path: Path, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(f"{number:x} is a word of its own, " for number in range(20_000))
    with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        first = ask(proxy.port, call(generate(text)))
        size = (proxy.exchanges(1), stored_bytes(proxy))[1]
        for _ in range(50):
            assert ask(proxy.port, call(generate(text))).body == first.body
        proxy.exchanges(51)
        assert stored_bytes(proxy) - size < len(text), "fifty hits take less than one body"
        assert command(proxy, "list", "--verdict", "hit", "--limit", "3", "--json") == 0
        listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(listed) == 3
        assert {line["verdict"] for line in listed} == {"hit"}
        assert command(proxy, "stats", "--json") == 0
        assert find(json.loads(capsys.readouterr().out), "cache_hits") == 50


def stored_bytes(proxy: ProxyProcess) -> int:
    with sqlite3.connect(proxy.data_dir / "exchanges.sqlite3") as store:
        (pages,), (free,) = (
            store.execute("PRAGMA page_count").fetchone(),
            store.execute("PRAGMA freelist_count").fetchone(),
        )
        (size,) = store.execute("PRAGMA page_size").fetchone()
    store.close()
    return int((pages - free) * size)


def find(document: Any, name: str) -> Any:
    """The first value of this name, however deep."""
    items = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    if isinstance(document, dict) and name in document:
        return document[name]
    return next((found for item in items if (found := find(item, name)) is not None), None)
