"""The nginx of the replicas: its very configuration, with only addresses and folder of the test, and real proxies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from e2e.serving import ProxyProcess, free_port, wait_for
from gemini_caching_proxy.simulator import SimulatorOptions, SimulatorThread
from wire import CHUNKED, STREAM, Client, Peer, ScriptedUpstream, ask, chunk, get, plain_answer, post

from .compose import ROOT

PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")

SAID = b'{"contents": [{"parts": [{"text": "Plan a week in Lisbon"}]}]}'

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="nginx (Debian package nginx) is not installed"),
    pytest.mark.slow,
]


class Nginx:
    """nginx with docker/nginx.conf; the names `proxy-1` and `proxy-2` lead to these ports."""

    def __init__(self, folder: Path, first: int, second: int) -> None:
        assert PROGRAM is not None
        self.port = free_port()
        self._folder = folder
        self._log = folder / "log"
        text = (ROOT / "docker" / "nginx.conf").read_text().replace(" /tmp/", f" {folder}/")
        for old, new in (
            ("proxy-1:8000", f"127.0.0.1:{first}"),
            ("proxy-2:8000", f"127.0.0.1:{second}"),
            ("listen 8000 ", f"listen 127.0.0.1:{self.port} "),
            ("access_log /dev/stdout", f"access_log {self._log}"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)
        # In the container it starts as its user; where a test is root, its workers would become another one.
        user = ["-g", "user root;"] if os.geteuid() == 0 else []
        self._command = [PROGRAM, "-e", "stderr", "-c", str(folder / "nginx.conf"), *user]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def test(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._command, "-t"], capture_output=True, text=True, check=False)

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            wait_for((self._folder / "nginx.pid").exists, what="nginx to start")
        except AssertionError:
            self.process.kill()
            raise AssertionError(f"nginx does not start: {self.log}, {self.process.wait()}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def behind() -> Iterator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    """Two servers in the place of the proxies."""
    with ScriptedUpstream(plain_answer) as first, ScriptedUpstream(plain_answer) as second:
        yield first, second


@pytest.fixture
def nginx(tmp_path: Path, behind: tuple[ScriptedUpstream, ScriptedUpstream]) -> Iterator[Nginx]:
    """nginx in front of `behind`."""
    with Nginx(tmp_path, behind[0].port, behind[1].port) as running:
        yield running


def received(behind: tuple[ScriptedUpstream, ScriptedUpstream]) -> int:
    return sum(len(each.requests) for each in behind)


def test_two_proxies_record_each_exchange_once(tmp_path: Path) -> None:
    for name in ("first", "second", "nginx"):
        (tmp_path / name).mkdir()
    with ExitStack() as stack:
        simulator = stack.enter_context(SimulatorThread(SimulatorOptions()))
        proxies = [
            stack.enter_context(ProxyProcess(tmp_path / name, upstream=simulator.url)) for name in ("first", "second")
        ]
        nginx = stack.enter_context(Nginx(tmp_path / "nginx", proxies[0].port, proxies[1].port))
        names = [f"client-{number}" for number in range(12)]
        for name in names:
            answered = ask(nginx.port, post(STREAM, SAID, headers=b"User-Agent: %b\r\n" % name.encode()))
            assert answered.status == 200
            assert answered.complete
            assert answered.body.startswith(b"data: ")
        there = [[each.user_agent for each in proxy.exchanges()] for proxy in proxies]
        assert sorted(there[0] + there[1]) == sorted(names)
        assert there[0]
        assert there[1]
        # A name of somebody else's that leads here is refused by the proxies, which see it as it was sent.
        rebound = get().replace(b"Host: 127.0.0.1", b"Host: evil.example")
        assert ask(nginx.port, rebound).status == 403


def test_an_event_arrives_before_the_next_is_sent(tmp_path: Path) -> None:
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunk(b"data: one\n\n"))
        assert seen.wait(10)
        peer.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    (tmp_path / "nginx").mkdir()
    with (
        ScriptedUpstream(script) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url) as proxy,
        Nginx(tmp_path / "nginx", proxy.port, proxy.port) as nginx,
        Client(nginx.port) as client,
    ):
        client.send(post(STREAM))
        client.head()
        pieces = client.chunked()
        assert next(pieces) == b"data: one\n\n"
        seen.set()
        assert list(pieces) == [b"data: two\n\n"]


def test_a_request_body_passes_as_it_comes(nginx: Nginx, behind: tuple[ScriptedUpstream, ScriptedUpstream]) -> None:
    arrived = threading.Event()

    def script(peer: Peer) -> None:
        asked = peer.request_head()
        first = peer.exactly(1000)
        arrived.set()
        asked.body = first + peer.exactly(1_000_000)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    for each in behind:
        each.script = script
    with Client(nginx.port) as client:
        head = b"POST /upload/v1beta/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1001000\r\n\r\n"
        client.send(head + b"a" * 1000)
        assert arrived.wait(10)
        client.send(b"b" * 1_000_000)
        assert client.answer().status == 200
    assert received(behind) == 1


def test_nothing_is_added_and_nothing_is_taken_away(
    nginx: Nginx, behind: tuple[ScriptedUpstream, ScriptedUpstream]
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        headers = b"Server: upstream\r\nDate: yesterday\r\nX-Accel-Redirect: /secret\r\nX-Odd_name: 1\r\n"
        peer.send(b"HTTP/1.1 200 OK\r\n%bContent-Length: 2\r\n\r\nok" % headers)

    for each in behind:
        each.script = script
    target = b"/v1beta//models/a%2Fb:generateContent?key=made-up&x=%20"
    answered = ask(nginx.port, post(target, headers=b"X-Odd_name: 1\r\nX-Long: %b\r\n" % (b"x" * 40_000)))
    assert answered.status == 200
    assert answered.body == b"ok"
    assert answered.header(b"server") == b"upstream"
    assert answered.header(b"date") == b"yesterday"
    assert answered.header(b"x-odd_name") == b"1"
    (asked,) = (*behind[0].requests, *behind[1].requests)
    assert asked.line == b"POST %b HTTP/1.1" % target
    assert sorted(name.lower() for name, _ in asked.headers) == [
        *(b"content-length", b"content-type", b"host", b"x-goog-api-key", b"x-long", b"x-odd_name"),
    ]


def test_what_was_sent_is_not_sent_again(nginx: Nginx, behind: tuple[ScriptedUpstream, ScriptedUpstream]) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.fin()
        peer.close()

    for each in behind:
        each.script = script
    assert ask(nginx.port, post()).status == 502
    assert received(behind) == 1
    # A GET may be, and was, by the other.
    assert ask(nginx.port, get()).status == 502
    assert received(behind) > 2


def test_a_proxy_that_is_gone_costs_no_request(tmp_path: Path) -> None:
    with ScriptedUpstream(plain_answer) as there, Nginx(tmp_path, free_port(), there.port) as nginx:
        for _ in range(6):
            assert ask(nginx.port, post(b"/v1beta/models/m:generateContent?key=made-up-key")).status == 200
        assert len(there.requests) == 6
        wait_for(lambda: nginx.log.count(" 200 ") == 6, what="the log's lines")
        # The failed attempts are told, without the request line and the key in it.
        assert "made-up-key" not in nginx.log
        assert "502, 200" in nginx.log


def test_a_client_that_leaves_ends_the_call(nginx: Nginx, behind: tuple[ScriptedUpstream, ScriptedUpstream]) -> None:
    left = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunk(b"data: one\n\n"))
        peer.watch(10)
        left.set()

    for each in behind:
        each.script = script
    with Client(nginx.port) as client:
        client.send(post(STREAM))
        client.until(b"data: one\n\n")
    assert left.wait(10)


def test_websockets_pass(nginx: Nginx, behind: tuple[ScriptedUpstream, ScriptedUpstream]) -> None:
    def script(peer: Peer) -> None:
        asked = peer.request_head()
        assert asked.header(b"upgrade") == b"websocket"
        assert asked.header(b"connection") == b"upgrade"
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        peer.send(peer.exactly(4)[::-1])
        peer.watch(10)

    for each in behind:
        each.script = script
    with Client(nginx.port) as client:
        client.send(get(b"/ws", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"))
        assert client.answer().status == 101
        client.send(b"abcd")
        assert client.exactly(4) == b"dcba"


def test_a_running_stream_ends_before_nginx_does(
    nginx: Nginx, behind: tuple[ScriptedUpstream, ScriptedUpstream]
) -> None:
    stopping = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunk(b"data: one\n\n"))
        assert stopping.wait(10)
        peer.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    for each in behind:
        each.script = script
    assert nginx.process is not None
    with Client(nginx.port) as client:
        client.send(post(STREAM))
        client.head()
        pieces = client.chunked()
        assert next(pieces) == b"data: one\n\n"
        nginx.process.send_signal(signal.SIGQUIT)
        stopping.set()
        assert list(pieces) == [b"data: two\n\n"]
    assert nginx.process.wait(10) == 0


def test_nginx_finds_the_configuration_right(nginx: Nginx) -> None:
    done = nginx.test()
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
