"""Which recorded exchanges can be answered from, and that the recorder's key is the one that the worker looks for."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from answered import ANSWER, index, recorded, talk
from factories import body, response
from gemini_caching_proxy.cache.policy import Policy
from gemini_caching_proxy.exchange import CacheUse, Exchange, Failure, FailureKind, Response, Verdict
from inflight import HandLookup, make_caching, make_plan

JSON = ((b"Content-Type", b"application/json"),)


def entry(exchange: Exchange, **settings: Any) -> str | None:
    found = index(**settings).entry(replace(exchange, entry_key=None, entry_kind=None))
    return None if found is None else found[1]


def answered(document: Any, status: int = 200, **over: Any) -> Exchange:
    return recorded(
        talk("Hello"), outcome=response([json.dumps(document).encode()], headers=JSON, status=status), **over
    )


def test_a_whole_success_is_an_answer() -> None:
    assert entry(recorded(talk("Hello"))) == "answer"


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_an_error_is_for_replay_alone(status: int) -> None:
    assert entry(answered({"error": {"code": status}}, status)) == "error"


def test_endings() -> None:
    blocked = {"candidates": [{"content": {}, "finishReason": "SAFETY"}]}
    assert entry(answered(blocked)) == "error"
    assert entry(answered(blocked), cache_finish_reasons="stop,safety") == "answer"
    assert entry(answered({"candidates": [{"content": {}}]})) in (None, "error")


def test_what_serves_nobody() -> None:
    whole = recorded(talk("Hello"))
    outcome = whole.outcome
    assert isinstance(outcome, Response)
    for unfit in (
        replace(whole, outcome=Failure(FailureKind.INCOMPLETE_RESPONSE, partial=outcome)),
        replace(whole, outcome=replace(outcome, body=replace(outcome.body, complete=False))),
        replace(whole, outcome=replace(outcome, body=replace(outcome.body, redacted=True))),
        replace(whole, request_body=replace(whole.request_body, redacted=True)),
        replace(whole, request_body=replace(whole.request_body, complete=False)),
        replace(whole, cache=CacheUse(Verdict.HIT, source=whole.id)),
        replace(whole, cache=CacheUse(Verdict.COLLAPSED, source=whole.id)),
        replace(whole, request_headers=((b"Cache-Control", b"no-store"),)),
        replace(whole, request_headers=((b"X-HTTP-Method-Override", b"GET"),)),
        replace(whole, method="PUT"),
        replace(whole, operation="list_files"),
        replace(whole, provider="nobody"),
        replace(whole, request_body=body(b"not json")),
    ):
        assert entry(unfit) is None
    assert entry(replace(whole, cache=CacheUse(Verdict.MISS))) == "answer"
    assert entry(whole, cache_max_body_bytes=20) is None


def test_codings_of_both_bodies_are_taken_off() -> None:
    plain = recorded(talk("Hello"))
    coded = replace(
        plain,
        request_headers=((b"Content-Encoding", b"gzip"),),
        request_body=body(gzip.compress(plain.request_body.data)),
        outcome=response([gzip.compress(json.dumps(ANSWER).encode())], headers=(*JSON, (b"Content-Encoding", b"gzip"))),
    )
    assert index().entry(coded) == index().entry(plain)
    broken = replace(coded, request_body=body(b"no gzip"))
    assert index().entry(broken) is None


@pytest.mark.parametrize("credential", ["tenant", None])
def test_the_worker_looks_for_what_the_recorder_makes(credential: str | None, tmp_path: Path) -> None:
    exchange = recorded(talk("Hello"), credential=credential, upstream="https://upstream.test")
    made = index().entry(exchange)
    assert made is not None
    caching = make_caching(tmp_path, HandLookup(), Policy(mode="replay"))
    plan = make_plan(caching, "replay", target=exchange.target)
    question = plan.question(exchange.request_body.data)
    assert not isinstance(question.keys, str)
    assert question.keys.index(made[0]) == (0 if credential else 1)
    imported = index(cache_namespace="shared").entry(exchange)
    assert imported is not None
    assert imported[0] == question.keys[1]
