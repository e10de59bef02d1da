"""The Live API over WebSocket, with a real client and with raw frames."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.simulator import Simulator
from gemini_caching_proxy.simulator.websocket import (
    FrameReader,
    Message,
    Opcode,
    ProtocolViolationError,
    accept_value,
    close_frame,
    frame,
)

from .conftest import Peer, read_all

websockets = pytest.importorskip("websockets")
from websockets.sync.client import ClientConnection, connect  # noqa: E402

LIVE = "//ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
SETUP = {
    "setup": {"model": "models/gemini-live-2.5-flash-preview", "generationConfig": {"responseModalities": ["TEXT"]}}
}


def open_live(simulator: Simulator, query: str = "?key=test-key", **headers: str) -> ClientConnection:
    url = simulator.url.replace("http", "ws", 1) + LIVE + query
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return connect(url, additional_headers=names, max_size=None, proxy=None)


def say(connection: ClientConnection, text: str, key: str = "clientContent") -> None:
    turn = {"turns": [{"role": "user", "parts": [{"text": text}]}], "turnComplete": True}
    connection.send(json.dumps({key: turn}))


def hear(connection: ClientConnection) -> dict[str, Any]:
    data = connection.recv(timeout=5)
    assert isinstance(data, bytes), "the API answers in binary frames"
    assert data.startswith(b"{\n  ")
    return dict(json.loads(data))


@pytest.fixture
def live(simulator: Simulator) -> Iterator[ClientConnection]:
    with open_live(simulator) as connection:
        connection.send(json.dumps(SETUP))
        assert hear(connection) == {"setupComplete": {}}
        yield connection


@pytest.mark.parametrize("key", ["clientContent", "client_content"])
def test_turns(live: ClientConnection, key: str) -> None:
    for question in ("hello", "simulate 6 sentences"):
        say(live, question, key)
        said = [hear(live)]
        while "turnComplete" not in said[-1]["serverContent"]:
            said.append(hear(live))
        texts = [part["text"] for message in said[:-2] for part in message["serverContent"]["modelTurn"]["parts"]]
        assert "".join(texts).startswith(f"About “{question}”")
        assert said[-2] == {"serverContent": {"generationComplete": True}}
        usage = said[-1]["usageMetadata"]
        assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["responseTokenCount"]


def test_tool_call(simulator: Simulator) -> None:
    tools = [{"functionDeclarations": [{"name": "look", "parameters": {"type": "OBJECT", "properties": {}}}]}]
    with open_live(simulator) as live:
        live.send(json.dumps({"setup": SETUP["setup"] | {"tools": tools, "sessionResumption": {}}}))
        assert hear(live) == {"setupComplete": {}}
        assert hear(live)["sessionResumptionUpdate"]["resumable"] is True
        say(live, "look it up")
        (call,) = hear(live)["toolCall"]["functionCalls"]
        assert call["name"] == "look"
        response = {"id": call["id"], "name": "look", "response": {"ok": True}}
        live.send(json.dumps({"toolResponse": {"functionResponses": [response]}}))
        assert "modelTurn" in hear(live)["serverContent"]


def test_realtime_text_and_ping(live: ClientConnection) -> None:
    assert live.ping().wait(5)
    live.send(json.dumps({"realtimeInput": {"audio": {"data": "AAAA", "mimeType": "audio/pcm"}}}))
    live.send(json.dumps({"realtimeInput": {"text": "hi"}}))
    assert "modelTurn" in hear(live)["serverContent"]


@pytest.mark.parametrize("code", [1000, 1008, 1011])
def test_close_codes(live: ClientConnection, code: int) -> None:
    say(live, f"simulate close {code}")
    with pytest.raises(websockets.ConnectionClosed) as closed:
        live.recv(timeout=5)
    assert closed.value.rcvd.code == code


def test_the_client_closes(live: ClientConnection, simulator: Simulator) -> None:
    live.close(1000, "bye")
    simulator.ledger.wait_for(lambda ledger: ledger.last.ended_at is not None)
    assert not simulator.ledger.last.client_left
    assert simulator.ledger.last.status == 101


def test_unknown_model_and_bad_json(simulator: Simulator) -> None:
    for sent, code in (('{"setup": {"model": "models/none"}}', 1008), ("{", 1007)):
        with open_live(simulator) as live:
            live.send(sent)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                live.recv(timeout=5)
            assert closed.value.rcvd.code == code


def test_credentials(simulator: Simulator) -> None:
    with open_live(simulator, "", x_goog_api_key="test-key"):
        pass
    with open_live(simulator, "", x_goog_api_key="auth_tokens/a", Authorization="Token auth_tokens/a"):
        pass
    with open_live(simulator, "?access_token=auth_tokens/a"):
        pass
    with pytest.raises(websockets.InvalidStatus) as refused:
        open_live(simulator, "")
    assert refused.value.response.status_code == 403
    with pytest.raises(websockets.InvalidStatus) as refused:
        open_live(simulator, x_goog_api_key="other")
    assert refused.value.response.status_code == 400


@pytest.mark.parametrize("code", [1000, 1011])
def test_fault_close(simulator: Simulator, code: int) -> None:
    with open_live(simulator, x_simulator_fault=f"ws-close:{code}") as live:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            live.recv(timeout=5)
        assert closed.value.rcvd.code == code


@pytest.mark.parametrize("fault", ["ws-close:1006", "ws-reset"])
def test_fault_close_without_a_frame(simulator: Simulator, fault: str) -> None:
    with (
        open_live(simulator, x_simulator_fault=fault) as live,
        pytest.raises(websockets.ConnectionClosedError) as closed,
    ):
        live.recv(timeout=5)
    assert closed.value.rcvd is None


def test_fault_huge_frame_and_ping_flood(simulator: Simulator) -> None:
    with open_live(simulator, x_simulator_fault="ws-huge:16") as live:
        assert len(live.recv(timeout=10)) == 16 << 20
        live.send(json.dumps(SETUP))
        assert hear(live) == {"setupComplete": {}}
    with open_live(simulator, x_simulator_fault="ws-pings:500") as live:
        live.send(json.dumps(SETUP))
        assert hear(live) == {"setupComplete": {}}
    assert simulator.ledger.last.fault == "ws-pings:500"


def test_other_faults_refuse_the_handshake(simulator: Simulator) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        open_live(simulator, x_simulator_fault="429")
    assert refused.value.response.status_code == 429


def test_a_handshake_of_another_version_is_refused(peer: Peer) -> None:
    with peer.connect() as sock:
        sock.sendall(
            f"GET {LIVE}?key=k HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAA\r\n\r\n".encode()
        )
        assert read_all(sock).status == 400


def test_handshake_example_of_the_rfc() -> None:
    assert accept_value(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def masked(opcode: int, data: bytes, *, final: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    size = len(data)
    if size < 126:
        lengths = bytes([0x80 | size])
    else:
        lengths = b"\xfe" + struct.pack(">H", size) if size < 1 << 16 else b"\xff" + struct.pack(">Q", size)
    return (
        bytes([(0x80 if final else 0) | opcode]) + lengths + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))
    )


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.integers(1, 40), st.booleans())
def test_any_cutting_of_frames_gives_the_same_messages(payloads: list[bytes], step: int, pinged: bool) -> None:
    wire = b""
    for payload in payloads:
        middle = len(payload) // 2
        wire += masked(2, payload[:middle], final=False)
        wire += masked(9, b"p") if pinged else b""
        wire += masked(0, payload[middle:])
    reader = FrameReader()
    found = [message for start in range(0, len(wire), step) for message in reader.feed(wire[start : start + step])]
    assert [message.data for message in found if message.opcode is Opcode.BINARY] == payloads
    assert sum(message.opcode is Opcode.PING for message in found) == (len(payloads) if pinged else 0)


@pytest.mark.parametrize("size", [125, 126, 65535, 65536])
def test_length_forms(size: int) -> None:
    assert list(FrameReader().feed(masked(1, b"x" * size))) == [Message(Opcode.TEXT, b"x" * size)]
    header = frame(Opcode.BINARY, b"x" * size)[:-size]
    assert len(header) == (2 if size < 126 else 4 if size < 65536 else 10)


@pytest.mark.parametrize(
    "wire", [frame(Opcode.TEXT, b"a"), b"\xf2\x80aaaa", b"\x83\x80aaaa", b"\x80\x80aaaa", b"\x82\xff" + b"\xff" * 8]
)
def test_violations(wire: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        list(FrameReader().feed(wire))


def test_close_frame() -> None:
    assert close_frame(1011, "why") == b"\x88\x05\x03\xf3why"
