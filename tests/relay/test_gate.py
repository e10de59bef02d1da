"""Who may come in."""

from __future__ import annotations

import pytest

from gemini_caching_proxy.errors import HostNotAllowed
from gemini_caching_proxy.relay.gate import Gate
from gemini_caching_proxy.relay.http1 import Shape


def shape(host: str, *, origin: str = "", fetch_site: str = "", wanted: str = "") -> Shape:
    made = Shape(b"POST", b"/", 1, ())
    made.host, made.origin, made.fetch_site = host.encode("latin-1"), origin.encode("latin-1"), fetch_site.encode()
    made.preflight_headers = wanted.encode()
    return made


def gate(*, any_address: bool = False) -> Gate:
    return Gate(hosts=["127.0.0.1", "Proxy.Example"], origins=["https://app.example"], any_address=any_address)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:80", "127.8.9.1:1", "[::1]", "[::1]:8000", "proxy.example",
     "proxy.example.:8000"],
)  # fmt: skip
def test_our_names(host: str) -> None:
    assert gate().check(shape(host)) == b""


@pytest.mark.parametrize(
    "host",
    ["evil.test", "evil.test:8000", "localhost.evil.test", "127.0.0.1.evil.test", "", "localhost:x", "localhost:99999",
     "user@localhost", "localhost/x", "localhost?x", "[::1", "10.0.0.1", "0x7f.1.evil", "l\xf6calhost", "localhost\t"],
)  # fmt: skip
def test_foreign_names(host: str) -> None:
    one = gate()
    for _ in range(2):  # judged, then remembered
        with pytest.raises(HostNotAllowed, match="--allowed-hosts"):
            one.check(shape(host))


def test_addresses_when_other_machines_may_come() -> None:
    assert gate(any_address=True).check(shape("10.0.0.1:8000")) == b""
    with pytest.raises(HostNotAllowed):
        gate(any_address=True).check(shape("evil.test"))


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:3000", "https://localhost", "http://127.0.0.1:5173", "http://[::1]:1", "https://app.example",
     "vscode-webview://1b2c"],
)  # fmt: skip
def test_browsers_of_allowed_origins_are_told_so(origin: str) -> None:
    lines = gate().check(shape("localhost", origin=origin, fetch_site="cross-site"))
    assert b"Access-Control-Allow-Origin: " + origin.encode() + b"\r\n" in lines
    assert b"*" not in lines
    assert b"Vary: Origin\r\n" in lines


@pytest.mark.parametrize(
    "origin",
    ["https://evil.test", "null", "http://localhost.evil.test", "https://app.example.evil.test", "file://", "x"],
)
def test_other_pages_are_refused(origin: str) -> None:
    with pytest.raises(HostNotAllowed, match="--allowed-origins"):
        gate().check(shape("localhost", origin=origin))


@pytest.mark.parametrize(
    ("site", "refused"), [("cross-site", True), ("same-origin", False), ("none", False), ("", False)]
)
def test_pages_that_send_no_origin(site: str, refused: bool) -> None:
    if refused:
        with pytest.raises(HostNotAllowed):
            gate().check(shape("localhost", fetch_site=site))
    else:
        assert gate().check(shape("localhost", fetch_site=site)) == b""


def test_preflight() -> None:
    asked = shape("localhost", origin="http://localhost:3000", wanted="x-goog-api-key,x-custom")
    answer = gate().preflight_answer(asked, gate().check(asked))
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert b"Access-Control-Allow-Headers: x-goog-api-key,x-custom\r\n" in answer
    assert answer.endswith(b"Content-Length: 0\r\n\r\n")
