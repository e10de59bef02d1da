"""One small call to the upstream by the relay's own code, told step by step: name, connection and TLS, answer.

The call lists one model. With a key it tells whether the key is taken; the key goes to the upstream that the settings
name and nowhere else, and never into a text.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from time import monotonic

from . import __version__
from .errors import UpstreamError
from .relay.http1 import RESPONSE_KINDS, FieldTable
from .relay.origin import Origin
from .relay.upstream import Answer, Pool

TARGET = b"/v1beta/models?pageSize=1"


@dataclass(frozen=True, slots=True)
class Probe:
    """What one call met. `error` is set when it went wrong, and then `step` is where."""

    step: str = "answer"
    """`name`, `connection`, `TLS` or `answer`."""
    error: UpstreamError | None = None
    connect_seconds: float | None = None
    """To a usable connection, name and TLS included."""
    answer_seconds: float | None = None
    """From the request to the head of the answer."""
    status: int | None = None
    clock_skew_seconds: float | None = None
    """How far this machine's clock is ahead of the upstream's, within a second; None if it told no time."""


class _Question:
    """Receives the answer."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def upstream_data(self, answer: Answer) -> None:
        if not self.done.done():
            self.done.set_result(answer)

    def upstream_interim(self, answer: Answer) -> None:
        pass

    def upstream_switched(self, answer: Answer, rest: bytes) -> None:
        self.upstream_data(answer)

    def upstream_failed(self, error: UpstreamError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def upstream_paused(self, paused: bool) -> None:
        pass


_STEPS = {"DnsFailed": "name", "TlsFailed": "TLS", "ConnectFailed": "connection", "ConnectTimeout": "connection"}


async def probe(origin: Origin, *, key: bytes | None, ca_file: str | None, timeout: float) -> Probe:
    """Ask the upstream for its models, and say what happened.

    Args:
        timeout: seconds for each of the two steps.

    Raises:
        ConfigError: the forward proxy's variable or the file of authorities cannot be used.
    """
    pool = Pool(
        origin,
        FieldTable(RESPONSE_KINDS, lambda name, value: value),
        ca_file=ca_file,
        connect_timeout=timeout,
        first_byte_timeout=timeout,
        idle_timeout=timeout,
        keepalive=0,
    )
    started = monotonic()
    try:
        connection = await pool.connect()
    except UpstreamError as error:
        return Probe(_STEPS.get(type(error).__name__, "connection"), error)
    connected = monotonic()
    question = _Question()
    connection.ask(question, head_only=False, may_switch=False)
    connection.write(_request(origin, key))
    sweeper = asyncio.get_running_loop().call_later(timeout, lambda: pool.sweep(monotonic() + timeout))
    try:
        answer = await question.done
    except UpstreamError as error:
        return Probe("answer", error, connected - started)
    finally:
        sweeper.cancel()
        connection.cancel()
    return Probe(
        connect_seconds=connected - started,
        answer_seconds=monotonic() - connected,
        status=answer.status,
        clock_skew_seconds=_skew(answer),
    )


def _request(origin: Origin, key: bytes | None) -> bytes:
    login = b"x-goog-api-key: %b\r\n" % key if key else b""
    return b"GET %b%b HTTP/1.1\r\nHost: %b\r\nUser-Agent: gemini-proxy/%b\r\n%bConnection: close\r\n\r\n" % (
        origin.base_path,
        TARGET,
        origin.host_line,
        __version__.encode(),
        login,
    )


def _skew(answer: Answer) -> float | None:
    for name, value in (field.recorded for field in answer.fields):
        if name.lower() == b"date":
            try:
                told = parsedate_to_datetime(value.decode("latin-1"))
            except ValueError:
                return None
            return (datetime.now(told.tzinfo) - told).total_seconds()
    return None
