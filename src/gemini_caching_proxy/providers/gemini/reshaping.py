"""A generated answer in another shape: one object, server-sent events, or a streamed JSON array.

An item of a stream keeps its JSON as it was sent, but for white space and escapes where an event must be one line of
ASCII: old SDKs end a line at U+2028 as well, and read one data line per event. Framing as the API's own.
"""

from __future__ import annotations

import re
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from gemini_caching_proxy.exchange import StreamShape
from gemini_caching_proxy.providers.answers import Answer, read_answer
from gemini_caching_proxy.providers.reading import error_text

from .merging import merge

_OPERATIONS: Final = frozenset(("generate_content", "stream_generate_content"))
_SHAPES: Final = frozenset(("unary", "sse", "json_array"))
_BETWEEN_STRINGS = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|[ \t\r\n]++', re.DOTALL)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def reshape(operation: str, body: bytes, have: StreamShape, want: StreamShape) -> tuple[bytes, ...] | None:
    """The chunks of an answer in another shape; None if it cannot have it. See `Provider.reshape`."""
    if have == want:
        return (body,)
    if operation not in _OPERATIONS or not {have, want} <= _SHAPES:
        return None
    answer = read_answer((), body, array_streams=have == "json_array")
    if answer.shape != have or not _is_whole(answer) or not _is_text(body):
        return None
    if want == "unary":
        whole = merge([item.data for item in answer.items])
        return None if whole is None else (whole,)
    items = [item.data.strip() for item in answer.items]
    if want == "json_array":
        return (b"[" + items[0], *(b"\n,\r\n" + item for item in items[1:]), b"\n]")
    lines = [_line(item) for item in items]
    # Line breaks inside strings are no JSON, but readers of it are lenient.
    if any(b"\n" in line or b"\r" in line for line in lines):
        return None
    return tuple(b"data: %s\r\n\r\n" % line for line in lines)


def _is_whole(answer: Answer) -> bool:
    return (
        bool(answer.items)
        and answer.closed
        and not answer.done
        and answer.problem is None
        and all(isinstance(item.value, dict) and not _is_error(item.value) for item in answer.items)
    )


def _is_error(value: dict[str, Any]) -> bool:
    return error_text(value) is not None


def _is_text(body: bytes) -> bool:
    try:
        return body.isascii() or bool(body.decode())
    except UnicodeDecodeError:
        return False


def _line(item: bytes) -> bytes:
    """JSON on one line, in ASCII."""
    bare = _BETWEEN_STRINGS.sub(rb"\1", item)
    if bare.isascii():
        return bare
    return _NOT_ASCII.sub(lambda run: encode_basestring_ascii(run[0])[1:-1], bare.decode()).encode("ascii")
