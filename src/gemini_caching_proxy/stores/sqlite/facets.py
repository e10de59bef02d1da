"""Facets: the combinations of an exchange's low-variety fields, each kept once.

A query on these fields becomes a set of facet numbers, found in memory; exchanges and rollups are then looked up by
number. Facets are never deleted, because rollups outlive exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import apsw
import msgspec
from blake3 import blake3

from gemini_caching_proxy.exchange import Exchange, FailureKind, Verdict
from gemini_caching_proxy.stores.base import EntryQuery, Query, StatsGroup

from .connection import fetch_all

LARGEST = 2**42
"""Larger numbers in a body are nonsense, and must not overflow a sum."""
INT64_MAX = 2**63 - 1
"""No number may be larger and still be kept; it must not keep its batch out."""


def clean(text: str) -> str:
    """`text` without lone surrogates, which UTF-8 cannot hold; they come from broken JSON escapes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def bounded(number: int | None, largest: int = LARGEST) -> int | None:
    return None if number is None else max(-largest, min(number, largest))


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


_COLUMNS = ", ".join(field.name for field in fields(Facet))
_NEWER = f"SELECT id, {_COLUMNS} FROM facets WHERE id > ?"  # noqa: S608
_INSERT = f"INSERT INTO facets (digest, {_COLUMNS}) VALUES ({', '.join('?' * (len(fields(Facet)) + 1))})"  # noqa: S608


def _digest(facet: Facet) -> bytes:
    """What makes a facet one of a kind in the file; without a verdict as it was before there were verdicts."""
    values = astuple(facet)
    return blake3(msgspec.msgpack.encode(values if facet.verdict is not None else values[:-1])).digest(length=16)


class Facets:
    """The facets of one file as one connection knows them."""

    def __init__(self) -> None:
        self._by_number: dict[int, Facet] = {}
        self._numbers: dict[Facet, int] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"<Facets {len(self._by_number)}>"

    def refresh(self, connection: apsw.Connection) -> None:
        """Learn what was added since."""
        for number, *values in fetch_all(connection, _NEWER, (self._last,)):
            self._learn(int(number), Facet(*values))

    def forget(self) -> None:
        """After a rollback: what was learned may never have been."""
        self.__init__()  # type: ignore[misc]

    def intern(self, connection: apsw.Connection, facet: Facet) -> int:
        """The number of `facet`; made in the running transaction if it is new."""
        known = self._numbers.get(facet)
        if known is not None:
            return known
        self.refresh(connection)
        if facet not in self._numbers:
            connection.execute(_INSERT, (_digest(facet), *astuple(facet)))
            self._learn(connection.last_insert_rowid(), facet)
        return self._numbers[facet]

    def _learn(self, number: int, facet: Facet) -> None:
        self._by_number[number] = facet
        self._numbers[facet] = number
        self._last = max(self._last, number)

    def __getitem__(self, number: int) -> Facet:
        return self._by_number[number]

    def numbers(self) -> Sequence[int]:
        """Of all facets."""
        return list(self._by_number)

    def matching(self, query: Query) -> Sequence[int] | None:
        """Numbers of the facets that pass `query`; None when every one does because it sets none of their fields."""
        if all(getattr(query, name) is None for name in FACET_FIELDS):
            return None
        return [number for number, facet in self._by_number.items() if facet.matches(query)]

    def matching_entries(self, query: EntryQuery) -> Sequence[int] | None:
        """As `matching`, for a choice of entries."""
        if (query.provider, query.operation, query.model, query.credential) == (None,) * 4:
            return None
        return [number for number, facet in self._by_number.items() if facet.matches_entry(query)]


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
