"""The facets of one file, each kept once under a number.

Exchanges and rollups are looked up by these numbers. Facets are never deleted, because rollups outlive exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields

import apsw

from gemini_caching_proxy.stores.base import EntryQuery, Query
from gemini_caching_proxy.stores.facets import FACET_FIELDS, Facet, facet_digest

from .connection import fetch_all

_COLUMNS = ", ".join(field.name for field in fields(Facet))
_NEWER = f"SELECT id, {_COLUMNS} FROM facets WHERE id > ?"  # noqa: S608
_INSERT = f"INSERT INTO facets (digest, {_COLUMNS}) VALUES ({', '.join('?' * (len(fields(Facet)) + 1))})"  # noqa: S608


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
            connection.execute(_INSERT, (facet_digest(facet), *astuple(facet)))
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
