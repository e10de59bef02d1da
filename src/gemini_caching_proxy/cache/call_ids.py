"""Ids of tool calls, in requests of every dialect -> `call_1`, `call_2`, … in the order in which they appear.

A call and its result keep having the same id. Found by the shape of the JSON, not by what ids look like; nothing inside
arguments and results is touched.
"""

from __future__ import annotations

from typing import Any, Final

_CALLS: Final = frozenset(("functionCall", "functionResponse", "toolCall", "toolResponse"))
"""Messages of the Gemini API whose `id` is one."""
_CONVERSATION: Final = ("request", "contents", "messages", "input")
_INSIDE: Final = ("parts", "content", "steps", "contents")


class _Numbers:
    """Ids seen so far."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, value: Any) -> Any:
        if not isinstance(value, str) or not value:
            return value
        return self._names.setdefault(value, f"call_{len(self._names) + 1}")

    def renamed(self, value: Any, *keys: str) -> dict[str, Any]:
        """An object with these of its fields renamed."""
        return {name: self.name(item) if name in keys else item for name, item in value.items()}

    def conversation(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # One after the other, in a fixed order: ids are numbered as they come.
        result = dict(value)
        for name in _CONVERSATION:
            if name in value:
                item = value[name]
                result[name] = self.conversation(item) if name == "request" else self.element(item)
        return result

    def element(self, value: Any) -> Any:
        """A content, message or step, or a list of them."""
        if isinstance(value, list):
            return [self.element(each) for each in value]
        if not isinstance(value, dict):
            return value
        result: dict[str, Any] = {}
        kind = value.get("type")
        is_call = isinstance(kind, str) and kind.endswith(("_call", "_result"))
        for name, item in value.items():
            if name in _CALLS and isinstance(item, dict):
                item = self.renamed(item, "id")
            elif name == "tool_calls" and isinstance(item, list):
                item = [self.renamed(call, "id") if isinstance(call, dict) else call for call in item]
            elif name in ("tool_call_id", "call_id") or (name == "id" and is_call):
                item = self.name(item)
            elif name in _INSIDE:
                item = self.element(item)
            result[name] = item
        return result


def renumbered(value: Any) -> Any:
    """A canonical request with its ids of calls numbered; the value given is not changed."""
    return _Numbers().conversation(value)
