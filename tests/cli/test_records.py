"""The names of the JSON lines are an interface: every field of the domain is there, under its own name."""

from __future__ import annotations

import json
from dataclasses import fields, replace

from factories import exchange, response
from gemini_caching_proxy.cli.manual import STATS, SUMMARY
from gemini_caching_proxy.cli.records import exchange_record, hit_record, stats_record, summary_record
from gemini_caching_proxy.exchange import Body, CacheUse, Exchange, Failure, FailureKind, Timing, Verdict
from gemini_caching_proxy.stores.base import Hit, StatsRow, Summary

ELSEWHERE = {"started_ns": "started"}
INSIDE = {
    "outcome": ("response", "failure", "status"),
    "request_headers": ("request",),
    "request_body": ("request",),
}
LEFT_OUT = {"request_chunks", "request_pieces", "response_pieces", "request_text", "response_text", "chain"}
"""Derived from the bodies, for the store alone."""


def test_a_summary_has_every_field() -> None:
    assert set(summary_record(SUMMARY)) == {ELSEWHERE.get(field.name, field.name) for field in fields(Summary)}


def test_a_hit_is_a_summary_and_a_snippet() -> None:
    assert hit_record(Hit(SUMMARY, "x")) == {**summary_record(SUMMARY), "snippet": "x"}


def test_a_sum_has_every_field_and_tells_the_unpriced() -> None:
    record = stats_record(STATS, "model")
    assert {field.name for field in fields(StatsRow)} <= set(record)
    assert record["unpriced"] == 3
    assert stats_record(replace(STATS, priced=0, total_nanousd=0), None)["total_nanousd"] is None


def test_an_exchange_has_every_field() -> None:
    record = exchange_record(exchange())
    for field in fields(Exchange):
        if field.name in LEFT_OUT:
            continue
        for name in INSIDE.get(field.name, (ELSEWHERE.get(field.name, field.name),)):
            assert name in record
    used = exchange_record(exchange(cache=CacheUse(Verdict.HIT, b"\x01", exchange().id), entry_key=b"\x02"))
    assert set(used["cache"]) == {field.name for field in fields(CacheUse)}
    assert (used["cache"]["key"], used["entry_key"]) == ("k1:01", "k1:02")
    assert set(record["timing"]) == {field.name for field in fields(Timing)}
    assert {field.name for field in fields(Body)} - {"size", "data"} <= set(record["request"]["body"])


def test_a_failure_keeps_what_arrived() -> None:
    failure = Failure(FailureKind.CLIENT_GONE, "left", None, response((b"part",)))
    record = exchange_record(exchange(outcome=failure))
    assert record["failure"] == {"kind": "client_gone", "detail": "left", "served_status": None, "partial": True}
    assert record["response"]["body"]["data"] == "part"
    nothing = exchange_record(exchange(outcome=Failure(FailureKind.DNS_ERROR, "no name", 502)))
    assert (nothing["response"], nothing["status"]) == (None, 502)


def test_any_bytes_are_json() -> None:
    record = exchange_record(exchange(request_body=Body(b"\xff\x00", 2), request_headers=((b"x", b"\xff\xfe"),)))
    assert json.loads(json.dumps(record)) == record
