from __future__ import annotations

import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable

import pytest

from .conftest import Ran, Recorded, run_program

Call = Callable[..., Ran]


def test_a_turn_shows_what_was_asked_and_said(call: Call, recorded: Recorded) -> None:
    ran = call("show", str(recorded.plain.id), *recorded.where)
    assert ran.code == 0
    for text in (
        str(recorded.plain.id),
        "streamGenerateContent?alt=sse",
        "200 OK",
        "STOP",
        "What floats on water?",
        "Ducks do.",
        "10 in → 20 out + 5 thoughts",
        "400ms first byte",
        "$0.0001",
    ):
        assert text in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize("take", [slice(None), slice(0, 18), slice(-8, None), slice(-12, None)])
def test_an_id_may_be_its_beginning_or_its_end(call: Call, recorded: Recorded, take: slice) -> None:
    ran = call("show", str(recorded.old.id)[take], *recorded.where)
    assert ran.code == 0
    assert str(recorded.old.id) in ran.out


def test_last_is_the_newest(call: Call, recorded: Recorded) -> None:
    ran = call("show", "last", *recorded.where)
    assert str(recorded.broken.id) in ran.out
    assert "incomplete response: The upstream closed." in ran.out


def test_a_later_turn_shows_only_what_it_added(call: Call, recorded: Recorded) -> None:
    ran = call("show", str(recorded.second.id), *recorded.where)
    assert "2 earlier turns" in ran.out
    assert "And on?" in ran.out
    assert "Three, four." in ran.out
    assert "Count to two" not in ran.out
    assert "unpriced" in ran.out
    full = call("show", str(recorded.second.id), "--full", *recorded.where)
    assert "earlier turn" not in full.out
    assert full.out.index("Count to two") < full.out.index("One, two.") < full.out.index("And on?")


def test_json_is_the_whole_exchange(call: Call, recorded: Recorded) -> None:
    (record,) = call("show", str(recorded.plain.id), "--json", *recorded.where).records
    assert record["id"] == str(recorded.plain.id)
    assert record["request"]["body"]["encoding"] == "utf-8"
    assert record["request"]["body"]["data"].encode() == recorded.plain.request_body.data
    assert record["response"]["chunks"] == [[c.offset_us, c.size] for c in recorded.plain.response.chunks]
    assert record["usage"]["raw"] == '{"promptTokenCount": 10}'
    (binary,) = call("show", str(recorded.old.id), "--json", *recorded.where).records
    assert binary["request"]["body"]["encoding"] == "base64"
    assert b64decode(binary["request"]["body"]["data"]) == bytes(range(256))


@pytest.mark.parametrize("name", ["plain", "second", "limited", "broken", "old"])
def test_bodies_come_out_byte_for_byte(recorded: Recorded, name: str) -> None:
    one = getattr(recorded, name)
    for side, body in (("request", one.request_body), ("response", one.response.body)):
        words = ["show", str(one.id), "--body", side, *recorded.where]
        done = subprocess.run([sys.executable, "-m", "gemini_caching_proxy", *words], capture_output=True, timeout=60)
        assert done.returncode == 0
        assert done.stdout == body.data


@pytest.mark.parametrize("other", ["--json", "--headers", "--timeline", "--full"])
def test_exact_bytes_take_nothing_beside_them(call: Call, recorded: Recorded, other: str) -> None:
    ran = call("show", "last", "--body", "request", other, *recorded.where)
    assert (ran.code, ran.out) == (2, "")
    assert "--body" in ran.err


def test_headers(call: Call, recorded: Recorded) -> None:
    out = call("show", str(recorded.limited.id), "--headers", *recorded.where).out
    assert "x-goog-api-key: fp:k1:0123456789abcdef" in out
    assert "429 Too Many Requests" in out
    assert "Server-Timing: gfet4t7; dur=412" in out


def test_timeline(call: Call, recorded: Recorded) -> None:
    out = call("show", str(recorded.plain.id), "--timeline", *recorded.where).out
    assert out.count("█") == 3
    assert "longest pause 20ms" in out


def test_hostile_text_stays_text(call: Call, recorded: Recorded) -> None:
    for more in ([], ["--full"], ["--json"], ["--headers"]):
        out = call("show", str(recorded.broken.id), *more, *recorded.where).out
        assert not set(out) & {"\x1b", "\x07", "\x9b", "\u202e", "\x00"}
    assert "[bold red]markup[/]" in call("show", str(recorded.broken.id), *recorded.where).out


def test_binary_bodies_are_not_spilled_on_the_terminal(call: Call, recorded: Recorded) -> None:
    for more in ([], ["--full"]):
        out = call("show", str(recorded.old.id), *more, *recorded.where).out
        assert "256 bytes" in out
        assert out.isprintable() or set(out) - set(filter(str.isprintable, out)) == {"\n"}


@pytest.mark.parametrize("digits", ["ffffffff", "0", "no-such-thing", "last "])
def test_what_does_not_exist_is_exit_1(call: Call, recorded: Recorded, digits: str) -> None:
    ran = call("show", digits, *recorded.where)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("gemini-proxy: ")


def test_nothing_recorded_yet() -> None:
    ran = run_program("show", "last")
    assert ran.code == 1
    assert "no store" in ran.err
