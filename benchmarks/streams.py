"""A thousand slow streams at once: the worker's memory, and whether each event arrives, in order, without delay."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools
import psutil
import uvloop

from . import machine, payloads
from .client import request_bytes
from .figures import percentile
from .subjects import DIRECT, NGINX, AbsentError, Laboratory, Subject

INTERVAL_MS = 100
SPREAD_SECONDS = 1.0
"""The streams start spread over this time, so that their events do not come in one burst per interval."""
SPARE_SECONDS = 30.0
SAMPLE_SECONDS = 0.25
STAMP = re.compile(payloads.STAMP_PATTERN)


@dataclass(slots=True)
class Tally:
    """What arrived over all streams."""

    delays_us: array[float] = field(default_factory=lambda: array("d"))
    complete: int = 0
    reordered: int = 0
    failed: list[str] = field(default_factory=list)


class StreamClient(asyncio.Protocol):
    """One stream: it asks once and checks the events' numbers as they come."""

    def __init__(self, request: bytes, events: int, tally: Tally, done: asyncio.Future[None]) -> None:
        self.request, self.events, self.tally, self.done = request, events, tally, done
        self.seen = 0
        self.rest = b""
        self.arrived_us = 0.0
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.arrived_us = time.monotonic_ns() / 1e3
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.finish(f"bad framing: {error}")

    def on_body(self, data: bytes) -> None:
        text = self.rest + data
        end = 0
        for stamp in STAMP.finditer(text):
            end = stamp.end()
            number = int(stamp[1])
            if number != self.seen + 1:
                self.tally.reordered += 1
            self.seen = max(self.seen, number)
            self.tally.delays_us.append(self.arrived_us - int(stamp[2]))
        self.rest = text[end:]

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        self.finish("" if status == 200 else f"status {status}")

    def connection_lost(self, error: Exception | None) -> None:
        self.finish(f"connection lost after event {self.seen}: {error}")

    def finish(self, failure: str) -> None:
        if self.done.done():
            return
        if not failure and self.seen != self.events:
            failure = f"ended after event {self.seen}"
        if failure:
            self.tally.failed.append(failure)
        else:
            self.tally.complete += 1
        self.done.set_result(None)
        if self.transport is not None:
            self.transport.close()


def run(
    lab: Laboratory, names: Sequence[str], *, streams: int, seconds: int, say: Callable[[str], None]
) -> dict[str, object]:
    """`streams` streams of `seconds` each through every subject; the result is ready for JSON."""
    absent: dict[str, str] = {}
    rows: dict[str, dict[str, float | int | None]] = {}
    failures: dict[str, list[str]] = {}
    for name in names:
        try:
            with lab.subject(name) as subject:
                tally, peak = flood(subject, streams, seconds)
        except AbsentError as error:
            absent[name] = str(error)
            say(f"streams: {name} is absent: {error}")
            continue
        rows[name] = row_of(tally, peak, streams, seconds)
        failures[name] = tally.failed[:5]
        say(f"streams: {name} {tally.complete} of {streams} complete, peak RSS {peak / 1e6:.0f} MB")
    for row in rows.values():
        for yardstick in (DIRECT, NGINX):
            row[f"over_{yardstick}_p50_us"] = difference(row, rows.get(yardstick))
    return {
        "streams": streams,
        "events_each": events_in(seconds),
        "subjects": rows,
        "failures": failures,
        "absent": absent,
    }


def difference(row: dict[str, float | int | None], yardstick: dict[str, float | int | None] | None) -> float | None:
    own, theirs = row["p50_us"], None if yardstick is None else yardstick["p50_us"]
    return None if own is None or theirs is None else own - theirs


def events_in(seconds: int) -> int:
    return seconds * 1000 // INTERVAL_MS


def flood(subject: Subject, streams: int, seconds: int) -> tuple[Tally, int]:
    """Run the streams; the second value is the highest memory of the worker, in bytes (0 for the upstream itself)."""
    peak = 0
    stop = threading.Event()

    def watch(pid: int) -> None:
        nonlocal peak
        while not stop.wait(SAMPLE_SECONDS):
            try:
                peak = max(peak, machine.rss_bytes(pid))
            except psutil.NoSuchProcess:
                return

    watcher = None if subject.worker is None else threading.Thread(target=watch, args=(subject.worker,))
    if watcher is not None:
        watcher.start()
    try:
        tally = uvloop.run(_flood(subject.port, streams, seconds))
    finally:
        stop.set()
        if watcher is not None:
            watcher.join()
    return tally, peak


async def _flood(port: int, streams: int, seconds: int) -> Tally:
    loop = asyncio.get_running_loop()
    events = events_in(seconds)
    pace = {"X-Bench-Events": str(events), "X-Bench-Interval-Ms": str(INTERVAL_MS)}
    body = payloads.request_body(payloads.SMALL_BYTES)
    request = request_bytes(f"{payloads.SLOW_PATH}?{payloads.STREAM_QUERY}", body, pace)
    tally = Tally()
    ends: list[asyncio.Future[None]] = []
    for _ in range(streams):
        end = loop.create_future()
        client = StreamClient(request, events, tally, end)
        try:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        except OSError as error:
            client.finish(f"no connection: {error}")
        ends.append(end)
        await asyncio.sleep(SPREAD_SECONDS / streams)
    await asyncio.wait(ends, timeout=seconds + SPARE_SECONDS)
    late = sum(not each.done() for each in ends)
    tally.failed += ["not finished in time"] * late
    return tally


def row_of(tally: Tally, peak: int, streams: int, seconds: int) -> dict[str, float | int | None]:
    delays = tally.delays_us
    return {
        "complete": tally.complete,
        "lost_streams": streams - tally.complete,
        "lost_events": streams * events_in(seconds) - len(delays),
        "reordered": tally.reordered,
        "rss_mb": peak / 1e6 if peak else None,
        "p50_us": percentile(delays, 50) if delays else None,
        "p99_us": percentile(delays, 99) if delays else None,
    }


def figure(result: dict[str, object], name: str, field: str) -> float | None:
    """A figure of one subject in a result of `run`."""
    rows = result["subjects"]
    assert isinstance(rows, dict)
    value = rows.get(name, {}).get(field)
    return None if value is None else float(value)
