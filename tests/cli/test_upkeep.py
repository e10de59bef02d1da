from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from time import time_ns

import pytest

from gemini_caching_proxy.recording_status import RecorderStatus, write_status
from gemini_caching_proxy.stores.base import Gap
from gemini_caching_proxy.stores.sqlite import SQLiteStore

from .conftest import Ran, Recorded

Call = Callable[..., Ran]


def test_status_tells_the_size(call: Call, recorded: Recorded) -> None:
    (report,) = call("status", "--json", *recorded.where).records
    assert report["exchanges"] == 6
    assert report["file_bytes"] > 0
    assert report["body_bytes"] > 0
    assert report["dedup_ratio"] == pytest.approx(report["file_bytes"] / report["body_bytes"], abs=1e-4)
    assert (report["recorder_alive"], report["recorder_state"]) == (False, None)
    out = call("status", *recorded.where).out
    assert "6 exchanges" in out
    assert "never ran here" in out
    assert "every exchange was recorded" in out


def test_status_tells_of_a_recorder_and_its_backlog(call: Call, recorded: Recorded) -> None:
    write_status(recorded.folder, RecorderStatus(1, time_ns(), backlog_bytes=3 << 20, open_exchanges=2))
    out = call("status", *recorded.where).out
    assert "running" in out
    assert "3.0 MiB of journal to take in, 2 exchanges running" in out


def test_status_tells_of_gaps(call: Call, recorded: Recorded) -> None:
    async def add() -> None:
        store = SQLiteStore(recorded.folder / "exchanges.sqlite3")
        await store.open()
        await store.add_gap(Gap(7, time_ns() - 10**9, time_ns(), "disk full"))
        await store.aclose()

    asyncio.run(add())
    (report,) = call("status", "--json", *recorded.where).records
    assert report["gap_exchanges"] == 7
    assert report["gaps"][0]["reason"] == "disk full"
    assert "7 exchanges could not be recorded" in call("status", *recorded.where).out


def test_status_of_nothing_is_friendly(call: Call, tmp_path: Path) -> None:
    ran = call("status", "--data-dir", str(tmp_path / "empty"))
    assert ran.code == 0
    assert "gemini-proxy serve" in ran.err


def test_status_of_a_damaged_store_is_told(call: Call, tmp_path: Path) -> None:
    (tmp_path / "exchanges.sqlite3").write_bytes(b"no database" * 500)
    (report,) = call("status", "--json", "--data-dir", str(tmp_path)).records
    assert "damaged" in report["store_problem"]


def test_drained_is_exit_0_and_a_timeout_exit_4(call: Call, recorded: Recorded) -> None:
    assert call("status", "--wait-drained", "--timeout", "0", *recorded.where).code == 0
    journal = recorded.folder / "journal" / "worker-0-1-1"
    journal.mkdir(parents=True)
    assert call("status", "--wait-drained", *recorded.where).code in (0, 4)


def test_timeout_needs_something_to_wait_for(call: Call, recorded: Recorded) -> None:
    ran = call("status", "--timeout", "3", *recorded.where)
    assert ran.code == 2
    assert "--wait-drained" in ran.err


def test_prune_removes_what_is_old_and_says_so(call: Call, recorded: Recorded) -> None:
    ran = call("prune", "--older-than", "30d", "--yes", *recorded.where)
    assert ran.code == 0
    assert "Removed 1 exchanges" in ran.out
    assert len(call("list", "--json", *recorded.where).records) == 5
    assert call("show", str(recorded.old.id), *recorded.where).code == 1
    again = call("prune", "--older-than", "30d", "--yes", "--json", *recorded.where)
    assert again.records[0]["exchanges"] == 0


def test_prune_asks_where_it_can_and_else_refuses(
    call: Call, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.openpty()
    try:
        with open(writer, closefd=False) as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            os.write(reader, b"n\n")
            ran = call("prune", "--older-than", "30d", *recorded.where)
        assert ran.code == 1
        assert "Nothing was removed." in ran.err
    finally:
        os.close(reader)
        os.close(writer)
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        ran = call("prune", "--older-than", "30d", *recorded.where)
    assert ran.code == 2
    assert "--yes" in ran.err
    assert len(call("list", "--json", *recorded.where).records) == 6


@pytest.mark.parametrize("age", ["soon", "30y", "-1d", "2999-01-01"])
def test_prune_refuses_what_is_no_age(call: Call, recorded: Recorded, age: str) -> None:
    ran = call("prune", f"--older-than={age}", "--yes", *recorded.where)
    assert ran.code == 2
    assert "--older-than" in ran.err


def test_prune_needs_an_age(call: Call, recorded: Recorded) -> None:
    ran = call("prune", "--yes", *recorded.where)
    assert ran.code == 2
    assert "--older-than" in ran.err


def test_prune_works_beside_an_open_reader(call: Call, recorded: Recorded) -> None:
    reader = sqlite3.connect(recorded.folder / "exchanges.sqlite3")
    try:
        assert reader.execute("SELECT count(*) FROM exchanges").fetchone() == (6,)
        assert json.loads(call("prune", "--older-than", "30d", "-y", "--json", *recorded.where).out)["exchanges"] == 1
    finally:
        reader.close()
