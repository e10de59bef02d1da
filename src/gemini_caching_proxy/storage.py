"""Which store the settings name. The one place that knows all kinds of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .locations import is_mongodb, shown_uri
from .settings import Settings
from .stores.base import ExchangeStore
from .stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from .stores.mongodb import Inspection, MongoDBStore


def make_store(settings: Settings, *, writer: str | None = None) -> ExchangeStore:
    """The store that the settings name, not yet open.

    `writer`: a lasting name of who adds to it, letters and digits alone; see `instance_name`.
    """
    return shared_store(settings, writer=writer) if is_shared(settings) else SQLiteStore(settings.sqlite_path)


def shared_store(settings: Settings, *, writer: str | None = None) -> MongoDBStore:
    """The store that proxies share, where the settings name one."""
    # Its library takes a tenth of a second to load, which most commands of most users can do without.
    from .stores.mongodb import MongoDBStore

    return MongoDBStore(settings.store, writer=writer)


async def inspect_server(settings: Settings) -> Inspection:
    """What the server of a shared store says of itself and of our user. Raises StoreUnavailable."""
    from .stores.mongodb import inspect

    return await inspect(settings.store)


def sharding_commands(settings: Settings) -> list[str]:
    """Commands that spread a shared store over shards."""
    from .stores.mongodb import sharding_commands as commands

    return list(commands(settings.store))


def store_name(settings: Settings) -> str:
    """The store for people: its file, or its URI without user and password."""
    return shown_uri(settings.store) if is_shared(settings) else str(settings.sqlite_path)


def store_exists(settings: Settings) -> bool:
    """Whether anything can be recorded there already; True for a server, which has to be asked."""
    return is_shared(settings) or settings.sqlite_path.exists()


def is_shared(settings: Settings) -> bool:
    """Whether proxies on other machines may use the same store."""
    return is_mongodb(settings.store)
