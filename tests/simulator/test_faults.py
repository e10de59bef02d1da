"""Every fault of the catalogue, on a JSON answer, an event stream and an upload, as a raw peer sees it."""

from __future__ import annotations

import gzip
import json
import ssl
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from gemini_caching_proxy.simulator import CATALOGUE, FAULTS, Simulator, UnknownFaultError

from .conftest import HELLO, SSE, UNARY, Answered, Peer, read_all, request_bytes

LONG = {"contents": [{"role": "user", "parts": [{"text": "simulate 20 sentences"}]}]}
KINDS = ("json", "sse", "upload")
Check = Callable[[Answered, str], bool]


def is_whole(answer: Answered) -> bool:
    """Whether the framing says that nothing is missing."""
    length = answer.header("content-length")
    if length is not None:
        return len(answer.wire_body) == int(length)
    try:
        return answer.chunks is not None
    except (AssertionError, ValueError):
        return False


def start_upload(peer: Peer) -> str:
    """An upload's path and query, ready for its bytes."""
    headers = ("X-Goog-Upload-Protocol: resumable", "X-Goog-Upload-Command: start")
    url = peer.send("/upload/v1beta/files", {"file": {}}, *headers).header("x-goog-upload-url")
    assert url is not None
    return url.removeprefix(peer.server.url)


def ask(peer: Peer, kind: str, fault: str, *, method: str = "POST", **patience: float) -> Answered:
    header = f"x-simulator-fault: {fault}"
    if kind == "upload":
        target = start_upload(peer)
        commands = ("X-Goog-Upload-Command: upload, finalize", "X-Goog-Upload-Offset: 0")
        return peer.send(target, b"u" * 50_000, header, *commands, key=None, **patience)
    if method == "HEAD":
        return peer.send("/v1beta/models", None, header, method="HEAD", **patience)
    target = SSE if kind == "sse" else UNARY
    return peer.send(target, LONG, header, "x-simulator-options: chunks=5", method=method, **patience)


def ended(how: str, *, whole: bool | None = None, silent: bool = False) -> Check:
    def check(answer: Answered, kind: str) -> bool:
        return answer.ended == how and (whole is None or is_whole(answer) is whole) and not (silent and answer.raw)

    return check


def events_before_the_break(count: int, how: str) -> Check:
    """Whole events that came, on event streams; less than the whole on the others."""

    def check(answer: Answered, kind: str) -> bool:
        if answer.ended != how or is_whole(answer):
            return False
        return kind != "sse" or answer.raw.count(b"}\r\n\r\n") == count

    return check


def status(*codes: int, also: Callable[[Answered], bool] | None = None) -> Check:
    return lambda answer, kind: (
        answer.ended == "fin" and answer.status in codes and is_whole(answer) and (also is None or also(answer))
    )


def decodes(unpack: Callable[[bytes], bytes]) -> Check:
    """A whole answer that unpacks to what the API means to say."""

    def check(answer: Answered, kind: str) -> bool:
        text = unpack(answer.body)
        return is_whole(answer) and (
            text.startswith(b"data: {") if kind == "sse" else isinstance(json.loads(text), dict)
        )

    return check


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def unbrotli(data: bytes) -> bytes:
    """Reads what the simulator writes: Brotli of uncompressed meta-blocks (RFC 7932)."""
    position, found, value = 1, bytearray(), int.from_bytes(data, "little")
    assert value & 1 == 0
    while True:
        if value >> position & 1:
            assert value >> position + 1 & 1, "the last meta-block is empty"
            return bytes(found)
        assert value >> position + 1 & 3 == 0
        size = (value >> position + 3 & 0xFFFF) + 1
        assert value >> position + 19 & 1
        start = -(-(position + 20) // 8)
        found += data[start : start + size]
        position = (start + size) * 8


def on_streams(predicate: Callable[[bytes], bool]) -> Check:
    return lambda answer, kind: is_whole(answer) and (kind != "sse" or predicate(answer.body))


EXPECTED: dict[str, Check] = {
    "rst-before-head": ended("rst", silent=True),
    "rst-before-head:unread": ended("rst", silent=True),
    "fin-before-head": ended("fin", silent=True),
    "fin-before-head:unread": ended("fin", silent=True),
    "never-answer": ended("silence", silent=True),
    "never-answer:unread": ended("silence", silent=True),
    "stall-after-head": lambda answer, kind: answer.ended == "silence" and answer.raw.endswith(b"\r\n\r\n"),
    "stall-at:1": events_before_the_break(1, "silence"),
    "stall-at:1.5": events_before_the_break(1, "silence"),
    "drip:200": lambda answer, kind: answer.ended == "silence" and answer.raw == b"H",
    "rst-at:1": events_before_the_break(1, "rst"),
    "rst-at:1.5": events_before_the_break(1, "rst"),
    "fin-at:1,chunked": events_before_the_break(1, "fin"),
    "fin-at:1.5,chunked": events_before_the_break(1, "fin"),
    "fin-at:1,length": events_before_the_break(1, "fin"),
    "fin-at:1,close": lambda answer, kind: (
        answer.ended == "fin" and answer.header("connection") == "close" and answer.header("content-length") is None
    ),
    "short-length": lambda answer, kind: len(answer.wire_body) == int(answer.header("content-length") or 0) + 5,
    "long-length": lambda answer, kind: (
        answer.ended == "fin" and len(answer.wire_body) == int(answer.header("content-length") or 0) - 5
    ),
    "bad-chunk-size": lambda answer, kind: answer.ended == "fin" and b"\r\nzz\r\n" in answer.raw,
    "missing-chunk-crlf": lambda answer, kind: not is_whole(answer) and answer.raw.endswith(b"0\r\n\r\n"),
    "lf-only": lambda answer, kind: b"HTTP/1.1 200 OK\nContent-Type" in answer.raw and answer.raw.endswith(b"0\n\n"),
    "cl-te": lambda answer, kind: (
        answer.header("content-length") is not None and answer.header("transfer-encoding") == "chunked"
    ),
    "two-lengths": lambda answer, kind: len({v for n, v in answer.headers if n.lower() == "content-length"}) == 2,
    "two-responses": lambda answer, kind: answer.raw.count(b"HTTP/1.1 200 OK\r\n") == 2 and b"EVIL" in answer.raw,
    "body-on-204": lambda answer, kind: answer.status == 204 and b"unexpected" in answer.wire_body,
    "body-on-304": lambda answer, kind: answer.status == 304 and b"unexpected" in answer.wire_body,
    "informational:103": lambda answer, kind: answer.raw.startswith(b"HTTP/1.1 103 Early Hints\r\nLink:"),
    "informational:100": lambda answer, kind: answer.raw.startswith(b"HTTP/1.1 100 Continue\r\n"),
    "informational:102x20": lambda answer, kind: answer.raw.count(b"HTTP/1.1 102 Processing\r\n") == 20,
    "big-headers:9000": status(200, also=lambda answer: answer.header("x-big") == "b" * 9000),
    "big-headers:1000000": status(200, also=lambda answer: len(answer.header("x-big") or "") == 1_000_000),
    "many-headers:1000": status(200, also=lambda answer: answer.header("x-many-999") == "m"),
    "header-value:cr": lambda answer, kind: b"\r\nX-Odd: a\rb\r\n" in answer.raw,
    "header-value:nul": lambda answer, kind: b"\r\nX-Odd: a\0b\r\n" in answer.raw,
    "gzip": decodes(gzip.decompress),
    "br": decodes(unbrotli),
    "zstd": decodes(unzstd),
    "cut-gzip": lambda answer, kind: is_whole(answer) and not zlib_ends(answer.body),
    "wrong-encoding": lambda answer, kind: (
        answer.header("content-encoding") == "gzip" and answer.body.startswith((b"data: {", b"{"))
    ),
    "bomb:8": lambda answer, kind: len(answer.body) < 20_000 and len(gzip.decompress(answer.body)) > 8 << 20,
    "gzip-members:1025": lambda answer, kind: (
        answer.body.count(b"\x1f\x8b\x08") >= 1025 and bool(gzip.decompress(answer.body))
    ),
    "sse-cr": on_streams(lambda body: b"\n" not in body and b"\r\r" in body),
    "sse-lf": on_streams(lambda body: b"\r" not in body and b"\n\n" in body),
    "sse-bom": on_streams(lambda body: body.startswith(b"\xef\xbb\xbfdata: ") and body.count(b"\xef\xbb\xbf") == 1),
    "sse-multiline": on_streams(lambda body: b'}\r\n\r\ndata: {\r\ndata:  "candidates"' in body),
    "sse-comments": on_streams(lambda body: body.count(b": keepalive\r\n\r\n") == 5),
    "sse-unterminated": on_streams(lambda body: body.endswith(b"}")),
    "sse-split-utf8": lambda answer, kind: kind != "sse" or answer.chunks[0].endswith(b"\xe2"),
    "sse-huge:8": on_streams(lambda body: len(body) > 8 << 20),
    "sse-done": on_streams(lambda body: body.endswith(b"data: [DONE]\r\n\r\n")),
    "error-mid-stream:1": lambda answer, kind: (
        answer.status == 200 and is_whole(answer) and b"UNAVAILABLE" in answer.body and b"STOP" not in answer.body
    ),
    "429": status(429, also=lambda answer: answer.header("retry-after") is None),
    "429:30": status(429, also=lambda answer: answer.header("retry-after") == "30"),
    "429:date": status(429, also=lambda answer: str(answer.header("retry-after")).endswith("GMT")),
    "429:garbage": status(429, also=lambda answer: answer.header("retry-after") == "soon-ish"),
    "503": status(503),
    "503:30": status(503, also=lambda answer: answer.header("retry-after") == "30"),
    "529": status(529),
    "echo-key:401": lambda answer, kind: answer.status == 401 and (kind == "upload" or b"test-key" in answer.body),
    "echo-key:403": lambda answer, kind: answer.status == 403 and (kind == "upload" or b"test-key" in answer.body),
    "location-key": lambda answer, kind: answer.status == 302 and "?key=" in str(answer.header("location")),
    "redirect:localhost": status(302, also=lambda answer: "127.0.0.1" in str(answer.header("location"))),
    "redirect:metadata": status(302, also=lambda answer: "169.254.169.254" in str(answer.header("location"))),
    "set-cookie": status(200, also=lambda answer: [n for n, _ in answer.headers].count("Set-Cookie") == 2),
    "early-reply": status(413),
    "captive-portal": status(200, also=lambda answer: answer.body.startswith(b"<!DOCTYPE html>")),
    "trailers": lambda answer, kind: answer.raw.endswith(
        b"\r\n0\r\nX-Checksum: abc123\r\nServer-Timing: late; dur=5\r\n\r\n"
    ),
}


def zlib_ends(data: bytes) -> bool:
    unpacker = zlib.decompressobj(31)
    unpacker.decompress(data)
    return unpacker.eof


PLAYED = [spec for number, specs in CATALOGUE.items() if number != "F29" for spec in specs if spec != "body-on-head"]


def test_every_fault_of_the_catalogue_is_expected_here() -> None:
    assert set(PLAYED) == set(EXPECTED)
    assert {spec.split(":")[0] for specs in CATALOGUE.values() for spec in specs} <= set(FAULTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", PLAYED)
def test_fault(peer: Peer, simulator: Simulator, fault: str, kind: str) -> None:
    patience = {}
    if fault.startswith(("never", "stall", "drip")):
        # Less than the drip's 200 ms, so that its pause reads as silence too.
        patience = {"patience_s": 0.15, "first_s": 0.15 if fault.startswith("never") else 5.0}
    answer = ask(peer, kind, fault, **patience)
    assert EXPECTED[fault](answer, kind), (answer.ended, answer.raw[:2000], len(answer.raw))
    assert simulator.ledger.last.fault == fault


def test_body_on_head(peer: Peer) -> None:
    assert b'"models"' in ask(peer, "json", "body-on-head", method="HEAD").wire_body
    plain = peer.send("/v1beta/models", None, method="HEAD")
    assert (plain.status, plain.wire_body) == (200, b"")


@pytest.mark.parametrize("value", ["lf", "fold", "high", "space"])
def test_other_odd_header_values(peer: Peer, value: str) -> None:
    assert b"\r\nX-Odd: " in ask(peer, "json", f"header-value:{value}").raw


def test_garbage_and_truncation(peer: Peer) -> None:
    assert not ask(peer, "json", "garbage").raw.startswith(b"HTTP/")
    cut = ask(peer, "sse", "truncated")
    assert len(cut.events()) == 4
    assert "finishReason" not in cut.events()[-1]["candidates"][0]


def test_early_reply_comes_before_the_body_is_sent(peer: Peer) -> None:
    with peer.connect() as sock:
        head = request_bytes(UNARY, b"x" * 10, "x-simulator-fault: early-reply")[:-10]
        sock.sendall(head)
        assert read_all(sock).status == 413


def test_unread_body_holds_the_client_back(peer: Peer) -> None:
    with peer.connect() as sock:
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.sendall(request_bytes(UNARY, b"x" * (64 << 20), "x-simulator-fault: never-answer:unread"))


def test_reset_in_a_handshake(peer: Peer, simulator: Simulator) -> None:
    simulator.refuse_connections(1)
    with pytest.raises(ConnectionResetError), peer.connect() as sock:
        ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
    assert peer.send(UNARY, HELLO).status == 200


# Choosing


def test_a_number_of_the_catalogue_is_its_first_variant(peer: Peer, simulator: Simulator) -> None:
    ask(peer, "json", "F7")
    assert simulator.ledger.last.fault == "rst-at:1"


def test_by_the_name_of_a_model(peer: Peer, simulator: Simulator) -> None:
    answer = peer.send("/v1beta/models/sim-rst-at--1.5:streamGenerateContent?alt=sse", LONG)
    assert answer.ended == "rst"
    assert simulator.ledger.last.fault == "rst-at:1.5"
    assert peer.send("/v1beta/models/sim-plain:generateContent", HELLO).status == 200


def test_by_script(peer: Peer, simulator: Simulator) -> None:
    simulator.script("503", where=":generateContent", times=2)
    simulator.script("429", where=lambda request: request.method == "GET")
    statuses = [peer.send(UNARY, HELLO).status for _ in range(3)]
    assert statuses == [503, 503, 200]
    assert [peer.send("/v1beta/models", None, method="GET").status for _ in range(2)] == [429, 200]


def test_unknown_faults(peer: Peer, simulator: Simulator) -> None:
    answer = peer.send(UNARY, HELLO, "x-simulator-fault: nonsense")
    assert answer.status == 400
    assert "nonsense" in answer.json()["error"]["message"]
    with pytest.raises(UnknownFaultError):
        simulator.script("nonsense")


def test_a_fault_leaves_the_connection_of_others_alone(peer: Peer) -> None:
    def without_close(fault: str) -> bytes:
        return request_bytes(UNARY, HELLO, f"x-simulator-fault: {fault}").replace(b"Connection: close\r\n", b"")

    with peer.connect() as kept:
        kept.sendall(without_close("429"))
        first: Any = kept.recv(1 << 20)
        peer.send(UNARY, HELLO, "x-simulator-fault: rst-at:1")
        kept.sendall(request_bytes(UNARY, HELLO))
        assert first.startswith(b"HTTP/1.1 429")
        assert b"HTTP/1.1 200 OK" in read_all(kept).raw
