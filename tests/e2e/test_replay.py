"""Answering from recordings alone, and in the time that they took: the running program with its upstream gone."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import agent_session

from gemini_caching_proxy.cli import main
from gemini_caching_proxy.exchange import Failure, FailureKind, Response, Verdict
from replaying import replaying
from wire import CHUNKED, Answered, Client, Peer, ScriptedUpstream, ask, chunk, get

from .asking import SSE, Numbered, answer_object, call, event, events, generate, is_hit, once, said, unary
from .serving import ProxyProcess

REAL = b"X-Replay-Speed: real"
GAPS = (0.0, 0.3, 0.1, 0.6)
"""Seconds before each chunk of the recorded stream."""
EARLY = 0.02
"""By how much a chunk may come early: what the recording and the test's own clock disagree."""
SIGNED = [
    event(answer_object("Signed words. ", None)),
    event({"candidates": [{"content": {"role": "model", "parts": [
        {"functionCall": {"name": "look", "args": {"at": "über \\ / \u2028"}, "id": "call-1"},
         "thoughtSignature": "Q2lRQmFiYytkL2U9PQ+/Zm9v=="}]}, "index": 0}]}),
    event(answer_object("More. ", None)),
    event(answer_object("", "STOP")),
]  # fmt: skip


class Gone:
    """An upstream that should hear of nobody."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream

    def __enter__(self) -> None:
        self._before = len(self._upstream.peers)

    def __exit__(self, *_: object) -> None:
        assert len(self._upstream.peers) == self._before, "nobody is called"


@pytest.fixture
def numbered() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(Numbered()) as upstream:
        yield upstream


# Never calling out


def line(method: bytes, target: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    lines = b"".join(each + b"\r\n" for each in headers)
    return b"%b %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
        method,
        target,
        lines,
        len(body),
        body,
    )


UPGRADE = (
    b"GET /ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
UNRECORDED = {
    "generation": call(generate("never asked")),
    "stream": call(generate("never asked"), SSE),
    "fresh": call(generate("recorded before"), b"generateContent", b"Cache-Control: no-cache", key=b"another-key"),
    "mode all": call(generate("never asked"), b"generateContent", b"X-Cache-Mode: all"),
    "mode off": call(generate("never asked"), b"generateContent", b"X-Cache-Mode: off"),
    "listing": get(b"/v1beta/models"),
    "files": get(b"/v1beta/files"),
    "unknown": get(b"/v7/no/such/thing?x=y"),
    "root": get(b"/"),
    "upload": line(b"POST", b"/upload/v1beta/files", b"X-Goog-Upload-Protocol: resumable", body=b"{}"),
    "upload bytes": line(b"PUT", b"/upload/v1beta/files?upload_id=abc", body=b"x" * 100_000),
    "delete": line(b"DELETE", b"/v1beta/files/abc"),
    "patch": line(b"PATCH", b"/v1beta/cachedContents/abc", body=b"{}"),
    "options": line(b"OPTIONS", b"/v1beta/models"),
    "download": get(b"/download/v1beta/files/abc:download?alt=media"),
    "openai": line(b"POST", b"/v1beta/openai/chat/completions", body=b'{"model": "m", "messages": []}'),
    "interaction": line(b"POST", b"/v1beta/interactions", body=b'{"model": "m", "input": "x"}'),
    "not json": call(b"\x00\x01", b"generateContent"),
    "websocket": UPGRADE,
}


@pytest.fixture(scope="module")
def replayer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProxyProcess, ScriptedUpstream]]:
    folder = tmp_path_factory.mktemp("replayer")
    with ScriptedUpstream(Numbered()) as upstream:
        with ProxyProcess(folder, upstream=upstream.url) as proxy:
            ask(proxy.port, call(generate("recorded before")))
        with ProxyProcess(folder, upstream=upstream.url, cache="replay") as proxy:
            yield proxy, upstream


@pytest.mark.parametrize("what", UNRECORDED)
def test_what_is_not_recorded_is_not_asked(what: str, replayer: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    proxy, upstream = replayer
    with Gone(upstream):
        answered = ask(proxy.port, UNRECORDED[what])
    assert answered.status == 504
    error = json.loads(answered.body)["error"]
    assert (error["code"], error["status"]) == (504, "DEADLINE_EXCEEDED")
    assert error["message"].endswith(".")
    status = said(answered)
    assert "fwd" not in status
    assert status["detail"]
    assert answered.header(b"x-exchange-id")


def test_head_is_not_asked_either(replayer: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    proxy, upstream = replayer
    with Gone(upstream):
        answered = ask(proxy.port, line(b"HEAD", b"/v1beta/models"), head_only=True)
    assert answered.status == 504


def test_what_is_recorded_is_served_in_replay_however_it_is_asked(
    replayer: tuple[ProxyProcess, ScriptedUpstream],
) -> None:
    proxy, upstream = replayer
    with Gone(upstream):
        for lines in ((), (b"Cache-Control: no-cache",), (b"Cache-Control: max-age=0",), (b"X-Cache-Mode: off",)):
            for method in (b"generateContent", SSE):
                answered = ask(proxy.port, call(generate("recorded before"), method, *lines))
                assert answered.status == 200
                assert said(answered).keys() == {"hit", "key"}


def test_a_missing_recording_is_recorded_as_such(replayer: tuple[ProxyProcess, ScriptedUpstream]) -> None:
    proxy, _ = replayer
    ask(proxy.port, call(generate("missing"), b"generateContent", b"User-Agent: misses"))
    exchange = proxy.exchange("misses")
    assert isinstance(exchange.outcome, Failure)
    assert exchange.outcome.kind == FailureKind.NOT_RECORDED
    assert exchange.outcome.served_status == 504
    assert exchange.cache is not None
    assert exchange.cache.verdict == Verdict.MISS
    assert exchange.entry_key is None


def test_errors_are_replayed_where_no_success_is_recorded(tmp_path: Path, numbered: ScriptedUpstream) -> None:
    quota = b'{"error": {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}}'
    refused = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%b" % (len(quota), quota)
    numbered.script = once(refused, refused, unary("at last"), unary("no", "SAFETY"))
    with ProxyProcess(tmp_path, upstream=numbered.url) as proxy:
        for text in ("only errors", "first an error", "first an error", "blocked"):
            ask(proxy.port, call(generate(text)))
    with Gone(numbered), ProxyProcess(tmp_path, upstream=numbered.url, cache="replay") as proxy:
        answered = ask(proxy.port, call(generate("only errors")))
        assert (answered.status, answered.body) == (429, quota)
        assert said(answered)["detail"] == "a recorded error"
        assert b"at last" in ask(proxy.port, call(generate("first an error"))).body
        blocked = ask(proxy.port, call(generate("blocked")))
        assert b"SAFETY" in blocked.body
        assert said(blocked)["detail"] == "a recorded error"
    with (
        Gone(numbered),
        ProxyProcess(tmp_path, upstream=numbered.url, cache="replay", cache_replay_errors="0") as proxy,
    ):
        assert ask(proxy.port, call(generate("only errors"))).status == 504
        assert b"at last" in ask(proxy.port, call(generate("first an error"))).body


# In its own time


def gapped(peer: Peer) -> None:
    """A stream with pauses: what a model's thinking looks like on the wire."""
    while True:
        peer.request()
        peer.send(CHUNKED)
        for gap, piece in zip(GAPS, SIGNED, strict=True):
            time.sleep(gap)
            peer.send(chunk(piece))
        peer.send(b"0\r\n\r\n")


def timed(port: int, request: bytes) -> tuple[list[float], list[bytes], Answered]:
    """When each chunk came, in seconds since the first."""
    with Client(port) as client:
        client.send(request)
        first_line, headers = client.head()
        moments, pieces = [], []
        for piece in client.chunked():
            moments.append(time.monotonic())
            pieces.append(piece)
    return [moment - moments[0] for moment in moments], pieces, Answered(int(first_line.split()[1]), b"", headers)


@pytest.mark.parametrize("where", ["memory", "store"])
def test_a_stream_is_paced_as_it_was_recorded(where: str, tmp_path: Path) -> None:
    with ScriptedUpstream(gapped) as upstream:
        with ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
            recorded, _, _ = timed(proxy.port, call(generate("paced"), SSE))
            if where == "memory":
                check_pacing(proxy.port, recorded)
        if where == "store":
            with Gone(upstream), ProxyProcess(tmp_path, upstream=upstream.url, cache="replay") as proxy:
                check_pacing(proxy.port, recorded)


def check_pacing(port: int, recorded: list[float]) -> None:
    durations = {}
    for speed, factor in (("instant", 0.0), ("real", 1.0), ("4x", 4.0), ("0.5x", 0.5)):
        moments, pieces, answered = timed(port, call(generate("paced"), SSE, b"X-Replay-Speed: " + speed.encode()))
        assert is_hit(answered)
        assert pieces == SIGNED, "byte for byte, and chunk for chunk"
        durations[speed] = moments[-1]
        if factor:
            due = [offset / factor for offset in recorded]
            assert all(moment > each - EARLY for moment, each in zip(moments, due, strict=True)), (speed, moments, due)
    assert durations["instant"] < durations["4x"] < durations["real"] < durations["0.5x"]
    assert durations["instant"] < recorded[-1] / 4
    assert durations["4x"] < recorded[-1] * 0.75


def test_other_shapes_are_paced_too(tmp_path: Path) -> None:
    with ScriptedUpstream(gapped) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        recorded, _, _ = timed(proxy.port, call(generate("paced"), SSE))
        moments, pieces, answered = timed(proxy.port, call(generate("paced"), b"streamGenerateContent", REAL))
        assert is_hit(answered)
        assert len(json.loads(b"".join(pieces))) == len(SIGNED)
        assert moments[-1] > recorded[-1] / 2
        began = time.monotonic()
        whole = ask(proxy.port, call(generate("paced"), b"generateContent", REAL))
        assert is_hit(whole)
        (candidate,) = json.loads(whole.body)["candidates"]
        assert candidate["finishReason"] == "STOP"
        assert any(
            part.get("thoughtSignature") == "Q2lRQmFiYytkL2U9PQ+/Zm9v==" for part in candidate["content"]["parts"]
        )
        assert time.monotonic() - began > recorded[-1] / 2, "an object comes when the last of it came"


def test_who_leaves_a_paced_stream_is_recorded(tmp_path: Path) -> None:
    with ScriptedUpstream(gapped) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        ask(proxy.port, call(generate("paced"), SSE))
        with Gone(upstream), Client(proxy.port) as client:
            client.send(call(generate("paced"), SSE, b"X-Replay-Speed: 0.001x", b"User-Agent: leaves"))
            client.until(SIGNED[0])
            client.rst()
            exchange = proxy.exchange("leaves")
        assert isinstance(exchange.outcome, Failure)
        assert exchange.outcome.kind == FailureKind.CLIENT_GONE
        assert exchange.outcome.partial is not None
        assert exchange.outcome.partial.body.data == SIGNED[0]
        assert exchange.cache is not None
        assert exchange.cache.verdict == Verdict.HIT
        assert exchange.entry_key is None
        assert ask(proxy.port, call(generate("paced"), SSE)).body == b"".join(SIGNED)


def test_stopping_ends_a_paced_stream(tmp_path: Path) -> None:
    with (
        ScriptedUpstream(gapped) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, drain_timeout=0.1) as proxy,
        Client(proxy.port) as client,
    ):
        ask(proxy.port, call(generate("paced"), SSE))
        client.send(call(generate("paced"), SSE, b"X-Replay-Speed: 0.001x"))
        client.until(SIGNED[0])
        assert proxy.stop() == 0
        assert client.ended() > 0
        assert b"\r\n0\r\n\r\n" not in client.received


# Whole sessions, offline


@pytest.mark.slow
def test_a_long_session_is_replayed_offline(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    turns = 200
    said_by_model = [f"Turn {number}: " + "so it goes. " * 20 for number in range(turns)]
    bodies = session(said_by_model)
    numbers = itertools.count()

    def model(peer: Peer) -> None:
        while True:
            peer.request()
            pieces = events(said_by_model[next(numbers)], 6)
            peer.send(CHUNKED + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")

    with ScriptedUpstream(model) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        recorded = play(proxy.port, bodies)
        path = tmp_path / "session.cassette"
        assert main(["export", "--cassette", str(path), "--data-dir", str(proxy.data_dir)]) == 0
        proxy.stop()
        peers = len(upstream.peers)
        with ProxyProcess(tmp_path, upstream=upstream.url, cache="replay") as offline:
            from_store = play(offline.port, bodies)
        assert len(upstream.peers) == peers
    with replaying(path, tmp_path) as told:
        port = int(str(told["url"]).rpartition(":")[2])
        from_cassette = play(port, bodies)
        assert ask(port, call(generate("never said"), SSE)).status == 504
    assert len(recorded) == turns
    for replayed in (from_store, from_cassette):
        assert sum(is_hit(answered) for answered in replayed) == turns
        assert [answered.chunks for answered in replayed] == [answered.chunks for answered in recorded]
    capfd.readouterr()


def session(said_by_model: list[str]) -> list[bytes]:
    """The requests of a coding agent: each repeats all before it."""
    script = agent_session.Script(len(said_by_model))
    try:
        script.answers = said_by_model
        return agent_session.requests(script)
    finally:
        script.server.server_close()


def play(port: int, bodies: list[bytes]) -> list[Answered]:
    with Client(port) as client:
        return [client.ask(call(body, SSE)) for body in bodies]


def test_what_was_replayed_is_no_new_recording(tmp_path: Path, numbered: ScriptedUpstream) -> None:
    with ProxyProcess(tmp_path, upstream=numbered.url) as proxy:
        ask(proxy.port, call(generate("once")))
    with ProxyProcess(tmp_path, upstream=numbered.url, cache="replay") as proxy:
        for _ in range(3):
            ask(proxy.port, call(generate("once")))
        exchanges = proxy.exchanges(4)
    assert [each.entry_key is None for each in exchanges] == [False, True, True, True]
    assert all(isinstance(each.outcome, Response) for each in exchanges)
