"""A steady load: requests at fixed moments, whatever became of those before, and what their clients saw."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType
from typing import Self
from uuid import UUID

from wire import Client, Closed

from .asking import SSE, call, generate, said

CLIENTS = 20


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer that a client read to its end."""

    due: float
    """When it was to be asked (`time.monotonic`)."""
    seconds: float
    """From then to the last byte of the answer: a wait for an earlier answer counts."""
    port: int
    exchange: UUID
    digest: str
    """SHA-256 of the body."""
    spared: bool
    """Whether it took no call upstream of its own."""


class Load:
    """Clients that keep their connections. Usable as a context manager; it begins at once.

    Of ten requests six are generations that nothing is served again for, two are streams of that kind, one could be
    served again but is new, and one was asked before.

    Args:
        ports: of the proxies that the clients are spread over.
        rate: requests a second, over all.
    """

    def __init__(self, ports: Sequence[int], *, rate: float = 100) -> None:
        self.heard: list[Heard] = []
        self.errors: list[tuple[int, str]] = []
        """Port and what went wrong."""
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._rate = rate
        self._clients = [
            threading.Thread(target=self._ask_on, args=(number, ports[number % len(ports)]), daemon=True)
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for client in self._clients:
            client.join(30)

    def p99_ms(self, since: float, until: float) -> float:
        """Of the requests that were due in this time; 0.0 for none."""
        times = sorted(each.seconds for each in self.heard if since <= each.due < until)
        return times[min(len(times) - 1, len(times) * 99 // 100)] * 1000 if times else 0.0

    def _ask_on(self, number: int, port: int) -> None:
        connection: Client | None = None
        for count in itertools.count():
            due = self._began + (number + count * CLIENTS) / self._rate
            if self._stop.wait(max(0.0, due - time.monotonic())):
                break
            try:
                connection = connection or Client(port)
                self._ask(connection, port, due, number + count * CLIENTS)
            except (Closed, OSError, AssertionError) as error:
                self.errors.append((port, f"{type(error).__name__}: {error}"))
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _ask(self, connection: Client, port: int, due: float, number: int) -> None:
        answered = connection.ask(request(number))
        seconds = time.monotonic() - due
        assert answered.status == 200, answered.status
        assert answered.complete, "the answer broke off"
        exchange = UUID((answered.header(b"x-exchange-id") or b"").decode())
        digest = sha256(answered.body).hexdigest()
        self.heard.append(
            Heard(due, seconds, port, exchange, digest, bool({"hit", "collapsed"} & said(answered).keys()))
        )


def request(number: int) -> bytes:
    """The request of this number."""
    match number // CLIENTS % 10:
        case 0 | 5:
            return call(generate(f"stream {number}", temperature=None), SSE)
        case 3:
            return call(generate(f"new {number}"))
        case 7:
            return call(generate(f"asked before {number % 3}"))
        case _:
            return call(generate(f"nonce {number}", temperature=None))
