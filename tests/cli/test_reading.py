from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import HOSTILE, Ran, Recorded

Call = Callable[..., Ran]


def ids(ran: Ran) -> list[str]:
    return [record["id"] for record in ran.records]


def test_list_is_newest_first_and_fits(call: Call, recorded: Recorded) -> None:
    ran = call("list", *recorded.where)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert [line[:8] for line in lines[1:]] == [
        str(one.id)[-8:]
        for one in (recorded.broken, recorded.limited, recorded.second, recorded.first, recorded.plain, recorded.old)
    ]
    assert max(map(len, lines)) <= 80
    assert "gemini-2.5-flash" in ran.out
    assert "Ducks do." in ran.out
    assert "incomplete" in ran.out
    assert "\x1b" not in ran.out


def test_list_uses_a_wide_terminal(call: Call, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    lines = call("list", *recorded.where).out.splitlines()
    assert 100 < max(map(len, lines)) <= 140
    assert "cost" in lines[0]
    assert "$0.0001" in "".join(lines)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--model", "gemini-2.5-pro"], ["second", "first"]),
        (["--model", "gemini-2.5*"], ["broken", "limited", "second", "first", "plain"]),
        (["--status", "429"], ["limited"]),
        (["--status", "4xx"], ["limited"]),
        (["--errors"], ["broken", "limited"]),
        (["--failure", "incomplete_response"], ["broken"]),
        (["--since", "150s"], ["broken", "limited"]),
        (["--since", "1h", "--until", "210s"], ["first", "plain"]),
        (["--until", "30d"], ["old"]),
        (["--operation", "embed_content"], ["old"]),
        (["--contains", "ducks"], ["plain"]),
        (["--client", "curl"], ["old"]),
        (["--limit", "2"], ["broken", "limited"]),
    ],
)
def test_filters(call: Call, recorded: Recorded, filters: list[str], expected: list[str]) -> None:
    ran = call("list", *recorded.where, "--json", *filters)
    assert ran.code == 0
    assert ids(ran) == [str(getattr(recorded, name).id) for name in expected]


@pytest.mark.parametrize("digits", ["whole", "beginning", "end"])
def test_a_conversation_is_found_by_any_id_in_it(call: Call, recorded: Recorded, digits: str) -> None:
    text = str(recorded.second.id)
    given = {"whole": text, "beginning": text[:20], "end": text[-8:]}[digits]
    ran = call("list", *recorded.where, "--json", "--conversation", given)
    assert ids(ran) == [str(recorded.second.id), str(recorded.first.id)]


def test_pages_follow_one_another(call: Call, recorded: Recorded) -> None:
    seen: list[str] = []
    more: list[str] = []
    while True:
        ran = call("list", *recorded.where, "--json", "-n", "4", *more)
        seen += ids(ran)
        if "--cursor" not in ran.err:
            break
        more = ["--cursor", ran.err.split("--cursor ")[1].strip()]
    assert len(seen) == len(set(seen)) == 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--status", "9xx"], "--status"),
        (["--status", "abc"], "--status"),
        (["--since", "soon"], "--since"),
        (["--until", "2026-99-99"], "--until"),
        (["--failure", "bad_luck"], "--failure"),
        (["--limit", "0"], "--limit"),
        (["--cursor", "nonsense"], "--cursor"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_usage_is_one_sentence_that_names_the_option(
    call: Call, recorded: Recorded, arguments: list[str], named: str
) -> None:
    ran = call("list", *recorded.where, *arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert named in ran.err.splitlines()[0]
    assert "Traceback" not in ran.err


def test_an_unknown_conversation_is_a_problem(call: Call, recorded: Recorded) -> None:
    assert call("list", *recorded.where, "--conversation", "ffffffff").code == 1


def test_an_empty_folder_tells_how_to_begin(call: Call, tmp_path: Path) -> None:
    for command in (["list"], ["search", "x"], ["stats"]):
        ran = call(*command, "--data-dir", str(tmp_path / "empty"))
        assert ran.code == 0
        assert ran.out == ""
        assert "gemini-proxy serve" in ran.err
        assert "http://127.0.0.1:8000" in ran.err


def test_no_fit_is_said_on_stderr(call: Call, recorded: Recorded) -> None:
    ran = call("list", *recorded.where, "--model", "nobody")
    assert (ran.code, ran.out) == (0, "")
    assert "No recorded exchange fits" in ran.err


def test_search_highlights_and_finds(call: Call, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = call("search", "ducks", *recorded.where)
    assert ran.code == 0
    assert "Ducks do." in ran.out
    assert ran.out.startswith(str(recorded.plain.id)[-8:])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;33mDucks\x1b[0m" in call("search", "ducks", *recorded.where).out


def test_search_as_json_marks_the_match(call: Call, recorded: Recorded) -> None:
    (record,) = call("search", "ducks", *recorded.where, "--json").records
    assert record["id"] == str(recorded.plain.id)
    assert "\x02Ducks\x03" in record["snippet"]


def test_search_text_with_dashes_and_quotes_is_only_text(call: Call, recorded: Recorded) -> None:
    for text in ('"; DROP TABLE x', "NEAR(a b)", "*", "col:val", "a AND"):
        assert call("search", "--", text, *recorded.where[:0]).code == 0
        assert call("search", *recorded.where, "--", text).code == 0


def test_hostile_text_stays_text(call: Call, recorded: Recorded) -> None:
    for command in (["list"], ["search", "owned"], ["list", "--json"], ["search", "owned", "--json"]):
        out = call(*command, *recorded.where, "--failure", "incomplete_response").out
        assert out
        assert not set(out) & {"\x1b", "\x07", "\x9b", "\u202e", "\x00"}
    assert HOSTILE in json.loads(call("list", *recorded.where, "--json").out.splitlines()[0])["preview"]
    assert "[bold red]markup[/]" in call("search", "owned", *recorded.where).out


def test_stats_sum_and_group(call: Call, recorded: Recorded) -> None:
    (whole,) = call("stats", *recorded.where, "--json").records
    assert (whole["group"], whole["key"], whole["exchanges"], whole["errors"]) == (None, "", 6, 2)
    assert whole["unpriced"] == 4
    assert whole["total_nanousd"] == 131_000
    by_model = {row["key"]: row for row in call("stats", *recorded.where, "--by", "model", "--json").records}
    assert by_model["gemini-2.5-pro"]["exchanges"] == 2
    assert by_model["gemini-embedding-001"]["total_nanousd"] is None


def test_stats_table_fits_and_says_what_is_unpriced(call: Call, recorded: Recorded) -> None:
    ran = call("stats", *recorded.where, "--by", "model")
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "gemini-embedding-001" in ran.out
    assert "4 of 6 exchanges have no known price" in ran.err


@pytest.mark.parametrize("group", ["model", "day", "hour", "client", "operation", "status", "credential"])
def test_every_group(call: Call, recorded: Recorded, group: str) -> None:
    rows = call("stats", *recorded.where, "--by", group, "--json").records
    assert sum(row["exchanges"] for row in rows) == 6
    assert call("stats", *recorded.where, "--by", group).code == 0


def test_stats_refuse_an_unknown_group(call: Call, recorded: Recorded) -> None:
    ran = call("stats", *recorded.where, "--by", "colour")
    assert ran.code == 2
    assert "--by" in ran.err
