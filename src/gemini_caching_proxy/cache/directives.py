"""What a request says to the cache: `Cache-Control` (RFC 9111 section 5.2.1), `X-Cache-Mode` and `X-Replay-Speed`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast, get_args

from gemini_caching_proxy.errors import MalformedRequest
from gemini_caching_proxy.settings import CacheMode

INSTANT = 0.0
_SPEED = re.compile(r"(\d{1,4}(?:\.\d{1,4})?)x")
_LARGEST_AGE = 2**31
"""RFC 9111 section 1.2.2: larger numbers count as this."""


@dataclass(frozen=True, slots=True)
class Directives:
    """The wishes of one request; the defaults are those of a request that says nothing."""

    mode: CacheMode | None = None
    no_cache: bool = False
    no_store: bool = False
    max_age_s: int | None = None
    only_if_cached: bool = False
    speed: float = INSTANT
    """How much faster than recorded a stream is played; 1 is real time, 0 is at once."""

    @property
    def may_share(self) -> bool:
        """Whether the answer of an identical request in flight is as good as one of its own."""
        return not (self.no_cache or self.no_store or self.only_if_cached or self.max_age_s is not None)


PLAIN = Directives()


def read_directives(headers: Iterable[tuple[bytes, bytes]]) -> Directives:
    """The directives in a request's header fields.

    Raises:
        MalformedRequest: a mode or speed that is not known. Unknown `Cache-Control` directives are ignored, as
            RFC 9111 section 5.2.3 has it.
    """
    mode: CacheMode | None = None
    speed = INSTANT
    control: dict[str, str] = {}
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"cache-control":
            _add(control, value)
        elif lowered == b"x-cache-mode":
            mode = _mode(value.decode("latin-1").strip().lower())
        elif lowered == b"x-replay-speed":
            speed = _speed(value.decode("latin-1").strip().lower())
    return Directives(
        mode,
        no_cache="no-cache" in control,
        no_store="no-store" in control,
        max_age_s=_age(control["max-age"]) if "max-age" in control else None,
        only_if_cached="only-if-cached" in control,
        speed=speed,
    )


def forbids_storing(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request says `no-store`."""
    control: dict[str, str] = {}
    for name, value in headers:
        if name.lower() == b"cache-control":
            _add(control, value)
    return "no-store" in control


def _add(control: dict[str, str], value: bytes) -> None:
    for item in value.decode("latin-1").split(","):
        directive, _, argument = item.strip().partition("=")
        control.setdefault(directive.strip().lower(), argument.strip().strip('"'))


def _mode(text: str) -> CacheMode:
    if text not in get_args(CacheMode):
        raise MalformedRequest(f"X-Cache-Mode must be one of {', '.join(get_args(CacheMode))}.")
    return cast(CacheMode, text)


def _speed(text: str) -> float:
    if text in ("instant", "real"):
        return INSTANT if text == "instant" else 1.0
    match = _SPEED.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise MalformedRequest("X-Replay-Speed must be `instant`, `real`, or a factor such as `4x`.")
    return float(match[1])


def _age(text: str) -> int:
    # What cannot be read is taken for the most careful wish.
    return min(int(text), _LARGEST_AGE) if text.isascii() and text.isdigit() else 0
