"""`tail` as people use it: a program of its own, beside a store that grows."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from factories import exchange, exchange_id

from .conftest import Recorded, put

PATIENCE = 30.0


class Tail:
    """A running `tail` and its lines as they come."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gemini_caching_proxy", "tail", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._notes: queue.Queue[str] = queue.Queue()
        for stream, lines in ((self.process.stdout, self._lines), (self.process.stderr, self._notes)):
            threading.Thread(target=lambda s=stream, q=lines: [q.put(line) for line in s], daemon=True).start()

    def line(self) -> str:
        return self._lines.get(timeout=PATIENCE)

    def note(self) -> str:
        return self._notes.get(timeout=PATIENCE)

    def interrupt(self) -> tuple[int, list[str]]:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(PATIENCE)
        return code, list(self._notes.queue)


@contextmanager
def tailing(*arguments: str) -> Iterator[Tail]:
    tail = Tail(*arguments)
    try:
        yield tail
    finally:
        tail.process.kill()
        tail.process.wait()
        for stream in (tail.process.stdout, tail.process.stderr):
            assert stream is not None
            stream.close()


def test_history_first_then_what_comes(recorded: Recorded) -> None:
    with tailing(*recorded.where, "--json", "-n", "3") as tail:
        history = [json.loads(tail.line())["id"] for _ in range(3)]
        assert history == [str(one.id) for one in (recorded.second, recorded.limited, recorded.broken)]
        for number in range(3):
            new = exchange(id=exchange_id(), answer=f"number {number}")
            put(recorded.folder, [new])
            assert json.loads(tail.line())["id"] == str(new.id)


def test_it_waits_for_a_store_and_ctrl_c_is_quiet(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with tailing("--data-dir", str(folder)) as tail:
        assert "Waiting" in tail.note()
        put(folder, [exchange(answer="Here I am.")])
        assert tail.line().startswith("id")
        assert "Here I am." in tail.line()
        code, notes = tail.interrupt()
    assert code == 130
    assert notes == []


def test_filters_hold_for_what_comes(recorded: Recorded) -> None:
    with tailing(*recorded.where, "--json", "--model", "gemini-new*") as tail:
        wanted = exchange(id=exchange_id(), model="gemini-new-1")
        put(recorded.folder, [exchange(id=exchange_id()), wanted])
        assert json.loads(tail.line())["id"] == str(wanted.id)


def test_a_store_that_is_moved_aside_is_followed_by_the_next(recorded: Recorded) -> None:
    with tailing(*recorded.where, "--json", "-n", "1") as tail:
        tail.line()
        for path in recorded.folder.glob("exchanges.sqlite3*"):
            path.rename(path.with_name("old-" + path.name))
        new = exchange(id=exchange_id())
        put(recorded.folder, [new])
        assert json.loads(tail.line())["id"] == str(new.id)
