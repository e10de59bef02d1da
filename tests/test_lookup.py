"""A look into the store is bounded in time, and never a reason to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from gemini_caching_proxy import lookup as module
from gemini_caching_proxy.errors import StoreUnavailable
from gemini_caching_proxy.lookup import MOST_WAITING, StoreLookup
from gemini_caching_proxy.stores.base import CachedAnswer, ExchangeStore

KEYS = (b"k" * 16,)


class HandStore:
    """Finds nothing: when it is let to, or not at all."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.opened = self.closed = self.asked = 0
        self.trouble: Exception | None = None

    async def open(self, *, read_only: bool = False) -> None:
        assert read_only
        self.opened += 1

    async def aclose(self) -> None:
        self.closed += 1

    async def find_cached(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        await self.go.wait()
        return None


def looking(store: HandStore, patience_s: float = 0.01) -> StoreLookup:
    return StoreLookup(lambda: cast(ExchangeStore, store), patience_s=patience_s)


def test_a_late_answer_is_a_miss() -> None:
    async def main() -> None:
        store = HandStore()
        lookup = looking(store)
        assert await lookup.find(KEYS) is None
        assert (lookup.late, store.asked) == (1, 1)
        patient = asyncio.ensure_future(lookup.find(KEYS, patient=True))
        assert await lookup.find(KEYS) is None
        assert not patient.done()
        store.go.set()
        assert await patient is None
        assert lookup.late == 2
        await lookup.aclose()
        assert (store.opened, store.closed) == (1, 1)

    asyncio.run(main())


def test_a_store_that_hangs_is_not_asked_again() -> None:
    async def main() -> None:
        store = HandStore()
        lookup = looking(store)
        assert await lookup.find(KEYS) is None
        for _ in range(100):
            assert await lookup.find(KEYS) is None
        assert (lookup.late, store.asked) == (101, 1)
        store.go.set()
        while lookup._waiting:
            await asyncio.sleep(0)
        assert await lookup.find(KEYS) is None
        assert (lookup.late, store.asked) == (101, 2)
        await lookup.aclose()

    asyncio.run(main())


def test_a_prepared_store_is_open_before_the_first_question() -> None:
    async def main() -> None:
        store = HandStore()
        lookup = looking(store)
        await lookup.prepare()
        assert (store.opened, store.asked) == (1, 0)
        await lookup.aclose()

    asyncio.run(main())


def test_what_cannot_be_opened_yet_is_tried_again_by_the_first_question() -> None:
    class NotYet(HandStore):
        async def open(self, *, read_only: bool = False) -> None:
            await super().open(read_only=read_only)
            if self.opened == 1:
                raise StoreUnavailable("not made yet")

    async def main() -> None:
        store = NotYet()
        store.go.set()
        lookup = looking(store)
        await lookup.prepare()
        await lookup.find(KEYS)
        assert (store.opened, store.asked, lookup.failed) == (2, 1, 0)
        await lookup.aclose()

    asyncio.run(main())


def test_there_are_never_too_many() -> None:
    async def main() -> None:
        store = HandStore()
        lookup = looking(store, 0.5)
        await asyncio.gather(*(lookup.find(KEYS) for _ in range(MOST_WAITING + 10)))
        assert store.asked == MOST_WAITING
        assert lookup.late == MOST_WAITING + 10
        patient = asyncio.ensure_future(lookup.find(KEYS, patient=True))
        store.go.set()
        await patient
        assert store.asked == MOST_WAITING + 1
        await lookup.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("trouble", [StoreUnavailable("away"), OSError("disk"), ValueError("damaged")])
def test_trouble_is_a_miss_and_then_a_rest(trouble: Exception) -> None:
    async def main() -> None:
        store = HandStore()
        store.go.set()
        store.trouble = trouble
        lookup = looking(store, 5.0)
        assert await lookup.find(KEYS) is None
        assert await lookup.find(KEYS) is None
        assert (lookup.failed, store.asked, store.closed) == (1, 1, 1)
        store.trouble = None
        lookup._rests_until -= module.REST_SECONDS
        assert await lookup.find(KEYS) is None
        assert (store.opened, store.asked) == (2, 2)
        await lookup.aclose()

    asyncio.run(main())
