"""Connections, the ledger, running in-process, in a thread and as a program; the bench models."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys

import pytest

from gemini_caching_proxy import simulator as package
from gemini_caching_proxy.simulator import Ledger, Reply, Simulator, SimulatorOptions, SimulatorThread
from gemini_caching_proxy.simulator.__main__ import main

from .conftest import HELLO, SSE, UNARY, Peer, read_all, request_bytes


def keeping(wire: bytes) -> bytes:
    return wire.replace(b"Connection: close\r\n", b"")


def test_connections_are_kept_and_numbered(peer: Peer, simulator: Simulator) -> None:
    with peer.connect() as sock:
        sock.sendall(keeping(request_bytes(UNARY, HELLO)))
        simulator.ledger.wait_for(lambda ledger: len(ledger.requests) == 1 and ledger.last.ended_at is not None)
        sock.sendall(request_bytes(UNARY, HELLO))
        assert read_all(sock).raw.count(b"HTTP/1.1 200 OK\r\n") == 2
    peer.send(UNARY, HELLO)
    assert [entry.connection for entry in simulator.ledger.requests] == [1, 1, 2]
    assert simulator.ledger.connections == 2


def test_pipelined_requests_are_answered_in_order(peer: Peer, simulator: Simulator) -> None:
    first = keeping(request_bytes(UNARY, HELLO, "x-simulator-fault: 429"))
    second = request_bytes("/v1beta/models/gemini-2.5-pro", None, "X-Second: yes", method="GET")
    with peer.connect() as sock:
        sock.sendall(first + second)
        raw = read_all(sock).raw
    assert [int(found) for found in re.findall(rb"HTTP/1\.1 (\d+)", raw)] == [429, 200]
    assert [entry.raw_head for entry in simulator.ledger.requests] == [first.split(b"{")[0], second]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_is_noticed(peer: Peer, simulator: Simulator, how: str) -> None:
    with peer.connect() as sock:
        sock.sendall(request_bytes(SSE, HELLO, "x-simulator-fault: stall-at:1"))
        assert sock.recv(10)
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    simulator.ledger.wait_for(lambda ledger: ledger.last.client_left and ledger.open_connections == 0)
    entry = simulator.ledger.last
    assert entry.client_closed_at is not None
    assert entry.client_closed_at > entry.begun_at
    assert entry.bytes_sent > 0


def test_a_client_that_stays_did_not_leave(peer: Peer, simulator: Simulator) -> None:
    peer.send(UNARY, HELLO)
    assert not simulator.ledger.last.client_left
    assert simulator.ledger.last.status == 200
    assert simulator.ledger.last.body == json.dumps(HELLO).encode()
    assert simulator.ledger.last.header(b"host") == b"simulator.test"
    assert simulator.ledger.last.path == UNARY


def test_a_slow_reader_holds_the_answer_back(peer: Peer, simulator: Simulator) -> None:
    with peer.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        size = 200_000_000
        sock.sendall(request_bytes(f"/download/v1beta/files/generated-{size}:download", method="GET"))
        assert sock.recv(10)
        with pytest.raises(TimeoutError):
            simulator.ledger.wait_for(lambda ledger: ledger.last.ended_at is not None, timeout=0.3)
        assert simulator.ledger.last.bytes_sent < size / 4


def test_malformed_requests_are_refused(peer: Peer, simulator: Simulator) -> None:
    with peer.connect() as sock:
        sock.sendall(b"NONSENSE\r\n\r\n")
        assert read_all(sock).raw.startswith(b"HTTP/1.1 400 ")
    assert simulator.ledger.requests == []


def test_wait_for_gives_up() -> None:
    with pytest.raises(TimeoutError):
        Ledger().wait_for(lambda ledger: False, timeout=0.01)


def test_ledger_forgets_the_oldest_and_large_bodies() -> None:
    with SimulatorThread(SimulatorOptions()) as simulator:
        simulator.ledger.keep_body_bytes = 10
        Peer(simulator).send(UNARY, HELLO)
        assert simulator.ledger.last.body is None
        simulator.ledger.clear()
        assert simulator.ledger.requests == []


def test_on_a_loop_of_ones_own() -> None:
    async def talk() -> str:
        async with Simulator() as simulator:
            reader, writer = await asyncio.open_connection(simulator.host, simulator.port)
            writer.write(request_bytes(SSE, HELLO, "x-simulator-fault: stall-after-head"))
            await reader.readuntil(b"\r\n\r\n")
            writer.close()
            await simulator.ledger.until(lambda ledger: ledger.last.client_left)
            assert "requests=1" in repr(simulator)
            return simulator.url

    assert asyncio.run(talk()).startswith("http://127.0.0.1:")


def test_stopping_ends_what_hangs() -> None:
    with SimulatorThread() as simulator:
        sock = Peer(simulator).connect()
        sock.sendall(request_bytes(UNARY, HELLO, "x-simulator-fault: never-answer"))
        simulator.ledger.wait_for(lambda ledger: len(ledger.requests) == 1)
    with sock:
        assert read_all(sock).ended in ("fin", "rst")
    assert simulator.ledger.crashes == []


def test_a_port_in_use_is_said() -> None:
    with SimulatorThread() as simulator, pytest.raises(OSError), SimulatorThread(port=simulator.port):
        pass


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError):
        SimulatorThread(nonsense=1)


def test_scripted_replies(peer: Peer, simulator: Simulator) -> None:
    simulator.script_reply(Reply(418, ((b"X-Tea", b"pot"),), (b"short",), "length"), where="/v1beta/models")
    answer = peer.send(UNARY, HELLO)
    assert (answer.status, answer.header("x-tea"), answer.body) == (418, "pot", b"short")


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "gemini_caching_proxy.simulator", "--seed", "3", "--key", "good", "--chunks", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(request_bytes(UNARY, HELLO, key="x-goog-api-key: good"))
            assert read_all(sock).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_program_says_when_it_cannot_listen(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", str(simulator.port)]) == 1
    assert "Cannot listen" in capsys.readouterr().err


# Bench models


@pytest.mark.parametrize("size", [2048, 10_000])
def test_bench_unary(peer: Peer, simulator: Simulator, size: int) -> None:
    answer = peer.send(f"/v1beta/models/bench-unary-{size}:generateContent", b"not even JSON", key=None)
    assert abs(len(answer.body) - size) < size / 5
    assert answer.json()["candidates"][0]["finishReason"] == "STOP"
    assert (simulator.ledger.bench_requests, simulator.ledger.requests) == (1, [])


def test_bench_stream(peer: Peer) -> None:
    answer = peer.send("/v1beta/models/bench-sse-20-5:streamGenerateContent?alt=sse", HELLO)
    assert len(answer.chunks) == len(answer.events()) == 20
    assert answer.events()[-1]["candidates"][0]["finishReason"] == "STOP"
    assert len(peer.send("/v1/models/bench-sse-1:streamGenerateContent?alt=sse", HELLO).events()) == 1
    assert len(peer.send("/v1/models/bench-sse:streamGenerateContent?alt=sse", HELLO).events()) == 100


def test_bench_keeps_its_connections_and_takes_large_bodies(peer: Peer, simulator: Simulator) -> None:
    wire = keeping(request_bytes("/v1/models/bench-unary:generateContent", b"x" * 5_000_000))
    with peer.connect() as sock:
        for _ in range(2):
            sock.sendall(wire)
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += sock.recv(1 << 16)
        sock.sendall(request_bytes(UNARY, HELLO))
        assert read_all(sock).status == 200
    assert simulator.ledger.connections == 1
    assert simulator.ledger.last.raw_head.startswith(b"POST " + UNARY.encode())


def test_public_names() -> None:
    assert len(set(package.__all__)) == len(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
