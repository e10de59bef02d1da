"""A real store with a known content, and the program: called in this process, or run as one of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from factories import DAY_NS, MINUTE_NS, body, content, exchange, exchange_id, glue, join, request_pieces, response, sse
from gemini_caching_proxy.cli import main
from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind
from gemini_caching_proxy.stores.sqlite import SQLiteStore


@dataclass(frozen=True)
class Ran:
    """What a run of the program left."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches a test, and no test's file reaches the machine."""
    for name in list(os.environ):
        if name.startswith("GEMINI_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GEMINI_PROXY_DATA_DIR", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line in this process."""

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        code = main(arguments)
        return Ran(code, *capfd.readouterr())

    return run


def run_program(*arguments: str, **surroundings: str) -> Ran:
    """Run a command line as a program of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "gemini_caching_proxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **surroundings},
        stdin=subprocess.DEVNULL,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def put(folder: Path, exchanges: Sequence[Exchange]) -> None:
    """Record exchanges in a folder's store."""

    async def add() -> None:
        store = SQLiteStore(folder / "exchanges.sqlite3")
        await store.open()
        try:
            await store.add(exchanges)
        finally:
            await store.aclose()

    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(add())


@dataclass(frozen=True)
class Recorded:
    """A folder and what is in it."""

    folder: Path
    plain: Exchange
    """One question and its answer, 5 minutes ago."""
    first: Exchange
    """The first turn of a conversation, 4 minutes ago."""
    second: Exchange
    """The second turn."""
    limited: Exchange
    """A 429, 2 minutes ago."""
    broken: Exchange
    """A stream that broke, 1 minute ago."""
    old: Exchange
    """40 days old, of another model and client."""

    @property
    def where(self) -> tuple[str, str]:
        return "--data-dir", str(self.folder)


HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m [bold red]markup[/] \u202egnp.exe \x00 end"


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    now = time.time_ns()

    def ago(minutes: int) -> dict[str, Any]:
        started = now - minutes * MINUTE_NS
        return {"started_ns": started, "id": exchange_id(started)}

    plain = exchange(asked="What floats on water?", answer="Ducks do.", **ago(5))
    asked = [content("Count to two"), content("One, two.", "model"), content("And on?")]
    first = exchange(asked="Count to two", answer="One, two.", model="gemini-2.5-pro", **ago(4))
    first = _in_conversation(first, first, None)
    second = exchange(
        request_pieces=request_pieces(asked), answer="Three, four.", model="gemini-2.5-pro", price=None, **ago(3)
    )
    second = _in_conversation(second, first, first)
    limited = exchange(
        outcome=response((b'{"error":{"code":429}}',), status=429, reason=b"Too Many Requests"),
        operation="generate_content",
        usage=None,
        price=None,
        finish_reason=None,
        **ago(2),
    )
    broken = exchange(
        asked=HOSTILE,
        outcome=Failure(FailureKind.INCOMPLETE_RESPONSE, "The upstream closed.", partial=response(sse("Half an"))),
        response_text=f"Half an {HOSTILE}",
        usage=None,
        price=None,
        **ago(1),
    )
    then = now - 40 * DAY_NS
    old = exchange(
        started_ns=then,
        id=exchange_id(then),
        model="gemini-embedding-001",
        model_version=None,
        operation="embed_content",
        user_agent="curl/8.11.0",
        request_body=body(bytes(range(256))),
        request_pieces=(glue(bytes(range(256))),),
        outcome=response((b"\x00\x01\xff",)),
        price=None,
    )
    assert join(second.request_pieces) == second.request_body.data
    put(tmp_path / "data", [plain, first, second, limited, broken, old])
    return Recorded(tmp_path / "data", plain, first, second, limited, broken, old)


def _in_conversation(one: Exchange, start: Exchange, parent: Exchange | None) -> Exchange:
    return replace(one, conversation=start.id, parent=parent.id if parent else None)
