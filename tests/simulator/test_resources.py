"""Collections that no client library above reaches, in raw requests."""

from __future__ import annotations

import re

from .conftest import HELLO, UNARY, Peer


def test_video_operation(peer: Peer) -> None:
    started = peer.send("/v1beta/models/veo-3.0-generate-001:predictLongRunning", {"instances": [{"prompt": "a cat"}]})
    name = started.json()["name"]
    polled = [peer.send(f"/v1beta/{name}", method="GET").json() for _ in range(3)]
    assert polled[0] == {"name": name}
    assert polled[1]["done"] is True
    assert polled[1] == polled[2]
    uri = polled[1]["response"]["generateVideoResponse"]["generatedSamples"][0]["video"]["uri"]
    path = re.sub("^https://[^/]+", "", uri)
    assert peer.send(path, method="GET").status == 302


def test_imagen(peer: Peer) -> None:
    answer = peer.send("/v1beta/models/imagen-4.0-generate-001:predict", {"instances": [{"prompt": "a cat"}]})
    assert answer.json()["predictions"][0]["bytesBase64Encoded"].startswith("iVBOR")


def test_import_into_a_store(peer: Peer) -> None:
    store = peer.send("/v1beta/fileSearchStores", {"displayName": "Notes"}).json()["name"]
    assert store.startswith("fileSearchStores/notes-")
    operation = peer.send(f"/v1beta/{store}:importFile", {"fileName": "files/a"}).json()
    assert peer.send(f"/v1beta/{operation['name']}", method="GET").json()["done"] is True
    document = operation["response"]["documentName"]
    assert peer.send(f"/v1beta/{document}", method="GET").json()["name"] == document
    assert peer.send(f"/v1beta/{document}", method="DELETE").json() == {}
    assert peer.send(f"/v1beta/{document}", method="GET").status == 404


def test_interactions_on_the_wire(peer: Peer) -> None:
    body = {
        "model": "gemini-2.5-flash",
        "input": "hi",
        "stream": True,
        "generation_config": {"thinking_summaries": "auto"},
    }
    answer = peer.send("/v1beta/interactions", body)
    assert answer.header("content-type") == "text/event-stream"
    assert answer.chunks[0].startswith(b'event: interaction.created\ndata: {"interaction":{"id":"v1_')
    assert answer.chunks[-1] == b"event: done\ndata: [DONE]\n\n"
    assert b"\r" not in answer.body
    assert b'"type":"thought_summary"' in answer.body


def test_interactions_are_resumed_cancelled_and_not_always_stored(peer: Peer) -> None:
    body = {"model": "gemini-2.5-flash", "input": "hi"}
    target = "/v1beta/interactions"
    name = peer.send(target, body).json()["id"]
    whole = peer.send(f"{target}/{name}?stream=true", method="GET").chunks
    assert peer.send(f"{target}/{name}?stream=true&last_event_id=2", method="GET").chunks == whole[2:]
    assert peer.send(f"{target}/{name}/cancel").json()["status"] == "cancelled"
    unstored = peer.send(target, body | {"input": "other", "store": False}).json()["id"]
    missing = peer.send(f"{target}/{unstored}", method="GET")
    assert (missing.status, missing.json()["error"]["code"]) == (404, "not_found")
    assert peer.send(target, {"model": "gemini-2.5-flash"}).json()["error"]["code"] == "invalid_request"


def test_openai_errors_are_in_an_array(peer: Peer) -> None:
    answer = peer.send("/v1beta/openai/chat/completions", {"model": "none", "messages": [HELLO]})
    assert (answer.status, answer.json()[0]["error"]["code"]) == (404, 404)


def test_openai_stream_on_the_wire(peer: Peer) -> None:
    body = {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    chunks = peer.send("/v1beta/openai/chat/completions", body, key="Authorization: Bearer k").chunks
    assert all(chunk.startswith(b"data: {") and chunk.endswith(b"}\n\n") for chunk in chunks[:-1])
    assert chunks[-1] == b"data: [DONE]\n\n"


def test_pages(peer: Peer) -> None:
    first = peer.send("/v1beta/models?pageSize=2", method="GET").json()
    second = peer.send(f"/v1beta/models?pageSize=2&pageToken={first['nextPageToken']}", method="GET").json()
    assert len(first["models"]) == len(second["models"]) == 2
    assert first["models"] != second["models"]
    assert "nextPageToken" not in peer.send("/v1beta/models?pageSize=1000", method="GET").json()
    assert peer.send("/v1beta/models?pageSize=x", method="GET").status == 400
    assert peer.send("/v1beta/models?pageToken=%21", method="GET").status == 400
    assert peer.send("/v1beta/files", method="GET").json() == {}


def test_alias_answers_with_the_model_behind_it(peer: Peer) -> None:
    answer = peer.send(UNARY.replace("gemini-2.5-flash", "gemini-flash-latest"), HELLO).json()
    assert answer["modelVersion"] == "gemini-3.8-flash"


def test_long_conversations_are_served_from_the_implicit_cache(peer: Peer) -> None:
    turns = [{"role": role, "parts": [{"text": "word " * 2000}]} for role in ("user", "model", "user")]
    usage = peer.send(UNARY, {"contents": turns}).json()["usageMetadata"]
    assert 0 < usage["cachedContentTokenCount"] < usage["promptTokenCount"]
    assert usage["cachedContentTokenCount"] % 1024 == 0
