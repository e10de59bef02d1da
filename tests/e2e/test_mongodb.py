"""MongoDB as the store of the running program: one proxy and several on one server, and servers that cannot be used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from gemini_caching_proxy.exchange import Response
from mongod import Database, Mongod, fresh_database, shared_server
from wire import Answered, ScriptedUpstream, ask

from .asking import SSE, Numbered, call, generate, is_hit
from .load import Load
from .old_server import OldServer
from .reading import statistics
from .serving import ProxyProcess, clean_environment, free_port, wait_for

ONLY = b"Cache-Control: only-if-cached"
PASSWORD = "open-sesame-71828"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(Numbered()) as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def _numbered(upstream: ScriptedUpstream) -> None:
    upstream.script = Numbered()
    upstream.forget()


def run(proxy: ProxyProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another command on the same folder and store."""
    return subprocess.run(
        [sys.executable, "-m", "gemini_caching_proxy", *arguments],
        env=clean_environment(data_dir=proxy.data_dir, store=proxy.store),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=proxy.data_dir.parent,
    )


def told(proxy: ProxyProcess, *arguments: str) -> list[dict[str, Any]]:
    """The JSON lines of a command that succeeds."""
    done = run(proxy, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def hit(port: int, text: str, method: bytes = b"generateContent") -> Answered:
    """The recorded answer, once there is one to be had; never by a call."""
    request = call(generate(text), method, ONLY)
    return wait_for(lambda: found if is_hit(found := ask(port, request)) else None, what="a hit")


# One proxy


def test_what_passed_is_listed_shown_counted_and_found(
    tmp_path: Path, upstream: ScriptedUpstream, mongod: Database
) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url, store=mongod.uri) as proxy:
        unary = ask(proxy.port, call(generate("a unary question")))
        stream = ask(proxy.port, call(generate("a streamed question"), SSE))
        first, second = proxy.exchanges(2)
        newest, oldest = told(proxy, "list")
        assert (oldest["id"], newest["id"]) == (str(first.id), str(second.id))
        assert newest["stream_shape"] == "sse"
        assert (oldest["input_tokens"], oldest["output_tokens"]) == (1000, 500)
        (shown,) = told(proxy, "show", "last")
        assert shown["id"] == newest["id"]
        assert "a streamed question" in run(proxy, "show", newest["id"]).stdout
        (sums,) = told(proxy, "stats")
        assert (sums["exchanges"], sums["errors"], sums["input_tokens"]) == (2, 0, 2000)
        assert [each["id"] for each in told(proxy, "search", "streamed")] == [newest["id"]]
    for exchange, answered in ((first, unary), (second, stream)):
        assert isinstance(exchange.outcome, Response)
        assert exchange.outcome.body.data == answered.body
        assert answered.header(b"x-exchange-id") == str(exchange.id).encode()
    assert not (proxy.data_dir / "exchanges.sqlite3").exists()
    with mongod.opened() as collections:
        kept = {each["_id"]: each for each in collections.gemini_interactions.find()}
        assert kept.keys() == {first.id, second.id}
        assert kept[first.id]["model"] == "gemini-2.5-flash"
        assert collections.gemini_interactions_full.count_documents({}) == 2


def test_hits_come_from_mongodb_after_a_restart(tmp_path: Path, upstream: ScriptedUpstream, mongod: Database) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url, store=mongod.uri) as proxy:
        unary, stream = (ask(proxy.port, call(generate("kept"), method)) for method in (b"generateContent", SSE))
        proxy.drain()
    with ProxyProcess(tmp_path, upstream=upstream.url, store=mongod.uri) as proxy:
        assert hit(proxy.port, "kept").body == unary.body
        assert hit(proxy.port, "kept", SSE).body == stream.body
        proxy.drain()
        assert statistics(proxy)[0].cache_hits >= 2
        assert [entry["hits"] >= 1 for entry in told(proxy, "cache", "list")] == [True]
    assert len(upstream.requests) == 1 + (not is_hit(stream))


def test_replay_needs_nothing_but_mongodb(tmp_path: Path, upstream: ScriptedUpstream, mongod: Database) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url, store=mongod.uri) as proxy:
        first = ask(proxy.port, call(generate("once", temperature=None)))
        proxy.drain()
    upstream.forget()
    with ProxyProcess(tmp_path, upstream=upstream.url, store=mongod.uri, cache="replay") as proxy:
        assert ask(proxy.port, call(generate("once", temperature=None))).body == first.body
    assert upstream.requests == []


# Several proxies


@contextmanager
def proxies(folder: Path, upstream: ScriptedUpstream, uri: str, names: str) -> Iterator[list[ProxyProcess]]:
    """One for each letter, each as on a host of its own, with nothing in common but MongoDB."""
    with ExitStack() as stack:
        started = []
        for name in names:
            (folder / name).mkdir()
            started.append(ProxyProcess(folder / name, upstream=upstream.url, store=uri, port=free_port()))
            stack.enter_context(started[-1])
        yield started


def test_an_answer_that_one_recorded_is_served_by_the_other(
    tmp_path: Path, upstream: ScriptedUpstream, mongod: Database
) -> None:
    with proxies(tmp_path, upstream, mongod.uri, "ab") as (one, other):
        first = ask(one.port, call(generate("shared by hosts")))
        one.drain()
        again = hit(other.port, "shared by hosts")
        assert again.body == first.body
        assert again.header(b"x-source-exchange-id") == first.header(b"x-exchange-id")
        stranger = call(generate("shared by hosts"), b"generateContent", ONLY, key=b"key-of-somebody-else")
        assert ask(other.port, stranger).status == 504
        back = ask(other.port, call(generate("and back"), SSE))
        other.drain()
        assert hit(one.port, "and back", SSE).body == back.body
    assert len(upstream.requests) == 2


def test_what_one_evicts_the_other_no_longer_serves(
    tmp_path: Path, upstream: ScriptedUpstream, mongod: Database
) -> None:
    with proxies(tmp_path, upstream, mongod.uri, "ab") as (one, other):
        first = ask(one.port, call(generate("evict me")))
        one.drain()
        assert hit(other.port, "evict me").body == first.body
        assert run(one, "cache", "evict", "--model", "gemini-2.5-flash", "--yes").returncode == 0
        request = call(generate("evict me"), b"generateContent", ONLY)
        wait_for(lambda: ask(other.port, request).status == 504, what="the other to notice")


def test_turns_of_a_conversation_find_each_other_over_hosts(
    tmp_path: Path, upstream: ScriptedUpstream, mongod: Database
) -> None:
    turns = [{"role": "user", "parts": [{"text": "Name a bird."}]}]
    with proxies(tmp_path, upstream, mongod.uri, "ab") as (one, other):
        answered = ask(one.port, call(json.dumps({"contents": turns}).encode()))
        one.drain()
        turns += [
            json.loads(answered.body)["candidates"][0]["content"],
            {"role": "user", "parts": [{"text": "And another?"}]},
        ]
        ask(other.port, call(json.dumps({"contents": turns}).encode()))
        other.drain()
        second, first = told(one, "list")
    assert first["conversation"] == second["conversation"]
    assert second["parent"] == first["id"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_of_three_may_die_at_any_moment(tmp_path: Path, upstream: ScriptedUpstream, mongod: Database) -> None:
    """The two others go on, what they record shows, and the third's exchanges follow when it is back."""
    with proxies(tmp_path, upstream, mongod.uri, "abc") as (first, second, third):
        longest = 0.0
        with Load([first.port, second.port, third.port], rate=150) as load:
            for number in range(6):
                # So that the kill meets all kinds of work.
                time.sleep(0.7 + 0.13 * number)
                kill_all(third)
                for alive in (first, second):
                    alive.drain(30)
                until = time.monotonic()
                wait_for(lambda until=until: shown_since(first, load, until), 90, "what the others record to show")
                longest = max(longest, time.monotonic() - until)
                third.start()
        print(f"\n{len(load.heard)} answers; what the others recorded showed after at most {longest:.1f} s")
        assert {port for port, _ in load.errors} <= {third.port}
        for each in (first, second, third):
            each.drain(60)
        stored = Counter(summary.id for summary in first.summaries())
        assert stored.keys() == Counter(summary.id for summary in third.summaries()).keys()
        assert [each for each, count in stored.items() if count > 1] == []
        assert [each for each in load.heard if each.exchange not in stored] == []
        # Those that were cut off with the third are there besides.
        assert statistics(second)[0].exchanges == len(stored) >= len(load.heard)


def kill_all(proxy: ProxyProcess) -> None:
    """As when its host loses power."""
    family = [psutil.Process(proxy.pid), *psutil.Process(proxy.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    for process in family:
        process.kill()
    proxy.wait()
    psutil.wait_procs(family)


def shown_since(proxy: ProxyProcess, load: Load, moment: float) -> bool:
    """Whether an exchange that began after this moment is in the list."""
    ids = {each.exchange for each in list(load.heard) if each.due > moment and each.port == proxy.port}
    return any(summary.id in ids for summary in proxy.summaries()[-500:])


# Servers that cannot be used

Server = AbstractContextManager[str]
"""Gives the URI to come with."""


@contextmanager
def just(uri: str) -> Iterator[str]:
    yield uri


@contextmanager
def wrong_password() -> Iterator[str]:
    with Mongod(auth=True) as server:
        server.add_user("proxy", "the-right-one", ["readWriteAnyDatabase"])
        yield server.uri_of("proxy", PASSWORD)


@contextmanager
def only_reading() -> Iterator[str]:
    with Mongod(auth=True) as server:
        yield server.add_user("proxy", PASSWORD, [{"role": "read", "db": "gemini_proxy"}])


@contextmanager
def no_rights() -> Iterator[str]:
    with Mongod(auth=True) as server:
        yield server.add_user("proxy", PASSWORD, [])


@contextmanager
def no_login() -> Iterator[str]:
    with Mongod(auth=True) as server:
        yield f"mongodb://{server.address}/"


@contextmanager
def too_old(version: str, wire: int) -> Iterator[str]:
    with OldServer(version, wire) as server:
        yield server.uri


@contextmanager
def no_member() -> Iterator[str]:
    with Mongod() as server:
        yield f"{server.uri}?replicaSet=rs7"


ADDRESS = r"mongodb://user:password@host"
UNUSABLE: dict[str, tuple[Callable[[], Server], str, str]] = {
    "no host": (lambda: just("mongodb:///gemini_proxy"), "[Hh]ost", ADDRESS),
    "port": (lambda: just(f"mongodb://proxy:{PASSWORD}@127.0.0.1:port/gemini_proxy"), "[Pp]ort", ADDRESS),
    "unescaped": (lambda: just(f"mongodb://proxy:x@{PASSWORD}@127.0.0.1/"), "escaped", "%40"),
    "options": (lambda: just(f"mongodb://proxy:{PASSWORD}@127.0.0.1/?tls=true&ssl=false"), "tls", ADDRESS),
    "unreachable": (lambda: just(f"mongodb://127.0.0.1:{free_port()}/"), "cannot be reached", "reached from here"),
    "unknown name": (lambda: just("mongodb://no-such-host.invalid/"), "cannot be reached", "host, port"),
    "no member": (no_member, "cannot be reached.*rs7", "reached from here"),
    "wrong password": (wrong_password, "refuses the login", "user and password"),
    "no login": (no_login, "asks for a login", "user and password"),
    "only reading": (only_reading, "readWrite|may not insert", "grantRolesToUser.*readWrite"),
    "no rights": (no_rights, "readWrite", "grantRolesToUser.*readWrite"),
    "MongoDB 4.4": (lambda: too_old("4.4.29", 9), r"4\.4.*5\.0", r"Upgrade.*5\.0"),
    "MongoDB 4.0": (lambda: too_old("4.0.28", 6), r"too old.*5\.0", r"Upgrade.*5\.0"),
}
"""What is wrong; what the log and `doctor` say of it, and what `doctor` advises (patterns)."""
CAN_BE_READ = frozenset({"only reading"})


@pytest.mark.slow
@pytest.mark.parametrize("what", UNUSABLE)
def test_a_server_that_cannot_be_used_costs_nothing(tmp_path: Path, upstream: ScriptedUpstream, what: str) -> None:
    make, reason, advice = UNUSABLE[what]
    with make() as uri:
        with ProxyProcess(tmp_path, upstream=upstream.url, store=uri) as proxy:
            answers = [ask(proxy.port, call(generate(f"question {number}"))) for number in range(5)]
            assert [each.status for each in answers] == [200] * 5
            (line,) = wait_for(lambda: unavailable(proxy), 30, "the log to tell")
            assert matches(reason, line), line
            assert "the journal keeps everything until it is back" in line
            assert ask(proxy.port, call(generate("question 0"))).body == answers[0].body
            assert len(unavailable(proxy)) == 1, "told once"
        examined = run(proxy, "doctor", "--offline", "--json", "--port", str(free_port()))
        listed = run(proxy, "list")
    assert examined.returncode == 1, examined.stdout + examined.stderr
    problem, *_ = problems(examined.stdout)
    assert matches(reason, problem["text"]), problem
    assert matches(advice, problem["advice"]), problem
    if what not in CAN_BE_READ:
        assert listed.returncode != 0
        assert len(listed.stderr.strip().splitlines()) == 1, listed.stderr
    for text in (proxy.log, examined.stdout, examined.stderr, listed.stdout, listed.stderr):
        assert "Traceback" not in text
        assert PASSWORD not in text
    for path in [path for path in proxy.data_dir.rglob("*") if path.is_file()]:
        assert PASSWORD.encode() not in path.read_bytes(), path
    # Mended: a store that can be used. All that was asked meanwhile gets there.
    with (
        fresh_database(shared_server()) as database,
        ProxyProcess(tmp_path, upstream=upstream.url, store=database.uri) as mended,
    ):
        ids = [str(exchange.id) for exchange in mended.exchanges(6)]
    assert [(each.header(b"x-exchange-id") or b"").decode() for each in answers] == ids[:5]
    assert len(ids) == 6


def problems(lines: str) -> list[dict[str, Any]]:
    """What `doctor --json` found wrong with the store."""
    found = [json.loads(line) for line in lines.splitlines()]
    return [each for each in found if each.get("check") in ("store", "server") and each["outcome"] == "problem"]


def unavailable(proxy: ProxyProcess) -> list[str]:
    """The lines of the log that say that the store is away."""
    return [line for line in proxy.log.splitlines() if "the store is unavailable" in line]


def matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None
