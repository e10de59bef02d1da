"""Answers of generateContent and of everything else in Gemini's own dialect -> `Reading`.

Usage, finish reason and ids are those of the last event that has them, never sums or maxima: counts go down as well.
"""

from __future__ import annotations

from typing import Any

from gemini_caching_proxy.bodies import member
from gemini_caching_proxy.exchange import Headers, Usage
from gemini_caching_proxy.providers.answers import Answer, Item, header
from gemini_caching_proxy.providers.blocks import Message
from gemini_caching_proxy.providers.fields import pick, pick_count, pick_list, pick_text
from gemini_caching_proxy.providers.reading import Reading, error_text

from .content import bears_content, candidates_of, parts_of, read_part
from .enums import block_reason, finish_reason
from .usage import usage_metadata

BLOCKED = "BLOCKED:"
"""Begins the finish reason of an answer whose prompt was blocked: `BLOCKED:SAFETY`."""


class _Generation:
    """The events of one generated answer, taken in one by one."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.model_version: str | None = None
        self.response_id: str | None = None
        self.finish: str | None = None
        self.finishes: dict[int, str] = {}
        """Of each candidate, by its index; empty for one that goes on."""
        self.last_finishes = False
        """Whether the last event says that it is the last."""
        self.usage_item: Item | None = None
        self.error: str | None = None
        self.first_content: int | None = None
        self.generated = False

    def add(self, item: Item) -> None:
        value = unwrapped(item.value)
        self.error = error_text(value) or error_text(item.value) or self.error
        self.model_version = pick_text(value, "modelVersion", "model_version") or self.model_version
        self.response_id = pick_text(value, "responseId", "response_id") or self.response_id
        usage = pick(value, "usageMetadata", "usage_metadata")
        if isinstance(usage, dict) and usage:
            self.usage_item = item
        candidates = candidates_of(value)
        self.last_finishes = False
        for candidate in candidates:
            self._add_candidate(candidate, item.start)
        blocked = block_reason(pick(pick(value, "promptFeedback", "prompt_feedback"), "blockReason", "block_reason"))
        if blocked is not None and not candidates:
            self.finish, self.last_finishes = BLOCKED + blocked, True
            self.finishes = {0: self.finish}
        self.generated = self.generated or bool(candidates) or blocked is not None

    def _add_candidate(self, candidate: dict[str, Any], start: int) -> None:
        index = pick_count(candidate, "index") or 0
        message = self.messages.setdefault(index, Message())
        for part in parts_of(pick(candidate, "content")):
            if self.first_content is None and bears_content(part):
                self.first_content = start
            read_part(message, part)
        finish = finish_reason(pick(candidate, "finishReason", "finish_reason"))
        self.finishes[index] = finish or self.finishes.get(index, "")
        if finish is not None:
            self.finish, self.last_finishes = finish, True


def unwrapped(value: Any) -> Any:
    """The response inside Code Assist's envelope, anything else as it is."""
    inner = pick(value, "response")
    return inner if isinstance(inner, dict) and "candidates" not in value and "done" not in value else value


def read_generation(answer: Answer, headers: Headers) -> Reading:
    """Read an answer in Gemini's dialect, generated or not."""
    generation = _Generation()
    for item in answer.items:
        generation.add(item)
    streamed = answer.shape != "unary"
    complete = generation.last_finishes if generation.generated or streamed else bool(answer.items)
    return Reading(
        messages=tuple(generation.messages[index].blocks for index in sorted(generation.messages)),
        model_version=generation.model_version,
        response_id=generation.response_id,
        finish_reason=generation.finish,
        finish_reasons=tuple(generation.finishes[index] for index in sorted(generation.finishes)),
        usage=_usage(generation.usage_item, headers),
        complete=complete and answer.closed and generation.error is None,
        error_message=generation.error,
        first_content_event=generation.first_content if streamed else None,
        note=_note(answer.last) if not generation.generated else "",
    )


def _usage(item: Item | None, headers: Headers) -> Usage | None:
    if item is None:
        return None
    value = unwrapped(item.value)
    name = "usageMetadata" if pick(value, "usageMetadata") is not None else "usage_metadata"
    raw = member(item.data, name) if value is item.value else member(item.data, "response", name)
    return usage_metadata(pick(value, name), raw, header(headers, b"x-gemini-service-tier"))


def _note(value: Any) -> str:
    """A line about an answer that is no message."""
    total = pick_count(value, "totalTokens", "total_tokens")
    if total is not None:
        return f"{total} tokens"
    vectors = pick_list(value, "embeddings") or ([pick(value, "embedding")] if pick(value, "embedding") else [])
    if vectors:
        return (
            f"{len(vectors)} embedding{'s' * (len(vectors) > 1)} of {len(pick_list(vectors[0], 'values'))} dimensions"
        )
    names = [
        pick_text(each, "name")
        for key in ("models", "files", "batches", "cachedContents", "fileSearchStores", "operations")
        for each in pick_list(value, key)
    ]
    name = pick_text(value, "name") or pick_text(pick(value, "file"), "name", "uri")
    return name or "\n".join(filter(None, names))
