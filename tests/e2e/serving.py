"""The real program as a process of its own, for tests: started, watched, asked for its record, stopped or killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import psutil

from gemini_caching_proxy.cli.access import make_store
from gemini_caching_proxy.errors import StoreUnavailable
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.recording_status import wait_drained
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.stores.base import ExchangeStore, Query, Summary

T = TypeVar("T")
POLL_SECONDS = 0.01


def wait_for(condition: Callable[[], T], timeout: float = 10.0, what: str = "a condition") -> T:
    """The condition's value as soon as it is true; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(POLL_SECONDS)
    return value


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def clean_environment(**settings: Any) -> dict[str, str]:
    """The environment without what would change the program, and with these settings as its variables."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith("GEMINI_")
    }
    for name, value in settings.items():
        environment["GEMINI_PROXY_" + name.upper()] = str(value)
    return environment


class ProxyProcess:
    """`serve` on a free port; usable as a context manager. Settings are given by their names."""

    def __init__(
        self,
        data_dir: Path,
        *,
        upstream: str,
        gemini_api_key: str | None = None,
        environment: dict[str, str] | None = None,
        port: int = 0,
        **settings: Any,
    ) -> None:
        self.data_dir = data_dir / "data"
        self.upstream = upstream
        self.store = str(settings.get("store", "sqlite"))
        self._port = port
        self._cwd = data_dir
        self._environment = clean_environment(**settings) | (environment or {})
        if gemini_api_key is not None:
            self._environment["GEMINI_API_KEY"] = gemini_api_key
        self._log_path = data_dir / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __repr__(self) -> str:
        return f"<ProxyProcess {self.url} data={self.data_dir}>"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything the program wrote to its standard output and error."""
        return self._log_path.read_text()

    def child(self, name: str) -> psutil.Process:
        """`worker-0`, `recorder`, …; AssertionError if it does not run."""
        found = [each for each in psutil.Process(self.pid).children() if name in arguments(each)]
        assert found, f"no process {name}"
        return found[0]

    @property
    def worker_pid(self) -> int:
        return self.child("worker-0").pid

    @property
    def settings(self) -> Settings:
        """What reads the same store."""
        return Settings(_env_file=None, data_dir=self.data_dir, store=self.store)  # type: ignore[call-arg]

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "gemini_caching_proxy", "serve",
            "--port", str(self._port), "--data-dir", str(self.data_dir), "--gemini-base-url", self.upstream,
        ]  # fmt: skip

    def start(self, timeout: float = 20.0) -> Self:
        """Return once it listens; AssertionError with its log if it ends or takes too long."""
        serve_file = self.data_dir / "serve.json"
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._cwd
            )
        pid = self.process.pid

        def listening() -> str:
            assert self.process is not None
            assert self.process.poll() is None, f"serve ended with {self.process.returncode}: {self.log}"
            try:
                document = json.loads(serve_file.read_text())
            except (OSError, ValueError):
                return ""
            return document["url"] if document["pid"] == pid else ""

        self.url = wait_for(listening, timeout, "serve to listen")
        return self

    def run_to_end(self, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run the same command where it is expected to refuse."""
        return subprocess.run(
            self.command(),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self._cwd,
            check=False,
        )

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = 40.0) -> int:
        """The exit code, once it ended."""
        assert self.process is not None
        return self.process.wait(timeout)

    def stop(self, timeout: float = 40.0) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL for the supervisor; its children find out by themselves."""
        self.signal(signal.SIGKILL)
        self.wait()

    def exchanges(self, count: int | None = None, timeout: float = 20.0) -> list[Exchange]:
        """What the store holds, oldest first, once all that had ended is in it.

        Args:
            count: wait until there are as many.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.drain(timeout)
            found = asyncio.run(_read(make_store(self.settings)))
            if count is None or len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} exchanges of {count} after {timeout:g} s"
            time.sleep(POLL_SECONDS)

    def summaries(self, timeout: float = 20.0) -> list[Summary]:
        """The same without reading any body."""
        self.drain(timeout)
        return asyncio.run(_list(make_store(self.settings)))

    def drain(self, timeout: float = 20.0) -> float:
        """Wait until all that had ended is stored; returns how many seconds that took."""
        began = time.monotonic()
        assert asyncio.run(wait_drained(self.settings, timeout)), f"not drained in {timeout:g} s: {self.log}"
        return time.monotonic() - began

    def exchange(self, user_agent: str, timeout: float = 20.0) -> Exchange:
        """The one exchange of this user agent, once it is stored."""
        deadline = time.monotonic() + timeout
        while True:
            found = [each for each in self.exchanges() if each.user_agent == user_agent]
            if found:
                (exchange,) = found
                return exchange
            assert time.monotonic() < deadline, f"no exchange of {user_agent} after {timeout:g} s"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        family = psutil.Process(self.pid).children(recursive=True)
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(1.0 if kind else 10.0)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGTERM)
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in family:
            if child.is_running():
                child.kill()


def arguments(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if it is gone."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


async def _read(store: ExchangeStore) -> list[Exchange]:
    async with _opened(store) as opened:
        return [await store.get(summary.id) for summary in await _all(store)] if opened else []


async def _list(store: ExchangeStore) -> list[Summary]:
    async with _opened(store) as opened:
        return await _all(store) if opened else []


@asynccontextmanager
async def _opened(store: ExchangeStore) -> AsyncIterator[bool]:
    """False if there is none yet."""
    try:
        await store.open(read_only=True)
    except StoreUnavailable:
        yield False
        return
    try:
        yield True
    finally:
        await store.aclose()


async def _all(store: ExchangeStore) -> list[Summary]:
    """Oldest first."""
    found: list[Summary] = []
    cursor = None
    while True:
        page = await store.list(Query(), limit=500, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found[::-1]
