from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from factories import exchange, response
from gemini_caching_proxy.cli.rendering import added_turns, body_notes, conversation, facts, headers, raw
from gemini_caching_proxy.exchange import Body, Failure, FailureKind
from gemini_caching_proxy.providers.base import Block, Rendering, Turn


def printed(part: RenderableType, *, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False, color_system=None).print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def turn(role: str, text: str, kind: str = "text", **more: str) -> Turn:
    return Turn(role, (Block(kind, text, **more),))


ASKED, SAID, MORE = turn("user", "one?"), turn("model", "One."), turn("user", "two?")
SYSTEM = turn("system", "Be brief.")


@pytest.mark.parametrize(
    ("request_", "parent", "earlier"),
    [
        ((ASKED,), None, 0),
        ((ASKED, SAID, MORE), Rendering((ASKED,), (SAID,)), 2),
        ((SYSTEM, ASKED, SAID, MORE), Rendering((SYSTEM, ASKED), (SAID,)), 3),
        # The client sends the answer back in a shape of its own: its place tells what it is.
        ((ASKED, turn("model", "One!"), MORE), Rendering((ASKED,), (SAID,)), 2),
        # A fork: the question was edited.
        ((ASKED, SAID, turn("user", "three?")), Rendering((ASKED, SAID, MORE), (SAID,)), 2),
        # Only the system text is the same: that is no conversation.
        ((SYSTEM, MORE), Rendering((SYSTEM, ASKED), (SAID,)), 0),
        # Interactions: the request holds the new question alone.
        ((MORE,), Rendering((ASKED,), (SAID,)), 0),
        ((ASKED,), Rendering((ASKED,), (SAID,)), 1),
    ],
)
def test_what_a_turn_added(request_: tuple[Turn, ...], parent: Rendering | None, earlier: int) -> None:
    assert added_turns(Rendering(request_), parent) == earlier


def test_blocks_of_every_kind() -> None:
    blocks = (
        Block("thought", "Hmm."),
        Block("text", "Look:\n  indented"),
        Block("tool_call", '{"city":"Lisbon"}', name="get_weather"),
        Block("media", "image/png, 12 KB", name="image/png"),
        Block("code", "print(1)"),
        Block("unheard_of", "?"),
    )
    text = printed(
        conversation(
            Rendering((), (Turn("model", blocks),), ("get_weather",), (("temperature", "0"),)), earlier=0, full=False
        )
    )
    for piece in (
        "with temperature=0",
        "tools get_weather",
        "\nmodel\n",
        "Hmm.",
        "    indented",
        '→ get_weather {"city":"Lisbon"}',
        "▣ image/png, 12 KB",
        "» print(1)",
        "· ?",
    ):
        assert piece in text


def test_long_blocks_are_cut_unless_all_is_asked_for() -> None:
    long = Rendering((turn("user", "x" * 10_000),))
    assert "6000 more characters (--full)" in printed(conversation(long, earlier=0, full=False))
    assert printed(conversation(long, earlier=0, full=True)).count("x") == 10_000


def test_facts_of_failures() -> None:
    unreachable = exchange(outcome=Failure(FailureKind.CONNECT_FAILED, "Refused.", 502), usage=None)
    text = printed(facts(unreachable))
    assert "502 by the proxy" in text
    assert "connect failed: Refused." in text
    assert "tokens" not in text
    assert "nothing" in printed(facts(exchange(outcome=Failure(FailureKind.CLIENT_GONE, "Left."))))


def test_facts_of_a_tunnel_say_what_is_not_there() -> None:
    text = printed(facts(exchange(tunnel_bytes_up=10, tunnel_bytes_down=2048)))
    assert "10 B up, 2.0 KiB down; messages are not decoded" in text


@pytest.mark.parametrize(
    ("body", "note"),
    [
        (Body(b"x", 1), ""),
        (Body(b"x", 2048, complete=False), "only the first 1 B of 2.0 KiB are kept"),
        (Body(b"xy", 2, complete=False), "it broke off after 2 B"),
        (Body(b"x", 1, redacted=True), "credentials inside were replaced by fingerprints"),
    ],
)
def test_what_a_body_lacks_is_said(body: Body, note: str) -> None:
    assert body_notes(body) == note


def test_raw_bodies() -> None:
    assert "  empty" in printed(raw("request", b"", Body(), full=False))
    assert "binary data" in printed(raw("request", b"\x00\x01", Body(b"\x00\x01", 2), full=False))
    cut = printed(raw("response", b"y" * 3000, Body(b"y" * 3000, 3000), full=False))
    assert "1000 more characters" in cut


def test_headers_cannot_smuggle_lines() -> None:
    text = printed(headers("request headers", "GET /\r\nx HTTP/1.1", ((b"a", b"1\x1b[31m"),)))
    assert "GET / x HTTP/1.1" in text
    assert "a: 1␛[31m" in text


def test_everything_fits_the_width() -> None:
    one = exchange(target="/" + "x" * 500, user_agent="u" * 300, outcome=response(reason=b"r" * 300))
    assert max(map(len, printed(facts(one), width=60).splitlines())) <= 60
