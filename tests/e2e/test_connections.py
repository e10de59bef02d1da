"""Client connections: kept, closed, pipelined, upgraded or not, and answered early."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

import pytest

from wire import Client, Closed, Peer, ScriptedUpstream, ask, chunk, get, post, respond, value_of

from .serving import ProxyProcess, wait_for


def echo_target(peer: Peer) -> None:
    while True:
        asked = peer.request()
        peer.send(respond(asked.target))


def test_a_connection_is_kept_on_both_sides(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    with Client(proxy.port) as client:
        for _ in range(20):
            answered = client.ask(post())
            assert answered.body == b"ok"
            assert answered.header(b"connection") is None
    assert len({id(asked.peer) for asked in upstream.requests}) == 1


def test_close_is_obeyed_and_not_passed_on(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    for _ in range(2):
        with Client(proxy.port) as client:
            answered = client.ask(post(headers=b"Connection: close\r\n"))
            assert answered.header(b"connection") == b"close"
            assert client.to_the_end() == b""
    assert len({id(asked.peer) for asked in upstream.requests}) == 1
    assert upstream.requests[0].header(b"connection") is None


def test_http_1_0(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    old = post().replace(b"HTTP/1.1", b"HTTP/1.0")
    with Client(proxy.port) as client:
        answered = client.ask(old)
        assert (answered.status, answered.body) == (200, b"ok")
        assert client.to_the_end() == b"", "HTTP/1.0 ends with the answer"
    with Client(proxy.port) as client:
        for _ in range(3):
            answered = client.ask(old.replace(b"Host:", b"Connection: keep-alive\r\nHost:"))
            assert answered.header(b"connection") == b"keep-alive"
            assert answered.body == b"ok"


def test_chunks_for_http_1_0_end_with_the_connection(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    def chunked(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"abc") + b"0\r\n\r\n")

    upstream.script = chunked
    with Client(proxy.port) as client:
        client.send(post(headers=b"Connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"))
        answered = client.answer()
        assert answered.header(b"transfer-encoding") is None
        assert answered.body == b"abc"


@pytest.mark.parametrize("at_once", [True, False])
def test_pipelined_requests_are_answered_in_order(
    at_once: bool, proxy: ProxyProcess, upstream: ScriptedUpstream
) -> None:
    release = threading.Event()

    def slow_first(peer: Peer) -> None:
        while True:
            asked = peer.request()
            if asked.target == b"/v1beta/0":
                assert release.wait(10)
            peer.send(respond(asked.target))

    upstream.script = slow_first
    upstream.forget()
    chunked = (
        b"POST /v1beta/0 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunk(b"{}")
        + b"0\r\n\r\n"
    )
    rest = [post(b"/v1beta/%d" % number, b"x" * number) for number in range(1, 30)]
    with Client(proxy.port) as client:
        if at_once:
            client.send(chunked + b"".join(rest))
        else:
            client.send(chunked)
            wait_for(lambda: upstream.requests, what="the first request")
            for request in rest:
                client.send(request)
        wait_for(lambda: upstream.requests, what="the first request")
        assert len(upstream.requests) == 1, "one at a time"
        release.set()
        assert [client.answer().body for _ in range(30)] == [b"/v1beta/%d" % number for number in range(30)]
    assert upstream.requests[0].body == b"{}"
    assert [len(asked.body) for asked in upstream.requests[1:]] == list(range(1, 30))
    assert len({id(asked.peer) for asked in upstream.requests}) == 1, "nothing spoiled the upstream connection"


def test_more_pipelined_than_is_read_ahead(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.script = echo_target
    requests = [post(b"/v1beta/%d" % number, b"x" * 40_000) for number in range(40)]
    with Client(proxy.port) as client:
        sender = threading.Thread(target=lambda: client.send(b"".join(requests)))
        sender.start()
        assert [client.answer().body for _ in requests] == [b"/v1beta/%d" % number for number in range(40)]
        sender.join()


def test_continue_is_said_before_the_body(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    body = b"x" * 1000
    request = post(body=body, headers=b"Expect: 100-continue\r\n")
    with Client(proxy.port) as client:
        for _ in range(2):
            client.send(request[: -len(body)])
            assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(body)
            answered = client.answer()
            assert answered.body == b"ok"
            assert answered.interims == []
        # A client that does not wait is not told to go on.
        assert client.ask(request).interims == []
    assert [asked.body for asked in upstream.requests] == [body] * 3
    assert upstream.requests[0].header(b"expect") is None


def test_continue_of_the_upstream_is_not_passed_on(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    def continues(peer: Peer) -> None:
        while True:
            peer.request_head()
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" + respond(b"fine"))
            peer.exactly(16)

    upstream.script = continues
    with Client(proxy.port) as client:
        for _ in range(3):
            answered = client.ask(post())
            assert (answered.body, answered.interims) == (b"fine", [])


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
@pytest.mark.parametrize("framing", ["length", "chunked", "none"])
def test_other_upgrades_are_declined(
    framing: str, version: bytes, proxy: ProxyProcess, upstream: ScriptedUpstream
) -> None:
    """As Java's HttpClient asks: h2c, with a body."""
    if framing == "chunked" and version == b"HTTP/1.0":
        pytest.skip("HTTP/1.0 has no chunks")
    upstream.forget()
    body = b"y" * 5000
    offer = b"Connection: Upgrade, HTTP2-Settings, X-Hop\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Hop: 1\r\n"
    request = {
        "length": post(body=body, headers=offer),
        "chunked": post(headers=offer).split(b"Content-Length")[0]
        + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body) + b"0\r\n\r\n",
        "none": get(headers=offer),
    }[framing].replace(b"HTTP/1.1", version)  # fmt: skip
    with Client(proxy.port) as client:
        for cut in (0, request.index(b"\r\n\r\n") + 4, len(request) - 3):
            client.send(request[:cut])
            client.send(request[cut:])
            assert client.answer().body == b"ok"
            if version == b"HTTP/1.0":
                break
    for asked in upstream.requests:
        assert asked.body == (b"" if framing == "none" else body)
        assert value_of(asked.headers, b"upgrade") is None
        assert value_of(asked.headers, b"http2-settings") is None
        assert value_of(asked.headers, b"x-hop") is None


def test_body_is_sent_on_as_it_comes(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    seen = threading.Semaphore(0)

    def in_step(peer: Peer) -> None:
        asked = peer.request_head()
        peer.trailers = asked.trailers
        for piece in peer.chunked():
            asked.body += piece
            seen.release()
        peer.send(respond(asked.body))

    upstream.script = in_step
    upstream.forget()
    with Client(proxy.port) as client:
        client.send(post().split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in (b"a", b"bc", b"d" * 5000):
            client.send(chunk(piece))
            assert seen.acquire(timeout=10)
        client.send(b"0\r\nX-Sum: 1\r\nAuthorization: Bearer smuggled\r\nHost: evil.test\r\n\r\n")
        assert client.answer().body == b"abc" + b"d" * 5000
    assert upstream.requests[0].trailers == [b"X-Sum: 1"]


@pytest.mark.parametrize("size", [100_000, 30_000_000])
def test_answer_before_the_body_was_read(size: int, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    """The client gets it although it still sends, and what it sends is thrown away."""

    def early(peer: Peer) -> None:
        peer.request_head()
        peer.send(respond(b"too large", status=b"413 Too Large", headers=b"Connection: close\r\n"))
        peer.fin()
        peer.watch()

    upstream.script = early
    with Client(proxy.port) as client:
        request = post(body=b"x" * size)
        client.send(request[:1000])
        wait_for(lambda: upstream.requests and upstream.requests[-1].peer.sent_fin, what="the early answer")
        client.send(request[1000:])
        answered = client.answer()
        assert (answered.status, answered.body) == (413, b"too large")
        assert client.to_the_end() == b""


def test_refusal_reaches_a_client_that_still_sends(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    request = post(body=b"x" * 20_000_000).replace(b"Host: 127.0.0.1", b"Host: evil.test")
    with Client(proxy.port) as client:
        client.send(request)
        answered = client.answer()
        assert answered.status == 403
        assert json.loads(answered.body)["error"]["status"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("size", [200_000, 700_000, 1_500_000, 2_800_000, 4_200_000, 6_000_000])
def test_the_connection_goes_on_after_an_upstream_that_did_not_read(
    size: int, proxy: ProxyProcess, upstream: ScriptedUpstream
) -> None:
    """Whatever part of the body had been taken from the client when the answer came."""

    def early(peer: Peer) -> None:
        asked = peer.request_head()
        if asked.line.startswith(b"POST"):
            peer.send(respond(b"early", headers=b"Connection: close\r\n"))
            peer.watch()
        peer.send(respond(b"next"))

    upstream.script = early
    with Client(proxy.port) as client:
        sender = threading.Thread(target=send_what_is_taken, args=(client, post(body=b"x" * size)))
        sender.start()
        assert client.answer().body == b"early"
        sender.join()
        try:
            assert client.ask(get()).body == b"next"
        except (Closed, ConnectionError):
            pass  # It was the last answer: the body had not come to its end.


def send_what_is_taken(client: Client, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(data)


def test_own_endpoints(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    with Client(proxy.port) as client:
        assert json.loads(client.ask(get(b"/healthz")).body) == {"status": "live"}
        assert client.ask(get(b"/healthz").replace(b"GET", b"HEAD"), head_only=True).status == 200
        answered = client.ask(get(b"/readyz"))
        report = json.loads(answered.body)
        assert (answered.status, report["status"]) == (200, "ready")
        assert report["journal_writable"]
        assert report["recorder_alive"]
        assert answered.header(b"cache-control") == b"no-store"
    assert upstream.requests == []


def test_too_many_connections(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with ProxyProcess(tmp_path, upstream=upstream.url, max_connections=3) as proxy:
        clients = [Client(proxy.port) for _ in range(3)]
        for client in clients:
            assert client.ask(get(b"/healthz")).status == 200
        answered = ask(proxy.port, get(b"/healthz"))
        assert answered.status == 503
        assert (answered.header(b"proxy-status") or b"").startswith(b"gemini-proxy")
        clients[0].close()
        wait_for(lambda: ask(proxy.port, get(b"/healthz")).status == 200, what="a place")
        for client in clients:
            client.close()
