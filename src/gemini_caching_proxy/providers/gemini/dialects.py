"""Which dialect an answer of a Gemini client's call is in."""

from __future__ import annotations

from functools import lru_cache

from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.providers.answers import Answer, read_answer
from gemini_caching_proxy.providers.fields import pick, pick_text
from gemini_caching_proxy.providers.openai import read_completion
from gemini_caching_proxy.providers.reading import Reading

from .decoding import read_generation
from .interactions import read_interaction


def read_body(operation: str, headers: Headers, body: bytes, *, array_streams: bool) -> tuple[Answer, Reading]:
    """An answer's body and what it says; see `read_answer`. What is returned must not be changed."""
    return _read_body(operation, headers, body, array_streams and body[:512].lstrip()[:1] == b"[")


@lru_cache(maxsize=1)
def _read_body(operation: str, headers: Headers, body: bytes, array_streams: bool) -> tuple[Answer, Reading]:
    # Remembered, because an exchange is decoded and then asked how it ended.
    answer = read_answer(headers, body, array_streams=array_streams)
    return answer, read(operation, answer, headers)


def read(operation: str, answer: Answer, headers: Headers) -> Reading:
    """Read an answer by its operation; where that is unknown, by what it looks like."""
    if operation.startswith("openai_"):
        return read_completion(answer)
    if operation.endswith("_interaction"):
        return read_interaction(answer)
    if operation == "unknown" and answer.items:
        first = answer.items[0].value
        if pick(first, "choices") is not None:
            return read_completion(answer)
        if pick_text(first, "object") == "interaction" or pick(first, "event_type") is not None:
            return read_interaction(answer)
    return read_generation(answer, headers)
