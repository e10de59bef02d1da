"""`cache …`: looking into the cache, and changing it, from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import answered
from factories import MINUTE_NS, exchange, exchange_id, response
from gemini_caching_proxy.cache.changes import last_change_ns
from gemini_caching_proxy.cache.key import key_text
from gemini_caching_proxy.exchange import CacheUse, Exchange, Verdict

from .conftest import HOSTILE, Ran, put

Call = Callable[..., Ran]
KEY = "fp_1111111111111111"


@dataclass(frozen=True)
class Cached:
    """A folder with entries."""

    folder: Path
    duck: Exchange
    """gemini-2.5-flash, hit twice."""
    goose: Exchange
    """gemini-2.5-pro, the largest answer, in a conversation."""
    limited: Exchange
    """A 429."""
    stream: Exchange
    """A streamed one."""

    @property
    def where(self) -> tuple[str, str]:
        return "--data-dir", str(self.folder)

    @property
    def all(self) -> tuple[Exchange, ...]:
        return self.duck, self.goose, self.limited, self.stream


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    json_type = ((b"Content-Type", b"application/json"),)
    duck = answered.recorded(answered.talk("What is a duck?"), 1, credential=KEY)
    large = json.dumps({**answered.ANSWER, "padding": "x" * 5000}).encode()
    goose = answered.recorded(
        answered.talk(f"What is a goose? {HOSTILE}"),
        2,
        credential=KEY,
        model="gemini-2.5-pro",
        target="/v1beta/models/gemini-2.5-pro:generateContent",
        outcome=response([large], headers=json_type),
    )
    goose = replace(goose, conversation=goose.id)
    limited = answered.recorded(
        answered.talk("Too much?"),
        3,
        credential=KEY,
        outcome=response([b'{"error":{}}'], status=429, headers=json_type),
    )
    event = b"data: " + json.dumps(answered.ANSWER).encode() + b"\r\n\r\n"
    stream = answered.recorded(
        answered.talk("What is a swan?"),
        4,
        credential=KEY,
        operation="stream_generate_content",
        target="/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        outcome=response([event], headers=((b"Content-Type", b"text/event-stream"),)),
    )
    hits = [
        exchange(
            started_ns=duck.started_ns + (10 + number) * MINUTE_NS,
            id=exchange_id(duck.started_ns + (10 + number) * MINUTE_NS),
            operation="generate_content",
            usage=None,
            price=None,
            cache=CacheUse(Verdict.HIT, duck.entry_key, duck.id, saved_nanousd=1_500_000, saved_us=2_000_000),
        )
        for number in range(2)
    ]
    put(tmp_path / "data", [duck, goose, limited, stream, *hits])
    return Cached(tmp_path / "data", duck, goose, limited, stream)


def keys(call: Call, cached: Cached, *arguments: str) -> list[str]:
    ran = call("cache", "list", "--json", *arguments, *cached.where)
    assert ran.code == 0, ran.err
    return [record["key"] for record in ran.records]


def key(one: Exchange) -> str:
    assert one.entry_key is not None
    return key_text(one.entry_key)


def sources(call: Call, cached: Cached, *arguments: str) -> list[str]:
    ran = call("cache", "list", "--json", *arguments, *cached.where)
    assert ran.code == 0, ran.err
    return [record["exchange"] for record in ran.records]


def ids(*them: Exchange) -> list[str]:
    return [str(one.id) for one in them]


def test_stats_sum_up(call: Call, cached: Cached) -> None:
    (record,) = call("cache", "stats", "--json", *cached.where).records
    assert record["entries"] == 4
    assert record["errors"] == 1
    assert record["pinned"] == 0
    assert record["hits"] == 2
    assert record["saved_nanousd"] == 3_000_000
    assert record["saved_us"] == 4_000_000
    assert record["answer_bytes"] == sum(one.response.body.size for one in cached.all if one.response)
    out = call("cache", "stats", *cached.where).out
    assert "4, 1 of them errors" in out
    assert "$0.0030 and 4.0s of waiting" in out


def test_list_is_newest_first_and_fits(call: Call, cached: Cached) -> None:
    assert sources(call, cached) == ids(cached.stream, cached.limited, cached.goose, cached.duck)
    out = call("cache", "list", *cached.where).out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line[:8] for line in lines[1:]] == [
        key(one)[3:11] for one in (cached.stream, cached.limited, cached.goose, cached.duck)
    ]
    assert "error" in lines[2]
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (["--model", "gemini-2.5-pro"], ["goose"]),
        (["--model", "gemini-2.5*"], ["stream", "limited", "goose", "duck"]),
        (["--operation", "stream_generate_content"], ["stream"]),
        (["--kind", "error"], ["limited"]),
        (["--pinned"], []),
        (["--limit", "2"], ["stream", "limited"]),
    ],
)
def test_list_chooses(call: Call, cached: Cached, choice: list[str], expected: list[str]) -> None:
    assert sources(call, cached, *choice) == ids(*(getattr(cached, name) for name in expected))


def test_list_goes_on_where_a_page_ended(call: Call, cached: Cached) -> None:
    ran = call("cache", "list", "--json", "--limit", "3", *cached.where)
    cursor = ran.err.split("--cursor ")[1].strip()
    assert sources(call, cached, "--cursor", cursor) == ids(cached.duck)
    ran = call("cache", "list", "--cursor", "nonsense", *cached.where)
    assert ran.code == 2
    assert "--cursor" in ran.err


@pytest.mark.parametrize("form", ["key", "digits", "start", "exchange", "end"])
def test_show_takes_a_key_or_an_exchange(call: Call, cached: Cached, form: str) -> None:
    given = {
        "key": key(cached.duck),
        "digits": key(cached.duck)[3:],
        "start": key(cached.duck)[3:15],
        "exchange": str(cached.duck.id),
        "end": str(cached.duck.id)[-8:],
    }[form]
    ran = call("cache", "show", given, *cached.where)
    assert ran.code == 0, ran.err
    assert key(cached.duck) in ran.out
    assert str(cached.duck.id) in ran.out
    assert "What is a duck?" in ran.out
    assert "Yes." in ran.out
    assert "2 hits, saved $0.0030" in ran.out


def test_show_tells_programs_the_canonical_request(call: Call, cached: Cached) -> None:
    (record,) = call("cache", "show", "--json", key(cached.duck), *cached.where).records
    canonical = record["canonical"]
    assert (canonical["operation"], canonical["model"]) == ("generate_content", "gemini-2.5-flash")
    assert canonical["body"]["contents"][0]["parts"][0]["text"] == "What is a duck?"
    assert record["answer"] == "Yes."


def test_show_lets_nothing_steer_the_terminal(call: Call, cached: Cached) -> None:
    out = call("cache", "show", key(cached.goose), *cached.where).out
    assert "goose" in out
    assert "\x1b" not in out
    assert "\x9b" not in out


def test_show_of_what_is_not_there_is_a_sentence(call: Call, cached: Cached) -> None:
    ran = call("cache", "show", "ffffffffffff", *cached.where)
    assert ran.code == 1
    assert ran.err.strip()
    assert "Traceback" not in ran.err


def test_pin_and_let_go(call: Call, cached: Cached) -> None:
    ran = call("cache", "pin", key(cached.duck), *cached.where)
    assert ran.code == 0
    assert "is pinned" in ran.out
    assert sources(call, cached, "--pinned") == ids(cached.duck)
    assert "pinned" in call("cache", "list", *cached.where).out
    assert last_change_ns(cached.folder) > 0
    assert oct((cached.folder / "cache.changed").stat().st_mode)[-3:] == "600"
    before = last_change_ns(cached.folder)
    (record,) = call("cache", "pin", "--off", "--json", str(cached.duck.id), *cached.where).records
    assert record["pinned"] is False
    assert sources(call, cached, "--pinned") == []
    assert last_change_ns(cached.folder) > before


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        (["--key", "KEY"], ["stream", "limited", "goose"]),
        (["--exchange", "ID"], ["stream", "limited", "goose"]),
        (["--model", "gemini-2.5-pro"], ["stream", "limited", "duck"]),
        (["--operation", "generate_content"], []),
        (["--operation", "stream_generate_content"], ["limited", "goose", "duck"]),
        (["--larger-than", "4k"], ["stream", "limited", "duck"]),
        (["--older-than", "1d"], []),
        (["--older-than", "2026-01-01T00:02:30Z"], ["stream", "limited"]),
        (["--conversation", "CONVERSATION"], ["stream", "limited", "duck"]),
        (["--model", "gemini-2.5-flash", "--operation", "stream_generate_content"], ["limited", "goose", "duck"]),
        (["--all"], []),
        (["--pinned"], ["stream", "limited", "goose", "duck"]),
    ],
)
def test_evict_chooses(call: Call, cached: Cached, choice: list[str], left: list[str]) -> None:
    words = {"KEY": key(cached.duck), "ID": str(cached.duck.id), "CONVERSATION": str(cached.goose.id)}
    ran = call("cache", "evict", "--yes", *(words.get(one, one) for one in choice), *cached.where)
    assert ran.code == 0, ran.err
    count = 4 - len(left)
    assert f"Forgot {count} entr{'y' if count == 1 else 'ies'}; the exchanges stay." in ran.out
    assert sources(call, cached) == ids(*(getattr(cached, name) for name in left))
    assert len(call("list", "--json", *cached.where).records) == 6
    assert last_change_ns(cached.folder) > 0


def test_evict_to_a_size_keeps_what_was_used(call: Call, cached: Cached) -> None:
    assert cached.duck.response is not None
    size = cached.duck.response.body.size
    (record,) = call("cache", "evict", "--to-size", f"{size}b", "--yes", "--json", *cached.where).records
    assert record == {"evicted": 3}
    assert sources(call, cached) == ids(cached.duck)


def test_pinned_entries_survive_eviction(call: Call, cached: Cached) -> None:
    call("cache", "pin", key(cached.duck), *cached.where)
    assert call("cache", "evict", "--all", "--yes", *cached.where).code == 0
    assert sources(call, cached) == ids(cached.duck)
    assert call("cache", "evict", "--pinned", "--yes", *cached.where).code == 0
    assert sources(call, cached) == []


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ([], "--all"),
        (["--all", "--model", "x"], "--all"),
        (["--to-size", "1G", "--model", "x"], "--to-size"),
        (["--to-size", "much"], "is no size"),
        (["--larger-than", "-1"], "is no size"),
        (["--older-than", "soon"], "--older-than"),
        (["--older-than", "2999-01-01"], "future"),
    ],
)
def test_evict_refuses_what_it_cannot_read(call: Call, cached: Cached, choice: list[str], says: str) -> None:
    ran = call("cache", "evict", "--yes", *choice, *cached.where)
    assert ran.code == 2
    assert says in ran.err
    assert len(sources(call, cached)) == 4


def test_evict_asks_where_it_can_and_else_refuses(call: Call, cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.openpty()
    try:
        with open(writer, closefd=False) as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            os.write(reader, b"n\n")
            ran = call("cache", "evict", "--all", *cached.where)
        assert ran.code == 1
        assert "Nothing was forgotten." in ran.err
    finally:
        os.close(reader)
        os.close(writer)
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        ran = call("cache", "evict", "--all", *cached.where)
    assert ran.code == 2
    assert "--yes" in ran.err
    assert len(sources(call, cached)) == 4


def test_rebuild_brings_back_what_was_forgotten(call: Call, cached: Cached) -> None:
    before = sorted(keys(call, cached))
    assert call("cache", "evict", "--all", "--yes", *cached.where).code == 0
    assert keys(call, cached) == []
    (record,) = call("cache", "rebuild", "--json", *cached.where).records
    assert record == {"exchanges": 6, "entries": 4}
    assert sorted(keys(call, cached)) == before
    ran = call("cache", "rebuild", *cached.where)
    assert ran.code == 0
    assert "Looked at 6 exchanges" in ran.out
    assert sorted(keys(call, cached)) == before


@pytest.mark.parametrize("command", [["stats"], ["list"], ["evict", "--all", "--yes"], ["rebuild"]])
def test_of_nothing_the_first_steps_are_told(call: Call, tmp_path: Path, command: list[str]) -> None:
    ran = call("cache", *command, "--data-dir", str(tmp_path / "empty"))
    assert ran.code == 0
    assert "gemini-proxy serve" in ran.err


def test_hits_are_shown_as_such(call: Call, cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    hits = call("list", "--verdict", "hit", "--json", *cached.where).records
    assert [record["saved_nanousd"] for record in hits] == [1_500_000, 1_500_000]
    out = call("show", hits[0]["id"], *cached.where).out
    assert f"hit: the answer of exchange {cached.duck.id}" in " ".join(out.split())
    assert "saved $0.0015, 2.0s of waiting" in " ".join(out.split())
    (sums,) = call("stats", "--json", *cached.where).records
    assert (sums["cache_hits"], sums["saved_nanousd"], sums["saved_us"]) == (2, 3_000_000, 4_000_000)
    monkeypatch.setenv("COLUMNS", "160")
    assert " hit " in call("list", *cached.where).out
    table = call("stats", *cached.where).out
    assert "hits" in table
    assert "$0.0030" in table


# explain


def test_explain_an_exchange(call: Call, cached: Cached) -> None:
    (record,) = call("cache", "explain", "--json", "--cache", "replay", str(cached.goose.id), *cached.where).records
    assert record["exchange"] == str(cached.goose.id)
    assert record["verdict"] == "hit"
    assert record["key"] == key(cached.goose)
    assert record["entry"]["exchange"] == str(cached.goose.id)
    assert record["canonical"]["model"] == "gemini-2.5-pro"
    out = call("cache", "explain", str(cached.goose.id)[-8:], *cached.where).out
    assert "this very exchange" in out
    assert "\x1b" not in out


def request_file(folder: Path, text: str, *headers: str, question: str = "What is a duck!") -> Path:
    path = folder / "request.http"
    body = json.dumps(answered.talk(question))
    path.write_text("\n".join([text, *headers, "", body, ""]))
    return path


LINE = "POST /v1beta/models/gemini-2.5-flash:generateContent HTTP/1.1"


def test_explain_a_file_names_the_nearest_entry(call: Call, cached: Cached, tmp_path: Path) -> None:
    path = request_file(tmp_path, LINE, "Content-Type: application/json")
    ran = call("cache", "explain", str(path), *cached.where)
    assert ran.code == 0, ran.err
    assert "miss: nothing recorded answers it" in ran.out
    assert str(cached.duck.id) in ran.out
    assert "1 value differs" in ran.out
    assert "contents[0].parts[0].text" in ran.out
    assert 'here   "What is a duck!"' in ran.out
    assert 'there  "What is a duck?"' in ran.out
    (record,) = call("cache", "explain", "--json", str(path), *cached.where).records
    assert record["nearest"] == {
        "key": key(cached.duck),
        "exchange": str(cached.duck.id),
        "differences": 1,
        "path": "contents[0].parts[0].text",
        "here": '"What is a duck!"',
        "there": '"What is a duck?"',
    }


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        LINE.removesuffix(" HTTP/1.1"),
        LINE.replace("/v1beta", "https://generativelanguage.googleapis.com/v1beta"),
        f"### a comment, as editors write them\n# @name duck\n\n{LINE}",
        LINE.replace("generateContent", "streamGenerateContent?alt=sse"),
    ],
)
def test_a_file_may_be_written_in_many_ways(call: Call, cached: Cached, tmp_path: Path, line: str) -> None:
    path = request_file(tmp_path, line, "Content-Type: application/json", question="What is a duck?")
    (record,) = call("cache", "explain", "--json", "--cache", "replay", str(path), *cached.where).records
    assert record["verdict"] == "hit"
    assert record["exchange"] is None
    assert record["entry"]["exchange"] == str(cached.duck.id)


def test_a_mode_that_does_not_serve_says_why(call: Call, cached: Cached, tmp_path: Path) -> None:
    path = request_file(tmp_path, LINE, question="What is a duck?")
    (record,) = call("cache", "explain", "--json", "--cache", "off", str(path), *cached.where).records
    assert (record["verdict"], record["why"]) == ("bypass", "the cache is off")
    assert record["entry"]["exchange"] == str(cached.duck.id)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not begin with a request line"),
        (b'{"contents": []}', "does not begin with a request line"),
        (b"\x00\xff\xfe", "does not begin with a request line"),
        (b"POST models HTTP/1.1\n\n{}", "a path that begins with /"),
        (b"POST /v1beta/models/m:generateContent\nno field here\n\n{}", "is no header field"),
    ],
)
def test_a_file_that_is_no_request_is_told(
    call: Call, cached: Cached, tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "request.http"
    path.write_bytes(content)
    ran = call("cache", "explain", str(path), *cached.where)
    assert ran.code == 2
    assert says in ran.err


def test_explain_what_is_neither_a_file_nor_an_exchange(call: Call, cached: Cached) -> None:
    ran = call("cache", "explain", "nonsense", *cached.where)
    assert ran.code == 1
    assert "nonsense" in ran.err


def test_asking_makes_no_key_and_changes_nothing(call: Call, cached: Cached, tmp_path: Path) -> None:
    path = request_file(tmp_path, LINE, "x-goog-api-key: not-a-real-key-of-anybody")
    before = files(cached.folder)
    assert call("cache", "explain", str(path), *cached.where).code == 0
    assert files(cached.folder) == before


def files(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if not one.name.endswith(("-wal", "-shm")))
