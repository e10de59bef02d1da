"""What changes on the way and what does not: credentials, hop-by-hop fields, URLs of the upstream, browsers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wire import Client, Peer, ScriptedUpstream, ask, get, plain_answer, post, respond

from .serving import ProxyProcess

OWN_KEY = "own-key-of-the-proxy-0123456789"
BASE = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%bContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def keyed(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A proxy with a key of its own."""
    folder = tmp_path_factory.mktemp("keyed")
    with ProxyProcess(folder, upstream=upstream.url, gemini_api_key=OWN_KEY) as proxy:
        yield proxy


G = b"/v1beta/models/m:generateContent"
COMPAT = b"/v1beta/openai/chat/completions"
OWN = OWN_KEY.encode()
REAL = b"client-key-0123456789abcdef"
OTHER = b"other-0123456789"
BYTES = b"/upload/v1beta/files?upload_id=abc&upload_protocol=resumable"

CREDENTIALS: dict[str, tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]] = {
    # case: target, header lines, credentials upstream, target upstream
    "none": (G, b"", [(b"x-goog-api-key", OWN)], G),
    "placeholder": (G, b"x-goog-api-key: dummy\r\n", [(b"x-goog-api-key", OWN)], G),
    "empty": (G, b"x-goog-api-key:\r\n", [(b"x-goog-api-key", OWN)], G),
    "placeholder in the query": (G + b"?key=placeholder", b"", [(b"x-goog-api-key", OWN)], G),
    "placeholder between others": (G + b"?a=1&key=test&b=%20", b"", [(b"x-goog-api-key", OWN)], G + b"?a=1&b=%20"),
    "the client's own": (G, b"x-goog-api-key: %b\r\n" % REAL, [(b"x-goog-api-key", REAL)], G),
    "the client's own twice": (G, b"x-goog-api-key: %b\r\n" % REAL * 2, [(b"x-goog-api-key", REAL)], G),
    "two of the client's": (
        G,
        b"Authorization: Bearer other-0123456789\r\nX-Goog-Api-Key: %b\r\n" % REAL,
        [(b"x-goog-api-key", REAL)],
        G,
    ),
    "bearer": (G, b"Authorization: Bearer %b\r\n" % REAL, [(b"authorization", b"Bearer " + REAL)], G),
    "bearer placeholder": (
        COMPAT,
        b"Authorization: Bearer sk-dummy\r\n",
        [(b"authorization", b"Bearer " + OWN)],
        COMPAT,
    ),
    "header and query": (G + b"?key=" + REAL, b"x-goog-api-key: %b\r\n" % OTHER, [(b"x-goog-api-key", OTHER)], G),
    "placeholder header, real query": (G + b"?key=" + REAL, b"x-goog-api-key: none\r\n", [], G + b"?key=" + REAL),
    "real query": (G + b"?alt=sse&key=" + REAL, b"", [], G + b"?alt=sse&key=" + REAL),
    "empty, then real, in the query": (G + b"?key=&key=" + REAL, b"", [], G + b"?key=" + REAL),
    "two in the query": (G + b"?key=%b&access_token=other-0123456789" % REAL, b"", [], G + b"?key=" + REAL),
    "upload bytes": (BYTES, b"", [], BYTES),
}  # fmt: skip


@pytest.mark.parametrize("case", CREDENTIALS)
def test_exactly_one_credential(case: str, keyed: ProxyProcess, upstream: ScriptedUpstream) -> None:
    target, lines, credentials, upstream_target = CREDENTIALS[case]
    upstream.forget()
    assert ask(keyed.port, BASE % (target, lines)).body == b"ok"
    (asked,) = upstream.requests
    sent = [
        (name.lower(), value) for name, value in asked.headers if name.lower() in (b"x-goog-api-key", b"authorization")
    ]
    assert sent == credentials
    assert asked.target == upstream_target


def test_keys_are_never_on_disk(keyed: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    for target, lines, _, _ in CREDENTIALS.values():
        ask(keyed.port, BASE % (target, lines))
    keyed.exchanges(len(CREDENTIALS))
    for path in keyed.data_dir.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert OWN not in data, path
            assert REAL not in data, path
    assert OWN_KEY not in keyed.log


def test_without_an_own_key_what_there_is_passes(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    ask(proxy.port, BASE % (G, b"x-goog-api-key: dummy\r\n"))
    ask(proxy.port, BASE % (G + b"?key=dummy", b""))
    ask(proxy.port, BASE % (G, b""))
    first, second, third = upstream.requests
    assert first.all(b"x-goog-api-key") == [b"dummy"]
    assert second.target == G + b"?key=dummy"
    assert third.all(b"x-goog-api-key") == third.all(b"authorization") == []


def test_request_fields(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    lines = (
        b"X-One: 1\r\nx-One:  two \r\nCookie: a=b\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\n"
        b"Accept-Encoding: gzip\r\n"
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    )
    ask(proxy.port, post(headers=lines))
    (asked,) = upstream.requests
    names = [name for name, _ in asked.headers]
    assert names == [
        b"Host", b"x-goog-api-key", b"X-One", b"x-One", b"Cookie", b"Accept-Encoding", b"traceparent",
        b"Content-Type", b"Content-Length",
    ]  # fmt: skip
    assert asked.all(b"x-one") == [b"1", b"two"]
    assert asked.header(b"host") == upstream.url.removeprefix("http://").encode()


def test_response_fields(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    lines = (
        b'alt-svc: h3=":443"\r\nX-One: 1\r\nx-One: two\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nConnection: X-Hop\r\n'
        b"X-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nServer: x\r\n"
        b"X-High: \xe4\r\nAccess-Control-Allow-Origin: *\r\n"
    )

    def answer(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(respond(b"body", status=b"222 Not \xe4 Known", headers=lines))

    upstream.script = answer
    answered = ask(proxy.port, get())
    assert (answered.status, answered.reason) == (222, b"Not \xe4 Known")
    own = (b"x-exchange-id", b"cache-status")
    assert all(answered.header(name) for name in own)
    assert sorted(pair for pair in answered.headers if pair[0].lower() not in own) == sorted([
        (b"X-One", b"1"), (b"x-One", b"two"), (b"Set-Cookie", b"a=b"), (b"Set-Cookie", b"c=d"), (b"Server", b"x"),
        (b"X-High", b"\xe4"), (b"Access-Control-Allow-Origin", b"*"), (b"Content-Length", b"4"),
    ])  # fmt: skip


UPLOAD = b"/upload/v1beta/files?upload_id=abc&x=%2F"


@pytest.mark.parametrize(
    ("host", "prefix", "rewritten"),
    [
        (b"127.0.0.1:1234", b"", b"http://127.0.0.1:1234"),
        (b"localhost", b"/team-a", b"http://localhost/team-a"),
        (b"[::1]:8000", b"", b"http://[::1]:8000"),
    ],
)
@pytest.mark.parametrize("field", [b"X-Goog-Upload-URL", b"x-goog-upload-control-url", b"Location"])
def test_urls_of_the_upstream_lead_back_to_us(
    field: bytes, host: bytes, prefix: bytes, rewritten: bytes, proxy: ProxyProcess, upstream: ScriptedUpstream
) -> None:
    def answer(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(respond(headers=b"%b: %b%b\r\n" % (field, upstream.url.encode(), UPLOAD)))

    upstream.script = answer
    request = post(prefix + b"/upload/v1beta/files").replace(b"Host: 127.0.0.1", b"Host: " + host)
    assert ask(proxy.port, request).header(field) == rewritten + UPLOAD


@pytest.mark.parametrize(
    "url",
    [
        b"https://storage.example/v1/x?key=1",
        b"/relative/path",
        b"http://127.0.0.1:1/other-port",
        b"http://[",
        b"http://\xff/",
        b"http://127.0.0.1:notaport/",
        b"//host/path",
        b"",
    ],
)
def test_urls_elsewhere_stay(url: bytes, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    def answer(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(respond(status=b"302 Found", headers=b"Location: %b\r\n" % url))

    upstream.script = answer
    answered = ask(proxy.port, get(b"/v1beta/files/x:download?alt=media"))
    assert answered.status == 302, "redirects are the client's to follow"
    assert answered.header(b"location") == url


def test_public_url_and_base_path(tmp_path: Path) -> None:
    def answer(peer: Peer) -> None:
        while True:
            peer.request()
            location = (peer.upstream.url + "/gemini/upload/v1beta/files?upload_id=1").encode()
            peer.send(respond(headers=b"X-Goog-Upload-URL: %b\r\n" % location))

    with (
        ScriptedUpstream(answer) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url + "/gemini/", public_url="https://llm.example/proxy") as proxy,
    ):
        for host in (b"127.0.0.1", b"llm.example"):
            answered = ask(proxy.port, post(b"/upload/v1beta/files").replace(b"Host: 127.0.0.1", b"Host: " + host))
            url = answered.header(b"x-goog-upload-url")
            assert url == b"https://llm.example/proxy/upload/v1beta/files?upload_id=1"
        assert {asked.target for asked in upstream.requests} == {b"/gemini/upload/v1beta/files"}


def test_preflight_is_answered_here(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    with Client(proxy.port) as client:
        for _ in range(2):
            answered = client.ask(
                b"OPTIONS /v1beta/models/m:generateContent HTTP/1.1\r\nHost: localhost:8000\r\n"
                b"Origin: http://localhost:3000\r\nAccess-Control-Request-Method: POST\r\n"
                b"Access-Control-Request-Headers: x-goog-api-key,x-own\r\n\r\n"
            )
            assert answered.status == 204
            assert answered.header(b"access-control-allow-origin") == b"http://localhost:3000"
            assert answered.header(b"access-control-allow-headers") == b"x-goog-api-key,x-own"
            assert b"POST" in (answered.header(b"access-control-allow-methods") or b"")
    refused = ask(
        proxy.port,
        b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.test\r\n"
        b"Access-Control-Request-Method: POST\r\n\r\n",
    )
    assert refused.status == 403
    assert refused.header(b"access-control-allow-origin") is None
    assert upstream.requests == []


def test_browsers_may_read_answers_and_errors(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    def answer(peer: Peer) -> None:
        peer.request()
        peer.send(respond(headers=b"Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: a\r\n"))
        peer.request()

    upstream.script = answer
    with Client(proxy.port) as client:
        origin = b"Origin: vscode-webview://1a2b3c\r\n"
        answered = client.ask(post(headers=origin))
        assert answered.all(b"access-control-allow-origin") == [b"vscode-webview://1a2b3c"]
        assert b"x-goog-upload-url" in answered.all(b"access-control-expose-headers")[0]
        failed = client.ask(post(headers=origin))
        assert failed.status == 502
        assert failed.all(b"access-control-allow-origin") == [b"vscode-webview://1a2b3c"]
        assert json.loads(failed.body)["error"]["status"] == "UNAVAILABLE"


def test_allowed_names(tmp_path: Path) -> None:
    with (
        ScriptedUpstream(plain_answer) as upstream,
        ProxyProcess(
            tmp_path, upstream=upstream.url, allowed_hosts="proxy.lan, other.lan", allowed_origins="https://app.example"
        ) as proxy,
    ):
        for host, origin, status in [
            (b"proxy.lan:80", b"https://app.example", 200),
            (b"OTHER.lan", b"https://APP.example", 200),
            (b"third.lan", b"https://app.example", 403),
            (b"proxy.lan", b"https://app.example.evil.test", 403),
            (b"proxy.lan", b"http://app.example", 403),
            (b"10.0.0.1", b"https://app.example", 403),
        ]:
            request = get(headers=b"Origin: %b\r\n" % origin).replace(b"Host: 127.0.0.1", b"Host: " + host)
            assert ask(proxy.port, request).status == status, (host, origin)
