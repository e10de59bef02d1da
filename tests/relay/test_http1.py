"""What fields mean, what a head may be, and how heads are written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy import errors
from gemini_caching_proxy.relay.http1 import (
    MOST_REMEMBERED_BYTES,
    REQUEST_KINDS,
    RESPONSE_KINDS,
    FieldTable,
    Kind,
    Limits,
    Request,
    ShapeTable,
    connection_named,
    error_message,
    forwarded_fields,
    json_message,
    rebuild_head,
    trailer_section,
)

LIMITS = Limits(max_header_bytes=4096, max_header_fields=16, max_target_bytes=256)


def fields(*pairs: tuple[bytes, bytes], table: FieldTable | None = None) -> list:  # type: ignore[type-arg]
    table = table if table is not None else FieldTable(REQUEST_KINDS, lambda name, value: value)
    return [table[pair] for pair in pairs]


def settled(
    *pairs: tuple[bytes, bytes], method: bytes = b"POST", version: str = "1.1", target: bytes = b"/"
) -> Request:
    request = Request()
    request.target = target
    request.fields = fields((b"Host", b"localhost"), *pairs)
    size = sum(len(field.line) for field in request.fields)
    ShapeTable(LIMITS).settle(request, method, version, True, size)
    return request


def test_equal_fields_are_one_object() -> None:
    table = FieldTable(REQUEST_KINDS, lambda name, value: b"<" + value + b">")
    first, second = fields((b"X-A", b"1"), (b"X-A", b"1"), table=table)
    assert first is second
    assert first.line == b"X-A: 1\r\n"
    assert first.recorded == (b"X-A", b"<1>")


def test_the_table_is_bounded_in_number_and_size() -> None:
    table = FieldTable(REQUEST_KINDS, lambda name, value: value, most=10)
    numbers = {table[b"X", b"%d" % value].number for value in range(100)}
    assert len(numbers) == 100
    assert len(table) <= 10
    before = len(table)
    assert table[b"X", b"v" * 2000].number != table[b"X", b"v" * 2000].number, "a long one is not remembered"
    assert len(table) == before


def test_what_fields_mean() -> None:
    table = FieldTable(REQUEST_KINDS, lambda name, value: value)
    assert table[b"CONNECTION", b"Keep-Alive"].kind == Kind.DROP
    assert table[b"Connection", b"X-Hop"].kind == Kind.CONNECTION
    assert table[b"content-LENGTH", b"5"].number == table[b"Content-Length", b"6"].number == 0
    assert FieldTable(RESPONSE_KINDS, lambda name, value: value)[b"Alt-Svc", b"h3"].kind == Kind.DROP


def test_shapes_of_large_heads_are_not_remembered() -> None:
    """Otherwise a stranger fills the memory with heads that never come again."""
    table = ShapeTable(Limits(max_header_bytes=1 << 20, max_header_fields=99, max_target_bytes=1 << 20), most=50)
    for number in range(200):
        request = Request()
        request.target = b"/%d" % number + b"x" * (MOST_REMEMBERED_BYTES if number % 2 else 0)
        request.fields = fields((b"Host", b"localhost"))
        table.settle(request, b"GET", "1.1", True, 100)
        assert request.shape is not None
    assert len(table._shapes) <= 50
    assert all(len(shape.target) < 10 for shape in table._shapes.values())


def test_requests_of_one_shape_differ_in_their_length_alone() -> None:
    table, known = ShapeTable(LIMITS), FieldTable(REQUEST_KINDS, lambda name, value: value)
    requests = []
    for size in (b"5", b"70000"):
        request = Request()
        request.target = b"/"
        request.fields = fields((b"Host", b"localhost"), (b"Content-Length", size), table=known)
        # The bound includes what came of the body; the head is small all the same.
        table.settle(request, b"POST", "1.1", True, 100_000)
        requests.append(request)
    assert requests[0].shape is requests[1].shape
    assert [request.announced_size for request in requests] == [5, 70000]


@pytest.mark.parametrize(
    ("error", "arguments", "pairs"),
    [
        (errors.MalformedRequest, {}, [(b"Host", b"localhost")]),
        (errors.MalformedRequest, {}, [(b"Transfer-Encoding", b"gzip, chunked")]),
        (errors.MalformedRequest, {"version": "1.0"}, [(b"Transfer-Encoding", b"chunked")]),
        (errors.VersionRefused, {"version": "2.0"}, []),
        (errors.VersionRefused, {"version": "0.9"}, []),
        (errors.MethodRefused, {"method": b"CONNECT"}, []),
        (errors.MethodRefused, {"method": b"DESCRIBE"}, []),
        (errors.UriTooLong, {"target": b"/" + b"a" * 256}, []),
        (errors.HeadersTooLarge, {}, [(b"X-A", b"a" * 5000)]),
        (errors.HeadersTooLarge, {}, [(b"X-%d" % number, b"") for number in range(16)]),
    ],
)
def test_refused_heads(error: type[Exception], arguments: dict[str, object], pairs: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(error):
        settled(*pairs, **arguments)  # type: ignore[arg-type]


def test_websocket_needs_all_of_its_handshake() -> None:
    upgrade, connection = (b"Upgrade", b"WebSocket"), (b"Connection", b"keep-alive, Upgrade")
    for pairs, method, version, expected in [
        ([upgrade, connection], b"GET", "1.1", True),
        ([upgrade], b"GET", "1.1", False),
        ([upgrade, connection], b"POST", "1.1", False),
        ([upgrade, connection], b"GET", "1.0", False),
        ([(b"Upgrade", b"h2c"), connection], b"GET", "1.1", False),
        ([upgrade, connection, (b"Transfer-Encoding", b"chunked")], b"GET", "1.1", False),
    ]:
        shape = settled(*pairs, method=method, version=version).shape
        assert shape is not None
        assert shape.websocket is expected


def test_rebuilt_head_offers_no_upgrade_and_keeps_the_rest() -> None:
    request = settled(
        (b"Connection", b"Upgrade, HTTP2-Settings, X-Hop"), (b"Upgrade", b"h2c"), (b"X-Hop", b"1"), (b"X-A", b"a"),
        version="1.0",
    )  # fmt: skip
    assert rebuild_head(request) == (
        b"POST / HTTP/1.0\r\nHost: localhost\r\nX-Hop: 1\r\nX-A: a\r\nConnection: http2-settings, x-hop\r\n\r\n"
    )


def test_named_fields() -> None:
    assert connection_named((b"close, X-A", b" x-b ,Keep-Alive,", b"Host, Content-Length")) == {b"x-a", b"x-b"}


def test_a_credential_passes_once() -> None:
    line = (b"x-goog-api-key", b"secret")
    shape = settled(line, line, (b"Authorization", b"Bearer other"), (b"X-A", b"a")).shape
    assert shape is not None
    passing = forwarded_fields(shape, (b"x-goog-api-key: secret\r\n",))
    assert [field.recorded[0] for field in passing] == [b"x-goog-api-key", b"X-A"]
    assert [field.recorded[0] for field in forwarded_fields(shape, ())] == [b"X-A"]


@given(st.lists(st.tuples(st.sampled_from([b"Host", b"x-goog-api-key", b"TE", b"X-A", b"X-B"]), st.just(b"v"))))
def test_trailers_that_may_pass(pairs: list[tuple[bytes, bytes]]) -> None:
    section = trailer_section(pairs)
    assert section.startswith(b"0\r\n")
    assert section.endswith(b"\r\n")
    assert section[3:-2] == b"".join(b"%b: %b\r\n" % pair for pair in pairs if pair[0].startswith(b"X-"))


def test_error_message() -> None:
    message = error_message(errors.ConnectFailed("It failed."), extra=b"X-A: a\r\n", close=True)
    head, _, body = message.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 502 Bad Gateway"
    assert b"Content-Length: %d" % len(body) in lines
    assert b"Proxy-Status: gemini-proxy; error=connection_refused" in lines
    assert {b"Connection: close", b"X-A: a"} <= set(lines)
    assert json.loads(body)["error"]["message"] == "It failed."
    assert (
        error_message(errors.ConnectFailed("It failed."), extra=b"X-A: a\r\n", close=True, head_only=True)
        == head + b"\r\n\r\n"
    )


def test_json_message() -> None:
    head, _, body = json_message(503, {"status": "no"}).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert json.loads(body) == {"status": "no"}
    assert json_message(503, {"status": "no"}, head_only=True) == head + b"\r\n\r\n"
