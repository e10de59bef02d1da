import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gemini_caching_proxy.eventstream import ArrayParser, Event, SseParser, read_array, read_sse

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.one_of(
    st.sampled_from(
        [b"", b"", b"data: {}", b"data:x", b"data", b": ping", b"event: done", b"id: 7", b"retry: 5", b"junk"]
    ),
    st.binary(max_size=12),
    st.text(max_size=6).map(lambda text: b"data: " + text.encode("utf-8", "replace")),
)
SSE_BODIES = st.builds(
    lambda bom, lines: bom + b"".join(line + end for line, end in lines),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(LINES, st.one_of(LINE_ENDS, st.just(b""))), max_size=14),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(['"\\', "}],[{", "\\u0000"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ARRAY_BODIES = st.one_of(
    st.builds(
        lambda items, gap: ("[" + gap.join(json.dumps(i) for i in items) + "\n]").encode(),
        st.lists(JSON),
        st.just(",\r\n"),
    ),
    st.builds(lambda value: json.dumps(value, indent=2).encode(), st.lists(JSON, max_size=4)),
    st.lists(
        st.sampled_from([b"[", b"]", b"{", b"}", b",", b'"', b"\\", b" ", b"1", b"\xef\xbb\xbf", b"\r\n", b"x"]),
        max_size=25,
    ).map(b"".join),
)
LIMITS = st.sampled_from([4, 9, 1000])


def chunks(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def waiting_bytes(parser: SseParser | ArrayParser) -> int:
    return int(repr(parser).split()[-3])


def fed(parser: SseParser | ArrayParser, pieces: list[bytes]) -> list[Event]:
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.finish()


@given(body=SSE_BODIES, cuts=st.lists(st.integers(0, 500), max_size=8), limit=LIMITS)
@example(body=b"data: a\r\n\r\ndata: b", cuts=[8, 9], limit=1000)
@example(body=b"data: " + b"x" * 40 + b"\r\n\r\ndata: y\r\r", cuts=[3, 47], limit=9)
def test_any_split_of_server_sent_events_gives_the_same_events(body: bytes, cuts: list[int], limit: int) -> None:
    whole, parser = read_sse(body, max_event_bytes=limit), SseParser(max_event_bytes=limit)
    assert fed(parser, chunks(body, cuts)) == list(whole.events)
    assert tuple(parser.problems) == whole.problems


@given(body=ARRAY_BODIES, cuts=st.lists(st.integers(0, 500), max_size=8), limit=LIMITS)
@example(body=b'["a\\"b"]', cuts=[3, 4, 5], limit=1000)
def test_any_split_of_an_array_gives_the_same_items(body: bytes, cuts: list[int], limit: int) -> None:
    whole, parser = read_array(body, max_event_bytes=limit), ArrayParser(max_event_bytes=limit)
    assert fed(parser, chunks(body, cuts)) == list(whole.events)
    assert (tuple(parser.problems), parser.closed) == (whole.problems, whole.closed)


@given(
    items=st.lists(JSON, max_size=5), indent=st.sampled_from([None, 2]), cuts=st.lists(st.integers(0, 500), max_size=6)
)
def test_the_items_of_an_array_are_its_values_at_their_places(
    items: list[object], indent: int | None, cuts: list[int]
) -> None:
    body = json.dumps(items, indent=indent).encode()
    parser = ArrayParser()
    events = fed(parser, chunks(body, cuts))
    assert [json.loads(event.data) for event in events] == items
    assert [body[event.start : event.end] for event in events] == [event.data for event in events]
    assert (parser.closed, parser.problems) == (True, [])


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: 1\n\n", [Event(b"1", 0, 9)]),
        (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [Event(b"1", 0, 11), Event(b"2", 11, 22)]),
        (b"data: 1\r\rdata: 2\r\r", [Event(b"1", 0, 9), Event(b"2", 9, 18)]),
        (b"\xef\xbb\xbfdata: 1\n\n", [Event(b"1", 3, 12)]),
        (b"data:1\ndata:  2\ndata\n\n", [Event(b"1\n 2\n", 0, 22)]),
        (b": ping\n\n: ping\ndata: 1\n\n", [Event(b"1", 15, 24)]),
        (b"event: done\nid: 9\ndata: [DONE]\n\n", [Event(b"[DONE]", 0, 32, "done", "9")]),
        (b"event: only\n\ndata: 1\n\n", [Event(b"1", 13, 22)]),
        (b"data: 1\n\ndata: 2", [Event(b"1", 0, 9), Event(b"2", 9, 16, terminated=False)]),
        (b"data: 1\n", [Event(b"1", 0, 8, terminated=False)]),
        ("data: ü\u2028\x85\n\n".encode(), [Event("ü\u2028\x85".encode(), 0, 15)]),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_server_sent_events_are_read_as_a_browser_reads_them(body: bytes, events: list[Event]) -> None:
    assert list(read_sse(body).events) == events


def test_a_line_that_is_no_field_is_told_and_the_rest_is_read() -> None:
    stream = read_sse(b"oops\ndata: 1\n\n")
    assert [event.data for event in stream.events] == [b"1"]
    assert stream.problems == ("a line is no field of an event (byte 0)",)


def test_an_event_over_the_limit_is_told_and_does_not_stay_in_memory() -> None:
    parser = SseParser(max_event_bytes=1000)
    assert parser.feed(b"data: ") == []
    for _ in range(100):
        assert parser.feed(b"x" * 100) == []
        assert waiting_bytes(parser) <= 1100
    assert [event.data for event in parser.feed(b"\n\ndata: 1\n\n")] == [b"1"]
    assert parser.problems == ["an event is larger than 1000 bytes (byte 0)"]


def test_an_item_over_the_limit_is_told_and_does_not_stay_in_memory() -> None:
    parser = ArrayParser(max_event_bytes=1000)
    assert parser.feed(b'[{"a":"') == []
    for _ in range(100):
        assert parser.feed(b"x" * 100) == []
        assert waiting_bytes(parser) <= 1100
    assert [event.data for event in parser.feed(b'"},\n{"b":1}\n]')] == [b'{"b":1}']
    assert parser.problems == ["an item is larger than 1000 bytes (byte 1)"]


@pytest.mark.parametrize(
    ("body", "items", "problem"),
    [
        (b'[{"a":1}\n,\r\n{"b":2}\n]', [b'{"a":1}', b'{"b":2}'], None),
        (b'[{"a":1}\n,\r\n{"b":', [b'{"a":1}', b'{"b":'], "the array does not end"),
        (b'{"error":{}}', [], "the stream does not start with an array (byte 0)"),
        (b"[1]\n2", [b"1"], "something follows the array (byte 4)"),
        (b" \n", [], "there is no array"),
    ],
)
def test_broken_arrays_give_what_is_there_and_tell_why(body: bytes, items: list[bytes], problem: str | None) -> None:
    stream = read_array(body)
    assert [event.data for event in stream.events] == items
    assert stream.problems == ((problem,) if problem else ())
    assert stream.closed == (problem is None or "follows" in problem)
