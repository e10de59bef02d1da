"""The events of a streamed answer -> the one object that a call without streaming would have brought.

What is said more than once is as the last event that says it has it; text is joined, and everything else in a content
stays a part of its own: a signature belongs to the part it came with.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gemini_caching_proxy.providers.fields import pick, pick_count, pick_list

from .decoding import unwrapped

_JOINED: Final = frozenset(("text", "thought"))
_LISTS: Final = {
    "citationMetadata": ("citations", "citationSources"),
    "logprobsResult": ("topCandidates", "chosenCandidates"),
}
"""Fields of a candidate whose lists go on from event to event."""


def merge(items: list[bytes]) -> bytes | None:
    """One JSON object from the JSON objects of a stream.

    None where it cannot be told what it would be: arguments of a call in pieces.
    """
    # Not orjson: numbers keep their digits, strings their lone surrogates.
    values: list[dict[str, Any]] = [json.loads(item) for item in items]
    inner = [unwrapped(value) for value in values]
    enveloped = [value is not whole for value, whole in zip(inner, values, strict=True)]
    if any(enveloped) != all(enveloped):
        return None
    merged = _merged(inner)
    if merged is None:
        return None
    if enveloped[0]:
        merged = {**_latest(values), "response": merged}
    return json.dumps(merged, separators=(",", ":")).encode("ascii")


def _latest(values: list[dict[str, Any]]) -> dict[str, Any]:
    """Each field as the last object has it that says anything in it."""
    result: dict[str, Any] = {}
    for value in values:
        for name, item in value.items():
            if name not in result or item not in (None, {}, []):
                result[name] = item
    return result


def _merged(values: list[dict[str, Any]]) -> dict[str, Any] | None:
    merged = _latest(values)
    if not any("candidates" in value for value in values):
        return merged
    candidates: dict[int, list[dict[str, Any]]] = {}
    for value in values:
        for candidate in pick_list(value, "candidates"):
            if not isinstance(candidate, dict):
                return None
            candidates.setdefault(pick_count(candidate, "index") or 0, []).append(candidate)
    merged["candidates"] = []
    for index in sorted(candidates):
        candidate = _candidate(candidates[index])
        if candidate is None:
            return None
        merged["candidates"].append(candidate)
    return merged


def _candidate(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """One candidate from what events say of it."""
    merged = _latest(events)
    for name, lists in _LISTS.items():
        found = [event[name] for event in events if isinstance(event.get(name), dict)]
        if len(found) > 1:
            joined = {each: [item for one in found for item in pick_list(one, each)] for each in lists}
            merged[name] = {**_latest(found), **{each: items for each, items in joined.items() if items}}
    contents = [event["content"] for event in events if isinstance(event.get("content"), dict)]
    if contents:
        parts = [part for content in contents for part in pick_list(content, "parts")]
        if any(_is_piece(part) for part in parts):
            return None
        merged["content"] = _latest(contents)
        if any("parts" in content for content in contents):
            merged["content"]["parts"] = _joined(parts)
    return merged


def _is_piece(part: Any) -> bool:
    """Whether a part holds a piece of a call."""
    call = pick(part, "functionCall", "function_call")
    return pick(call, "partialArgs", "partial_args", "willContinue", "will_continue") is not None


def _joined(parts: list[Any]) -> list[Any]:
    """Parts with texts that follow one another as one, thoughts and answers apart."""
    result: list[Any] = []
    for part in parts:
        if result and _goes_on(result[-1], part):
            result[-1] = {**result[-1], "text": result[-1]["text"] + part["text"]}
        else:
            result.append(part)
    return result


def _goes_on(part: Any, following: Any) -> bool:
    """Whether the second part's text continues the first's."""
    return _is_text(part) and _is_text(following) and bool(part.get("thought")) == bool(following.get("thought"))


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str) and part.keys() <= _JOINED
