"""Which requests may be served from the record, which answers may serve, and for how long. Decides, does no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast, get_args

from gemini_caching_proxy.errors import ConfigError
from gemini_caching_proxy.exchange import EntryKind, Verdict
from gemini_caching_proxy.providers.base import CacheKind, CacheSubject, Endings
from gemini_caching_proxy.settings import CacheMode, Settings

DAY: Final = 86_400.0
KIND_TTL_S: Final[Mapping[str, float]] = {
    "listing": 300.0,
    "tokens": 30 * DAY,
    "embedding": 30 * DAY,
    "generation": 7 * DAY,
}
NOT_ZERO: Final = "temperature is not 0"
NEVER: Final = "the operation is never cached"
_UNIT_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


@dataclass(frozen=True, slots=True)
class RouteMode:
    """A mode for some calls. `*` at the end of a pattern matches any rest."""

    operation: str
    model: str
    mode: CacheMode

    def covers(self, operation: str, model: str) -> bool:
        return (
            _matches(self.operation, operation) or _matches(self.operation, operation.removeprefix("stream_"))
        ) and _matches(self.model, model)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say about the cache."""

    mode: CacheMode = "safe"
    routes: tuple[RouteMode, ...] = ()
    ttls: Mapping[str, float] = field(default_factory=lambda: dict(KIND_TTL_S))
    """Seconds, by operation or by kind."""
    dependent: bool = False
    finish_reasons: frozenset[str] = frozenset({"STOP", "MAX_TOKENS"})
    replay_errors: bool = True

    @classmethod
    def from_settings(cls, settings: Settings) -> Policy:
        """Raises ConfigError: a route or an age cannot be read."""
        return cls(
            settings.cache,
            tuple(map(_route_mode, settings.cache_routes)),
            {**KIND_TTL_S, **dict(map(_ttl, settings.cache_ttl))},
            settings.cache_dependent,
            frozenset(reason.upper() for reason in settings.cache_finish_reasons),
            settings.cache_replay_errors,
        )

    def mode_for(self, operation: str, model: str | None, asked: CacheMode | None = None) -> CacheMode:
        """The mode of a call; `asked` is the request's own wish, which cannot make a replaying proxy call out."""
        if self.mode == "replay":
            return "replay"
        if asked is not None:
            return asked
        for route in self.routes:
            if route.covers(operation, model or ""):
                return route.mode
        return self.mode

    def ttl_s(self, operation: str, kind: CacheKind) -> float:
        """Seconds that answers of an operation are served."""
        family = operation.removeprefix("stream_")
        return self.ttls.get(operation, self.ttls.get(family, self.ttls[kind]))

    def why_not(self, mode: CacheMode, subject: CacheSubject) -> str:
        """Why what a request asks for is not served from the record in this mode; empty if it is."""
        if mode == "off":
            return "the cache is off"
        if mode == "replay":
            return ""
        if subject.depends_on and not self.dependent:
            return f"depends on {subject.depends_on}"
        if mode == "safe" and not subject.deterministic:
            return NOT_ZERO
        return ""

    def entry_kind(self, status: int, kind: CacheKind, endings: Endings) -> EntryKind | None:
        """What a whole answer is worth to the cache; None for nothing.

        Args:
            endings: of an answer of status 200; of others it is not looked at.
        """
        if status >= 400:
            return "error"
        if status != 200:
            return None
        if endings.error is not None:
            return "error"
        if not endings.complete:
            return None
        if kind != "generation":
            return "answer"
        allowed = bool(endings.finish_reasons) and self.finish_reasons.issuperset(endings.finish_reasons)
        return "answer" if allowed else "error"

    def verdict(
        self, mode: CacheMode, *, kind: EntryKind, pinned: bool, age_s: float, ttl_s: float, max_age_s: int | None
    ) -> Verdict:
        """Whether a recorded answer serves a request: `HIT`, `STALE`, or `MISS` where it is not of the right kind."""
        if kind == "error":
            return Verdict.HIT if mode == "replay" and self.replay_errors else Verdict.MISS
        if mode == "replay":
            # The recording stands for the origin: it has nothing newer, whatever a request says about age.
            return Verdict.HIT
        if max_age_s is not None and age_s > max_age_s:
            return Verdict.STALE
        return Verdict.HIT if pinned or age_s < ttl_s else Verdict.STALE


def asks_plainly(method: str, kind: CacheKind, header_names: Iterable[bytes]) -> bool:
    """Whether a request has the one method that its operation is cached for, and no other in a field."""
    expected = "GET" if kind == "listing" else "POST"
    return method == expected and all(name.lower() != b"x-http-method-override" for name in header_names)


def _matches(pattern: str, value: str) -> bool:
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def _route_mode(text: str) -> RouteMode:
    """`operation=mode` or `operation:model=mode`."""
    place, equals, mode = text.rpartition("=")
    operation, _, model = place.strip().partition(":")
    if not equals or mode.strip() not in get_args(CacheMode) or not operation:
        modes = ", ".join(get_args(CacheMode))
        raise ConfigError(
            f"Setting --cache-routes (got {text!r}): write `operation=mode` or `operation:model=mode`, one of {modes}."
        )
    return RouteMode(operation, model or "*", cast(CacheMode, mode.strip()))


def _ttl(text: str) -> tuple[str, float]:
    name, equals, age = text.partition("=")
    seconds = age_seconds(age.strip())
    if not equals or not name.strip() or seconds is None:
        raise ConfigError(
            f"Setting --cache-ttl (got {text!r}): write `operation=age` with an age such as 30s, 5m, 12h or 7d."
        )
    return name.strip(), seconds


def age_seconds(text: str) -> float | None:
    """Seconds of an age such as `90s` or `7d`; None if it is none."""
    match = _AGE.fullmatch(text)
    return float(match[1]) * _UNIT_S[match[2]] if match else None
