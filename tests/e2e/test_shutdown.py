"""Stopping, dying and coming back: the processes of one `serve`."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from gemini_caching_proxy.exchange import Failure, FailureKind, Response
from gemini_caching_proxy.recording_status import read_status
from gemini_caching_proxy.supervisor import EXIT_CONFIG, EXIT_IN_USE, EXIT_OK
from wire import CHUNKED, STREAM, Client, Closed, Peer, ScriptedUpstream, ask, chunk, get, plain_answer, post

from .serving import ProxyProcess, wait_for


class Streams:
    """An upstream whose streams send one chunk, and the rest when told."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunk(b"data: 1\n\n"))
        if self.go.wait(30):
            peer.send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")


def streaming(proxy: ProxyProcess, count: int) -> list[Client]:
    """Clients that have the first chunk of their stream."""
    clients = [Client(proxy.port) for _ in range(count)]
    for client in clients:
        client.send(post(STREAM))
    for client in clients:
        client.until(b"data: 1\n\n\r\n")
    return clients


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def test_running_streams_finish(tmp_path: Path) -> None:
    streams = Streams()
    with ScriptedUpstream(streams) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        clients = streaming(proxy, 50)
        idle = Client(proxy.port)
        assert idle.ask(get(b"/healthz")).status == 200
        proxy.signal(signal.SIGTERM)
        assert idle.to_the_end() == b"", "idle connections end at once"
        wait_for(lambda: refused(proxy.port), 5, "new connections to be refused")
        streams.go.set()
        for client in clients:
            assert client.until(b"0\r\n\r\n") == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
            client.close()
        idle.close()
        assert proxy.wait(10) == EXIT_OK
        exchanges = proxy.exchanges()
        assert len(exchanges) == 50
        assert all(isinstance(exchange.outcome, Response) for exchange in exchanges)
        assert not (proxy.data_dir / "serve.json").exists()


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    with ScriptedUpstream(Streams()) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        clients = streaming(proxy, 10)
        old = Client(proxy.port)
        old.send(post(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
        old.until(b"data: 1\n\n")
        proxy.signal(signal.SIGTERM)
        wait_for(lambda: refused(proxy.port), 5, "the first signal to work")
        begun = time.monotonic()
        proxy.signal(signal.SIGTERM)
        assert proxy.wait(10) == EXIT_OK
        assert time.monotonic() - begun < 1.5
        for client in clients:
            with contextlib.suppress(ConnectionError):
                assert client.to_the_end() == b"", "no last chunk"
            client.close()
        with pytest.raises(ConnectionResetError):
            old.to_the_end()
        old.close()
    with ScriptedUpstream(plain_answer) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        exchanges = proxy.exchanges(11)
        assert len(exchanges) == 11
        for exchange in exchanges:
            assert isinstance(exchange.outcome, Failure)
            assert exchange.outcome.kind == FailureKind.INTERRUPTED
            assert exchange.outcome.partial is not None
            assert exchange.outcome.partial.body.data == b"data: 1\n\n"


def test_drain_ends_at_its_deadline(tmp_path: Path) -> None:
    with (
        ScriptedUpstream(Streams()) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, drain_timeout=1) as proxy,
    ):
        clients = streaming(proxy, 3)
        begun = time.monotonic()
        proxy.signal(signal.SIGTERM)
        assert proxy.wait(10) == EXIT_OK
        assert 0.9 < time.monotonic() - begun < 4
        for client in clients:
            client.close()
        assert {exchange.failure.kind for exchange in proxy.exchanges() if exchange.failure} == {
            FailureKind.INTERRUPTED
        }


def test_worker_that_dies_is_replaced_on_the_same_port(tmp_path: Path) -> None:
    streams = Streams()
    with ScriptedUpstream(streams) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        clients = streaming(proxy, 3)
        before = proxy.worker_pid
        # What runs is in the journal within milliseconds, and kept from there on.
        wait_for(lambda: (status := read_status(proxy.data_dir)) and status.open_exchanges == 3, what="the recorder")
        psutil.Process(before).kill()
        # The listening socket never closed: this one waits for the new worker instead of being refused.
        upstream.script = plain_answer
        assert ask(proxy.port, post()).body == b"ok"
        assert proxy.worker_pid != before
        for client in clients:
            client.ended()
            client.close()
        exchanges = proxy.exchanges(4)
        kinds = sorted(exchange.failure.kind if exchange.failure else "" for exchange in exchanges)
        assert kinds == ["", *[FailureKind.INTERRUPTED] * 3]
        for exchange in exchanges:
            if exchange.failure is not None:
                assert exchange.failure.partial is not None
                assert exchange.failure.partial.body.data == b"data: 1\n\n", "kept up to the last chunk"


def test_recorder_that_dies_costs_nothing(tmp_path: Path) -> None:
    with ScriptedUpstream(plain_answer) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        ask(proxy.port, post())
        proxy.child("recorder").kill()
        for _ in range(20):
            assert ask(proxy.port, post()).body == b"ok"
        assert len(proxy.exchanges(21)) == 21
        assert len({exchange.id for exchange in proxy.exchanges()}) == 21


def test_supervisor_that_dies_takes_the_others_along(tmp_path: Path) -> None:
    with ScriptedUpstream(plain_answer) as upstream:
        first = ProxyProcess(tmp_path, upstream=upstream.url).start()
        ask(first.port, post())
        children = psutil.Process(first.pid).children()
        assert len(children) == 2
        first.kill()
        with ProxyProcess(tmp_path, upstream=upstream.url, port=first.port) as second:
            assert ask(second.port, post()).body == b"ok"
            _, alive = psutil.wait_procs(children, 10)
            assert alive == []
            assert len(second.exchanges(2)) == 2


def test_supervisor_that_dies_with_a_stream_running(tmp_path: Path) -> None:
    """The worker goes on until the stream is over, and is in nobody's way."""
    streams = Streams()
    with ScriptedUpstream(streams) as upstream:
        first = ProxyProcess(tmp_path, upstream=upstream.url).start()
        (client,) = streaming(first, 1)
        children = psutil.Process(first.pid).children()
        first.kill()
        with ProxyProcess(tmp_path, upstream=upstream.url, port=first.port) as second:
            assert ask(second.port, get(b"/healthz")).status == 200
            streams.go.set()
            assert client.until(b"0\r\n\r\n")
            client.close()
            _, alive = psutil.wait_procs(children, 10)
            assert alive == []
            (exchange,) = second.exchanges(1)
            assert isinstance(exchange.outcome, Response)


def test_second_serve_on_one_folder(tmp_path: Path) -> None:
    with ScriptedUpstream(plain_answer) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        begun = time.monotonic()
        ended = ProxyProcess(tmp_path, upstream=upstream.url).run_to_end()
        assert ended.returncode == EXIT_IN_USE
        assert time.monotonic() - begun < 2
        assert str(proxy.pid) in ended.stderr
        assert str(proxy.data_dir) in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
        assert ask(proxy.port, post()).body == b"ok"


BAD_SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "remote without consent": ({"host": "0.0.0.0"}, "allow_remote"),
    "no number": ({"connect_timeout": "soon"}, "--connect-timeout"),
    "certificate without key": ({"tls_cert": "/nowhere.pem"}, "tls_key"),
    "certificate that is not there": ({"tls_cert": "/nowhere.pem", "tls_key": "/nowhere.key"}, "--tls-cert"),
    "no such store": ({"store": "cassandra://x"}, "--store"),
    "unknown policy": ({"client_gone": "maybe"}, "--client-gone"),
    "public URL": ({"public_url": "ftp://x"}, "--public-url"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_setting_is_one_sentence(case: str, tmp_path: Path) -> None:
    settings, word = BAD_SETTINGS[case]
    ended = ProxyProcess(tmp_path, upstream="http://127.0.0.1:9", **settings).run_to_end()
    assert ended.returncode == EXIT_CONFIG
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


@pytest.mark.parametrize("url", ["not a url", "http://", "http://h:99999", "http://u:p@h", "http://h/?q", "https://["])
def test_bad_upstream_is_one_sentence(url: str, tmp_path: Path) -> None:
    ended = ProxyProcess(tmp_path, upstream=url).run_to_end()
    assert ended.returncode == EXIT_CONFIG
    assert "--gemini-base-url" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = ProxyProcess(tmp_path, upstream="http://127.0.0.1:9", port=port).run_to_end()
        assert ended.returncode == EXIT_CONFIG
        assert f"127.0.0.1:{port} is taken" in ended.stderr
    itself = ProxyProcess(tmp_path, upstream=f"http://localhost:{port}", port=port).run_to_end()
    assert itself.returncode == EXIT_CONFIG
    assert "this proxy itself" in itself.stderr


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, no folder")
    ended = ProxyProcess(tmp_path, upstream="http://127.0.0.1:9").run_to_end()
    assert ended.returncode == EXIT_CONFIG
    assert "--data-dir" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_two_workers_share_the_port(tmp_path: Path) -> None:
    with ScriptedUpstream(plain_answer) as upstream, ProxyProcess(tmp_path, upstream=upstream.url, workers=2) as proxy:
        for _ in range(40):
            assert ask(proxy.port, post()).body == b"ok"
        assert len({id(asked.peer) for asked in upstream.requests}) >= 2
        first = proxy.child("worker-0").pid
        psutil.Process(first).kill()
        for _ in range(40):
            with contextlib.suppress(Closed, ConnectionError):
                assert ask(proxy.port, post()).body == b"ok"
        wait_for(lambda: proxy.child("worker-0").pid != first, what="the first worker to be back")
        # A client of the second worker goes on, and of the first one too.
        for _ in range(40):
            assert ask(proxy.port, post()).body == b"ok"
        assert len(proxy.exchanges(80)) >= 80
        assert proxy.stop() == EXIT_OK


def test_interrupt_from_the_terminal(tmp_path: Path) -> None:
    with ScriptedUpstream(plain_answer) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        connection.request("GET", "/v1beta/models")
        assert connection.getresponse().read() == b"ok"
        connection.close()
        proxy.signal(signal.SIGINT)
        assert proxy.wait(10) == EXIT_OK
        assert "Traceback" not in proxy.log


@pytest.mark.slow
def test_no_request_fails_while_others_take_over(tmp_path: Path) -> None:
    """Restarts under load: a client that connects per request, and elsewhere when it is refused, loses none."""
    with ScriptedUpstream(plain_answer) as upstream:
        proxies = [ProxyProcess(folder(tmp_path, name), upstream=upstream.url).start() for name in ("a", "b")]
        ports = [proxy.port for proxy in proxies]
        stop, failures, done = threading.Event(), [], []

        def load() -> None:
            number = 0
            while not stop.wait(0.005):
                number += 1
                try:
                    answered = one(ports[number % 2], ports[(number + 1) % 2])
                except (Closed, OSError) as error:
                    failures.append(repr(error))
                else:
                    done.append(answered)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for round_ in range(4):
                which = round_ % 2
                proxies[which].stop()
                proxies[which] = ProxyProcess(tmp_path / "ab"[which], upstream=upstream.url, port=ports[which]).start()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        for proxy in proxies:
            proxy.stop()
        assert failures == []
        assert len(done) > 100
        assert set(done) == {b"ok"}


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def one(port: int, other: int) -> bytes:
    """A request, at another port if the first one refuses the connection."""
    try:
        client = Client(port)
    except OSError:
        client = Client(other)
    with client:
        return client.ask(post()).body
