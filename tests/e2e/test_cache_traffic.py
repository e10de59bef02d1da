"""Every recorded generation through the running proxy, then asked again by a real SDK in all three shapes."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from google import genai
from google.genai import models, types

from gemini_caching_proxy.simulator import ReplayUpstream, ServerThread

from .serving import ProxyProcess
from .test_recorded_traffic import RECORDING, TRAFFIC, as_upstream, load, target

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RECORDING.exists(), reason=f"no recorded traffic in {TRAFFIC}"),
]
KEY = "a-key-for-the-recorded-traffic"


def generations() -> list[dict[str, Any]]:
    """The last successful answer to each generation that was asked, in its first place."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in load():
        method = urlsplit(entry["url"]).path.rpartition(":")[2]
        if entry["status"] == 200 and method in ("generateContent", "streamGenerateContent"):
            found[target(entry), entry["request_body"]] = entry
    return list(found.values())


class Sdk:
    """The SDK's own sending and reading, with requests as they are in the recording."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(trust_env=False, timeout=30)
        options = types.HttpOptions(base_url=url, httpx_client=self._http)
        self._client = genai.Client(api_key=KEY, http_options=options)
        self.statuses: list[str] = []

    def close(self) -> None:
        self._client.close()
        self._http.close()

    def ask(self, entry: dict[str, Any], method: str) -> list[types.GenerateContentResponse]:
        path = urlsplit(entry["url"]).path
        path = path[path.index("models/") :].rpartition(":")[0] + ":" + method
        body = json.loads(entry["request_body"])
        api = self._client._api_client
        # As a stream the SDK reads events alone; an array comes to it as one document.
        if "alt=sse" in method:
            answers = list(api.request_streamed("post", path, body, None))
        else:
            answers = [api.request("post", path, body, None)]
        self.statuses += [{k.lower(): v for k, v in (each.headers or {}).items()}["cache-status"] for each in answers]
        documents = [json.loads(each.body) for each in answers if each.body]
        return [self._read(each) for each in (documents[0] if isinstance(documents[0], list) else documents)]

    def _read(self, document: dict[str, Any]) -> types.GenerateContentResponse:
        read = models._GenerateContentResponse_from_mldev(document, None, None)  # type: ignore[attr-defined]
        return types.GenerateContentResponse._from_response(response=read, kwargs={})


def gist(answers: list[types.GenerateContentResponse]) -> dict[str, Any]:
    """What a program gets to know of an answer, however many pieces it came in."""
    parts = [
        part
        for answer in answers
        for candidate in answer.candidates or []
        for part in (candidate.content.parts if candidate.content else None) or []
    ]
    usages = [answer.usage_metadata for answer in answers if answer.usage_metadata]
    endings = [each.finish_reason for answer in answers for each in answer.candidates or [] if each.finish_reason]
    return {
        "text": "".join(part.text for part in parts if part.text and not part.thought),
        "thoughts": "".join(part.text for part in parts if part.text and part.thought),
        "calls": [(each.function_call.name, each.function_call.args) for each in parts if each.function_call],
        "signatures": [each.thought_signature for each in parts if each.thought_signature],
        "data": [each.inline_data.data for each in parts if each.inline_data],
        "code": [each.executable_code.code for each in parts if each.executable_code],
        "usage": usages[-1].model_dump(exclude_none=True) if usages else None,
        "finish": endings[-1] if endings else None,
        "model": answers[-1].model_version,
        "id": answers[-1].response_id,
    }


def record(connection: HTTPConnection, entry: dict[str, Any], **headers: str) -> tuple[str, bytes]:
    """What the cache says, and the answer."""
    fields = {"x-goog-api-key": KEY, "content-type": "application/json", **headers}
    connection.request("POST", target(entry), entry["request_body"].encode(), fields)
    answer = connection.getresponse()
    assert answer.status == 200
    return answer.headers["Cache-Status"], answer.read()


def test_every_recorded_generation_is_served_in_every_shape(tmp_path: Path) -> None:
    entries = generations()
    upstream = ReplayUpstream([as_upstream(entry) for entry in entries])
    unserved = []
    with (
        ServerThread(upstream),
        ProxyProcess(tmp_path, upstream=upstream.url, cache="all", cache_dependent="true") as proxy,
        closing(HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection,
        closing(Sdk(proxy.url)) as sdk,
    ):
        for entry in entries:
            # Another body of the recording may ask the same in other words.
            _, body = record(connection, entry, **{"cache-control": "no-cache"})
            assert body == entry["response_body"].encode(), entry["source"]
            status, again = record(connection, entry)
            if not status.startswith("gemini-proxy; hit"):
                unserved.append((entry["source"], status))
                continue
            assert again == body, entry["source"]
            calls = len(upstream.ledger.requests)
            shapes = {
                method: gist(sdk.ask(entry, method))
                for method in ("generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent")
            }
            first, *others = shapes.values()
            assert others == [first, first], entry["source"]
            assert first["finish"] is not None
            assert len(upstream.ledger.requests) == calls, entry["source"]
        assert all(each.startswith("gemini-proxy; hit") for each in sdk.statuses)
    assert len(entries) > 300
    assert len(unserved) <= 1, "only one of them ended for safety"
