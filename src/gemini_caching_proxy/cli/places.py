"""Stores by the words people name them with: `sqlite`, `sqlite:///path/to/file`, `mongodb://…`, `store`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gemini_caching_proxy.locations import is_mongodb
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import make_store
from gemini_caching_proxy.stores.base import ExchangeStore

OF_THE_SETTINGS = "store"
DEFAULT_DATABASE = "gemini_proxy"
DEFAULT_PORT = ":27017"

# Nothing before an @ is ever shown, nor what comes after a ?: either may hold a password.
_MONGODB_URI = re.compile(
    r"(?P<scheme>mongodb(?:\+srv)?)://(?:[^@/?]*@)?(?P<hosts>[^@/?]+)(?:/(?P<db>[^@/?]*))?(?:\?.*)?"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is."""

    name: str
    """For people: no user and no password in it."""
    identity: str
    """The same for every way of writing it."""
    make: Callable[[str], ExchangeStore]
    """The store, not yet open, for who adds under this lasting name (letters and digits alone)."""
    path: Path | None = None
    """The file of an embedded store."""

    def is_same(self, other: Place) -> bool:
        if self.identity == other.identity:
            return True
        both = self.path is not None and other.path is not None and self.path.exists() and other.path.exists()
        return both and self.path.samefile(other.path)  # type: ignore[union-attr,arg-type]


def place_of(text: str, settings: Settings) -> Place:
    """The store that `text` names.

    Raises:
        ValueError: a sentence that says what is understood.
    """
    named = settings.store if text == OF_THE_SETTINGS else text
    scheme = named.partition(":")[0]
    naming = settings.model_copy(update={"store": named})
    if named == "sqlite" or (named.startswith("sqlite:///") and named != "sqlite:///"):
        return _file(naming)
    if is_mongodb(named):
        return _database(naming)
    shown = f"{scheme}:…" if _SCHEME.fullmatch(scheme) and scheme != named else repr(named)
    raise ValueError(
        f"{shown} is no store: write sqlite, sqlite:///path/to/file, mongodb://host/database, or store for the one "
        "that GEMINI_PROXY_STORE names"
    )


def _file(settings: Settings) -> Place:
    path = settings.sqlite_path
    return Place(str(path), f"sqlite:///{path.resolve()}", lambda writer: make_store(settings, writer=writer), path)


def _database(settings: Settings) -> Place:
    found = _MONGODB_URI.fullmatch(settings.store)
    if found is None:
        raise ValueError("this is no MongoDB URI: write mongodb://host:27017/database, with %-escapes in a password")
    hosts, database = found["hosts"], found["db"] or DEFAULT_DATABASE
    each = sorted(host if ":" in host else host + DEFAULT_PORT for host in hosts.lower().split(","))
    identity = f"mongodb://{','.join(each)}/{database}"
    return Place(
        f"{found['scheme']}://{hosts}/{database}", identity, lambda writer: make_store(settings, writer=writer)
    )
