import json
import random
import time
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from gemini_caching_proxy.bodies import (
    MAX_TEXT_CHARS,
    digest,
    member,
    plain_text,
    read_json,
    split_request,
    split_response,
    text_of,
)


class Members(list[tuple[str, Any]]):
    """The members of an object, in order, with any key as often as it comes."""


IMAGE = "iVBORw0KGgo+/" * 100
OTHER_IMAGE = "R0lGODlhAQAB-_" * 100 + "=="
KEYS = st.sampled_from(
    [
        *("contents", "messages", "input", "requests", "tools", "systemInstruction", "generateContentRequest", "batch"),
        *("inputConfig", "role", "parts", "text", "data", "inlineData", "model", "args", "x", 'q"\\', "ü", "\ud800"),
    ]
)
TEXTS = st.text(max_size=8) | st.sampled_from(
    [IMAGE, OTHER_IMAGE, "data:image/png;base64," + IMAGE, "\ud83d", "\0\0part:1"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(KEYS, inner), max_size=5).map(Members),
    max_leaves=14,
)


def written(value: Any, draw: random.Random) -> str:
    """JSON text of a value with whitespace and escapes chosen at random."""

    def gap() -> str:
        return draw.choice(["", "", " ", "\n  ", "\r\n\t"])

    if isinstance(value, Members):
        members = [f"{written(key, draw)}{gap()}:{gap()}{written(inner, draw)}" for key, inner in value]
        return "{" + gap() + f"{gap()},{gap()}".join(members) + gap() + "}"
    if isinstance(value, list):
        return "[" + gap() + f"{gap()},{gap()}".join(written(inner, draw) for inner in value) + gap() + "]"
    if isinstance(value, str) and draw.random() < 0.3:
        return json.dumps(value).replace("/", "\\/")
    ascii_only = (
        not isinstance(value, str) or draw.random() < 0.5 or any("\ud800" <= char <= "\udfff" for char in value)
    )
    return json.dumps(value, ensure_ascii=ascii_only)


@given(
    value=JSON,
    seed=st.integers(),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    tail=st.sampled_from([b"", b"\n", b"}", b","]),
)
@example(value=Members([("contents", [1]), ("contents", [2, 3])]), seed=0, bom=b"", tail=b"")
def test_the_pieces_of_any_json_are_the_body(value: Any, seed: int, bom: bytes, tail: bytes) -> None:
    body = bom + written(value, random.Random(seed)).encode("utf-8", "surrogatepass") + tail
    for pieces in (split_request(body).pieces, split_response(body, "more")):
        assert b"".join(piece.data for piece in pieces) == body
        assert all(piece.digest in (None, blake3(piece.data).digest(16)) for piece in pieces)


@given(st.binary(max_size=3000) | st.text(alphabet='{}[]",:\\ a1', max_size=60).map(str.encode))
def test_the_pieces_of_any_bytes_are_the_body(body: bytes) -> None:
    assert b"".join(piece.data for piece in split_request(body).pieces) == body
    assert b"".join(piece.data for piece in split_response(body)) == body


@given(
    contents=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=3), max_size=6),
    seed=st.integers(),
)
def test_each_turn_is_a_part_and_the_conversation_is_their_digests(contents: list[dict[str, str]], seed: int) -> None:
    draw = random.Random(seed)
    turns = [written(Members(turn.items()), draw) for turn in contents]
    body = f'{{"contents" : [{" , ".join(turns)}] , "generationConfig":{{"topK":1}}}}'.encode()
    split = split_request(body)
    assert list(split.conversation) == [digest(turn.encode()) for turn in turns]
    assert [piece.data for piece in split.pieces if piece.digest] == [turn.encode() for turn in turns] or not turns


def parts(body: Any) -> list[tuple[bytes, str]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    split = split_request(data)
    assert b"".join(piece.data for piece in split.pieces) == data
    return [(piece.data, piece.text) for piece in split.pieces if piece.digest is not None]


def test_a_request_is_cut_at_turns_system_instruction_and_tools() -> None:
    turn = {"role": "user", "parts": [{"text": "Hello"}, {"text": "there"}]}
    system = {"parts": [{"text": "Be brief."}]}
    tools = [{"functionDeclarations": [{"name": "find", "description": "Finds it", "parameters": {"type": "object"}}]}]
    found = parts(
        {"systemInstruction": system, "contents": [turn, turn], "tools": tools, "generationConfig": {"topK": 1}}
    )
    assert found == [
        (json.dumps(system).encode(), "Be brief."),
        (json.dumps(turn).encode(), "Hello\nthere"),
        (json.dumps(turn).encode(), "Hello\nthere"),
        (json.dumps(tools).encode(), "find\nFinds it"),
    ]


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"generateContentRequest": {"model": "m", "contents": [{"parts": [{"text": "a"}]}]}}, ["a"]),
        ({"generate_content_request": {"system_instruction": {"parts": [{"text": "s"}]}}}, ["s"]),
        ({"requests": [{"content": {"parts": [{"text": "a"}]}}, {"content": {"parts": [{"text": "b"}]}}]}, ["a", "b"]),
        ({"batch": {"input_config": {"requests": {"requests": [{"request": {"contents": "a"}}]}}}}, ["a"]),
        ({"model": "m", "project": "p", "request": {"contents": [{"parts": [{"text": "a"}]}]}}, ["a"]),
        ({"content": {"parts": [{"text": "a"}]}}, ["a"]),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "model": "m"},
            ["a", "b"],
        ),
        ({"input": "a joke", "model": "m"}, ["a joke"]),
        ({"input": [{"type": "text", "text": "a"}, {"type": "image", "data": "QUJD"}]}, ["a", "QUJD"]),
        ({"input": [[1, 2], [3]], "model": "m"}, [""]),
        ({"instances": [{"prompt": "a cat"}]}, ["a cat"]),
        ({"uses": 1, "note": "b"}, ["b"]),
        ([{"text": "a"}, 2], ["a"]),
    ],
)
def test_the_shapes_of_requests(body: Any, texts: list[str]) -> None:
    assert [text for _, text in parts(body)] == texts


def test_text_is_what_people_search_for() -> None:
    turn = {
        "role": "model",
        "parts": [
            {"functionCall": {"id": "c1", "name": "weather", "args": {"type": "daily", "city": "Köln", "days": 3}}},
            {
                "functionResponse": {"name": "weather", "response": {"data": "sunny", "id": "r1"}},
                "thoughtSignature": "c2ln",
            },
            {"inlineData": {"mimeType": "image/png", "data": IMAGE}},
        ],
    }
    assert text_of(turn).split("\n") == ["weather", "daily", "Köln", "weather", "sunny", "r1"]


def test_text_is_bounded() -> None:
    assert len(text_of(["word " * 1000] * 1000)) == MAX_TEXT_CHARS
    assert text_of([["x"]] * 3, 3) == "x\nx"


def test_a_long_base64_string_is_a_part_of_its_own_and_each_slice_has_its_text() -> None:
    turn = {
        "role": "user",
        "parts": [{"text": "before"}, {"inlineData": {"mimeType": "image/png", "data": IMAGE}}, {"text": "after"}],
    }
    raw = json.dumps(turn).encode()
    split = split_request(b'{"contents":[' + raw + b"]}")
    assert split.conversation == (digest(raw),)
    before, image, after = (piece for piece in split.pieces if piece.digest)
    assert (before.text, image.data, image.text, after.text) == ("before", IMAGE.encode(), "", "after")
    assert before.data + image.data + after.data == raw


def test_two_images_with_the_same_words_around_share_their_slices() -> None:
    def turn(image: str, text: str) -> list[tuple[bytes, str]]:
        return parts({"contents": [{"parts": [{"inlineData": {"data": image}}, {"text": text}]}]})

    first, second = turn(IMAGE, "What is this?"), turn(OTHER_IMAGE, "What is this?")
    assert [text for _, text in first] == [text for _, text in second] == ["", "What is this?"]
    assert first[-1] == second[-1]


def test_an_image_that_comes_back_is_stored_once() -> None:
    part = {"inlineData": {"mimeType": "image/png", "data": IMAGE}}
    answer = json.dumps({"candidates": [{"content": {"parts": [part]}}]}, indent=2).encode()
    kept = {piece.digest for piece in split_response(answer) if piece.digest}
    assert kept == {digest(IMAGE.encode())}
    asked = split_request(json.dumps({"contents": [{"role": "model", "parts": [part]}]}).encode())
    assert kept <= {piece.digest for piece in asked.pieces}


@pytest.mark.parametrize(
    "value",
    ["data:image/png;base64," + IMAGE, "data:audio/wav;rate=8000;base64," + IMAGE],
)
def test_data_urls_are_cut_at_their_data(value: str) -> None:
    found = parts({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": value}}]}]})
    assert IMAGE.encode() in [data for data, _ in found]


def test_escaped_slashes_do_not_break_a_base64_string() -> None:
    data = IMAGE.replace("/", "\\/").encode()
    found = parts(b'{"contents":[{"parts":[{"inline_data":{"data":"' + data + b'"}}]}]}')
    assert data in [data for data, _ in found]


def test_signatures_and_short_data_stay_in_their_turn() -> None:
    turn = {"parts": [{"thoughtSignature": IMAGE}, {"inlineData": {"data": "QUJD" * 200}}]}
    assert [data for data, _ in parts({"contents": [turn]})] == [json.dumps(turn).encode()]


@pytest.mark.parametrize(
    "odd",
    [
        b'{"text":"cut emoji \\ud83d"}',
        b'{"text":"\\\\ud800 and \\udc00"}',
        b'{"n":NaN,"m":-Infinity}',
        b'{"n":1e999,"m":123456789012345678901234567890}',
        b'{"text":"\xff\xfe"}',
        b'{"a":1,"a":2}',
    ],
)
def test_turns_are_found_in_json_that_strict_parsers_refuse(odd: bytes) -> None:
    body = b'{"contents":[' + odd + b',{"parts":[{"text":"next"}]}]}'
    assert [data for data, _ in parts(body)] == [odd, b'{"parts":[{"text":"next"}]}']


def test_a_body_that_is_no_json_is_one_part_with_its_text() -> None:
    assert parts(b"--boundary\r\nHello") == [(b"--boundary\r\nHello", "--boundary\r\nHello")]
    assert parts(b'{"contents":[{"text":"cut o') == [
        (b'{"contents":[{"text":"cut o',) * 1 + ('{"contents":[{"text":"cut o',)
    ]
    assert parts(b"\x89PNG\0\0") == [(b"\x89PNG\0\0", "")]
    assert parts(b"[" * 5000 + b"]" * 5000)[0][0] == b"[" * 5000 + b"]" * 5000
    assert split_request(b"").pieces == ()


def test_plain_text_is_cut_between_characters() -> None:
    assert plain_text("ü".encode() * 100, 10) == "ü" * 10
    assert plain_text(b"a" + "ü".encode() * 100, 10) == "a" + "ü" * 9
    assert plain_text(b"\xff" * 10) == ""


def test_member_gives_the_exact_bytes() -> None:
    body = b'{"a": {"usage" : { "n": 1.0 } }, "b": 2}'
    assert member(body, "a", "usage") == b'{ "n": 1.0 }'
    assert member(body, "c") == member(body, "b", "x") == member(b"nope", "a") == b""


def test_json_is_read_tolerantly_but_not_without_end() -> None:
    assert read_json(b'\xef\xbb\xbf{"a":"\\ud83d"}') == {"a": "\ud83d"}
    assert read_json(b'["\xff"]') == ["\ufffd"]
    with pytest.raises(ValueError, match="deep"):
        read_json(b"[" * 100_000 + b"]" * 100_000)


def test_an_agents_request_is_cut_within_milliseconds() -> None:
    draw = random.Random(1)
    words = ["lorem", "ipsum", "dolor\n", '"sit"', "amet(x)"]
    turns = [{"role": "user", "parts": [{"text": " ".join(draw.choices(words, k=140))}]} for _ in range(200)]
    body = json.dumps({"contents": turns}).encode()
    best = min(elapsed(body) for _ in range(10))
    # Some 2 ms where this was written; the bound leaves room for a slow and busy machine.
    assert best < 0.02, f"{len(body)} bytes took {best * 1000:.1f} ms"


def elapsed(body: bytes) -> float:
    start = time.perf_counter()
    assert len(split_request(body).conversation) == 200
    return time.perf_counter() - start
