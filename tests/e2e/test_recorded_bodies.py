"""What is kept of bodies that are large, secret, cut off or compressed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from blake3 import blake3

from gemini_caching_proxy.exchange import Failure, FailureKind, Response
from wire import CHUNKED, STREAM, Client, Peer, ScriptedUpstream, ask, chunk, plain_answer, post, respond

from .serving import ProxyProcess, wait_for

LIMIT, HEAD = 100_000, 5_000


@pytest.fixture(scope="module")
def small(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy that keeps little."""
    folder = tmp_path_factory.mktemp("small")
    with ProxyProcess(folder, upstream=upstream.url, max_body_bytes=LIMIT, body_head_bytes=HEAD) as proxy:
        yield proxy


def named(name: str, body: bytes, *, chunked: bool = False, target: bytes = STREAM) -> bytes:
    request = post(target, body, headers=b"User-Agent: %b\r\n" % name.encode())
    if not chunked:
        return request
    head = request[: request.index(b"Content-Length")]
    pieces = b"".join(chunk(body[start : start + 9000]) for start in range(0, len(body), 9000))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT, 40 * LIMIT])
def test_bodies_over_the_limit(size: int, chunked: bool, small: ProxyProcess, upstream: ScriptedUpstream) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]

    def echo(peer: Peer) -> None:
        asked = peer.request()
        if chunked:
            pieces = b"".join(chunk(asked.body[start : start + 7000]) for start in range(0, len(asked.body), 7000))
            peer.send(CHUNKED + pieces + b"0\r\n\r\n")
        else:
            peer.send(respond(asked.body))

    upstream.script = echo
    name = f"over-{size}-{chunked}"
    assert ask(small.port, named(name, body, chunked=chunked)).body == body
    exchange = small.exchange(name)
    assert isinstance(exchange.outcome, Response)
    for kept in (exchange.request_body, exchange.outcome.body):
        assert kept.size == size
        assert kept.digest == blake3(body).hexdigest()
        assert kept.complete == (size <= LIMIT)
        assert body.startswith(kept.data)
        assert len(kept.data) == (size if size <= LIMIT else len(kept.data))
        assert len(kept.data) <= LIMIT
    assert sum(each.size for each in exchange.outcome.chunks) == len(exchange.outcome.body.data)


def test_answers_that_are_secrets_are_withheld(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    secret = b'{"name": "auth_tokens/0123456789abcdef0123456789abcdef"}'

    def answer(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(respond(secret, headers=b"Content-Type: application/json\r\n"))

    upstream.script = answer
    assert ask(proxy.port, named("withheld", b"{}", target=b"/v1alpha/auth_tokens")).body == secret
    exchange = proxy.exchange("withheld")
    assert isinstance(exchange.outcome, Response)
    assert exchange.outcome.body.data == b""
    assert exchange.outcome.body.size == len(secret)
    assert exchange.outcome.body.digest == blake3(secret).hexdigest()
    assert not exchange.outcome.body.complete


@pytest.mark.parametrize("coding", [b"", b"gzip"])
def test_an_error_that_quotes_the_key(coding: bytes, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    key = b"key-of-a-test-client"
    plain = b'{"error": {"code": 400, "message": "The key %b is not valid."}}' % key
    body = gzip.compress(plain) if coding else plain

    def answer(peer: Peer) -> None:
        while True:
            peer.request()
            line = b"Content-Encoding: gzip\r\n" if coding else b""
            peer.send(respond(body, status=b"400 Bad Request", headers=line))

    upstream.script = answer
    name = f"quoted-{coding.decode()}"
    assert ask(proxy.port, named(name, b"{}")).body == body, "the client's copy is not touched"
    exchange = proxy.exchange(name)
    assert isinstance(exchange.outcome, Response)
    assert key not in exchange.outcome.body.data
    assert exchange.outcome.body.size == len(body)
    for path in proxy.data_dir.rglob("*"):
        assert not path.is_file() or key not in path.read_bytes()


def test_times_are_in_order(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.script = plain_answer
    ask(proxy.port, named("times", b"{}"))
    timing = proxy.exchange("times").timing
    marks = [timing.request_done_us, timing.connected_us, timing.first_byte_us, timing.last_byte_us]
    assert all(mark is not None for mark in marks)
    assert marks == sorted(marks, key=lambda mark: mark or 0)


def test_a_request_that_breaks_off_keeps_what_came(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    with Client(proxy.port) as client:
        client.send(named("broken-off", b"x" * 5000)[:-2000])
        wait_for(lambda: upstream.requests, what="the head upstream")
        client.rst()
    exchange = proxy.exchange("broken-off")
    assert isinstance(exchange.outcome, Failure)
    assert exchange.outcome.kind == FailureKind.CLIENT_GONE
    assert exchange.request_body.data == b"x" * 3000
    assert not exchange.request_body.complete
