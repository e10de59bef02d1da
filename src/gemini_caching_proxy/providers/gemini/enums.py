"""Enums that come as numbers when a client asked for `enum-encoding=int`.

Numbers as in the public definition of google.ai.generativelanguage.v1beta (generative_service.proto, content.proto).
The enums are open: a number without a name here keeps its number.
"""

from __future__ import annotations

from typing import Any

_FINISH_REASONS = (
    *("FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER", "LANGUAGE", "BLOCKLIST"),
    *("PROHIBITED_CONTENT", "SPII", "MALFORMED_FUNCTION_CALL", "IMAGE_SAFETY", "UNEXPECTED_TOOL_CALL"),
    "TOO_MANY_TOOL_CALLS",
)
_BLOCK_REASONS = ("BLOCK_REASON_UNSPECIFIED", "SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY")


def finish_reason(value: Any) -> str | None:
    """The name of a `finishReason`; None if there is none or it says nothing."""
    return _name(value, _FINISH_REASONS, "FINISH_REASON")


def block_reason(value: Any) -> str | None:
    """The name of a `promptFeedback.blockReason`."""
    return _name(value, _BLOCK_REASONS, "BLOCK_REASON")


def _name(value: Any, names: tuple[str, ...], what: str) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        if value == 0:
            return None
        return names[value] if 0 < value < len(names) else f"{what}_{value}"
    return value[:100] if isinstance(value, str) and value and value != names[0] else None
