"""How answers look on the wire, byte for byte, and what the API refuses."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from gemini_caching_proxy.simulator import Pacing, SimulatorOptions, SimulatorThread

from .conftest import ARRAY, HELLO, KEY, SSE, UNARY, Peer

LONG = {"contents": [{"role": "user", "parts": [{"text": "simulate 20 sentences"}]}]}
INT = "$alt=json%3Benum-encoding%3Dint"


def asking(**config: object) -> dict[str, object]:
    return LONG | {"generationConfig": config}


def test_event_stream(peer: Peer) -> None:
    answer = peer.send(SSE, LONG, "x-simulator-options: chunks=6")
    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("content-disposition") == "attachment"
    assert answer.header("content-encoding") is None
    assert len(answer.chunks) == 6
    for chunk in answer.chunks:
        assert chunk.startswith(b'data: {"')
        assert chunk.endswith(b"}\r\n\r\n")
        assert chunk.count(b"\n") == 2
    assert b"[DONE]" not in answer.body


def test_every_event_carries_usage_and_the_last_alone_a_finish_reason(peer: Peer) -> None:
    shows = {"thinkingConfig": {"includeThoughts": True}}
    events = peer.send(SSE, asking(**shows), "x-simulator-options: chunks=9").events()
    assert len({event["responseId"] for event in events}) == 1
    assert {event["modelVersion"] for event in events} == {"gemini-2.5-flash"}
    assert [("finishReason" in event["candidates"][0]) for event in events] == [False] * 8 + [True]
    assert events[0]["candidates"][0]["content"]["parts"][0]["thought"] is True
    assert "candidatesTokenCount" not in events[0]["usageMetadata"]
    for event in events:
        usage = event["usageMetadata"]
        parts = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount")
        assert usage["totalTokenCount"] == sum(usage.get(part, 0) for part in parts)
        assert 0 not in usage.values()


def test_some_first_events_lack_the_candidates_count(peer: Peer) -> None:
    lacks = set()
    for number in range(12):
        body = {"contents": [{"parts": [{"text": f"simulate 20 sentences {number}"}]}]}
        lacks.add("candidatesTokenCount" in peer.send(SSE, body).events()[0]["usageMetadata"])
    assert lacks == {True, False}


def test_json_array_stream(peer: Peer) -> None:
    answer = peer.send(ARRAY, LONG, "x-simulator-options: chunks=4")
    assert answer.header("content-type") == "application/json; charset=UTF-8"
    first, *rest, last = answer.chunks
    assert first.startswith(b'[{\n  "candidates": [\n    {\n')
    assert len(rest) == 3
    assert all(chunk.startswith(b"\n,\r\n{\n") and chunk.endswith(b"\n}") for chunk in rest)
    assert last == b"\n]"
    assert len(answer.json()) == 4


def test_the_three_shapes_say_the_same(peer: Peer) -> None:
    def text(objects: list[dict[str, object]]) -> str:
        parts = [part for item in objects for part in item["candidates"][0]["content"]["parts"]]  # type: ignore[index]
        return "".join(part["text"] for part in parts)

    unary, array, sse = peer.send(UNARY, LONG), peer.send(ARRAY, LONG), peer.send(SSE, LONG)
    assert text([unary.json()]) == text(array.json()) == text(sse.events())
    assert unary.json()["usageMetadata"] == sse.events()[-1]["usageMetadata"]
    assert unary.json()["responseId"] == sse.events()[0]["responseId"]


def test_unary_is_pretty_and_chunked(peer: Peer) -> None:
    answer = peer.send(UNARY, HELLO)
    assert answer.header("transfer-encoding") == "chunked"
    assert answer.body.startswith(b'{\n  "candidates": [\n')
    assert answer.body.endswith(b"\n}\n")
    assert answer.header("x-gemini-service-tier") == "standard"


def test_front_end_headers(peer: Peer) -> None:
    answer = peer.send(UNARY, HELLO)
    assert [value for name, value in answer.headers if name == "Vary"] == ["Origin", "X-Origin", "Referer"]
    assert answer.header("server") == "scaffolding on HTTPServer2"
    assert str(answer.header("server-timing")).startswith("gfet4t7; dur=")
    assert str(answer.header("alt-svc")).startswith('h3=":443"')
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("x-frame-options") == "SAMEORIGIN"
    assert answer.header("x-xss-protection") == "0"


@pytest.mark.parametrize("target", [UNARY, ARRAY])
def test_json_is_compressed_when_asked_for(peer: Peer, target: str) -> None:
    answer = peer.send(target, LONG, "Accept-Encoding: gzip, deflate")
    assert answer.header("content-encoding") == "gzip"
    assert gzip.decompress(answer.body) == peer.send(target, LONG).body


def test_event_streams_are_never_compressed(peer: Peer) -> None:
    assert peer.send(SSE, LONG, "Accept-Encoding: gzip").header("content-encoding") is None


def test_a_compressed_stream_is_flushed_at_each_object(peer: Peer) -> None:
    answer = peer.send(ARRAY, LONG, "Accept-Encoding: gzip", "x-simulator-options: chunks=3")
    unpacked = zlib.decompressobj(31).decompress(answer.chunks[0])
    assert unpacked.endswith(b"\n}")


def test_enum_numbers(peer: Peer) -> None:
    answer = peer.send(f"{UNARY}?{INT}", HELLO).json()
    assert answer["candidates"][0]["finishReason"] == 1
    assert answer["usageMetadata"]["promptTokensDetails"][0]["modality"] == 1
    streamed = peer.send(f"{ARRAY}?{INT}", HELLO).json()
    assert streamed[-1]["candidates"][0]["finishReason"] == 1


def test_markup_is_escaped_and_other_characters_are_not(peer: Peer) -> None:
    body = {"contents": [{"parts": [{"text": "<b>é</b>"}]}]}
    raw = peer.send(SSE, body).body
    assert b"\\u003cb\\u003e\xc3\xa9\\u003c/b\\u003e" in raw
    assert b"<" not in raw


def test_max_tokens(peer: Peer) -> None:
    answer = peer.send(UNARY, asking(maxOutputTokens=5)).json()
    assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert answer["usageMetadata"]["candidatesTokenCount"] == 5


def test_safety_and_blocked_prompt(peer: Peer) -> None:
    unsafe = {"contents": [{"parts": [{"text": "please simulate a safety block"}]}]}
    answer = peer.send(UNARY, unsafe).json()["candidates"][0]
    assert answer["finishReason"] == "SAFETY"
    assert answer["safetyRatings"][0]["blocked"] is True
    blocked = {"contents": [{"parts": [{"text": "simulate a blocked prompt"}]}]}
    events = peer.send(SSE, blocked).events()
    assert [event["promptFeedback"] for event in events] == [{"blockReason": "PROHIBITED_CONTENT"}]
    assert "candidates" not in events[0]


def test_snake_case_is_understood(peer: Peer) -> None:
    answer = peer.send(UNARY, LONG | {"generation_config": {"max_output_tokens": 5}}).json()
    assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"


# Credentials


def test_no_credential(peer: Peer) -> None:
    answer = peer.send(UNARY, HELLO, key=None)
    assert answer.status == 403
    assert answer.json()["error"]["status"] == "PERMISSION_DENIED"
    assert "unregistered callers" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (UNARY, ("Authorization: Bearer other",)),
        (UNARY + "?key=other", ()),
        (UNARY, ("x-goog-api-key: test-key",)),
    ],
)
def test_two_credentials(peer: Peer, target: str, headers: tuple[str, ...]) -> None:
    answer = peer.send(target, HELLO, *headers)
    assert answer.status == 400
    message = "Multiple authentication credentials received. Please pass only one."
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("carrier", [KEY, "Authorization: Bearer test-key"])
def test_one_credential_of_any_kind(peer: Peer, carrier: str) -> None:
    assert peer.send(UNARY, HELLO, key=carrier).status == 200
    assert peer.send(UNARY + "?key=test-key", HELLO, key=None).status == 200


def test_accepted_credentials() -> None:
    with SimulatorThread(accepted_keys=frozenset({"good"})) as simulator:
        peer = Peer(simulator)
        assert peer.send(UNARY, HELLO, key="x-goog-api-key: good").status == 200
        bad = peer.send(UNARY, HELLO, key="x-goog-api-key: AIzaNotARealKey")
        assert bad.status == 400
        assert bad.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        bad = peer.send(UNARY, HELLO, key="Authorization: Bearer whatever")
        assert bad.status == 401
        assert bad.json()["error"]["status"] == "UNAUTHENTICATED"
        assert bad.json()["error"]["details"][0]["reason"] == "ACCESS_TOKEN_TYPE_UNSUPPORTED"


# Errors


def test_unknown_model(peer: Peer) -> None:
    answer = peer.send("/v1beta/models/gemini-9-nova:generateContent", HELLO)
    assert answer.status == 404
    error = answer.json()["error"]
    assert error["status"] == "NOT_FOUND"
    assert error["message"].startswith("models/gemini-9-nova is not found for API version v1beta, or is not supported")


def test_unknown_path_is_a_web_page(peer: Peer) -> None:
    answer = peer.send("/v1beta/nonsense", HELLO)
    assert (answer.status, answer.header("content-type")) == (404, "text/html; charset=UTF-8")


def test_quota_error_has_its_details(peer: Peer) -> None:
    answer = peer.send("/v1beta/models/sim-429:generateContent", HELLO)
    assert answer.status == 429
    assert answer.header("retry-after") is None
    error = answer.json()["error"]
    assert error["status"] == "RESOURCE_EXHAUSTED"
    assert [detail["@type"].rpartition(".")[2] for detail in error["details"]] == ["QuotaFailure", "Help", "RetryInfo"]
    assert error["details"][2]["retryDelay"] == "48s"


def test_error_of_an_event_stream_is_plain_json_under_its_type(peer: Peer) -> None:
    answer = peer.send("/v1beta/models/sim-503:streamGenerateContent?alt=sse", HELLO)
    assert (answer.status, answer.header("content-type")) == (503, "text/event-stream")
    assert answer.header("content-length") == str(len(answer.wire_body))
    assert answer.json()["error"]["message"] == "The model is overloaded. Please try again later."


def test_error_of_an_array_stream_is_an_array(peer: Peer) -> None:
    assert peer.send("/v1beta/models/sim-500:streamGenerateContent", HELLO).json()[0]["error"]["code"] == 500


def test_bodies_that_are_no_request(peer: Peer) -> None:
    for body in (b"{", b"[]", b'{"contents": []}', b'{"contents": 3}'):
        answer = peer.send(UNARY, body)
        assert answer.status == 400
        assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"


def test_gemini_3_wants_thought_signatures_back(peer: Peer) -> None:
    def history(call_part: dict[str, object]) -> dict[str, object]:
        result = {"functionResponse": {"name": "look", "response": {"ok": True}}}
        turns = [("user", {"text": "look it up"}), ("model", call_part), ("user", result)]
        return {"contents": [{"role": role, "parts": [part]} for role, part in turns]}

    target = "/v1beta/models/gemini-3-flash-preview:generateContent"
    call = {"functionCall": {"name": "look", "args": {}}}
    assert peer.send(target, history(call)).status == 400
    assert peer.send(target, history(call | {"thoughtSignature": "skip_thought_signature_validator"})).status == 200
    assert peer.send(target, history(call | {"thought_signature": "c2ln"})).status == 200


def test_cors(peer: Peer) -> None:
    origin = "Origin: https://app.example"
    allowed = peer.send(UNARY, None, origin, "Access-Control-Request-Method: POST", method="OPTIONS", key=None)
    assert allowed.status == 200
    assert "x-goog-api-key" in str(allowed.header("access-control-allow-headers"))
    assert peer.send(UNARY, HELLO, origin).header("access-control-allow-origin") == "https://app.example"


# Pacing


@pytest.mark.parametrize("writes", ["event", "split", "joined", "drip"])
@pytest.mark.parametrize("target", [UNARY, ARRAY, SSE])
def test_no_cutting_changes_the_bytes(peer: Peer, writes: str, target: str) -> None:
    whole = peer.send(target, LONG, "x-simulator-options: chunks=5").body
    assert peer.send(target, LONG, f"x-simulator-options: chunks=5; writes={writes}").body == whole


def test_cuttings_differ(peer: Peer) -> None:
    def count(writes: str) -> int:
        return len(peer.send(SSE, LONG, f"x-simulator-options: chunks=12; writes={writes}").chunks)

    assert count("joined") < count("event") == 12 < count("split")
    assert count("drip") == 12


def test_pauses() -> None:
    options = SimulatorOptions(pacing=Pacing(first_byte_s=0.1, chunk_s=0.05))
    with SimulatorThread(options) as simulator:
        Peer(simulator).send(SSE, LONG, "x-simulator-options: chunks=5")
        entry = simulator.ledger.last
        assert entry.ended_at is not None
        assert entry.ended_at - entry.begun_at >= 0.3


def test_expect_continue(peer: Peer) -> None:
    body = json.dumps(HELLO).encode()
    with peer.connect() as sock:
        head = (
            f"POST {UNARY} HTTP/1.1\r\nHost: a\r\n{KEY}\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        sock.sendall(head.encode())
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(15) == b"HTTP/1.1 200 OK"


def test_base_path_and_doubled_slashes() -> None:
    with SimulatorThread(base_path="/gateway") as simulator:
        assert Peer(simulator).send("/gateway" + UNARY, HELLO).status == 200
        assert Peer(simulator).send("/gateway//v1beta//models/gemini-2.5-flash:generateContent", HELLO).status == 200


def test_function_call_stream_ends_with_an_empty_text(peer: Peer) -> None:
    tools = [{"functionDeclarations": [{"name": "look", "parameters": {"type": "OBJECT", "properties": {}}}]}]
    call, end = peer.send(SSE, HELLO | {"tools": tools}).events()
    part = call["candidates"][0]["content"]["parts"][0]
    assert (part["functionCall"]["name"], len(part["functionCall"]["id"])) == ("look", 8)
    assert part["thoughtSignature"]
    assert end["candidates"][0]["content"]["parts"] == [{"text": ""}]
    assert end["candidates"][0]["finishMessage"] == "Model generated function call(s)."
