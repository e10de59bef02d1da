"""The kinds of store that the contract is tested on, and a way to use them from plain functions."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

from pymongo import MongoClient

from gemini_caching_proxy.stores.base import ExchangeStore
from gemini_caching_proxy.stores.mongodb import MongoDBStore
from gemini_caching_proxy.stores.sqlite import SQLiteStore
from mongod import database_name, shared_replica_set, shared_server, with_database

_DATABASES: dict[Path, str] = {}
"""URIs of the databases that this process used, by the folders that they stand for."""


def database_uri(folder: Path, server: str) -> str:
    """The database on this server (a URI) that stands for a folder: the same in every process of a run."""
    word = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=8).hexdigest()
    _DATABASES[folder] = uri = with_database(server, database_name(word))
    return uri


def drop_databases(folder: Path) -> None:
    """Drop those that stand for this folder and what is in it."""
    for each in [each for each in _DATABASES if each.is_relative_to(folder)]:
        with MongoClient[dict[str, Any]](_DATABASES.pop(each)) as client:
            client.drop_database(client.get_default_database().name)


KINDS: dict[str, Callable[[Path], ExchangeStore]] = {
    "sqlite": lambda folder: SQLiteStore(folder / "store.sqlite3"),
    "mongodb": lambda folder: MongoDBStore(database_uri(folder, shared_server())),
    "mongodb-replicas": lambda folder: MongoDBStore(database_uri(folder, shared_replica_set())),
}
"""Each makes a store, not yet opened, that keeps its exchanges in (or for) a folder: the same folder, the same
exchanges."""
COMMON_KINDS = ("mongodb", "sqlite")
"""Those that every test of the contract runs on; `test_replica_set.py` has what runs on a replica set."""


class Door:
    """A store, opened on an event loop of its own; its methods are called and waited for: `door.add([…])`."""

    def __init__(self, kind: str, folder: Path, *, read_only: bool = False) -> None:
        self.store = KINDS[kind](folder)
        self._runner = asyncio.Runner()
        try:
            self.run(self.store.open(read_only=read_only))
        except BaseException:
            self._runner.close()
            raise

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.store, name)
        return lambda *args, **kwargs: self.run(method(*args, **kwargs))

    def close(self) -> None:
        self.run(self.store.aclose())
        self._runner.close()

    def __enter__(self) -> Door:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
