"""Identical requests in flight at the running program: one call upstream, and nobody the worse for sharing it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gemini_caching_proxy.exchange import Failure, FailureKind, Verdict
from wire import CHUNKED, TIMEOUT, Answered, Client, Peer, Script, ScriptedUpstream, ask, chunk, get, respond

from .asking import JSON, SSE, Numbered, call, events, generate, is_hit, said, stream, unary
from .serving import ProxyProcess, wait_for

ALL = b"X-Cache-Mode: all"
CROWD = 500
LAST = b"0\r\n\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(Numbered()) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    with ProxyProcess(tmp_path_factory.mktemp("proxy"), upstream=upstream.url) as proxy:
        yield proxy


@pytest.fixture
def port(proxy: ProxyProcess, upstream: ScriptedUpstream) -> int:
    upstream.script = Numbered()
    upstream.forget()
    return proxy.port


@pytest.fixture
def words(request: pytest.FixtureRequest) -> str:
    return f"asked by {request.node.name}"


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(clients: ExitStack, port: int, **more: int) -> Client:
    """A client whose connection the worker has taken."""
    client = clients.enter_context(Client(port, **more))
    assert client.ask(get(b"/healthz")).status == 200
    return client


def settle(port: int) -> None:
    """Return when the worker has read what was sent before: it reads all that is there in each turn of its loop."""
    for _ in range(2):
        assert ask(port, get(b"/healthz")).status == 200


class Director:
    """A script whose steps wait for the test: the first call is directed, all that follow are answered by `then`."""

    def __init__(self, *steps: bytes | str, then: Script | None = None) -> None:
        self._steps = steps
        self._then = then or Numbered()
        self._go = threading.Semaphore(0)
        self._calls = 0
        self._lock = threading.Lock()
        self.peer: Peer | None = None

    def go(self) -> None:
        """Let the next step happen."""
        self._go.release()

    def __call__(self, peer: Peer) -> None:
        with self._lock:
            self._calls += 1
            first = self._calls == 1
        if not first:
            self._then(peer)
            return
        peer.request()
        self.peer = peer
        for step in self._steps:
            while not self._go.acquire(timeout=0.05):
                if peer.upstream._closing:
                    return
            if isinstance(step, bytes):
                peer.send(step)
            elif step == "rst":
                peer.rst()
                return
            elif step == "fin":
                peer.fin()
                peer.watch()
                return
        self._then(peer)

    @property
    def called(self) -> Peer:
        return wait_for(lambda: self.peer, what="the call upstream")


def directed(upstream: ScriptedUpstream, *steps: bytes | str, then: Script | None = None) -> Director:
    director = Director(*steps, then=then)
    upstream.script = director
    return director


def verdicts(proxy: ProxyProcess, agent: str) -> Counter[Verdict | None]:
    return Counter(each.cache.verdict if each.cache else None for each in proxy.exchanges() if each.user_agent == agent)


def test_a_crowd_shares_one_call(
    port: int, words: str, upstream: ScriptedUpstream, proxy: ProxyProcess, clients: ExitStack
) -> None:
    pieces = events("for all", 5)
    director = directed(upstream, CHUNKED + chunk(pieces[0]), b"".join(map(chunk, pieces[1:])) + LAST)
    crowd = [connect(clients, port) for _ in range(CROWD)]
    director.go()
    for client in crowd:
        client.send(call(generate(words), SSE, b"User-Agent: crowd"))
    heads = []
    for client in crowd:
        heads.append(client.head()[1])
        assert client.until(b"\r\n") == b"%x\r\n" % len(pieces[0])
    director.go()
    for client in crowd:
        assert client.exactly(len(pieces[0]) + 2) == pieces[0] + b"\r\n"
        assert list(client.chunked()) == pieces[1:]
    assert len(upstream.requests) == 1
    ids = {dict(head)[b"X-Exchange-Id"] for head in heads}
    assert len(ids) == CROWD
    exchanges = [each for each in proxy.exchanges() if each.user_agent == "crowd"]
    (leader,) = [each for each in exchanges if each.cache and each.cache.verdict == Verdict.MISS]
    followers = [each for each in exchanges if each.cache and each.cache.verdict == Verdict.COLLAPSED]
    assert len(followers) == CROWD - 1
    for each in followers:
        assert each.cache is not None
        assert each.cache.source == leader.id
        assert each.cache.key == leader.entry_key
        assert each.entry_key is None
        assert each.usage is None
        assert each.price is not None
        assert each.price.total_nanousd == 0
    assert is_hit(ask(port, call(generate(words), SSE)))


def test_a_crowd_shares_one_unary_call(port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack) -> None:
    director = directed(upstream, unary("for all"))
    crowd = [connect(clients, port) for _ in range(100)]
    for client in crowd:
        client.send(call(generate(words)))
    settle(port)
    director.go()
    answers = [client.answer() for client in crowd]
    assert len(upstream.requests) == 1
    assert {answered.body for answered in answers} == {unary("for all").partition(b"\r\n\r\n")[2]}
    assert Counter("collapsed" in said(answered) for answered in answers) == {True: 99, False: 1}


def test_who_comes_late_gets_what_there_is_and_then_the_rest(
    port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    pieces = events("live", 4)
    director = directed(upstream, CHUNKED + chunk(pieces[0]), *map(chunk, pieces[1:]), LAST)
    joined: list[Client] = []
    ids = []
    for number, piece in enumerate(pieces):
        joined.append(client := connect(clients, port))
        client.send(call(generate(words), SSE))
        if number:
            # What there is, before anything more comes.
            answered = Answered(200, b"", client.head()[1])
            ids.append(answered.header(b"x-source-exchange-id"))
            assert said(answered).items() >= {"fwd": "miss", "collapsed": "?1", "stored": "?1"}.items()
            for earlier in pieces[:number]:
                client.until(b"\r\n")
                assert client.exactly(len(earlier) + 2) == earlier + b"\r\n"
        director.go()
        for each in joined:
            if each is client and not number:
                ids.append(Answered(200, b"", client.head()[1]).header(b"x-exchange-id"))
            assert each.until(b"\r\n") == b"%x\r\n" % len(piece)
            assert each.exactly(len(piece) + 2) == piece + b"\r\n"
    director.go()
    for client in joined:
        assert client.exactly(len(LAST)) == LAST
    assert len(set(ids)) == 1
    assert len(upstream.requests) == 1


# Leaving


def test_a_leader_that_leaves_hands_over(
    port: int, words: str, upstream: ScriptedUpstream, proxy: ProxyProcess, clients: ExitStack
) -> None:
    pieces = events("handed over")
    director = directed(upstream, CHUNKED + chunk(pieces[0]), b"".join(map(chunk, pieces[1:])) + LAST)
    request = call(generate(words), SSE, b"User-Agent: " + words.encode())
    leader, follower = connect(clients, port), connect(clients, port)
    leader.send(request)
    director.go()
    leader.until(pieces[0])
    follower.send(request)
    follower.until(pieces[0] + b"\r\n")
    leader.rst()
    settle(port)
    director.go()
    assert list(follower.chunked()) == pieces[1:]
    again = ask(port, request)
    assert is_hit(again)
    assert again.body == b"".join(pieces)
    assert len(upstream.requests) == 1
    assert verdicts(proxy, words) == {Verdict.MISS: 1, Verdict.COLLAPSED: 1, Verdict.HIT: 1}


def test_a_leader_that_leaves_before_any_answer_hands_over(
    port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    director = directed(upstream, unary("handed over"))
    leader, follower = connect(clients, port), connect(clients, port)
    leader.send(call(generate(words)))
    assert director.called
    follower.send(call(generate(words)))
    settle(port)
    leader.rst()
    settle(port)
    director.go()
    assert b"handed over" in follower.answer().body
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("answer", ["begun", "not begun"])
def test_the_last_who_leaves_ends_the_call(
    answer: str, port: int, words: str, upstream: ScriptedUpstream, proxy: ProxyProcess, clients: ExitStack
) -> None:
    piece = events("nobody there")[0]
    director = directed(upstream, *([CHUNKED + chunk(piece)] if answer == "begun" else []))
    agent = words.replace("[", "").replace("]", "")
    request = call(generate(words), SSE, b"User-Agent: " + agent.encode())
    both = [connect(clients, port), connect(clients, port)]
    for client in both:
        client.send(request)
        peer = director.called
        settle(port)
    if answer == "begun":
        director.go()
        for client in both:
            client.until(piece)
    for client in both:
        settle(port)
        assert peer.ended_at is None
        client.rst()
    assert wait_for(lambda: peer.ended_at, what="the end of the call")
    left = [each for each in wait_for(lambda: gone(proxy, agent, 2)) if isinstance(each, Failure)]
    assert [each.kind for each in left] == [FailureKind.CLIENT_GONE] * 2
    assert not is_hit(ask(port, call(generate(words), SSE)))


def gone(proxy: ProxyProcess, agent: str, count: int) -> list[object]:
    found = [each.outcome for each in proxy.exchanges() if each.user_agent == agent]
    return found if len(found) == count else []


def test_a_follower_that_leaves_is_not_missed(
    port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    pieces = events("goes on")
    director = directed(upstream, CHUNKED + chunk(pieces[0]), b"".join(map(chunk, pieces[1:])) + LAST)
    leader, follower = connect(clients, port), connect(clients, port)
    director.go()
    for client in (leader, follower):
        client.send(call(generate(words), SSE))
        client.until(pieces[0] + b"\r\n")
    follower.rst()
    settle(port)
    director.go()
    assert list(leader.chunked()) == pieces[1:]


def test_a_call_read_to_its_end_for_nobody_is_joined(
    upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory, clients: ExitStack
) -> None:
    pieces = events("drained")
    with ProxyProcess(tmp_path_factory.mktemp("drain"), upstream=upstream.url, client_gone="drain") as proxy:
        upstream.forget()
        director = directed(upstream, CHUNKED + chunk(pieces[0]), b"".join(map(chunk, pieces[1:])) + LAST)
        leader, follower = connect(clients, proxy.port), connect(clients, proxy.port)
        director.go()
        leader.send(call(generate("drained"), SSE))
        leader.until(pieces[0])
        leader.rst()
        settle(proxy.port)
        follower.send(call(generate("drained"), SSE))
        follower.until(pieces[0] + b"\r\n")
        director.go()
        assert list(follower.chunked()) == pieces[1:]
        assert len(upstream.requests) == 1


# Failing


@pytest.mark.parametrize(
    "failure",
    ["rst", "fin", respond(b'{"error": {}}', status=b"500 Internal Server Error"), respond(b"{}", status=b"429 Wait")],
    ids=["rst", "fin", "500", "429"],
)
def test_a_failed_call_is_the_leaders_alone(
    failure: bytes | str, port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    director = directed(upstream, failure)
    crowd = [connect(clients, port) for _ in range(20)]
    crowd[0].send(call(generate(words)))
    assert director.called
    for client in crowd[1:]:
        client.send(call(generate(words)))
    settle(port)
    director.go()
    assert crowd[0].answer().status in (502, 500, 429)
    answers = [client.answer() for client in crowd[1:]]
    assert [answered.status for answered in answers] == [200] * 19
    assert len({answered.body for answered in answers}) == 19, "each has called for itself"
    for answered in answers:
        assert said(answered).keys() == {"fwd", "stored", "ttl", "key"}
        assert answered.header(b"x-source-exchange-id") is None
    assert len(upstream.requests) == 20
    again = ask(port, call(generate(words)))
    assert is_hit(again)
    assert again.body in {answered.body for answered in answers}


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_call_that_breaks_off_breaks_off_for_all(
    how: str, port: int, words: str, upstream: ScriptedUpstream, proxy: ProxyProcess, clients: ExitStack
) -> None:
    piece = events("half")[0]
    director = directed(upstream, CHUNKED + chunk(piece), how, then=Numbered())
    crowd = [connect(clients, port) for _ in range(5)]
    director.go()
    for client in crowd:
        client.send(call(generate(words), SSE))
        settle(port)
    for client in crowd:
        client.until(chunk(piece))
    director.go()
    for client in crowd:
        assert client.ended() > 0
        assert LAST not in client.received
    proxy.exchanges()
    again = ask(port, call(generate(words), SSE))
    assert not is_hit(again)
    assert again.complete
    assert len(upstream.requests) == 2


def test_an_error_inside_a_shared_stream_is_not_kept(
    port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    piece = events("half")[0]
    error = b'data: {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}\r\n\r\n'
    director = directed(upstream, CHUNKED + chunk(piece), chunk(error) + LAST)
    both = [connect(clients, port), connect(clients, port)]
    director.go()
    for client in both:
        client.send(call(generate(words), SSE))
        client.until(chunk(piece))
    director.go()
    for client in both:
        assert list(client.chunked()) == [error]
    assert not is_hit(ask(port, call(generate(words), SSE)))


# Not sharing


OTHERS: dict[str, tuple[bytes, ...]] = {
    "no-cache": (ALL, b"Cache-Control: no-cache"),
    "no-store": (ALL, b"Cache-Control: no-store"),
    "max-age": (ALL, b"Cache-Control: max-age=60"),
    "another coding": (ALL, b"Accept-Encoding: gzip"),
    "mode off": (b"X-Cache-Mode: off",),
    "mode safe": (b"X-Cache-Mode: safe",),
}


@pytest.mark.parametrize("other", OTHERS)
def test_who_may_not_share_does_not_wait(
    other: str, port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    director = directed(upstream, "rst")
    first = connect(clients, port)
    first.send(call(generate(words, 1.0), SSE, ALL))
    assert director.called
    for _ in range(2):
        answered = ask(port, call(generate(words, 1.0), SSE, *OTHERS[other]))
        assert answered.status == 200
        assert "collapsed" not in said(answered)
    director.go()


@pytest.mark.parametrize(
    "request_",
    [call(generate("held", 1.0), SSE), get(b"/v1beta/files/abc"), call(b"not json", b"countTokens")],
    ids=["temperature", "file", "not json"],
)
def test_what_is_not_served_waits_for_nothing(
    request_: bytes, port: int, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    director = directed(upstream, "rst")
    held = connect(clients, port)
    held.send(request_)
    assert director.called
    for _ in range(3):
        assert ask(port, request_).status == 200
    director.go()


def test_others_keys_and_shapes_do_not_wait(
    port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    director = directed(upstream, "rst")
    connect(clients, port).send(call(generate(words)))
    assert director.called
    assert ask(port, call(generate(words), key=b"key-of-another-client")).status == 200
    assert ask(port, call(generate(words), SSE)).status == 200
    assert ask(port, call(generate(words + "!"))).status == 200
    director.go()


def test_replaying_does_not_join_a_call(port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack) -> None:
    director = directed(upstream, "rst")
    leader = connect(clients, port)
    leader.send(call(generate(words)))
    assert director.called
    for line in (b"X-Cache-Mode: replay", b"Cache-Control: only-if-cached"):
        assert ask(port, call(generate(words), b"generateContent", line)).status == 504
    director.go()
    assert leader.answer().status == 502
    assert len(upstream.requests) == 1


# Speeds


@pytest.mark.parametrize("slow", ["leader", "follower"])
def test_who_is_slow_stalls_nobody(
    slow: str, port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    text = "s" * 100_000
    pieces = events(text, 80)
    director = directed(upstream, CHUNKED + chunk(pieces[0]), b"".join(map(chunk, pieces[1:])) + LAST)
    sluggish = connect(clients, port, receive_buffer=4096)
    quick = connect(clients, port)
    order = [sluggish, quick] if slow == "leader" else [quick, sluggish]
    director.go()
    for client in order:
        client.send(call(generate(words), SSE))
        settle(port)
    director.go()
    quick.sock.settimeout(TIMEOUT)
    assert quick.answer().body == b"".join(pieces)
    # Only now does the other one read.
    assert sluggish.answer().body == b"".join(pieces)
    assert len(upstream.requests) == 1


def test_an_answer_without_a_length_or_chunks_is_shared(
    port: int, words: str, upstream: ScriptedUpstream, clients: ExitStack
) -> None:
    pieces = events("to the end")
    head = (
        b"HTTP/1.1 200 OK\r\n" + JSON.replace(b"application/json", b"text/event-stream") + b"Connection: close\r\n\r\n"
    )
    director = directed(upstream, head + pieces[0], b"".join(pieces[1:]), "fin")
    both = [connect(clients, port), connect(clients, port)]
    director.go()
    for client in both:
        client.send(call(generate(words), SSE))
        client.until(pieces[0] + b"\r\n")
    director.go()
    director.go()
    for client in both:
        assert b"".join(client.chunked()) == b"".join(pieces[1:])
    assert len(upstream.requests) == 1


def test_shared_streams_are_whole_events(port: int, words: str, upstream: ScriptedUpstream) -> None:
    """The answer of a flight and the hit after it are the same bytes in the same chunks."""
    pieces = events("same")
    upstream.script = Director(stream(pieces))
    upstream.script.go()  # type: ignore[attr-defined]
    first = ask(port, call(generate(words), SSE))
    again = ask(port, call(generate(words), SSE))
    assert is_hit(again)
    assert again.body == first.body
