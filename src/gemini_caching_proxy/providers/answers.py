"""A response body -> its JSON items: one for a unary answer, one per event for a stream.

Never raises: what cannot be read is told in `problem`, and the items before it are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gemini_caching_proxy.bodies import plain_text, read_json
from gemini_caching_proxy.eventstream import Event, Events, read_array, read_sse
from gemini_caching_proxy.exchange import Headers, StreamShape

MAX_SHOWN = 80
_SSE_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")


@dataclass(frozen=True, slots=True)
class Item:
    """One JSON value of an answer."""

    value: Any
    data: bytes
    """The JSON as it was sent."""
    start: int = 0
    """Index of the body byte where its event begins."""
    name: str = ""
    """Field `event` of a server-sent event."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response body, read."""

    shape: StreamShape
    items: tuple[Item, ...] = ()
    closed: bool = False
    """Whether it came to its formal end: whole JSON, the array's `]`, a last event with its blank line."""
    done: bool = False
    """Whether `data: [DONE]` ended it."""
    text: str = ""
    """What is no JSON but text."""
    problem: str | None = None

    @property
    def last(self) -> Any:
        return self.items[-1].value if self.items else None


def header(headers: Headers, name: bytes) -> str:
    """The first value of a header, `name` in lower case; empty for none."""
    for field, value in headers:
        if field.lower() == name:
            return value.decode("latin-1")
    return ""


def read_answer(headers: Headers, body: bytes, *, array_streams: bool = False) -> Answer:
    """Read a body by what it looks like, for content types lie: errors of a stream come as plain JSON.

    `array_streams`: a JSON array is a stream of items, not one value.
    """
    content_type = header(headers, b"content-type").partition(";")[0].strip().lower()
    start = body[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return Answer("sse" if content_type == "text/event-stream" else "unary")
    if start[:1] == b"[" and array_streams:
        return _stream("json_array", read_array(body))
    if start[:1] in (b"{", b"["):
        return _unary(body)
    if content_type == "text/event-stream" or start.startswith(_SSE_STARTS):
        return _stream("sse", read_sse(body))
    if "json" in content_type:
        return _unary(body)
    text = plain_text(body)
    problem = f"the answer is not JSON ({content_type or 'no content type'})" if text else None
    return Answer("unary", text=text, problem=problem)


def _unary(body: bytes) -> Answer:
    try:
        value = read_json(body)
    except ValueError as error:
        return Answer("unary", text=plain_text(body), problem=f"the answer is no whole JSON: {error}"[: MAX_SHOWN * 2])
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and "error" in value[0]:
        # The OpenAI path wraps its errors in an array.
        value = value[0]
    return Answer("unary", (Item(value, body),), closed=True)


def _stream(shape: StreamShape, stream: Events) -> Answer:
    items: list[Item] = []
    problems = list(stream.problems)
    done = False
    for event in stream.events:
        if event.data == b"[DONE]":
            done = True
            continue
        try:
            items.append(Item(read_json(event.data), event.data, event.start, event.name))
        except ValueError:
            problems.append(_unreadable(event))
    problem = "; ".join(problems[:3]) or None
    return Answer(shape, tuple(items), closed=stream.closed, done=done, problem=problem)


def _unreadable(event: Event) -> str:
    if not event.terminated:
        return f"the last event is cut off (byte {event.start})"
    shown = event.data[:MAX_SHOWN].decode("utf-8", "replace")
    return f"an event is no JSON (byte {event.start}): {shown}"
