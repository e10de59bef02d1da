"""The kinds of store that the contract is tested on, and a way to use them from plain functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

from gemini_caching_proxy.stores.base import ExchangeStore
from gemini_caching_proxy.stores.sqlite import SQLiteStore

KINDS: dict[str, Callable[[Path], ExchangeStore]] = {
    "sqlite": lambda folder: SQLiteStore(folder / "store.sqlite3"),
}
"""Each makes a store, not yet opened, that keeps its exchanges in (or for) a folder: the same folder, the same
exchanges."""


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
