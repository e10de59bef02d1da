"""Facets: the combinations of an exchange's low-variety fields; and what makes values fit for any store. No I/O.

A query on these fields becomes a set of facets, found in memory.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache

import msgspec
from blake3 import blake3

from gemini_caching_proxy.exchange import Exchange, FailureKind, Verdict

from .base import EntryQuery, Query, StatsGroup

LARGEST = 2**42
"""Larger numbers in a body are nonsense, and must not overflow a sum."""
INT64_MAX = 2**63 - 1
"""No number may be larger and still be kept; it must not keep its batch out."""


def clean(text: str) -> str:
    """`text` without lone surrogates, which UTF-8 cannot hold; they come from broken JSON escapes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def bounded(number: int | None, largest: int = LARGEST) -> int | None:
    if number is None or -largest <= number <= largest:
        return number
    return largest if number > 0 else -largest


@dataclass(frozen=True, slots=True)
class Facet:
    provider: str
    operation: str
    method: str
    model: str | None
    model_version: str | None
    status: int | None
    failure: str | None
    stream_shape: str
    user_agent: str | None
    credential: str | None
    credential_source: str
    upstream: str
    http_version: str
    verdict: str | None = None

    @classmethod
    def of(cls, exchange: Exchange) -> Facet:
        failure, cache = exchange.failure, exchange.cache
        return cls(
            *(
                clean(value) if isinstance(value, str) else value
                for value in (
                    exchange.provider,
                    exchange.operation,
                    exchange.method,
                    exchange.model,
                    exchange.model_version,
                    bounded(exchange.status),
                    None if failure is None else failure.kind.value,
                    exchange.stream_shape,
                    exchange.user_agent,
                    exchange.credential,
                    exchange.credential_source,
                    exchange.upstream,
                    exchange.http_version,
                    None if cache is None else cache.verdict.value,
                )
            )  # type: ignore[arg-type]
        )

    @property
    def failure_kind(self) -> FailureKind | None:
        return None if self.failure is None else FailureKind(self.failure)

    @property
    def cache_verdict(self) -> Verdict | None:
        return None if self.verdict is None else Verdict(self.verdict)

    @property
    def is_served(self) -> bool:
        """As `CacheUse.served`."""
        return self.verdict in (Verdict.HIT, Verdict.COLLAPSED)

    @property
    def is_error(self) -> bool:
        return self.failure is not None or (self.status is not None and self.status >= 400)

    def matches(self, query: Query) -> bool:
        """Whether exchanges of this facet pass the fields of `query` that a facet has."""
        return (
            (query.model is None or self._has_model(query.model))
            and query.operation in (None, self.operation)
            and query.provider in (None, self.provider)
            and query.method in (None, self.method)
            and query.status in (None, self.status)
            and (query.status_class is None or (self.status or 0) // 100 == query.status_class)
            and query.errors in (None, self.is_error)
            and query.failure in (None, self.failure)
            and query.credential in (None, self.credential)
            and query.verdict in (None, self.verdict)
            and (query.client is None or (self.user_agent or "").casefold().startswith(query.client.casefold()))
        )

    def matches_entry(self, query: EntryQuery) -> bool:
        """Whether entries of exchanges of this facet pass the fields of `query` that a facet has."""
        return (
            query.provider in (None, self.provider)
            and query.operation in (None, self.operation)
            and query.credential in (None, self.credential)
            and (query.model is None or (self.model is not None and is_model(query.model, self.model)))
        )

    def _has_model(self, wanted: str) -> bool:
        return any(is_model(wanted, model) for model in (self.model, self.model_version) if model is not None)

    def group_key(self, group: StatsGroup) -> str:
        """The facet's value for a group that is none of time."""
        if group == "model":
            return self.model or self.model_version or ""
        if group == "operation":
            return self.operation
        if group == "status":
            return "" if self.status is None else str(self.status)
        if group == "credential":
            return self.credential or ""
        return client_name(self.user_agent)


def is_model(wanted: str, model: str) -> bool:
    """`*` at the end of what is wanted matches any rest."""
    return model.startswith(wanted[:-1]) if wanted.endswith("*") else model == wanted


def client_name(user_agent: str | None) -> str:
    """The product of a user agent without its version: `genai-sdk` of `genai-sdk/1.2 gl-python/3.11`; "" for none."""
    words = (user_agent or "").split(maxsplit=1)
    return words[0].partition("/")[0] if words else ""


@lru_cache(maxsize=4096)
def facet_digest(facet: Facet) -> bytes:
    """16 bytes that name the facet; without a verdict as it was before there were verdicts."""
    values = astuple(facet)
    return blake3(msgspec.msgpack.encode(values if facet.verdict is not None else values[:-1])).digest(length=16)


FACET_FIELDS = (
    "model",
    "operation",
    "provider",
    "status",
    "status_class",
    "errors",
    "failure",
    "credential",
    "client",
    "method",
    "verdict",
)
