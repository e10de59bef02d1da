"""Upstream URLs, and the forward proxy that the environment names."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.errors import ConfigError
from gemini_caching_proxy.relay.origin import Origin, proxy_for, tls_context


@pytest.mark.parametrize(
    ("url", "host", "port", "base_path", "host_line"),
    [
        ("https://api.example", "api.example", 443, b"", b"api.example"),
        ("https://API.example:443/", "api.example", 443, b"", b"api.example"),
        ("http://api.example:8080/a/b/", "api.example", 8080, b"/a/b", b"api.example:8080"),
        ("http://[::1]:80", "::1", 80, b"", b"[::1]"),
        ("https://[2001:db8::1]:8443", "2001:db8::1", 8443, b"", b"[2001:db8::1]:8443"),
    ],
)
def test_from_url(url: str, host: str, port: int, base_path: bytes, host_line: bytes) -> None:
    origin = Origin.from_url(url)
    assert (origin.host, origin.port, origin.base_path, origin.host_line) == (host, port, base_path, host_line)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (b"https://api.example/base/upload?id=%2F#x", b"/upload?id=%2F#x"),
        (b"https://API.example:443/base/x", b"/x"),
        (b"https://api.example/elsewhere", b"/elsewhere"),
        (b"https://api.example/basement", b"/basement"),
        (b"http://api.example/base/x", None),
        (b"https://api.example:8443/base/x", None),
        (b"https://other.example/base/x", None),
        (b"https://api.example.evil.test/base/x", None),
        (b"https://api.example@evil.test/base/x", None),
        (b"/base/x", None),
        (b"https://[", None),
        (b"https://api.example:port/", None),
        (b"https://\xff/", None),
        (b"", None),
    ],
)
def test_path_of(url: bytes, path: bytes | None) -> None:
    assert Origin.from_url("https://api.example/base").path_of(url) == path


@given(st.binary(max_size=60))
def test_no_url_is_an_error(url: bytes) -> None:
    Origin.from_url("https://api.example").path_of(url)
    Origin.from_url("https://api.example").path_of(b"https://" + url)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://api.example", ("proxy", 3128, None)),
        ({"https_proxy": "proxy:3128"}, "https://api.example", ("proxy", 3128, None)),
        ({"HTTPS_PROXY": "http://proxy"}, "http://api.example", None),
        ({"HTTP_PROXY": "http://proxy"}, "http://api.example", ("proxy", 80, None)),
        ({"ALL_PROXY": "http://proxy:1"}, "https://api.example", ("proxy", 1, None)),
        ({"HTTPS_PROXY": "http://u:p%40@proxy:1"}, "https://api.example", ("proxy", 1, "Basic dTpwQA==")),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "other,.example"}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "*"}, "https://api.example", None),
    ],
)
def test_proxy_for(
    variables: dict[str, str], url: str, expected: tuple[str, int, str | None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(Origin.from_url(url))
    assert (proxy and (proxy.host, proxy.port, proxy.authorization)) == expected
    assert "dTpwQA" not in repr(proxy)


@pytest.mark.parametrize("value", ["socks5://proxy:1", "https://proxy", "http://proxy:port", "http://["])
def test_proxy_that_cannot_be_used(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        proxy_for(Origin.from_url("https://api.example"))


def test_tls_context(tmp_path: Path) -> None:
    context = tls_context(None)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    for content in ("no certificate", None):
        file = tmp_path / "ca.pem"
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        with pytest.raises(ConfigError, match="--upstream-ca"):
            tls_context(str(file))
