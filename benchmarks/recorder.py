"""How fast journaled exchanges get into the store: drained after a burst, and kept up with at a steady pace.

Every request differs, so nothing is saved by storing the same part once. For the burst the recorder is held until the
last request is answered; the time then runs until `status --wait-drained` returns, its start included.
"""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import payloads, program
from .client import Connection, request_bytes
from .subjects import PROXY, Laboratory, Subject, signal_if_alive

PER_SECOND = 500


def run(lab: Laboratory, *, burst: int, steady_seconds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Both measurements on one fresh program; the result is ready for JSON. Raises: AbsentError."""
    with lab.subject(PROXY) as subject:
        assert subject.data_dir is not None
        requests = [small_request(n) for n in range(burst)]
        journaled = hold_and_send(subject, requests)
        drained = program.wait_drained(lab.program, subject.data_dir)
        stored = program.count_exchanges(lab.program, subject.data_dir)
        say(f"recorder: {burst} exchanges drained in {drained:.2f} s, {stored} are in the store")
        backlogs = steady(subject, [small_request(burst + n) for n in range(PER_SECOND * steady_seconds)])
        behind = program.wait_drained(lab.program, subject.data_dir)
        after = program.count_exchanges(lab.program, subject.data_dir)
        file_bytes = program.store_bytes(subject.data_dir)
    return {
        "burst_exchanges": burst,
        "journal_bytes_per_exchange": journaled / burst,
        "drained_in_s": drained,
        "drained_per_s": burst / drained,
        "burst_missing": burst - stored,
        "steady_exchanges": PER_SECOND * steady_seconds,
        "steady_per_s": PER_SECOND,
        "steady_highest_backlog_bytes": max(backlogs, default=0),
        "steady_behind_s": behind,
        "steady_missing": burst + PER_SECOND * steady_seconds - after,
        "store_bytes_per_exchange": file_bytes / max(1, after),
    }


def small_request(number: int) -> bytes:
    return request_bytes(payloads.UNARY_PATH, payloads.request_body(payloads.SMALL_BYTES, seed=number))


def hold_and_send(subject: Subject, requests: list[bytes]) -> int:
    """Send everything while the recorder is held; the bytes then in the journal."""
    for pid in subject.helpers:
        signal_if_alive(pid, signal.SIGSTOP)
    try:
        with Connection(subject.port) as connection:
            for request in requests:
                if connection.exchange(request).status != 200:
                    raise ValueError("a small request was refused")
        return journal_bytes(subject.data_dir)
    finally:
        for pid in subject.helpers:
            signal_if_alive(pid, signal.SIGCONT)


def journal_bytes(data_dir: Path | None) -> int:
    if data_dir is None:
        return 0
    return sum(path.stat().st_size for path in (data_dir / "journal").rglob("*") if path.is_file())


def steady(subject: Subject, requests: list[bytes]) -> list[int]:
    """Send at `PER_SECOND`; the recorder's backlog in bytes, looked at once a second."""
    backlogs: list[int] = []
    started = time.monotonic()
    with Connection(subject.port) as connection:
        for number, request in enumerate(requests):
            time.sleep(max(0.0, started + number / PER_SECOND - time.monotonic()))
            connection.exchange(request)
            if number % PER_SECOND == PER_SECOND - 1:
                backlogs.append(backlog(subject.port))
    return backlogs


def backlog(port: int) -> int:
    """What `/readyz` says is journaled and not yet stored, in bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return int(json.loads(connection.getresponse().read()).get("backlog_bytes", 0))
    finally:
        connection.close()
