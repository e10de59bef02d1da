"""Answering from a cassette: the questions of a cache, asked of exchanges in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gemini_caching_proxy.exchange import EntryKind, Exchange, Response
from gemini_caching_proxy.stores.base import CachedAnswer, CacheEntry, replaces

EntryOf = Callable[[Exchange], tuple[bytes, EntryKind] | None]


class CassetteAnswers:
    """The answers of a cassette, by cache key. Requests are forgotten; memory is that of the answers."""

    def __init__(self, exchanges: Iterable[Exchange], entry_of: EntryOf) -> None:
        """`entry_of`: under which key an exchange's answer can be served, and as what; None if it cannot."""
        self.exchanges = 0
        self._answers: dict[bytes, CachedAnswer] = {}
        for exchange in exchanges:
            self.exchanges += 1
            entry = entry_of(exchange)
            if entry is not None and isinstance(exchange.outcome, Response):
                self._take(*entry, exchange, exchange.outcome)

    def __repr__(self) -> str:
        return f"<CassetteAnswers {len(self)} of {self.exchanges} exchanges>"

    def __len__(self) -> int:
        """Different requests that can be answered."""
        return len(self._answers)

    def find(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        """The answer of the first of these keys that has one."""
        return next((self._answers[key] for key in keys if key in self._answers), None)

    async def find_cached(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        """As `find`, in the words of a store."""
        return self.find(keys)

    def _take(self, key: bytes, kind: EntryKind, exchange: Exchange, response: Response) -> None:
        timing = exchange.timing
        ended_ns = exchange.started_ns + (timing.last_byte_us or 0) * 1000
        entry = CacheEntry(
            key=key,
            exchange=exchange.id,
            kind=kind,
            stored_ns=ended_ns,
            provider=exchange.provider,
            operation=exchange.operation,
            model=exchange.model,
            credential=None,
            conversation=None,
            size=response.body.size,
        )
        known = self._answers.get(key)
        if known is not None and not replaces(entry, known.entry):
            return
        self._answers[key] = CachedAnswer(
            entry, response, exchange.stream_shape, timing.first_byte_us, timing.last_byte_us
        )
