"""Interactions: unary answers and server-sent events -> `Reading`, steps -> turns."""

from __future__ import annotations

from typing import Any

from gemini_caching_proxy.bodies import member
from gemini_caching_proxy.providers.answers import Answer, Item
from gemini_caching_proxy.providers.base import Block, Turn
from gemini_caching_proxy.providers.blocks import Message, arguments, data_url, media
from gemini_caching_proxy.providers.fields import as_json, pick, pick_count, pick_list, pick_text
from gemini_caching_proxy.providers.reading import Reading, error_text

from .usage import interaction_usage

MAX_DEPTH = 8
"""Of contents inside contents."""
_FINAL = frozenset(("completed", "failed", "cancelled", "incomplete", "requires_action", "budget_exceeded"))
_MEDIA = frozenset(("image", "audio", "video", "document"))


def read_interaction(answer: Answer) -> Reading:
    """Read the answer of a call that creates or gets an interaction."""
    reader = _Interaction()
    for item in answer.items:
        reader.add(item)
    interaction, at = reader.interaction, reader.interaction_item
    status = pick_text(interaction, "status") or reader.status
    usage = pick(interaction, "usage")
    raw = b""
    if at is not None:
        raw = member(at.data, "interaction", "usage") if "interaction" in at.value else member(at.data, "usage")
    return Reading(
        messages=(tuple(block for index in sorted(reader.messages) for block in reader.messages[index].blocks),),
        model_version=pick_text(interaction, "model") or None,
        response_id=pick_text(interaction, "id") or reader.id or None,
        finish_reason=status if status in _FINAL else None,
        finish_reasons=(status if status in _FINAL else "",),
        usage=interaction_usage(usage, raw, pick_text(interaction, "service_tier"))
        if isinstance(usage, dict)
        else None,
        complete=(status in _FINAL or answer.done) if answer.shape == "sse" else answer.closed,
        error_message=reader.error,
        first_content_event=reader.first_content if answer.shape == "sse" else None,
    )


class _Interaction:
    """The events of an interaction, or the one object of a unary answer, taken in one by one."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.interaction: Any = None
        """The last that was told; the one with usage if there is one."""
        self.interaction_item: Item | None = None
        self.id = ""
        self.status = ""
        self.error: str | None = None
        self.first_content: int | None = None

    def add(self, item: Item) -> None:
        value = item.value
        self.error = error_text(value) or self.error
        self.id = pick_text(value, "interaction_id") or self.id
        whole = pick(value, "interaction") or (value if pick_text(value, "object") == "interaction" else None)
        if isinstance(whole, dict):
            if self.interaction_item is None or "usage" in whole or "usage" not in self.interaction:
                self.interaction, self.interaction_item = whole, item
            self.error = error_text(whole) or self.error
            for index, step in enumerate(pick_list(whole, "steps", "outputs")):
                self._add_step(index, step)
            return
        self.status = pick_text(value, "status") or self.status
        index = pick_count(value, "index") or 0
        if (step := pick(value, "step")) is not None:
            self._add_step(index, step)
        if (delta := pick(value, "delta")) is not None:
            self._add_delta(index, delta, item.start)

    def _add_step(self, index: int, step: Any) -> None:
        message = self.messages.setdefault(index, Message())
        for block in step_blocks(step):
            message.add(block)

    def _add_delta(self, index: int, delta: Any, start: int) -> None:
        message = self.messages.setdefault(index, Message())
        kind = pick_text(delta, "type")
        if kind == "thought_signature":
            return
        if self.first_content is None:
            self.first_content = start
        if kind in ("arguments_delta", "arguments"):
            message.extend_call(arguments(pick(delta, "arguments", "partial_arguments") or ""))
            return
        for block in step_blocks(delta):
            message.add(block)


def step_blocks(step: Any, depth: int = 0) -> list[Block]:
    """Blocks of a step, of a content inside one, or of a delta of one: they share their types."""
    if depth == MAX_DEPTH:
        return []
    if isinstance(step, str):
        return [Block("text", step)]
    kind = pick_text(step, "type")
    if kind == "text" or (not kind and "text" in (step if isinstance(step, dict) else ())):
        return [Block("text", pick_text(step, "text"))]
    if kind in ("thought", "thought_summary"):
        return [
            Block("thought", block.text) for block in _inner(step, depth, "summary", "content") if block.kind == "text"
        ]
    if kind in _MEDIA:
        mime_type = pick_text(step, "mime_type") or kind
        uri = pick_text(step, "uri")
        return [data_url(uri)] if uri.startswith("data:") else [media(mime_type, len(pick_text(step, "data")), uri)]
    if kind.endswith("_call"):
        name = pick_text(step, "name") or kind.removesuffix("_call")
        call = pick(step, "arguments", "input")
        return [Block("tool_call", arguments(call) if call else "", name, pick_text(step, "id", "call_id"))]
    if kind.endswith("_result"):
        name = pick_text(step, "name") or kind.removesuffix("_result")
        result = pick(step, "result", "output", "content")
        text = result if isinstance(result, str) else as_json(result)
        return [Block("tool_result", text, name, pick_text(step, "call_id", "id"))]
    if isinstance(step, dict) and ("content" in step or "parts" in step):
        return _inner(step, depth, "content", "parts")
    return [Block("other", as_json(step))] if kind not in ("model_output", "user_input", "thought_signature") else []


def _inner(step: Any, depth: int, *names: str) -> list[Block]:
    content = pick(step, *names)
    if isinstance(content, list):
        return [block for each in content for block in step_blocks(each, depth + 1)]
    return step_blocks(content, depth + 1) if content is not None else []


def input_turns(value: Any) -> list[Turn]:
    """The `input` of a request: a string, contents of one turn, or steps and turns of many."""
    if not isinstance(value, list):
        return [Turn("user", tuple(step_blocks(value)))] if value is not None else []
    turns: list[Turn] = []
    for step in value:
        role = _role(step)
        blocks = tuple(step_blocks(step))
        if turns and turns[-1].role == role and not _is_turn(step):
            turns[-1] = Turn(role, turns[-1].blocks + blocks)
        else:
            turns.append(Turn(role, blocks))
    return turns


def _is_turn(step: Any) -> bool:
    return bool(pick_text(step, "role")) or pick_text(step, "type") in ("user_input", "model_output")


def _role(step: Any) -> str:
    kind, role = pick_text(step, "type"), pick_text(step, "role")
    if role:
        return "model" if role in ("model", "assistant") else role if role in ("system", "tool") else "user"
    if kind.endswith("_result"):
        return "tool"
    return "model" if kind in ("model_output", "thought") or kind.endswith("_call") else "user"
