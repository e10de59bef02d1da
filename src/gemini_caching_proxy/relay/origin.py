"""Where an upstream is and how to get there: its URL, TLS, and the forward proxy that the environment names."""

from __future__ import annotations

import asyncio
import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from gemini_caching_proxy.errors import ConfigError, ConnectFailed


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to connect."""

    scheme: str
    host: str
    port: int
    base_path: bytes = b""
    host_line: bytes = b""
    """The value of the Host header."""

    @classmethod
    def from_url(cls, url: str) -> Origin:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        authority = host if port == (443 if secure else 80) else f"{host}:{port}"
        return cls(parts.scheme, parts.hostname or "", port, parts.path.rstrip("/").encode(), authority.encode())

    @property
    def authority(self) -> str:
        """Host and, where it is not the scheme's own, port."""
        return self.host_line.decode()

    @property
    def url(self) -> str:
        """Scheme and authority, without the base path."""
        return f"{self.scheme}://{self.authority}"

    def path_of(self, url: bytes) -> bytes | None:
        """Path and query of a URL on this origin, below the base path; None for a URL elsewhere."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == b"https" else 80)
        except ValueError:
            return None
        if (parts.scheme.decode(), (parts.hostname or b"").decode("latin-1"), port) != (
            self.scheme,
            self.host,
            self.port,
        ):
            return None
        rest = url[len(parts.scheme) + 3 + len(parts.netloc) :]
        if self.base_path and rest.startswith(self.base_path + b"/"):
            rest = rest[len(self.base_path) :]
        return rest


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """The HTTP proxy that the environment names for the upstream."""

    host: str
    port: int
    authorization: str | None = field(repr=False)

    @property
    def url(self) -> str:
        """Without its credentials."""
        return f"the proxy http://{self.host}:{self.port}"

    async def open_tunnel(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, origin: Origin) -> None:
        """CONNECT (RFC 9110 section 9.3.6) on a fresh socket."""
        authority = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
        login = f"Proxy-Authorization: {self.authorization}\r\n" if self.authorization else ""
        request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n"
        await loop.sock_sendall(sock, request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            # Byte by byte at the end would be slow, but nothing may be read past the head: TLS begins there.
            data = await loop.sock_recv(sock, 1)
            if not data or len(head) > 16384:
                raise ConnectFailed(f"{self.url} did not answer CONNECT in a way that is understood.")
            head += data
        status = head.split(b"\r\n", 1)[0].split(b" ")
        if len(status) < 2 or len(status[1]) != 3 or not status[1].startswith(b"2"):
            answer = head.split(b"\r\n", 1)[0].decode("latin-1")[:100]
            raise ConnectFailed(f"{self.url} refused to connect to {authority}: {answer}.")


def proxy_for(origin: Origin) -> ForwardProxy | None:
    """What `HTTPS_PROXY` / `HTTP_PROXY` / `NO_PROXY` say about an origin.

    Raises:
        ConfigError: the variable names something other than an HTTP proxy.
    """
    proxies = getproxies_environment()
    url = proxies.get(origin.scheme) or proxies.get("all")
    if not url or proxy_bypass_environment(f"{origin.host}:{origin.port}"):
        return None
    variable = f"{origin.scheme.upper()}_PROXY"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 80
    except ValueError:
        raise ConfigError(f"{variable} is not a URL that can be read.") from None
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(
            f"{variable} must be an http:// URL (got scheme {parts.scheme!r}): "
            "the upstream is reached through it by CONNECT."
        )
    login = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = "Basic " + b64encode(pair.encode()).decode()
    return ForwardProxy(parts.hostname, port, login)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """A verifying client context on the system's trust store, with `ca_file` added.

    Raises:
        ConfigError: the file cannot be read.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"Setting --upstream-ca: {ca_file} cannot be used: {error}.") from None
    return context
