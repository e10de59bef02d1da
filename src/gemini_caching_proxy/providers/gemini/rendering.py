"""Exchanges of a Gemini client as conversations for people, whichever of its dialects they are in."""

from __future__ import annotations

from typing import Any

from gemini_caching_proxy.bodies import plain_text, read_json
from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.providers.answers import read_answer
from gemini_caching_proxy.providers.base import Block, Rendering, Turn
from gemini_caching_proxy.providers.fields import as_json, pick, pick_list, pick_text
from gemini_caching_proxy.providers.openai import message_turns
from gemini_caching_proxy.providers.reading import Reading

from .content import content_turn
from .dialects import read
from .interactions import input_turns

MAX_OTHER_CHARS = 20_000
_NO_PARAMETERS = frozenset(
    (
        *("contents", "messages", "input", "content", "requests", "instances", "tools", "systemInstruction"),
        *(
            "system_instruction",
            "system",
            "instructions",
            "generationConfig",
            "generation_config",
            "generateContentRequest",
        ),
        *("generate_content_request", "prompt", "request", "batch", "model", "stream"),
    )
)


def render(operation: str, request_body: bytes, response_headers: Headers, response_body: bytes) -> Rendering:
    """Both sides of an exchange in words."""
    try:
        request = read_json(request_body) if request_body else None
    except ValueError:
        request = None
    inner = _inner(request)
    turns = _request_turns(inner)
    if not turns and request_body:
        text = as_json(request) if request is not None else plain_text(request_body) or f"{len(request_body)} bytes"
        turns = [Turn("user", (Block("other", text[:MAX_OTHER_CHARS]),))]
    return Rendering(
        request=tuple(turns),
        response=_response_turns(operation, response_headers, response_body),
        tools=tuple(_tool_names(pick_list(inner, "tools"))),
        parameters=tuple(_parameters(inner)),
    )


def _inner(request: Any) -> Any:
    """The request proper inside the envelopes of countTokens and Code Assist."""
    for name in ("generateContentRequest", "generate_content_request", "request"):
        if isinstance(inner := pick(request, name), dict):
            return inner
    return request


def _request_turns(request: Any) -> list[Turn]:
    turns: list[Turn] = []
    system = pick(request, "systemInstruction", "system_instruction", "system", "instructions")
    if system is not None:
        turns.append(Turn("system", content_turn(system).blocks))
    contents = pick(request, "contents")
    for content in contents if isinstance(contents, list) else [contents] if contents is not None else []:
        turns.append(content_turn(content))
    if (content := pick(request, "content")) is not None:
        turns.append(content_turn(content))
    turns += [content_turn(pick(each, "content")) for each in pick_list(request, "requests")]
    turns += message_turns(pick_list(request, "messages"))
    turns += input_turns(pick(request, "input", "prompt"))
    turns += [
        Turn("user", (Block("other", as_json(each)[:MAX_OTHER_CHARS]),)) for each in pick_list(request, "instances")
    ]
    return _with_names(turns)


def _with_names(turns: list[Turn]) -> list[Turn]:
    """Results of tools with the names of the calls whose id they bear."""
    names = {block.call_id: block.name for turn in turns for block in turn.blocks if block.kind == "tool_call"}

    def named(block: Block) -> Block:
        if block.kind != "tool_result" or block.name not in ("", "function") or not names.get(block.call_id):
            return block
        return Block(block.kind, block.text, names[block.call_id], block.call_id)

    return [Turn(turn.role, tuple(named(block) for block in turn.blocks)) for turn in turns]


def _response_turns(operation: str, headers: Headers, body: bytes) -> tuple[Turn, ...]:
    if not body:
        return ()
    answer = read_answer(headers, body, array_streams=operation.startswith("stream_"))
    reading: Reading = read(operation, answer, headers)
    turns = [Turn("model", blocks) for blocks in reading.messages if blocks]
    if reading.error_message:
        turns.append(Turn("model", (Block("other", "Error: " + reading.error_message),)))
    if turns:
        return tuple(turns)
    text = reading.note or answer.text
    if not text and reading.finish_reason:
        text = f"(no content: {reading.finish_reason})"
    if not text:
        text = as_json(answer.last) if answer.items else f"{len(body)} bytes"
    return (Turn("model", (Block("other", text[:MAX_OTHER_CHARS]),)),)


def _tool_names(tools: list[Any]) -> list[str]:
    names: list[str] = []
    for tool in tools:
        declared = pick_list(tool, "functionDeclarations", "function_declarations")
        names += [name for each in declared if (name := pick_text(each, "name"))]
        kind = pick_text(tool, "type")
        if kind:
            names.append(pick_text(pick(tool, "function"), "name") or pick_text(tool, "name") or kind)
        elif isinstance(tool, dict):
            names += [key for key in tool if key not in ("functionDeclarations", "function_declarations")]
    return names


def _parameters(request: Any) -> list[tuple[str, str]]:
    config = pick(request, "generationConfig", "generation_config")
    found = list(config.items()) if isinstance(config, dict) else []
    if isinstance(request, dict):
        found += [(name, value) for name, value in request.items() if name not in _NO_PARAMETERS]
    return [(name, as_json(value)) for name, value in found]
