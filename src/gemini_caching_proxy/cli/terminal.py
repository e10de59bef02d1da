"""Writing to a terminal: recorded text is hostile, so nothing of it reaches one unescaped.

Every text that was recorded passes `visible` before it is printed, and is printed as `rich.text.Text`, never as markup.
JSON lines are safe for a terminal too: whatever could steer one is written as a `\\u` escape.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.text import Text

# C0 and C1 controls (escape sequences begin with one of them), line separators, marks that reorder text, and the
# invisible tag characters. Joiners stay: scripts and emoji need them.
_STEERING = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
    r"\U000e0000-\U000e007f"
)
_CONTROL = re.compile(f"[{_STEERING}]")
_SPACE = re.compile(r"\s+")


def visible(text: str) -> str:
    """`text` with every character that could steer a terminal or hide made visible; line feeds and tabs stay."""
    return _CONTROL.sub(_picture, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 400) -> str:
    """The beginning of `text` as one line, safe to print."""
    return visible(_SPACE.sub(" ", text[: limit * 2]).strip())[:limit]


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


class Output(Console):
    """A console that leaves it to the program to end when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Output:
    """Standard output for people. Colour only on a terminal, and not with `NO_COLOR`."""
    return Output(
        markup=False,
        highlight=False,
        emoji=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        legacy_windows=False,
    )


def put(*parts: RenderableType) -> None:
    """Blocks on standard output, without the spaces that fill lines up."""
    console = output()
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    say(*(line.rstrip() for line in captured.get().split("\n")[:-1]))


def say(*lines: str) -> None:
    """Plain lines on standard output."""
    print(*lines, sep="\n")  # noqa: T201


def note(text: str) -> None:
    """A line for people beside the output, on standard error."""
    print(visible(text), file=sys.stderr, flush=True)  # noqa: T201


def complain(sentence: str, hint: str = "") -> None:
    """An error: one sentence on standard error, and perhaps what helps."""
    note(f"gemini-proxy: {sentence.strip()}")
    if hint:
        note(hint)


def write_json(record: Mapping[str, Any]) -> None:
    """One record as one line of JSON."""
    line = msgspec.json.encode(record).decode()
    print(_CONTROL.sub(_json_escape, line), flush=True)  # noqa: T201


def _json_escape(match: re.Match[str]) -> str:
    return "".join(f"\\u{unit:04x}" for unit in _utf16(match[0]))


def _utf16(character: str) -> tuple[int, ...]:
    data = character.encode("utf-16-be", "surrogatepass")
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


def styled(text: str, style: str = "") -> Text:
    """Recorded text, made visible, in a style."""
    return Text(visible(text), style=style)
