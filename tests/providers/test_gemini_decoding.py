import json
from typing import Any

import pytest

from gemini_caching_proxy.bodies import digest
from gemini_caching_proxy.exchange import Headers, Usage
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.providers.base import Decoded

SSE: Headers = ((b"Content-Type", b"text/event-stream"),)
JSON: Headers = ((b"Content-Type", b"application/json; charset=UTF-8"),)
HTML: Headers = ((b"Content-Type", b"text/html"),)
ASKED = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


def decode(
    operation: str, response: Any, *, request: Any = ASKED, headers: Headers = JSON, status: int = 200
) -> Decoded:
    body = response if isinstance(response, bytes) else json.dumps(response).encode()
    asked = request if isinstance(request, bytes) else json.dumps(request).encode()
    return providers()["gemini"].decode(operation, asked, status, headers, body)


def chunk(text: str | None = None, *, finish: Any = None, usage: Any = None, **more: Any) -> dict[str, Any]:
    parts = [] if text is None else [{"text": text}]
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    value: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r1"}
    return {**value, **({"usageMetadata": usage} if usage is not None else {}), **more}


def sse(*events: Any, end: str = "\r\n\r\n") -> bytes:
    return "".join(f"data: {json.dumps(event)}{end}" for event in events).encode()


def array(*events: Any) -> bytes:
    return ("[" + "\n,\r\n".join(json.dumps(event, indent=2) for event in events) + "\n]").encode()


USAGE = {
    "promptTokenCount": 7,
    "cachedContentTokenCount": 2,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 4,
    "totalTokenCount": 14,
}
STREAM = (
    chunk("Hi", usage={"promptTokenCount": 900, "totalTokenCount": 900}),
    chunk(" the"),
    chunk("re", finish="STOP", usage=USAGE),
)


def test_a_unary_answer() -> None:
    found = decode("generate_content", chunk("Hi there", finish="STOP", usage=USAGE))
    assert (found.stream_shape, found.response_text, found.finish_reason) == ("unary", "Hi there", "STOP")
    assert (found.model_version, found.response_id, found.complete) == ("gemini-x", "r1", True)
    assert (found.error, found.error_message, found.first_content_event) == (None, None, None)
    assert found.conversation == (digest(json.dumps(ASKED["contents"][0]).encode()),)
    assert found.usage == Usage(7, 2, 3, 4, None, 14, raw=json.dumps(USAGE).encode())


@pytest.mark.parametrize(
    ("shape", "body"), [("sse", sse(*STREAM)), ("sse", sse(*STREAM, end="\n\n")), ("json_array", array(*STREAM))]
)
def test_a_stream_says_what_its_last_events_say(shape: str, body: bytes) -> None:
    found = decode("stream_generate_content", body, headers=SSE if shape == "sse" else JSON)
    assert (found.stream_shape, found.response_text, found.finish_reason) == (shape, "Hi there", "STOP")
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.total_tokens) == (7, 14)
    assert json.loads(found.usage.raw) == USAGE
    assert found.usage.raw in body
    assert (found.complete, found.error) == (True, None)


def test_the_first_event_with_content_is_found() -> None:
    empty, signature = chunk(""), chunk()
    signature["candidates"][0]["content"]["parts"] = [{"thoughtSignature": "c2ln", "text": ""}]
    body = sse(empty, signature, chunk("Hi"), chunk("!", finish="STOP"))
    assert decode("stream_generate_content", body, headers=SSE).first_content_event == len(sse(empty, signature))
    call = chunk()
    call["candidates"][0]["content"]["parts"] = [{"functionCall": {"name": "f"}}]
    assert decode("stream_generate_content", sse(empty, call), headers=SSE).first_content_event == len(sse(empty))
    assert decode("stream_generate_content", array(empty, call)).first_content_event == len(array(empty)) - 2 + 4
    assert decode("stream_generate_content", sse(empty), headers=SSE).first_content_event is None


def test_a_stream_that_breaks_off_is_not_complete_and_keeps_what_came() -> None:
    cut = decode("stream_generate_content", sse(*STREAM)[:-40], headers=SSE)
    assert (cut.response_text, cut.complete, cut.finish_reason) == ("Hi the", False, None)
    assert cut.error == f"the last event is cut off (byte {len(sse(*STREAM[:2]))})"
    ended = decode("stream_generate_content", sse(*STREAM[:2]), headers=SSE)
    assert (ended.complete, ended.error) == (False, None)
    unclosed = decode("stream_generate_content", array(*STREAM)[:-2])
    assert (unclosed.response_text, unclosed.complete, unclosed.error) == ("Hi there", False, "the array does not end")


def test_a_finish_reason_in_an_early_event_does_not_end_a_stream() -> None:
    found = decode("stream_generate_content", sse(chunk("a", finish="STOP"), chunk("b")), headers=SSE)
    assert (found.finish_reason, found.complete) == ("STOP", False)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        *(
            (1, "STOP"),
            (2, "MAX_TOKENS"),
            (5, "OTHER"),
            (10, "MALFORMED_FUNCTION_CALL"),
            (99, "FINISH_REASON_99"),
            (0, None),
        ),
        *(("NOVEL_REASON", "NOVEL_REASON"), ("FINISH_REASON_UNSPECIFIED", None), (True, None), ([], None)),
    ],
)
def test_finish_reasons_come_as_names_and_numbers(sent: Any, read: str | None) -> None:
    assert decode("generate_content", chunk("a", finish=sent)).finish_reason == read


@pytest.mark.parametrize(("reason", "read"), [("SAFETY", "BLOCKED:SAFETY"), (4, "BLOCKED:PROHIBITED_CONTENT")])
def test_a_blocked_prompt_has_a_finish_reason_and_is_complete(reason: Any, read: str) -> None:
    blocked = {"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 4}}
    for found in (decode("generate_content", blocked), decode("stream_generate_content", sse(blocked), headers=SSE)):
        assert (found.finish_reason, found.complete, found.response_text) == (read, True, "")


def test_thoughts_are_no_answer_but_can_be_searched_and_calls_are_shown() -> None:
    value = chunk()
    value["candidates"][0]["content"]["parts"] = [
        {"text": "Let me think", "thought": True},
        {"text": "I ask. "},
        {"text": "Now."},
        {"functionCall": {"name": "weather", "args": {"city": "Köln"}}},
        {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "one"}},
        {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
    ]
    found = decode("generate_content", value)
    assert found.response_text == 'I ask. Now.\nweather({"city":"Köln"})\nprint(1)'
    assert [piece.text for piece in found.response_pieces] == ["Let me think\none"]


def test_the_arguments_of_a_call_may_come_in_pieces() -> None:
    def call(**fields: Any) -> dict[str, Any]:
        value = chunk()
        value["candidates"][0]["content"]["parts"] = [{"functionCall": fields}]
        return value

    body = sse(
        call(name="f", willContinue=True), call(partialArgs=[{"a": 1}], willContinue=True), call(partialArgs=[{"b": 2}])
    )
    assert decode("stream_generate_content", body, headers=SSE).response_text == 'f([{"a":1}][{"b":2}])'


def test_candidates_are_kept_apart() -> None:
    def two(first: str, second: str) -> dict[str, Any]:
        return {
            "candidates": [
                {"content": {"parts": [{"text": text}]}, "index": i} for i, text in enumerate((first, second))
            ]
        }

    body = sse(two("a", "x"), two("b", "y"))
    assert decode("stream_generate_content", body, headers=SSE).response_text == "ab\nxy"


ERROR = {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}


@pytest.mark.parametrize(
    ("operation", "body", "headers"),
    [
        ("generate_content", json.dumps(ERROR).encode(), JSON),
        ("stream_generate_content", json.dumps(ERROR, indent=2).encode(), SSE),
        ("stream_generate_content", array(ERROR), JSON),
        ("openai_chat_completions", array(ERROR), JSON),
        ("stream_generate_content", sse(chunk("Hi"), ERROR), SSE),
        ("create_interaction", {"error": {"code": "invalid_request", "message": "Quota exceeded"}}, JSON),
        (
            "create_interaction",
            b'event: error\ndata: {"event_type":"error","error":{"message":"Quota exceeded"}}\n\n',
            SSE,
        ),
    ],
)
def test_errors_are_found_wherever_they_are(operation: str, body: Any, headers: Headers) -> None:
    found = decode(operation, body, headers=headers, status=429)
    assert found.error_message == "Quota exceeded"
    assert found.response_text in ("Quota exceeded", "Hi")
    assert not (found.complete and found.stream_shape == "sse")


def test_a_captive_portal_is_told_and_its_text_is_kept() -> None:
    found = decode("generate_content", b"<html>Please log in</html>", headers=HTML)
    assert found.error == "the answer is not JSON (text/html)"
    assert (found.response_text, found.usage, found.complete) == ("<html>Please log in</html>", None, False)
    assert (
        decode("generate_content", b"<html>Bad gateway", headers=HTML, status=502).error_message == "<html>Bad gateway"
    )


def test_events_that_are_no_json_are_told_and_the_others_read() -> None:
    found = decode("stream_generate_content", b"data: nope\r\n\r\n" + sse(*STREAM), headers=SSE)
    assert found.response_text == "Hi there"
    assert found.error == "an event is no JSON (byte 0): nope"


def test_a_request_that_is_no_json_is_told_and_kept_whole() -> None:
    found = decode("generate_content", chunk("a"), request=b"{'contents': []}")
    assert found.error == "the request body is not JSON"
    assert [piece.data for piece in found.request_pieces] == [b"{'contents': []}"]
    assert decode("upload_chunk", {"file": {"name": "files/a"}}, request=b"\x89PNG").error is None


def test_nothing_is_said_about_empty_bodies() -> None:
    assert decode("create_auth_token", b"", request=b"", headers=()) == Decoded()
    assert decode("stream_generate_content", b"", headers=SSE).stream_shape == "sse"


def test_wrong_charsets_and_broken_escapes_are_read_as_far_as_they_go() -> None:
    body = b'{"candidates":[{"content":{"parts":[{"text":"caf\xe9 \\ud83d"}]},"finishReason":"STOP"}]}'
    found = decode("generate_content", body)
    assert (found.response_text, found.finish_reason) == ("caf\ufffd \ud83d", "STOP")


def test_usage_of_the_service_tier_header_and_of_code_assist() -> None:
    headers = (*JSON, (b"X-Gemini-Service-Tier", b"flex"))
    wrapped = {"response": chunk("Hi", finish="STOP", usage=USAGE)}
    found = decode("generate_content", wrapped, headers=headers, request={"model": "models/m", "request": ASKED})
    assert found.usage == Usage(7, 2, 3, 4, None, 14, "flex", json.dumps(USAGE).encode())
    assert (found.model, found.response_text, len(found.conversation)) == ("m", "Hi", 1)


def test_counting_embedding_and_caching() -> None:
    count = decode("count_tokens", {"totalTokens": 12})
    assert (count.response_text, count.usage, count.conversation) == ("12 tokens", None, ())
    vectors = decode(
        "batch_embed_contents", {"embeddings": [{"values": [0.1, 0.2]}] * 2, "usageMetadata": {"promptTokenCount": 5}}
    )
    assert vectors.response_text == "2 embeddings of 2 dimensions"
    assert vectors.usage is not None
    assert vectors.usage.input_tokens == 5
    cache = decode("create_cached_content", {"name": "cachedContents/c", "usageMetadata": {"totalTokenCount": 9}})
    assert (cache.response_text, cache.usage) == (
        "cachedContents/c",
        Usage(total_tokens=9, raw=b'{"totalTokenCount": 9}'),
    )


def test_an_interaction_unary() -> None:
    usage = {
        "total_tokens": 9,
        "total_input_tokens": 4,
        "total_output_tokens": 3,
        "total_thought_tokens": 2,
        "total_cached_tokens": 0,
    }
    body = {
        "id": "i1",
        "status": "completed",
        "object": "interaction",
        "model": "gemini-x",
        "service_tier": "standard",
        "usage": usage,
        "steps": [
            {"type": "thought", "summary": [{"type": "text", "text": "hm"}], "signature": "c2ln"},
            {"type": "model_output", "content": [{"type": "text", "text": "Ha"}, {"type": "text", "text": "ha"}]},
            {"type": "function_call", "id": "c1", "name": "f", "arguments": {"a": 1}},
        ],
    }
    request = {"model": "gemini-x", "input": "A joke", "previous_interaction_id": "i0"}
    found = decode("create_interaction", body, request=request)
    assert (found.response_text, found.response_id, found.previous_response_id) == ('Haha\nf({"a":1})', "i1", "i0")
    assert found.usage == Usage(4, 0, 3, 2, None, 9, "standard", json.dumps(usage).encode())
    assert (found.model, found.model_version, found.finish_reason, found.complete) == (
        "gemini-x",
        "gemini-x",
        "completed",
        True,
    )
    assert [piece.text for piece in found.request_pieces if piece.digest] == ["A joke"]
    assert found.conversation == (digest(b'"A joke"'),)


def test_an_interaction_streamed() -> None:
    events = [
        {
            "event_type": "interaction.created",
            "interaction": {"id": "i1", "status": "in_progress", "object": "interaction"},
        },
        {"event_type": "step.start", "index": 0, "step": {"type": "thought"}},
        {"event_type": "step.delta", "index": 0, "delta": {"type": "thought_signature", "signature": "c2ln"}},
        {"event_type": "step.start", "index": 1, "step": {"type": "model_output"}},
        {"event_type": "step.delta", "index": 1, "delta": {"type": "text", "text": "Ha"}},
        {"event_type": "step.delta", "index": 1, "delta": {"type": "text", "text": "ha"}},
        {
            "event_type": "interaction.completed",
            "interaction": {"id": "i1", "status": "completed", "usage": {"total_tokens": 9}, "model": "gemini-x"},
        },
    ]
    lines = [f"event: {event['event_type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    found = decode(
        "create_interaction", b"".join(lines) + b"event: done\ndata: [DONE]\n\n", headers=SSE, request={"input": "x"}
    )
    assert (found.response_text, found.response_id, found.finish_reason) == ("Haha", "i1", "completed")
    assert found.usage == Usage(total_tokens=9, raw=b'{"total_tokens": 9}')
    assert found.first_content_event == len(b"".join(lines[:4]))
    assert (found.complete, found.error, found.stream_shape) == (True, None, "sse")
    cut = decode("create_interaction", b"".join(lines[:5]), headers=SSE, request={"input": "x"})
    assert (cut.response_text, cut.complete, cut.finish_reason) == ("Ha", False, None)


CHAT = {"model": "gemini-2.5-pro", "messages": [{"role": "user", "content": "What time is it?"}]}


def test_a_chat_completion_whose_total_has_the_thoughts() -> None:
    message = {"role": "assistant", "content": "Noon.", "extra_content": {"google": {"thought": True}}}
    usage = {"completion_tokens": 12, "prompt_tokens": 35, "total_tokens": 109}
    body = {
        "id": "c1",
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": usage,
    }
    found = decode("openai_chat_completions", body, request=CHAT)
    assert (found.response_text, found.finish_reason, found.response_id) == ("Noon.", "stop", "c1")
    assert found.usage == Usage(35, None, 12, 62, None, 109, raw=json.dumps(usage).encode())
    assert (found.model, found.model_version) == ("gemini-2.5-pro", "m")
    assert found.conversation == (digest(json.dumps(CHAT["messages"][0]).encode()),)


def test_reasoning_inside_the_completion_is_not_counted_twice() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 50,
        "total_tokens": 60,
        "completion_tokens_details": {"reasoning_tokens": 40},
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    found = decode("openai_chat_completions", {"choices": [], "usage": usage}, request=CHAT).usage
    assert found is not None
    assert (found.input_tokens, found.cached_tokens, found.output_tokens, found.thoughts_tokens) == (10, 8, 10, 40)


def test_a_chat_stream_with_calls_and_a_usage_chunk() -> None:
    def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
        return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}

    events = [
        delta(role="assistant", content=""),
        delta(content="I a"),
        delta(content="sk"),
        delta(tool_calls=[{"index": 0, "id": "t1", "function": {"name": "time", "arguments": '{"zone":'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"CET"}'}}]),
        delta(finish="tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
    ]
    body = sse(*events, end="\n\n")
    found = decode("openai_chat_completions", body + b"data: [DONE]\n\n", headers=SSE, request=CHAT)
    assert found.response_text == 'I ask\ntime({"zone":"CET"})'
    assert (found.finish_reason, found.complete, found.first_content_event) == (
        "tool_calls",
        True,
        len(sse(events[0], end="\n\n")),
    )
    assert found.usage is not None
    assert found.usage.total_tokens == 7
    assert not decode("openai_chat_completions", body, headers=SSE, request=CHAT).complete


def test_openai_embeddings_and_models() -> None:
    body = {
        "object": "list",
        "data": [{"object": "embedding", "embedding": [0.1] * 3}],
        "model": "m",
        "usage": {"prompt_tokens": 2},
    }
    found = decode("openai_embeddings", body, request={"model": "models/m", "input": ["a", "b"]})
    assert (found.response_text, found.model, found.conversation) == ("1 embedding of 3 dimensions", "m", ())
    assert [piece.text for piece in found.request_pieces if piece.digest] == ["a", "b"]
    assert (
        decode("openai_models", {"object": "list", "data": [{"id": "models/a"}]}, request=b"").response_text
        == "models/a"
    )


def test_an_unknown_path_is_read_by_what_its_answer_looks_like() -> None:
    chat = {"choices": [{"message": {"content": "Noon."}, "finish_reason": "stop"}]}
    assert decode("unknown", chat, request=CHAT).response_text == "Noon."
    interaction = {"object": "interaction", "id": "i", "steps": [{"type": "model_output", "content": "Ha"}]}
    assert decode("unknown", interaction).response_text == "Ha"


def test_a_made_image_is_a_part_of_its_own() -> None:
    image = "iVBORw0KGgo+" * 200
    value = chunk(finish="STOP")
    value["candidates"][0]["content"]["parts"] = [{"inlineData": {"mimeType": "image/png", "data": image}}]
    for found in (decode("generate_content", value), decode("stream_generate_content", sse(value), headers=SSE)):
        assert [piece.data for piece in found.response_pieces if piece.digest] == [image.encode()]


def test_nesting_without_end_is_told_and_not_a_crash() -> None:
    raw = b'{"object":"interaction","steps":[' + b'{"type":"x","content":[' * 400 + b"]}" * 400 + b"]}"
    assert decode("create_interaction", raw, request=b'{"input":' + b"[" * 900 + b"]" * 900 + b"}").response_text == ""
    far = decode("generate_content", b"[" * 50_000 + b"]" * 50_000)
    assert far.error is not None
    assert "deep" in far.error
