"""TLS on both sides, forward proxies, IPv6, and names that do not resolve."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gemini_caching_proxy.exchange import FailureKind
from wire import CHUNKED, STREAM, Answered, Client, Peer, ScriptedUpstream, ask, chunk, plain_answer, post, respond

from .serving import ProxyProcess, wait_for

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
        ca = self._built(self._name, self._key, [x509.BasicConstraints(ca=True, path_length=0)])
        self.file = folder / "ca.pem"
        self.file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    def _built(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extensions: list[x509.ExtensionType],
        *, ends: datetime.datetime = NOW + DAY, own: bool = False,
    ) -> x509.Certificate:  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if own else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(ends - 30 * DAY)
            .not_valid_after(ends)
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = key if own else self._key
        extensions = [*extensions, identifier, x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())]
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(issuer, hashes.SHA256())

    def certificate(
        self, *names: str, ends: datetime.datetime = NOW + DAY, own: bool = False, file: str = "server"
    ) -> tuple[Path, Path]:
        """Chain and key, as files. `own`: signed by itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        made = self._built(subject, key, [x509.SubjectAlternativeName(alternatives)], ends=ends, own=own)
        chain_file, key_file = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        chain_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return chain_file, key_file


def server_context(chain_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain_file, key_file)
    return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def check_tls_failure(answered: Answered, *words: str) -> None:
    assert answered.status == 502
    assert answered.header(b"proxy-status") == b"gemini-proxy; error=tls_protocol_error"
    message = json.loads(answered.body)["error"]["message"]
    assert message.endswith(".")
    for word in words:
        assert word in message


def test_upstream_with_a_trusted_certificate(authority: Authority, tmp_path: Path) -> None:
    context = server_context(*authority.certificate("localhost", "127.0.0.1"))

    def stream(peer: Peer) -> None:
        while True:
            asked = peer.request()
            peer.send(respond(asked.body) if b"sse" not in asked.target else CHUNKED + chunk(b"data") + b"0\r\n\r\n")

    with (
        ScriptedUpstream(stream, tls=context) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, upstream_ca=authority.file) as proxy,
    ):
        with Client(proxy.port) as client:
            for _ in range(3):
                assert client.ask(post(body=b"x" * 300_000)).body == b"x" * 300_000
            assert client.ask(post(STREAM)).chunks == [b"data"]
        assert len({id(asked.peer) for asked in upstream.requests}) == 1, "TLS connections are reused"
        assert isinstance(upstream.requests[0].peer.sock, ssl.SSLSocket)


def speak_http(peer: Peer) -> None:
    """Answer whatever comes as a server without TLS does."""
    peer.more()
    peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    peer.watch()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("expired", ["expired"]),
        ("wrong host", ["127.0.0.1"]),
        ("self-signed", ["self-signed"]),
        ("unknown authority", ["certificate"]),
        ("no TLS", []),
    ],
)
def test_upstream_that_cannot_be_trusted(kind: str, words: list[str], authority: Authority, tmp_path: Path) -> None:
    names = ["other.example"] if kind == "wrong host" else ["127.0.0.1"]
    ends = NOW - DAY if kind == "expired" else NOW + DAY
    pair = authority.certificate(*names, ends=ends, own=kind == "self-signed", file=kind.replace(" ", "-"))
    context = None if kind == "no TLS" else server_context(*pair)
    script = speak_http if kind == "no TLS" else plain_answer
    settings = {} if kind == "unknown authority" else {"upstream_ca": authority.file}
    with (
        ScriptedUpstream(script, tls=context) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url.replace("http:", "https:"), **settings) as proxy,
    ):
        with Client(proxy.port) as client:
            check_tls_failure(client.ask(post()), *words)
        (exchange,) = proxy.exchanges(1)
        assert exchange.failure is not None
        assert exchange.failure.kind == FailureKind.TLS_ERROR
        assert exchange.failure.served_status == 502
        assert upstream.requests == [], "no key went to a stranger"


def test_reset_in_the_handshake(tmp_path: Path) -> None:
    def reset(peer: Peer) -> None:
        peer.more()
        peer.rst()

    with (
        ScriptedUpstream(reset) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url.replace("http:", "https:")) as proxy,
    ):
        answered = ask(proxy.port, post())
        assert answered.status == 502
        (exchange,) = proxy.exchanges(1)
        assert exchange.failure is not None


@pytest.mark.parametrize("end", ["whole", "cut"])
def test_end_of_a_body_that_has_no_other_end(end: str, authority: Authority, tmp_path: Path) -> None:
    """Over TLS only a close_notify ends it; a bare FIN may be an attacker's."""
    context = server_context(*authority.certificate("127.0.0.1"))

    def until_close(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        assert isinstance(peer.sock, ssl.SSLSocket)
        if end == "whole":
            with contextlib.suppress(OSError):
                peer.sock.unwrap()
        else:
            socket.socket(fileno=peer.sock.detach()).close()

    with (
        ScriptedUpstream(until_close, tls=context) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, upstream_ca=authority.file) as proxy,
    ):
        answered = ask(proxy.port, post())
        assert answered.body == b"half"
        assert answered.complete == (end == "whole")


def test_listener_with_tls(authority: Authority, tmp_path: Path) -> None:
    chain_file, key_file = authority.certificate("127.0.0.1", file="listener")

    def answer(peer: Peer) -> None:
        while True:
            asked = peer.request()
            peer.send(respond(asked.body, headers=b"X-Goog-Upload-URL: %b/u\r\n" % peer.upstream.url.encode()))

    with (
        ScriptedUpstream(answer) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, tls_cert=chain_file, tls_key=key_file) as proxy,
    ):
        assert proxy.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(authority.file))
        context.set_alpn_protocols(["h2", "http/1.1"])
        with Client(proxy.port, tls=context) as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            assert client.sock.selected_alpn_protocol() == "http/1.1"
            for _ in range(3):
                answered = client.ask(post(body=b"y" * 200_000))
                assert answered.body == b"y" * 200_000
                assert answered.header(b"x-goog-upload-url") == b"https://127.0.0.1/u"
            refused = client.ask(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
            assert refused.status == 403
        with Client(proxy.port) as plain:
            plain.send(post())
            plain.ended()
        with Client(proxy.port, tls=context) as after:
            assert after.ask(post()).status == 200
        assert "Traceback" not in proxy.log


def test_client_that_leaves_over_tls(authority: Authority, tmp_path: Path) -> None:
    chain_file, key_file = authority.certificate("127.0.0.1", file="listener")

    def stall(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunk(b"data"))
        peer.watch(60)

    with (
        ScriptedUpstream(stall) as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, tls_cert=chain_file, tls_key=key_file) as proxy,
    ):
        client = Client(proxy.port, tls=ssl.create_default_context(cafile=str(authority.file)))
        client.send(post(STREAM))
        client.until(b"data\r\n")
        client.rst()
        wait_for(lambda: upstream.requests[0].peer.ended_at, 2, "the upstream call to end")


# Forward proxies


@dataclass
class ConnectProxy:
    """A forward proxy that knows CONNECT and nothing else."""

    status: bytes = b"200 Connection established"
    login: str | None = None
    asked: list[bytes] = field(default_factory=list)
    logins: list[bytes | None] = field(default_factory=list)

    def __call__(self, peer: Peer) -> None:
        asked = peer.request_head()
        self.asked.append(asked.line)
        given = asked.header(b"proxy-authorization")
        self.logins.append(given)
        if self.login is not None and given != b"Basic " + base64.b64encode(self.login.encode()):
            peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
            return
        peer.send(b"HTTP/1.1 %b\r\nVia: test\r\n\r\n" % self.status)
        if not self.status.startswith(b"2"):
            return
        host, _, port = asked.target.rpartition(b":")
        with socket.create_connection((host.decode().strip("[]"), int(port)), 5) as onward:
            other = threading.Thread(target=pump, args=(onward, peer.sock), daemon=True)
            other.start()
            pump(peer.sock, onward)
            other.join(5)


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def secure_upstream(authority: Authority) -> Iterator[ScriptedUpstream]:
    context = server_context(*authority.certificate("127.0.0.1", file="secure"))
    with ScriptedUpstream(plain_answer, tls=context) as upstream:
        yield upstream


@pytest.mark.parametrize("login", [None, "user:p@ss"])
def test_through_a_proxy(
    login: str | None, authority: Authority, secure_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    connect = ConnectProxy(login=login)
    with ScriptedUpstream(connect) as forward:
        user = "user:p%40ss@" if login else ""
        environment = {"HTTPS_PROXY": f"http://{user}127.0.0.1:{forward.port}"}
        with ProxyProcess(
            tmp_path, upstream=secure_upstream.url, upstream_ca=authority.file, environment=environment
        ) as proxy:
            with Client(proxy.port) as client:
                for _ in range(3):
                    assert client.ask(post()).body == b"ok"
            assert connect.asked == [b"CONNECT 127.0.0.1:%d HTTP/1.1" % secure_upstream.port]
            assert "p@ss" not in proxy.log
            assert "p%40ss" not in proxy.log


@pytest.mark.parametrize(
    ("status", "login"), [(b"403 Forbidden", None), (b"502 Bad Gateway", None), (b"200 OK", "user:other")]
)
def test_proxy_that_refuses(
    status: bytes, login: str | None, authority: Authority, secure_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ScriptedUpstream(ConnectProxy(status=status, login=login)) as forward:
        environment = {"https_proxy": f"http://127.0.0.1:{forward.port}"}
        with ProxyProcess(
            tmp_path, upstream=secure_upstream.url, upstream_ca=authority.file, environment=environment
        ) as proxy:
            answered = ask(proxy.port, post())
            assert answered.status == 502
            message = json.loads(answered.body)["error"]["message"]
            assert f"http://127.0.0.1:{forward.port}" in message
            assert ("407" if login else status[:3].decode()) in message
            (exchange,) = proxy.exchanges(1)
            assert exchange.failure is not None
            assert exchange.failure.kind == FailureKind.CONNECT_FAILED


def test_no_proxy(authority: Authority, secure_upstream: ScriptedUpstream, tmp_path: Path) -> None:
    environment = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"}
    with ProxyProcess(
        tmp_path, upstream=secure_upstream.url, upstream_ca=authority.file, environment=environment
    ) as proxy:
        assert ask(proxy.port, post()).body == b"ok"


def test_proxy_that_cannot_be_reached(authority: Authority, secure_upstream: ScriptedUpstream, tmp_path: Path) -> None:
    environment = {"HTTPS_PROXY": "http://127.0.0.1:9"}
    with ProxyProcess(
        tmp_path, upstream=secure_upstream.url, upstream_ca=authority.file, environment=environment
    ) as proxy:
        answered = ask(proxy.port, post())
        assert answered.header(b"proxy-status") == b"gemini-proxy; error=connection_refused"
        assert "127.0.0.1:9" in json.loads(answered.body)["error"]["message"]


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1080", "http://127.0.0.1:port", "http://["])
def test_proxy_variable_that_cannot_work(url: str, tmp_path: Path) -> None:
    proxy = ProxyProcess(tmp_path, upstream="https://127.0.0.1:1", environment={"HTTPS_PROXY": url})
    ended = proxy.run_to_end()
    assert ended.returncode == 2
    assert "HTTPS_PROXY" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


# Addresses and names


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")
def test_ipv6_on_both_sides(tmp_path: Path) -> None:
    with (
        ScriptedUpstream(plain_answer, host="::1") as upstream,
        ProxyProcess(tmp_path, upstream=upstream.url, host="::1") as proxy,
    ):
        assert proxy.url == f"http://[::1]:{proxy.port}"
        with Client(proxy.port, host="::1") as client:
            request = post().replace(b"Host: 127.0.0.1", b"Host: [::1]:%d" % proxy.port)
            assert client.ask(request).body == b"ok"
        assert upstream.requests[0].header(b"host") == b"[::1]:%d" % upstream.port
        (exchange,) = proxy.exchanges(1)
        assert exchange.client_address.startswith("::1") or exchange.client_address.startswith("[::1]")


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 70 + ".invalid"])
def test_name_that_does_not_resolve(name: str, tmp_path: Path) -> None:
    with ProxyProcess(tmp_path, upstream=f"http://{name}") as proxy:
        answered = ask(proxy.port, post())
        assert answered.status == 502
        assert answered.header(b"proxy-status") == b"gemini-proxy; error=dns_error"
        assert name in json.loads(answered.body)["error"]["message"]
        (exchange,) = proxy.exchanges(1)
        assert exchange.failure is not None
        assert exchange.failure.kind == FailureKind.DNS_ERROR
