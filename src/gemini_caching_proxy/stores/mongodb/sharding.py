"""How to spread a database over shards: keys, chosen so that writes scatter and what is read by key asks one shard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .connection import DATABASE
from .schema import CACHE, FILES, INTERACTIONS, PARTS, TEXTS

OLDEST_SERVER: Final = "5.1"
"""The first in which a view may join a sharded collection ($lookup)."""

KEYS: Final = (
    (
        INTERACTIONS,
        '{ _id: "hashed" }',
        "Ids grow with time: hashed they scatter, and one exchange asks one shard. A list asks all of them.",
    ),
    (PARTS, '{ _id: "hashed" }', "Always read by their hash."),
    (TEXTS, '{ _id: "hashed" }', "A search asks all shards; the words are the bulk of the indexes."),
    (CACHE, '{ _id: "hashed" }', "An answer is looked up by its key: one shard."),
    (f"{FILES}.chunks", "{ files_id: 1, n: 1 }", "What GridFS reads by."),
)
"""Collection, shard key, why. The others are small, or are one document that orders writers; they stay whole."""


def sharding_commands(uri: str) -> Iterator[str]:
    """Lines for mongosh on a mongos, as somebody with the role clusterManager, for the URI's database."""
    database = uri.partition("://")[2].partition("?")[0].partition("/")[2] or DATABASE
    yield f"// MongoDB {OLDEST_SERVER} or newer. Before there is much in it, or at a quiet time: it moves data."
    yield f'sh.enableSharding("{database}")'
    for collection, key, why in KEYS:
        yield f"// {why}"
        yield f'sh.shardCollection("{database}.{collection}", {key})'
    yield "// Missing indexes are made by these commands; the other collections stay on the primary shard."
