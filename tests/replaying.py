"""`gemini-proxy replay` as a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaying(path: Path, folder: Path, *flags: str) -> Iterator[dict[str, Any]]:
    """`replay` as a program; gives the first line that it writes."""
    with (folder / "replay.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gemini_caching_proxy", "replay", str(path), "--port", "0", "--json", *flags],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(folder)},
            cwd=folder,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (folder / "replay.log").read_text()
        yield json.loads(line)
    finally:
        process.terminate()
        code = process.wait(30)
        process.stdout.close()
    assert code == 0
