"""A session through the real proxy, into a cassette, and out of it again, with the upstream gone."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gemini_caching_proxy.cassette import read_cassette
from gemini_caching_proxy.cli import main
from gemini_caching_proxy.simulator import SimulatorOptions, SimulatorThread
from replaying import replaying

from .serving import ProxyProcess

MODEL = "gemini-2.5-flash"


@dataclass(frozen=True)
class Ask:
    method: str
    target: str
    body: dict[str, Any] | None = None


def talk(*texts: str, temperature: float = 1.0) -> dict[str, Any]:
    contents = [{"role": ("user", "model")[at % 2], "parts": [{"text": text}]} for at, text in enumerate(texts)]
    return {"contents": contents, "generationConfig": {"temperature": temperature}}


SESSION = (
    Ask("POST", f"/v1beta/models/{MODEL}:generateContent", talk("Is it?")),
    Ask("POST", f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", talk("Tell me of ducks.")),
    Ask("POST", f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", talk("Tell me of ducks.", "Quack.", "More.")),
    Ask("POST", f"/v1beta/models/{MODEL}:streamGenerateContent", talk("As an array.")),
    Ask("POST", f"/v1beta/models/{MODEL}:countTokens", {"contents": [{"parts": [{"text": "Count me"}]}]}),
    Ask("POST", "/v1beta/models/gemini-embedding-001:embedContent", {"content": {"parts": [{"text": "Embed me"}]}}),
    Ask("GET", "/v1beta/models"),
    Ask("POST", "/v1beta/models/no-such-model:generateContent", talk("Nobody there")),
)


def send(url: str, ask: Ask, **headers: str) -> tuple[int, str | None, bytes]:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)) as connection:
        body = None if ask.body is None else json.dumps(ask.body).encode()
        connection.request(ask.method, ask.target, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type"), answer.read()


def test_a_recorded_session_is_replayed_byte_for_byte_without_its_upstream(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "session.cassette"
    with (
        SimulatorThread(SimulatorOptions(seed=7, fresh=True)) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url) as proxy,
    ):
        recorded = [send(proxy.url, ask, **{"x-goog-api-key": "the-key-of-the-recording"}) for ask in SESSION]
        # Beside the running proxy, and at once: it waits for the recorder.
        assert main(["export", "--cassette", str(path), "--data-dir", str(proxy.data_dir)]) == 0
    assert [status for status, _, _ in recorded] == [200] * 7 + [404]
    assert b"the-key-of-the-recording" not in b"".join(repr(one).encode() for one in read_cassette(path))
    with replaying(path, tmp_path) as told:
        assert told["exchanges"] == len(SESSION)
        for headers in ({}, {"x-goog-api-key": "another-key-altogether"}):
            assert [send(told["url"], ask, **headers) for ask in SESSION] == recorded
        status, _, _ = send(told["url"], Ask("POST", SESSION[0].target, talk("Never asked")))
        assert status == 504
    capfd.readouterr()
