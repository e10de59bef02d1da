"""Whatever bytes the upstream sends, however framed and cut: the client gets these, and the record holds these."""

from __future__ import annotations

import gzip
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_caching_proxy.exchange import Failure, FailureKind, Response
from wire import (
    CHUNKED,
    STREAM,
    Answered,
    Client,
    Closed,
    Peer,
    ScriptedUpstream,
    ask,
    chunk,
    get,
    post,
    respond,
)

from .serving import ProxyProcess

EXAMPLES = int(os.environ.get("GEMINI_PROXY_TEST_STREAMS", "300"))
MIB = 1024 * 1024


@dataclass(frozen=True)
class Stream:
    """A response as an upstream sends it."""

    framing: str
    pieces: tuple[bytes, ...]
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    interims: tuple[int, ...] = ()
    status: int = 200
    fields: bytes = b""
    cuts: int = 0

    @property
    def body(self) -> bytes:
        return b"" if self.status in (204, 304) else b"".join(self.pieces)

    def wire(self) -> bytes:
        head = b"".join(b"HTTP/1.1 %d Interim\r\nLink: </x>\r\n\r\n" % status for status in self.interims)
        version = b"1.0" if self.framing == "1.0" else b"1.1"
        head += b"HTTP/%b %d Whatever\r\n%b" % (version, self.status, self.fields)
        if self.status in (204, 304):
            return head + b"\r\n"
        if self.framing == "length":
            return head + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body
        if self.framing == "chunked":
            head += b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunk(piece) for piece in self.pieces)
            return head + b"0\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in self.trailers) + b"\r\n"
        return head + b"\r\n" + self.body

    @property
    def ends_by_close(self) -> bool:
        return self.framing in ("close", "1.0") and self.status not in (204, 304)


pieces = st.one_of(
    st.binary(min_size=1, max_size=200),
    st.sampled_from(
        [b"data: {}\r\n\r\n", b"data: a\n\n", b"\r", b"\n", b"\r\n", b"0\r\n\r\n", b"\0", b"HTTP/1.1 200 OK\r\n"]
    ),
    st.integers(1, 65536).map(lambda size: random.Random(size).randbytes(size)),
    st.binary(max_size=300).map(gzip.compress),
)
streams = st.builds(
    Stream,
    framing=st.sampled_from(["chunked", "chunked", "length", "close", "1.0"]),
    pieces=st.lists(pieces, max_size=8).map(tuple),
    trailers=st.lists(st.sampled_from([(b"X-Sum", b"1"), (b"x-b", b"")]), max_size=2).map(tuple),
    interims=st.lists(st.sampled_from([103, 102]), max_size=2).map(tuple),
    status=st.sampled_from([200, 200, 200, 201, 206, 204, 304, 400, 429, 500, 503, 599]),
    fields=st.sampled_from([b"", b"Content-Encoding: gzip\r\n", b"X-A: \xe4\r\nX-A: b\r\n", b"Content-Type: a/b\r\n"]),
    cuts=st.integers(0, 6),
)


@pytest.fixture(scope="module")
def playing() -> Iterator[tuple[ScriptedUpstream, dict[bytes, Stream]]]:
    """An upstream that answers a target with the stream filed under it."""
    filed: dict[bytes, Stream] = {}

    def play(peer: Peer) -> None:
        while True:
            asked = peer.request()
            stream = filed[asked.target]
            wire = stream.wire()
            source = random.Random(len(wire))
            places = sorted(source.randint(0, len(wire)) for _ in range(stream.cuts))
            for start, end in zip([0, *places], [*places, len(wire)], strict=True):
                peer.send(wire[start:end])
            if stream.ends_by_close:
                peer.fin()
                return

    with ScriptedUpstream(play) as upstream:
        yield upstream, filed


@pytest.fixture(scope="module")
def proxy_of_playing(
    playing: tuple[ScriptedUpstream, dict[bytes, Stream]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    with ProxyProcess(tmp_path_factory.mktemp("fidelity"), upstream=playing[0].url) as proxy:
        yield proxy


@pytest.mark.slow
def test_random_streams(playing: tuple[ScriptedUpstream, dict[bytes, Stream]], proxy_of_playing: ProxyProcess) -> None:
    proxy, (_, filed) = proxy_of_playing, playing
    bodies: dict[str, Stream] = {}
    clients = {1: Client(proxy.port)}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(streams, st.sampled_from([1, 1, 0]))
    def same_bytes(stream: Stream, minor: int) -> None:
        target = b"/v1beta/streams/%d" % len(filed)
        filed[target] = stream
        request = get(target, b"Connection: close\r\n" if minor == 0 else b"").replace(
            b"HTTP/1.1", b"HTTP/1.%d" % minor
        )
        if minor == 0:
            answered = ask(proxy.port, request)
        else:
            try:
                answered = clients[1].ask(request)
            except (Closed, OSError):  # as after any answer that the client was told is the last
                clients[1].close()
                clients[1] = Client(proxy.port)
                answered = clients[1].ask(request)
        check(answered, stream, minor)
        bodies[target.decode()] = stream

    same_bytes()
    clients[1].close()
    recorded = {exchange.target: exchange for exchange in proxy.exchanges(len(bodies))}
    for target, stream in bodies.items():
        outcome = recorded[target].outcome
        assert isinstance(outcome, Response), (target, stream, outcome)
        assert outcome.body.data == stream.body
        assert outcome.body.complete
        assert sum(each.size for each in outcome.chunks) == len(stream.body)
        if stream.framing == "chunked" and stream.status not in (204, 304):
            assert [name for name, _ in outcome.trailers] == [name for name, _ in stream.trailers]


def check(answered: Answered, stream: Stream, minor: int) -> None:
    assert answered.complete
    assert answered.status == stream.status
    assert answered.reason == b"Whatever"
    assert answered.body == stream.body
    if minor == 1:
        assert [each.status for each in answered.interims] == list(stream.interims)
        if stream.framing == "chunked" and stream.status not in (204, 304):
            assert answered.trailers == [b"%b: %b" % pair for pair in stream.trailers]
    else:
        assert not answered.interims, "HTTP/1.0 has no interim responses"
        assert answered.header(b"transfer-encoding") is None


def test_each_chunk_goes_on_at_once(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    """The upstream sends the next chunk only when the client has the one before."""
    seen = threading.Semaphore(0)
    sizes = [1, 2, 65536, 7, 200_000, 1]

    def in_step(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED)
        for size in sizes:
            peer.send(chunk(b"." * size))
            assert seen.acquire(timeout=10)
        peer.send(b"0\r\n\r\n")

    upstream.script = in_step
    with Client(proxy.port) as client:
        client.send(post(STREAM))
        assert b"200 OK" in client.until(b"\r\n\r\n")
        for size in sizes:
            got = b""
            while len(got) < size:
                length = int(client.until(b"\r\n"), 16)
                got += client.exactly(length)
                assert client.exactly(2) == b"\r\n"
            seen.release()
            if size < 65536:
                assert length == size, "boundaries are kept"
        assert client.until(b"\r\n\r\n") == b"0\r\n\r\n"
    outcome = proxy.exchanges()[-1].response
    assert outcome is not None
    assert [each.size for each in outcome.chunks][:2] == sizes[:2]
    assert upstream.errors == []


@pytest.mark.parametrize("minor", [1, 0])
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_body_that_ends_with_the_connection(
    end: str, minor: int, proxy: ProxyProcess, upstream: ScriptedUpstream
) -> None:
    """A FIN ends it well; a reset does not, for an HTTP/1.0 client either."""

    def until_close(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        if end == "rst":
            assert passed.acquire(timeout=10)
            peer.rst()

    passed = threading.Semaphore(0)
    upstream.script = until_close
    name = b"%b-%d" % (end.encode(), minor)
    request = post(headers=b"User-Agent: %b\r\n" % name).replace(b"HTTP/1.1", b"HTTP/1.%d" % minor)
    with Client(proxy.port) as client:
        client.send(request)
        head = client.until(b"half")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        passed.release()
        if end == "fin":
            rest = b"\r\n0\r\n\r\n"
            assert (client.exactly(len(rest)) == rest) if minor else (client.to_the_end() == b"")
        elif minor:
            assert client.to_the_end() == b"\r\n", "no last chunk"
        else:
            with pytest.raises(ConnectionResetError):
                client.to_the_end()
    outcome = proxy.exchange(name.decode()).outcome
    if end == "fin":
        assert isinstance(outcome, Response)
        assert outcome.body.data == b"half"
    else:
        assert isinstance(outcome, Failure)
        assert outcome.kind == FailureKind.INCOMPLETE_RESPONSE
        assert outcome.partial is not None
        assert outcome.partial.body.data == b"half"


@pytest.mark.parametrize("framing", ["length", "chunked", "none"])
def test_head(framing: str, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    line = {"length": b"Content-Length: 5\r\n", "chunked": b"Transfer-Encoding: chunked\r\n", "none": b""}[framing]

    def head_only(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\n%b\r\n" % line)

    upstream.script = head_only
    with Client(proxy.port) as client:
        for _ in range(3):
            answered = client.ask(get().replace(b"GET", b"HEAD", 1), head_only=True)
            assert answered.status == 200
            assert answered.header(b"content-length") == (b"5" if framing == "length" else None)
        assert client.buffer == b""


def test_both_bodies_at_once(proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    """The answer streams while the request still does (F26 in slow motion), and both are whole."""

    def echo(peer: Peer) -> None:
        asked = peer.request_head()
        peer.trailers = []
        peer.send(CHUNKED)
        for piece in peer.chunked():
            asked.body += piece
            peer.send(chunk(piece))
        peer.send(b"0\r\n\r\n")

    upstream.script = echo
    upstream.forget()
    with Client(proxy.port) as client:
        client.send(post(STREAM).split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(chunk(b"one"))
        client.until(b"one\r\n")
        client.send(chunk(b"two"))
        client.until(b"two\r\n")
        client.send(b"0\r\n\r\n")
        assert client.until(b"0\r\n\r\n")
    exchange = proxy.exchanges()[-1]
    assert exchange.request_body.data == b"onetwo"
    assert isinstance(exchange.outcome, Response)
    assert exchange.outcome.body.data == b"onetwo"


@pytest.mark.parametrize("late", [respond(b"EVIL"), b""])
def test_late_bytes_are_no_answer(late: bytes, proxy: ProxyProcess, upstream: ScriptedUpstream) -> None:
    """The next request and bytes nobody asked for (or the end) meet in the moment in which a connection is reused."""

    def afterwards(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(respond(b"good"))
            assert go.acquire(timeout=10)
            if late:
                peer.send(late)
            else:
                peer.fin()
            gone.release()

    go, gone = threading.Semaphore(0), threading.Semaphore(0)
    upstream.script = afterwards
    worker = psutil.Process(proxy.worker_pid)
    with Client(proxy.port) as client:
        for _ in range(10):
            assert client.ask(post()).body == b"good"
            worker.suspend()
            # In this order they also come out of the worker's next poll.
            client.send(post())
            go.release()
            assert gone.acquire(timeout=10)
            worker.resume()
            assert client.answer().body == b"good"
            go.release()
            assert gone.acquire(timeout=10)


@pytest.mark.slow
def test_no_answer_goes_to_another(tmp_path: Path) -> None:
    """Many users, random cancels, an upstream that sends answers nobody asked for and sets cookies."""
    source = random.Random(7)

    def misbehaving(peer: Peer) -> None:
        while True:
            asked = peer.request()
            nonce = asked.header(b"x-nonce") or b"?"
            cookie = b"Set-Cookie: of=%b\r\n" % nonce
            assert asked.header(b"cookie") is None, "a cookie came back"
            answer = respond(nonce * 50, headers=cookie)
            match source.randint(0, 5):
                case 0:
                    peer.send(answer + respond(b"EVIL" * 50))
                case 1 | 2:
                    peer.send(answer[:-20])
                    peer.send(answer[-20:])
                case 3:
                    peer.send(answer + b"garbage")
                case _:
                    peer.send(answer)

    def user(number: int) -> int:
        source = random.Random(number)
        done, client = 0, Client(proxy.port)
        for round_ in range(100):
            nonce = b"user-%d-%d;" % (number, round_)
            client.send(post(headers=b"X-Nonce: %b\r\n" % nonce))
            if source.random() < 0.3:
                client.rst()
                client = Client(proxy.port)
                continue
            answered = client.answer()
            assert answered.body == nonce * 50, (nonce, answered)
            assert all(cookie == b"of=" + nonce for cookie in answered.all(b"set-cookie"))
            done += 1
        client.close()
        return done

    with ScriptedUpstream(misbehaving) as upstream, ProxyProcess(tmp_path, upstream=upstream.url) as proxy:
        with ThreadPoolExecutor(20) as threads:
            assert sum(threads.map(user, range(40))) > 2000
        assert upstream.errors == []
        for exchange in proxy.exchanges():
            if isinstance(exchange.outcome, Response):
                nonce = dict(exchange.request_headers)[b"X-Nonce"]
                assert exchange.outcome.body.data == nonce * 50 or nonce.startswith(b"fp_"), exchange
