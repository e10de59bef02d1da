"""The OpenAI dialect, as the Gemini API speaks it under `/v1beta/openai/` -> `Reading`.

Also read: plain completions and embeddings. The Responses API is read as far as its names are the same.
"""

from __future__ import annotations

from typing import Any

from gemini_caching_proxy.bodies import member
from gemini_caching_proxy.exchange import Usage

from .answers import Answer, Item
from .base import Block, Turn
from .blocks import Message, arguments, data_url, media
from .fields import as_json, pick, pick_count, pick_list, pick_text
from .reading import Reading, error_text

_ROLES = {"assistant": "model", "system": "system", "developer": "system", "tool": "tool", "function": "tool"}


def usage_of(value: Any, raw: bytes) -> Usage:
    """`usage` of a completion.

    Gemini's `completion_tokens` leaves thoughts out but `total_tokens` has them: the rest of
    the total is thoughts. OpenAI's own has them inside and tells how many.
    """
    prompt = pick_count(value, "prompt_tokens", "input_tokens")
    completion = pick_count(value, "completion_tokens", "output_tokens")
    total = pick_count(value, "total_tokens")
    details = pick(value, "completion_tokens_details", "output_tokens_details")
    thoughts = pick_count(details, "reasoning_tokens")
    beyond = (total or 0) - (prompt or 0) - (completion or 0)
    if total is not None and prompt is not None and beyond > 0:
        thoughts = beyond
    elif thoughts is not None and completion is not None:
        completion = max(0, completion - thoughts)
    return Usage(
        input_tokens=prompt,
        cached_tokens=pick_count(pick(value, "prompt_tokens_details", "input_tokens_details"), "cached_tokens"),
        output_tokens=completion,
        thoughts_tokens=thoughts,
        total_tokens=total,
        raw=raw,
    )


class _Completion:
    """The chunks of a completion, or its one object, taken in one by one."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.calls: dict[tuple[int, int], Message] = {}
        self.model: str | None = None
        self.id: str | None = None
        self.finish: str | None = None
        self.finishes: dict[int, str] = {}
        self.usage: Usage | None = None
        self.error: str | None = None
        self.first_content: int | None = None

    def add(self, item: Item) -> None:
        value = item.value
        self.error = error_text(value) or self.error
        self.model = pick_text(value, "model") or self.model
        self.id = pick_text(value, "id") or self.id
        if isinstance(usage := pick(value, "usage"), dict):
            self.usage = usage_of(usage, member(item.data, "usage"))
        for choice in pick_list(value, "choices"):
            self._add_choice(choice, item.start)

    def _add_choice(self, choice: Any, start: int) -> None:
        index = pick_count(choice, "index") or 0
        message = self.messages.setdefault(index, Message())
        said = pick(choice, "delta", "message")
        if said is None and pick_text(choice, "text"):
            said = {"content": pick_text(choice, "text")}
        calls = pick_list(said, "tool_calls")
        blocks = list(message_blocks(said, calls=False))
        if self.first_content is None and (calls or any(block.text for block in blocks)):
            self.first_content = start
        for block in blocks:
            message.add(block)
        for position, call in enumerate(calls):
            self._add_call(index, position, call)
        finish = pick_text(choice, "finish_reason")
        self.finish = finish or self.finish
        self.finishes[index] = finish or self.finishes.get(index, "")

    def _add_call(self, index: int, position: int, call: Any) -> None:
        number = pick_count(call, "index")
        at = (index, position if number is None else number)
        function = pick(call, "function")
        self.calls.setdefault(at, Message()).extend_call(
            arguments(pick(function, "arguments") or ""),
            name=pick_text(function, "name"),
            call_id=pick_text(call, "id"),
        )

    @property
    def all_messages(self) -> tuple[tuple[Block, ...], ...]:
        result = []
        for index in sorted(self.messages):
            calls = [self.calls[at].blocks for at in sorted(self.calls) if at[0] == index]
            result.append(self.messages[index].blocks + tuple(block for blocks in calls for block in blocks))
        return tuple(result)


def read_completion(answer: Answer) -> Reading:
    """Read the answer of a completion, an embedding or a listing."""
    completion = _Completion()
    for item in answer.items:
        completion.add(item)
    streamed = answer.shape == "sse"
    return Reading(
        messages=completion.all_messages,
        model_version=completion.model,
        response_id=completion.id,
        finish_reason=completion.finish,
        finish_reasons=tuple(completion.finishes[index] for index in sorted(completion.finishes)),
        usage=completion.usage,
        complete=completion.error is None and (answer.done if streamed else answer.closed),
        error_message=completion.error,
        first_content_event=completion.first_content if streamed else None,
        note=_note(answer.last),
    )


def _note(value: Any) -> str:
    data = pick_list(value, "data")
    if not data or pick_text(value, "object") != "list":
        return ""
    vector = pick(data[0], "embedding")
    if vector is not None:
        size = f" of {len(vector)} dimensions" if isinstance(vector, list) else ""
        return f"{len(data)} embedding{'s' * (len(data) > 1)}{size}"
    return "\n".join(filter(None, (pick_text(each, "id") for each in data)))


def message_blocks(message: Any, *, calls: bool = True) -> list[Block]:
    """Blocks of a message of a request or an answer."""
    blocks: list[Block] = []
    if reasoning := pick_text(message, "reasoning_content", "reasoning"):
        blocks.append(Block("thought", reasoning))
    content = pick(message, "content", "refusal")
    if pick_text(message, "role") in ("tool", "function"):
        text = content if isinstance(content, str) else as_json(content)
        blocks.append(Block("tool_result", text, pick_text(message, "name"), pick_text(message, "tool_call_id")))
        return blocks
    if isinstance(content, str):
        # `extra_content.google.thought` is true on plain answers too: it speaks of the signature beside it.
        blocks.append(Block("text", content))
    elif isinstance(content, list):
        blocks.extend(_content_block(part) for part in content)
    if calls:
        for call in pick_list(message, "tool_calls"):
            function = pick(call, "function")
            text = arguments(pick(function, "arguments"))
            blocks.append(Block("tool_call", text, pick_text(function, "name"), pick_text(call, "id")))
    return blocks


def _content_block(part: Any) -> Block:
    kind = pick_text(part, "type")
    if isinstance(part, str):
        return Block("text", part)
    if kind in ("text", "input_text", "output_text", "refusal"):
        return Block("text", pick_text(part, "text", "refusal"))
    if kind in ("image_url", "input_image"):
        image = pick(part, "image_url")
        return data_url(image if isinstance(image, str) else pick_text(image, "url"))
    if kind == "input_audio":
        audio = pick(part, "input_audio")
        return media("audio/" + (pick_text(audio, "format") or "*"), len(pick_text(audio, "data")))
    if kind in ("file", "input_file"):
        file = pick(part, "file") or part
        data = pick_text(file, "file_data")
        return (
            data_url(data) if data.startswith("data:") else media("file", place=pick_text(file, "file_id", "filename"))
        )
    return Block("other", as_json(part))


def message_turns(messages: list[Any]) -> list[Turn]:
    """Messages as turns; results of tools get the names of the calls they answer."""
    names: dict[str, str] = {}
    turns = []
    for message in messages:
        blocks = message_blocks(message)
        names.update((block.call_id, block.name) for block in blocks if block.kind == "tool_call")
        named = tuple(
            Block(block.kind, block.text, block.name or names.get(block.call_id, ""), block.call_id)
            if block.kind == "tool_result"
            else block
            for block in blocks
        )
        turns.append(Turn(_ROLES.get(pick_text(message, "role"), "user"), named))
    return turns
