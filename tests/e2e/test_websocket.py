"""WebSocket upgrades: a tunnel, byte for byte both ways, recorded as one exchange with its counts."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind, Response
from wire import Client, Peer, ScriptedUpstream, get, respond, value_of

from .serving import ProxyProcess, wait_for

TARGET = b"//ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + ACCEPT + b"\r\n"
MIB = 1024 * 1024


def handshake(name: bytes, lines: bytes = b"") -> bytes:
    return (
        b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: %b\r\nConnection: keep-alive, Upgrade\r\n"
        b"Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"x-goog-api-key: key-of-a-test-client\r\n%b\r\n"
    ) % (TARGET, name, lines)


def echo(peer: Peer) -> None:
    peer.request_head()
    peer.send(SWITCH)
    if peer.buffer:
        peer.send(bytes(peer.buffer))
    while data := peer.sock.recv(65536):
        peer.send(data)


def recorded(proxy: ProxyProcess, name: bytes) -> Exchange:
    return proxy.exchange(name.decode())


def test_handshake_and_bytes_both_ways(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.script = echo
    upstream.forget()
    with Client(proxy.port) as client:
        answered = client.ask(handshake(b"both-ways"))
        assert answered.status == 101
        assert value_of(answered.headers, b"upgrade") == b"websocket"
        assert value_of(answered.headers, b"connection") == b"Upgrade"
        assert value_of(answered.headers, b"sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        for message in (b"\x81\x05hello", b"\x00\xff\r\n\r\n", os.urandom(50_000)):
            client.send(message)
            assert client.exactly(len(message)) == message
    (asked,) = upstream.requests
    assert asked.target in (TARGET, TARGET[1:])
    assert asked.header(b"upgrade") == b"websocket"
    assert asked.header(b"connection") == b"Upgrade"
    assert asked.header(b"sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="
    exchange = recorded(proxy, b"both-ways")
    assert isinstance(exchange.outcome, Response)
    assert exchange.outcome.status == 101
    assert exchange.stream_shape == "websocket"
    assert (exchange.tunnel_bytes_up, exchange.tunnel_bytes_down) == (50_013, 50_013)


def test_sixteen_mebibytes(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.script = echo
    message = os.urandom(16 * MIB)
    with Client(proxy.port) as client:
        assert client.ask(handshake(b"sixteen")).status == 101
        sender = threading.Thread(target=client.send, args=(message,))
        sender.start()
        assert client.exactly(len(message)) == message
        sender.join()
    exchange = recorded(proxy, b"sixteen")
    assert exchange.tunnel_bytes_up == exchange.tunnel_bytes_down == 16 * MIB


@pytest.mark.parametrize("cuts", [0, 1, 2])
def test_what_is_sent_before_the_handshake_is_answered(
    cuts: int, proxy: ProxyProcess, upstream: ScriptedUpstream
) -> None:
    """Nobody should, but then it is for the tunnel: nothing is lost, and nothing is read as HTTP."""
    go = threading.Event()

    def slow(peer: Peer) -> None:
        peer.request_head()
        assert go.wait(10)
        peer.send(SWITCH + b"first from upstream")
        if peer.buffer:
            peer.send(bytes(peer.buffer))
        while data := peer.sock.recv(65536):
            peer.send(data)

    upstream.script = slow
    upstream.forget()
    name = b"early-%d" % cuts
    with Client(proxy.port) as client:
        early = b"GET / HTTP/1.1\r\n\r\n" * 1000
        pieces = {
            0: [handshake(name) + early],
            1: [handshake(name), early],
            2: [handshake(name) + early[:7], early[7:]],
        }
        client.send(pieces[cuts][0])
        wait_for(lambda: upstream.requests, what="the handshake")
        for piece in pieces[cuts][1:]:
            client.send(piece)
        go.set()
        assert client.answer().status == 101
        assert client.exactly(19) == b"first from upstream"
        assert client.exactly(len(early)) == early
    exchange = recorded(proxy, name)
    assert exchange.tunnel_bytes_up == len(early)
    assert exchange.tunnel_bytes_down == len(early) + 19
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("early", [b"", b"\x81\x85abcd"])
def test_handshake_that_is_declined(early: bytes, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    def decline(peer: Peer) -> None:
        while True:
            asked = peer.request()
            status = b"403 Forbidden" if asked.header(b"upgrade") else b"200 OK"
            peer.send(respond(b"no", status=status))

    upstream.script = decline
    name = b"declined-%d" % len(early)
    with Client(proxy.port) as client:
        answered = client.ask(handshake(name) + early)
        assert (answered.status, answered.body) == (403, b"no")
        assert answered.header(b"upgrade") is None
        if early:
            assert client.to_the_end() == b"", "what was sent in hope of a tunnel is nobody's"
        else:
            assert client.ask(get()).body == b"no"
    exchange = recorded(proxy, name)
    assert isinstance(exchange.outcome, Response)
    assert exchange.outcome.status == 403


@pytest.mark.parametrize("side", ["client", "upstream"])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_either_side_ends_both(side: str, how: str, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    go = threading.Event()

    def last_words(peer: Peer) -> None:
        peer.request_head()
        peer.send(SWITCH)
        if side == "client":
            peer.watch()
            return
        assert go.wait(10)
        peer.send(b"\x88\x02\x03\xe8")
        peer.fin() if how == "fin" else peer.rst()
        if how == "fin":
            peer.watch()

    upstream.script = last_words
    upstream.forget()
    name = f"ends-{side}-{how}".encode()
    with Client(proxy.port) as client:
        assert client.ask(handshake(name)).status == 101
        if side == "client":
            client.send(b"\x88\x82abcdab")
            client.fin() if how == "fin" else client.rst()
            peer = upstream.requests[0].peer
            wait_for(lambda: peer.ended_at, 2, "the upstream's end")
            if how == "fin":
                assert peer.received.endswith(b"\x88\x82abcdab")
        else:
            go.set()
            if how == "fin":
                assert client.to_the_end() == b"\x88\x02\x03\xe8"
            else:
                client.ended(2)
    assert recorded(proxy, name).tunnel_bytes_up is not None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_switch_that_names_no_protocol(answer: bytes, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    def script(peer: Peer) -> None:
        peer.request_head()
        peer.send(answer)
        peer.watch()

    upstream.script = script
    with Client(proxy.port) as client:
        assert client.ask(handshake(b"nameless")).status == 502


def test_switch_that_nobody_asked_for(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    def script(peer: Peer) -> None:
        peer.request_head()
        peer.send(SWITCH + b"anything")
        peer.watch()

    upstream.script = script
    with Client(proxy.port) as client:
        answered = client.ask(get(headers=b"User-Agent: unasked\r\n"))
        assert answered.status == 502
        assert answered.header(b"proxy-status") == b"gemini-proxy; error=http_protocol_error"
    outcome = recorded(proxy, b"unasked").outcome
    assert isinstance(outcome, Failure)
    assert outcome.kind == FailureKind.MALFORMED_RESPONSE


def test_foreign_pages_get_no_tunnel(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    for lines in (b"Origin: https://evil.test\r\n", b"Origin: null\r\n"):
        with Client(proxy.port) as client:
            assert client.ask(handshake(b"evil", lines)).status == 403
    assert upstream.requests == []


@pytest.mark.slow
def test_slow_side_holds_the_other_back(tmp_path: Path) -> None:
    def flood(peer: Peer) -> None:
        peer.request_head()
        peer.send(SWITCH)
        while True:
            peer.send(b"z" * MIB)

    with ScriptedUpstream(flood) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        worker = psutil.Process(proxy.worker_pid)
        before = worker.memory_info().rss
        clients = [Client(proxy.port, receive_buffer=4096) for _ in range(10)]
        for client in clients:
            client.send(handshake(b"slow"))
        wait_for(lambda: len(upstream.requests) == 10, what="the tunnels")
        deadline = time.monotonic() + 1.5
        most = 0
        while time.monotonic() < deadline:
            most = max(most, worker.memory_info().rss)
            time.sleep(0.05)
        assert most - before < 30 * MIB
        for client in clients:
            client.rst()
        wait_for(lambda: all(asked.peer.ended_at for asked in upstream.requests), what="the upstream's ends")
