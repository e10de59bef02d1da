"""Why a request misses: the nearest entry, and the first value that differs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answered import index, recorded, settings, talk
from factories import MINUTE_NS, NOW_NS
from gemini_caching_proxy.cache.policy import Policy
from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind, Verdict
from gemini_caching_proxy.explanation import (
    CREDENTIAL,
    MODEL,
    NOTHING,
    Explainer,
    Explanation,
    around_difference,
    common_length,
    compare,
    leaves,
    path_text,
)
from gemini_caching_proxy.settings import CacheMode
from gemini_caching_proxy.stores.sqlite import SQLiteStore

LATER_NS = NOW_NS + 59 * MINUTE_NS


def asking(request: dict[str, Any], **over: Any) -> Exchange:
    """A request that was never sent."""
    return recorded(request, 30, outcome=Failure(FailureKind.INTERRUPTED), **over)


@pytest.fixture
def explain(tmp_path: Path) -> Callable[..., Explanation]:
    """Explain the last of these exchanges against a store with the others."""

    def run(
        them: Sequence[Exchange],
        request: Exchange,
        *,
        now_ns: int = LATER_NS,
        asked: CacheMode | None = None,
        **over: Any,
    ) -> Explanation:
        async def work() -> Explanation:
            store = SQLiteStore(tmp_path / "exchanges.sqlite3")
            await store.open()
            try:
                await store.add(them)
                known = settings(**over)
                explainer = Explainer(
                    store, index(**over), Policy.from_settings(known), shared=known.cache_namespace == "shared"
                )
                return await explainer.explain(request, now_ns, asked=asked, any_credential=request.credential is None)
            finally:
                await store.aclose()

        return asyncio.run(work())

    return run


def test_a_hit_is_told_with_its_entry(explain: Callable[..., Explanation]) -> None:
    one = recorded(talk("Is it?"))
    found = explain([one, recorded(talk("Was it?"))], asking(talk("Is it?")))
    assert found.verdict is Verdict.HIT
    assert found.entry is not None
    assert found.entry.exchange == one.id
    assert found.key == one.entry_key
    assert found.nearest is None
    assert found.why == ""


def test_a_miss_names_the_nearest_entry_and_the_first_value_that_differs(explain: Callable[..., Explanation]) -> None:
    far = recorded(talk("What is a duck?", "A bird.", "And a goose?"), 1)
    near = recorded(
        talk("What is a duck?", "A bird.", "And a swan?", systemInstruction={"parts": [{"text": "Be brief."}]}), 2
    )
    request = asking(
        talk("What is a duck?", "A bird.", "And a swan!", systemInstruction={"parts": [{"text": "Be brief."}]})
    )
    found = explain([far, near], request)
    assert found.verdict is Verdict.MISS
    assert found.entry is None
    assert found.nearest is not None
    assert found.nearest.entry.exchange == near.id
    assert found.nearest.differences == 1
    first = found.nearest.first
    assert first.path == "contents[2].parts[0].text"
    assert (first.here, first.there) == ('"And a swan!"', '"And a swan?"')


def test_of_equally_many_differences_the_latest_one_is_nearest(explain: Callable[..., Explanation]) -> None:
    them = [recorded(talk(text), minute) for minute, text in enumerate(("What, a duck?", "What a duck?", "Who?"))]
    found = explain(them, asking(talk("What a duck!")))
    assert found.nearest is not None
    assert (found.nearest.entry.exchange, found.nearest.differences) == (them[1].id, 1)


def test_a_turn_that_is_not_there_is_nothing(explain: Callable[..., Explanation]) -> None:
    one = recorded(talk("Hello"))
    found = explain([one], asking(talk("Hello", "Hi", "How are you?")))
    assert found.nearest is not None
    assert found.nearest.first.path.startswith("contents[1].")
    assert found.nearest.first.there == NOTHING


def test_another_model_is_told_as_such(explain: Callable[..., Explanation]) -> None:
    one = recorded(talk("Hello"), model="gemini-2.5-pro", target="/v1beta/models/gemini-2.5-pro:generateContent")
    found = explain([one], asking(talk("Hello")))
    assert found.nearest is not None
    assert found.nearest.first.path == MODEL
    assert (found.nearest.first.here, found.nearest.first.there) == ('"gemini-2.5-flash"', '"gemini-2.5-pro"')


def test_a_recording_of_another_key_is_told_as_such(explain: Callable[..., Explanation]) -> None:
    one = recorded(talk("Hello"), credential="fp_1111111111111111")
    found = explain([one], asking(talk("Hello"), credential="fp_2222222222222222"))
    assert found.verdict is Verdict.MISS
    assert found.nearest is not None
    assert found.nearest.first.path == CREDENTIAL
    assert (found.nearest.first.here, found.nearest.first.there) == ("fp_2222222222222222", "fp_1111111111111111")


def test_a_request_without_a_key_is_looked_up_for_every_key(explain: Callable[..., Explanation]) -> None:
    one = recorded(talk("Hello"), credential="fp_1111111111111111")
    found = explain([one], asking(talk("Hello"), credential=None))
    assert found.verdict is Verdict.HIT
    assert found.entry is not None
    assert found.entry.credential == "fp_1111111111111111"


def test_an_exchange_that_made_the_entry_shows_what_was_there_before_it(explain: Callable[..., Explanation]) -> None:
    before, own, after = recorded(talk("One?"), 1), recorded(talk("One!"), 2), recorded(talk("One."), 3)
    found = explain([before, own, after], own)
    assert found.entry is not None
    assert found.entry.exchange == own.id
    assert found.nearest is not None
    assert found.nearest.entry.exchange == before.id


def test_too_old_is_stale_and_says_how_old(explain: Callable[..., Explanation]) -> None:
    one = recorded(talk("Hello"))
    found = explain([one], asking(talk("Hello")), cache_ttl=("generation=5m",))
    assert found.verdict is Verdict.STALE
    assert found.ttl_s == 300
    assert found.why == "it is 59m old, and answers are served for 5m"


@pytest.mark.parametrize(
    ("mode", "temperature", "verdict", "why"),
    [
        ("safe", 0, Verdict.HIT, ""),
        ("safe", 1, Verdict.BYPASS, "temperature is not 0"),
        ("all", 1, Verdict.HIT, ""),
        ("replay", 1, Verdict.HIT, ""),
        ("off", 0, Verdict.BYPASS, "the cache is off"),
    ],
)
def test_the_mode_decides(
    explain: Callable[..., Explanation], mode: str, temperature: int, verdict: Verdict, why: str
) -> None:
    request = {**talk("Hello"), "generationConfig": {"temperature": temperature}}
    found = explain([recorded(request)], asking(request), cache=mode)
    assert (found.mode, found.verdict, found.why) == (mode, verdict, why)
    assert found.entry is not None


def test_what_is_never_cached_says_so(explain: Callable[..., Explanation]) -> None:
    found = explain([], asking({}, operation="delete_file"))
    assert found.verdict is Verdict.BYPASS
    assert found.subject is None
    assert found.why
    assert found.nearest is None


def test_nothing_recorded_has_no_nearest(explain: Callable[..., Explanation]) -> None:
    found = explain([], asking(talk("Hello")))
    assert found.verdict is Verdict.MISS
    assert found.nearest is None
    assert found.key is not None


# Comparing

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(json_values, json_values)
def test_values_differ_if_and_only_if_a_leaf_does(one: Any, another: Any) -> None:
    count, first = compare(leaves(json.dumps(one).encode()), leaves(json.dumps(another).encode()))
    same = json.dumps(one, sort_keys=True) == json.dumps(another, sort_keys=True)
    assert (count == 0) == same
    assert (first is None) == same


@given(json_values, st.data())
def test_the_first_difference_leads_to_the_value_that_was_changed(value: Any, data: st.DataObject) -> None:
    before = leaves(json.dumps(value).encode())
    path = data.draw(st.sampled_from(sorted(before, key=str)))
    count, first = compare({**before, path: "changed"}, before)
    assert count == 1
    assert first is not None
    assert first.path == path_text(path)
    assert first.here == '"changed"'


def test_the_first_difference_is_first_in_the_document() -> None:
    here = leaves(b'{"contents":[{"parts":[{"text":"a"}]},{"parts":[{"text":"b"}]}],"tools":[1]}')
    there = leaves(b'{"cachedContent":"x","contents":[{"parts":[{"text":"a"}]},{"parts":[{"text":"c"}]}]}')
    count, first = compare(here, there)
    assert count == 3
    assert first is not None
    assert (first.path, first.here, first.there) == ("cachedContent", NOTHING, '"x"')


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("contents", 3, "parts", 0, "text"), "contents[3].parts[0].text"),
        (("labels", "my key"), 'labels["my key"]'),
        ((0, "a"), "[0].a"),
        ((), ""),
    ],
)
def test_paths_are_written_as_people_write_them(path: tuple[str | int, ...], text: str) -> None:
    assert path_text(path) == text


def test_long_texts_are_cut_to_where_they_differ() -> None:
    here, there = around_difference(
        "x" * 500 + " today is Monday " + "y" * 500, "x" * 500 + " today is Friday " + "y" * 500
    )
    assert "Monday" in here
    assert "Friday" in there
    assert here.startswith('"…')
    assert here.endswith('…"')
    assert len(here) < 100
    assert around_difference("abc", "abd") == ('"abc"', '"abd"')
    assert around_difference(list(range(500)), 1)[0].endswith("…")


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_what_two_texts_have_in_common(start: bytes, one: bytes, another: bytes) -> None:
    length = common_length(start + one, start + another)
    assert length >= len(start)
    assert (start + one)[:length] == (start + another)[:length]
    assert (start + one)[: length + 1] != (start + another)[: length + 1] or start + one == start + another


def test_a_document_nested_as_deep_as_a_parser_takes_is_compared() -> None:
    deep = b"[" * 900 + b"1" + b"]" * 900
    count, first = compare(leaves(deep), leaves(deep.replace(b"1", b"2")))
    assert count == 1
    assert first is not None
    assert (first.here, first.there) == ("1", "2")
