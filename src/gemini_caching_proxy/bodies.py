"""A body -> parts that repeat from request to request, cut as exact byte slices, and the text in them for search.

Invariants: the pieces joined are the body, whatever it holds; JSON is never written anew, only sliced; nothing raises.
A part is an element of `contents`, `messages`, `input` and their like, a system instruction, the tools, or a long
base64 string anywhere. A body that is no JSON is one part. Which keys mean what is one table here, for the names of
all dialects differ and never clash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import orjson
from blake3 import blake3

from .exchange import Piece

DIGEST_BYTES = 16
MIN_BASE64_BYTES = 1024
"""A shorter base64 string stays where it is."""
MIN_SLICE_BYTES = 64
"""What a base64 string leaves of an element is a part from this size on, or if it has text."""
MAX_PARTS = 20_000
"""An array that would make more is one part."""
MAX_TEXT_CHARS = 64 * 1024
"""Text kept of one part."""
MAX_DEPTH = 4

Rule = Literal["elements", "whole", "inside"]
_RULES: dict[str, Rule] = {
    "contents": "elements",
    "messages": "elements",
    "input": "elements",
    "requests": "elements",
    "instances": "elements",
    "content": "whole",
    "prompt": "whole",
    "systemInstruction": "whole",
    "system_instruction": "whole",
    "system": "whole",
    "instructions": "whole",
    "tools": "whole",
    "generateContentRequest": "inside",
    "generate_content_request": "inside",
    "request": "inside",
    "batch": "inside",
    "inputConfig": "inside",
    "input_config": "inside",
}
CONVERSATION_KEYS = ("contents", "messages", "input")

_SKIPPED_KEYS = frozenset(
    (
        *("role", "type", "id", "model", "format", "encoding", "detail", "taskType", "task_type"),
        *("signature", "thoughtSignature", "thought_signature", "mimeType", "mime_type", "mediaType", "media_type"),
        *("callId", "call_id", "toolCallId", "tool_call_id"),
    )
)
"""Keys whose strings nobody searches for, but in what users put in themselves:"""
_USER_DATA_KEYS = frozenset(("args", "response", "arguments", "output", "result"))

_JSON_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_KEY = re.compile(rb'[ \t\r\n]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL)
_AFTER_VALUE = re.compile(rb"[ \t\r\n]*+[,}\]][ \t\r\n]*+")
# A backslash belongs to it for `\/` and for line breaks inside the string.
_BASE64_STRING = re.compile(rb'"(?:data:[^",]{0,200}+,)?+([A-Za-z0-9+/_=\\-]{1024,}+)"')
# Signatures of thoughts come back with each turn that holds them: cutting them out too would save little.
_SIGNATURE_KEY = b'ignature"'
_OPAQUE = re.compile(r"(?:data:[^,]{0,200},)?[A-Za-z0-9+/_=\r\n-]{256,}")
_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}|\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_MARK = "\0\0part:"
_MARK_JSON = rb"\u0000\u0000part:"

_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements_decoder = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Split:
    """A body in pieces."""

    pieces: tuple[Piece, ...] = ()
    conversation: tuple[bytes, ...] = ()
    """Digests (BLAKE3, 16 bytes) of the elements of `contents`, `messages` or `input`, in order.

    Each is over the element's whole slice, also where a base64 string in it makes it several pieces.
    """
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class _Slice:
    """Bytes `start` to `end` of a body, which are a JSON value."""

    start: int
    end: int
    turn: bool = False
    """Whether it is a turn of the conversation."""


def digest(data: bytes) -> bytes:
    """The name that a part is stored under: BLAKE3, 16 bytes."""
    return blake3(data).digest(DIGEST_BYTES)


def split_request(body: bytes) -> Split:
    """Cut a request body at its parts."""
    if not body:
        return Split()
    slices = _find_slices(body)
    if slices:
        return _cut(body, slices)
    # Looked at before it is read: an upload may be 64 MiB of anything.
    if body[:512].removeprefix(_BOM).lstrip(_JSON_SPACE)[:1] in (b"{", b"[", b'"'):
        try:
            read_json(body)
        except ValueError:
            pass
        else:
            return _cut(body, [_Slice(0, len(body))])
    return Split((Piece(body, digest(body), plain_text(body)),))


def member(data: bytes, *keys: str) -> bytes:
    """The exact bytes of a value inside JSON objects, by the keys that lead to it; empty if it is not there."""
    try:
        for key in keys:
            raw = _members_decoder.decode(data.removeprefix(_BOM)).get(key)
            if raw is None:
                return b""
            data = bytes(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return b""
    return data


def split_response(body: bytes, text: str = "") -> tuple[Piece, ...]:
    """Cut the long base64 strings out of an answer: a client that sends an image back sends the same string.

    `text` is what search should find besides the answer's own text, such as thoughts.
    """
    pieces: list[Piece] = []
    position = 0
    for start, end in _base64_strings(body):
        pieces += (Piece(body[position:start]), _part(body[start:end]))
        position = end
    if position < len(body) or text:
        pieces.append(Piece(body[position:], None, text))
    return tuple(pieces)


def read_json(data: bytes) -> Any:
    """JSON as Python values, read more tolerantly than by the letter: lone surrogates, NaN, bad UTF-8, a BOM.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.removeprefix(_BOM).decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def text_of(value: Any, limit: int = MAX_TEXT_CHARS) -> str:
    """The strings inside a JSON value that a person would search for, one a line, at most `limit` characters."""
    return _bounded(list(_strings(value, marks=False)), limit)


def plain_text(data: bytes, limit: int = MAX_TEXT_CHARS) -> str:
    """The start of a body that is text and no JSON; empty if it is binary."""
    head = data[: limit * 4]
    if b"\0" in head:
        return ""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4 or len(head) == len(data):
            return ""
        text = head[: error.start].decode("utf-8")
    return text[:limit]


def _bounded(texts: list[str], limit: int) -> str:
    text = "\n".join(texts)
    return text if len(text) <= limit else text[:limit]


def _strings(value: Any, *, marks: bool) -> Iterator[str]:
    # A stack of its own: Python's would overflow on what a JSON parser still takes.
    stack: list[tuple[Any, bool]] = [(value, False)]
    room = MAX_TEXT_CHARS
    while stack and room > 0:
        item, free = stack.pop()
        if isinstance(item, str):
            if marks and _MARK in item:
                yield item
            elif item and not (len(item) >= 256 and _OPAQUE.fullmatch(item)):
                room -= 0 if marks else len(item)
                yield item
        elif isinstance(item, dict):
            for key, inner in reversed(item.items()):
                if free or key not in _SKIPPED_KEYS or not isinstance(inner, str) or (marks and _MARK in inner):
                    stack.append((inner, free or key in _USER_DATA_KEYS))
        elif isinstance(item, list):
            stack.extend([(inner, free) for inner in reversed(item)])


# Finding the parts


def _find_slices(body: bytes) -> list[_Slice]:
    """The parts of a JSON object, in order and apart from each other; empty for anything else."""
    start = 3 if body.startswith(_BOM) else 0
    for text in (body, None):
        try:
            return list(_parts_of(_repaired(body) if text is None else text, start, len(body), 0))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        except RecursionError:
            break
    return []


def _repaired(body: bytes) -> bytes:
    """A copy of the same length, for finding places only, without what msgspec refuses and JSON writers emit."""
    body = _SURROGATE.sub(rb"\\u003f", body)
    return body.replace(b"-Infinity", b"-10000000").replace(b"Infinity", b"10000000").replace(b"NaN", b"100")


def _parts_of(body: bytes, start: int, end: int, depth: int) -> Iterator[_Slice]:
    for key, value_start, value_end in _members(body, start, end):
        rule = _RULES.get(key)
        if rule is None or depth == MAX_DEPTH:
            continue
        first = body[value_start]
        if first == 0x5B and rule == "elements":
            yield from _element_slices(body, value_start, value_end, turn=key in CONVERSATION_KEYS)
        elif first == 0x7B and (rule == "inside" or key == "requests"):
            yield from _parts_of(body, value_start, value_end, depth + 1)
        elif rule != "inside" and first in b'{["':
            yield _Slice(value_start, value_end, turn=key in CONVERSATION_KEYS)


def _members(body: bytes, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Key, start and end of each value of the object in `body[start:end]`; fewer when a key is there twice.

    A key that is there twice hides the length of its first value, so reading stops there.
    """
    while start < end and body[start] in _JSON_SPACE:
        start += 1
    if start == end or body[start] != 0x7B:
        return
    values = _members_decoder.decode(body[start:end] if start or end != len(body) else body)
    position = start + 1
    for _ in range(len(values)):
        match = _KEY.match(body, position, end)
        if match is None:
            return
        name = match.group(1)
        key = msgspec.json.decode(b'"' + name + b'"', type=str) if b"\\" in name else name.decode("utf-8", "replace")
        raw = values.pop(key, None)
        if raw is None:
            return
        position = match.end() + len(memoryview(raw))
        after = _AFTER_VALUE.match(body, position, end)
        if after is None:
            return
        yield key, match.end(), position
        position = after.end()


def _element_slices(body: bytes, start: int, end: int, *, turn: bool) -> Iterator[_Slice]:
    elements = _elements_decoder.decode(body[start:end])
    objects = all(bytes(memoryview(element)[:1]) in (b"{", b'"') for element in elements)
    if not elements or len(elements) > MAX_PARTS or not objects:
        yield _Slice(start, end, turn=turn and bool(elements))
        return
    position = start + 1
    while body[position] in _JSON_SPACE:
        position += 1
    for element in elements:
        stop = position + len(memoryview(element))
        yield _Slice(position, stop, turn=turn)
        after = _AFTER_VALUE.match(body, stop)
        assert after is not None, "an array's element is followed by a comma or the end"
        position = after.end()


def _base64_strings(body: bytes) -> list[tuple[int, int]]:
    if len(body) < MIN_BASE64_BYTES:
        return []
    found = _BASE64_STRING.finditer(body)
    return [match.span(1) for match in found if _SIGNATURE_KEY not in body[max(0, match.start() - 24) : match.start()]]


# Cutting


def _cut(body: bytes, slices: list[_Slice]) -> Split:
    pieces: list[Piece] = []
    conversation: list[bytes] = []
    strings = _base64_strings(body)
    position = index = 0
    for part in slices:
        index = _cut_glue(body, position, part.start, strings, index, pieces)
        first = index
        while index < len(strings) and strings[index][0] < part.end:
            index += 1
        data = body[part.start : part.end]
        name = digest(data) if part.turn or first == index else b""
        if first == index:
            pieces.append(Piece(data, name, _text_of_slice(data)))
        else:
            _cut_element(body, part, strings[first:index], pieces)
        if part.turn:
            conversation.append(name)
        position = part.end
    _cut_glue(body, position, len(body), strings, index, pieces)
    return Split(tuple(pieces), tuple(conversation), True)


def _cut_glue(
    body: bytes, start: int, end: int, strings: list[tuple[int, int]], index: int, pieces: list[Piece]
) -> int:
    """Add what lies between parts; gives the index of the first base64 string behind it."""
    while index < len(strings) and strings[index][0] < end:
        string_start, string_end = strings[index]
        pieces += (Piece(body[start:string_start]), _part(body[string_start:string_end]))
        start = string_end
        index += 1
    if start < end:
        pieces.append(Piece(body[start:end]))
    return index


def _cut_element(body: bytes, part: _Slice, strings: list[tuple[int, int]], pieces: list[Piece]) -> None:
    """Cut an element around its base64 strings, each slice with the text that is in it."""
    texts = _texts_between(body, part, strings)
    position = part.start
    for (start, end), text in zip(strings, texts, strict=False):
        pieces += (_part_or_glue(body[position:start], text), _part(body[start:end]))
        position = end
    pieces.append(_part_or_glue(body[position : part.end], texts[-1]))


def _texts_between(body: bytes, part: _Slice, strings: list[tuple[int, int]]) -> list[str]:
    """The text before, between and after the base64 strings of an element.

    A slice's text must come from the slice alone, because parts with the same bytes are stored once.
    """
    marked = bytearray()
    position = part.start
    for number, (start, end) in enumerate(strings, 1):
        marked += body[position:start] + _MARK_JSON + str(number).encode()
        position = end
    marked += body[position : part.end]
    found: list[list[str]] = [[] for _ in range(len(strings) + 1)]
    try:
        value = read_json(bytes(marked))
    except ValueError:
        return [""] * len(found)
    bucket = 0
    for text in _strings(value, marks=True):
        if _MARK in text:
            name = text.rpartition(_MARK)[2]
            bucket = int(name) if name.isascii() and name.isdecimal() and int(name) < len(found) else bucket
        else:
            found[bucket].append(text)
    return [_bounded(texts, MAX_TEXT_CHARS) for texts in found]


def _text_of_slice(data: bytes) -> str:
    try:
        return text_of(read_json(data))
    except ValueError:
        return ""


def _part(data: bytes) -> Piece:
    return Piece(data, digest(data))


def _part_or_glue(data: bytes, text: str) -> Piece:
    return Piece(data, digest(data), text) if text or len(data) >= MIN_SLICE_BYTES else Piece(data)
