"""`python -m benchmarks`: run the workloads, print tables, keep the figures.

Each workload fills in the values of its targets; one that cannot run says why, and the rest go on. The exit status is 0
when nothing that was measured misses its target, 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from . import (
    agent_session,
    cached,
    collapse,
    figures,
    latency,
    machine,
    million,
    million_hits,
    mongodb,
    recorder,
    replay,
    report,
    streams,
    throughput,
)
from .subjects import NAIVE, NGINX, PROXY, AbsentError, Laboratory, wanted_subjects


@dataclass(slots=True)
class Run:
    """The options of a run and what it has found so far."""

    options: argparse.Namespace
    console: Console
    measured: dict[str, float | None] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, style="dim", soft_wrap=True)

    def keep(self, name: str, result: dict[str, Any], values: dict[str, float | None]) -> None:
        self.results[name] = result
        self.measured |= values
        missing = result.get("absent", {})
        reason = missing.get(PROXY) or next(iter(missing.values()), "")
        self.absent |= {key: reason or "a subject was left out" for key, value in values.items() if value is None}
        report.show(self.console, name, result)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the proxy beside nginx and others."
    )
    parser.add_argument("--only", default="", help=f"comma-separated workloads of: {', '.join(RUNNERS)}")
    parser.add_argument("--subjects", default="", help="comma-separated subjects; all by default")
    parser.add_argument("--quick", action="store_true", help="few and short rounds, for a first impression")
    parser.add_argument("--rounds", type=int, help="interleaved rounds of each throughput workload")
    parser.add_argument("--seconds", type=int, help="length of one round")
    parser.add_argument("--streams", type=int, default=1000, help="concurrent slow streams")
    parser.add_argument("--rows", type=int, help="exchanges in the store of the workloads `million…`")
    parser.add_argument("--million-dir", type=Path, help="folder that keeps that store from run to run")
    parser.add_argument("--million-store", help="URI of a MongoDB database that keeps them from run to run")
    parser.add_argument("--upstream", choices=("nginx", "simulator"), help="what plays Gemini; nginx where it is there")
    parser.add_argument("--pause-recorder", action="store_true", help="stop the recorder while load runs")
    parser.add_argument("--nice", type=int, default=0, help="priority of everything started; root may go below 0")
    parser.add_argument("--program", type=Path, default=Path(sys.executable).with_name("gemini-proxy"))
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    options.only = [each for each in options.only.split(",") if each] or list(RUNNERS)
    if unknown := set(options.only) - set(RUNNERS):
        parser.error(f"unknown workload: {', '.join(sorted(unknown))}")
    try:
        options.subjects = wanted_subjects([each for each in options.subjects.split(",") if each])
    except ValueError as error:
        parser.error(str(error))
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (2 if options.quick else 4)
    options.rows = options.rows or (50_000 if options.quick else million.FULL_ROWS)
    return options


def run_throughput(run: Run, lab: Laboratory, workload: throughput.Workload, keys: dict[str, str]) -> None:
    options = run.options
    result = throughput.run(
        lab, workload, options.subjects, rounds=options.rounds, seconds=options.seconds, say=run.say
    )
    values = {key: throughput.ratio(result, yardstick) for key, yardstick in keys.items()}
    run.keep(workload.name, result, values)


def run_small(run: Run, lab: Laboratory) -> None:
    run_throughput(run, lab, throughput.SMALL, {"small_vs_nginx": NGINX, "small_vs_naive": NAIVE})
    if not run.options.quick:
        run_throughput(run, lab, throughput.SATURATED, {})


def run_agent(run: Run, lab: Laboratory) -> None:
    run_throughput(run, lab, throughput.AGENT, {"agent_vs_nginx": NGINX})


def run_sse(run: Run, lab: Laboratory) -> None:
    run_throughput(run, lab, throughput.SSE, {"sse_vs_nginx": NGINX})


def run_latency(run: Run, lab: Laboratory) -> None:
    steps, paired_streams = (1000, 4) if run.options.quick else (6000, 30)
    result = latency.run(lab, run.options.subjects, steps=steps, streams=paired_streams, say=run.say)
    run.keep(
        "latency",
        result,
        {
            "added_p50_ms": latency.added_ms(result, "unary", "over_nginx_p50_us"),
            "added_p99_ms": latency.added_ms(result, "unary", "over_nginx_p99_us"),
            "chunk_added_p50_ms": latency.added_ms(result, "chunks", "over_direct_p50_us"),
        },
    )


def run_streams(run: Run, lab: Laboratory) -> None:
    seconds = 3 if run.options.quick else 10
    names = [each for each in run.options.subjects if each not in ("naive-pooled",)]
    result = streams.run(lab, names, streams=run.options.streams, seconds=seconds, say=run.say)
    lost = [streams.figure(result, PROXY, each) for each in ("lost_streams", "lost_events")]
    run.keep(
        "streams",
        result,
        {
            "streams_rss_mb": streams.figure(result, PROXY, "rss_mb"),
            "streams_lost": None if None in lost else max(each for each in lost if each is not None),
            "streams_reordered": streams.figure(result, PROXY, "reordered"),
        },
    )


def run_session(run: Run, lab: Laboratory) -> None:
    try:
        result = agent_session.run(lab, turns=agent_session.TURNS, say=run.say)
    except AbsentError as error:
        result = {"absent": {PROXY: str(error)}}
    run.keep("session", result, {"session_store_percent": result.get("store_percent")})


def run_recorder(run: Run, lab: Laboratory) -> None:
    burst, steady_seconds = (3_000, 4) if run.options.quick else (20_000, 20)
    try:
        result = recorder.run(lab, burst=burst, steady_seconds=steady_seconds, say=run.say)
    except AbsentError as error:
        result = {"absent": {PROXY: str(error)}}
    values = {"recorder_per_s": result.get("drained_per_s"), "recorder_keeps_up_s": result.get("steady_behind_s")}
    run.keep("recorder", result, values)


def run_cache(run: Run, lab: Laboratory) -> None:
    options = run.options
    loaded = cached.run_load(lab, options.subjects, rounds=options.rounds, seconds=options.seconds, say=run.say)
    run.keep("cache", loaded, {"cache_hits_vs_misses": loaded["hits_vs_misses"]})
    idle = cached.run_idle(lab, options.subjects, steps=1000 if options.quick else 6000, say=run.say)
    p50_us = idle["subjects"].get(PROXY, {}).get("p50_us")
    run.keep("cache-idle", idle, {"cache_hit_memory_p50_ms": None if p50_us is None else p50_us / 1e3})
    result = collapse.run(lab, requests=collapse.REQUESTS, say=run.say)
    run.keep("collapse", result, {"cache_collapsed_calls": result["upstream_calls"]})


def run_replay(run: Run, lab: Laboratory) -> None:
    result = replay.run(lab, turns=agent_session.TURNS, say=run.say)
    run.keep("replay", result, {"session_replay_hits": min(result["store_hits"], result["cassette_hits"])})


def run_million(run: Run, lab: Laboratory) -> None:
    options = run.options
    try:
        result = million.run(lab, rows=options.rows, folder=million_folder(run, lab), say=run.say)
    except AbsentError as error:
        result = {"absent": {PROXY: str(error)}}
    kinds = ("list", "stats", "search")
    run.keep("million", result, if_full(run, {f"{kind}_ms": result.get(f"worst_{kind}_ms") for kind in kinds}))


def run_million_hits(run: Run, lab: Laboratory) -> None:
    result = million_hits.run(lab, rows=run.options.rows, folder=million_folder(run, lab), say=run.say)
    p50_ms = result["subjects"]["hits"]["p50_us"] / 1e3
    run.keep("million-hits", result, if_full(run, {"cache_hit_sqlite_p50_ms": p50_ms}))


def run_mongodb(run: Run, lab: Laboratory) -> None:
    burst, steady_seconds = (3_000, 4) if run.options.quick else (20_000, 20)
    try:
        result = mongodb.run(lab, burst=burst, steady_seconds=steady_seconds, turns=agent_session.TURNS, say=run.say)
    except AbsentError as error:
        result = {"absent": {PROXY: str(error)}}
    values = {
        "mongodb_per_s": result.get("drained_per_s"),
        "mongodb_keeps_up_s": result.get("steady_behind_s"),
        "mongodb_session_percent": result.get("session_percent"),
    }
    run.keep("mongodb", result, values)


def run_mongodb_outage(run: Run, lab: Laboratory) -> None:
    seconds = 15 if run.options.quick else 120
    try:
        result = mongodb.run_outages(lab, seconds=seconds, calm=min(seconds, 60), say=run.say)
    except AbsentError as error:
        result = {"absent": {PROXY: str(error)}}
    faulty = [result.get(name) for name in ("failures", "lost", "doubled")]
    drained = [result.get(name) for name in ("killed_drained_s", "stopped_drained_s")]
    slower = [result.get(name) for name in ("killed_p99_ms", "stopped_p99_ms")]
    whole = None not in (*faulty, *drained, *slower)
    run.keep(
        "mongodb-outage",
        result,
        {
            "mongodb_outage_faults": sum(faulty) if whole else None,
            "mongodb_outage_drained_s": max(drained) if whole else None,
            "mongodb_outage_p99": max(slower) / result["calm_p99_ms"] if whole else None,
        },
    )


def run_mongodb_million(run: Run, lab: Laboratory) -> None:
    try:
        result = million.run_mongodb(lab, rows=run.options.rows, store=run.options.million_store, say=run.say)
    except AbsentError as error:
        result = {"absent": {PROXY: str(error)}}
    values = {f"mongodb_{kind}_ms": result.get(f"worst_{kind}_ms") for kind in ("list", "stats", "search")}
    values["mongodb_lookup_ms"] = result.get("cache_lookup_p50_ms")
    run.keep("mongodb-million", result, if_full(run, values))


def million_folder(run: Run, lab: Laboratory) -> Path:
    """Where the store of a million is, or will be; the same for all workloads of a run."""
    return run.options.million_dir or lab.scratch / "million-store"


def if_full(run: Run, values: dict[str, float | None]) -> dict[str, float | None]:
    """The values, if they are those of the full size."""
    rows = run.options.rows
    if rows < million.FULL_ROWS and any(values.values()):
        run.say(f"{rows:,} exchanges say nothing about {million.FULL_ROWS:,}; no verdict")
        return {}
    return values


RUNNERS: dict[str, Callable[[Run, Laboratory], None]] = {
    "small": run_small,
    "agent": run_agent,
    "sse": run_sse,
    "streams": run_streams,
    "latency": run_latency,
    "session": run_session,
    "recorder": run_recorder,
    "cache": run_cache,
    "replay": run_replay,
    "million": run_million,
    "million-hits": run_million_hits,
    "mongodb": run_mongodb,
    "mongodb-outage": run_mongodb_outage,
    "mongodb-million": run_mongodb_million,
}


def run_all(run: Run, scratch: Path) -> dict[str, object]:
    """Every asked workload; returns the machine's facts."""
    cores = machine.split_cores(os.sched_getaffinity(0))
    facts = machine.facts(cores, scratch)
    run.say(", ".join(f"{name} {value}" for name, value in facts.items()))
    if not cores.apart:
        run.say("Only one core: the subject and the load share it, so the figures say little.")
    os.sched_setaffinity(0, cores.load)
    fleet = machine.Fleet()
    options = run.options
    lab = Laboratory(
        scratch,
        cores,
        fleet,
        options.program.absolute(),
        pause_recorder=options.pause_recorder,
        upstream=options.upstream,
    )
    try:
        facts["upstream"] = lab.start_upstream()
        for name in options.only:
            run_one(run, lab, name)
    finally:
        fleet.close()
    return facts


def run_one(run: Run, lab: Laboratory, name: str) -> None:
    try:
        RUNNERS[name](run, lab)
    except (AbsentError, ValueError, OSError) as error:
        run.console.print(f"[bold red]{name} did not finish: {error}[/]")


def interrupted(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    options = parse_options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    machine.allow_open_files()
    run = Run(options, report.console())
    started = datetime.now(UTC)
    scratch = tempfile.TemporaryDirectory(prefix="gemini-proxy-bench-", ignore_cleanup_errors=True)
    with scratch as folder, machine.niceness(options.nice):
        facts = run_all(run, Path(folder))
    verdicts = figures.judge(run.measured, run.absent)
    report.show_verdicts(run.console, verdicts)
    name = f"{started:%Y-%m-%d}-{'quick' if options.quick else 'full'}"
    name += "" if len(options.only) == len(RUNNERS) else "-" + "-".join(options.only)
    path = options.output or report.RESULTS / f"{name}.json"
    settings = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
    document = {"started": started.isoformat(timespec="seconds"), "machine": facts, "options": settings}
    report.save(path, {**document, "workloads": run.results}, verdicts)
    run.say(f"figures are in {path}")
    return 1 if any(each.word == "MISS" for each in verdicts) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PermissionError as error:
        sys.exit(f"--nice below 0 is for root alone ({error})")
