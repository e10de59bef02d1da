"""What an answer from the record costs beside a call that goes out: under load, and at no load.

Every request may be answered from a recording (temperature 0). Misses are prompts that nobody sent before, hits are a
hundred that were; the requests differ in one number alone. The upstream counts its calls, so hits are known to be hits
and misses to be misses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import load, payloads, throughput
from .client import Connection, HeadReader, Timing, request_bytes
from .figures import percentile, ratio_by_round
from .subjects import DIRECT, NGINX, NO_CACHE, PROXY, AbsentError, Laboratory, Subject, body_of

WORKLOAD = throughput.Workload("cache", payloads.UNARY_PATH, payloads.SMALL_BYTES)
HITS, MISSES = "hits", "misses"
YARDSTICKS = (DIRECT, NGINX, NO_CACHE)
PROMPTS = 100
TOUCHED_MOST = 0.02
"""Share of requests that may be cut off at the end of a round, when the upstream's calls are compared with them."""
STEP_SECONDS = 0.004


def run_load(
    lab: Laboratory, names: Sequence[str], *, rounds: int, seconds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Interleaved rounds: the yardsticks, then misses and hits of one and the same proxy; the result is for JSON."""
    folder = lab.new_folder("cache")
    body = payloads.numbered_body(WORKLOAD.body_bytes)
    fresh = load.write_numbered_script(folder_in(folder, MISSES), body)
    known = load.write_numbered_script(folder_in(folder, HITS), body, numbers=PROMPTS)
    samples: list[throughput.Sample] = []
    absent: dict[str, str] = {}

    def measure(subject: Subject, label: str, script: Path, number: int) -> int:
        """The calls that reached the upstream, of one sample more."""
        before = upstream_calls(lab)
        sample = throughput.measure(lab, WORKLOAD, subject, script, number, seconds)
        samples.append(replace(sample, subject=label))
        say(throughput.describe(WORKLOAD, samples[-1]))
        return upstream_calls(lab) - before - 1

    for number in range(1, rounds + 1):
        for name in [each for each in names if each in (*YARDSTICKS, PROXY) and each not in absent]:
            try:
                with lab.subject(name) as subject:
                    check(lab, subject, body)
                    calls = measure(subject, MISSES if name == PROXY else name, fresh, number)
                    if name == PROXY:
                        check_misses(calls, samples[-1], seconds)
                        prime(subject, body)
                        check_hits(measure(subject, HITS, known, number))
            except (AbsentError, ValueError) as error:
                absent[name] = str(error)
                say(f"cache: {name} is absent: {error}")
    labels = list(dict.fromkeys(each.subject for each in samples))
    return {
        "connections": WORKLOAD.connections,
        "samples": [asdict(each) for each in samples],
        "summary": {label: throughput.summary_of(samples, label) for label in labels},
        "hits_vs_misses": ratio_by_round(throughput.rates(samples, HITS), throughput.rates(samples, MISSES)),
        "misses_vs_nocache": ratio_by_round(throughput.rates(samples, MISSES), throughput.rates(samples, NO_CACHE)),
        "absent": absent,
        "cautions": throughput.cautions(samples),
    }


def folder_in(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def upstream_calls(lab: Laboratory) -> int:
    """How many small calls the upstream has answered; asking is one itself. Raises: ValueError."""
    answer = body_of(lab.upstream_port, payloads.UNARY_PATH, payloads.request_body(payloads.SMALL_BYTES))
    if not answer:
        raise ValueError("the upstream does not answer")
    return int(json.loads(answer)["responseId"])


def check(lab: Laboratory, subject: Subject, body: bytes) -> None:
    """A first answer has the upstream's bytes. Raises: ValueError."""
    first = payloads.with_number(body, PROMPTS)
    throughput.check_bytes(subject, WORKLOAD.target, first, body_of(lab.upstream_port, WORKLOAD.target, first))


def check_misses(calls: int, sample: throughput.Sample, seconds: int) -> None:
    """Raises: ValueError when requests that nobody sent before were answered without a call."""
    if calls < sample.per_second * seconds * (1 - TOUCHED_MOST):
        raise ValueError(f"{calls} upstream calls are too few for {sample.per_second:.0f}/s of misses")


def check_hits(calls: int) -> None:
    """Raises: ValueError when requests whose answers were recorded went upstream."""
    if calls:
        raise ValueError(f"{calls} requests went upstream although their answers were recorded")


def prime(subject: Subject, body: bytes) -> None:
    """Have the answers to all `PROMPTS` recorded. Raises: ValueError."""
    with Connection(subject.port) as connection:
        for number in range(PROMPTS):
            request = request_bytes(WORKLOAD.target, payloads.with_number(body, number))
            if connection.exchange(request).status != 200:
                raise ValueError("a prompt was refused")


def run_idle(lab: Laboratory, names: Sequence[str], *, steps: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Hits from memory on one connection, one at a time, beside yardsticks that call out; the result is for JSON."""
    absent: dict[str, str] = {}
    body = payloads.numbered_body()
    with ExitStack() as stack:
        subjects: list[Subject] = []
        for name in [each for each in names if each in (DIRECT, NGINX, PROXY)]:
            try:
                subjects.append(stack.enter_context(lab.subject(name)))
            except AbsentError as error:
                absent[name] = str(error)
                say(f"cache at no load: {name} is absent: {error}")
        for subject in subjects:
            prime(subject, body)
        timings = closed_loop(subjects, body, steps)
    say(f"cache at no load: {steps} paired steps done")
    return {"subjects": {name: quantiles(listed) for name, listed in timings.items()}, "absent": absent}


def closed_loop(subjects: Sequence[Subject], body: bytes, steps: int) -> dict[str, list[Timing]]:
    """Each subject in every step, in an order that rotates. Raises: ValueError when the proxy's answer is no hit."""
    timings: dict[str, list[Timing]] = {each.name: [] for each in subjects}
    requests = [request_bytes(WORKLOAD.target, payloads.with_number(body, number)) for number in range(PROMPTS)]
    with ExitStack() as stack:
        readers = [HeadReader() for _ in subjects]
        lines = [
            (each.name, reader, stack.enter_context(Connection(each.port, reader)))
            for each, reader in zip(subjects, readers, strict=True)
        ]
        for step in range(steps):
            began = time.monotonic()
            turn = step % max(1, len(lines))
            for name, reader, connection in [*lines[turn:], *lines[:turn]]:
                timings[name].append(connection.exchange(requests[step % PROMPTS]))
                if name == PROXY and not reader.is_hit:
                    raise ValueError(f"an answer in the record was not served: {reader.cache_status!r}")
            time.sleep(max(0.0, began + STEP_SECONDS - time.monotonic()))
    return timings


def quantiles(timings: Sequence[Timing]) -> dict[str, float]:
    whole = [each.last_byte_us for each in timings]
    return {"samples": len(whole), "p50_us": percentile(whole, 50), "p99_us": percentile(whole, 99)}
