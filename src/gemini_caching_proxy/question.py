"""What a request asks of the record.

A `Plan` is worked out once per shape of request: mode, directives, whose recordings may serve. A `Question` is what one
body asks: its keys and the shape of answer that is wanted. Where the mode serves nothing like it, no body is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from blake3 import blake3

from .annotation import Note, bypass
from .cache.directives import Directives
from .cache.key import cache_key
from .cache.normalisers import Normalisers
from .cache.policy import NOT_ZERO, Policy
from .content_coding import content_codings, uncoded
from .exchange import StreamShape
from .providers.base import CacheKind, Provider, Route
from .settings import CacheMode

Identity = tuple[bytes, StreamShape, bytes, bool]
MOST_QUESTIONS = 512
"""Bodies per shape of request whose question is remembered."""
_NOT_ZERO = bypass(NOT_ZERO)


class Question(NamedTuple):
    """What one request asks of the record."""

    plan: Plan
    keys: tuple[bytes, ...]
    """Where to look, in order; the first is the one under which the answer will be kept."""
    shape: StreamShape
    operation: str
    """The subject's."""
    kind: CacheKind
    ttl_s: float

    @property
    def kept_s(self) -> float | None:
        """Seconds that a fresh answer is served; None if the client wants none kept."""
        return None if self.plan.directives.no_store else self.ttl_s

    @property
    def identity(self) -> Identity:
        """Requests with the same identity can be given the same bytes, from the same places."""
        return self.keys[0], self.shape, self.plan.accept_encoding, self.plan.must_be_recorded


@dataclass(slots=True)
class Plan:
    """How requests of one shape are dealt with."""

    policy: Policy
    normalisers: Normalisers
    upstream: str
    provider: Provider
    route: Route
    mode: CacheMode
    directives: Directives
    kind: CacheKind | None
    target: str
    headers: list[tuple[bytes, bytes]]
    namespaces: tuple[str, ...]
    accept_encoding: bytes
    turned_away: Note | None
    """Set where no body can make a difference."""
    questions: dict[bytes, Question | Note] = field(default_factory=dict)
    coded: bool = field(init=False)
    """Whether bodies have a content-coding, so that a look at their bytes tells nothing."""

    def __post_init__(self) -> None:
        self.coded = bool(content_codings(tuple(self.headers)))

    @property
    def has_a_say(self) -> bool:
        """Whether what the cache says to such requests is worth a record."""
        return self.kind is not None and self.mode != "off"

    @property
    def must_be_recorded(self) -> bool:
        """Whether only a recorded answer is wanted."""
        return self.mode == "replay" or self.directives.only_if_cached

    @property
    def wants_new(self) -> bool:
        """Whether nothing recorded will do. In replay mode the recording is the origin, and as new as it gets."""
        return self.directives.no_cache and self.mode != "replay"

    def question(self, body: bytes) -> Question | Note:
        """What a body asks, or why it is not served from the record."""
        if (
            self.kind == "generation"
            and self.mode == "safe"
            and not self.coded
            and not self.provider.may_be_deterministic(self.route.operation, body)
        ):
            return _NOT_ZERO
        digest = blake3(body).digest(16)
        known = self.questions.get(digest)
        if known is None:
            if len(self.questions) >= MOST_QUESTIONS:
                self.questions.clear()
            known = self.questions[digest] = self._new_question(body)
        return known

    def _new_question(self, body: bytes) -> Question | Note:
        route, normalisers = self.route, self.normalisers
        plain = uncoded(tuple(self.headers), body)
        if plain.error is not None:
            return bypass(plain.error)
        normalise = normalisers if normalisers.name else None
        subject = self.provider.cache_subject(
            route.operation, route.model, self.target, tuple(self.headers), plain.data, normalise
        )
        if isinstance(subject, str):
            return bypass(subject)
        why_not = self.policy.why_not(self.mode, subject)
        if why_not:
            return bypass(why_not)
        keys = tuple(
            cache_key(
                subject,
                provider=route.provider,
                upstream=self.upstream,
                namespace=namespace,
                normalisers=normalisers.name,
            )
            for namespace in self.namespaces
        )
        ttl_s = self.policy.ttl_s(route.operation, subject.kind)
        return Question(self, keys, subject.shape, subject.operation, subject.kind, ttl_s)

    def accepts(self, coding: str) -> bool:
        """Whether the client takes this content-coding (RFC 9110 section 12.5.3)."""
        for item in self.accept_encoding.lower().split(b","):
            name, _, weight = item.partition(b";")
            if name.strip() in (coding.encode(), b"*"):
                return weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
        return False
