"""The things compared, each started anew and pinned to the subject's core.

`direct` is the upstream itself, for reference. `nginx` and the two naive relays are the yardsticks. `proxy` is the real
program with recording on, `proxy-norecord` the same without, `proxy-nocache` never answers from what it recorded.
Only its worker runs on the subject's core; its recorder and API share the load's core, as the upstream and the load
generator do.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from . import machine, nginx, payloads

DIRECT, NGINX, PROXY = "direct", "nginx", "proxy"
NO_RECORD, NO_CACHE = "proxy-norecord", "proxy-nocache"
NAIVE, NAIVE_POOLED = "naive", "naive-pooled"
SUBJECTS = (DIRECT, NGINX, PROXY, NO_RECORD, NO_CACHE, NAIVE, NAIVE_POOLED)
JOURNAL_CEILING = 32 << 30
START_SECONDS = 30.0
ROOT = Path(__file__).resolve().parents[1]
RECORDER_NICE = 19
FOREIGN_SETTINGS = ("GEMINI_PROXY_", "GEMINI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class AbsentError(Exception):
    """A subject cannot run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that answers on `port`."""

    name: str
    port: int
    worker: int | None = None
    """The process whose core and memory are measured; None for the upstream itself."""
    data_dir: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    helpers: tuple[int, ...] = ()
    """The proxy's other processes: supervisor, recorder, API."""


@dataclass(slots=True)
class Laboratory:
    """What every workload needs: the cores, the processes, a folder to write in, the program under test."""

    scratch: Path
    cores: machine.Cores
    fleet: machine.Fleet
    program: Path
    upstream_port: int = 0
    pause_recorder: bool = False
    """Stop the recorder while load runs: shows what it takes from the load's core."""
    upstream: Literal["nginx", "simulator"] | None = None
    """What plays Gemini; None takes nginx where it is installed."""
    _count: int = field(default=0)

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def start_upstream(self) -> str:
        """Start what plays Gemini; the name of what it is. Raises: AbsentError when it does not start."""
        folder = self.new_folder("upstream")
        self.upstream_port = machine.free_port()
        kind = self.upstream or ("simulator" if nginx.why_absent() else "nginx")
        if kind == "nginx":
            command = nginx.command(nginx.write_upstream(folder, self.upstream_port))
        else:
            command = [sys.executable, "-m", "benchmarks.simulated_upstream", str(self.upstream_port)]
        log = folder / "log"
        process = self.fleet.start(command, cores=self.cores.load, log=log, cwd=ROOT, env=clean_environment())
        if not machine.wait_for_port(self.upstream_port, process):
            raise AbsentError(f"the upstream did not start: {tail(log)}")
        return kind

    def new_folder(self, name: str) -> Path:
        self._count += 1
        folder = self.scratch / f"{self._count}-{name}"
        folder.mkdir()
        return folder

    @contextmanager
    def subject(self, name: str) -> Iterator[Subject]:
        """A fresh instance of the subject; afterwards it and its files are gone. Raises: AbsentError."""
        if name == DIRECT:
            yield Subject(name, self.upstream_port)
            return
        folder = self.new_folder(name)
        starter = {NGINX: self._start_nginx, NAIVE: self._start_naive, NAIVE_POOLED: self._start_naive}
        subject = starter.get(name, self._start_proxy)(name, folder)
        try:
            yield subject
        finally:
            if subject.process is not None:
                self.fleet.stop(subject.process, gently=False)
            shutil.rmtree(folder, ignore_errors=True)

    def _start_nginx(self, name: str, folder: Path) -> Subject:
        if why := nginx.why_absent():
            raise AbsentError(why)
        port = machine.free_port()
        config = nginx.write_proxy(folder, port, self.upstream_port)
        process = self.fleet.start(nginx.command(config), cores=self.cores.subject, log=folder / "log")
        self._await(process, port, folder)
        children = machine.family_of(process.pid)[1:]
        return Subject(name, port, children[0].pid if children else process.pid, process=process)

    def _start_naive(self, name: str, folder: Path) -> Subject:
        port = machine.free_port()
        command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.naive_relay:build", "--port", str(port)]
        command += ["--log-level", "warning", "--no-access-log"]
        env = clean_environment() | {"NAIVE_UPSTREAM": self.upstream_url}
        env["NAIVE_POOLED"] = "1" if name == NAIVE_POOLED else "0"
        process = self.fleet.start(command, cores=self.cores.subject, log=folder / "log", cwd=ROOT, env=env)
        self._await(process, port, folder)
        return Subject(name, port, process.pid, process=process)

    def _start_proxy(self, name: str, folder: Path) -> Subject:
        if not self.program.exists():
            raise AbsentError(f"there is no {self.program}")
        arguments = ("--cache", "off") if name == NO_CACHE else ()
        return self.start_proxy(name, folder, self.upstream_url, record=name != NO_RECORD, arguments=arguments)

    def start_proxy(
        self, name: str, folder: Path, upstream_url: str, *, record: bool = True, arguments: Sequence[str] = ()
    ) -> Subject:
        """`gemini-proxy serve` with its data below `folder`, its worker alone on the subject's core."""
        data_dir = folder / "data"
        words = ["serve", "--gemini-base-url", upstream_url, "--data-dir", str(data_dir), *arguments]
        return self._start_program(name, folder, words, data_dir, record=record)

    def start_replay(self, folder: Path, cassette: Path) -> Subject:
        """`gemini-proxy replay` of a cassette."""
        return self._start_program(PROXY, folder, ["replay", str(cassette)], None, record=False)

    def _start_program(
        self, name: str, folder: Path, words: Sequence[str], data_dir: Path | None, *, record: bool
    ) -> Subject:
        port = machine.free_port()
        command = [str(self.program), *words, "--port", str(port)]
        ceiling = min(JOURNAL_CEILING, shutil.disk_usage(folder).free // 2)
        env = clean_environment() | {
            "GEMINI_PROXY_RECORD": "true" if record else "false",
            "GEMINI_PROXY_JOURNAL_MAX_BYTES": str(ceiling),
            "GEMINI_PROXY_LOG_LEVEL": "warning",
        }
        process = self.fleet.start(command, cores=self.cores.load, log=folder / "log", cwd=folder, env=env)
        self._await(process, port, folder)
        self._await_ready(process, port, folder)
        family = machine.family_of(process.pid)
        worker = machine.listener_on(port, family)
        if worker is None:
            raise AbsentError(f"no process of the proxy listens on port {port}")
        machine.pin(worker.pid, self.cores.subject)
        helpers = tuple(each.pid for each in family if each.pid != worker.pid)
        for pid in helpers:
            lower_priority(pid)
        return Subject(name, port, worker.pid, data_dir, process, helpers)

    def _await(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        if not machine.wait_for_port(port, process, seconds=START_SECONDS):
            raise AbsentError(f"it did not start: {tail(folder / 'log')}")

    def _await_ready(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if status_of(port, "/readyz") == 200:
                return
            time.sleep(0.05)
        raise AbsentError(f"it did not become ready: {tail(folder / 'log')}")

    @contextmanager
    def recorder_held(self, subject: Subject) -> Iterator[None]:
        """With `pause_recorder`, stops the proxy's other processes for the time of a measurement."""
        held = subject.helpers if self.pause_recorder else ()
        for pid in held:
            signal_if_alive(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in held:
                signal_if_alive(pid, signal.SIGCONT)


def lower_priority(pid: int) -> None:
    """Keep the recorder from taking the load's core away from the load; both stand there only for want of a third."""
    try:
        psutil.Process(pid).nice(RECORDER_NICE)
    except psutil.NoSuchProcess:
        return


def signal_if_alive(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def clean_environment() -> dict[str, str]:
    """This environment without what would reconfigure a subject."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN_SETTINGS)}


def tail(log: Path, lines: int = 2) -> str:
    """The last lines of a log, in one."""
    if not log.exists():
        return "(no output)"
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-lines:]) or "(no output)"


def status_of(port: int, path: str) -> int | None:
    """The status of a GET, or None when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def body_of(port: int, target: str, body: bytes) -> bytes:
    """The answer's body to one POST; an empty one stands for any failure."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json", "x-goog-api-key": payloads.CLIENT_KEY}
    try:
        connection.request("POST", target, body, headers)
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else b""
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()


def wanted_subjects(asked: Sequence[str]) -> tuple[str, ...]:
    """The asked subjects in their usual order; all when none is named. Raises: ValueError for an unknown name."""
    if unknown := set(asked) - set(SUBJECTS):
        raise ValueError(f"unknown subject: {', '.join(sorted(unknown))}")
    return tuple(each for each in SUBJECTS if not asked or each in asked)
