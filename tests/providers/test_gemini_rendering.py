import json
from typing import Any

from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.providers.base import Block, Rendering, Turn

SSE: Headers = ((b"content-type", b"text/event-stream"),)


def render(operation: str, request: Any, response: Any, headers: Headers = ()) -> Rendering:
    asked = request if isinstance(request, bytes) else json.dumps(request).encode()
    answered = response if isinstance(response, bytes) else json.dumps(response).encode()
    return providers()["gemini"].render(operation, asked, headers, answered)


def text(role: str, words: str) -> Turn:
    return Turn(role, (Block("text", words),))


def test_a_conversation_with_tools_and_media() -> None:
    request = {
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "Look: "}, {"inlineData": {"mimeType": "image/png", "data": "A" * 16384}}],
            },
            {"role": "model", "parts": [{"function_call": {"id": "c1", "name": "find", "args": {"q": 1}}}]},
            {
                "role": "user",
                "parts": [{"functionResponse": {"id": "c1", "name": "find", "response": {"found": True}}}],
            },
            {"parts": [{"fileData": {"mimeType": "video/mp4", "fileUri": "files/v"}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "find"}]}, {"googleSearch": {}}],
        "generationConfig": {"temperature": 0.5, "stopSequences": []},
        "serviceTier": "flex",
    }
    thought = {"text": "hm", "thought": True}
    response = {"candidates": [{"content": {"parts": [thought, {"text": "A cat."}]}, "finishReason": "STOP"}]}
    assert render("generate_content", request, response) == Rendering(
        request=(
            text("system", "Be brief."),
            Turn("user", (Block("text", "Look: "), Block("media", "image/png, 12 KB", "image/png"))),
            Turn("model", (Block("tool_call", '{"q":1}', "find", "c1"),)),
            Turn("tool", (Block("tool_result", '{"found":true}', "find", "c1"),)),
            Turn("user", (Block("media", "video/mp4, files/v", "video/mp4"),)),
        ),
        response=(Turn("model", (Block("thought", "hm"), Block("text", "A cat."))),),
        tools=("find", "googleSearch"),
        parameters=(("temperature", "0.5"), ("stopSequences", "[]"), ("serviceTier", '"flex"')),
    )


def test_the_text_of_a_stream_is_one_block() -> None:
    events = [{"candidates": [{"content": {"parts": [{"text": word}]}}]} for word in ("One", " two", " three")]
    body = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events).encode()
    found = render("stream_generate_content", {"contents": "Count"}, body, SSE)
    assert (found.request, found.response) == ((text("user", "Count"),), (text("model", "One two three"),))


def test_results_of_tools_get_the_names_of_their_calls() -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "time", "arguments": '{"zone":"CET"}'}}
    request = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What"},
                    {"type": "image_url", "image_url": {"url": "data:image/gif;base64,QUJD"}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "Noon"},
        ],
        "tools": [{"type": "function", "function": {"name": "time"}}],
        "temperature": 0,
    }
    found = render(
        "openai_chat_completions", request, {"choices": [{"message": {"role": "assistant", "content": "Noon."}}]}
    )
    assert found == Rendering(
        request=(
            text("system", "Be brief."),
            Turn("user", (Block("text", "What"), Block("media", "image/gif, 3 B", "image/gif"))),
            Turn("model", (Block("tool_call", '{"zone":"CET"}', "time", "t1"),)),
            Turn("tool", (Block("tool_result", "Noon", "time", "t1"),)),
        ),
        response=(text("model", "Noon."),),
        tools=("time",),
        parameters=(("temperature", "0"),),
    )


def test_an_interaction_with_steps() -> None:
    request = {
        "model": "m",
        "system_instruction": "Be brief.",
        "input": [
            {"type": "user_input", "content": [{"type": "text", "text": "Time?"}]},
            {"type": "function_call", "id": "c1", "name": "time", "arguments": {}},
            {"type": "function_result", "call_id": "c1", "result": "Noon"},
        ],
        "generation_config": {"thinking_level": "low"},
    }
    response = {
        "object": "interaction",
        "steps": [{"type": "model_output", "content": [{"type": "text", "text": "Noon."}]}],
    }
    found = render("create_interaction", request, response)
    assert found.request == (
        text("system", "Be brief."),
        text("user", "Time?"),
        Turn("model", (Block("tool_call", "", "time", "c1"),)),
        Turn("tool", (Block("tool_result", "Noon", "time", "c1"),)),
    )
    assert found.response == (text("model", "Noon."),)
    assert found.parameters == (("thinking_level", '"low"'),)
    contents = [{"type": "text", "text": "See"}, {"type": "image", "mime_type": "image/png", "data": "QUJD"}]
    assert render("create_interaction", {"input": contents}, b"").request == (
        Turn("user", (Block("text", "See"), Block("media", "image/png, 3 B", "image/png"))),
    )


def test_what_is_no_conversation_is_shown_as_it_is() -> None:
    embedded = render(
        "batch_embed_contents",
        {"requests": [{"content": {"parts": [{"text": "a"}]}}]},
        {"embeddings": [{"values": [1, 2]}]},
    )
    assert embedded.request == (text("user", "a"),)
    assert embedded.response == (Turn("model", (Block("other", "1 embedding of 2 dimensions"),)),)
    upload = render("upload_chunk", b"\x89PNG\0", b"")
    assert upload == Rendering(request=(Turn("user", (Block("other", "5 bytes"),)),))
    error = render("generate_content", {"contents": []}, {"error": {"message": "No quota"}})
    assert error.response == (Turn("model", (Block("other", "Error: No quota"),)),)
    empty = render("generate_content", {"contents": "x"}, {"candidates": [{"finishReason": "MAX_TOKENS"}]})
    assert empty.response == (Turn("model", (Block("other", "(no content: MAX_TOKENS)"),)),)
    assert render("get_file", b"", {"name": "files/a"}).response == (Turn("model", (Block("other", "files/a"),)),)
