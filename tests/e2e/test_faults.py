"""The fault catalogue, against a unary call, a stream and an upload: what the client sees and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind, Response
from gemini_caching_proxy.simulator import CATALOGUE, SimulatorThread
from wire import GENERATE, STREAM, Answered, Client, Closed

from .serving import ProxyProcess

pytestmark = pytest.mark.slow

KINDS = ("json", "sse", "upload")
UPLOAD_BODY = bytes(range(256)) * 1200
PROMPT = json.dumps(
    {"contents": [{"role": "user", "parts": [{"text": "Tell me about relays, at some length."}]}]}
).encode()
# Shorter than the catalogue's own, which would take minutes.
FAULTS = [
    {"drip:200": "drip:1"}.get(fault, fault)
    for number, faults in CATALOGUE.items()
    if number != "F29"
    for fault in faults
]

NO_ANSWER = {
    "rst-before-head": (502, b"connection_terminated", FailureKind.UPSTREAM_CLOSED),
    "fin-before-head": (502, b"connection_terminated", FailureKind.UPSTREAM_CLOSED),
    "never-answer": (504, b"connection_read_timeout", FailureKind.READ_TIMEOUT),
    "lf-only": (502, b"http_protocol_error", FailureKind.MALFORMED_RESPONSE),
    "cl-te": (502, b"http_protocol_error", FailureKind.MALFORMED_RESPONSE),
    "two-lengths": (502, b"http_protocol_error", FailureKind.MALFORMED_RESPONSE),
    "informational:102x20": (502, b"http_protocol_error", FailureKind.MALFORMED_RESPONSE),
    "header-value:cr": (502, b"http_protocol_error", FailureKind.MALFORMED_RESPONSE),
    "header-value:nul": (502, b"http_protocol_error", FailureKind.MALFORMED_RESPONSE),
}
"""Faults before a head: the client gets an error of ours."""

HALF_AN_ANSWER = {
    "stall-after-head": FailureKind.READ_TIMEOUT,
    "stall-at": FailureKind.READ_TIMEOUT,
    "rst-at": FailureKind.INCOMPLETE_RESPONSE,
    "fin-at:1,chunked": FailureKind.INCOMPLETE_RESPONSE,
    "fin-at:1.5,chunked": FailureKind.INCOMPLETE_RESPONSE,
    "fin-at:1,length": FailureKind.INCOMPLETE_RESPONSE,
    "long-length": FailureKind.INCOMPLETE_RESPONSE,
    "bad-chunk-size": FailureKind.MALFORMED_RESPONSE,
    "missing-chunk-crlf": FailureKind.MALFORMED_RESPONSE,
}
"""Faults after a head: the client sees a body that is visibly cut."""


def of_fault(table: dict[str, object], fault: str) -> object | None:
    """The entry for the whole name, else for the name without its argument."""
    return table.get(fault, table.get(fault.partition(":")[0]))


@dataclass
class Played:
    """What came of one call, through the proxy and straight from the simulator."""

    answered: Answered
    direct: Answered | None
    next_bodies: list[bytes] = field(default_factory=list)


def request(kind: str, fault: str | None, name: str, upload: bytes = b"") -> bytes:
    lines = b"Host: 127.0.0.1\r\nx-goog-api-key: key-of-a-test-client\r\nUser-Agent: %b\r\n" % name.encode()
    if fault is not None:
        lines += b"x-simulator-fault: %b\r\n" % fault.encode()
    if kind == "upload":
        lines += b"X-Goog-Upload-Command: upload, finalize\r\nX-Goog-Upload-Offset: 0\r\n"
        return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (upload, lines, len(UPLOAD_BODY), UPLOAD_BODY)
    target = STREAM if kind == "sse" else GENERATE
    head = b"POST %b HTTP/1.1\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (target, lines, len(PROMPT)) + PROMPT


def begin_upload(port: int, name: str) -> bytes:
    """Begin a resumable upload; where its bytes go (path and query)."""
    lines = (
        b"POST /upload/v1beta/files HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nx-goog-api-key: key-of-a-test-client\r\n"
        b"User-Agent: begin-%b\r\nX-Goog-Upload-Protocol: resumable\r\nX-Goog-Upload-Command: start\r\n"
        b"X-Goog-Upload-Header-Content-Length: %d\r\nX-Goog-Upload-Header-Content-Type: image/png\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    ) % (port, name.encode(), len(UPLOAD_BODY))
    with Client(port) as client:
        url = client.ask(lines).header(b"x-goog-upload-url") or b""
    assert url.startswith(b"http://127.0.0.1:%d/" % port), url
    return url[url.index(b"/", 8) :]


def call(port: int, kind: str, fault: str, name: str, *, go_on: bool) -> Played:
    """One call; with `go_on` another one on the same connection, where it can be used again."""
    upload = begin_upload(port, name) if kind == "upload" else b""
    head_only = fault == "body-on-head"
    message = request(kind, fault, name, upload)
    if head_only:
        message = message.replace(b"POST", b"HEAD", 1)
    with Client(port) as client:
        try:
            client.send(message)
        except OSError:
            assert fault == "early-reply", "the proxy took the whole request"
        played = Played(client.answer(head_only=head_only), None)
        if (
            go_on
            and played.answered.complete
            and played.answered.header(b"connection") is None
            and fault != "early-reply"
        ):
            try:
                played.next_bodies.append(client.ask(request("json", None, "next-" + name)).body)
            except (Closed, OSError):
                played.next_bodies.append(b"the connection was closed")
    return played


CELLS = [(fault, kind) for fault in FAULTS for kind in KINDS]


@dataclass
class Outcome:
    played: dict[tuple[str, str], Played]
    recorded: dict[str, Exchange]
    good: bytes
    log: str


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """All cells, a few at a time."""
    folder = tmp_path_factory.mktemp("faults")
    limits = {"first_byte_timeout": 0.7, "idle_timeout": 0.7, "upstream_keepalive": 60}
    with SimulatorThread() as simulator, ProxyProcess(folder, upstream=simulator.url, **limits) as proxy:

        def cell(one: tuple[str, str]) -> Played:
            fault, kind = one
            played = call(proxy.port, kind, fault, f"{fault} {kind}", go_on=True)
            if of_fault(NO_ANSWER, fault) is None and of_fault(HALF_AN_ANSWER, fault) is None:
                played.direct = call(simulator.port, kind, fault, f"direct {fault} {kind}", go_on=False).answered
            with Client(proxy.port) as client:
                played.next_bodies.append(client.ask(request("json", None, "after")).body)
            return played

        with Client(simulator.port) as client:
            good = client.ask(request("json", None, "good")).body
        with Client(proxy.port) as client:
            client.ask(request("json", None, "warm"))
        with ThreadPoolExecutor(8) as threads:
            played = dict(zip(CELLS, threads.map(cell, CELLS), strict=True))
        recorded = {exchange.user_agent or "": exchange for exchange in proxy.exchanges()}
        yield Outcome(played, recorded, good, proxy.log)


def test_nothing_was_raised(outcome: Outcome) -> None:
    assert "Traceback" not in outcome.log


@pytest.mark.parametrize(("fault", "kind"), CELLS)
def test_client_sees(fault: str, kind: str, outcome: Outcome) -> None:
    played = outcome.played[fault, kind]
    answered, direct = played.answered, played.direct
    if expected := NO_ANSWER.get(fault) or NO_ANSWER.get(fault.partition(":")[0]):
        status, token, _ = expected
        assert answered.status == status
        assert answered.complete
        assert answered.header(b"proxy-status") == b"gemini-proxy; error=" + token
        assert json.loads(answered.body)["error"]["code"] == status
    elif direct is None:
        assert answered.status == 200
        assert not answered.complete, "never a clean end"
    else:
        assert answered.status == direct.status
        if kind != "upload":
            # The answer to an upload has a new name and time in it each time.
            assert answered.body == direct.body
        assert answered.complete == direct.complete
        assert answered.all(b"set-cookie") == direct.all(b"set-cookie")
        assert answered.trailers == direct.trailers
        assert [each.status for each in answered.interims] == [
            each.status for each in direct.interims if each.status != 100
        ]


@pytest.mark.parametrize(("fault", "kind"), CELLS)
def test_the_next_request_is_not_touched(fault: str, kind: str, outcome: Outcome) -> None:
    assert set(outcome.played[fault, kind].next_bodies) == {outcome.good}


@pytest.mark.parametrize(("fault", "kind"), CELLS)
def test_record_says(fault: str, kind: str, outcome: Outcome) -> None:
    played, exchange = outcome.played[fault, kind], outcome.recorded[f"{fault} {kind}"]
    if fault != "early-reply":
        assert exchange.request_body.data == (UPLOAD_BODY if kind == "upload" else PROMPT)
    if expected := NO_ANSWER.get(fault) or NO_ANSWER.get(fault.partition(":")[0]):
        assert isinstance(exchange.outcome, Failure)
        assert exchange.outcome.kind == expected[2]
        assert exchange.outcome.served_status == expected[0]
        assert exchange.outcome.detail
        assert exchange.outcome.partial is None
    elif kind_of_failure := of_fault(HALF_AN_ANSWER, fault):
        assert isinstance(exchange.outcome, Failure)
        assert exchange.outcome.kind == kind_of_failure
        assert exchange.outcome.partial is not None
        assert exchange.outcome.partial.body.data == played.answered.body, "what the client got is kept"
        assert exchange.outcome.served_status is None
    else:
        assert isinstance(exchange.outcome, Response)
        assert exchange.outcome.status == played.answered.status
        assert exchange.outcome.body.size == len(played.answered.body)
        if not exchange.outcome.body.redacted:
            assert exchange.outcome.body.data == played.answered.body
