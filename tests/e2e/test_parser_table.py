"""Requests that no HTTP/1.1 server may misread: refused with one JSON error and nothing forwarded, or passed on."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from wire import (
    Answered,
    Asked,
    Client,
    Closed,
    Peer,
    ScriptedUpstream,
    ask,
    get,
    post,
    respond,
)

from .serving import ProxyProcess, wait_for

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /v1beta/models HTTP/1.1\r\n" + HOST
POST = b"POST /v1beta/models/m:countTokens HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    # Host
    "no Host": (400, b"GET /v1beta/models HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, GET + HOST + b"\r\n"),
    "two different Hosts": (400, GET + b"Host: evil.test\r\n\r\n"),
    "empty Host": (403, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "foreign Host": (403, b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
    "foreign Host with our port": (403, b"GET / HTTP/1.1\r\nHost: evil.test:8000\r\n\r\n"),
    "Host with user": (403, b"GET / HTTP/1.1\r\nHost: evil.test@127.0.0.1\r\n\r\n"),
    "Host with path": (403, b"GET / HTTP/1.1\r\nHost: 127.0.0.1/evil\r\n\r\n"),
    "Host list": (403, b"GET / HTTP/1.1\r\nHost: 127.0.0.1, evil.test\r\n\r\n"),
    "Host with a tab inside": (403, b"GET / HTTP/1.1\r\nHost: local\thost\r\n\r\n"),
    "Host with fragment": (403, b"GET / HTTP/1.1\r\nHost: localhost#\r\n\r\n"),
    "Host with impossible port": (403, b"GET / HTTP/1.1\r\nHost: 127.0.0.1:99999\r\n\r\n"),
    "HTTP/1.0 with foreign Host": (403, b"GET / HTTP/1.0\r\nHost: evil.test\r\n\r\n"),
    # Framing
    "length and coding": (400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "coding and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "two equal lengths": (400, POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
    "two different lengths": (400, POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} "),
    "length with plus": (400, POST + b"Content-Length: +2\r\n\r\n{}"),
    "length with inner space": (400, POST + b"Content-Length: 2 2\r\n\r\n{}"),
    "length list": (400, POST + b"Content-Length: 2, 2\r\n\r\n{}"),
    "length overflow": (400, POST + b"Content-Length: 18446744073709551617\r\n\r\n{}"),
    "negative length": (400, POST + b"Content-Length: -2\r\n\r\n{}"),
    "empty length": (400, POST + b"Content-Length:\r\n\r\n{}"),
    "hexadecimal length": (400, POST + b"Content-Length: 0x2\r\n\r\n{}"),
    "coding in HTTP/1.0": (400, b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "other coding": (400, POST + b"Transfer-Encoding: gzip\r\n\r\n"),
    "gzip, chunked": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "two codings": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    "two equal codings": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "identity": (400, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "empty coding": (400, POST + b"Transfer-Encoding:\r\n\r\n"),
    "xchunked": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "coding with vertical tab": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "quoted coding": (400, POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "coding and a space before colon": (400, POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    # Fields
    "folded line": (400, GET + b"X-A: a\r\n b\r\n\r\n"),
    "folded first line": (400, b"GET / HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n"),
    "NUL in value": (400, GET + b"X-A: a\0b\r\n\r\n"),
    "CR in value": (400, GET + b"X-A: a\rb\r\n\r\n"),
    "LF in value": (400, GET + b"X-A: a\nX-B: b\r\n\r\n"),
    "control in value": (400, GET + b"X-A: a\x01b\r\n\r\n"),
    "DEL in value": (400, GET + b"X-A: a\x7fb\r\n\r\n"),
    "NUL in name": (400, GET + b"X\0A: a\r\n\r\n"),
    "control in name": (400, GET + b"X\x01A: a\r\n\r\n"),
    "high byte in name": (400, GET + b"X\xe9A: a\r\n\r\n"),
    "space before colon": (400, GET + b"X-A : a\r\n\r\n"),
    "no name": (400, GET + b": a\r\n\r\n"),
    "no colon": (400, GET + b"X-A\r\n\r\n"),
    "bare LF": (400, b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n"),
    "bare LF at the end": (400, GET[:-2] + b"\n\n"),
    # Request line
    "HTTP/0.9": (505, b"GET /v1beta/models\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"),
    "HTTP/3.0": (400, b"GET / HTTP/3.0\r\n" + HOST + b"\r\n"),
    "HTTP/1.2": (400, b"GET / HTTP/1.2\r\n" + HOST + b"\r\n"),
    "HTTP/1.10": (400, b"GET / HTTP/1.10\r\n" + HOST + b"\r\n"),
    "lower-case protocol": (400, b"GET / http/1.1\r\n" + HOST + b"\r\n"),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "unknown method": (501, b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "lower-case method": (501, b"get / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "RTSP method": (501, b"DESCRIBE / RTSP/1.0\r\n" + HOST + b"\r\n"),
    "Icecast": (501, b"SOURCE /a ICE/1.0\r\n" + HOST + b"\r\n"),
    "CONNECT": (501, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"),
    "tab after method": (501, b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "space in target": (400, b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "control in target": (400, b"GET /a\x01b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "high byte in target": (400, b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n"),
    "NUL in target": (400, b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target without slash": (400, b"GET models HTTP/1.1\r\n" + HOST + b"\r\n"),
    "fragment": (400, b"GET /v1beta/models#x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "asterisk": (400, b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"),
    "absolute form of another": (400, b"GET http://evil.test/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "absolute form with user": (400, b"GET http://127.0.0.1@evil.test/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "absolute form of another scheme": (400, b"GET ftp://127.0.0.1/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "own absolute form, foreign Host": (403, b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
    "space after the version": (400, b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n"),
    # Size
    "long target": (414, b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "endless target": (414, b"GET /" + b"a" * 400_000),
    "large field": (431, GET + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n"),
    "endless field": (431, GET + b"X-A: " + b"a" * 400_000),
    "large head": (431, GET + b"".join(b"X-%d: %b\r\n" % (at, b"a" * 1000) for at in range(100)) + b"\r\n"),
    "many fields": (431, GET + b"".join(b"X-%d: a\r\n" % at for at in range(200)) + b"\r\n"),
    # Chunks
    "bad chunk size": (400, CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"),
    "space behind chunk size": (400, CHUNKED + b"2 \r\n{}\r\n0\r\n\r\n"),
    "0x chunk size": (400, CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n"),
    "negative chunk size": (400, CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n"),
    "chunk size overflow": (400, CHUNKED + b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    "chunk size with LF": (400, CHUNKED + b"2\n{}\r\n0\r\n\r\n"),
    "chunk longer than its size": (400, CHUNKED + b"2\r\n{} \r\n0\r\n\r\n"),
    "LF in chunk extension": (400, CHUNKED + b"2;a\n{}\r\n0\r\n\r\n"),
    "CR in chunk extension": (400, CHUNKED + b"2;a\rb\r\n{}\r\n0\r\n\r\n"),
    "control in trailer": (400, CHUNKED + b"0\r\nX-A: \x01\r\n\r\n"),
    # Other protocols
    "TLS hello on the plain port": (501, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x42" * 500),
    "SSH": (501, b"SSH-2.0-OpenSSH_9.2\r\n"),
    "binary zeros": (501, b"\0" * 64),
    "PROXY protocol": (501, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + GET + b"\r\n"),
    # Browsers
    "foreign Origin": (403, GET + b"Origin: https://evil.test\r\n\r\n"),
    "null Origin": (403, GET + b"Origin: null\r\n\r\n"),
    "malformed Origin": (403, GET + b"Origin: http://[\r\n\r\n"),
    "cross-site fetch": (403, GET + b"Sec-Fetch-Site: cross-site\r\n\r\n"),
}

BROKEN_LATE: dict[str, tuple[int, bytes]] = {
    "endless chunk extension": (431, CHUNKED + b"2;a=" + b"a" * 400_000),
    "endless trailer": (431, CHUNKED + b"2\r\n{}\r\n0\r\nX-A: " + b"a" * 400_000),
    "many trailers": (431, CHUNKED + b"0\r\n" + b"".join(b"X-%d: a\r\n" % at for at in range(9000))),
    "bad second chunk": (400, CHUNKED + b"186a0\r\n" + b"a" * 100_000 + b"\r\nzz\r\n"),
}

PASSED: dict[str, tuple[bytes, bytes]] = {
    "plain": (GET + b"\r\n", b"/v1beta/models"),
    "leading empty lines": (b"\r\n\r\n" + GET + b"\r\n", b"/v1beta/models"),
    "spaces around the value": (GET + b"X-A:  \t a \t\r\n\r\n", b"/v1beta/models"),
    "empty value": (GET + b"X-A:\r\n\r\n", b"/v1beta/models"),
    "high bytes in value": (GET + b"X-A: \xe4\xf6\r\n\r\n", b"/v1beta/models"),
    "chunk extension": (CHUNKED + b"2;a=b\r\n{}\r\n0\r\n\r\n", b"/v1beta/models/m:countTokens"),
    "upper-case coding": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", b"/v1beta/models/m:countTokens"),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\nX-T: t\r\n\r\n", b"/v1beta/models/m:countTokens"),
    "own absolute form": (
        b"GET http://localhost:8000/v1beta/models?a=b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"/v1beta/models?a=b",
    ),
    "Host in IPv6": (b"GET /v1beta/models HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", b"/v1beta/models"),
    "Host in upper case with dot": (b"GET /v1beta/models HTTP/1.1\r\nHost: LOCALHOST.:80\r\n\r\n", b"/v1beta/models"),
    "HTTP/1.0": (b"GET /v1beta/models HTTP/1.0\r\n" + HOST + b"\r\n", b"/v1beta/models"),
    "odd escapes": (
        b"GET /v1beta/files/%7E%zz%27/../b?%%20 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"/v1beta/files/%7E%zz%27/../b?%%20",
    ),
    "local Origin": (GET + b"Origin: http://localhost:3000\r\n\r\n", b"/v1beta/models"),
    "VS Code webview": (GET + b"Origin: vscode-webview://1a2b\r\n\r\n", b"/v1beta/models"),
    "127 fields": (GET + b"".join(b"X-%d: a\r\n" % at for at in range(127)) + b"\r\n", b"/v1beta/models"),
    "upgrade nobody offered": (GET + b"Upgrade: websocket\r\n\r\n", b"/v1beta/models"),
    "upgrade in HTTP/1.0": (
        b"GET /v1beta/models HTTP/1.0\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"/v1beta/models",
    ),
}  # fmt: skip


def check_error(answered: Answered, status: int) -> None:
    """An error of ours, in the shape of the Gemini API's."""
    assert answered.status == status, answered
    assert answered.header(b"content-type") == b"application/json; charset=UTF-8"
    assert answered.header(b"connection") == b"close"
    proxy_status = answered.header(b"proxy-status") or b""
    assert proxy_status.startswith(b"gemini-proxy; error=http_request_"), proxy_status
    error = json.loads(answered.body)["error"]
    assert error["code"] == status
    assert error["message"].endswith(".")
    assert error["status"].isupper()
    assert error["details"][0]["domain"] == "gemini-caching-proxy"


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    status, request = REFUSED[case]
    upstream.forget()
    with Client(proxy.port) as client:
        answered = client.ask(request)
        check_error(answered, status)
        assert client.to_the_end() == b"", "one answer, then the end"
    assert ask(proxy.port, get(b"/v1beta/models/after")).body == b"ok"
    assert [asked.target for asked in upstream.requests] == [b"/v1beta/models/after"], "nothing else was forwarded"


@pytest.mark.parametrize("case", BROKEN_LATE)
def test_broken_where_a_part_may_be_forwarded(case: str, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    status, request = BROKEN_LATE[case]
    upstream.forget()
    with Client(proxy.port) as client:
        check_error(client.ask(request), status)
        assert client.to_the_end() == b""
    for asked in upstream.requests:
        wait_for(lambda asked=asked: asked.peer.ended_at, what="the upstream call to end")
        assert not asked.body, "it never became a whole request"


@pytest.mark.parametrize("case", PASSED)
def test_passed(case: str, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    request, target = PASSED[case]
    upstream.forget()
    # More than once: what is read again may be read by a shorter way.
    for _ in range(3):
        assert ask(proxy.port, request).body == b"ok"
    assert len(upstream.requests) == 3
    for asked in upstream.requests:
        assert asked.target == target
        assert asked.all(b"host") == [upstream.url.removeprefix("http://").encode()]
        assert asked.all(b"upgrade") == []
        assert (asked.headers, asked.body) == (upstream.requests[0].headers, upstream.requests[0].body)


@pytest.mark.parametrize("rest", [b"garbage\r\n\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\nHost: a\n\n", b"0\r\n\r\n"])
def test_bytes_behind_a_request_do_not_touch_it(rest: bytes, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    with Client(proxy.port) as client:
        client.send(post() + rest)
        assert client.answer().body == b"ok"
        check_error(client.answer(), 501 if b"GET" not in rest else 400)
        assert client.to_the_end() == b""
    assert len(upstream.requests) == 1


def test_body_cut_short_is_never_whole(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    cut = (post(body=b"x" * 100)[:-1], CHUNKED + b"5\r\nab", CHUNKED + b"2\r\nab\r\n", CHUNKED + b"2\r\nab\r\n0\r\n")
    for request in cut:
        upstream.forget()
        with Client(proxy.port) as client:
            client.send(request)
            wait_for(lambda: upstream.requests, what="the head upstream")
            client.fin()
            client.ended()
        (asked,) = upstream.requests
        wait_for(lambda asked=asked: asked.peer.ended_at, what="the upstream call to end")
        assert asked.body == b"", "the script reads whole bodies only"


def test_a_tab_only_line_between_requests(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    with Client(proxy.port) as client:
        client.send(get() + b"\r\n\r\n" + get())
        assert [client.answer().body, client.answer().body] == [b"ok", b"ok"]


# Requests nobody thought of

SEED = int(os.environ.get("GEMINI_PROXY_TEST_SEED", "20261124"))
ROUNDS = 3000
_PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\xff", b";", b",", b"0", b"-1", b"5", b"fffffffff", b"chunked",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Host: evil.test\r\n",
    b"Connection: close\r\n", b"Connection: Upgrade\r\n", b"Upgrade: h2c\r\n", b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"GET ", b"POST ", b"CONNECT ", b"OPTIONS ",
    b"HEAD ", b"http://evil.test/", b"*", b"#", b"?key=a", b"Origin: http://localhost\r\n", b"\r\n\r\n", b"0\r\n\r\n",
    b"Access-Control-Request-Method: POST\r\n", b"X-A: b\r\n", b"\r\n x\r\n", b"Authorization: Bearer x\r\n",
]  # fmt: skip


def grown(source: random.Random, seeds: list[bytes]) -> bytes:
    """A request with a few things done to it."""
    data = bytearray(source.choice(seeds)[:2000])
    for _ in range(source.randint(1, 4)):
        at, end = sorted((source.randint(0, len(data)), source.randint(0, len(data))))
        match source.randint(0, 5):
            case 0:
                data[at:at] = source.choice(_PIECES)
            case 1:
                del data[at : min(end, at + 20)]
            case 2:
                data[at : at + 1] = bytes([source.randint(0, 255)])
            case 3:
                data[at:at] = data[at:end]
            case 4:
                data += source.choice(seeds)[:2000]
            case 5:
                line = bytes(data).find(b"\r\n", at)
                data[max(line, 0) + 2 : max(line, 0) + 2] = source.choice(_PIECES)
    return bytes(data[:6000])


def statuses(data: bytes) -> Iterator[int]:
    """The statuses of our errors in what a client was sent."""
    for part in data.split(b"HTTP/1.1 ")[1:]:
        yield int(part[:3])


@pytest.mark.slow
def test_no_request_breaks_anything(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    worker = proxy.worker_pid
    source = random.Random(SEED)
    seeds = [request for _, request in REFUSED.values()] + [request for request, _ in PASSED.values()]
    seen: Counter[int] = Counter()
    for number in range(ROUNDS):
        request = grown(source, seeds)
        with Client(proxy.port) as client:
            for piece in cuts(source, request):
                try:
                    client.send(piece)
                except OSError:
                    break
            client.fin()
            try:
                got = client.to_the_end()
            except OSError:
                got = bytes(client.received)
        for status in statuses(got):
            seen[status] += 1
            assert status < 500 or status in (501, 505), (SEED, number, request, got)
    assert seen[400] > ROUNDS / 20, "the mutator makes bad requests"
    assert proxy.worker_pid == worker
    assert "Traceback" not in proxy.log
    assert not upstream.errors
    for asked in upstream.requests:
        check_forwarded(asked)


def cuts(source: random.Random, data: bytes) -> list[bytes]:
    """The same bytes in one to three pieces."""
    places = sorted(source.randint(0, len(data)) for _ in range(source.randint(0, 2)))
    bounds = [0, *places, len(data)]
    return [data[start:end] for start, end in pairwise(bounds) if end > start]


def check_forwarded(asked: Asked) -> None:
    """Whatever came in, what goes out is one unambiguous request."""
    assert asked.line.endswith(b" HTTP/1.1")
    assert len(asked.all(b"host")) == 1
    assert len(asked.all(b"content-length")) + len(asked.all(b"transfer-encoding")) <= 1
    assert len(asked.all(b"x-goog-api-key") + asked.all(b"authorization")) <= 1
    assert not any(b"\r" in value or b"\n" in value or b"\0" in value for _, value in asked.headers)


# In front of, and behind, another server


def marked(peer: Peer) -> None:
    """Says which request it answers."""
    while True:
        peer.send(respond(peer.request().target))


def count_answers(port: int, request: bytes) -> int:
    """How many answers to `request`, followed by a marked one, a server gives before it closes."""
    with Client(port) as client:
        client.send(request + b"GET /v1beta/last HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        count = 0
        try:
            while True:
                client.answer()
                count += 1
        except (Closed, ConnectionError, ValueError, TimeoutError):
            return count


def test_an_upstream_counts_as_many_requests_as_we_do(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    """Each case, then another request on the same connection: nothing of the first may become a request of its own."""
    upstream.script = marked
    for case, (_, request) in REFUSED.items():
        upstream.forget()
        count_answers(proxy.port, request)
        targets = [asked.target for asked in upstream.requests]
        assert not [target for target in targets if target != b"/v1beta/last"], case
        assert len(targets) <= 1, case
