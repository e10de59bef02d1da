"""Behind TLS, where the Live API's Python client insists on it."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gemini_caching_proxy.simulator import SimulatorThread

from .conftest import HELLO, UNARY, Peer, read_all, request_bytes

genai = pytest.importorskip("google.genai")
from google.genai import types  # noqa: E402

MODEL = "gemini-live-2.5-flash-preview"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with key and self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "simulator.test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def test_answers_and_faults_behind_tls(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with SimulatorThread(ssl=serving(certificate)) as simulator:
        assert simulator.url.startswith("https://127.0.0.1:")
        # Python's TLS sockets report a RST as an end, so what shows is the missing part.
        for fault, whole in (("set-cookie", True), ("fin-at:0.5", False), ("rst-at:0.5", False)):
            with trusting.wrap_socket(Peer(simulator).connect(), server_hostname="127.0.0.1") as sock:
                sock.sendall(request_bytes(UNARY, HELLO, f"x-simulator-fault: {fault}"))
                answer = read_all(sock)
            assert answer.status == 200
            assert answer.raw.endswith(b"0\r\n\r\n") is whole


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_live_through_the_python_sdk(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def talk(url: str) -> str:
        client = genai.Client(api_key="test-key", http_options=types.HttpOptions(base_url=url))
        async with client.aio.live.connect(model=MODEL, config={"response_modalities": ["TEXT"]}) as session:
            await session.send_client_content(turns={"role": "user", "parts": [{"text": "hello"}]}, turn_complete=True)
            return "".join([message.text or "" async for message in session.receive()])

    with SimulatorThread(ssl=serving(certificate)) as simulator:
        assert asyncio.run(talk(simulator.url)).startswith("About “hello”")
        assert simulator.ledger.last.status == 101
