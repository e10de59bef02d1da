"""The resumable upload protocol in raw requests."""

from __future__ import annotations

import base64
import hashlib

import pytest

from gemini_caching_proxy.simulator import Server, SimulatorThread

from .conftest import Answered, Peer, read_all, request_bytes

START = ("X-Goog-Upload-Protocol: resumable", "X-Goog-Upload-Command: start")
GRANULARITY = 1000


@pytest.fixture
def peer() -> object:
    with SimulatorThread(upload_granularity=GRANULARITY, file_polls=2, base_path="/team") as simulator:
        yield Peer(simulator)
        assert simulator.ledger.crashes == []


def start(peer: Peer, *headers: str, mime_type: str = "text/plain") -> Answered:
    body = {"file": {"displayName": "a file", "mimeType": mime_type}}
    return peer.send("/team/upload/v1beta/files", body, *START, *headers)


def path_of(peer: Peer, answer: Answered) -> str:
    url = answer.header("x-goog-upload-url")
    assert url is not None
    assert url.startswith(peer.server.url + "/team/upload/v1beta/files?upload_id=")
    return url.removeprefix(peer.server.url)


def put(peer: Peer, path: str, command: str, body: bytes = b"", offset: int | None = None) -> Answered:
    headers = [f"X-Goog-Upload-Command: {command}"]
    if offset is not None:
        headers.append(f"X-Goog-Upload-Offset: {offset}")
    return peer.send(path, body, *headers, key=None)


def test_start(peer: Peer) -> None:
    answer = start(peer)
    assert (answer.status, answer.wire_body) == (200, b"")
    assert answer.header("content-length") == "0"
    assert answer.header("x-goog-upload-status") == "active"
    assert answer.header("x-goog-upload-chunk-granularity") == str(GRANULARITY)
    assert answer.header("x-goog-upload-control-url") == answer.header("x-goog-upload-url")


def test_chunks_query_and_finalize(peer: Peer) -> None:
    path = path_of(peer, start(peer, "X-Goog-Upload-Header-Content-Length: 2500"))
    data = bytes(range(250)) * 10
    assert put(peer, path, "query").header("x-goog-upload-size-received") == "0"
    assert put(peer, path, "upload", data[:2000], 0).header("x-goog-upload-status") == "active"
    assert put(peer, path, "query").header("x-goog-upload-size-received") == "2000"
    final = put(peer, path, "upload, finalize", data[2000:], 2000)
    assert final.header("x-goog-upload-status") == "final"
    file = final.json()["file"]
    assert file["sizeBytes"] == "2500"
    assert file["displayName"] == "a file"
    assert base64.b64decode(file["sha256Hash"]).decode() == hashlib.sha256(data).hexdigest()
    assert put(peer, path, "upload, finalize", b"", 2500).status == 400


def test_refusals(peer: Peer) -> None:
    path = path_of(peer, start(peer, "X-Goog-Upload-Header-Content-Length: 1500"))
    assert put(peer, path, "upload", b"x" * 999, 0).status == 400
    assert put(peer, path, "upload", b"x" * 1000, 7).status == 400
    assert put(peer, path, "upload, finalize", b"x" * 1400, 0).status == 400
    assert put(peer, path.replace("upload_id=", "upload_id=0"), "query").status == 404
    assert peer.send("/team/upload/v1beta/files", {"file": {}}).status == 400
    assert peer.send("/team/upload/v1beta/files", {"file": {}}, *START, key=None).status == 403


def test_cancel(peer: Peer) -> None:
    path = path_of(peer, start(peer))
    assert put(peer, path, "cancel").header("x-goog-upload-status") == "cancelled"
    assert put(peer, path, "upload", b"x" * 1000, 0).status == 400


def test_a_chunk_that_breaks_off_does_not_count(peer: Peer) -> None:
    path = path_of(peer, start(peer))
    ledger = peer.server.ledger
    with peer.connect() as sock:
        headers = ("X-Goog-Upload-Command: upload", "X-Goog-Upload-Offset: 0")
        sock.sendall(request_bytes(path, b"x" * 1000, *headers, key=None)[:-500])
        ledger.wait_for(lambda ledger: ledger.last.body_size == 500)
    ledger.wait_for(lambda ledger: ledger.last.client_left)
    assert put(peer, path, "query").header("x-goog-upload-size-received") == "0"


def test_a_video_is_processed_first(peer: Peer) -> None:
    path = path_of(peer, start(peer, mime_type="video/mp4"))
    name = put(peer, path, "upload, finalize", b"v" * 10, 0).json()["file"]["name"]
    states = [peer.send(f"/team/v1beta/{name}", method="GET").json()["state"] for _ in range(4)]
    assert states == ["PROCESSING", "PROCESSING", "ACTIVE", "ACTIVE"]


def test_download(peer: Peer) -> None:
    answer = peer.send("/team/v1beta/files/generated-300000:download?alt=media", method="GET")
    assert answer.status == 302
    location = str(answer.header("location"))
    assert location.startswith(peer.server.url + "/team/download/v1beta/files/")
    served = peer.send(location.removeprefix(peer.server.url), method="GET", key=None)
    assert (served.header("server"), served.header("content-length")) == ("UploadServer", "300000")
    assert len(served.wire_body) == 300_000


def test_an_uploaded_file_cannot_be_downloaded(peer: Peer) -> None:
    path = path_of(peer, start(peer))
    name = put(peer, path, "upload, finalize", b"x", 0).json()["file"]["name"]
    assert peer.send(f"/team/v1beta/{name}:download?alt=media", method="GET").status == 400


def test_a_large_upload_is_hashed_and_not_kept(peer: Peer) -> None:
    server: Server = peer.server
    path, size = path_of(peer, start(peer)), 64 << 20
    block = b"0123456789abcdef" * 65536
    with peer.connect() as sock:
        headers = ("X-Goog-Upload-Command: upload, finalize", "X-Goog-Upload-Offset: 0")
        head = request_bytes(path, b"", *headers, key=None).replace(b"Length: 0", b"Length: %d" % size)
        sock.sendall(head)
        for _ in range(size // len(block)):
            sock.sendall(block)
        assert read_all(sock).json()["file"]["sizeBytes"] == str(size)
    assert server.ledger.last.body is None
    assert server.ledger.last.body_size == size
    assert server.ledger.last.body_sha256 == hashlib.sha256(block * (size // len(block))).hexdigest()
