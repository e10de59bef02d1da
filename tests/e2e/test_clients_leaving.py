"""Clients that leave, that do not read, that dawdle: upstream calls end, memory and descriptors are given back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from blake3 import blake3

from gemini_caching_proxy.exchange import Failure, FailureKind, Response
from wire import CHUNKED, STREAM, Client, Closed, Peer, ScriptedUpstream, chunk, get, plain_answer, post, respond, steps

from .serving import ProxyProcess, wait_for

AT_ONCE = 0.25
"""Seconds in which a client that left must be noticed by the upstream."""
MIB = 1024 * 1024


def head_then_stall(peer: Peer) -> None:
    peer.request()
    peer.send(CHUNKED + chunk(b"data: 1\n\n"))
    peer.watch(60)


def never_answer(peer: Peer) -> None:
    peer.request()
    peer.watch(60)


def never_read_body(peer: Peer) -> None:
    peer.request_head()
    peer.watch(60)


def descriptors(pid: int) -> int:
    return psutil.Process(pid).num_fds()


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("when", ["waiting", "mid-stream", "mid-upload", "pipelined"])
def test_upstream_call_ends_with_the_client(
    when: str, how: str, proxy: ProxyProcess, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script = {"mid-stream": head_then_stall, "mid-upload": never_read_body}.get(when, never_answer)
    client = Client(proxy.port)
    if when == "mid-upload":
        client.send(post(body=b"x" * 100_000)[:-50_000])
    else:
        client.send(post() + (post(STREAM) if when == "pipelined" else b""))
    wait_for(lambda: upstream.requests, what="the call upstream")
    if when == "mid-stream":
        client.until(b"data: 1\n\n")
    left = time.monotonic()
    if how == "rst":
        client.rst()
    else:
        client.close() if when == "mid-upload" else client.fin()
    peer = upstream.requests[0].peer
    ended_at = wait_for(lambda: peer.ended_at, what="the upstream call to end")
    assert ended_at - left < AT_ONCE
    assert len(upstream.requests) == 1
    client.close()


def test_leaving_is_recorded_with_what_came(tmp_path: Path) -> None:
    with ScriptedUpstream(head_then_stall) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        client = Client(proxy.port)
        client.send(post(STREAM))
        client.until(b"data: 1\n\n")
        client.rst()
        (exchange,) = proxy.exchanges(1)
        assert isinstance(exchange.outcome, Failure)
        assert exchange.outcome.kind == FailureKind.CLIENT_GONE
        assert exchange.outcome.partial is not None
        assert exchange.outcome.partial.body.data == b"data: 1\n\n"


@pytest.fixture
def full() -> Iterator[str]:
    """The URL of a listener that takes no more connections: attempts are neither accepted nor refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


def test_leaving_before_there_is_a_connection(tmp_path: Path, full: str) -> None:
    with ProxyProcess(tmp_path, upstream=full, connect_timeout=60) as proxy:
        worker = proxy.worker_pid
        with Client(proxy.port) as client:
            client.ask(get(b"/healthz"))
        before = descriptors(worker)
        clients = [Client(proxy.port) for _ in range(20)]
        for client in clients:
            client.send(post())
        wait_for(lambda: descriptors(worker) >= before + 40, what="connections being made")
        for client in clients:
            client.rst()
        wait_for(lambda: descriptors(worker) <= before + 1, what="descriptors to be freed")
        for exchange in proxy.exchanges(20):
            assert exchange.failure is not None
            assert exchange.failure.kind == FailureKind.CLIENT_GONE


@pytest.mark.slow
def test_nothing_leaks_by_cancels(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.script = head_then_stall
    worker = proxy.worker_pid
    with Client(proxy.port) as client:
        client.ask(get(b"/healthz"))
    wait_for(lambda: not psutil.Process(worker).net_connections("tcp") or True)
    before = descriptors(worker)
    for round_ in range(300):
        client = Client(proxy.port)
        client.send(post(STREAM))
        if round_ % 3:
            client.until(b"data: 1\n\n") if round_ % 3 == 1 else client.until(b"\r\n\r\n")
        client.rst() if round_ % 2 else client.close()
    wait_for(lambda: descriptors(worker) <= before + 2, what="descriptors to be freed")
    upstream.script = plain_answer
    begun = time.monotonic()
    for _ in range(100):
        with Client(proxy.port) as client:
            assert client.ask(post()).body == b"ok"
    assert time.monotonic() - begun < 5


def test_drain_reads_to_the_end(tmp_path: Path) -> None:
    def in_two(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunk(b"data: 1\n\n"))
        wait_for(lambda: left, what="the client to leave")
        peer.send(chunk(b"x" * 3 * MIB) + chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    left: list[bool] = []
    with (
        ScriptedUpstream(in_two) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, client_gone="drain") as proxy,
    ):
        client = Client(proxy.port)
        client.send(post(STREAM))
        client.until(b"data: 1\n\n")
        client.rst()
        left.append(True)
        (exchange,) = proxy.exchanges(1)
        assert isinstance(exchange.outcome, Response)
        assert exchange.outcome.body.size == 3 * MIB + 18


@pytest.mark.slow
def test_slow_readers_cost_no_memory(tmp_path: Path) -> None:
    """100 clients that read nothing of a large stream; then they leave."""
    piece = chunk(b"y" * 65536)

    def endless(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED)
        for _ in range(1000):
            peer.send(piece)

    with (
        ScriptedUpstream(endless) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, max_body_bytes=65536) as proxy,
    ):
        worker = psutil.Process(proxy.worker_pid)
        with Client(proxy.port) as client:
            client.ask(get(b"/healthz"))
        before, descriptors_before = worker.memory_info().rss, worker.num_fds()
        clients = [Client(proxy.port, receive_buffer=4096) for _ in range(100)]
        for client in clients:
            client.send(post(STREAM))
        wait_for(lambda: len(upstream.requests) == 100, what="all calls upstream")
        # Everything has come to a standstill when the counters of the sockets do not move any more.
        still = _standstill(worker)
        assert still - before < 100 * MIB, f"{(still - before) / MIB:.0f} MiB for 100 readers"
        for client in clients:
            client.rst()
        wait_for(lambda: worker.num_fds() <= descriptors_before + 1, what="descriptors to be freed")
        wait_for(lambda: all(asked.peer.ended_at for asked in upstream.requests), what="upstream calls to end")


def _standstill(process: psutil.Process) -> int:
    """Resident memory once the process does nothing any more."""
    last = -1.0

    def idle() -> bool:
        nonlocal last
        now = sum(process.cpu_times()[:2])
        quiet, last = now == last, now
        if not quiet:
            time.sleep(0.3)
        return quiet

    wait_for(idle, 30, "a standstill")
    return process.memory_info().rss


def test_slow_reader_counts_as_gone_after_its_time(tmp_path: Path) -> None:
    def large(peer: Peer) -> None:
        peer.request()
        with contextlib.suppress(OSError):
            peer.send(respond(b"z" * 30 * MIB))
        peer.watch()

    with ScriptedUpstream(large) as upstream, ProxyProcess(tmp_path, upstream=upstream.url, write_timeout=1) as proxy:
        client = Client(proxy.port, receive_buffer=4096)
        client.send(post(headers=b"Connection: close\r\n"))
        wait_for(lambda: upstream.requests and upstream.requests[0].peer.ended_at, what="the upstream call to end")
        (exchange,) = proxy.exchanges(1)
        assert exchange.failure is not None
        assert exchange.failure.kind == FailureKind.CLIENT_GONE
        client.close()


def test_answer_behind_an_unread_one_waits(tmp_path: Path) -> None:
    """Two pipelined requests, nothing is read: the second answer must not be fetched into memory."""
    size = 20 * MIB

    def large(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(respond(b"z" * size))

    with ScriptedUpstream(large) as upstream, ProxyProcess(tmp_path, upstream=upstream.url, record=False) as proxy:
        worker = psutil.Process(proxy.worker_pid)
        with Client(proxy.port) as warm:
            warm.ask(get(b"/healthz"))
        before = worker.memory_info().rss
        client = Client(proxy.port, receive_buffer=4096)
        client.send(post() * 6)
        wait_for(lambda: upstream.requests, what="the first call")
        assert _standstill(worker) - before < 12 * MIB
        for _ in range(6):
            assert len(client.answer().body) == size
        client.close()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProxyProcess, ScriptedUpstream]]:
    """A proxy that waits for nothing longer than a second."""
    timeouts = ("header_timeout", "body_timeout", "keepalive_timeout", "first_byte_timeout", "idle_timeout")
    with ScriptedUpstream(plain_answer) as upstream:
        folder = tmp_path_factory.mktemp("hasty")
        with ProxyProcess(folder, upstream=upstream.url, **dict.fromkeys(timeouts, 1)) as proxy:
            yield proxy, upstream


def test_slow_head_ends_at_its_deadline(hasty: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    """Each byte in time, the head never: only the whole counts."""
    proxy, _ = hasty
    begun = time.monotonic()
    with Client(proxy.port) as client:
        client.sock.settimeout(0.1)
        client.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        while time.monotonic() - begun < 5:
            with contextlib.suppress(OSError):
                client.send(b"a")
            with contextlib.suppress(TimeoutError, Closed):
                client.more()
                break
        client.sock.settimeout(10)
        assert client.answer().status == 408
    assert 0.9 < time.monotonic() - begun < 2


def test_slow_head_behind_another_request(hasty: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    proxy, _ = hasty
    begun = time.monotonic()
    with Client(proxy.port) as client:
        client.send(post() + b"GET / HT")
        assert client.answer().body == b"ok"
        assert client.answer().status == 408
    assert 0.9 < time.monotonic() - begun < 2


def test_silent_connections_are_closed(hasty: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    proxy, _ = hasty
    begun = time.monotonic()
    with Client(proxy.port) as silent, Client(proxy.port) as idle:
        assert idle.ask(post()).body == b"ok"
        assert idle.to_the_end() == b""
        silent.ended()
    assert 0.9 < time.monotonic() - begun < 2.5


def test_pause_in_a_body(hasty: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    proxy, upstream = hasty
    upstream.forget()
    with Client(proxy.port) as client:
        client.send(post(body=b"x" * 100)[:-50])
        answered = client.answer()
        assert answered.status == 408
        assert client.to_the_end() == b""
    wait_for(lambda: upstream.requests and upstream.requests[0].peer.ended_at, what="the upstream call to end")
    exchange = proxy.exchanges()[-1]
    assert exchange.failure is not None
    assert exchange.failure.kind == FailureKind.REQUEST_INCOMPLETE
    assert exchange.failure.served_status == 408


def test_slow_upstream_is_not_the_clients_fault(hasty: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    """The upstream reads nothing of an upload: the client, held back, is told so, not thrown out."""
    proxy, upstream = hasty

    def unread(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.until(b"\r\n\r\n")
        wait_for(lambda: done, 20, what="the end of the test")

    done: list[bool] = []
    upstream.script, before = unread, upstream.script
    try:
        with Client(proxy.port) as client:
            client.sock.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                client.send(post(body=b"x" * 30 * MIB))
            client.sock.settimeout(10)
            answered = client.answer()
        assert answered.status == 504
    finally:
        done.append(True)
        upstream.script = before


def test_thinking_upstream_times_out_at_the_first_byte(hasty: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    proxy, upstream = hasty
    upstream.script = never_answer
    try:
        begun = time.monotonic()
        with Client(proxy.port) as client:
            answered = client.ask(post())
        assert answered.status == 504
        assert answered.header(b"proxy-status") == b"gemini-proxy; error=connection_read_timeout"
        assert 0.9 < time.monotonic() - begun < 2
    finally:
        upstream.script = plain_answer


def test_connect_timeout(tmp_path: Path, full: str) -> None:
    with ProxyProcess(tmp_path, upstream=full, connect_timeout=0.5) as proxy:
        with Client(proxy.port) as client:
            answered = client.ask(post())
        assert answered.status == 504
        assert answered.header(b"proxy-status") == b"gemini-proxy; error=connection_timeout"
        (exchange,) = proxy.exchanges(1)
        assert exchange.failure is not None
        assert exchange.failure.kind == FailureKind.CONNECT_TIMEOUT


@pytest.mark.slow
def test_upload_of_a_gibibyte(tmp_path: Path) -> None:
    """Constant memory; the record keeps hash, size and head."""
    piece = bytes(range(256)) * 4096
    count = 1024

    def hashing(peer: Peer) -> None:
        asked = peer.request_head()
        left, digest = int(asked.header(b"content-length") or 0), blake3()
        digest.update(peer.buffer)
        left -= len(peer.buffer)
        peer.buffer.clear()
        while left:
            data = peer.sock.recv(min(left, MIB))
            digest.update(data)
            left -= len(data)
        peer.send(respond(digest.hexdigest().encode()))
        peer.watch()

    expected = blake3()
    with ScriptedUpstream(hashing) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        worker = psutil.Process(proxy.worker_pid)
        head = post(b"/upload/v1beta/files?upload_id=x", b"").replace(
            b"Length: 0", b"Length: %d" % (count * len(piece))
        )
        with Client(proxy.port) as client:
            client.send(head)
            before, most = worker.memory_info().rss, 0
            for index in range(count):
                client.send(piece)
                expected.update(piece)
                if index % 32 == 0:
                    most = max(most, worker.memory_info().rss)
            assert client.answer().body == expected.hexdigest().encode()
        assert most - before < 48 * MIB
        (exchange,) = proxy.exchanges(1)
    body = exchange.request_body
    assert (body.size, body.digest, body.complete) == (count * len(piece), expected.hexdigest(), False)
    assert body.data == piece[: len(body.data)]
    assert 0 < len(body.data) <= 65536


def test_many_half_open_heads_do_not_starve_others(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.script = steps(respond())
    idle = [Client(proxy.port) for _ in range(300)]
    for client in idle:
        client.send(b"POST / HTTP/1.1\r\nHost: 127")
    begun = time.monotonic()
    for _ in range(50):
        with Client(proxy.port) as client:
            assert client.ask(post()).body == b"ok"
    assert time.monotonic() - begun < 5
    for client in idle:
        client.close()
