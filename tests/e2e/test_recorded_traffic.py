"""Every exchange of the recorded Gemini traffic, played through the running proxy by an upstream that replays it."""

from __future__ import annotations

import http.client
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gemini_caching_proxy.exchange import Exchange, Response
from gemini_caching_proxy.simulator import RecordedExchange, ReplayUpstream, ServerThread

from .serving import ProxyProcess

TRAFFIC = Path(os.environ.get("GEMINI_PROXY_TRAFFIC", Path(__file__).parents[3] / "shared/traffic"))
RECORDING = TRAFFIC / "gemini.jsonl"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RECORDING.exists(), reason=f"no recorded traffic in {TRAFFIC}"),
]

UNPRICED_MODELS = ("gemini-embedding", "text-embedding")
"""What the price list does not know, or knows no per-token price for."""


def load() -> list[dict[str, Any]]:
    with RECORDING.open() as lines:
        return [json.loads(line) for line in lines]


def target(entry: dict[str, Any]) -> str:
    parts = urlsplit(entry["url"])
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def as_upstream(entry: dict[str, Any]) -> RecordedExchange:
    body = (entry["response_body"] or "").encode()
    headers = tuple((name.encode(), value.encode()) for name, value in entry["response_headers"])
    # A piece per event, cut in odd places too: what a network does to a stream.
    sizes = [1 + (len(body) * step) // 7 % 900 for step in range(len(body))] if entry["stream"] else []
    chunks: list[int] = []
    left = len(body)
    for size in sizes:
        if left <= 0:
            break
        chunks.append(min(size, left))
        left -= chunks[-1]
    return RecordedExchange(
        method=entry["method"],
        target=target(entry),
        status=entry["status"],
        headers=headers,
        body=body,
        request_body=(entry["request_body"] or "").encode(),
        chunks=tuple(chunks),
    )


def ask(connection: http.client.HTTPConnection, entry: dict[str, Any]) -> tuple[int, bytes]:
    body = (entry["request_body"] or "").encode()
    headers = {"x-goog-api-key": "a-key-for-the-recorded-traffic", "content-type": "application/json"}
    connection.request(entry["method"], target(entry), body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def last_usage(body: str) -> dict[str, Any] | None:
    """The last `usageMetadata` in a body of any shape, read in the plainest way."""
    found = None
    for line in body.split("data: ") if body.startswith("data: ") else [body]:
        try:
            document = json.loads(line)
        except ValueError:
            continue
        for item in document if isinstance(document, list) else [document]:
            if isinstance(item, dict) and isinstance(item.get("usageMetadata"), dict):
                found = item["usageMetadata"]
    return found


def test_bytes_record_usage_and_price(tmp_path: Path) -> None:
    entries = load()
    assert len(entries) > 400
    upstream = ReplayUpstream([as_upstream(entry) for entry in entries])
    # Some of them ask the same: here each is to be forwarded.
    with ServerThread(upstream), ProxyProcess(tmp_path, upstream=upstream.url, cache="off") as proxy:
        with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection:
            for entry in entries:
                status, body = ask(connection, entry)
                assert status == entry["status"], entry["source"]
                assert body == (entry["response_body"] or "").encode(), entry["source"]
        exchanges = proxy.exchanges()
    assert not upstream.unmatched
    assert len(exchanges) == len(entries)
    unread = [pair[0]["source"] for pair in zip(entries, exchanges, strict=True) if not recorded_well(*pair)]
    assert not unread


def recorded_well(entry: dict[str, Any], exchange: Exchange) -> bool:
    assert isinstance(exchange.outcome, Response), entry["source"]
    assert exchange.outcome.status == entry["status"]
    assert exchange.request_body.data == (entry["request_body"] or "").encode(), entry["source"]
    assert exchange.outcome.body.data == (entry["response_body"] or "").encode(), entry["source"]
    assert sum(chunk.size for chunk in exchange.outcome.chunks) == exchange.outcome.body.size
    usage = last_usage(entry["response_body"] or "")
    if usage is None or not usage.get("totalTokenCount"):
        return True
    if exchange.usage is None or exchange.usage.total_tokens != usage["totalTokenCount"]:
        return False
    if "promptTokenCount" not in usage:
        # Creating a cache states a total alone, and is billed by the hour: unpriced, not free.
        return exchange.price is None
    return exchange.price is not None or (exchange.model or "").startswith(UNPRICED_MODELS)
