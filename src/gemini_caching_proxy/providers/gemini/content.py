"""Gemini contents: parts -> blocks. Keys in camel case and snake case mean the same, as the API takes both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gemini_caching_proxy.providers.base import Block, Turn
from gemini_caching_proxy.providers.blocks import Message, arguments, media
from gemini_caching_proxy.providers.fields import as_json, pick, pick_list, pick_text

_ROLES = {"model": "model", "assistant": "model", "system": "system", "function": "tool", "tool": "tool"}
_SILENT = frozenset(("thoughtSignature", "thought_signature", "thought", "text"))


def part_blocks(part: Any) -> Iterator[Block]:
    """What a part says; an empty text is said too, so that callers can see it."""
    if isinstance(part, str):
        yield Block("text", part)
        return
    text = pick(part, "text")
    if isinstance(text, str):
        yield Block("thought" if pick(part, "thought") else "text", text)
        return
    for read in (_call, _result, _inline, _file, _code, _code_result, _server_call, _server_result):
        if (block := read(part)) is not None:
            yield block
            for inner in pick_list(pick(part, "functionResponse", "function_response"), "parts"):
                if (medium := _inline(inner) or _file(inner)) is not None:
                    yield medium
            return
    if isinstance(part, dict) and not part.keys() <= _SILENT:
        yield Block("other", as_json(part))


def bears_content(part: Any) -> bool:
    """Whether a part of a stream's event is something to show: not only a signature or an empty text."""
    if not isinstance(part, dict):
        return bool(part)
    return bool(pick_text(part, "text")) or not part.keys() <= _SILENT


def _call(part: Any) -> Block | None:
    call = pick(part, "functionCall", "function_call")
    if call is None:
        return None
    return Block("tool_call", arguments(pick(call, "args")), pick_text(call, "name"), pick_text(call, "id"))


def _result(part: Any) -> Block | None:
    result = pick(part, "functionResponse", "function_response")
    if result is None:
        return None
    return Block("tool_result", as_json(pick(result, "response")), pick_text(result, "name"), pick_text(result, "id"))


def _inline(part: Any) -> Block | None:
    data = pick(part, "inlineData", "inline_data")
    if data is None:
        return None
    return media(pick_text(data, "mimeType", "mime_type"), len(pick_text(data, "data")))


def _file(part: Any) -> Block | None:
    data = pick(part, "fileData", "file_data")
    if data is None:
        return None
    return media(pick_text(data, "mimeType", "mime_type"), place=pick_text(data, "fileUri", "file_uri"))


def _code(part: Any) -> Block | None:
    code = pick(part, "executableCode", "executable_code")
    return None if code is None else Block("code", pick_text(code, "code"), pick_text(code, "language").lower())


def _code_result(part: Any) -> Block | None:
    result = pick(part, "codeExecutionResult", "code_execution_result")
    if result is None:
        return None
    return Block("tool_result", pick_text(result, "output") or pick_text(result, "outcome"), "code_execution")


def _server_call(part: Any) -> Block | None:
    call = pick(part, "toolCall", "tool_call")
    if call is None:
        return None
    return Block("tool_call", arguments(pick(call, "args")), _tool_name(call), pick_text(call, "id"))


def _server_result(part: Any) -> Block | None:
    result = pick(part, "toolResponse", "tool_response")
    if result is None:
        return None
    return Block("tool_result", as_json(pick(result, "response")), _tool_name(result), pick_text(result, "id"))


def _tool_name(call: Any) -> str:
    return pick_text(call, "toolName", "tool_name", "name") or pick_text(call, "toolType", "tool_type").lower()


def parts_of(content: Any) -> list[Any]:
    """The parts of a Content, or of what clients send in its place: a string, or parts without a Content."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        return content
    parts = pick(content, "parts")
    if isinstance(parts, list):
        return parts
    if isinstance(parts, dict | str):
        return [parts]
    return [content] if isinstance(content, dict) and "role" not in content and content else []


def content_turn(content: Any, role: str = "user") -> Turn:
    """A Content as a turn; a user's turn that brings only results of tools is the tools' turn."""
    message = Message()
    for part in parts_of(content):
        for block in part_blocks(part):
            message.add(block)
    blocks = message.blocks
    role = _ROLES.get(pick_text(content, "role"), role)
    kinds = {block.kind for block in blocks}
    if role == "user" and "tool_result" in kinds and kinds <= {"tool_result", "media"}:
        role = "tool"
    return Turn(role, blocks)


def candidates_of(value: Any) -> list[Any]:
    """The candidates of a response or of one event of a stream."""
    return [each for each in pick_list(value, "candidates") if isinstance(each, dict)]


def read_part(message: Message, part: Any) -> None:
    """Add a part of an answer: arguments of a call may come in several (`partialArgs`, `willContinue`)."""
    call = pick(part, "functionCall", "function_call")
    partial = pick(call, "partialArgs", "partial_args")
    if partial is not None or (pick(call, "willContinue", "will_continue") and pick(call, "args") is None):
        text = as_json(partial) if partial is not None else ""
        message.extend_call(text, name=pick_text(call, "name"), call_id=pick_text(call, "id"))
        return
    for block in part_blocks(part):
        message.add(block)
