"""The probe against real listeners: a simulated API, and places where something is wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gemini_caching_proxy.errors import ConnectFailed, DnsFailed, MalformedResponse, ReadTimeout, TlsFailed
from gemini_caching_proxy.probe import Probe, probe
from gemini_caching_proxy.relay.origin import Origin
from gemini_caching_proxy.simulator import SimulatorOptions, SimulatorThread

KEY = b"demo-probe-key"


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def ask(url: str, key: bytes | None = KEY, timeout: float = 5.0) -> Probe:
    return asyncio.run(probe(Origin.from_url(url), key=key, ca_file=None, timeout=timeout))


def test_a_good_upstream_answers_and_tells_the_time() -> None:
    with SimulatorThread(SimulatorOptions(accepted_keys=frozenset({KEY.decode()}))) as upstream:
        good, refused, without = ask(upstream.url), ask(upstream.url, b"another-key"), ask(upstream.url, None)
        received = [one.target for one in upstream.ledger.requests]
    assert (good.error, good.status) == (None, 200)
    assert good.connect_seconds is not None
    assert good.answer_seconds is not None
    assert good.clock_skew_seconds is not None
    assert abs(good.clock_skew_seconds) < 5
    assert refused.status in (400, 401)
    assert without.status == 403
    assert received == [b"/v1beta/models?pageSize=1"] * 3


def test_a_base_path_is_kept() -> None:
    with SimulatorThread(SimulatorOptions(base_path="/gateway")) as upstream:
        assert ask(upstream.url + "/gateway").status == 200
        assert upstream.ledger.requests[0].target == b"/gateway/v1beta/models?pageSize=1"


def test_each_step_that_fails_is_told(silent: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = ask(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (refused.step, type(refused.error)) == ("connection", ConnectFailed)
    unknown = ask("http://no-such-host.invalid")
    assert (unknown.step, type(unknown.error)) == ("name", DnsFailed)
    mute = ask(f"http://{silent}", timeout=0.3)
    assert (mute.step, type(mute.error)) == ("answer", ReadTimeout)


def test_tls_with_something_else_fails_at_tls() -> None:
    with SimulatorThread() as upstream:
        result = ask(upstream.url.replace("http://", "https://"))
    assert (result.step, type(result.error)) == ("TLS", TlsFailed)


def test_an_answer_that_is_no_http_is_told() -> None:
    async def scenario() -> Probe:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await probe(Origin.from_url(f"http://127.0.0.1:{port}"), key=None, ca_file=None, timeout=5)

    result = asyncio.run(scenario())
    assert (result.step, type(result.error)) == ("answer", MalformedResponse)


def test_the_key_stands_in_no_text() -> None:
    with SimulatorThread(SimulatorOptions(accepted_keys=frozenset())) as upstream:
        assert KEY.decode() not in repr(ask(upstream.url))
