"""`serve`: holds the data folder and the listening sockets, starts the processes, and restarts those that die.

A process that dies costs nobody else anything: the sockets stay open here, so clients wait instead of being refused,
and what the dead worker had journaled is taken in by the recorder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .app import listener_tls, make_redactor
from .cache.index import Index
from .errors import ConfigError, FolderInUse
from .instance import agree_on_fingerprints
from .log import configure_logging, get_logger
from .relay.origin import Origin, proxy_for, tls_context
from .settings import Settings

EXIT_OK, EXIT_CONFIG, EXIT_IN_USE = 0, 2, 3
RESTART_SECONDS = 0.1
RESTART_SECONDS_MOST = 3.0
BIND_PATIENCE_SECONDS = 3.0
START_SECONDS = 10.0
SERVE_FILE = "serve.json"
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""For glibc: bodies of 200 KB come and go, and giving their pages back each time costs more than copying them."""
log = get_logger(__name__)


def run(settings: Settings, announce: Callable[[str], None] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        announce: called once with the base URL, as soon as clients are served.

    Returns:
        The exit code: 0 stopped as told, 2 a setting cannot work, 3 another process holds the data folder.
    """
    try:
        with hold_folder(settings.data_dir):
            configure_logging(settings.log_level, settings.log_format, make_redactor(settings))
            check(settings)
            sockets = listen(settings)
            return asyncio.run(Supervisor(settings, sockets, announce).run())
    except FolderInUse as error:
        print(f"gemini-proxy: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_IN_USE
    except ConfigError as error:
        print(f"gemini-proxy: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_CONFIG


@contextlib.contextmanager
def hold_folder(data_dir: Path) -> Iterator[None]:
    """Own the data folder (created if missing, for its owner only) as long as this process lives.

    Raises:
        ConfigError: the folder cannot be made or written.
        FolderInUse: another process owns it.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(data_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"Setting --data-dir: {data_dir} cannot be written: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FolderInUse(
                f"The data folder {data_dir} is in use by another gemini-proxy (pid {_owner(data_dir)}): "
                "stop it, or give this one another --data-dir."
            ) from None
        yield
    finally:
        os.close(fd)


def _owner(data_dir: Path) -> str:
    try:
        return str(json.loads((data_dir / SERVE_FILE).read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def check(settings: Settings) -> None:
    """Find out now what would otherwise fail in every worker.

    Raises:
        ConfigError
    """
    listener_tls(settings)
    Index.from_settings(settings, {})
    if settings.cassette is not None and not settings.cassette.is_file():
        raise ConfigError(f"Setting --cassette: there is no file {settings.cassette}.")
    origin = Origin.from_url(settings.gemini_base_url)
    proxy_for(origin)
    if origin.scheme == "https":
        tls_context(str(settings.upstream_ca) if settings.upstream_ca else None)
    own_names = {settings.host, "localhost", "127.0.0.1", "::1"}
    if origin.port == settings.port and origin.host in own_names:
        raise ConfigError(
            "Setting --gemini-base-url / GEMINI_PROXY_GEMINI_BASE_URL: "
            f"{settings.gemini_base_url} is this proxy itself."
        )


def listen(settings: Settings) -> list[socket.socket]:
    """One listening socket per worker.

    Raises:
        ConfigError: the address cannot be had; the text says why.
    """
    deadline = time.monotonic() + BIND_PATIENCE_SECONDS
    while True:
        try:
            return _bind(settings)
        except OSError as error:
            # Processes of a predecessor that was killed may need a moment to let go of the port.
            mine = _predecessor_port(settings.data_dir) == settings.port
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline and mine:
                time.sleep(0.1)
                continue
            raise ConfigError(_bind_sentence(settings, error)) from None


def _bind(settings: Settings) -> list[socket.socket]:
    family, _, _, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # Sockets that share a port would also share it with a stranger, so the first one asks for it alone.
    probe = _socket(family, address, settings.write_timeout, shared=False)
    if settings.workers == 1:
        return [probe]
    port = probe.getsockname()[1]
    probe.close()
    address = (address[0], port, *address[2:])
    return [_socket(family, address, settings.write_timeout, shared=True) for _ in range(settings.workers)]


def _socket(family: int, address: tuple[Any, ...], write_timeout: float, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets inherit these; they find a peer that vanished without a word.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", 15),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", int(write_timeout * 1000)),
        ):
            option = getattr(socket, name, None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.bind(address)
        sock.listen(4096)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _predecessor_port(data_dir: Path) -> int | None:
    """The port of a serve on this folder that ended without cleaning up."""
    try:
        return urlsplit(str(json.loads((data_dir / SERVE_FILE).read_text())["url"])).port
    except (OSError, ValueError, KeyError):
        return None


def _bind_sentence(settings: Settings, error: OSError) -> str:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"Setting --port / GEMINI_PROXY_PORT: {where} is taken by another program; choose another port."
    if error.errno == errno.EACCES:
        return f"Setting --port / GEMINI_PROXY_PORT: {where} needs more rights; choose a port above 1023."
    return f"Settings --host and --port: cannot listen on {where}: {error.strerror or error}."


class Supervisor:
    """The processes of one `serve`."""

    def __init__(
        self, settings: Settings, sockets: list[socket.socket], announce: Callable[[str], None] | None = None
    ) -> None:
        self._settings = settings
        self._told = announce
        self._sockets = sockets
        self._stopping = asyncio.Event()
        self._signals = 0
        self._workers: dict[str, asyncio.subprocess.Process] = {}
        self._ready: set[str] = set()
        self._announcements: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Supervisor workers={len(self._workers)} stopping={self._stopping.is_set()}>"

    @property
    def url(self) -> str:
        """What clients use as base URL."""
        name = self._sockets[0].getsockname()
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{'https' if self._settings.tls_cert else 'http'}://{host}:{name[1]}"

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        if self._settings.record:
            await agree_on_fingerprints(self._settings)
        recorder_stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            keeper = None
            if self._settings.record:
                keeper = group.create_task(self._keep("recorder", [], recorder_stop))
            workers = [
                group.create_task(self._keep(f"worker-{index}", [sock], self._stopping))
                for index, sock in enumerate(self._sockets)
            ]
            await asyncio.gather(*workers)
            # Last, so that it takes in what the workers wrote to their end.
            recorder_stop.set()
            if keeper is not None:
                await keeper
        with contextlib.suppress(OSError):
            (self._settings.data_dir / SERVE_FILE).unlink()
        return EXIT_OK

    async def _keep(self, name: str, sockets: list[socket.socket], stop: asyncio.Event) -> None:
        """Keep one process running until `stop`, then see it out."""
        pause = RESTART_SECONDS
        while not stop.is_set():
            started = time.monotonic()
            process = await self._start(name, sockets)
            ended = asyncio.ensure_future(process.wait())
            stopped = asyncio.ensure_future(stop.wait())
            ready = self._watch_ready(name, process)
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if stop.is_set():
                if name == "recorder":
                    # It takes in what the workers wrote even when it had hardly begun; before it is ready it cannot.
                    await asyncio.wait((ready, ended), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                await self._see_out(name, process, ended)
                return
            log.warning("a process died and is started again", process=name, exit_code=process.returncode)
            pause = RESTART_SECONDS if time.monotonic() - started > 1 else min(pause * 2, RESTART_SECONDS_MOST)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def _start(self, name: str, sockets: list[socket.socket]) -> asyncio.subprocess.Process:
        fds = [sock.fileno() for sock in sockets]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gemini_caching_proxy.app",
            name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=fds,
            process_group=0,
            env=MALLOC | os.environ,
        )
        parcel = {
            "kind": "recorder" if name == "recorder" else "worker",
            "name": f"{name}-{process.pid}-{time.time_ns():x}",
            "fds": fds,
            "settings": self._settings.parcel(),
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(parcel).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        self._workers[name] = process
        return process

    def _watch_ready(self, name: str, process: asyncio.subprocess.Process) -> asyncio.Future[None]:
        async def announce() -> None:
            assert process.stdout is not None
            if not await process.stdout.readline() or name in ("recorder", *self._ready):
                return
            self._ready.add(name)
            if len(self._ready) == len(self._sockets):
                self._announce()

        # Held, since a task that nobody holds can vanish.
        announcement = asyncio.ensure_future(announce())
        self._announcements.add(announcement)
        announcement.add_done_callback(self._announcements.discard)
        return announcement

    def _announce(self) -> None:
        settings = self._settings
        document = {"pid": os.getpid(), "url": self.url, "upstream": settings.gemini_base_url}
        path = settings.data_dir / SERVE_FILE
        path.write_text(json.dumps(document))
        path.chmod(0o600)
        log.info(
            "listening",
            url=self.url,
            upstream=settings.gemini_base_url,
            data=str(settings.data_dir),
            recording=settings.record,
            workers=settings.workers,
        )
        if self._told is not None:
            self._told(self.url)

    async def _see_out(self, name: str, process: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
        """Ask a process to stop; end it if it does not within its time."""
        patience = self._settings.drain_timeout + 5 if name != "recorder" else 20.0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        urged = False
        while not ended.done():
            await asyncio.wait((ended,), timeout=0.05)
            if self._signals > 1 and not urged:
                urged = True
                deadline = time.monotonic() + 1.0
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            if time.monotonic() > deadline and not ended.done():
                log.warning("a process did not stop in time and is killed; nothing journaled is lost", process=name)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await ended

    def _stop(self) -> None:
        self._signals += 1
        if self._signals == 1:
            log.info("stopping: running exchanges get time to finish", seconds=self._settings.drain_timeout)
            # The workers hold them too, and close them when they have taken in who is waiting there.
            for sock in self._sockets:
                sock.close()
        self._stopping.set()
