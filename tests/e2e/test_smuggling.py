"""Whether another server's idea of where a request ends ever differs from ours: nginx in front of us, and behind us."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wire import Answered, Client, Closed, Peer, ScriptedUpstream, respond

from .serving import ProxyProcess, wait_for
from .test_parser_table import PASSED, REFUSED, SEED, check_forwarded, grown

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
ROUNDS = 400

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx (Debian package nginx-light) is not installed")

_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format one "$status $request_uri";
  access_log {folder}/access.log one;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {upstream}
  server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }}
}}
"""


@dataclass
class Nginx:
    port: int
    folder: Path

    def logged(self) -> list[tuple[int, str]]:
        """Status and target of every request so far."""
        lines = (self.folder / "access.log").read_text(errors="replace").splitlines()
        return [(int(line.split(" ")[0]), line.partition(" ")[2]) for line in lines]

    def logged_at_least(self, count: int) -> list[tuple[int, str]] | bool:
        """The same once there are `count`; True for none wanted and none there."""
        logged = self.logged()
        return len(logged) >= count and (logged or True)

    def forget(self) -> None:
        (self.folder / "access.log").write_text("")


def start(folder: Path, *, location: str, upstream: str = "") -> Iterator[Nginx]:
    assert NGINX is not None
    with ScriptedUpstream(lambda peer: None) as placeholder:
        port = placeholder.port
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, port=port, location=location, upstream=upstream))
    process = subprocess.Popen([NGINX, "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
    try:
        wait_for((folder / "nginx.pid").exists, what="nginx to start")
        yield Nginx(port, folder)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Answers with the target it read."""
    yield from start(tmp_path_factory.mktemp("behind"), location="client_max_body_size 0; return 200 $request_uri;")


@pytest.fixture(scope="module")
def in_front(proxy: ProxyProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    yield from start(
        tmp_path_factory.mktemp("front"),
        upstream=f"upstream us {{ server 127.0.0.1:{proxy.port}; keepalive 8; }}",
        location="proxy_pass http://us; proxy_http_version 1.1; proxy_set_header Connection ''; "
        "proxy_set_header Host 127.0.0.1; proxy_request_buffering off; proxy_next_upstream off;",
    )


def answers(port: int, request: bytes) -> list[Answered]:
    """Everything a server answers to these bytes and a request behind them, until it closes."""
    got = []
    with Client(port) as client:
        try:
            client.send(request + b"GET /last HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            while True:
                got.append(client.answer())
        except (Closed, OSError, ValueError):
            return got


def requests() -> Iterator[bytes]:
    source = random.Random(SEED)
    seeds = [request for _, request in REFUSED.values() if len(request) < 4000]
    seeds += [request for request, _ in PASSED.values()]
    yield from seeds
    for _ in range(ROUNDS):
        yield grown(source, seeds) + b"\r\n\r\n"


def echo(peer: Peer) -> None:
    while True:
        peer.send(respond(peer.request().target))


@pytest.mark.slow
def test_nginx_in_front_sends_what_we_read(in_front: Nginx, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    """Each request that nginx forwards is exactly one of ours, in order, on whatever connection."""
    upstream.script = echo
    for request in requests():
        upstream.forget()
        got = answers(in_front.port, request)
        echoed = [answered for answered in got if answered.status == 200]
        for asked in upstream.requests:
            check_forwarded(asked)
        targets = [asked.target for asked in upstream.requests]
        assert targets.count(b"/last") <= 1, request
        assert len(echoed) <= len(targets) <= len(got) + 1, (request, got, targets)


@pytest.mark.slow
def test_nginx_behind_reads_what_we_sent(behind: Nginx, tmp_path: Path) -> None:
    """nginx never finds a request in what we forward that we did not mean, nor one that is malformed."""
    with ProxyProcess(tmp_path, upstream=f"http://127.0.0.1:{behind.port}") as proxy:
        for request in requests():
            behind.forget()
            got = answers(proxy.port, request)
            passed = [answered for answered in got if answered.header(b"server") is not None]
            logged = wait_for(lambda passed=passed: behind.logged_at_least(len(passed)), what="nginx to log")
            logged = [] if logged is True else logged
            if b"%" not in request:
                assert all(status != 400 for status, _ in logged), (request, logged)
            # The last call may be cut off by a refusal of what follows it.
            assert len(logged) - len(passed) <= 1, (request, got, logged)
            assert [target for _, target in logged].count("/last") <= 1, request
