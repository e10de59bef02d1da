"""After traffic full of secrets no file holds one: journal, store, logs, status; at the most talkative log level."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from gemini_caching_proxy.simulator import Reply, SimulatorThread

from .serving import ProxyProcess

OWN_KEY = "AQ.OwnKeyOfTheProxy_0123456789abcdef"
MODEL = "/v1beta/models/gemini-2.5-flash:generateContent"
QUESTION = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode()

HEADERS = {
    "x-goog-api-key": "AIzaHeaderKey0123456789abcdefghijklmnop",
    "Authorization": "Bearer AQ.BearerKey_0123456789abcdefghijk",
    "Cookie": "session=CookieSecretValue0123456789; theme=dark",
    "Proxy-Authorization": "Basic UHJveHlVc2VyOlByb3h5UGFzc3dvcmQxMjM=",
    "X-Custom-Secret": "UnknownHeaderSecret0123456789",
    "x-goog-user-project": "secret-project-name-0123456789",
    "Referer": "http://localhost/?key=AIzaRefererKey0123456789abcdefghijklmno",
}
HEADER_SECRETS = (
    "AIzaHeaderKey0123456789abcdefghijklmnop",
    "AQ.BearerKey_0123456789abcdefghijk",
    "CookieSecretValue0123456789",
    "UHJveHlVc2VyOlByb3h5UGFzc3dvcmQxMjM=",
    "UnknownHeaderSecret0123456789",
    "secret-project-name-0123456789",
    "AIzaRefererKey0123456789abcdefghijklmno",
)
QUERY_SECRETS = {
    "key": "AIzaQueryKey0123456789abcdefghijklmnopq",
    "access_token": "ya29.QueryToken_0123456789abcdefghijklmnop",
    "%6bey": "AIzaCodedName0123456789abcdefghijklmnop",
    "upload_id": "UploadIdSecret0123456789",
}
BODY_SECRETS = (
    "AIzaBodyKey00123456789abcdefghijklmnopq",
    "AQ.BodyKey_0123456789abcdefghijklmnopqr",
    "sk-ant-api03-BodyKey0123456789abcdefghijklmnopqrstuvwxyz",
    "ghp_BodyToken0123456789abcdefghijklmnopqr",
)


def forms(secret: str) -> Iterator[bytes]:
    """A secret in what it might be hidden in on disk."""
    raw = secret.encode()
    yield raw
    yield quote(secret, safe="").encode()
    yield raw.hex().encode()
    yield json.dumps(secret)[1:-1].encode()
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + raw)
        yield coded[(0, 2, 3)[shift] : -4]


def ask(proxy: ProxyProcess, target: str, headers: dict[str, str], body: bytes = QUESTION) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)) as connection:
        connection.request("POST", target, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def written(folder: Path) -> dict[str, bytes]:
    """Every file, and what is compressed in it."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "serve.log" in files
    return files


@pytest.mark.timeout(180)
def test_no_file_holds_a_secret(tmp_path: Path) -> None:
    everything = [*HEADER_SECRETS, *QUERY_SECRETS.values(), *BODY_SECRETS, OWN_KEY]
    with (
        SimulatorThread() as simulator,
        ProxyProcess(tmp_path, upstream=simulator.url, gemini_api_key=OWN_KEY, log_level="debug") as proxy,
    ):
        # So that the journal stays to be looked at.
        proxy.child("recorder").suspend()
        for name, value in HEADERS.items():
            ask(proxy, MODEL, {name: value})
        for name, value in QUERY_SECRETS.items():
            ask(proxy, f"{MODEL}?{name}={value}", {})
        for secret in BODY_SECRETS:
            ask(proxy, MODEL, {}, QUESTION.replace(b"hello", f"my key is {secret}, keep it".encode()))
            ask(proxy, MODEL, {}, b"no json at all " + secret.encode())
        echo_errors(simulator, proxy)
        for target in (f"/v1beta/files/{BODY_SECRETS[0]}", "/broken path"):
            ask(proxy, target.replace(" ", "%20"), {})
        malformed(proxy)
        journal = written(tmp_path)
        assert any(name.endswith(".journal") and len(data) > 10_000 for name, data in journal.items())
        proxy.child("recorder").resume()
        exchanges = proxy.exchanges()
        assert len(exchanges) >= 20
        files = written(tmp_path) | {f"before/{name}": data for name, data in journal.items()}
        proxy.stop()
        files |= {f"after/{name}": data for name, data in written(tmp_path).items()}
    blobs = dict(files)
    for exchange in exchanges:
        blobs[f"exchange {exchange.id}"] = repr(exchange).encode()
    found = {
        (name, secret)
        for name, data in blobs.items()
        for secret in everything
        for form in forms(secret)
        if form in data
    }
    assert not found
    fingerprints = {exchange.credential for exchange in exchanges if exchange.credential}
    assert len(fingerprints) >= 4, "different keys stay apart"


def echo_errors(simulator: object, proxy: ProxyProcess) -> None:
    """Upstreams that quote the key they refuse, plainly and compressed."""
    key = HEADER_SECRETS[0]
    text = json.dumps({"error": {"code": 401, "message": f"bad key {key}", "status": "UNAUTHENTICATED"}}).encode()
    location = f"https://example.invalid/?key={key}".encode()
    replies = [
        Reply(401, ((b"content-type", b"application/json"), (b"location", location)), [text]),
        Reply(401, ((b"content-type", b"application/json"), (b"content-encoding", b"gzip")), [gzip.compress(text)]),
        Reply(400, ((b"content-type", b"text/plain"), (b"content-encoding", b"deflate")), [zlib.compress(text)]),
        Reply(
            200, ((b"content-type", b"application/json"), (b"set-cookie", b"sid=CookieSecretValue0123456789")), [text]
        ),
    ]
    for reply in replies:
        simulator.script_reply(reply)  # type: ignore[attr-defined]
        assert ask(proxy, MODEL, {"x-goog-api-key": key}) == reply.status


def malformed(proxy: ProxyProcess) -> None:
    """What is refused may be talked about in the log."""
    ask(proxy, f"{MODEL}?key={QUERY_SECRETS['key']}", {"Host": "evil.test"})
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)) as connection:
        connection.putrequest("GET", f"/x?key={QUERY_SECRETS['key']}")
        connection.putheader("Content-Length", "1")
        connection.putheader("Content-Length", "2")
        connection.endheaders()
        assert connection.getresponse().status == 400
