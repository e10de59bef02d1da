"""`gemini-proxy demo`: a simulated Gemini API, the real proxy in front of it, and some clients.

The proxy runs as its own program, as it would for real; nothing of the user's settings reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .demo_calls import Caller, play
from .errors import ConfigError, FolderInUse, ProxyError
from .recording_status import wait_drained
from .settings import ENV_PREFIX, Settings
from .simulator import Pacing, SimulatorOptions, SimulatorThread
from .supervisor import EXIT_IN_USE, SERVE_FILE

START_SECONDS = 30.0
STOP_SECONDS = 40.0
DRAIN_SECONDS = 30.0
LOG_FILE = "demo.log"
PROGRAM = "gemini-proxy"
_NOT_INHERITED = ("GEMINI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")

Say = Callable[[str], None]


def run(data_dir: Path | None, *, once: bool, say: Say) -> None:
    """Start everything, send the traffic, tell what to look at, and serve until Ctrl-C (unless `once`).

    Args:
        data_dir: where to record; None takes a new temporary folder.

    Raises:
        ConfigError, FolderInUse, ProxyError: the proxy did not start.
    """
    # SIGTERM ends the demo as Ctrl-C does: what it started must not outlive it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = data_dir or Path(tempfile.mkdtemp(prefix="gemini-proxy-demo-"))
    pace = SimulatorOptions(seed=1, fresh=True, pacing=Pacing(first_byte_s=0.08, chunk_s=0.03))
    with SimulatorThread(pace) as upstream, _proxy(folder, upstream.url) as url:
        say(f"A simulated Gemini API answers on {upstream.url}, the proxy in front of it on {url}.\n")
        caller = Caller(url)
        for step in play(caller):
            say(f"  · {step}")
        drained = asyncio.run(wait_drained(Settings(_env_file=None, data_dir=folder), DRAIN_SECONDS))  # type: ignore[call-arg]
        say(f"\n{caller.calls} calls went through{' and are recorded' if drained else '; the recorder is still busy'}.")
        say(next_steps(folder, url, once=once))
        if not once:
            _wait_for_the_end()
    if not once:
        say(f"\nStopped. The record stays in {folder}.")


def next_steps(folder: Path, url: str, *, once: bool) -> str:
    """What to type now."""
    where = f"--data-dir {shlex.quote(str(folder))}"
    commands = (
        ("list", "every call, newest first"),
        ("list --errors", "what went wrong"),
        ("show last", "the newest one"),
        ("search roses", "find words in requests and answers"),
        ("stats --by model", "tokens, cost, latency"),
        ("cache stats", "what was answered from the record, and what that saved"),
        ("tail", "follow live"),
    )
    lines = ["", "Look at the record" + (":" if once else " (in another terminal):"), ""]
    program = _program()
    lines += [f"  {program} {command} {where}    # {meaning}" for command, meaning in commands]
    if not once:
        lines += [
            "",
            f"Any Gemini client can use {url} as its base URL now, with any key. Ctrl-C ends the demo.",
        ]
    return "\n".join(lines)


def _program() -> str:
    """The command as it can be typed here: `make` does not put the environment's programs on the path."""
    if shutil.which(PROGRAM):
        return PROGRAM
    path = Path(sys.executable).parent / PROGRAM
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


@contextlib.contextmanager
def _proxy(folder: Path, upstream: str) -> Iterator[str]:
    """The proxy as a program of its own; gives its URL."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not _is_private(name)}
    log_path = folder / LOG_FILE
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", __package__, "serve", "--port", "0"),
                *("--data-dir", str(folder), "--gemini-base-url", upstream, "--log-format", "json"),
            ],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the demo, which then stops the proxy in order.
            process_group=0,
        )
    try:
        yield _wait_for_url(process, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_private(name: str) -> bool:
    return name.upper().startswith(ENV_PREFIX) or name in _NOT_INHERITED


def _wait_for_url(process: subprocess.Popen[bytes], folder: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            raise _start_error(code, folder)
        try:
            document = json.loads((folder / SERVE_FILE).read_text())
            if document["pid"] == process.pid:
                return str(document["url"])
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.02)
    raise ProxyError(f"The proxy did not start within {START_SECONDS:g} s; {folder / LOG_FILE} tells more.")


def _start_error(code: int, folder: Path) -> ProxyError:
    lines = (folder / LOG_FILE).read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    sentence = lines[-1].removeprefix("gemini-proxy: ")
    return FolderInUse(sentence) if code == EXIT_IN_USE else ConfigError(f"The proxy did not start: {sentence}")


def _wait_for_the_end() -> None:
    """Until Ctrl-C or SIGTERM."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            signal.pause()
