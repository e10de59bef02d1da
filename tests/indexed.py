"""Texts of a MongoDB store put into the index of words now, which a running store does when it has time."""

from __future__ import annotations

import asyncio

from gemini_caching_proxy.stores.mongodb import state
from gemini_caching_proxy.stores.mongodb.connection import database_of, make_client
from gemini_caching_proxy.stores.mongodb.indexing import Indexing


def index_texts(uri: str, up_to: int | None = None, *, at_once: int = 20) -> None:
    """Those up to a sequence number, or all that are settled."""

    async def run() -> None:
        client = make_client(uri)
        database = database_of(client)
        indexing = Indexing(database, at_once=at_once)
        while (seen := await state.look(database)).indexed < (seen.settled if up_to is None else up_to):
            await indexing.step(seen)
        await client.close()

    asyncio.run(run())
