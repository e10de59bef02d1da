"""Requests per second at a fixed number of connections, subject after subject, round after round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from . import load, machine, payloads
from .figures import middle, ratio_by_round
from .subjects import DIRECT, NAIVE, NGINX, PROXY, AbsentError, Laboratory, Subject, body_of

WARM_UP_SECONDS = 1
MUCH_DISTURBED = 0.08
LITTLE_BUSY = 0.85


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    target: str
    body_bytes: int
    connections: int = 32


SMALL = Workload("small", payloads.UNARY_PATH, payloads.SMALL_BYTES)
SATURATED = Workload("small-128", payloads.UNARY_PATH, payloads.SMALL_BYTES, connections=128)
AGENT = Workload("agent", payloads.UNARY_PATH, payloads.AGENT_BYTES)
SSE = Workload("sse", f"{payloads.STREAM_PATH}?{payloads.STREAM_QUERY}", payloads.SMALL_BYTES)


@dataclass(frozen=True, slots=True)
class Sample:
    """One subject in one round."""

    subject: str
    round: int
    per_second: float
    p50_us: int
    p99_us: int
    errors: int
    cpu_us_per_request: float | None
    """Processor time of the worker, the steadiest figure on a noisy machine; None for the upstream itself."""
    worker_busy: float | None
    """Share of the time its core was working: well below 1 means that the load's core set the pace."""
    others_busy: float | None
    """Share of that core's time that other programs took: above a few per cent the round was disturbed."""
    rss_mb: float | None
    journal_bytes_per_request: float | None
    store_bytes: int | None


def run(
    lab: Laboratory, workload: Workload, names: Sequence[str], *, rounds: int, seconds: int, say: Callable[[str], None]
) -> dict[str, object]:
    """Interleaved rounds of one workload; the result is ready for JSON."""
    folder = lab.new_folder(workload.name)
    body = payloads.request_body(workload.body_bytes)
    script = load.write_script(folder, body)
    expected = body_of(lab.upstream_port, workload.target, body)
    samples: list[Sample] = []
    absent: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for name in names:
            if name in absent:
                continue
            try:
                with lab.subject(name) as subject:
                    check_bytes(subject, workload.target, body, expected)
                    samples.append(measure(lab, workload, subject, script, number, seconds))
            except (AbsentError, ValueError) as error:
                absent[name] = str(error)
                say(f"{workload.name}: {name} is absent: {error}")
                continue
            say(describe(workload, samples[-1]))
    return {
        "connections": workload.connections,
        "samples": [asdict(each) for each in samples],
        "summary": {name: summary_of(samples, name) for name in names if name not in absent},
        "absent": absent,
        "cautions": cautions(samples),
    }


def check_bytes(subject: Subject, target: str, body: bytes, expected: bytes) -> None:
    """A fast relay of wrong bytes is no result. Raises: ValueError."""
    got = body_of(subject.port, target, body)
    if not expected or payloads.without_ids(got) != payloads.without_ids(expected):
        raise ValueError(f"it answered {len(got)} bytes that are not the upstream's {len(expected)}")


def measure(lab: Laboratory, workload: Workload, subject: Subject, script: Path, number: int, seconds: int) -> Sample:
    url = f"http://127.0.0.1:{subject.port}{workload.target}"

    def go(length: int) -> load.LoadResult:
        return load.run_wrk(lab.fleet, lab.cores, url, script, connections=workload.connections, seconds=length)

    with lab.recorder_held(subject):
        warm = go(WARM_UP_SECONDS)
        used, core_used = cpu_of(subject), machine.core_seconds(lab.cores.subject)
        result = go(seconds)
        spent, core_spent = cpu_of(subject), machine.core_seconds(lab.cores.subject)
    cpu = None if used is None or spent is None else spent - used
    seconds_passed = result.duration_us / 1e6
    total = warm.requests + result.requests
    return Sample(
        subject=subject.name,
        round=number,
        per_second=result.per_second,
        p50_us=result.p50_us,
        p99_us=result.p99_us,
        errors=result.errors,
        cpu_us_per_request=None if cpu is None else cpu * 1e6 / max(1, result.requests),
        worker_busy=None if cpu is None else cpu / seconds_passed,
        others_busy=None if cpu is None else max(0.0, core_spent - core_used - cpu) / seconds_passed,
        rss_mb=None if subject.worker is None else machine.rss_bytes(subject.worker) / 1e6,
        journal_bytes_per_request=data_bytes(subject, "journal", total),
        store_bytes=store_bytes(subject),
    )


def cpu_of(subject: Subject) -> float | None:
    return None if subject.worker is None else machine.cpu_seconds(subject.worker)


def data_bytes(subject: Subject, part: str, requests: int) -> float | None:
    """What is still in a folder of the proxy's data, per request; the recorder takes away what it has stored."""
    if subject.data_dir is None or not (subject.data_dir / part).exists():
        return None
    return machine.folder_bytes(subject.data_dir / part) / max(1, requests)


def store_bytes(subject: Subject) -> int | None:
    if subject.data_dir is None:
        return None
    return sum(path.stat().st_size for path in subject.data_dir.glob("*.sqlite3*"))


def describe(workload: Workload, sample: Sample) -> str:
    busy = "" if sample.worker_busy is None else f", worker {sample.worker_busy:4.0%} busy"
    cpu = "" if sample.cpu_us_per_request is None else f", {sample.cpu_us_per_request:.1f} us CPU each"
    errors = f", {sample.errors} ERRORS" if sample.errors else ""
    return (
        f"{workload.name} round {sample.round} {sample.subject:<14} {sample.per_second:>9,.0f}/s"
        f"  p50 {sample.p50_us / 1000:.2f} ms  p99 {sample.p99_us / 1000:.2f} ms{cpu}{busy}{errors}"
    )


def summary_of(samples: Sequence[Sample], name: str) -> dict[str, object]:
    """Medians of a subject, and its ratio to each yardstick within the rounds."""
    own = [each for each in samples if each.subject == name]
    fields = [each for each in Sample.__dataclass_fields__ if each not in ("subject", "round", "errors")]
    summary: dict[str, object] = {
        field: middle(value for each in own if (value := getattr(each, field)) is not None) for field in fields
    }
    summary["cpu_ratio_to_nginx"] = cpu_ratio(samples, name)
    summary["errors"] = sum(each.errors for each in own)
    for yardstick in (DIRECT, NGINX, NAIVE):
        summary[f"ratio_to_{yardstick}"] = ratio_by_round(rates(samples, name), rates(samples, yardstick))
    return summary


def cpu_ratio(samples: Sequence[Sample], name: str) -> float | None:
    """What the requests/s ratio to nginx would be if both had all of their core and nothing else set the pace."""
    costs = {
        subject: {each.round: each.cpu_us_per_request for each in samples if each.subject == subject}
        for subject in (name, NGINX)
    }
    known = {subject: {n: cost for n, cost in rounds.items() if cost} for subject, rounds in costs.items()}
    return ratio_by_round(known[NGINX], known[name])


def cautions(samples: Sequence[Sample]) -> list[str]:
    """What keeps the ratios from being believed."""
    found = []
    for name in dict.fromkeys(each.subject for each in samples):
        own = [each for each in samples if each.subject == name]
        others = middle(each.others_busy for each in own if each.others_busy is not None)
        busy = middle(each.worker_busy for each in own if each.worker_busy is not None)
        if others is not None and others > MUCH_DISTURBED:
            found.append(f"other programs took {others:.0%} of the core of {name}")
        elif name == PROXY and busy is not None and busy < LITTLE_BUSY:
            found.append(f"the worker of {name} was {busy:.0%} busy: something else set the pace")
    return found


def rates(samples: Sequence[Sample], name: str) -> dict[int, float]:
    return {each.round: each.per_second for each in samples if each.subject == name}


def ratio(result: dict[str, object], yardstick: str) -> float | None:
    """The recording proxy's ratio to a yardstick in a result of `run`."""
    summary = result["summary"]
    assert isinstance(summary, dict)
    value = summary.get(PROXY, {}).get(f"ratio_to_{yardstick}")
    return None if value is None else float(value)
