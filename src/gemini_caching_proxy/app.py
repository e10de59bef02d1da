"""The wiring, one place: settings become objects for each kind of process.

A child process is `python -m gemini_caching_proxy.app KIND`; it reads its settings as one line of JSON from standard
input, which stays open: its end means that the supervisor is gone, and the child stops as if it had been told to.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from time import monotonic, time_ns
from typing import Any

import uvloop

from . import recorder
from .cache.answers import HotAnswers
from .cache.index import Index
from .cache.normalisers import Normalisers
from .cache.policy import Policy
from .caching import Caching
from .call import Surroundings
from .cassette import CassetteAnswers, read_cassette
from .credentials import Credentials, UploadOwners
from .errors import ConfigError, ProxyError
from .journal import JournalWriter
from .locations import password_of
from .log import configure_logging, get_logger
from .lookup import CassetteLookup, Lookup, StoreLookup
from .providers import providers
from .reception import Reception
from .recording import Recording
from .recording_status import read_status
from .redaction import Redactor, load_fingerprint_key
from .relay.downstream import Downstream
from .relay.gate import Gate
from .relay.http1 import REQUEST_KINDS, RESPONSE_KINDS, FieldTable, Limits, ShapeTable
from .relay.origin import Origin
from .relay.upstream import Pool
from .settings import Settings, is_loopback
from .storage import is_shared, make_store

SWEEP_SECONDS = 0.25
ACCOUNT_SECONDS = 1.0
LAST_ACCEPTS = 3
log = get_logger(__name__)


def make_redactor(settings: Settings) -> Redactor:
    """The redactor that every process on a data folder shares (same key, same fingerprints)."""
    redactor = Redactor(
        load_fingerprint_key(settings.data_dir, settings.store if is_shared(settings) else None),
        record_headers=settings.record_headers,
        bodies=settings.redact_bodies,
    )
    if settings.gemini_api_key is not None:
        redactor.remember(settings.gemini_api_key.get_secret_value().encode())
    password = password_of(settings.store) if is_shared(settings) else None
    if password:
        redactor.remember(password.encode())
    return redactor


def listener_tls(settings: Settings) -> ssl.SSLContext | None:
    """The context of an HTTPS listener, if one is asked for.

    Raises:
        ConfigError: a file is missing, unreadable or no match for the other.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"Settings --tls-cert and --tls-key: {settings.tls_cert} and {settings.tls_key} cannot be used: {error}."
        ) from None
    return context


class Worker:
    """One worker process: a listener, a reception, a pool and a journal."""

    def __init__(self, settings: Settings, sockets: list[socket.socket], name: str) -> None:
        self._settings = settings
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._stops = 0
        redactor = make_redactor(settings)
        self._journal = self._open_journal(name) if settings.record else None
        self._recording = (
            Recording(
                self._loop,
                self._journal,
                redactor,
                max_body_bytes=settings.max_body_bytes,
                head_bytes=settings.body_head_bytes,
            )
            if self._journal is not None
            else None
        )
        origin = Origin.from_url(settings.gemini_base_url)
        self._pool = Pool(
            origin,
            FieldTable(RESPONSE_KINDS, redactor.header),
            ca_file=str(settings.upstream_ca) if settings.upstream_ca else None,
            connect_timeout=settings.connect_timeout,
            first_byte_timeout=settings.first_byte_timeout,
            idle_timeout=settings.idle_timeout,
            keepalive=settings.upstream_keepalive,
        )
        self._tls = listener_tls(settings)
        self._caching = self._make_caching() if settings.record or settings.cache == "replay" else None
        key = settings.gemini_api_key
        owners = UploadOwners()
        self._reception = Reception(
            gate=make_gate(settings),
            route=providers()["gemini"].route,
            credentials=Credentials(key.get_secret_value().encode() if key else None, redactor.fingerprint),
            owners=owners,
            pool=self._pool,
            around=Surroundings(
                origin=origin,
                upstream=settings.gemini_base_url,
                recording=self._recording,
                redactor=redactor,
                public_url=settings.public_url.encode() if settings.public_url else None,
                scheme=b"https" if self._tls else b"http",
                spawn=self._spawn,
                caching=self._caching,
                upload_started=owners.remember,
            ),
            redact_target=redactor.target,
            readiness=self._readiness,
            refuses=self._refuses if settings.journal_full == "refuse" else None,
            client_gone=settings.client_gone,
        )
        self._downstream = Downstream(
            self._reception.start,
            FieldTable(REQUEST_KINDS, redactor.header),
            ShapeTable(
                Limits(
                    max_header_bytes=settings.max_header_bytes,
                    max_header_fields=settings.max_header_fields,
                    max_target_bytes=settings.max_target_bytes,
                )
            ),
            max_connections=settings.max_connections,
            header_timeout=settings.header_timeout,
            body_timeout=settings.body_timeout,
            keepalive_timeout=settings.keepalive_timeout,
            write_timeout=settings.write_timeout,
        )

    async def run(self) -> None:
        """Serve until told to stop; then let running exchanges end within the drain time."""
        servers = [
            await self._loop.create_server(self._downstream.connection, sock=sock, ssl=self._tls, backlog=4096)
            for sock in self._sockets
        ]
        self._every(SWEEP_SECONDS, self._sweep)
        if self._caching is not None:
            self._spawn(self._caching.lookup.prepare())
        if self._journal is not None:
            self._every(ACCOUNT_SECONDS, self._journal.account_folder)
        calm_collector()
        await self._stopping.wait()
        self._downstream.closing = True
        # Connections that are complete but not accepted would be reset: each turn of the loop accepts all there are.
        for _ in range(LAST_ACCEPTS):
            await asyncio.sleep(0)
        for server in servers:
            server.close()
        await self._drain()
        if self._recording is not None and self._journal is not None:
            self._recording.flush()
            self._journal.close()

    def stop(self) -> None:
        """Stop taking requests; a second call ends what still runs."""
        self._stops += 1
        self._stopping.set()

    async def _drain(self) -> None:
        self._downstream.close_idle()
        self._pool.close()
        deadline = monotonic() + self._settings.drain_timeout
        while self._downstream.connections or self._reception.passages:
            if monotonic() > deadline or self._stops > 1:
                for passage in list(self._reception.passages):
                    passage.interrupt()
                for connection in list(self._downstream.connections):
                    connection.abort()
                break
            await asyncio.sleep(0.02)
            self._downstream.close_idle()
        if self._recording is not None:
            self._recording.flush()
        await asyncio.sleep(0)
        if self._caching is not None:
            await self._caching.lookup.aclose()

    def _open_journal(self, name: str) -> JournalWriter:
        settings = self._settings
        return JournalWriter(
            settings.journal_dir, name, max_bytes=settings.journal_max_bytes, sync_ms=settings.journal_sync_ms
        )

    def _make_caching(self) -> Caching:
        # With the cache off too: a request can ask for another mode.
        settings, known = self._settings, providers()
        lookup: Lookup
        if settings.cassette is not None:
            index = Index.from_settings(settings, known, imported=True)
            lookup = CassetteLookup(CassetteAnswers(read_cassette(settings.cassette), index.entry))
        else:
            make_store(settings)  # its library loads now, and not under the first request
            lookup = StoreLookup(lambda: make_store(settings), patience_s=settings.cache_lookup_ms / 1000)
        return Caching(
            policy=Policy.from_settings(settings),
            normalisers=Normalisers.of(settings.cache_normalisers, settings.cache_patterns),
            providers=known,
            lookup=lookup,
            hot=HotAnswers(settings.cache_memory_bytes),
            fields=self._pool.fields,
            upstream=settings.gemini_base_url,
            shared=settings.cache_namespace == "shared" or settings.cassette is not None,
            largest=settings.cache_max_body_bytes,
            data_dir=settings.data_dir,
            spawn=self._spawn,
        )

    def _sweep(self) -> None:
        now = monotonic()
        self._downstream.sweep(now)
        self._pool.sweep(now)

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        def again() -> None:
            work()
            self._loop.call_later(seconds, again)

        self._loop.call_later(seconds, again)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _refuses(self) -> bool:
        return self._journal is not None and not self._journal.healthy

    def _readiness(self) -> tuple[bool, dict[str, Any]]:
        """What `/readyz` says: ready when exchanges are kept and taken in."""
        report: dict[str, Any] = {"stopping": self._stopping.is_set(), "recording": self._journal is not None}
        ready = not self._stopping.is_set()
        if self._journal is not None:
            status = read_status(self._settings.data_dir)
            alive = status is not None and status.alive(time_ns())
            report["journal_writable"] = self._journal.healthy
            report["journal_bytes"] = self._journal.folder_bytes
            report["gap_exchanges"] = self._journal.gap_exchanges
            report["recorder_alive"] = alive
            if status is not None:
                report["recorder"] = status.state
                report["backlog_bytes"] = status.backlog_bytes
            ready = ready and self._journal.healthy and alive
        return ready, {"status": "ready" if ready else "not ready", **report}


def calm_collector() -> None:
    """Collect garbage seldom: passages, connections and exchanges free themselves by reference counting."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def make_gate(settings: Settings) -> Gate:
    """The allow-lists that the settings describe."""
    hosts = [settings.host, *settings.allowed_hosts]
    if settings.public_url:
        hosts.append(Origin.from_url(settings.public_url).host)
    return Gate(
        hosts=hosts,
        origins=settings.allowed_origins,
        any_address=settings.allow_remote and not is_loopback(settings.host),
    )


async def _worker(settings: Settings, sockets: list[socket.socket], name: str) -> None:
    worker = Worker(settings, sockets, name)
    _on_stop(worker.stop)
    _say_ready(worker.stop)
    await worker.run()


async def _recorder(settings: Settings) -> None:
    stop = asyncio.Event()
    _on_stop(stop.set)
    _say_ready(stop.set)
    calm_collector()
    await recorder.run(settings, stop)


def _say_ready(stop: Callable[[], object]) -> None:
    """Tell the supervisor; stop if it is gone already."""
    try:
        os.write(1, b"ready\n")
    except BrokenPipeError:
        stop()


def _on_stop(stop: Callable[[], object]) -> None:
    """Call `stop` on SIGTERM and when the supervisor's end of standard input closes."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, lambda: None)

    def orphaned() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop()

    loop.add_reader(0, orphaned)


def main() -> int:
    """Run one child process; its settings and sockets come from the supervisor."""
    line = sys.stdin.buffer.raw.readline()  # type: ignore[union-attr]
    if not line:
        # The supervisor died before it said what to do.
        return 1
    parcel = json.loads(line)
    settings = Settings.from_parcel(parcel["settings"])
    configure_logging(settings.log_level, settings.log_format, make_redactor(settings))
    try:
        if parcel["kind"] == "worker":
            sockets = [socket.socket(fileno=fd) for fd in parcel["fds"]]
            uvloop.run(_worker(settings, sockets, parcel["name"]))
        else:
            uvloop.run(_recorder(settings))
    except ProxyError as error:
        log.error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
