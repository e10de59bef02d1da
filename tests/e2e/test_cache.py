"""The cache of the running program: modes, directives, what is said about it, what is served and what never is."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from gemini_caching_proxy.exchange import Verdict
from wire import CHUNKED, Answered, Client, Peer, Script, ScriptedUpstream, ask, chunk, get, respond

from .asking import (
    ARRAY,
    JSON,
    SSE,
    Numbered,
    answer_object,
    call,
    event,
    events,
    generate,
    is_hit,
    once,
    said,
    stream,
    unary,
)
from .serving import ProxyProcess, wait_for

ALL = b"X-Cache-Mode: all"
SAFE = b"X-Cache-Mode: safe"
OFF = b"X-Cache-Mode: off"
REPLAY = b"X-Cache-Mode: replay"
NO_CACHE = b"Cache-Control: no-cache"
NO_STORE = b"Cache-Control: no-store"
ONLY = b"Cache-Control: only-if-cached"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(Numbered()) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """In the mode that is the default."""
    with ProxyProcess(tmp_path_factory.mktemp("proxy"), upstream=upstream.url) as proxy:
        yield proxy


@pytest.fixture
def port(proxy: ProxyProcess, upstream: ScriptedUpstream) -> int:
    upstream.script = Numbered()
    upstream.forget()
    return proxy.port


@pytest.fixture
def words(request: pytest.FixtureRequest) -> str:
    """What no other test asks."""
    return f"asked by {request.node.name}"


def twice(port: int, request: bytes) -> tuple[Answered, Answered]:
    return ask(port, request), ask(port, request)


# Modes


def test_a_generation_is_served_in_mode_safe_with_temperature_0_alone(port: int, words: str) -> None:
    first, again = twice(port, call(generate(words)))
    assert said(first).keys() == {"fwd", "stored", "ttl", "key"}
    assert (said(first)["fwd"], said(first)["ttl"]) == ("miss", str(7 * 86_400))
    assert is_hit(again)
    assert again.body == first.body
    for temperature in (None, 0.1, 1):
        first, again = twice(port, call(generate(words, temperature)))
        assert first.body != again.body
        assert said(again) == {"fwd": "bypass", "detail": "temperature is not 0"}


@pytest.mark.parametrize(
    "request_",
    [
        call(generate("count"), b"countTokens"),
        call(b'{"content": {"parts": [{"text": "embed"}]}}', b"embedContent", model=b"gemini-embedding-001"),
        get(b"/v1beta/models?pageSize=3"),
        get(b"/v1beta/models/gemini-2.5-flash"),
    ],
    ids=["tokens", "embedding", "listing", "model"],
)
def test_what_cannot_surprise_is_served_in_mode_safe(request_: bytes, port: int) -> None:
    first, again = twice(port, request_)
    assert said(first)["fwd"] == "miss"
    assert is_hit(again)
    assert again.body == first.body


def test_all_serves_any_generation(port: int, words: str) -> None:
    first, again = twice(port, call(generate(words, 1.0), b"generateContent", ALL))
    assert is_hit(again)
    assert again.body == first.body


def test_off_serves_and_says_nothing_is_served(port: int, words: str) -> None:
    request = call(generate(words), b"generateContent", OFF)
    first, again = twice(port, request)
    assert first.body != again.body
    assert said(again) == {"fwd": "bypass", "detail": "the cache is off"}


def test_what_was_recorded_in_another_mode_is_found(port: int, words: str, proxy: ProxyProcess) -> None:
    first = ask(port, call(generate(words, 1.0), b"generateContent", OFF))
    proxy.exchanges()
    # A worker that found no store yet leaves it alone for a second.
    only = call(generate(words, 1.0), b"generateContent", ALL, ONLY)
    again = wait_for(lambda: found if is_hit(found := ask(port, only)) else None)
    assert again.body == first.body


def test_a_wish_for_replay_never_calls_out(port: int, words: str, upstream: ScriptedUpstream) -> None:
    request = call(generate(words, 1.0), b"generateContent", REPLAY)
    missed = ask(port, request)
    assert missed.status == 504
    assert "fwd" not in said(missed)
    assert not upstream.requests
    first = ask(port, call(generate(words, 1.0), b"generateContent", ALL))
    assert ask(port, request).body == first.body
    assert len(upstream.requests) == 1


def test_modes_by_route(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.script = Numbered()
    routes = "generate_content:gemini-2.5-*=all,count_tokens=off,embed_*=replay"
    with ProxyProcess(tmp_path, upstream=upstream.url, cache="off", cache_routes=routes) as proxy:
        for method in (b"generateContent", SSE):
            first, again = twice(proxy.port, call(generate("a", 1.0), method))
            assert is_hit(again), method
        first, again = twice(proxy.port, call(generate("a", 0), model=b"gemini-3-pro-preview"))
        assert said(again)["detail"] == "the cache is off"
        first, again = twice(proxy.port, call(generate("a"), b"countTokens"))
        assert first.body != again.body
        assert ask(proxy.port, call(b'{"content": {}}', b"embedContent")).status == 504
        upstream.forget()
        assert ask(proxy.port, call(generate("a"), b"countTokens", REPLAY)).status == 504
        assert not upstream.requests


def test_with_the_cache_off_a_request_can_still_ask_for_it(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.script = Numbered()
    with ProxyProcess(tmp_path, upstream=upstream.url, cache="off") as proxy:
        first, again = twice(proxy.port, call(generate("a")))
        assert first.body != again.body
        assert again.header(b"cache-status") == b'gemini-proxy; fwd=bypass; detail="the cache is off"'
        (one, other) = proxy.exchanges(2)
        assert one.cache is None
        assert other.cache is None
        assert ask(proxy.port, call(generate("a"), b"generateContent", b"X-Cache-Mode: replay")).body == again.body
        assert ask(proxy.port, call(generate("b"), b"generateContent", REPLAY)).status == 504
        assert ask(proxy.port, call(generate("b"), b"generateContent", b"X-Cache-Mode: never")).status == 400


# What the answer says


def test_a_hit_tells_its_age_and_its_source(port: int, words: str) -> None:
    first, again = twice(port, call(generate(words)))
    status = said(again)
    assert status.keys() == {"hit", "ttl", "key"}
    assert status["key"] == said(first)["key"]
    assert status["key"].startswith("k1:")
    age = int(again.header(b"age") or b"-1")
    assert 0 <= age <= 20
    assert int(status["ttl"]) == 7 * 86_400 - age
    assert again.header(b"x-source-exchange-id") == first.header(b"x-exchange-id")
    assert again.header(b"x-exchange-id") != first.header(b"x-exchange-id")
    assert UUID((again.header(b"x-exchange-id") or b"").decode()).version == 7
    assert first.header(b"x-source-exchange-id") is None
    assert first.header(b"age") is None
    assert again.header(b"date") is not None


def test_dated_and_hop_by_hop_fields_are_made_anew(port: int, words: str, upstream: ScriptedUpstream) -> None:
    body = json.dumps(answer_object("dated")).encode()
    fields = JSON + (
        b"Date: Sat, 01 Jan 2000 00:00:00 GMT\r\nAge: 77\r\nServer: scaffolding on HTTPServer2\r\nVary: Origin\r\n"
        b"Server-Timing: gfet4t7; dur=410\r\nAlt-Svc: h3=x\r\nSet-Cookie: a=b\r\nKeep-Alive: timeout=5\r\n"
        b"Cache-Status: other; hit\r\nX-Gemini-Service-Tier: standard\r\n"
    )
    upstream.script = once(respond(body, headers=fields))
    _, again = twice(port, call(generate(words)))
    assert is_hit(again)
    assert (again.header(b"date") or b"").endswith(b"GMT")
    assert b"2000" not in (again.header(b"date") or b"")
    assert again.all(b"age") != [b"77"]
    for gone in (b"server-timing", b"alt-svc", b"set-cookie", b"keep-alive"):
        assert again.header(gone) is None, gone
    assert again.header(b"server") == b"scaffolding on HTTPServer2"
    assert again.header(b"vary") == b"Origin"
    assert again.header(b"x-gemini-service-tier") == b"standard"


def test_own_fields_stay_here(port: int, words: str, upstream: ScriptedUpstream) -> None:
    ask(port, call(generate(words), SSE, ALL, b"X-Replay-Speed: 4x", b"X-Other: goes on"))
    (asked,) = upstream.requests
    assert asked.header(b"x-other") == b"goes on"
    assert asked.header(b"x-cache-mode") is None
    assert asked.header(b"x-replay-speed") is None


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"X-Cache-Mode: sometimes", b"X-Cache-Mode must be one of off, safe, all, replay."),
        (b"X-Cache-Mode:", b"X-Cache-Mode"),
        (b"X-Replay-Speed: fast", b"X-Replay-Speed must be"),
        (b"X-Replay-Speed: 0x", b"X-Replay-Speed must be"),
        (b"X-Replay-Speed: -1x", b"X-Replay-Speed must be"),
    ],
)
def test_directives_that_cannot_be_read_are_refused(
    line: bytes, word: bytes, port: int, upstream: ScriptedUpstream
) -> None:
    answered = ask(port, call(generate("x"), b"generateContent", line))
    assert answered.status == 400
    error = json.loads(answered.body)["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert word.decode() in error["message"]
    assert not upstream.requests


# Directives


def test_no_cache_gets_and_keeps_a_new_answer(port: int, words: str) -> None:
    first = ask(port, call(generate(words)))
    fresh = ask(port, call(generate(words), b"generateContent", NO_CACHE))
    assert said(fresh).items() >= {"fwd": "request", "detail": "no-cache", "stored": "?1"}.items()
    assert fresh.body != first.body
    again = ask(port, call(generate(words)))
    assert again.body == fresh.body
    assert again.header(b"x-source-exchange-id") == fresh.header(b"x-exchange-id")


def test_no_store_keeps_nothing(port: int, words: str, proxy: ProxyProcess) -> None:
    request = call(generate(words), b"generateContent", NO_STORE)
    first = ask(port, request)
    assert said(first).keys() == {"fwd", "key"}
    proxy.exchanges()
    assert not is_hit(ask(port, request))
    stored = ask(port, call(generate(words)))
    assert not is_hit(stored)
    assert ask(port, request).body == stored.body, "what others had stored may be served"


def test_max_age_0_gets_a_new_answer(port: int, words: str) -> None:
    first = ask(port, call(generate(words)))
    fresh = ask(port, call(generate(words), b"generateContent", b"Cache-Control: max-age=0"))
    assert said(fresh)["fwd"] == "stale"
    assert fresh.body != first.body
    young = ask(port, call(generate(words), b"generateContent", b"Cache-Control: max-age=600"))
    assert is_hit(young)
    assert young.body == fresh.body


def test_only_if_cached_never_calls_out(port: int, words: str, upstream: ScriptedUpstream) -> None:
    request = call(generate(words), b"generateContent", ONLY)
    missed = ask(port, request)
    assert missed.status == 504
    assert json.loads(missed.body)["error"]["code"] == 504
    assert said(missed).keys() == {"key", "detail"}
    for uncacheable in (call(generate(words, 1), b"generateContent", ONLY), get(b"/v1beta/files", ONLY + b"\r\n")):
        assert ask(port, uncacheable).status == 504
    assert not upstream.requests
    first = ask(port, call(generate(words)))
    assert ask(port, request).body == first.body


@pytest.mark.parametrize("mode", [REPLAY, b"Cache-Control: only-if-cached"], ids=["replay", "only-if-cached"])
@pytest.mark.parametrize("directive", [NO_CACHE, NO_STORE, b"Cache-Control: max-age=0"])
def test_no_other_directive_makes_them_call_out(
    mode: bytes, directive: bytes, port: int, words: str, upstream: ScriptedUpstream
) -> None:
    request = call(generate(words), b"generateContent", mode, directive)
    missed = ask(port, request)
    assert missed.status == 504
    assert "fwd" not in said(missed)
    assert not upstream.requests
    ask(port, call(generate(words)))
    # A recording is as new as it gets in replay mode; `only-if-cached` allows to be choosy.
    wanted = 200 if mode == REPLAY or directive == NO_STORE else 504
    assert ask(port, request).status == wanted
    assert len(upstream.requests) == 1


# Serving


def test_chunks_have_their_recorded_boundaries(port: int, words: str, upstream: ScriptedUpstream) -> None:
    whole = b"".join(events("cut in odd places"))
    pieces = [whole[:1], whole[1:40], whole[40:300], whole[300:]]

    def slowly(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED)
        for piece in pieces:
            peer.send(chunk(piece))
            go.readline()
        peer.send(b"0\r\n\r\n")

    reading, writing = os.pipe()
    go = os.fdopen(reading, "rb", buffering=0)
    upstream.script = slowly
    request = call(generate(words), SSE, b"Accept: */*")
    with Client(port) as client:
        client.send(request)
        for number, piece in enumerate(pieces):
            client.until(b"\r\n\r\n") if number == 0 else None
            assert client.until(b"\r\n") == b"%x\r\n" % len(piece)
            assert client.exactly(len(piece) + 2) == piece + b"\r\n"
            os.write(writing, b"\n")
        assert client.exactly(5) == b"0\r\n\r\n"
    os.close(writing)
    go.close()
    again = ask(port, request)
    assert is_hit(again)
    assert again.chunks == pieces


def test_an_answer_with_a_length_stays_so(port: int, words: str) -> None:
    first, again = twice(port, call(generate(words)))
    for answered in (first, again):
        assert answered.header(b"content-length") == b"%d" % len(first.body)
        assert answered.header(b"transfer-encoding") is None
    assert again.header(b"content-type") == b"application/json; charset=UTF-8"


@pytest.mark.parametrize("recorded", [b"generateContent", SSE, ARRAY], ids=["unary", "sse", "array"])
def test_one_recording_serves_all_three_shapes(
    recorded: bytes, port: int, words: str, upstream: ScriptedUpstream
) -> None:
    first = ask(port, call(generate(words), recorded))
    texts = {}
    for method in (b"generateContent", SSE, ARRAY):
        answered = ask(port, call(generate(words), method))
        assert is_hit(answered), method
        assert answered.header(b"x-source-exchange-id") == first.header(b"x-exchange-id")
        texts[method] = text_of(method, answered)
    assert len(set(texts.values())) == 1
    assert len(upstream.requests) == 1


def text_of(method: bytes, answered: Answered) -> str:
    body = answered.body
    if method == SSE:
        assert answered.header(b"content-type") == b"text/event-stream"
        documents = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: ")]
    else:
        assert (answered.header(b"content-type") or b"").startswith((b"application/json", b"text/event-stream"))
        documents = json.loads(body) if method == ARRAY else [json.loads(body)]
        assert isinstance(documents, list)
    return "".join(document["candidates"][0]["content"]["parts"][0]["text"] for document in documents)


def test_a_compressed_answer_is_for_whoever_takes_it(port: int, words: str, upstream: ScriptedUpstream) -> None:
    plain = json.dumps(answer_object("compressed " * 50)).encode()
    coded = gzip.compress(plain)
    upstream.script = once(respond(coded, headers=JSON + b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"))
    ask(port, call(generate(words), b"generateContent", b"Accept-Encoding: gzip"))
    taking = ask(port, call(generate(words), b"generateContent", b"Accept-Encoding: br, gzip;q=0.5"))
    assert is_hit(taking)
    assert taking.body == coded
    assert taking.header(b"content-encoding") == b"gzip"
    for line in ((), (b"Accept-Encoding: identity",), (b"Accept-Encoding: gzip;q=0, br",)):
        not_taking = ask(port, call(generate(words), b"generateContent", *line))
        assert is_hit(not_taking)
        assert not_taking.body == plain
        assert not_taking.header(b"content-encoding") is None
        assert not_taking.header(b"content-length") == b"%d" % len(plain)
    as_events = ask(port, call(generate(words), SSE))
    assert is_hit(as_events)
    assert text_of(SSE, as_events) == "compressed " * 50


def test_a_client_of_http_1_0(port: int, words: str) -> None:
    first = ask(port, call(generate(words), SSE))
    old = ask(port, call(generate(words), SSE, version=b"1.0"))
    assert is_hit(old)
    assert old.header(b"transfer-encoding") is None
    assert old.body == first.body
    kept = ask(port, call(generate(words), b"generateContent", b"Connection: close"))
    assert is_hit(kept)
    assert kept.header(b"connection") == b"close"


def test_pipelined_requests_behind_a_hit(port: int, words: str) -> None:
    first = ask(port, call(generate(words)))
    streamed = ask(port, call(generate(words), SSE))
    with Client(port) as client:
        client.send(call(generate(words)) + call(generate(words), SSE) + get() + call(generate(words)))
        assert client.answer().body == first.body
        assert client.answer().body == streamed.body
        assert client.answer().status == 200
        last = client.answer()
        assert last.body == first.body
        assert is_hit(last)


def test_a_request_that_waits_for_100_continue(port: int, words: str) -> None:
    body = generate(words)
    first = ask(port, call(body))
    with Client(port) as client:
        head = call(body, b"generateContent", b"Expect: 100-continue")[: -len(body)]
        client.send(head)
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.send(body)
        answered = client.answer()
    assert is_hit(answered)
    assert answered.body == first.body


def test_a_request_in_chunks(port: int, words: str) -> None:
    body = generate(words)
    first = ask(port, call(body))
    head = call(body).partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    with Client(port) as client:
        client.send(head + chunk(body[:7]))
        client.send(chunk(body[7:]) + b"0\r\n\r\n" + call(body))
        for _ in range(2):
            answered = client.answer()
            assert is_hit(answered)
            assert answered.body == first.body


def test_a_compressed_request_asks_the_same(port: int, words: str) -> None:
    first = ask(port, call(generate(words)))
    again = ask(port, call(gzip.compress(generate(words)), b"generateContent", b"Content-Encoding: gzip"))
    assert is_hit(again)
    assert again.body == first.body


def test_browsers_get_their_own_fields(port: int, words: str) -> None:
    ask(port, call(generate(words)))
    again = ask(port, call(generate(words), b"generateContent", b"Origin: http://localhost:5173"))
    assert is_hit(again)
    assert again.header(b"access-control-allow-origin") == b"http://localhost:5173"
    assert again.all(b"access-control-allow-origin") != [b"*"]


# What is never stored or served


def partial(count: int, ends: str) -> Script:
    """Breaks at an event: closes without the last chunk, resets, or ends as if that were all."""
    pieces = events("broken", 4)[:count]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + b"".join(map(chunk, pieces)))
        if ends == "clean":
            peer.send(b"0\r\n\r\n")
            peer.watch()
        elif ends == "rst":
            peer.rst()
        else:
            peer.fin()
            peer.watch()

    return script


@pytest.mark.parametrize("ends", ["fin", "rst", "clean"])
@pytest.mark.parametrize("count", range(4))
def test_a_stream_that_breaks_off_is_not_kept(
    count: int, ends: str, port: int, words: str, upstream: ScriptedUpstream, proxy: ProxyProcess
) -> None:
    upstream.script = partial(count, ends)
    request = call(generate(words), SSE)
    with Client(port) as client:
        client.send(request)
        answered = client.answer()
    assert answered.body == b"".join(events("broken", 4)[:count]) or answered.status == 502
    proxy.exchanges()
    upstream.script = Numbered()
    again = ask(port, request)
    assert not is_hit(again)
    assert is_hit(ask(port, request))


ENDINGS: dict[str, Callable[[], bytes]] = {
    "safety": lambda: unary("no", "SAFETY"),
    "malformed call": lambda: unary("no", "MALFORMED_FUNCTION_CALL"),
    "no ending": lambda: unary("no", None),
    "blocked prompt": lambda: respond(b'{"promptFeedback": {"blockReason": "SAFETY"}}', headers=JSON),
    "not json": lambda: respond(b"<html>", headers=b"Content-Type: text/html\r\n"),
    "empty": lambda: respond(b"", headers=JSON),
    "quota": lambda: respond(b'{"error": {"code": 429}}', status=b"429 Too Many Requests", headers=JSON),
    "internal": lambda: respond(b'{"error": {"code": 500}}', status=b"500 Internal Server Error", headers=JSON),
    "bad request": lambda: respond(b'{"error": {"code": 400}}', status=b"400 Bad Request", headers=JSON),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_success_is_not_kept(
    ending: str, port: int, words: str, upstream: ScriptedUpstream, proxy: ProxyProcess
) -> None:
    bad = ENDINGS[ending]()
    upstream.script = once(bad, bad, unary("good"))
    request = call(generate(words))
    first = ask(port, request)
    if first.status != 200:
        assert said(first).keys() == {"fwd", "key"}, "nothing is said to be stored"
    again = ask(port, request)
    assert again.body == first.body
    assert not is_hit(again)
    proxy.exchanges()
    good = ask(port, request)
    assert not is_hit(good)
    assert b"good" in good.body
    assert is_hit(ask(port, request))


def test_an_error_inside_a_stream_is_not_kept(
    port: int, words: str, upstream: ScriptedUpstream, proxy: ProxyProcess
) -> None:
    error = event({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})
    upstream.script = once(stream([*events("half")[:2], error]), stream(events("good")))
    request = call(generate(words), SSE)
    assert b"overloaded" in ask(port, request).body
    proxy.exchanges()
    good = ask(port, request)
    assert not is_hit(good)
    assert ask(port, request).body == good.body


@pytest.mark.parametrize(
    "target",
    [
        b"/v1beta/files", b"/v1beta/files/abc", b"/v1beta/operations/op-1", b"/v1beta/batches/b-1",
        b"/v1beta/interactions/i-1", b"/v1beta/cachedContents", b"/v1beta/tunedModels", b"/somewhere/else",
    ],
)  # fmt: skip
def test_what_changes_is_never_served(target: bytes, port: int) -> None:
    first, again = twice(port, get(target, ALL + b"\r\n"))
    assert first.body != again.body
    assert said(again) == {"fwd": "bypass", "detail": "the operation is never cached"}


def test_stored_interactions_are_never_served(port: int, words: str) -> None:
    body = json.dumps({"model": "gemini-2.5-flash", "input": words, "store": True}).encode()
    head = b"POST /v1beta/interactions HTTP/1.1\r\nHost: 127.0.0.1\r\nx-goog-api-key: k\r\nX-Cache-Mode: all\r\n"
    request = head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    first, again = twice(port, request)
    assert first.body != again.body
    assert said(again)["fwd"] == "bypass"


SEARCHES: dict[str, dict[str, Any]] = {
    "googleSearch": {"tools": [{"googleSearch": {}}]},
    "google_search": {"tools": [{"google_search": {}}]},
    "codeExecution": {"tools": [{"codeExecution": {}}]},
    "urlContext": {"tools": [{"urlContext": {}}]},
    "cachedContent": {"cachedContent": "cachedContents/c-1"},
}


@pytest.mark.parametrize("search", SEARCHES)
def test_what_depends_on_more_is_served_if_asked_for_alone(search: str, port: int, words: str) -> None:
    request = call(generate(words, **SEARCHES[search]), b"generateContent", ALL)
    first, again = twice(port, request)
    assert first.body != again.body
    assert said(again)["detail"].startswith("depends on ")


def test_cache_dependent(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.script = Numbered()
    with ProxyProcess(tmp_path, upstream=upstream.url, cache="all", cache_dependent="true") as proxy:
        for more in SEARCHES.values():
            first, again = twice(proxy.port, call(generate("x", **more)))
            assert is_hit(again)
            assert first.body == again.body


KEY_LIKE = b"AIza" + b"FakeFakeFakeFakeFakeFakeFakeFakeFak"


def test_bodies_with_a_credential_are_neither_kept_nor_served(
    port: int, words: str, upstream: ScriptedUpstream, proxy: ProxyProcess
) -> None:
    in_request = call(generate(f"{words} {KEY_LIKE.decode()}"))
    first, again = twice(port, in_request)
    assert first.body != again.body
    proxy.exchanges()
    assert not is_hit(ask(port, in_request))
    upstream.script = once(unary(f"your key is {KEY_LIKE.decode()}"), unary("two"), unary("three"))
    in_answer = call(generate(words))
    assert KEY_LIKE in ask(port, in_answer).body
    proxy.exchanges()
    second = ask(port, in_answer)
    assert not is_hit(second)
    assert b"two" in second.body


def test_a_large_body_goes_on_as_ever(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.script = Numbered()
    with ProxyProcess(tmp_path, upstream=upstream.url, cache="all", cache_max_body_bytes=2000) as proxy:
        request = call(generate("x" * 3000))
        first, again = twice(proxy.port, request)
        assert first.body != again.body
        assert said(again) == {"fwd": "bypass", "detail": "the request is too large"}
        body = generate("y" * 3000)
        head = call(body).partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
        with Client(proxy.port) as client:
            client.send(head + chunk(body[:1000]))
            client.send(chunk(body[1000:]) + b"0\r\n\r\n")
            assert client.answer().status == 200
        assert upstream.requests[-1].body == body
        pieces = events("long " * 100, 5)
        upstream.script = once(stream(pieces))
        first, again = twice(proxy.port, call(generate("short"), SSE))
        assert first.body == again.body == b"".join(pieces)
        assert not is_hit(again)
        proxy.exchanges()
        assert not is_hit(ask(proxy.port, call(generate("short"), SSE)))


# The record of it


def test_hits_are_recorded(port: int, words: str, proxy: ProxyProcess) -> None:
    agent = b"User-Agent: %b" % words.encode()
    first = ask(port, call(generate(words), b"generateContent", agent))
    for _ in range(3):
        assert is_hit(ask(port, call(generate(words), b"generateContent", agent)))
    source, *hits = [each for each in proxy.exchanges() if each.user_agent == words]
    assert len(hits) == 3
    assert source.cache is not None
    assert (source.cache.verdict, source.cache.source) == (Verdict.MISS, None)
    assert source.entry_kind == "answer"
    assert source.price is not None
    assert source.price.total_nanousd > 0
    for hit in hits:
        assert hit.cache is not None
        assert (hit.cache.verdict, hit.cache.source) == (Verdict.HIT, source.id)
        assert hit.cache.key == source.cache.key == source.entry_key
        assert hit.cache.saved_nanousd == source.price.total_nanousd
        assert hit.cache.saved_us is not None
        assert hit.price is not None
        assert hit.price.total_nanousd == 0
        assert hit.usage is None
        assert hit.entry_key is None
        assert hit.response is not None
        assert hit.response.body.data == first.body


@pytest.mark.parametrize(
    ("lines", "verdict", "detail"),
    [
        ((OFF,), None, ""),
        ((ALL, NO_CACHE), Verdict.BYPASS, "no-cache"),
        ((SAFE,), Verdict.BYPASS, "temperature is not 0"),
        ((ALL,), Verdict.MISS, ""),
        ((REPLAY,), Verdict.MISS, "nothing is recorded that answers it"),
    ],
)
def test_the_verdict_is_recorded(
    lines: tuple[bytes, ...], verdict: Verdict | None, detail: str, port: int, words: str, proxy: ProxyProcess
) -> None:
    agent = words.replace("[", "").replace("]", "")
    ask(port, call(generate(words, 1.0), b"generateContent", *lines, b"User-Agent: " + agent.encode()))
    exchange = proxy.exchange(agent)
    if verdict is None:
        assert exchange.cache is None
        return
    assert exchange.cache is not None
    assert (exchange.cache.verdict, exchange.cache.detail) == (verdict, detail)
