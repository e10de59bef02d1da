"""How an answer ended, candidate by candidate, in the words of one dialect: `STOP`, `MAX_TOKENS`, `SAFETY`, …"""

from __future__ import annotations

from typing import Final

from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.providers.base import Endings

from .dialects import read_body

_NATIVE: Final = frozenset(("generate_content", "stream_generate_content"))
_WORDS: Final = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "function_call": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    # Of interactions. `incomplete`: completed with incomplete results, such as at the limit of tokens.
    "completed": "STOP",
    "requires_action": "STOP",
    "incomplete": "MAX_TOKENS",
}


def endings(operation: str, headers: Headers, body: bytes) -> Endings:
    """How an answer of status 200 ended; see `Provider.endings`."""
    answer, reading = read_body(operation, headers, body, array_streams=operation in _NATIVE)
    return Endings(
        complete=reading.complete and reading.error_message is None and answer.problem is None,
        finish_reasons=tuple(_WORDS.get(reason, reason.upper()) for reason in reading.finish_reasons),
        error=reading.error_message,
    )
