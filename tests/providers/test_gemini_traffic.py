"""Recorded traffic, read by the provider and, independently and plainly, by these tests."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import genai_prices
import pytest

from gemini_caching_proxy.bodies import digest
from gemini_caching_proxy.pricing import price
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.providers.base import Decoded, Route

from .recorded import Recorded, needs_traffic, recorded

pytestmark = needs_traffic


def read(exchange: Recorded, *, request: bytes | None = None, response: bytes | None = None) -> tuple[Route, Decoded]:
    provider = providers()["gemini"]
    route = provider.route(exchange.method, exchange.target)
    return route, provider.decode(
        route.operation,
        exchange.request if request is None else request,
        exchange.status,
        exchange.headers,
        exchange.response if response is None else response,
    )


def plain_events(body: bytes) -> list[Any]:
    """The JSON values of a recorded answer, by the plainest means."""
    text = body.decode()
    if text.lstrip()[:1] == "{":
        return [json.loads(text)]
    if text.lstrip()[:1] == "[":
        return list(json.loads(text))
    lines = [line[6:] for line in text.replace("\r\n", "\n").split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("name", ["gemini", "vertex", "openai"])
def test_every_recorded_body_is_the_sum_of_its_pieces(name: str) -> None:
    for exchange in recorded(name):
        _, found = read(exchange)
        assert b"".join(piece.data for piece in found.request_pieces) == exchange.request, exchange.source
        assert b"".join(piece.data for piece in found.response_pieces) == exchange.response, exchange.source
        assert all(piece.digest in (None, digest(piece.data)) for piece in found.request_pieces)


@pytest.mark.parametrize(("name", "expected"), [("gemini", 0), ("vertex", 0), ("openai", 3)])
def test_hardly_anything_recorded_is_unreadable(name: str, expected: int) -> None:
    problems = Counter(found.error for exchange in recorded(name) if (found := read(exchange)[1]).error)
    # Multipart uploads on a path that is known for JSON under Gemini.
    assert set(problems) <= {"the request body is not JSON"}
    assert problems.total() == expected


@pytest.mark.parametrize("name", ["gemini", "vertex"])
def test_each_turn_of_a_recorded_conversation_has_its_digest(name: str) -> None:
    seen = 0
    for exchange in recorded(name):
        route, found = read(exchange)
        if route.operation in ("generate_content", "stream_generate_content"):
            contents = json.loads(exchange.request)["contents"]
            assert len(found.conversation) == len(contents), exchange.source
            seen += len(contents)
        else:
            assert (found.conversation == ()) == (
                "interaction" not in route.operation and "chat" not in route.operation
            )
    assert seen > 100


@pytest.mark.parametrize("name", ["gemini", "vertex"])
def test_usage_is_that_of_the_last_event_that_has_it(name: str) -> None:
    seen = 0
    for exchange in recorded(name):
        _, found = read(exchange)
        stated = (
            [event["usageMetadata"] for event in plain_events(exchange.response) if "usageMetadata" in event]
            if exchange.response
            else []
        )
        if not stated:
            continue
        seen += 1
        assert found.usage is not None, exchange.source
        assert json.loads(found.usage.raw) == stated[-1]
        assert found.usage.raw in exchange.response
        fields = ("promptTokenCount", "cachedContentTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
        expected = tuple(stated[-1].get(field) for field in (*fields, "toolUsePromptTokenCount", "totalTokenCount"))
        usage = found.usage
        counts = (usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.thoughts_tokens)
        assert (*counts, usage.tool_use_tokens, usage.total_tokens) == expected
    assert seen == {"gemini": 448, "vertex": 112}[name]


@pytest.mark.parametrize("name", ["gemini", "vertex"])
def test_finish_reasons_ids_and_texts_are_those_of_a_plain_reading(name: str) -> None:
    seen = 0
    for exchange in recorded(name):
        route, found = read(exchange)
        if "generate_content" not in route.operation or exchange.status != 200:
            continue
        events = plain_events(exchange.response)
        candidates = [candidate for event in events for candidate in event.get("candidates", [])]
        parts = [part for candidate in candidates for part in candidate.get("content", {}).get("parts", [])]
        finishes = [candidate["finishReason"] for candidate in candidates if "finishReason" in candidate]
        assert found.model_version == events[-1].get("modelVersion"), exchange.source
        assert found.response_id == events[-1].get("responseId")
        if finishes:
            assert found.finish_reason == ("STOP" if finishes[-1] == 1 else finishes[-1])
            assert found.complete
        texts = [part["text"] for part in parts if "text" in part and not part.get("thought")]
        if all("text" in part and not part.get("thought") for part in parts):
            assert found.response_text == "".join(texts), exchange.source
        for piece in (*texts, *(part["functionCall"]["name"] + "(" for part in parts if "functionCall" in part)):
            assert piece in found.response_text, exchange.source
        seen += 1
    assert seen > 100


def test_errors_have_their_message() -> None:
    failed = [exchange for exchange in recorded("gemini") if exchange.status >= 400]
    assert len(failed) > 10
    for exchange in failed:
        _, found = read(exchange)
        message = plain_events(exchange.response)[0]["error"]["message"]
        assert (found.error_message, found.response_text, found.complete) == (message, message, False), exchange.source


@pytest.mark.parametrize(
    ("name", "provider", "with_usage", "priced"),
    [
        # Unpriced: three answers to creating a cache, which state a total alone.
        ("gemini", "gemini", 458, 455),
        # Unpriced: a blocked prompt, whose usage says nothing but the kind of traffic.
        ("vertex", "gemini", 112, 111),
        # Unpriced: eight answers of a model that the price list does not have.
        ("openai", "openai", 81, 73),
    ],
)
def test_what_states_its_usage_is_priced(name: str, provider: str, with_usage: int, priced: int) -> None:
    counts: Counter[str] = Counter()
    for exchange in recorded(name):
        route, found = read(exchange)
        model = found.model_version or route.model or found.model
        if found.usage is not None and model is not None:
            counts["usage"] += 1
            counts["priced"] += price(model, found.usage, provider) is not None
    assert (counts["usage"], counts["priced"]) == (with_usage, priced)


@pytest.mark.parametrize("name", ["gemini", "vertex"])
def test_prices_are_those_of_the_price_list_where_it_can_read_the_usage(name: str) -> None:
    same = 0
    for exchange in recorded(name):
        route, found = read(exchange)
        events = plain_events(exchange.response) if exchange.response else []
        if not events or found.usage is None or b"usageMetadata" not in exchange.response:
            continue
        model = (found.model_version or route.model or "").removeprefix("models/")
        answer = {"usageMetadata": json.loads(found.usage.raw), "modelVersion": model}
        try:
            listed = genai_prices.extract_usage(answer, provider_id="google").calc_price()
        except (ValueError, AttributeError):
            continue
        ours = price(model, found.usage, "gemini")
        assert ours is not None
        assert ours.total_nanousd == int((listed.total_price * 10**9).to_integral_value()), exchange.source
        same += 1
    assert same > 100


def mutated(body: bytes, draw: random.Random) -> bytes:
    data = bytearray(body)
    if draw.random() < 0.5:
        del data[draw.randrange(len(data) + 1) :]
    for _ in range(draw.randrange(4)):
        if data:
            at = draw.randrange(len(data))
            data[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3)) + draw.choice(
                [b"", b'"', b"}", b"[", b"\\", b"\n\n"]
            )
    return bytes(data)


@pytest.mark.parametrize("name", ["gemini", "vertex", "openai"])
def test_nothing_is_raised_and_nothing_lost_whatever_happened_to_a_body(name: str) -> None:
    draw = random.Random(name)
    provider = providers()["gemini"]
    for exchange in recorded(name):
        request, response = mutated(exchange.request, draw), mutated(exchange.response, draw)
        route, found = read(exchange, request=request, response=response)
        assert b"".join(piece.data for piece in found.request_pieces) == request
        assert b"".join(piece.data for piece in found.response_pieces) == response
        if found.usage is not None:
            price(found.model_version or "gemini-2.5-flash", found.usage, "gemini")
        provider.render(route.operation, request, exchange.headers, response)


JUNK = (None, True, 0, -1, 3.5, "", "text", "\ud800", [], {}, [[]], [None], {"text": 5}, {"parts": "x"}, 10**30)


def with_junk(value: Any, draw: random.Random) -> Any:
    """A JSON value with other values in some places."""
    if draw.random() < 0.04:
        return draw.choice(JUNK)
    if isinstance(value, dict):
        return {key: with_junk(inner, draw) for key, inner in value.items()}
    return [with_junk(inner, draw) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["gemini", "vertex", "openai"])
def test_values_of_any_type_in_any_place_are_read_without_a_crash(name: str) -> None:
    draw = random.Random(name)
    provider = providers()["gemini"]
    for exchange in recorded(name):
        try:
            request = json.dumps(with_junk(json.loads(exchange.request or b"0"), draw)).encode()
        except ValueError:
            request = exchange.request
        events = [with_junk(event, draw) for event in plain_events(exchange.response)] if exchange.response else []
        response = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)
        if len(events) == 1:
            response = json.dumps(events[0]).encode()
        route, found = read(exchange, request=request, response=response)
        for operation in (route.operation, "openai_chat_completions", "create_interaction", "generate_content"):
            found = provider.decode(operation, request, exchange.status, exchange.headers, response)
            provider.render(operation, request, exchange.headers, response)
            if found.usage is not None:
                price("gemini-2.5-flash", found.usage, "gemini")
