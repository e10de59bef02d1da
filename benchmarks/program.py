"""The command line of the program under test, asked beside a running `serve`, and what its data folder holds."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .subjects import AbsentError, clean_environment

DRAIN_SECONDS = 180


def ask(program: Path, *arguments: str, data_dir: Path | None, seconds: float = 60) -> bytes:
    """What a command prints. Raises: AbsentError when it fails or takes longer than `seconds`."""
    command = [str(program), *arguments, *(["--data-dir", str(data_dir)] if data_dir else [])]
    elsewhere = Path(tempfile.gettempdir())
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=seconds, check=False, env=clean_environment(), cwd=elsewhere
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AbsentError(f"`{program.name} {arguments[0]}` gave no answer: {error}") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise AbsentError(f"`{program.name} {' '.join(arguments)}` ended with {done.returncode}: {''.join(last)}")
    return done.stdout


def ask_json(program: Path, *arguments: str, data_dir: Path) -> list[dict[str, Any]]:
    """The lines of a command with `--json`."""
    return [json.loads(line) for line in ask(program, *arguments, "--json", data_dir=data_dir).splitlines()]


def wait_drained(program: Path, data_dir: Path) -> float:
    """Seconds until everything journaled is in the store, the start of the command included."""
    started = time.monotonic()
    ask(program, "status", "--wait-drained", data_dir=data_dir, seconds=DRAIN_SECONDS)
    return time.monotonic() - started


def count_exchanges(program: Path, data_dir: Path) -> int:
    return sum(int(row["exchanges"]) for row in ask_json(program, "stats", data_dir=data_dir))


def store_bytes(data_dir: Path) -> int:
    """The SQLite file with its write-ahead log."""
    return sum(path.stat().st_size for path in data_dir.glob("*.sqlite3*"))
