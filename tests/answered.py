"""Exchanges that can be answered from: whole generations, with their entries, as the recorder stores them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from factories import MINUTE_NS, NOW_NS, body, exchange, exchange_id, response
from gemini_caching_proxy.cache.index import Index
from gemini_caching_proxy.decoding import understand
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.settings import Settings

ANSWER = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Yes."}]}, "finishReason": "STOP"}]}


def settings(**over: Any) -> Settings:
    return Settings(_env_file=None, **over)  # type: ignore[call-arg]


def index(**over: Any) -> Index:
    return Index.from_settings(settings(**over), providers())


def recorded(request: dict[str, Any], minute: int = 0, **over: Any) -> Exchange:
    """A unary generation as the recorder stores it, entry and all."""
    started = NOW_NS + minute * MINUTE_NS
    answer = json.dumps(ANSWER).encode()
    raw = exchange(
        **{
            "id": exchange_id(started),
            "started_ns": started,
            "operation": "generate_content",
            "target": "/v1beta/models/gemini-2.5-flash:generateContent",
            "stream_shape": "unary",
            "request_body": body(json.dumps(request).encode()),
            "outcome": response([answer], headers=((b"Content-Type", b"application/json"),)),
            **over,
        }
    )
    entry = index().entry(raw)
    known = raw if entry is None else replace(raw, entry_key=entry[0], entry_kind=entry[1])
    return understand(known, providers()).exchange


def talk(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "model")
    contents = [{"role": roles[at % 2], "parts": [{"text": text}]} for at, text in enumerate(texts)]
    return {"contents": contents, "generationConfig": {"temperature": 0}, **more}
