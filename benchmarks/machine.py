"""The machine: its cores, its free ports, and every process a run starts on it.

A `Fleet` is the one place that starts programs. Each gets a process group of its own, so that Ctrl-C reaches this
process alone; it is told to end when this process dies, whatever the way; and `close` waits for what it ended. All stay
in one session, because Linux shares the processor between sessions first (autogroups): niceness counts only within one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
OPEN_FILES = 16_384
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the measured worker has to itself, and which the load and the upstream share."""

    subject: frozenset[int]
    load: frozenset[int]

    @property
    def apart(self) -> bool:
        return not self.subject & self.load


def split_cores(available: Iterable[int]) -> Cores:
    """The first core for the subject, the others for the load; one core alone has to serve both."""
    ranked = sorted(available)
    return Cores(frozenset(ranked[:1]), frozenset(ranked[1:] or ranked))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def allow_open_files() -> None:
    """Raise the soft limit of this process and what it starts: a thousand streams take four thousand sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def pin(pid: int, cores: Iterable[int]) -> None:
    """Bind every thread of a process; threads it starts later inherit the binding."""
    wanted = set(cores)
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), wanted)
        except ProcessLookupError:
            continue


class Fleet:
    """The processes of a run."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._libc = ctypes.CDLL(None, use_errno=True)

    def start(
        self,
        command: Sequence[str | Path],
        *,
        cores: Iterable[int],
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command` on `cores`; what it prints goes to the file `log`."""
        wanted = set(cores)

        def prepare() -> None:
            os.sched_setaffinity(0, wanted)
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(each) for each in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else dict(env),
                process_group=0,
                preexec_fn=prepare,
            )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], *, gently: bool = True) -> None:
        """End a process and all it started. `gently` gives it `STOP_SECONDS` to finish its work."""
        family = family_of(process.pid)
        if gently and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family[1:], timeout=STOP_SECONDS)
        process.wait(STOP_SECONDS)
        if process in self._running:
            self._running.remove(process)

    def close(self) -> None:
        for process in reversed(list(self._running)):
            self.stop(process, gently=False)


def family_of(pid: int) -> list[psutil.Process]:
    """A process and its descendants, itself first; empty when it is gone."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def listener_on(port: int, family: Sequence[psutil.Process]) -> psutil.Process | None:
    """The process that accepts connections on `port`. Where a parent shares its socket, the youngest child counts."""
    owners = [each for each in family if _listens(each, port)]
    named = [each for each in owners if "worker" in " ".join(each.cmdline())]
    return (named or owners or [None])[-1]


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        connections = process.net_connections(kind="tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)


def wait_for_port(port: int, process: subprocess.Popen[bytes], *, seconds: float = 20.0) -> bool:
    """Whether something accepts on `port` in time; False at once when `process` has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used so far, in user and kernel mode."""
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


@contextmanager
def niceness(value: int) -> Iterator[None]:
    """Run with this niceness against everything else on the machine; for a value below 0 one must be root.

    Raises: PermissionError.
    """
    group = Path("/proc/self/autogroup")
    before = group.read_text().rpartition(" ")[2] if value and group.exists() else ""
    os.nice(value)
    if before:
        group.write_text(str(value))
    try:
        yield
    finally:
        if before:
            group.write_text(before)


def core_seconds(cores: Iterable[int]) -> float:
    """Processor time that anything at all has used on these cores since boot."""
    names = {f"cpu{each}" for each in cores}
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, fields[:8])
            total += (user + nice + system + interrupts + soft + stolen) / ticks
    return total


def rss_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def disk_mb_per_s(folder: Path, *, megabytes: int = 256) -> float:
    """How fast this disk takes a file written in 1 MiB pieces and synced every 16: the ceiling of any journal."""
    block = os.urandom(1 << 20)
    path = folder / "disk-probe"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for written in range(1, megabytes + 1):
            file.write(block)
            if written % 16 == 0:
                os.fdatasync(file.fileno())
    elapsed = time.perf_counter() - started
    path.unlink()
    return megabytes * (1 << 20) / 1e6 / elapsed


def first_line(command: Sequence[str]) -> str:
    """The first line a program prints, or an empty string where it is absent."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return next(iter((done.stdout + done.stderr).splitlines()), "")


def facts(cores: Cores, scratch: Path) -> dict[str, object]:
    """What a reader needs to judge the figures; nothing that names the host."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": cpu.partition(":")[2].strip() or platform.machine(),
        "cores": os.cpu_count(),
        "subject_cores": sorted(cores.subject),
        "load_cores": sorted(cores.load),
        "memory_mb": psutil.virtual_memory().total // 1_000_000,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": first_line(["nginx", "-v"]).partition(": ")[2],
        "wrk": first_line(["wrk", "-v"]).partition(" Copyright")[0],
        "disk_mb_per_s": round(disk_mb_per_s(scratch)),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "commit": first_line(["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]),
    }
