"""Collections, indexes, the validator and the view. What is there is never rebuilt, only completed.

All names begin with `gemini_`, so that a database may hold other things too.
"""

from __future__ import annotations

from typing import Any, Final

from pymongo import ASCENDING, DESCENDING, IndexModel, timeout
from pymongo.errors import CollectionInvalid, OperationFailure

from gemini_caching_proxy.errors import FormatTooNew
from gemini_caching_proxy.locations import shown_uri

from .connection import OLDEST_SERVER, Database, Document, too_old
from .view import FULL, full_pipeline

VERSION: Final = 1

INTERACTIONS: Final = "gemini_interactions"
PARTS: Final = "gemini_parts"
FILES: Final = "gemini_files"
"""GridFS bucket of parts over `LARGEST_INLINE`."""
TEXTS: Final = "gemini_texts"
CACHE: Final = "gemini_cache"
ROLLUPS: Final = "gemini_rollups"
FACETS: Final = "gemini_facets"
POSITIONS: Final = "gemini_positions"
GAPS: Final = "gemini_gaps"
LEASES: Final = "gemini_leases"
STATE: Final = "gemini_state"

_NAMESPACE_EXISTS = 48


def _index(name: str, *keys: tuple[str, int], **options: Any) -> IndexModel:
    return IndexModel(list(keys), name=name, **options)


INDEXES: Final[dict[str, list[IndexModel]]] = {
    INTERACTIONS: [
        _index("sequence", ("sequence", ASCENDING), ("started_ns", ASCENDING), ("facet", ASCENDING)),
        _index("time", ("started_ns", DESCENDING), ("sequence", DESCENDING), ("facet", ASCENDING)),
        _index("facet", ("facet", ASCENDING), ("started_ns", DESCENDING), ("sequence", DESCENDING)),
        _index(
            "conversation",
            *(("conversation", ASCENDING), ("started_ns", DESCENDING), ("sequence", DESCENDING), ("facet", ASCENDING)),
            partialFilterExpression={"conversation": {"$exists": True}},
        ),
        _index(
            "marks",
            *(("marks", ASCENDING), ("started_ns", DESCENDING), ("sequence", DESCENDING)),
            partialFilterExpression={"marks": {"$exists": True}},
        ),
        _index("started", ("started", DESCENDING)),
    ],
    PARTS: [
        _index("owner", ("owner", ASCENDING)),
        _index("members", ("parts", ASCENDING), partialFilterExpression={"kind": "list"}),
    ],
    TEXTS: [
        # Texts come in without being in it: see `indexing.py`. `indexed` is a key so that it covers that condition.
        _index(
            "words",
            *(("words", ASCENDING), ("sequence", DESCENDING), ("indexed", ASCENDING)),
            partialFilterExpression={"indexed": True},
        ),
        _index("sequence", ("sequence", ASCENDING)),
    ],
    CACHE: [
        _index("exchange", ("exchange", ASCENDING)),
        _index("time", ("stored_ns", DESCENDING), ("_id", DESCENDING)),
        _index("facet", ("facet", ASCENDING), ("stored_ns", DESCENDING), ("_id", DESCENDING)),
        _index(
            "conversation",
            *(("conversation", ASCENDING), ("stored_ns", DESCENDING), ("_id", DESCENDING)),
            partialFilterExpression={"conversation": {"$exists": True}},
        ),
        _index(
            "pinned",
            *(("stored_ns", DESCENDING), ("_id", DESCENDING)),
            partialFilterExpression={"pinned": True},
        ),
        _index(
            "errors",
            *(("stored_ns", DESCENDING), ("_id", DESCENDING)),
            partialFilterExpression={"kind": "error"},
        ),
        _index("used", ("used_ns", ASCENDING), ("_id", ASCENDING), partialFilterExpression={"pinned": False}),
        _index("size", ("size", ASCENDING)),
        _index(
            "hits",
            *(("hits", ASCENDING), ("saved_nanousd", ASCENDING), ("saved_us", ASCENDING)),
            partialFilterExpression={"hits": {"$gt": 0}},
        ),
    ],
    ROLLUPS: [_index("key", ("grain", ASCENDING), ("scope", ASCENDING), ("start", ASCENDING))],
    FACETS: [_index("sequence", ("sequence", ASCENDING))],
    POSITIONS: [],
    GAPS: [],
    LEASES: [],
    STATE: [],
}

SMALL_INDEXES: Final[Document] = {
    "storageEngine": {"wiredTiger": {"configString": "block_compressor=zstd,allocation_size=512B"}}
}
"""Indexes are not compressed unless told; words make up most of them, and compress well."""

VALIDATOR: Final[Document] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": [
            *("_id", "sequence", "started", "started_ns", "facet", "provider", "operation", "method", "target"),
            *("upstream", "stream_shape", "is_error", "request", "timing", "parts", "record"),
        ],
        "properties": {
            "_id": {"bsonType": "binData"},
            "sequence": {"bsonType": ["int", "long"], "minimum": 1},
            "started": {"bsonType": "date"},
            "started_ns": {"bsonType": ["int", "long"]},
            "facet": {"bsonType": "binData"},
            "provider": {"bsonType": "string"},
            "operation": {"bsonType": "string"},
            "method": {"bsonType": "string"},
            "target": {"bsonType": "string"},
            "upstream": {"bsonType": "string"},
            "model": {"bsonType": "string"},
            "status": {"bsonType": ["int", "long"]},
            "failure": {"bsonType": "string"},
            "is_error": {"bsonType": "bool"},
            "conversation": {"bsonType": "binData"},
            "parent": {"bsonType": "binData"},
            "marks": {"bsonType": "array", "items": {"bsonType": "binData"}},
            "request": {"bsonType": "object", "required": ["bytes"]},
            "response": {"bsonType": "object", "required": ["bytes", "chunk_count"]},
            "timing": {"bsonType": "object"},
            "usage": {"bsonType": "object"},
            "price": {"bsonType": "object"},
            "cache": {"bsonType": "object"},
            "parts": {"bsonType": "object"},
            "record": {"bsonType": "binData"},
        },
    }
}


async def version_of(database: Database, uri: str) -> int:
    """Schema version of the database, 0 for a new one. Raises FormatTooNew."""
    state = await database[STATE].find_one({"_id": "state"}, {"version": 1})
    version = int((state or {}).get("version", 0))
    if version > VERSION:
        raise FormatTooNew(
            f"{shown_uri(uri)} has format {version}; this program reads up to {VERSION}: use the newer version."
        )
    return version


async def check_server(database: Database, uri: str) -> None:
    """Raises StoreUnavailable for a server that is too old, and soon for one that is away."""
    # With a `timeoutMS` PyMongo looks for a server as long as that, whatever `serverSelectionTimeoutMS` says.
    with timeout(database.client.options.server_selection_timeout):
        info = await database.client.server_info()
    version = tuple(info["versionArray"][:2])
    if version < OLDEST_SERVER:
        raise too_old(shown_uri(uri), f"it is MongoDB {info['version']}")


async def complete(database: Database, uri: str) -> None:
    """Make what is missing; several processes may try at once."""
    if await version_of(database, uri) == VERSION:
        return
    for name, indexes in INDEXES.items():
        own = {"validator": VALIDATOR} if name == INTERACTIONS else {}
        await _make(database, name, {"indexOptionDefaults": SMALL_INDEXES, **own})
        if indexes:
            await database[name].create_indexes(indexes)
    await _make(database, FULL, {"viewOn": INTERACTIONS, "pipeline": full_pipeline()})
    await database[STATE].update_one(
        {"_id": "state"},
        {"$set": {"version": VERSION}, "$setOnInsert": NEW_STATE},
        upsert=True,
    )


async def _make(database: Database, name: str, options: Document) -> None:
    try:
        await database.create_collection(name, check_exists=False, **options)
    except CollectionInvalid:
        return
    except OperationFailure as error:
        if error.code == _NAMESPACE_EXISTS:
            return
        if "indexOptionDefaults" not in options:
            raise
        # Hosted servers may not let others choose how they store.
        await _make(database, name, {key: value for key, value in options.items() if key != "indexOptionDefaults"})


NEW_STATE: Final[Document] = {
    "next": 1,
    "open": {},
    "settled": 0,
    "indexed": 0,
    "exchanges": 0,
    "body_bytes": 0,
    "epoch": 0,
    "cache_changes": 0,
}
"""Of the one document of the state; see `state.py`."""
