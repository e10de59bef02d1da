"""A worker's look into the store for an answer: bounded in time, and never a reason to fail.

A lookup that is slow, or that finds the store away, damaged or not yet made, is a miss. A store that failed is left
alone for a moment and then opened anew; one that hangs is not asked again before it answers or fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from .cache.answers import RecordedAnswer, from_store
from .errors import ProxyError
from .log import get_logger
from .stores.base import CachedAnswer, ExchangeStore

PATIENT_SECONDS = 10.0
"""How long who can be answered by nothing else waits for the store."""
REST_SECONDS = 1.0
"""How long a store that failed is not asked."""
MOST_WAITING = 64
"""Lookups under way at once, late ones included; beyond it the answer is a miss at once, but for the patient."""

log = get_logger(__name__)


class AnswerSource(Protocol):
    """Where recorded answers are found; a store, or a cassette."""

    async def find_cached(self, keys: Sequence[bytes]) -> CachedAnswer | None: ...


class Lookup(Protocol):
    """How a worker finds recorded answers."""

    async def find(self, keys: Sequence[bytes], *, patient: bool = False) -> RecordedAnswer | None:
        """The answer of the first key that has one. Never raises but when cancelled.

        `patient`: a late answer is better than none.
        """
        ...

    async def prepare(self) -> None:
        """Be ready for the first question. Never raises but when cancelled."""
        ...

    async def aclose(self) -> None: ...


class CassetteLookup:
    """Answers that are all in memory."""

    def __init__(self, source: AnswerSource) -> None:
        self._source = source

    async def find(self, keys: Sequence[bytes], *, patient: bool = False) -> RecordedAnswer | None:
        found = await self._source.find_cached(keys)
        return None if found is None else from_store(found)

    async def prepare(self) -> None:
        """Everything is there."""

    async def aclose(self) -> None:
        """Nothing is open."""


class StoreLookup:
    """Answers from the store that the recorder writes."""

    def __init__(self, make_store: Callable[[], ExchangeStore], *, patience_s: float) -> None:
        """`patience_s`: a lookup that takes longer is a miss."""
        self._make_store = make_store
        self._patience_s = patience_s
        self._store: ExchangeStore | None = None
        self._opening = asyncio.Lock()
        self._rests_until = 0.0
        self._waiting: dict[asyncio.Task[CachedAnswer | None], float] = {}
        """Since when each waits; the oldest first."""
        self._told = ""
        self.late = 0
        """Lookups that took too long, or were not begun because too many did."""
        self.failed = 0

    def __repr__(self) -> str:
        return f"<StoreLookup waiting={len(self._waiting)} late={self.late} failed={self.failed}>"

    async def find(self, keys: Sequence[bytes], *, patient: bool = False) -> RecordedAnswer | None:
        if monotonic() < self._rests_until:
            return None
        if not patient and (len(self._waiting) >= MOST_WAITING or self._hangs()):
            self.late += 1
            return None
        task = asyncio.get_running_loop().create_task(self._ask(keys))
        self._waiting[task] = monotonic()
        task.add_done_callback(self._waiting.pop)
        # Not cancelled when late: the thread that reads would go on all the same.
        done, _ = await asyncio.wait({task}, timeout=PATIENT_SECONDS if patient else self._patience_s)
        if not done:
            self.late += 1
            return None
        found = task.result()
        return None if found is None else from_store(found)

    async def prepare(self) -> None:
        """Open the store, if it can be: to connect to a server takes longer than a lookup may."""
        with contextlib.suppress(ProxyError, OSError):
            await self._opened()

    def _hangs(self) -> bool:
        """Whether a store that was asked longer ago than anybody's patience still owes the answer."""
        oldest = next(iter(self._waiting.values()), None)
        return oldest is not None and monotonic() - oldest > self._patience_s

    async def aclose(self) -> None:
        if self._waiting:
            await asyncio.wait(self._waiting)
        await self._close()

    async def _ask(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        try:
            found = await (await self._opened()).find_cached(keys)
        except (ProxyError, OSError) as error:
            await self._failed(error)
            return None
        except Exception as error:  # noqa: BLE001 - the outermost ring: no entry may stop a request from being answered
            await self._failed(error)
            return None
        self._told = ""
        return found

    async def _opened(self) -> ExchangeStore:
        async with self._opening:
            if self._store is None:
                store = self._make_store()
                await store.open(read_only=True)
                self._store = store
            return self._store

    async def _failed(self, error: Exception) -> None:
        self.failed += 1
        self._rests_until = monotonic() + REST_SECONDS
        text = f"{type(error).__name__}: {error}"
        if text != self._told:
            # A store that is not made yet is no trouble.
            log.debug("the cache cannot look into the store; it counts as a miss", why=text)
            self._told = text
        await self._close()

    async def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(ProxyError):
                await store.aclose()
