from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gemini_caching_proxy import __version__
from gemini_caching_proxy.clients import CLIENTS
from gemini_caching_proxy.simulator import SimulatorThread

from .conftest import Ran

Call = Callable[..., Ran]


@pytest.fixture
def port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def test_a_good_setup_is_exit_0_and_names_every_client(call: Call, tmp_path: Path, port: str) -> None:
    with SimulatorThread() as upstream:
        where = ("--data-dir", str(tmp_path / "data"), "--port", port, "--gemini-base-url", upstream.url)
        ran = call("doctor", *where)
    assert ran.code == 0
    for client in CLIENTS:
        assert client.client in ran.out
        for line in client.at(f"http://127.0.0.1:{port}"):
            assert line in ran.out
    assert "✗" not in ran.out


def test_json_lines(call: Call, tmp_path: Path, port: str) -> None:
    ran = call("doctor", "--offline", "--json", "--data-dir", str(tmp_path / "data"), "--port", port)
    assert ran.code == 0
    checks = [record for record in ran.records if "check" in record]
    clients = [record for record in ran.records if "client" in record]
    assert {record["outcome"] for record in checks} == {"ok"}
    assert [record["client"] for record in clients] == [client.client for client in CLIENTS]


def test_a_problem_is_exit_1(call: Call, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        ran = call("doctor", "--offline", "--data-dir", str(tmp_path / "data"), "--port", port)
    assert ran.code == 1
    assert "✗ port" in ran.out


def test_version(call: Call) -> None:
    (record,) = call("version", "--json").records
    assert record["gemini-caching-proxy"] == __version__
    assert tuple(map(int, record["sqlite"].split(".")[:3])) >= (3, 51, 3)
    assert __version__ in call("version").out
