"""A recorded stream played to a client in its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence


class Playback:
    """Gives out chunks when they are due; once begun it runs until the last, or until it is stopped."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        chunks: Sequence[bytes],
        offsets_us: Sequence[int],
        speed: float,
        give: Callable[[bytes, bool], None],
    ) -> None:
        """`speed`: 1 as recorded, 4 four times as fast. `give(chunk, last)` is called in order."""
        self._loop = loop
        self._chunks = chunks
        self._due = [offset / 1e6 / speed for offset in offsets_us]
        self._give = give
        self._began = loop.time()
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._wait()

    def __repr__(self) -> str:
        return f"<Playback {self._next} of {len(self._chunks)}>"

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = len(self._chunks)

    def pause(self, paused: bool) -> None:
        """Hold back while the client is slow; what became due meanwhile follows at once."""
        self._paused = paused
        if not paused and self._timer is None:
            self._wait()

    def _wait(self) -> None:
        if self._next < len(self._chunks):
            self._timer = self._loop.call_at(self._began + self._due[self._next], self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._paused or self._next >= len(self._chunks):
            return
        chunk = self._chunks[self._next]
        self._next += 1
        last = self._next == len(self._chunks)
        self._give(chunk, last)
        if not last:
            self._wait()
