"""A head that is known is only ever taken for what the parser made of the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.relay.downstream import ClientConnection, Downstream
from gemini_caching_proxy.relay.http1 import REQUEST_KINDS, FieldTable, Limits, Request, ShapeTable


class Seen:
    """Takes requests as a reception would, and answers none."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def start(self, client: ClientConnection, request: Request) -> Any:
        self.requests.append(request)
        return self

    def client_data(self) -> None:
        pass


class Wire:
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        pass


def downstream(seen: Seen) -> Downstream:
    limits = Limits(max_header_bytes=65536, max_header_fields=100, max_target_bytes=8192)
    return Downstream(
        seen.start,
        FieldTable(REQUEST_KINDS, lambda name, value: value),
        ShapeTable(limits),
        max_connections=1000,
        header_timeout=10,
        body_timeout=10,
        keepalive_timeout=10,
        write_timeout=10,
    )


def read(shared: Downstream, seen: Seen, data: bytes) -> tuple[Any, ...]:
    """What a fresh connection makes of data that comes in one read."""
    seen.requests.clear()
    connection, wire = shared.connection(), Wire()
    connection.connection_made(wire)  # type: ignore[arg-type]
    connection.data_received(data)
    told = [
        (
            request.shape.method,
            request.shape.target,
            request.shape.host,
            request.shape.keep_alive,
            [field.line for field in request.shape.fields if field.number],
            request.length and request.length.line,
            request.complete,
            b"".join(request.pieces),
        )
        for request in seen.requests
        if request.shape is not None
    ]
    return told, wire.sent


def message(fields: list[str], body: bytes, target: str = "/v1beta/models/m:generateContent") -> bytes:
    return (
        f"POST {target} HTTP/1.1\r\n".encode() + "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n" + body
    )


def test_a_known_head_is_not_parsed_again() -> None:
    seen = Seen()
    shared = downstream(seen)
    first = read(shared, seen, message(["Host: localhost", "Content-Length: 5"], b"hello"))
    assert repr(shared.heads) == "<KnownHeads 1>"
    shape = seen.requests[0].shape
    second = read(shared, seen, message(["Host: localhost", "Content-Length: 11"], b"hello again"))
    assert seen.requests[0].shape is shape
    assert second[0][0][-1] == b"hello again"
    assert first[0][0][:5] == second[0][0][:5]


FIELDS = st.lists(
    st.sampled_from(
        ["Host: localhost", "Host: other", "Content-Length: 5", "content-length: 5", "CONTENT-LENGTH: 5",
         "Content-Length: 05", "Content-Length: +5", "Content-Length: 5 ", "Content-Length:5", "Content-Length: 5, 5",
         "Content-Length: 0", "Content-Length: 3", "Content-Length: 12345678901234567890", "Transfer-Encoding: chunked",
         "Connection: close", "Connection: keep-alive", "Connection: Content-Length", "X-Note: Content-Length: 5",
         "Upgrade: h2c", "Expect: 100-continue", "x-goog-api-key: AQ.one", "x-goog-api-key: AQ.two", "Bad : x", " fold"]
    ),
    max_size=5,
)  # fmt: skip
BODIES = st.sampled_from(
    [b"", b"hello", b"abc", b"hel", b"helloGET / HTTP/1.1\r\nHost: x\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"]
)


@given(st.lists(st.tuples(FIELDS, BODIES), min_size=1, max_size=8))
def test_knowing_heads_changes_nothing(messages: list[tuple[list[str], bytes]]) -> None:
    """Against a downstream that has seen nothing: whatever came before, the same bytes are taken the same way."""
    seen, fresh_seen = Seen(), Seen()
    shared = downstream(seen)
    for fields, body in messages:
        data = message(["Host: localhost", *fields] if len(body) % 2 else fields, body)
        fresh = downstream(fresh_seen)
        expected = read(fresh, fresh_seen, data)
        for _ in range(2):
            assert read(shared, seen, data) == expected


@pytest.mark.parametrize("odd", ["5\r\n", "5\rX: y", "5;", "0x5", "5\x00", "٥"])
def test_lengths_that_are_no_digits_are_left_to_the_parser(odd: str) -> None:
    seen = Seen()
    shared = downstream(seen)
    read(shared, seen, message(["Host: localhost", "Content-Length: 5"], b"hello"))
    fresh_seen = Seen()
    data = message(["Host: localhost", f"Content-Length: {odd}"], b"hello")
    assert read(shared, seen, data) == read(downstream(fresh_seen), fresh_seen, data)
