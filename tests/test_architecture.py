"""The house stands: imports only go down, in no circle, and importing does nothing.

The floors are those of docs/architecture.md; a module that stands on none fails.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "gemini_caching_proxy"
SOURCE = ROOT / "src" / PACKAGE

FLOORS: tuple[tuple[str, frozenset[str]], ...] = (
    ("the words", frozenset({"exchange", "errors", "locations", "settings", "log"})),
    (
        "what knows one thing",
        frozenset(
            {
                *("bodies", "content_coding", "eventstream", "pricing", "providers", "credentials", "redaction"),
                *("journal", "stores", "conversation", "recording_status", "relay", "simulator"),
                *("cache", "cassette"),
            }
        ),
    ),
    (
        "one exchange",
        frozenset(
            {
                *(
                    "capture",
                    "recording",
                    "call",
                    "annotation",
                    "question",
                    "lookup",
                    "coalescing",
                    "caching",
                    "playback",
                ),
                *("inquiry", "assembly", "carryover", "decoding", "feed", "persistence", "heartbeat", "storage"),
                *("instance", "cache_watch"),
            }
        ),
    ),
    ("the two paths", frozenset({"proxy", "reception", "recorder", "intake", "transfer"})),
    ("processes", frozenset({"app", "supervisor"})),
    ("looking on", frozenset({"clients", "probe", "doctor", "demo", "demo_calls", "explanation", "pytest_plugin"})),
    ("the command line", frozenset({"cli", "__main__"})),
)
"""From the ground up. A module may import from its own floor (in no circle) and from those below."""

STRANGERS: dict[str, frozenset[str]] = {
    "relay": frozenset({"exchange", "errors"}),
    "simulator": frozenset(),
    "journal": frozenset({"errors", "log"}),
    "providers": frozenset({"exchange", "bodies", "eventstream"}),
    "cache": frozenset({"exchange", "errors", "settings", "providers", "stores", "content_coding"}),
    "stores": frozenset({"exchange", "errors", "locations"}),
    "redaction": frozenset({"errors", "content_coding"}),
    "exchange": frozenset(),
}
"""Packages that know of nothing else in the house: the relay not of recording, the simulator not of the relay, …"""

PATH_OF_A_REQUEST = (
    *("relay", "proxy", "call", "capture", "recording", "reception", "credentials", "inquiry", "annotation"),
    *("question", "caching", "coalescing", "lookup", "playback", "cache"),
)
NOT_ON_THE_PATH = frozenset(
    {"orjson", "apsw", "sqlite3", "pymongo", "bson", "pydantic", "typer", "rich", "genai_prices", "fastapi"}
)
"""What the modules on the path of a request do not import: parsers of bodies, databases, frameworks."""

FUNCTION_IMPORTS = frozenset({("pricing", "genai_prices"), ("storage", "gemini_caching_proxy.stores.mongodb")})
"""(module, imported) allowed inside a function: they take long to load, and few processes need them."""

WITHOUT_TEST: dict[str, str] = {
    "__main__": "two lines; every test that runs the program goes through it",
    "app": "the wiring: tests/e2e runs it",
    "cli/access": "opening the store: every test of tests/cli",
    "cli/commands": "the table of commands: tests/cli/test_main.py",
    "cli/manual": "makes documents: tests/test_docs.py",
    "cli/options": "shared options: tests/cli/test_reading.py",
    "cli/table": "the table of `stats`: tests/cli/test_reading.py",
    "demo_calls": "the demo's traffic: tests/test_demo.py",
    "exchange": "values without behaviour",
    "errors": "names: tests/test_docs.py compares them with the documents",
    "carryover": "a step of the recorder: tests/test_recorder.py",
    "feed": "a step of the recorder: tests/test_recorder.py",
    "heartbeat": "a step of the recorder: tests/test_recorder.py",
    "cache_watch": "a step of the recorder: tests/e2e/test_mongodb.py",
    "persistence": "a step of the recorder: tests/test_recorder.py",
    "intake": "a cassette into the store: tests/cli/test_cassettes.py",
    "cli/eviction": "tests/cli/test_caching.py",
    "cli/places": "stores by name: tests/cli/test_copying.py",
    "cli/explaining": "tests/cli/test_caching.py",
    "cli/request_file": "tests/cli/test_caching.py",
    "recording_status": "written and read in tests/test_recorder.py and tests/cli/test_upkeep.py",
    "decoding": "tests/providers and tests/test_recorder.py",
    "proxy": "the path of a request: tests/e2e, against the fault catalogue",
    "inquiry": "the path of a request: tests/e2e/test_cache.py and its neighbours",
    "annotation": "the words of Cache-Status: tests/e2e/test_cache.py",
    "question": "the path of a request: tests/e2e/test_cache.py and its neighbours",
    "caching": "the path of a request: tests/e2e/test_cache.py and its neighbours",
    "coalescing": "the path of a request: tests/e2e/test_coalescing.py",
    "lookup": "the path of a request: tests/e2e/test_cache.py and its neighbours",
    "playback": "the path of a request: tests/e2e/test_cache.py",
    "reception": "the path of a request: tests/e2e, against the fault catalogue",
    "call": "the path of a request: tests/e2e, against the fault catalogue",
    "capture": "the path of a request: tests/e2e compares records with what passed",
    "supervisor": "tests/e2e and tests/cli/test_serving.py run it",
}
"""Modules without a test file of their own, and why."""

LONGEST = {"proxy.py": 200}
"""Lines that a file may have."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imported(name: str, node: ast.AST) -> Iterator[str]:
    """Modules that an import statement in module `name` names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
        base = package[: len(package) - node.level + 1] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            deeper = f"{source}.{alias.name}"
            yield deeper if deeper in MODULES else source


def all_imports(name: str) -> set[str]:
    return {one for node in ast.walk(TREES[name]) for one in imported(name, node)}


def unit(name: str) -> str:
    """The part of the house that a module belongs to: a file or a package right under the roof."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


UNITS = sorted({unit(name) for name in MODULES} - {""})
FLOOR_OF = {name: number for number, (_, names) in enumerate(FLOORS) for name in names}


def units_imported_by(name: str) -> set[str]:
    return {unit(one) for one in all_imports(name) if one in MODULES and unit(one)} - {unit(name)}


def test_every_unit_stands_on_one_floor() -> None:
    assert sorted(name for _, names in FLOORS for name in names) == UNITS


@pytest.mark.parametrize("name", [name for name in MODULES if unit(name)])
def test_imports_go_down(name: str) -> None:
    for other in units_imported_by(name):
        assert FLOOR_OF[other] <= FLOOR_OF[unit(name)], f"{name} reaches up to {other}"


def test_there_is_no_circle() -> None:
    graph = {name: {one for one in all_imports(name) if one in MODULES and one != name} for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", STRANGERS)
def test_some_know_nothing_of_the_rest(name: str) -> None:
    known = {other for module in MODULES if unit(module) == name for other in units_imported_by(module)}
    assert known <= STRANGERS[name]


@pytest.mark.parametrize("name", [name for name in MODULES if unit(name) in PATH_OF_A_REQUEST])
def test_the_path_of_a_request_meets_no_parser_framework_or_database(name: str) -> None:
    assert not {one.split(".")[0] for one in all_imports(name)} & NOT_ON_THE_PATH


@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
def test_only_one_place_knows_the_kinds_of_stores(kind: str) -> None:
    users = {
        unit(name)
        for name in MODULES
        for one in all_imports(name)
        if one.startswith(f"{PACKAGE}.stores.{kind}") and unit(name) != "stores"
    }
    assert users <= {"storage", "doctor", "cli"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_stand_at_the_top(name: str) -> None:
    for function in ast.walk(TREES[name]):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            for one in imported(name, node):
                assert (name.removeprefix(f"{PACKAGE}."), one) in FUNCTION_IMPORTS


WATCH = """
import importlib, json, os, sys, threading
import asyncio, subprocess, socket, ssl, sqlite3  # their own imports are not what is watched

deeds = []

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            deeds.append(f"opens {path} for writing")
    elif event.split(".")[0] in ("socket", "subprocess", "sqlite3", "shutil", "tempfile") or event in (
        "os.mkdir", "os.remove", "os.rename", "os.fork", "os.kill", "os.chmod", "os.putenv", "os.system"
    ):
        deeds.append(f"{event} {arguments!r}"[:200])

sys.addaudithook(watch)
told = {}
for name in sys.argv[1:]:
    importlib.import_module(name)
    if threading.active_count() != 1:
        deeds.append("starts a thread")
    if deeds:
        told[name] = deeds[:]
        deeds.clear()
print(json.dumps(told))
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    names = [name for name in MODULES if not name.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *names],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}
    assert done.stderr == ""


@pytest.mark.parametrize("name", LONGEST)
def test_some_files_stay_short(name: str) -> None:
    assert len((SOURCE / name).read_text().splitlines()) <= LONGEST[name]


def units_to_test() -> Iterator[str]:
    """Modules right under the roof, packages as a whole, and each module of the command line."""
    for path in sorted(SOURCE.iterdir()):
        if path.suffix == ".py" and path.name != "__init__.py":
            yield path.stem
        elif path.is_dir() and (path / "__init__.py").exists():
            yield path.name
    for path in sorted((SOURCE / "cli").glob("*.py")):
        if path.name != "__init__.py":
            yield f"cli/{path.stem}"


@pytest.mark.parametrize("name", list(units_to_test()))
def test_everything_has_its_tests(name: str) -> None:
    folder, _, stem = name.rpartition("/")
    tests = ROOT / "tests" / folder
    found = (tests / f"test_{stem}.py").exists() or any((tests / stem).glob("**/test_*.py"))
    assert found or name in WITHOUT_TEST, f"{name} has no tests"


def test_no_module_is_named_for_nothing() -> None:
    for name in MODULES:
        assert not set(name.split(".")) & {"utils", "util", "helpers", "common", "manager", "misc"}
