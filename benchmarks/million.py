"""Questions to a store of a million exchanges: asked in one process, and by the command line, its start included.

Filling and asking is `tests/stores/million.py`; it takes minutes at the full size. `--million-dir` keeps the store.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from . import mongodb, program
from .subjects import ROOT, AbsentError, Laboratory, clean_environment, tail

SCRIPT = ROOT / "tests" / "stores" / "million.py"
STORE_FILE = "million.sqlite3"
FULL_ROWS = 1_000_000
FILL_SECONDS = 3600
TIMED = re.compile(r"^(?P<name>.+?)\s+first\s+(?P<first>[\d.]+) ms\s+then\s+(?P<then>[\d.]+) ms")
LOOKED_UP = re.compile(
    r"^cache lookup (?P<name>\w+)\s+p50\s+(?P<p50>[\d.]+) ms\s+p99\s+(?P<p99>[\d.]+) ms", re.MULTILINE
)
FILLED = re.compile(r"^filled [\d,]+ in \d+ s of add: (?P<rate>[\d,]+) exchanges/s")
COMMANDS = {
    "list": ["list"],
    "list_model": ["list", "--model", "gemini-2.5-pro"],
    "stats_model": ["stats", "--model", "gemini-2.5-pro", "--by", "day"],
    "search": ["search", "zyzzyva"],
}
REPEATS = 3


def run(lab: Laboratory, *, rows: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill (unless `folder` holds a store already) and ask; the result is ready for JSON. Raises: AbsentError."""
    folder.mkdir(parents=True, exist_ok=True)
    say(f"million: {rows:,} exchanges in {folder}; filling takes a while")
    printed = run_script(lab, ["--rows", str(rows), "--dir", str(folder)])
    questions, filled = read(printed)
    worst = {kind: worst_of(questions, kind) for kind in ("list", "stats", "search")}
    return {
        "rows": rows,
        "filled_per_s": filled,
        "store_bytes": program.store_bytes(folder),
        **{f"worst_{kind}_ms": value for kind, value in worst.items()},
        **lookups(printed),
        **{f"command_{name}_ms": value for name, value in by_command(lab, folder).items()},
        "questions": questions,
    }


def run_mongodb(lab: Laboratory, *, rows: int, store: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """As `run`, of a MongoDB database: the one that `store` names, or one of its own. Raises: AbsentError."""
    with contextlib.ExitStack() as stack:
        uri = store or stack.enter_context(mongodb.server(lab)).uri
        say(f"million: {rows:,} exchanges in MongoDB; filling takes long")
        printed = run_script(lab, ["--rows", str(rows), "--store", uri])
    questions, rate = read(printed)
    worst = {f"worst_{kind}_ms": worst_of(questions, kind) for kind in ("list", "stats", "search")}
    return {"rows": rows, "filled_per_s": rate, **worst, **lookups(printed), "questions": questions}


def filled(lab: Laboratory, *, rows: int, folder: Path, say: Callable[[str], None]) -> Path:
    """The store in `folder`, filled now unless it was before. Raises: AbsentError."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / STORE_FILE
    if not store.exists():
        say(f"million: {rows:,} exchanges in {folder}; filling takes a while")
        run_script(lab, ["--rows", str(rows), "--dir", str(folder), "--skip-questions"])
    return store


def run_script(lab: Laboratory, arguments: list[str]) -> str:
    """What the script prints. Raises: AbsentError."""
    if not SCRIPT.exists():
        raise AbsentError(f"there is no {SCRIPT.relative_to(ROOT)}")
    log = lab.new_folder("million-log") / "log"
    command = [sys.executable, str(SCRIPT), *arguments]
    process = lab.fleet.start(command, cores=lab.cores.subject, log=log, cwd=ROOT, env=clean_environment())
    try:
        if process.wait(FILL_SECONDS) != 0:
            raise AbsentError(f"filling failed: {tail(log)}")
    except subprocess.TimeoutExpired:
        raise AbsentError("filling did not end within an hour") from None
    finally:
        lab.fleet.stop(process, gently=False)
    return log.read_text()


def read(output: str) -> tuple[dict[str, dict[str, float]], float | None]:
    """The times the script prints, per question the first and the median of the others; and the filling rate."""
    questions: dict[str, dict[str, float]] = {}
    filled = None
    for line in output.splitlines():
        if found := TIMED.match(line):
            questions[found["name"]] = {"first_ms": float(found["first"]), "then_ms": float(found["then"])}
        elif found := FILLED.match(line):
            filled = float(found["rate"].replace(",", ""))
    return questions, filled


def lookups(output: str) -> dict[str, float]:
    """Times of single lookups by cache key in a store that only reads: of keys that are there, and of others."""
    times: dict[str, float] = {}
    for found in LOOKED_UP.finditer(output):
        name = "cache_lookup" if found["name"] == "present" else f"cache_lookup_{found['name']}"
        times |= {f"{name}_p50_ms": float(found["p50"]), f"{name}_p99_ms": float(found["p99"])}
    return times


def worst_of(questions: dict[str, dict[str, float]], kind: str) -> float | None:
    """The slowest answer of a kind, the first asking included."""
    return max((max(each.values()) for name, each in questions.items() if name.split(" ")[0] == kind), default=None)


def by_command(lab: Laboratory, folder: Path) -> dict[str, float | None]:
    """Milliseconds of whole commands, the median of a few; None where one fails."""
    store = f"sqlite://{(folder / STORE_FILE).absolute()}"
    times = {"start": timed(lab, ["version"], None)}
    return times | {name: timed(lab, [*words, "--store", store], folder) for name, words in COMMANDS.items()}


def timed(lab: Laboratory, arguments: list[str], folder: Path | None) -> float | None:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        try:
            program.ask(lab.program, *arguments, data_dir=folder)
        except AbsentError:
            return None
        times.append((time.perf_counter() - started) * 1000)
    return median(times)
