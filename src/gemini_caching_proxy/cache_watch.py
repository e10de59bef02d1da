"""Changes of the cache that were made by way of another proxy, told to the workers of this one."""

from __future__ import annotations

import contextlib
from time import monotonic

from .cache.changes import cache_changed
from .persistence import Persistence
from .settings import Settings

LOOK_SECONDS = 1.0


class CacheWatch:
    """Asks a shared store now and then whether entries were evicted or pinned, and tells the workers."""

    def __init__(self, settings: Settings, persistence: Persistence) -> None:
        self._settings = settings
        self._persistence = persistence
        self._seen: int | None = None
        self._looked = -LOOK_SECONDS

    def __repr__(self) -> str:
        return f"<CacheWatch seen={self._seen}>"

    async def look(self) -> None:
        """Ask, unless it was done just now."""
        if monotonic() - self._looked < LOOK_SECONDS:
            return
        changes = await self._persistence.cache_changes()
        self._looked = monotonic()
        if changes != self._seen and self._seen is not None:
            # Hot answers that cannot be told of it grow old by themselves.
            with contextlib.suppress(OSError):
                cache_changed(self._settings)
        self._seen = changes
