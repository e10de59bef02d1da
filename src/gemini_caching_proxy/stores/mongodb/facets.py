"""The facets of a database as one process knows them: few thousand at most, so queries choose among them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from time import monotonic
from typing import Final

from bson import Int64

from gemini_caching_proxy.stores.base import EntryQuery, Query
from gemini_caching_proxy.stores.facets import FACET_FIELDS, Facet

from .connection import Database, Document
from .schema import FACETS

RELOAD_SECONDS: Final = 60.0
"""A writer that was given up for dead may add a facet behind one's back: now and then all are read again."""


class Facets:
    """Facets and the digests that stand for them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_digest: dict[bytes, Facet] = {}
        self._known: set[Facet] = set()
        self._seen = 0
        self._loaded = -RELOAD_SECONDS

    def __repr__(self) -> str:
        return f"<Facets {len(self._by_digest)} to {self._seen}>"

    def knows(self, facet: Facet) -> bool:
        """Whether it is certainly in the database."""
        return facet in self._known

    def learn(self, facets: Iterable[Facet]) -> None:
        """These are in the database."""
        self._known.update(facets)

    @staticmethod
    def document(facet: Facet, digest: bytes, sequence: int) -> Document:
        values = {name: value for name, value in asdict(facet).items() if value is not None}
        return {"_id": digest, "sequence": Int64(sequence), **values}

    async def refresh(self, horizon: int) -> None:
        """Learn those of exchanges up to the horizon."""
        if monotonic() - self._loaded > RELOAD_SECONDS:
            self._seen, self._loaded = 0, monotonic()
        if horizon <= self._seen:
            return
        async for document in self._database[FACETS].find({"sequence": {"$gt": Int64(self._seen)}}):
            facet = _facet(document)
            self._by_digest[document["_id"]] = facet
            self._known.add(facet)
        self._seen = horizon

    def __getitem__(self, digest: bytes) -> Facet:
        return self._by_digest[digest]

    def items(self) -> Iterable[tuple[bytes, Facet]]:
        return self._by_digest.items()

    def matching(self, query: Query) -> Sequence[bytes] | None:
        """Digests of the facets that pass `query`; None when every one does because it sets none of their fields."""
        if all(getattr(query, name) is None for name in FACET_FIELDS):
            return None
        return [digest for digest, facet in self._by_digest.items() if facet.matches(query)]

    def matching_entries(self, query: EntryQuery) -> Sequence[bytes] | None:
        """As `matching`, for a choice of entries."""
        if (query.provider, query.operation, query.model, query.credential) == (None,) * 4:
            return None
        return [digest for digest, facet in self._by_digest.items() if facet.matches_entry(query)]


def _facet(document: Document) -> Facet:
    values = {name: value for name, value in document.items() if name not in ("_id", "sequence")}
    names = {
        "model": None,
        "model_version": None,
        "status": None,
        "failure": None,
        "user_agent": None,
        "credential": None,
    }
    return Facet(**{**names, **values})
