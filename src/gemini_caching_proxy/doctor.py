"""Looks at everything that keeps people from a working proxy, changes nothing, and shows no secret."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import Literal

from .credentials import is_placeholder
from .errors import ConfigError, StoreError, StoreUnavailable
from .probe import Probe, probe
from .recording_status import STORE_UNAVAILABLE, read_status
from .relay.origin import Origin
from .settings import Settings
from .storage import inspect_server, is_shared, make_store, store_exists, store_name
from .stores.sqlite import sqlite_version
from .stores.sqlite.connection import OLDEST_SAFE, journal_mode
from .supervisor import SERVE_FILE

GIB = 1 << 30
LITTLE_DISK_BYTES = GIB
NO_DISK_BYTES = 100 << 20
MOST_SKEW_SECONDS = 60
PROBE_SECONDS = 10.0
EARLIEST_SANE_NS = 1_767_225_600_000_000_000
"""2026-01-01: a clock before it is wrong."""

Outcome = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    outcome: Outcome
    text: str
    advice: str = ""


async def examine(settings: Settings, *, upstream: bool = True) -> list[Finding]:
    """All findings, in the order in which they help; `upstream` says whether to call it."""
    findings = [
        check_python(),
        check_settings(settings),
        *check_folder(settings),
        check_disk(settings),
        check_sqlite(),
        *await check_server(settings),
        await check_store(settings),
        check_recorder(settings),
        check_port(settings),
        check_key(settings),
        check_clock(),
    ]
    if upstream:
        findings += await check_upstream(settings)
    return findings


def check_python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", f"Python {version} on {sys.platform}")


def check_settings(settings: Settings) -> Finding:
    changed = sorted(name for name in settings.model_fields_set if name != "gemini_api_key")
    text = f"changed from the defaults: {', '.join(changed)}" if changed else "all at their defaults"
    source = f"; a file {Path('.env').absolute()} is read" if Path(".env").is_file() else ""
    return Finding("settings", "ok", text + source)


def check_folder(settings: Settings) -> list[Finding]:
    folder = settings.data_dir
    if not folder.exists():
        parent = next(one for one in folder.parents if one.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return [Finding("folder", "ok", f"{folder} does not exist yet and will be made")]
        return [
            Finding(
                "folder", "problem", f"{folder} cannot be made: {parent} is not writable", "Choose another --data-dir."
            )
        ]
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return [
            Finding("folder", "problem", f"{folder} is no folder that can be written", "Choose another --data-dir.")
        ]
    findings = []
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        findings.append(
            Finding("folder", "note", f"{folder} is open to other users (mode {mode:o})", f"chmod 700 {folder}")
        )
    else:
        findings.append(Finding("folder", "ok", f"{folder} is writable and private"))
    if not is_shared(settings) and journal_mode(settings.sqlite_path.resolve(), _mounts()) != "wal":
        findings.append(
            Finding(
                "filesystem",
                "note",
                "this file system does not carry SQLite's WAL: the store is slower and readers may wait",
                "Choose a --data-dir on a local disk.",
            )
        )
    return findings


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def check_disk(settings: Settings) -> Finding:
    place = next(one for one in (settings.data_dir, *settings.data_dir.parents) if one.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free"
    if free < NO_DISK_BYTES:
        return Finding("disk", "problem", text, "Recording stops when the disk is full: free some space.")
    if free < LITTLE_DISK_BYTES:
        return Finding("disk", "note", text, "`gemini-proxy prune --older-than 30d` frees some.")
    return Finding("disk", "ok", text)


def check_sqlite() -> Finding:
    version = sqlite_version()
    if tuple(map(int, version.split(".")[:3])) < OLDEST_SAFE:
        return Finding("sqlite", "problem", f"SQLite {version} can corrupt its WAL file", "Install a current apsw.")
    return Finding("sqlite", "ok", f"SQLite {version}, safe with WAL")


async def check_store(settings: Settings) -> Finding:
    name = store_name(settings)
    if not store_exists(settings):
        return Finding("store", "ok", f"{name} does not exist yet: nothing was recorded")
    store = make_store(settings)
    try:
        await store.open(read_only=True)
        size = await store.size()
        gaps = sum(gap.exchanges for gap in await store.gaps())
    except StoreError as error:
        return Finding("store", "problem", str(error), error.advice if isinstance(error, StoreUnavailable) else "")
    finally:
        await store.aclose()
    text = f"{name} holds {size.exchanges} exchanges"
    if gaps:
        return Finding(
            "store", "note", f"{text}; {gaps} more could not be recorded", "`gemini-proxy status` tells when and why."
        )
    return Finding("store", "ok", text)


async def check_server(settings: Settings) -> list[Finding]:
    """What the server of a shared store is, and whether its user may do what recording needs."""
    if not is_shared(settings):
        return []
    try:
        found = await inspect_server(settings)
    except StoreUnavailable:
        return []  # the store's own check says it
    login = f"as {found.user}" if found.user else "without login"
    text = f"MongoDB {found.version}, {found.topology}, database {found.database}, {login}"
    if not found.missing:
        return [Finding("server", "ok", text)]
    return [
        Finding(
            "server",
            "problem",
            f"{text}: the user may not {', '.join(found.missing)}, and needs the role readWrite",
            f'In mongosh, as an administrator: db.grantRolesToUser("{found.user}", '
            f'[{{role: "readWrite", db: "{found.database}"}}])',
        )
    ]


def check_recorder(settings: Settings) -> Finding:
    status = read_status(settings.data_dir)
    if status is None:
        return Finding("recorder", "ok", "has not run on this folder yet")
    if status.state.startswith(STORE_UNAVAILABLE) and status.alive(time_ns()):
        return Finding(
            "recorder",
            "problem",
            f"runs, but cannot store: {status.state}",
            "Nothing is lost: exchanges wait in the journal.",
        )
    if status.alive(time_ns()):
        return Finding("recorder", "ok", f"runs (pid {status.pid}), {status.backlog_bytes} bytes to take in")
    if status.backlog_bytes:
        return Finding(
            "recorder",
            "note",
            f"is not running, {status.backlog_bytes} bytes wait",
            "`gemini-proxy serve` takes them in.",
        )
    return Finding("recorder", "ok", "is not running, and nothing waits for it")


def check_port(settings: Settings) -> Finding:
    """Whether the port is free, ours, or somebody else's."""
    where = f"{settings.host}:{settings.port}"
    if settings.port == 0:
        return Finding("port", "ok", "a free one is taken at the start")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=2)
    try:
        connection.connect()
    except OSError:
        return Finding("port", "ok", f"{where} is free")
    try:
        connection.request("GET", "/healthz")
        live = json.loads(connection.getresponse().read(4096)) == {"status": "live"}
    except (OSError, ValueError, http.client.HTTPException):
        live = False
    finally:
        connection.close()
    running = serving(settings)
    if (
        running is not None
        and running.get("url", "").rsplit(":", 1)[-1] == str(settings.port)
        and (live or settings.tls_cert)
    ):
        return Finding("port", "ok", f"{where} is this folder's running proxy (pid {running.get('pid')})")
    if live:
        return Finding(
            "port",
            "note",
            f"{where} is a gemini-proxy on another data folder",
            "Choose another --port for a second one.",
        )
    return Finding(
        "port", "problem", f"{where} is taken by another program", "Choose another --port, or stop that program."
    )


def serving(settings: Settings) -> dict[str, str] | None:
    """What the running `serve` of this folder wrote about itself; None with none."""
    try:
        document = json.loads((settings.data_dir / SERVE_FILE).read_text())
        os.kill(int(document["pid"]), 0)
    except PermissionError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {str(name): str(value) for name, value in document.items()}


def base_url(settings: Settings) -> str:
    """The address that clients use: of the running proxy if there is one, else what the settings say."""
    if settings.public_url:
        return settings.public_url
    running = serving(settings)
    if running is not None and "url" in running:
        return running["url"]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{settings.port}"


def check_key(settings: Settings) -> Finding:
    """Whether the proxy has a key of its own. The key is never shown."""
    if settings.gemini_api_key is None:
        return Finding("key", "ok", "none set: clients must send their own", "Set GEMINI_API_KEY to lend clients one.")
    if is_placeholder(settings.gemini_api_key.get_secret_value().encode()):
        return Finding(
            "key",
            "problem",
            "GEMINI_API_KEY is a placeholder, not a key",
            "Get one at https://aistudio.google.com/apikey.",
        )
    return Finding("key", "ok", "GEMINI_API_KEY is set: it is used for clients that send none or a placeholder")


def check_clock() -> Finding:
    if time_ns() < EARLIEST_SANE_NS:
        return Finding(
            "clock",
            "problem",
            "this machine's clock is years behind",
            "Set it: TLS and all recorded times depend on it.",
        )
    return Finding("clock", "ok", "plausible")


async def check_upstream(settings: Settings) -> list[Finding]:
    """Name, connection, TLS and answer of the upstream, and what its answer tells about key and clock."""
    origin = Origin.from_url(settings.gemini_base_url)
    key = settings.gemini_api_key.get_secret_value().encode() if settings.gemini_api_key else None
    if key is not None and is_placeholder(key):
        key = None
    try:
        result = await probe(
            origin,
            key=key,
            ca_file=str(settings.upstream_ca) if settings.upstream_ca else None,
            timeout=min(settings.connect_timeout, PROBE_SECONDS),
        )
    except ConfigError as error:
        return [Finding("upstream", "problem", str(error))]
    return _upstream_findings(settings.gemini_base_url, result, has_key=key is not None)


def _upstream_findings(url: str, result: Probe, *, has_key: bool) -> list[Finding]:
    if result.error is not None:
        return [
            Finding(
                "upstream",
                "problem",
                f"{url}, step {result.step}: {result.error}",
                _UPSTREAM_ADVICE.get(result.step, ""),
            )
        ]
    findings = [
        Finding(
            "upstream",
            "ok" if result.status is not None and result.status < 500 else "note",
            f"{url} connected in {_ms(result.connect_seconds)}, "
            f"answered {result.status} in {_ms(result.answer_seconds)}",
        )
    ]
    if has_key and result.status in (400, 401, 403):
        findings.append(
            Finding("key", "problem", f"the upstream refuses GEMINI_API_KEY ({result.status})", "Check the key.")
        )
    elif has_key and result.status == 200:
        findings.append(Finding("key", "ok", "the upstream takes it"))
    skew = result.clock_skew_seconds
    if skew is not None and abs(skew) > MOST_SKEW_SECONDS:
        word = "ahead of" if skew > 0 else "behind"
        findings.append(
            Finding("clock", "note", f"{abs(skew):.0f} s {word} the upstream's", "Set this machine's clock.")
        )
    return findings


_UPSTREAM_ADVICE = {
    "name": "Check the network, the name in --gemini-base-url, or HTTPS_PROXY.",
    "connection": "Check the network and firewall, or set HTTPS_PROXY if a proxy is needed to go out.",
    "TLS": "A proxy that opens TLS needs its authority in --upstream-ca.",
}


def _ms(seconds: float | None) -> str:
    return f"{(seconds or 0) * 1000:.0f} ms"
