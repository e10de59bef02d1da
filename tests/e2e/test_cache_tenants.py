"""Whose recordings are served to whom: fifty clients that ask the same, each with a key of its own."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Lock

import pytest

from gemini_caching_proxy.exchange import Verdict
from wire import Answered, Client, Peer, ScriptedUpstream, ask, respond

from .asking import ARRAY, JSON, SSE, Numbered, answer_object, call, events, generate, is_hit, stream
from .serving import ProxyProcess

TENANTS = 50
ROUNDS = 12
METHODS = (b"generateContent", SSE, ARRAY, b"countTokens")
BEGINNING = b"one-beginning-for-all-of-us-"


def keys() -> list[bytes]:
    """Half of them begin alike, some differ in the last byte or in letter case alone, two are bearer tokens."""
    alike = [BEGINNING + b"%03d" % number for number in range(TENANTS // 2)]
    others = [b"key-%d-of-somebody-else" % number for number in range(TENANTS // 2 - 2)]
    return [*alike, *others, b"KEY-1-of-somebody-else", alike[0] + b"0"]


class Nonces:
    """An upstream's script: no two answers are the same, and each tells whose key it was asked with."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.owners: dict[str, bytes] = {}
        self.calls: dict[bytes, int] = defaultdict(int)

    def __call__(self, peer: Peer) -> None:
        while True:
            asked = peer.request()
            key = asked.header(b"x-goog-api-key") or (asked.header(b"authorization") or b"").removeprefix(b"Bearer ")
            with self.lock:
                nonce = f"nonce-{len(self.owners)}-"
                self.owners[nonce] = key
                self.calls[key] += 1
            if b"alt=sse" in asked.target:
                peer.send(stream(events(nonce)))
                continue
            document = answer_object(nonce)
            body = [document] if b"streamGenerate" in asked.target else document
            if b"countTokens" in asked.target:
                body = {"totalTokens": 3, "note": nonce}
            peer.send(respond(json.dumps(body).encode(), headers=JSON))


def nonce_in(answered: Answered) -> str:
    assert answered.status == 200
    text = answered.body.decode()
    start = text.index("nonce-")
    return text[start : text.index("-", start + 6) + 1]


def bearer(request: bytes, key: bytes) -> bytes:
    return request.replace(b"x-goog-api-key: " + key, b"Authorization: Bearer " + key)


def session(port: int, key: bytes, seed: int) -> list[str]:
    """What a tenant is told, asking the same few things as all others, in an order of its own."""
    asks = [call(generate(f"question {n}"), method, key=key) for n in range(2) for method in METHODS] * ROUNDS
    Random(seed).shuffle(asks)
    with Client(port) as client:
        return [nonce_in(client.ask(request)) for request in asks]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_nobody_is_served_what_was_recorded_for_another(workers: int, tmp_path: Path) -> None:
    nonces = Nonces()
    tenants = keys()
    assert len(set(tenants)) == TENANTS
    with (
        ScriptedUpstream(nonces) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, cache="all", workers=workers) as proxy,
        ThreadPoolExecutor(TENANTS) as pool,
    ):
        told = list(pool.map(session, [proxy.port] * TENANTS, tenants, range(TENANTS)))
        for key, answers in zip(tenants, told, strict=True):
            foreign = [nonce for nonce in answers if nonces.owners[nonce] != key]
            assert not foreign, key
            # One call per question and method at most: all shapes of a generation share one, if they do not overlap.
            assert workers > 1 or nonces.calls[key] <= 2 * len(METHODS)
        count = TENANTS * 2 * len(METHODS) * ROUNDS
        exchanges = {each.id: each for each in proxy.exchanges(count)}
    assert len(exchanges) == count
    hits = [each for each in exchanges.values() if each.cache and each.cache.verdict == Verdict.HIT]
    assert len(hits) > count // 2
    for each in hits:
        assert each.cache is not None
        assert each.cache.source is not None
        assert exchanges[each.cache.source].credential == each.credential


def test_a_restart_and_replay_keep_them_apart(tmp_path: Path) -> None:
    nonces = Nonces()
    one, other = keys()[:2]
    with ScriptedUpstream(nonces) as upstream:
        with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
            mine = ask(proxy.port, call(generate("q"), key=one))
        with ProxyProcess(tmp_path, upstream=upstream.url, cache="replay") as proxy:
            assert ask(proxy.port, call(generate("q"), key=one)).body == mine.body
            assert ask(proxy.port, call(generate("q"), key=other)).status == 504
            assert ask(proxy.port, call(generate("q"), key=one[:-1])).status == 504
            assert ask(proxy.port, call(generate("q")).replace(b"x-goog-api-key", b"x-nothing")).status == 504
            # However the key comes, its owner is the same.
            as_query = call(generate("q"), b"generateContent?key=" + one, key=one)
            for request in (
                as_query.replace(b"x-goog-api-key", b"x-nothing"),
                bearer(call(generate("q"), key=one), one),
            ):
                answered = ask(proxy.port, request)
                assert answered.body == mine.body


@pytest.fixture
def numbered() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(Numbered()) as upstream:
        yield upstream


def test_a_shared_namespace_is_everybodys(tmp_path: Path, numbered: ScriptedUpstream) -> None:
    with ProxyProcess(tmp_path, upstream=numbered.url, cache_namespace="shared") as proxy:
        first = ask(proxy.port, call(generate("q"), key=b"key-one"))
        again = ask(proxy.port, call(generate("q"), key=b"key-two"))
    assert is_hit(again)
    assert again.body == first.body
    with ProxyProcess(tmp_path, upstream=numbered.url, cache_namespace="shared", cache="replay") as proxy:
        assert ask(proxy.port, call(generate("q"), key=b"key-three")).body == first.body


def test_who_has_no_key_shares_the_proxys_own(tmp_path: Path, numbered: ScriptedUpstream) -> None:
    with ProxyProcess(tmp_path, upstream=numbered.url, gemini_api_key="the-proxys-own-key") as proxy:
        without = call(generate("q")).replace(b"x-goog-api-key: key-of-a-test-client\r\n", b"")
        first, again = ask(proxy.port, without), ask(proxy.port, without)
        assert is_hit(again)
        assert again.body == first.body
        assert not is_hit(ask(proxy.port, call(generate("q"), key=b"a-key-of-its-own")))
