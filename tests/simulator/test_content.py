"""What is said: deterministic, and fitting the question."""

from __future__ import annotations

import json
import struct
import zlib
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_caching_proxy.simulator import content
from gemini_caching_proxy.simulator.answers import Question, Tool, answer_for
from gemini_caching_proxy.simulator.generation import ENUM_NUMBERS, with_int_enums
from gemini_caching_proxy.simulator.reply import Pacing, Reply, body_writes, last_chunk, one_line, pretty


def test_the_same_question_gets_the_same_answer() -> None:
    question = Question("gemini-2.5-flash", "key", "hello", {"TEXT": 2})
    first, second = answer_for(question, 1), answer_for(question, 1)
    assert (first.id, first.text, first.signature) == (second.id, second.text, second.signature)
    assert answer_for(question, 1, nonce=1).text != first.text
    assert answer_for(question, 2).id != first.id


@given(st.text(min_size=1), st.integers(1, 60), st.integers())
def test_split_text_joins_again(text: str, parts: int, seed: int) -> None:
    pieces = content.split_text(Random(seed), text, parts)
    assert "".join(pieces) == text
    assert len(pieces) == min(parts, len(text))
    assert all(pieces)


SCALARS = st.sampled_from(
    [
        {"type": "string", "minLength": 3, "maxLength": 6},
        {"type": "INTEGER", "minimum": 4, "maximum": 9},
        {"type": "number", "minimum": -1, "maximum": 1},
        {"type": "boolean"},
        {"type": "STRING", "enum": ["a", "b"]},
        {"const": 3},
        {"type": ["string", "null"]},
    ]
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: (
        st.builds(lambda items: {"type": "ARRAY", "items": items, "minItems": 2, "maxItems": 3}, inner)
        | st.builds(
            lambda properties: {"type": "object", "properties": properties, "required": list(properties)[:1]},
            st.dictionaries(st.sampled_from("abcd"), inner, min_size=1),
        )
        | st.builds(lambda choice: {"anyOf": [choice]}, inner)
    ),
    max_leaves=8,
)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return fits(value, schema["anyOf"][0])
    kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"].lower()
    if kind == "object":
        names = set(schema["properties"])
        return set(schema["required"]) <= set(value) <= names and all(
            fits(inner, schema["properties"][name]) for name, inner in value.items()
        )
    if kind == "array":
        return 2 <= len(value) <= 3 and all(fits(item, schema["items"]) for item in value)
    if kind == "string":
        return isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 99)
    if kind == "integer":
        return isinstance(value, int) and schema["minimum"] <= value <= schema["maximum"]
    if kind == "number":
        return isinstance(value, float) and schema["minimum"] <= value <= schema["maximum"]
    return isinstance(value, bool)


@given(SCHEMAS, st.integers())
def test_values_fit_their_schema(schema: dict[str, Any], seed: int) -> None:
    assert fits(content.conforming(Random(seed), schema), schema)


def test_the_tool_that_fits_is_called() -> None:
    tools = tuple(Tool(name, {"type": "object"}) for name in ("read_file", "get_weather", "search"))
    for asked, named in (("how is the weather", "get_weather"), ("something else", "read_file")):
        answer = answer_for(Question("m", "k", asked, tools=tools), 0)
        assert answer.call is not None
        assert answer.call.name == named
    assert answer_for(Question("m", "k", "weather", tools=tools, after_tool_result=True), 0).call is None


@pytest.mark.parametrize("seed", range(4))
def test_pictures_are_valid(seed: int) -> None:
    data = content.png(Random(seed), side=16)
    position, kinds = 8, []
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + size]
        assert struct.unpack_from(">I", data, position + 8 + size)[0] == zlib.crc32(kind + body)
        kinds.append(kind)
        if kind == b"IDAT":
            assert len(zlib.decompress(body)) == 16 * (1 + 3 * 16)
        position += 12 + size
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_printers_print_json(value: Any) -> None:
    assert json.loads(pretty(value)) == json.loads(one_line(value)) == value
    assert "<" not in one_line(value)


def test_enum_numbers_leave_arguments_alone() -> None:
    value = {"finishReason": "STOP", "parts": [{"functionCall": {"args": {"finishReason": "STOP"}}}], "modality": "NEW"}
    changed = with_int_enums(value)
    assert changed["finishReason"] == ENUM_NUMBERS["finishReason"]["STOP"] == 1
    assert changed["parts"][0]["functionCall"]["args"] == {"finishReason": "STOP"}
    assert changed["modality"] == 0


@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.sampled_from(["event", "split", "joined", "drip"]),
    st.sampled_from(["chunked", "length"]),
)
def test_any_cutting_carries_the_same_body(pieces: list[bytes], writes: Any, framing: Any) -> None:
    reply = Reply(200, (), tuple(pieces), framing)
    wire = b"".join(data for _, data in body_writes(reply, Pacing(writes=writes), Random(1)))
    if framing == "length":
        assert wire == b"".join(pieces)
        return
    body = b""
    while not wire.startswith(b"0\r\n"):
        line, wire = wire.split(b"\r\n", 1)
        size = int(line, 16)
        body, wire = body + wire[:size], wire[size + 2 :]
    assert body == b"".join(pieces)
    assert wire == last_chunk()
