"""Who may come in: Host and Origin checks, and what browsers of allowed origins are told.

A page of any web site can make a browser call localhost, and a name under its control can resolve to 127.0.0.1 (DNS
rebinding), so every request's Host must be a name this proxy is known by, and a browser's Origin must be allowed. Other
programs send no Origin and are not affected. Judgements are remembered, so a known value costs one look-up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from gemini_caching_proxy.errors import HostNotAllowed

from .http1 import Shape

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
EXPOSED_HEADERS = (
    b"x-goog-upload-url, x-goog-upload-status, x-goog-upload-control-url, x-goog-upload-chunk-granularity, "
    b"x-goog-upload-size-received, server-timing, x-gemini-service-tier, retry-after, proxy-status, "
    b"age, cache-status, x-exchange-id, x-source-exchange-id"
)
_MOST_REMEMBERED = 1024
# `urlsplit` forgives more than a Host may hold.
_HOST_FORM = re.compile(rb"[\w.\-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?", re.ASCII)


class Gate:
    """The allow-lists of one proxy."""

    def __init__(self, *, hosts: Iterable[str], origins: Iterable[str], any_address: bool) -> None:
        """Allow `hosts` and `origins` besides loopback ones; `any_address`: also every literal IP address as Host."""
        self._hosts = LOOPBACK_NAMES | {host.lower().strip("[]") for host in hosts}
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._any_address = any_address
        self._known_hosts: dict[bytes, bool] = {}

    def check(self, shape: Shape) -> bytes:
        """The CORS lines for the answer: empty unless a browser asks.

        Raises:
            HostNotAllowed: the Host or the Origin is not on the list.
        """
        if not self.host_allowed(shape.host):
            raise HostNotAllowed(
                f"Host {shape.host.decode('latin-1')!r} is not one this proxy answers to: "
                "add it to --allowed-hosts / GEMINI_PROXY_ALLOWED_HOSTS."
            )
        if not shape.origin:
            if shape.fetch_site.lower() == b"cross-site":
                raise HostNotAllowed("A page of another site asked for this in a browser, which is refused.")
            return b""
        if not self._origin_allowed(shape.origin):
            raise HostNotAllowed(
                f"Origin {shape.origin.decode('latin-1')!r} may not call this proxy: "
                "add it to --allowed-origins / GEMINI_PROXY_ALLOWED_ORIGINS."
            )
        return b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Expose-Headers: %b\r\nVary: Origin\r\n" % (
            shape.origin,
            EXPOSED_HEADERS,
        )

    def preflight_answer(self, shape: Shape, cors: bytes) -> bytes:
        """The whole answer to a CORS preflight (fetch.spec.whatwg.org, section CORS-preflight fetch)."""
        wanted = shape.preflight_headers or b"content-type, x-goog-api-key, x-goog-api-client, authorization"
        return (
            b"HTTP/1.1 204 No Content\r\n%b"
            b"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
            b"Access-Control-Allow-Headers: %b\r\nAccess-Control-Allow-Private-Network: true\r\n"
            b"Access-Control-Max-Age: 3600\r\nContent-Length: 0\r\n\r\n"
        ) % (cors, wanted)

    def host_allowed(self, host: bytes) -> bool:
        """Whether a Host value (or the authority of a URL) names this proxy."""
        known = self._known_hosts.get(host)
        if known is None:
            known = self._judge_host(host)
            if len(self._known_hosts) >= _MOST_REMEMBERED:
                self._known_hosts.clear()
            self._known_hosts[host] = known
        return known

    def _judge_host(self, host: bytes) -> bool:
        name = _host_name(host)
        if name is None:
            return False
        if name in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or self._any_address
        except ValueError:
            return False

    def _origin_allowed(self, origin: bytes) -> bool:
        text = origin.decode("latin-1").lower()
        if text in self._origins:
            return True
        scheme, _, authority = text.partition("://")
        if scheme == "vscode-webview":
            return True
        return scheme in ("http", "https") and _host_name(authority.encode("latin-1")) in LOOPBACK_NAMES


def _host_name(host: bytes) -> str | None:
    """Lower-case name or address of `name[:port]`; None when it is not of that form."""
    if not _HOST_FORM.fullmatch(host):
        return None
    try:
        parts = urlsplit("//" + host.decode("ascii"))
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment or not parts.hostname:
        return None
    return parts.hostname.lower().rstrip(".")
