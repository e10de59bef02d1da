"""Listening: a server that can run on a loop, or in a thread of its own with an event loop of its own."""

from __future__ import annotations

import asyncio
import ssl as tls
import threading
import weakref
from types import TracebackType
from typing import Generic, Self, TypeVar

import uvloop

from .call import Call
from .connection import Connection, QuickReply
from .ledger import Ledger

START_TIMEOUT_S = 10.0


class Server:
    """A listener whose subclass answers the calls. Usable as `async with`."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, ssl: tls.SSLContext | None = None, ledger: Ledger | None = None
    ) -> None:
        self.host = host
        self.port = port
        """The port, the real one once started."""
        self.ledger = ledger or Ledger()
        self._ssl = ssl
        self._listener: asyncio.Server | None = None
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._refusals = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url} {self.ledger!r}>"

    @property
    def authority(self) -> str:
        """Host and port as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL, without a final slash."""
        return f"{'https' if self._ssl else 'http'}://{self.authority}"

    async def start(self) -> None:
        """Listens. Raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._accept, self.host, self.port, ssl=self._ssl, backlog=4096, reuse_address=True
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening and aborts what is still open."""
        if self._listener is not None:
            self._listener.close()
        await asyncio.gather(*(connection.shut() for connection in list(self._connections)))
        if self._listener is not None:
            await self._listener.wait_closed()
            self._listener = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def refuse_connections(self, count: int) -> None:
        """Resets the next `count` connections at their first bytes: within a TLS handshake if there is no TLS here."""
        self._refusals += count

    def refuse_connection(self) -> bool:
        if self._refusals <= 0:
            return False
        self._refusals -= 1
        return True

    def quick_reply(self, target: bytes) -> QuickReply | None:
        return None

    async def serve(self, call: Call) -> None:
        raise NotImplementedError

    def _accept(self) -> Connection:
        connection = Connection(self)
        self._connections.add(connection)
        return connection


S = TypeVar("S", bound=Server)


class ServerThread(Generic[S]):
    """Runs a server in a thread: `with ServerThread(server) as server:`."""

    def __init__(self, server: S) -> None:
        self.server = server
        self._ready = threading.Event()
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"{type(server).__name__}-loop", daemon=True)

    def start(self) -> S:
        """Returns once the server listens; raises what kept it from it."""
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise TimeoutError("the server did not start")
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self.server

    def stop(self) -> None:
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(START_TIMEOUT_S)

    def __enter__(self) -> S:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self.server.start()
        except OSError as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        await self._stopping.wait()
        await self.server.stop()
