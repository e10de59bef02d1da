"""What a simulated upstream received: the oracle that tests compare the proxy's own record with.

One `Received` per request, appended when its head is complete and filled in as the body arrives and the answer leaves.
The ledger may be read from any thread; `wait_for` blocks a thread, `until` suspends a coroutine. A bench model's
requests are counted, not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class Received:
    """One request as it came, and how its answer ended."""

    connection: int
    """Number of the connection, from 1; requests on one connection share it."""
    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    """Names and values as sent, in order."""
    raw_head: bytes
    """Request line and headers with their final blank line, as read."""
    begun_at: float = field(default_factory=time.monotonic)
    """`time.monotonic()` when the head was complete."""
    body_size: int = 0
    """Body bytes, transfer-coding removed."""
    kept: bytearray | None = field(default_factory=bytearray, repr=False)
    """The body so far, None once it is longer than the ledger keeps."""
    body_complete: bool = False
    client_closed_at: float | None = None
    """When the peer closed or reset the connection before the answer was over."""
    ended_at: float | None = None
    """When the answer was handed to the socket in full, or given up."""
    status: int | None = None
    """Status that was put on the wire."""
    bytes_sent: int = 0
    """Wire bytes handed to the socket, heads and framing included."""
    fault: str | None = None
    """The fault that was played, as it was asked for."""
    digest: hashlib._Hash = field(default_factory=hashlib.sha256, repr=False)

    @property
    def request_line(self) -> bytes:
        return self.raw_head.split(b"\r\n", 1)[0]

    @property
    def body(self) -> bytes | None:
        """The body as far as it came, None once it is longer than the ledger keeps."""
        return None if self.kept is None else bytes(self.kept)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.split(b"?", 1)[0].decode("latin-1")

    @property
    def body_sha256(self) -> str:
        """Hex digest of the body bytes received so far."""
        return self.digest.hexdigest()

    @property
    def client_left(self) -> bool:
        return self.client_closed_at is not None

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, its name in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class Ledger:
    """Requests in order of arrival, at most `keep` of them, the newest."""

    def __init__(self, *, keep: int = 100_000, keep_body_bytes: int = 1 << 20) -> None:
        self._entries: deque[Received] = deque(maxlen=keep)
        self._changed = threading.Condition()
        self._waiters = 0
        self.keep_body_bytes = keep_body_bytes
        self.bench_requests = 0
        """Requests answered on the fast path."""
        self.connections = 0
        """Connections accepted."""
        self.open_connections = 0
        self.crashes: list[str] = []
        """Tracebacks of bugs of the simulator itself."""

    def __repr__(self) -> str:
        return f"<Ledger requests={len(self._entries)} connections={self.connections} open={self.open_connections}>"

    @property
    def requests(self) -> list[Received]:
        with self._changed:
            return list(self._entries)

    @property
    def last(self) -> Received:
        """The newest request; IndexError when there is none."""
        return self._entries[-1]

    def add(self, entry: Received) -> None:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def note_change(self) -> None:
        """Wakes whoever waits, after an entry or a counter was changed."""
        if self._waiters:
            with self._changed:
                self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._entries.clear()

    def wait_for(self, predicate: Callable[[Ledger], bool], timeout: float = 5.0) -> None:
        """Blocks the calling thread until `predicate(self)` holds.

        Raises:
            TimeoutError: it did not within `timeout` seconds.
        """
        with self._changed:
            self._waiters += 1
            try:
                met = self._changed.wait_for(lambda: predicate(self), timeout)
            finally:
                self._waiters -= 1
        if not met:
            raise TimeoutError(f"the condition on {self!r} was not met within {timeout} s")

    async def until(self, predicate: Callable[[Ledger], bool], timeout: float = 5.0) -> None:
        """`wait_for` for coroutines, also on the loop that the simulator runs on."""
        await asyncio.to_thread(self.wait_for, predicate, timeout)
