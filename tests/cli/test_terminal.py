from __future__ import annotations

import contextlib
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.cli.terminal import complain, note, one_line, output, styled, visible, write_json

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)


def steers(text: str, *, lines: bool) -> bool:
    """Whether a terminal could take some of it for more than text."""
    controls = ("Cc", "Cs", "Zl", "Zp")
    reorder = ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI")
    return any(
        unicodedata.category(one) in controls or unicodedata.bidirectional(one) in reorder
        for one in text
        if one not in ("\n\t" if lines else "")
    )


@given(ANY_TEXT)
def test_visible_text_cannot_steer_a_terminal(text: str) -> None:
    assert not steers(visible(text), lines=True)


@given(ANY_TEXT)
def test_one_line_is_one_line(text: str) -> None:
    assert not steers(one_line(text), lines=False)


def test_ordinary_text_stays_as_it_is() -> None:
    text = "Grüße, 你好, नमस्ते 👩‍👩‍👧 – tab\there\nnext line"
    assert visible(text) == text


def test_what_is_hidden_is_made_visible() -> None:
    assert visible("\x1b[31m\x07\x7f\x9b") == "␛[31m␇␡<U+009B>"
    assert visible("a\u202eb\U000e0041") == "a<U+202E>b<U+E0041>"


def test_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    output().print(styled("[bold red]x[/bold red] :smile: [link=http://x]y"))
    assert capsys.readouterr().out == "[bold red]x[/bold red] :smile: [link=http://x]y\n"


@given(st.text(max_size=200))
def test_json_lines_carry_the_text_and_cannot_steer(text: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        write_json({"text": text})
    line = out.getvalue()
    assert json.loads(line) == {"text": text}
    assert not steers(line.removesuffix("\n"), lines=False)


def test_complaints_are_escaped_and_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    complain("Bad \x1b[31mthing.", "Try this.")
    note("more")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "gemini-proxy: Bad ␛[31mthing.\nTry this.\nmore\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv(name, value)
    assert output().color_system is None


def test_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert output().color_system is not None
