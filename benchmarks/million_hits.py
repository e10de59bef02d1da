"""Hits from a store of a million exchanges with an entry each, end to end and with nothing in memory.

The store is a copy of the one that `million` asks. A proxy on it, with no room for hot answers, records some thousand
exchanges more; asked for again in another order, each is found by its key among all the others.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import million, payloads, program
from .cached import STEP_SECONDS, quantiles
from .client import Connection, HeadReader, Timing, request_bytes
from .subjects import PROXY, Laboratory, Subject

ASKED = 2000
ARGUMENTS = ("--cache-memory-bytes", "0")


def run(lab: Laboratory, *, rows: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Record, then ask again; the result is ready for JSON. Raises: AbsentError."""
    kept = million.filled(lab, rows=rows, folder=folder, say=say)
    own = lab.new_folder("million-hits")
    store = own / million.STORE_FILE
    shutil.copyfile(kept, store)
    subject = lab.start_proxy(PROXY, own, lab.upstream_url, arguments=("--store", f"sqlite://{store}", *ARGUMENTS))
    try:
        numbers = list(range(ASKED))
        _, misses = ask(subject, numbers)
        assert subject.data_dir is not None
        program.wait_drained(lab.program, subject.data_dir)
        random.Random(4).shuffle(numbers)
        found, hits = ask(subject, numbers)
    finally:
        assert subject.process is not None
        lab.fleet.stop(subject.process, gently=False)
        store.unlink()
    say(f"million-hits: {found} of {ASKED} were hits")
    if found < ASKED:
        raise ValueError(f"{ASKED - found} of {ASKED} recorded answers were not served")
    return {"rows": rows, "store_bytes": kept.stat().st_size, "subjects": {"hits": hits, "misses": misses}}


def ask(subject: Subject, numbers: list[int]) -> tuple[int, dict[str, float]]:
    """One prompt at a time on one connection: how many were hits, and the times. Raises: ValueError."""
    body = payloads.numbered_body()
    reader = HeadReader()
    timings: list[Timing] = []
    hits = 0
    with Connection(subject.port, reader) as connection:
        for number in numbers:
            began = time.monotonic()
            timing = connection.exchange(request_bytes(payloads.UNARY_PATH, payloads.with_number(body, number)))
            if timing.status != 200:
                raise ValueError(f"a prompt was answered {timing.status}")
            timings.append(timing)
            hits += reader.is_hit
            time.sleep(max(0.0, began + STEP_SECONDS - time.monotonic()))
    return hits, quantiles(timings)
