"""What a body asks, and which bodies are not even parsed."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from gemini_caching_proxy.annotation import Note
from gemini_caching_proxy.cache.directives import Directives
from gemini_caching_proxy.question import MOST_QUESTIONS, Plan, Question
from inflight import JSON, HandLookup, make_body, make_caching, make_plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(make_caching(tmp_path, HandLookup()), "safe")


def test_the_same_is_asked_in_other_words(plan: Plan) -> None:
    one = plan.question(b'{"contents": [{"parts": [{"text": "a"}]}], "generationConfig": {"temperature": 0}}')
    other = plan.question(b'{"generation_config": {"temperature": 0.0},"contents":[{"parts":[{"text":"a"}]}]}')
    assert isinstance(one, Question)
    assert isinstance(other, Question)
    assert one.keys == other.keys
    assert one.identity == other.identity


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"contents": []}', "temperature is not 0"),
        (b'{"contents": [], "generationConfig": {"temperature": 0.5}}', "temperature is not 0"),
        (b'{"temperature": 0', "not JSON"),
    ],
)
def test_what_is_not_served(body: bytes, detail: str, plan: Plan) -> None:
    note = plan.question(body)
    assert isinstance(note, Note)
    assert note.detail == detail


def test_a_compressed_body_is_looked_into(plan: Plan) -> None:
    coded = replace(plan, headers=[JSON, (b"Content-Encoding", b"gzip")], questions={})
    question, plain = coded.question(gzip.compress(make_body("a"))), plan.question(make_body("a"))
    assert isinstance(question, Question)
    assert isinstance(plain, Question)
    assert question.keys == plain.keys
    broken = coded.question(b"no gzip")
    assert isinstance(broken, Note)


def test_questions_are_remembered_within_bounds(plan: Plan) -> None:
    first = plan.question(make_body("0"))
    assert plan.question(make_body("0")) is first
    for number in range(MOST_QUESTIONS + 10):
        plan.question(make_body(str(number)))
    assert len(plan.questions) <= MOST_QUESTIONS


def test_what_wants_a_new_answer(plan: Plan) -> None:
    assert replace(plan, directives=Directives(no_cache=True)).wants_new
    assert not replace(plan, directives=Directives(no_cache=True), mode="replay").wants_new
    assert replace(plan, mode="replay").must_be_recorded
    assert replace(plan, directives=Directives(only_if_cached=True)).must_be_recorded


@pytest.mark.parametrize(
    ("field", "takes"),
    [
        (b"gzip", True), (b"br, GZIP;q=0.5", True), (b"*", True), (b"gzip;q=0", False), (b"gzip; q=0.000", False),
        (b"", False), (b"identity", False), (b"gzipped", False),
    ],
)  # fmt: skip
def test_accepted_codings(field: bytes, takes: bool, plan: Plan) -> None:
    assert replace(plan, accept_encoding=field).accepts("gzip") == takes
