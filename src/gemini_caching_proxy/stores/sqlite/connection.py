"""Opening the file: version gate, journal mode by file system, settings of a connection, and the border for errors.

`synchronous` is FULL. A batch's rows and the journal position go in one commit, so a lost commit alone would only be
read again from the journal; but the journal's segments are deleted once their position has passed, and in NORMAL a
power cut may take back commits after that. A commit holds a whole batch, so the sync costs a small exchange a few
microseconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import apsw
import msgspec
import structlog
import zstandard

from gemini_caching_proxy.errors import StoreCorrupt, StoreUnavailable

from .schema import VERSION, migrate, version_of

OLDEST_SAFE = (3, 51, 3)
"""Older SQLite can corrupt a WAL file when two connections write and checkpoint at once (sqlite.org/wal.html)."""
AUTO_VACUUM_INCREMENTAL = 2
WRITER_WAIT_MS = 10_000
READER_WAIT_MS = 10_000

Value = int | str | bytes | None

_UNSAFE_FOR_WAL = re.compile(r"virtiofs|9p|nfs\d?|cifs|smb\d?|smbfs|vboxsf|prl_fs|afs|ceph|fuse(\..*)?|fuseblk")
"""File systems whose shared memory or locks do not hold between processes or hosts."""

_DAMAGE = (apsw.NotADBError, apsw.CorruptError, apsw.FormatError, zstandard.ZstdError, msgspec.DecodeError)
_UNAVAILABLE = (
    apsw.AuthError,
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.InterruptError,
    apsw.LockedError,
    apsw.NoLFSError,
    apsw.NoMemError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
)


def sqlite_version() -> str:
    """Version of the SQLite library in use."""
    return apsw.sqlite_lib_version()


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """The border: what SQLite says becomes StoreUnavailable with a sentence; a mistake of ours passes as it is."""
    try:
        yield
    except _DAMAGE as error:
        raise StoreCorrupt(
            f"{path} is damaged or no database ({error}): move it aside, and a new one is made at the next start."
        ) from error
    except _UNAVAILABLE as error:
        raise StoreUnavailable(f"The store {path} cannot be used now: {error}.") from error


def fetch_all(connection: apsw.Connection, sql: str, parameters: Sequence[Value] = ()) -> list[Any]:
    """All rows of a query, as tuples."""
    return connection.execute(sql, parameters).fetchall()


def fetch_one(connection: apsw.Connection, sql: str, parameters: Sequence[Value] = ()) -> Any:
    """The first row of a query as a tuple, None for no row."""
    return connection.execute(sql, parameters).fetchone()


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """A write transaction that holds the lock from its start, so it never has to fail half-way for want of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def require_safe_version(version: str) -> None:
    """Raises StoreUnavailable if this SQLite is one that can corrupt the file."""
    if tuple(int(number) for number in version.split(".")[:3]) < OLDEST_SAFE:
        needed = ".".join(map(str, OLDEST_SAFE))
        raise StoreUnavailable(
            f"SQLite {version} can corrupt the store: {needed} or newer is needed, as in current apsw."
        )


def journal_mode(path: Path, mounts: str) -> str:
    """`wal`, or `delete` where the file system under `path` does not carry WAL.

    Args:
        path: the file, resolved; it need not exist.
        mounts: text of /proc/self/mountinfo (proc_pid_mountinfo(5)); empty on systems without it.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        covers = path.is_relative_to(point)
        if covers and len(point) >= len(best):
            best, kind = point, types[0]
    return "delete" if _UNSAFE_FOR_WAL.fullmatch(kind) else "wal"


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def open_writer(path: Path) -> apsw.Connection:
    """A connection that writes; the file is made (0600) and migrated as needed.

    Raises: StoreUnavailable, FormatTooNew.
    """
    require_safe_version(sqlite_version())
    _touch(path)
    mode = journal_mode(path.resolve(), _mounts())
    if mode == "delete":
        structlog.get_logger(__name__).warning(
            "This file system does not carry SQLite's WAL; the store is slower and readers may wait", path=str(path)
        )
    with store_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            _prepare_writer(connection, mode)
            migrate(connection, str(path))
        except BaseException:
            connection.close()
            raise
        return connection


def _touch(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"The store {path} cannot be opened for writing: {error.strerror or error}.") from error


def _wait_a_little(tries: int) -> bool:
    """Look for the lock every millisecond. SQLite's own waiting grows to 100 ms and starves beside a busy pruner."""
    sleep(0.001)
    return tries < WRITER_WAIT_MS


def _prepare_writer(connection: apsw.Connection, mode: str) -> None:
    connection.set_busy_handler(_wait_a_little)
    _harden(connection)
    if connection.pragma("auto_vacuum") != AUTO_VACUUM_INCREMENTAL:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes hold in a file without tables only
    if connection.pragma("journal_mode") != mode:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute(
        """
        PRAGMA synchronous = FULL;
        PRAGMA secure_delete = ON;
        PRAGMA foreign_keys = OFF;
        PRAGMA temp_store = MEMORY;
        PRAGMA cache_size = -65536;
        PRAGMA wal_autocheckpoint = 4000;
        PRAGMA journal_size_limit = 67108864;
        """
    )


def open_reader(path: Path) -> apsw.Connection:
    """A connection that only reads, beside any writer.

    It is opened for writing where that is allowed, because reading a WAL file needs its shared memory, and then told
    never to write. It never checkpoints. Raises: StoreUnavailable, FormatTooNew.
    """
    require_safe_version(sqlite_version())
    if not path.exists():
        raise StoreUnavailable(f"There is no store at {path} yet: start `gemini-proxy serve`, or check --data-dir.")
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    with store_errors(path):
        flags = apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY
        connection = apsw.Connection(str(path), flags=flags)
        try:
            connection.set_busy_timeout(READER_WAIT_MS)
            _harden(connection)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.execute("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384")
            if version_of(connection, str(path)) < VERSION:
                raise StoreUnavailable(
                    f"{path} has an older format: start `gemini-proxy serve` once to bring it up to date."
                )
        except BaseException:
            connection.close()
            raise
        return connection


def _harden(connection: apsw.Connection) -> None:
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
