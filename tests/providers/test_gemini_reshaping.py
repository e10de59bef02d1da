"""Answers in other shapes say the same, and how they ended is told for each candidate."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from google import genai
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_caching_proxy.exchange import Headers, StreamShape
from gemini_caching_proxy.providers.answers import read_answer
from gemini_caching_proxy.providers.base import Decoded, Endings
from gemini_caching_proxy.providers.gemini import GeminiProvider

from .recorded import Recorded, needs_traffic, recorded

PROVIDER = GeminiProvider()
STREAM = "stream_generate_content"
SHAPES: tuple[StreamShape, ...] = ("unary", "sse", "json_array")
HEADERS: dict[StreamShape, Headers] = {
    "unary": ((b"content-type", b"application/json; charset=UTF-8"),),
    "sse": ((b"content-type", b"text/event-stream"),),
    "json_array": ((b"content-type", b"application/json; charset=UTF-8"),),
}


def reshape(body: bytes, have: StreamShape, want: StreamShape) -> bytes | None:
    chunks = PROVIDER.reshape("generate_content", body, have, want)
    return None if chunks is None else b"".join(chunks)


def sse(*events: Any) -> bytes:
    return b"".join(b"data: %s\r\n\r\n" % json.dumps(event).encode() for event in events)


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": {"parts": [{"text": words}], "role": "model"}, **more}


def event(*candidates: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"candidates": list(candidates), **more}


def merged(*events: Any) -> Any:
    body = reshape(sse(*events), "sse", "unary")
    return None if body is None else json.loads(body)


# --- recorded answers ---


def said(body: bytes, shape: StreamShape) -> dict[str, Any]:
    """What the provider reads from an answer, as far as its shape does not change it."""
    operation = "generate_content" if shape == "unary" else STREAM
    decoded: Decoded = PROVIDER.decode(operation, b"{}", 200, HEADERS[shape], body)
    assert decoded.stream_shape == shape
    usage = decoded.usage
    return {
        "text": decoded.response_text,
        "finish": decoded.finish_reason,
        "complete": decoded.complete,
        "error": decoded.error_message or decoded.error,
        "model": decoded.model_version,
        "id": decoded.response_id,
        "usage": usage and (*(getattr(usage, each) for each in COUNTED), json.loads(usage.raw)),
        "endings": PROVIDER.endings(operation, HEADERS[shape], body),
        "signatures": signatures(body, shape),
    }


COUNTED = ("input_tokens", "cached_tokens", "output_tokens", "thoughts_tokens", "tool_use_tokens", "total_tokens")


def signatures(body: bytes, shape: StreamShape) -> list[tuple[str, str]]:
    """Signatures, ids and names of calls in the order in which they come."""
    found: list[tuple[str, str]] = []

    def look(value: Any) -> None:
        if isinstance(value, list):
            for each in value:
                look(each)
        elif isinstance(value, dict):
            for name in ("thoughtSignature", "id", "name", "data", "code", "output"):
                if isinstance(value.get(name), str):
                    found.append((name, value[name]))
            for name in ("candidates", "content", "parts", "response", "functionCall", "inlineData", "executableCode"):
                look(value.get(name))

    for item in read_answer(HEADERS[shape], body, array_streams=shape == "json_array").items:
        look(item.value)
    return found


def generated() -> list[tuple[Recorded, StreamShape]]:
    """Recorded complete answers to generations with their shapes."""
    found: list[tuple[Recorded, StreamShape]] = []
    for name in ("gemini", "vertex"):
        for each in recorded(name):
            operation = PROVIDER.route(each.method, each.target).operation
            if operation in ("generate_content", STREAM) and each.status == 200:
                found.append((each, PROVIDER.decode(operation, b"{}", 200, each.headers, each.response).stream_shape))
    return found


@needs_traffic
def test_there_are_many_recorded_answers() -> None:
    shapes = [shape for _, shape in generated()]
    assert shapes.count("sse") >= 30
    assert shapes.count("json_array") >= 3
    assert shapes.count("unary") >= 100


@needs_traffic
@pytest.mark.parametrize("want", SHAPES)
def test_recorded_answers_say_the_same_in_every_shape(want: StreamShape) -> None:
    unreadable = 0
    for each, have in generated():
        body = reshape(each.response, have, want)
        before = said(each.response, have)
        if body is None:
            assert before["error"] or not before["complete"], each.source
            unreadable += 1
            continue
        assert said(body, want) == before, each.source
    assert unreadable < 3


@needs_traffic
def test_items_of_a_stream_keep_their_bytes_in_an_array_and_their_values_in_events() -> None:
    for each, have in generated():
        if have == "unary":
            continue
        items = [item.data for item in read_answer(each.headers, each.response, array_streams=True).items]
        array = reshape(each.response, have, "json_array")
        events = reshape(each.response, have, "sse")
        assert array is not None
        assert events is not None
        if have == "sse":
            assert array == b"[" + b"\n,\r\n".join(items) + b"\n]"
            assert reshape(array, "json_array", "sse") is not None
        values = [json.loads(item) for item in items]
        lines = events.split(b"\r\n\r\n")
        assert [json.loads(line.removeprefix(b"data: ")) for line in lines[:-1]] == values
        assert lines[-1] == b""


class Sdk:
    """Google's own library, given answers that never went over a network."""

    def __init__(self) -> None:
        self.answer = httpx.Response(500)
        http = httpx.Client(transport=httpx.MockTransport(lambda _: self.answer))
        options = genai.types.HttpOptions(base_url="http://api.test", httpx_client=http)
        self.client = genai.Client(api_key="made-up", http_options=options)

    def read(self, body: bytes, shape: StreamShape) -> tuple[Any, ...]:
        self.answer = httpx.Response(200, headers=list(HEADERS[shape]), content=body)
        models = self.client.models
        if shape == "unary":
            return gist([models.generate_content(model="m", contents="hi")])
        return gist(list(models.generate_content_stream(model="m", contents="hi")))


def gist(answers: list[genai.types.GenerateContentResponse]) -> tuple[Any, ...]:
    candidates = [each.candidates[0] for each in answers if each.candidates]
    parts = [part for each in candidates if each.content for part in each.content.parts or ()]
    return (
        "".join(part.text or "" for part in parts if not part.thought),
        "".join(part.text or "" for part in parts if part.thought),
        [part.function_call for part in parts if part.function_call],
        [part.thought_signature for part in parts if part.thought_signature],
        [part.inline_data for part in parts if part.inline_data],
        candidates[-1].finish_reason if candidates else None,
        answers[-1].usage_metadata,
        answers[-1].response_id,
        answers[-1].model_version,
    )


@needs_traffic
def test_the_sdk_reads_the_same_from_one_object_and_from_events() -> None:
    sdk, read = Sdk(), 0
    for each, have in generated():
        unary, events = (reshape(each.response, have, want) for want in ("unary", "sse"))
        if b"enum-encoding" in each.target or unary is None or events is None:
            continue
        assert sdk.read(unary, "unary") == sdk.read(events, "sse"), each.source
        read += 1
    assert read > 100


# --- framing ---


def test_the_same_shape_is_the_same_bytes() -> None:
    for shape in SHAPES:
        assert PROVIDER.reshape("generate_content", b"anything", shape, shape) == (b"anything",)
        assert PROVIDER.reshape("openai_chat_completions", b"anything", shape, shape) == (b"anything",)
    assert PROVIDER.reshape("count_tokens", b"{}", "unary", "sse") is None
    assert PROVIDER.reshape("openai_chat_completions", b"{}", "unary", "sse") is None


def test_an_array_is_framed_as_the_api_frames_it() -> None:
    body = b'data: {"a": 1}\r\n\r\ndata: {"b": 1.50}\r\n\r\ndata: {"c":\r\ndata: 2}\n\n'
    chunks = PROVIDER.reshape("generate_content", body, "sse", "json_array")
    assert chunks == (b'[{"a": 1}', b'\n,\r\n{"b": 1.50}', b'\n,\r\n{"c":\n2}', b"\n]")


def test_an_event_is_one_line_of_ascii() -> None:
    body = '{\n  "a": "x \\n\\u00e9 é\u2028😀\\ud800",\r\n  "b": [1.50, 12345678901234567890123, -0.0]\n}'.encode()
    chunks = PROVIDER.reshape("generate_content", body, "unary", "sse")
    assert chunks is not None
    line = b'{"a":"x \\n\\u00e9 \\u00e9\\u2028\\ud83d\\ude00\\ud800","b":[1.50,12345678901234567890123,-0.0]}'
    assert chunks == (b"data: " + line + b"\r\n\r\n",)
    assert reshape(body, "unary", "json_array") == b"[" + body + b"\n]"


STRINGS = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.dictionaries(STRINGS.filter(lambda name: name != "error"), VALUES, max_size=4)


@settings(max_examples=100, deadline=None)
@given(items=st.lists(ITEMS, min_size=1, max_size=4), indent=st.sampled_from([None, 2]), escaped=st.booleans())
def test_there_and_back(items: list[Any], indent: int | None, escaped: bool) -> None:
    texts = [json.dumps(item, indent=indent, ensure_ascii=escaped).encode() for item in items]
    array = b"[" + b"\n,\r\n".join(texts) + b"\n]"
    events = reshape(array, "json_array", "sse")
    assert events is not None
    assert events.isascii()
    back = reshape(events, "sse", "json_array")
    assert back is not None
    assert json.loads(back) == items


# --- merging ---


def test_texts_that_follow_one_another_are_joined_thoughts_and_answers_apart() -> None:
    thought = {"content": {"parts": [{"text": "hm", "thought": True}]}}
    answer = merged(event(thought), event(thought), event(text("a")), event(text("b", finishReason="STOP")))
    assert answer == {
        "candidates": [
            {
                "content": {"parts": [{"text": "hmhm", "thought": True}, {"text": "ab"}], "role": "model"},
                "finishReason": "STOP",
            }
        ]
    }


def test_a_signature_stays_with_the_part_it_came_with() -> None:
    signed = {"content": {"parts": [{"text": "", "thoughtSignature": "A-_B+/=="}]}, "finishReason": "STOP"}
    call = {"content": {"parts": [{"functionCall": {"name": "f", "args": {"n": 1.0}}, "thoughtSignature": "S"}]}}
    answer = merged(event(text("a")), event(call), event(text("b")), event(text("c")), event(signed))
    assert answer["candidates"][0]["content"]["parts"] == [
        {"text": "a"},
        {"functionCall": {"name": "f", "args": {"n": 1.0}}, "thoughtSignature": "S"},
        {"text": "bc"},
        {"text": "", "thoughtSignature": "A-_B+/=="},
    ]


def test_candidates_are_kept_apart() -> None:
    answer = merged(
        event(text("a", index=0), text("x", index=1)),
        event(text("y", index=1, finishReason="MAX_TOKENS")),
        event(text("b", index=0, finishReason="STOP")),
    )
    assert [(each["content"]["parts"], each["finishReason"]) for each in answer["candidates"]] == [
        ([{"text": "ab"}], "STOP"),
        ([{"text": "xy"}], "MAX_TOKENS"),
    ]


def test_what_is_said_last_counts_and_lists_go_on() -> None:
    cited = [{"citationMetadata": {"citationSources": [{"uri": uri}]}} for uri in "ab"]
    answer = merged(
        event({**text("a"), **cited[0]}, usageMetadata={"totalTokenCount": 9}, modelVersion="m", responseId="r"),
        event({**text("b"), **cited[1]}, usageMetadata={"totalTokenCount": 3}),
        event({"finishReason": "STOP", "groundingMetadata": {"x": 1}}, usageMetadata={}),
    )
    assert answer["usageMetadata"] == {"totalTokenCount": 3}
    assert (answer["modelVersion"], answer["responseId"]) == ("m", "r")
    candidate = answer["candidates"][0]
    assert candidate["citationMetadata"] == {"citationSources": [{"uri": "a"}, {"uri": "b"}]}
    assert (candidate["groundingMetadata"], candidate["finishReason"]) == ({"x": 1}, "STOP")


def test_a_blocked_prompt() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    assert merged(blocked) == blocked


def test_the_envelope_of_code_assist_stays_around_the_answer() -> None:
    answer = merged(
        {"response": event(text("a")), "traceId": "1"},
        {"response": event(text("b", finishReason="STOP"), responseId="r"), "traceId": "2"},
    )
    assert answer["traceId"] == "2"
    assert answer["response"]["candidates"][0]["content"]["parts"] == [{"text": "ab"}]
    assert answer["response"]["responseId"] == "r"
    assert merged({"response": event(text("a"))}, event(text("b"))) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: {",
        b'data: {"a":1}',
        b"data: [1]\r\n\r\n",
        b"data: {}\r\n\r\ndata: [DONE]\r\n\r\n",
        b'data: {"a":"\xff"}\r\n\r\n',
        sse(event(text("a")), {"error": {"code": 503, "message": "overloaded"}}),
        b'{"error":{"code":400}}',
    ],
)
@pytest.mark.parametrize("want", ["unary", "json_array"])
def test_what_cannot_be_reshaped(body: bytes, want: StreamShape) -> None:
    assert reshape(body, "sse", want) is None


def test_calls_in_pieces_are_not_put_together() -> None:
    piece = {"content": {"parts": [{"functionCall": {"name": "f", "partialArgs": [], "willContinue": True}}]}}
    assert merged(event(piece), event(text("", finishReason="STOP"))) is None
    assert reshape(sse(event(piece)), "sse", "json_array") is not None


# --- endings ---


def ended(body: bytes, operation: str = STREAM, shape: StreamShape = "sse") -> Endings:
    return PROVIDER.endings(operation, HEADERS[shape], body)


@needs_traffic
def test_endings_agree_with_what_is_read() -> None:
    for each in recorded("gemini") + recorded("vertex") + recorded("openai"):
        if each.status != 200:
            continue
        operation = PROVIDER.route(each.method, each.target).operation
        decoded = PROVIDER.decode(operation, each.request, 200, each.headers, each.response)
        found = PROVIDER.endings(operation, each.headers, each.response)
        assert found.error == decoded.error_message
        assert found.complete == (decoded.complete and decoded.error_message is None), each.source
        if operation in ("generate_content", STREAM):
            assert (found.finish_reasons[-1:] or (None,))[0] == decoded.finish_reason or len(found.finish_reasons) > 1


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event(text("a", finishReason="STOP"))], Endings(True, ("STOP",))),
        ([event(text("a")), event(text("b", finishReason=2))], Endings(True, ("MAX_TOKENS",))),
        ([event(text("a", finishReason=1))], Endings(True, ("STOP",))),
        ([event(text("a"))], Endings(False, ("",))),
        ([event(text("a", finishReason="STOP")), event(text("b"))], Endings(False, ("STOP",))),
        (
            [event(text("a", index=0), text("x", index=1)), event(text("b", index=1, finishReason="STOP"))],
            Endings(True, ("", "STOP")),
        ),
        ([{"promptFeedback": {"blockReason": "SAFETY"}}], Endings(True, ("BLOCKED:SAFETY",))),
        ([event(text("a")), {"error": {"message": "overloaded"}}], Endings(False, ("",), "overloaded")),
        ([{"usageMetadata": {}}], Endings(False)),
        ([{"response": event(text("a", finishReason="SAFETY"))}], Endings(True, ("SAFETY",))),
    ],
)
def test_endings_of_streams(events: list[Any], expected: Endings) -> None:
    assert ended(sse(*events)) == expected


def test_a_stream_that_was_cut_off_is_not_complete() -> None:
    body = sse(event(text("a")), event(text("b", finishReason="STOP")))
    assert ended(body).complete
    assert not ended(body[:-10]).complete
    assert not ended(body[:-2]).complete
    array = reshape(body, "sse", "json_array")
    assert array is not None
    assert ended(array, shape="json_array") == Endings(True, ("STOP",))
    assert not ended(array[:-1], shape="json_array").complete


def test_endings_of_unary_answers() -> None:
    answer = json.dumps(event(text("a", index=0, finishReason="STOP"), text("b", index=1, finishReason="RECITATION")))
    assert ended(answer.encode(), "generate_content", "unary") == Endings(True, ("STOP", "RECITATION"))
    assert not ended(answer[:-3].encode(), "generate_content", "unary").complete


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("stop", "STOP"), ("length", "MAX_TOKENS"), ("tool_calls", "STOP"), ("content_filter", "SAFETY"), ("new", "NEW")],
)
def test_endings_of_completions(finish: str, expected: str) -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": finish}]}
    unary = ended(json.dumps(answer).encode(), "openai_chat_completions", "unary")
    assert unary == Endings(True, (expected,))
    chunks = sse(
        {"choices": [{"index": 0, "delta": {"content": "a"}}]}, {"choices": [{"index": 0, "finish_reason": finish}]}
    )
    assert not ended(chunks, "openai_chat_completions").complete
    assert ended(chunks + b"data: [DONE]\n\n", "openai_chat_completions") == Endings(True, (expected,))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("completed", "STOP"),
        ("requires_action", "STOP"),
        ("incomplete", "MAX_TOKENS"),
        ("budget_exceeded", "BUDGET_EXCEEDED"),
        ("failed", "FAILED"),
        ("in_progress", ""),
    ],
)
def test_endings_of_interactions(status: str, expected: str) -> None:
    answer = {"object": "interaction", "id": "i", "status": status, "steps": []}
    assert ended(json.dumps(answer).encode(), "create_interaction", "unary").finish_reasons == (expected,)


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("count_tokens", {"totalTokens": 3}),
        ("embed_content", {"embedding": {"values": [0.1]}}),
        ("list_models", {"models": []}),
        ("openai_models", {"object": "list", "data": []}),
    ],
)
def test_endings_of_what_is_not_generated(operation: str, answer: Any) -> None:
    body = json.dumps(answer).encode()
    assert ended(body, operation, "unary") == Endings(True)
    assert not ended(body[:-1], operation, "unary").complete
