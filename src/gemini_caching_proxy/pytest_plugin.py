"""For pytest: a test that is answered from a cassette, with no key and no network.

    @pytest.mark.gemini_cassette("cassettes/weather.cassette")
    def test_weather(gemini_replay):
        ...  # any Gemini client finds the replaying proxy by itself, or takes `gemini_replay.url`

Installed with the package (entry point `pytest11`), so nothing has to be listed anywhere. `gemini-proxy replay` runs as
a program of its own, once per cassette and session. Importing this is cheap: it loads nothing else of the package.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

MARKER = "gemini_cassette"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
PLACEHOLDER = "placeholder"
COMPLAINT = "gemini-proxy: "
_NOT_INHERITED = ("GEMINI_", "GOOGLE_")
_UNSET = ("GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE")
"""What would make a Gemini client look elsewhere, or send a real key."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A replaying proxy."""

    url: str
    """What clients use as base URL."""
    cassette: Path
    exchanges: int
    """How many exchanges the cassette holds."""


class ReplayProcesses:
    """The programs of a session, one per cassette."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for their logs, and to run in, so that no `.env` of the project reaches them."""
        self._folder = folder
        self._running: dict[Path, tuple[subprocess.Popen[bytes], Replay]] = {}

    def __repr__(self) -> str:
        return f"<ReplayProcesses {len(self._running)}>"

    def of(self, cassette: Path) -> Replay | str:
        """The proxy that answers from a cassette, started if it does not run; or a sentence that says why it cannot."""
        process, replay = self._running.get(cassette, (None, None))
        if process is not None and replay is not None and process.poll() is None:
            return replay
        return self._start(cassette)

    def stop(self) -> None:
        """End all of them."""
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            _end(process)
        self._running.clear()

    def _start(self, cassette: Path) -> Replay | str:
        log = self._folder / f"{cassette.name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "gemini_caching_proxy", "replay", str(cassette), "--port", "0", "--json"],
                cwd=self._folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                # Ctrl-C is for pytest, which then ends its programs in order.
                process_group=0,
            )
        line = _first_line(process)
        if not line:
            _end(process)
            return f"gemini-proxy replay did not start: {_complaint(log)}"
        told = json.loads(line)
        replay = Replay(told["url"], cassette, told["exchanges"])
        self._running[cassette] = process, replay
        return replay


def _environment() -> dict[str, str]:
    """Without settings of the proxy, and without keys, which it does not need."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(_NOT_INHERITED)}


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """What the program writes once it serves; empty if it ended or took too long."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not data:
            return b""
        line += data
    return line


def _complaint(log: Path) -> str:
    """The sentence in which the program says what is wrong, else the last thing it said."""
    said = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    complaints = [line.removeprefix(COMPLAINT) for line in said if line.startswith(COMPLAINT)]
    return complaints[-1] if complaints else said[-1]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}(path): the cassette that the fixture `gemini_replay` answers this test from"
    )


@pytest.fixture(scope="session")
def gemini_replay_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayProcesses]:
    """The replaying proxies of this session."""
    processes = ReplayProcesses(tmp_path_factory.mktemp("gemini-replay"))
    yield processes
    processes.stop()


@pytest.fixture
def gemini_replay(
    request: pytest.FixtureRequest, gemini_replay_processes: ReplayProcesses, monkeypatch: pytest.MonkeyPatch
) -> Replay:
    """A proxy that answers from the cassette named by `@pytest.mark.gemini_cassette("FILE")`.

    FILE is relative to the test's own folder, or to pytest's root folder. `GOOGLE_GEMINI_BASE_URL` and `GEMINI_API_KEY`
    are set for the test, so a Gemini client needs to be told nothing.
    """
    cassette = _cassette_of(request)
    replay = gemini_replay_processes.of(cassette)
    if isinstance(replay, str):
        pytest.fail(replay, pytrace=False)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", replay.url)
    monkeypatch.setenv("GEMINI_API_KEY", PLACEHOLDER)
    for name in _UNSET:
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))))
    return replay


def _cassette_of(request: pytest.FixtureRequest) -> Path:
    marker = request.node.get_closest_marker(MARKER)
    if marker is None or len(marker.args) != 1 or marker.kwargs:
        pytest.fail(f'The fixture gemini_replay needs @pytest.mark.{MARKER}("FILE") on the test.', pytrace=False)
    name = os.fspath(marker.args[0])
    folders = (request.path.parent, request.config.rootpath)
    for folder in folders:
        path: Path = folder / name
        if path.is_file():
            return path.resolve()
    looked = " or ".join(str(folder / name) for folder in dict.fromkeys(folders))
    pytest.fail(
        f"There is no cassette {looked}. To record one: start `gemini-proxy serve`, run the test's calls with its URL "
        f"as base URL and a real key, then `gemini-proxy export --cassette {name} --since 10m`.",
        pytrace=False,
    )
