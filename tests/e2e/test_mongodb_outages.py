"""MongoDB dies, hangs, fails over or loses its majority under load: no client notices, and nothing is lost or doubled.

`GEMINI_PROXY_OUTAGE_SECONDS` says how long each outage lasts; 120 is what the product promises.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from gemini_caching_proxy.exchange import Response
from mongod import Mongod, ReplicaSet
from wire import ScriptedUpstream

from .asking import Numbered
from .load import Load
from .reading import get_all, statistics
from .serving import ProxyProcess, wait_for

OUTAGE_SECONDS = float(os.environ.get("GEMINI_PROXY_OUTAGE_SECONDS", "10"))
CALM_SECONDS = 5.0
DRAIN_SECONDS = 60.0
SAMPLE = 40
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 2 * OUTAGE_SECONDS)]


def die(server: Mongod) -> None:
    server.kill()
    time.sleep(OUTAGE_SECONDS)
    server.start()


def hang(server: Mongod) -> None:
    server.suspend()
    time.sleep(OUTAGE_SECONDS)
    server.resume()


def fail_over(servers: ReplicaSet) -> None:
    """Again and again, each time as soon as there is a new primary."""
    end = time.monotonic() + OUTAGE_SECONDS
    while time.monotonic() < end:
        servers.step_down(1)
        servers.primary()
        time.sleep(1.0)


def lose_the_majority(servers: ReplicaSet) -> None:
    """Nobody is elected while two of three are gone."""
    first, second = servers.members[:2]
    first.kill()
    second.suspend()
    time.sleep(OUTAGE_SECONDS)
    second.resume()
    first.start()
    servers.primary()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(Numbered()) as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def _numbered(upstream: ScriptedUpstream) -> None:
    upstream.script = Numbered()


@pytest.mark.parametrize(
    ("kind", "outage"),
    [(Mongod, die), (Mongod, hang), (ReplicaSet, fail_over), (ReplicaSet, lose_the_majority)],
    ids=["die", "hang", "fail over", "lose the majority"],
)
def test_an_outage_is_nobody_s_loss(
    tmp_path: Path,
    upstream: ScriptedUpstream,
    kind: type[Mongod] | type[ReplicaSet],
    outage: Callable[[Mongod | ReplicaSet], None],
) -> None:
    with kind() as server, ProxyProcess(tmp_path, upstream=upstream.url, store=server.uri) as proxy:
        with Load([proxy.port]) as load:
            # The first seconds make the collections and load what recording needs.
            time.sleep(CALM_SECONDS)
            proxy.drain()
            calm = time.monotonic()
            time.sleep(CALM_SECONDS)
            began = time.monotonic()
            outage(server)
            ended = time.monotonic()
            waited = proxy.drain(DRAIN_SECONDS)
            drained = time.monotonic()
            time.sleep(CALM_SECONDS)
            over = time.monotonic()
        proxy.drain(DRAIN_SECONDS)
        before, during, draining, after = (
            load.p99_ms(*span) for span in ((calm, began), (began, ended), (ended, drained), (drained, over))
        )
        print(
            f"\n{outage.__name__}: {len(load.heard)} answers; p99 before {before:.1f} ms, during {during:.1f} ms "
            f"({during / before:.2f}), draining {draining:.1f} ms, after {after:.1f} ms; drained in {waited:.1f} s"
        )
        assert load.errors == []
        assert during < 20 * before + 100, "requests waited for the store"
        each_once(proxy, load)


def each_once(proxy: ProxyProcess, load: Load) -> None:
    """What clients saw is in the record, once and unchanged, and nothing else is."""
    stored = Counter(summary.id for summary in proxy.summaries(DRAIN_SECONDS))
    assert {each: count for each, count in stored.items() if count > 1} == {}
    assert len(load.heard) == len({each.exchange for each in load.heard})
    assert stored.keys() == {each.exchange for each in load.heard}
    (row,) = statistics(proxy)
    assert row.exchanges == len(load.heard)
    assert row.cache_hits == sum(each.spared for each in load.heard)
    chosen = random.Random(1).sample(load.heard, SAMPLE)
    for heard, exchange in zip(chosen, get_all(proxy, [each.exchange for each in chosen]), strict=True):
        assert isinstance(exchange.outcome, Response)
        assert sha256(exchange.outcome.body.data).hexdigest() == heard.digest


def test_a_store_that_is_away_at_the_start_is_waited_for(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with Mongod() as server:
        server.kill()
        with ProxyProcess(tmp_path, upstream=upstream.url, store=server.uri) as proxy:
            with Load([proxy.port]) as load:
                wait_for(lambda: "the store is unavailable" in proxy.log, 30, "the log to tell")
            server.start()
            proxy.drain(DRAIN_SECONDS)
            wait_for(lambda: "the store is available again" in proxy.log, what="the log to tell")
            assert load.errors == []
            each_once(proxy, load)


def test_a_proxy_that_ends_during_an_outage_keeps_its_exchanges_for_the_next(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    with Mongod() as server:
        with ProxyProcess(tmp_path, upstream=upstream.url, store=server.uri) as proxy:
            with Load([proxy.port]) as load:
                time.sleep(1.0)
                server.suspend()
                time.sleep(2.0)
            assert proxy.stop() == 0
        server.resume()
        with ProxyProcess(tmp_path, upstream=upstream.url, store=server.uri) as proxy:
            assert load.errors == []
            each_once(proxy, load)
