"""The replaying upstream: recorded answers out, exact requests in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gemini_caching_proxy.simulator import RecordedExchange, ReplayUpstream, ServerThread

from .conftest import Peer, request_bytes

JSON = (b"content-type", b"application/json")
CHUNKED = (b"transfer-encoding", b"chunked")
ENTRIES = (
    RecordedExchange("POST", "/a?x=1", 200, (JSON, CHUNKED), b"first", b"{}"),
    RecordedExchange("POST", "/a?x=1", 429, (JSON, (b"content-length", b"6")), b"second", b"{}"),
    RecordedExchange("POST", "/a?x=1", 200, (JSON, CHUNKED), b"other body", b"[]"),
    RecordedExchange(
        "GET", "/any", 200, ((b"connection", b"close"), (b"x-two", b"1"), (b"x-two", b"2")), b"closed", None
    ),
    RecordedExchange("POST", "/stream", 200, (CHUNKED,), b"abcdefghij", b"", (1, 4, 5)),
    RecordedExchange("DELETE", "/gone", 204, ()),
    RecordedExchange("GET", "/empty", 200, (JSON, CHUNKED)),
)


@pytest.fixture
def upstream() -> Iterator[ReplayUpstream]:
    with ServerThread(ReplayUpstream(ENTRIES)) as upstream:
        yield upstream
        assert upstream.ledger.crashes == []


@pytest.fixture
def peer(upstream: ReplayUpstream) -> Peer:
    return Peer(upstream)


def test_entries_for_the_same_request_come_in_order(peer: Peer) -> None:
    answers = [peer.send("/a?x=1", b"{}") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 429, 429]
    assert [answer.body for answer in answers] == [b"first", b"second", b"second"]
    assert answers[1].header("content-length") == "6"


def test_the_body_decides(peer: Peer, upstream: ReplayUpstream) -> None:
    assert peer.send("/a?x=1", b"[]").body == b"other body"
    assert peer.send("/a?x=1", b"{ }").status == 404
    assert peer.send("/a?x=2", b"{}").status == 404
    assert [entry.target for entry in upstream.unmatched] == [b"/a?x=1", b"/a?x=2"]


def test_close_delimited_and_repeated_headers(peer: Peer) -> None:
    answer = peer.send("/any", b"whatever", method="GET")
    assert (answer.wire_body, answer.ended) == (b"closed", "fin")
    assert answer.header("content-length") is None
    assert [value for name, value in answer.headers if name == "x-two"] == ["1", "2"]


def test_chunks_are_kept(peer: Peer) -> None:
    assert peer.send("/stream").chunks == [b"a", b"bcde", b"fghij"]


def test_answers_without_a_body(peer: Peer) -> None:
    gone = peer.send("/gone", method="DELETE")
    assert (gone.status, gone.wire_body) == (204, b"")
    assert gone.header("transfer-encoding") is None
    assert peer.send("/empty", method="GET").chunks == []


def test_what_was_received_is_known_to_the_byte(peer: Peer, upstream: ReplayUpstream) -> None:
    sent = request_bytes("/a?x=1", b"{}", "X-Odd:  spaced  ", "x-odd: again")
    with peer.connect() as sock:
        sock.sendall(sent[:30])
        sock.sendall(sent[30:])
        upstream.ledger.wait_for(lambda ledger: len(ledger.requests) == 1 and ledger.last.ended_at is not None)
    entry = upstream.ledger.last
    assert entry.raw_head + (entry.body or b"") == sent
    assert entry.request_line == b"POST /a?x=1 HTTP/1.1"
    assert [value for name, value in entry.headers if name.lower() == b"x-odd"] == [b"spaced  ", b"again"]


def test_chunks_must_fit_the_body() -> None:
    with pytest.raises(ValueError, match="chunks add up"):
        RecordedExchange("GET", "/", 200, (), b"abc", chunks=(1, 1)).pieces()


def recorded() -> list[RecordedExchange]:
    """The recorded traffic of the Gemini API, event streams in one chunk an event."""
    root = os.environ.get("GEMINI_PROXY_TRAFFIC") or Path(__file__).parents[2] / "../shared/traffic"
    path = Path(root) / "gemini.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded traffic at {path}")
    found = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        address, body = urlsplit(entry["url"]), entry["response_body"].encode()
        chunks = (
            tuple(len(piece) for piece in re.findall(rb".+?(?:\r?\n\r?\n|$)", body, re.DOTALL))
            if entry["stream"]
            else ()
        )
        headers = tuple((name.encode(), value.encode()) for name, value in entry["response_headers"])
        target = address.path + ("?" + address.query if address.query else "")
        request_body = entry["request_body"].encode()
        found.append(RecordedExchange(entry["method"], target, entry["status"], headers, body, request_body, chunks))
    return found


def test_all_recorded_traffic_comes_back_as_recorded() -> None:
    entries = recorded()
    with ServerThread(ReplayUpstream(entries)) as upstream:
        peer = Peer(upstream)
        for entry in entries:
            answer = peer.send(entry.target, entry.request_body, method=entry.method)
            assert (answer.status, answer.body) == (entry.status, entry.body)
        assert upstream.unmatched == []
        assert len(upstream.ledger.requests) == len(entries) > 400
