"""What a relay adds when nothing else is going on: paired requests, subject after subject, on one connection each.

The pairs matter: the machine's mood changes from second to second, so each subject is asked once in every step, in an
order that rotates. Steps are spaced out, so that the recorder's work on the load's core falls between them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from . import payloads
from .client import Connection, Timing, request_bytes
from .figures import percentile
from .subjects import DIRECT, NAIVE, NAIVE_POOLED, NGINX, PROXY, AbsentError, Laboratory, Subject

STEP_SECONDS = 0.004
SLOW_EVERY = 25
"""The naive relays take milliseconds per call: they are asked in one step of this many."""
STREAM_EVENTS, STREAM_INTERVAL_MS = 50, 10
STAMP = re.compile(payloads.STAMP_PATTERN)


def run(
    lab: Laboratory, names: Sequence[str], *, steps: int, streams: int, say: Callable[[str], None]
) -> dict[str, object]:
    """Unary latency and the delay of single stream chunks, per subject; the result is ready for JSON."""
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        subjects: list[Subject] = []
        for name in names:
            try:
                subjects.append(stack.enter_context(lab.subject(name)))
            except AbsentError as error:
                absent[name] = str(error)
                say(f"latency: {name} is absent: {error}")
        timings = closed_loop(subjects, steps)
        say(f"latency: {steps} paired steps done")
        delays = chunk_delays(subjects, streams)
        say(f"latency: {streams} paired streams done")
    return {
        "unary": {name: unary_summary(timings, name) for name in timings},
        "chunks": {name: chunk_summary(delays, name) for name in delays},
        "absent": absent,
    }


def closed_loop(subjects: Sequence[Subject], steps: int) -> dict[str, list[Timing]]:
    """`steps` rounds of one small request to every subject."""
    request = request_bytes(payloads.UNARY_PATH, payloads.request_body(payloads.SMALL_BYTES))
    timings: dict[str, list[Timing]] = {each.name: [] for each in subjects}
    with ExitStack() as stack:
        lines = [(each.name, stack.enter_context(Connection(each.port))) for each in subjects]
        for _, connection in lines:
            for _ in range(3):
                connection.exchange(request)
        for step in range(steps):
            began = time.monotonic()
            turn = step % len(lines)
            for name, connection in [*lines[turn:], *lines[:turn]]:
                if name in (NAIVE, NAIVE_POOLED) and step % SLOW_EVERY:
                    continue
                timing = connection.exchange(request)
                if timing.status != 200:
                    raise ValueError(f"{name} answered {timing.status}")
                timings[name].append(timing)
            time.sleep(max(0.0, began + STEP_SECONDS - time.monotonic()))
    return timings


def chunk_delays(subjects: Sequence[Subject], streams: int) -> dict[str, list[float]]:
    """From the upstream's sending of an event to its arrival here, in microseconds, for `streams` streams each."""
    pace = {"X-Bench-Events": str(STREAM_EVENTS), "X-Bench-Interval-Ms": str(STREAM_INTERVAL_MS)}
    body = payloads.request_body(payloads.SMALL_BYTES)
    request = request_bytes(f"{payloads.SLOW_PATH}?{payloads.STREAM_QUERY}", body, pace)
    delays: dict[str, list[float]] = {each.name: [] for each in subjects}
    with ExitStack() as stack:
        lines = [(each.name, stack.enter_context(Connection(each.port))) for each in subjects]
        for number in range(streams):
            turn = number % len(lines)
            for name, connection in [*lines[turn:], *lines[:turn]]:
                delays[name] += stream_delays(connection, request)
    return delays


def stream_delays(connection: Connection, request: bytes) -> list[float]:
    """The delay of every event of one stream. Raises: ValueError when an event is missing or out of order."""
    connection.send(request)
    found: list[float] = []
    seen = 0
    while not connection.reader.complete:
        now, _ = connection.receive()
        for stamp in STAMP.finditer(connection.reader.body, seen):
            seen = stamp.end()
            if int(stamp[1]) != len(found) + 1:
                raise ValueError(f"event {int(stamp[1])} came where {len(found) + 1} was due")
            found.append(now / 1e3 - int(stamp[2]))
    if len(found) != STREAM_EVENTS:
        raise ValueError(f"{len(found)} of {STREAM_EVENTS} events arrived")
    return found


def unary_summary(timings: dict[str, list[Timing]], name: str) -> dict[str, float | None]:
    whole = {each: [timing.last_byte_us for timing in listed] for each, listed in timings.items()}
    first = {each: [timing.first_byte_us for timing in listed] for each, listed in timings.items()}
    return {
        "samples": len(whole[name]),
        "p50_us": percentile(whole[name], 50),
        "p99_us": percentile(whole[name], 99),
        "first_byte_p50_us": percentile(first[name], 50),
        "first_byte_p99_us": percentile(first[name], 99),
        "over_nginx_p50_us": over(whole, name, NGINX, 50),
        "over_nginx_p99_us": over(whole, name, NGINX, 99),
        "over_direct_p50_us": over(whole, name, DIRECT, 50),
        "over_direct_p99_us": over(whole, name, DIRECT, 99),
    }


def chunk_summary(delays: dict[str, list[float]], name: str) -> dict[str, float | None]:
    return {
        "samples": len(delays[name]),
        "p50_us": percentile(delays[name], 50),
        "p99_us": percentile(delays[name], 99),
        "over_direct_p50_us": over(delays, name, DIRECT, 50),
        "over_nginx_p50_us": over(delays, name, NGINX, 50),
    }


def over(values: dict[str, list[float]], name: str, yardstick: str, percent: float) -> float | None:
    """How much higher a percentile of one subject is than the same percentile of another."""
    if name not in values or yardstick not in values:
        return None
    return percentile(values[name], percent) - percentile(values[yardstick], percent)


def added_ms(result: dict[str, object], part: str, field: str) -> float | None:
    """A figure of the recording proxy in a result of `run`, in milliseconds."""
    table = result[part]
    assert isinstance(table, dict)
    value = table.get(PROXY, {}).get(field)
    return None if value is None else float(value) / 1e3
