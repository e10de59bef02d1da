"""What a dialect found in an answer, before it becomes part of `Decoded`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gemini_caching_proxy.exchange import Usage

from .base import Block
from .fields import as_json, pick, pick_text

MAX_ERROR_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer of one exchange, as its dialect tells it."""

    messages: tuple[tuple[Block, ...], ...] = ()
    """One per candidate, choice or output."""
    model_version: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    finish_reasons: tuple[str, ...] = ()
    """The last one of each candidate, choice or output, in order; empty text for one that has none."""
    usage: Usage | None = None
    complete: bool = False
    error_message: str | None = None
    first_content_event: int | None = None
    note: str = ""
    """What is said of an answer that is no message, such as `12 tokens`."""


def error_text(value: Any) -> str | None:
    """The words of an `error` object in any of the dialects; None if there is none."""
    error = pick(value, "error")
    if not error:
        return None
    if isinstance(error, str):
        return error[:MAX_ERROR_CHARS]
    message = pick_text(error, "message") or as_json(error)
    return message[:MAX_ERROR_CHARS]
