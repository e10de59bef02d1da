"""Credentials that can be told by their shape, and how they are found in bytes.

Finding is two steps: `needles.py` looks for the rare literals that every format holds, and only where one stands is
the format's pattern tried (RE2, anchored there), so harmless bytes cost a fraction of a nanosecond each. A format
counts only at a clean start, never inside a longer run of word characters such as base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import re2

RUN: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-")
TOKEN_REST: Final = RUN | frozenset(b"./+=~\\%")
PEM_REST: Final = TOKEN_REST | frozenset(b" \t\r\n:,")
CONTEXT_BYTES: Final = 6
"""How far before a start its cleanness depends on."""
TOKEN_HOLD: Final = 512
LONG_HOLD: Final = 8 * 1024
PEM_HOLD: Final = 16 * 1024
DENSE: Final = 200
"""More literals than this in one piece of data are sorted out by RE2 in one pass, not one by one."""

_HEX = frozenset(b"0123456789abcdefABCDEF")
_ESCAPED = frozenset(b"nrtbf")


def _compile(pattern: str, *, longest: bool = False) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.longest_match = longest
    options.log_errors = False
    return re2.compile(pattern.encode("ascii"), options)


def _always(_secret: bytes) -> bool:
    return True


def _has_digit(secret: bytes) -> bool:
    return any(48 <= byte <= 57 for byte in secret)


def _has_digit_and_letter(secret: bytes) -> bool:
    return _has_digit(secret) and any(65 <= byte <= 90 or 97 <= byte <= 122 for byte in secret)


def _is_user_and_password(secret: bytes) -> bool:
    """Whether the base64 of HTTP Basic says `user:password` in printable ASCII."""
    plain = secret.replace(b"\\/", b"/")
    for escape, char in ((b"\\u002b", b"+"), (b"\\u002B", b"+"), (b"\\u003d", b"="), (b"\\u003D", b"=")):
        plain = plain.replace(escape, char)
    plain = plain.rstrip(b"=")
    try:
        pair = base64.b64decode(plain + b"=" * (-len(plain) % 4))
    except (binascii.Error, ValueError):
        return False
    return b":" in pair and all(32 <= byte < 127 for byte in pair)


@dataclass(frozen=True, slots=True)
class Format:
    """One shape of credential."""

    name: str
    example: str
    """What it looks like, for people; not a credential."""
    literals: tuple[bytes, ...]
    """One of them starts every occurrence."""
    pattern: str
    """The whole occurrence (RE2)."""
    partial: str
    """Whatever may still become an occurrence, or part of a longer one, once more bytes come."""
    hold: int = TOKEN_HOLD
    """Most bytes to wait for the rest of it."""
    keep: int = 0
    """Bytes in front that are no secret: a scheme word."""
    clean_start: bool = True
    run: frozenset[int] = RUN
    """What must not follow."""
    rest: frozenset[int] = TOKEN_REST
    """What it can be made of, if it goes on for longer than there is patience to wait."""
    closed_by: bytes = b""
    """What ends it for sure; empty where only the next byte tells."""
    check: Callable[[bytes], bool] = _always
    """A second look at the secret."""


_B64 = r"(?:[0-9A-Za-z+/]|\\/|\\u002[bB])"
_PAD = r"(?:=|\\u003[dD]){0,2}"
_BEARER = r"(?:[0-9A-Za-z._~+/=-]|\\/|\\u002[bB]|\\u003[dD])"
_PEM_HEAD = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_PEM_BODY = r"(?:[0-9A-Za-z+/=\s:,.\\]|-[0-9A-Za-z])"
_PEM_TAIL = r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_PEM_TAIL_BEGUN = r"(?:-{0,4}|-----(?:E|EN|END[A-Z0-9 ]{0,60}-{0,4})?)"
_PEM_LINES = r"(?:(?:\\+[nrt]|\s)*[0-9A-Za-z+/=]{16,})+"

FORMATS: Final = (
    Format("Google API key", "AIza… (39)", (b"AIza",), r"AIza[0-9A-Za-z_-]{35}", r"AIza[0-9A-Za-z_-]{0,35}"),
    Format("Google authorization key", "AQ.…", (b"AQ.",), r"AQ\.[0-9A-Za-z_-]{30,}", r"AQ\.[0-9A-Za-z_-]*"),
    Format(
        "Google OAuth access token",
        "ya29.…",
        (b"ya29.",),
        r"ya29\.[0-9A-Za-z_.-]{19,}[0-9A-Za-z_-]",
        r"ya29\.[0-9A-Za-z_.-]*",
        hold=LONG_HOLD,
    ),
    Format(
        "Gemini ephemeral token",
        "auth_tokens/…",
        (b"auth_tokens",),
        r"auth_tokens(?:\\?/|%2[Ff])[0-9A-Za-z_-]{16,}",
        r"auth_tokens(?:\\?|%2?|(?:\\?/|%2[Ff])[0-9A-Za-z_-]*)",
    ),
    Format("Anthropic API key", "sk-ant-…", (b"sk-",), r"sk-ant-[0-9A-Za-z_-]{20,}", r"sk-[0-9A-Za-z_-]*"),
    Format(
        "OpenAI API key",
        "sk-… · sk-proj-…",
        (b"sk-",),
        r"sk-(?:(?:proj|svcacct|admin|None|or-v1|lf)-[0-9A-Za-z_-]{20,}|[0-9A-Za-z]{32,})",
        r"sk-[0-9A-Za-z_-]*",
    ),
    Format(
        "GitHub token",
        "ghp_… · gho_… · ghu_… · ghs_… · ghr_…",
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"),
        r"gh[pousr]_[0-9A-Za-z]{36,}",
        r"gh[pousr]_[0-9A-Za-z]*",
    ),
    Format(
        "GitHub fine-grained token",
        "github_pat_…",
        (b"github_pat_",),
        r"github_pat_[0-9A-Za-z_]{22,}",
        r"github_pat_[0-9A-Za-z_]*",
    ),
    Format(
        "AWS access key id",
        "AKIA… · ASIA… (20)",
        (b"AKIA", b"ASIA"),
        r"A[KS]IA[0-9A-Z]{16}",
        r"A[KS]IA[0-9A-Z]{0,16}",
    ),
    Format(
        "Slack token",
        "xoxb-… · xoxp-…",
        (b"xox",),
        r"xox[abeoprs]-[0-9A-Za-z-]{10,}",
        r"xox(?:[abeoprs](?:-[0-9A-Za-z-]*)?)?",
        check=_has_digit,
    ),
    Format(
        "JSON Web Token",
        "eyJ….….…",
        (b"eyJ",),
        r"eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}",
        r"eyJ[0-9A-Za-z_-]*(?:\.[0-9A-Za-z_-]*){0,2}",
        hold=LONG_HOLD,
    ),
    Format(
        "PEM private key",
        "-----BEGIN … PRIVATE KEY-----",
        (b"-----BEGIN",),
        f"{_PEM_HEAD}(?:{_PEM_BODY}*?{_PEM_TAIL}|{_PEM_LINES})",
        f"{_PEM_HEAD}{_PEM_BODY}*{_PEM_TAIL_BEGUN}|-----BEGIN[A-Z0-9 ]{{0,60}}-{{0,4}}",
        hold=PEM_HOLD,
        clean_start=False,
        run=frozenset(),
        rest=PEM_REST,
        closed_by=b"-----",
    ),
    Format(
        "HTTP Basic credentials",
        "Basic <base64 of user:password>",
        (b"Basic ", b"basic "),
        f"[Bb]asic {_B64}{{8,}}{_PAD}",
        f"[Bb]asic {_B64}*(?:=|\\\\(?:u[0-9A-Fa-f]{{0,4}})?)*",
        keep=6,
        check=_is_user_and_password,
    ),
    Format(
        "HTTP Bearer token",
        "Bearer <token>",
        (b"Bearer ", b"bearer "),
        f"[Bb]earer {_BEARER}{{19,}}[0-9A-Za-z_~+/=-]",
        f"[Bb]earer {_BEARER}*(?:\\\\(?:u[0-9A-Fa-f]{{0,4}})?)?",
        hold=LONG_HOLD,
        keep=7,
        check=_has_digit_and_letter,
    ),
)

DOCUMENTED_FORMATS: Final = tuple((each.name, each.example, each.pattern) for each in FORMATS)
"""Name, shape for people, RE2 pattern of everything that is found without being told."""

LITERALS: Final = tuple(dict.fromkeys(literal for each in FORMATS for literal in each.literals))


Search = Callable[[bytes], list[tuple[int, int, int]]]
"""Finds literals: (which, start, end) of each."""


@dataclass(frozen=True, slots=True)
class Found:
    """A credential at `data[start:end]`."""

    start: int
    end: int
    rest: frozenset[int] = frozenset()
    """Not empty when more of it may follow than there was patience to wait for: the bytes it can be made of."""


class _Compiled:
    """A format with its patterns made."""

    __slots__ = ("check", "clean_start", "closed_by", "hold", "keep", "literals", "partial", "pattern", "rest", "run")

    def __init__(self, source: Format) -> None:
        self.pattern = _compile(source.pattern)
        self.partial = _compile(source.partial, longest=True)
        self.literals, self.hold, self.keep = source.literals, source.hold, source.keep
        self.run, self.rest, self.closed_by = source.run, source.rest, source.closed_by
        self.clean_start, self.check = source.clean_start, source.check


class FormatFinder:
    """Decides what stands at the literals that were met."""

    def __init__(self) -> None:
        compiled = [_Compiled(each) for each in FORMATS]
        self._by_literal = {
            literal: tuple(each for each in compiled if literal in each.literals) for literal in LITERALS
        }
        self._patience = {literal: max(each.hold for each in uses) for literal, uses in self._by_literal.items()}
        self._any = _compile("|".join(f"(?:{each.pattern})" for each in FORMATS))

    def find(
        self, data: bytes, places: list[tuple[int, bytes]], before: bytes, *, final: bool, cut: bool = False
    ) -> tuple[list[Found], int]:
        """Credentials at `places` (offset, literal; ascending), and where to wait for more bytes (else the length).

        `before` is what preceded `data`. `final`: nothing follows. `cut`: the end may be in the middle of a credential,
        which then counts when most of it is there.
        """
        found: list[Found] = []
        reached = 0
        for place, literal in places:
            if place < reached:
                continue
            for each in self._by_literal[literal]:
                verdict = self._judge(each, data, place, before, final=final, cut=cut)
                if verdict is None:
                    continue
                if isinstance(verdict, int):
                    return found, verdict
                found.append(verdict)
                reached = verdict.end
                break
        return found, len(data)

    def dense_places(self, data: bytes, search: Search) -> list[tuple[int, bytes]]:
        """Places worth judging in data that is full of literals; `search` finds literals."""
        places = {(match.start(), _literal_at(data, match.start())) for match in self._any.finditer(data)}
        size = len(data)
        tail = max(0, size - PEM_HOLD)
        for _, start, end in search(data[tail:]):
            place = tail + start
            literal = data[place : tail + end]
            if size - place <= self._patience[literal]:
                places.add((place, literal))
        return sorted(places)

    def _judge(
        self, each: _Compiled, data: bytes, place: int, before: bytes, *, final: bool, cut: bool
    ) -> Found | int | None:
        """A credential, or the place to wait from, or neither."""
        if each.clean_start and not starts_clean(data, place, before):
            return None
        size = len(data)
        secret_at = place + each.keep
        match = each.pattern.match(data, place)
        end = match.end() if match else -1
        if end < 0 or not each.closed_by or data[end - len(each.closed_by) : end] != each.closed_by:
            part = each.partial.match(data, place)
            if part and part.end() == size:
                if not final:
                    if size - place <= each.hold:
                        return place
                    return Found(secret_at, size, each.rest) if end > 0 and each.check(data[secret_at:]) else None
                if end < 0:
                    return Found(secret_at, size) if cut and _mostly_there(data[secret_at:]) else None
        if end < 0 or (end < size and data[end] in each.run) or not each.check(data[secret_at:end]):
            return None
        return Found(secret_at, end)


def _literal_at(data: bytes, place: int) -> bytes:
    return next(literal for literal in LITERALS if data.startswith(literal, place))


def starts_clean(data: bytes, place: int, before: bytes) -> bool:
    """Whether a credential may start here: not inside a run, except right behind a JSON or percent escape."""
    if place < CONTEXT_BYTES:
        data = before + data[:place]
        place = len(data)
    if place == 0 or data[place - 1] not in RUN:
        return True
    if place >= 2 and data[place - 2] == 0x5C and data[place - 1] in _ESCAPED:
        return True
    if place >= 3 and data[place - 3] == 0x25 and data[place - 2] in _HEX and data[place - 1] in _HEX:
        return True
    return place >= 6 and data[place - 6 : place - 4] == b"\\u" and _HEX.issuperset(data[place - 4 : place])


def _mostly_there(part: bytes) -> bool:
    return len(part) >= 16 and _has_digit(part)
