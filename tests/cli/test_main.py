"""The outermost ring: exit codes, no tracebacks, quiet pipes, a fast start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gemini_caching_proxy.cli import main, reading
from gemini_caching_proxy.cli.commands import CACHE, COMMANDS, command_paths, load_command

from .conftest import Ran, Recorded, run_program

Call = Callable[..., Ran]


def test_help_lists_every_command(call: Call) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        ran = call(*arguments)
        assert ran.code == 0
        for name, place in COMMANDS.items():
            assert name in ran.out
            assert place.summary in ran.out


def test_help_of_a_group_lists_its_commands(call: Call) -> None:
    for arguments in (("cache", "--help"), ("cache", "-h")):
        ran = call(*arguments)
        assert ran.code == 0
        for name, place in CACHE.items():
            assert name in ran.out
            assert place.summary in ran.out


def summary_of(path: str) -> str:
    name, _, inner = path.partition(" ")
    return CACHE[inner].summary if inner else COMMANDS[name].summary


@pytest.mark.parametrize("path", list(command_paths()))
def test_every_command_has_help_and_its_summary(call: Call, path: str) -> None:
    ran = call(*path.split(), "--help")
    assert ran.code == 0
    assert f"gemini-proxy {path}" in ran.out
    assert summary_of(path) in " ".join(ran.out.split())
    assert (load_command(path).help or "").splitlines()[0] == summary_of(path)


@pytest.mark.parametrize("path", [path for path in command_paths() if path not in ("version", "demo", "replay")])
def test_every_command_takes_the_folder_and_the_store(path: str) -> None:
    flags = {flag for option in load_command(path).params for flag in option.opts}
    assert {"--data-dir", "--store"} <= flags


def test_a_typo_in_a_group_is_answered_with_what_was_meant(call: Call) -> None:
    ran = call("cache", "lst")
    assert ran.code == 2
    assert "'list'" in ran.err
    assert "`gemini-proxy cache --help`" in ran.err


def test_a_typo_is_answered_with_what_was_meant(call: Call) -> None:
    ran = call("lst")
    assert ran.code == 2
    assert "'list'" in ran.err


def test_a_bad_setting_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_PROXY_PORT", "many")
    ran = call("list")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "GEMINI_PROXY_PORT" in ran.err


def test_a_bad_store_is_named(call: Call) -> None:
    ran = call("list", "--store", "oracle://x")
    assert ran.code == 2
    assert "--store" in ran.err


def test_a_settings_file_that_cannot_be_read_is_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"GEMINI_PROXY_PORT=\xff\xfe\n")
    ran = call("list")
    assert ran.code == 2
    assert ".env" in ran.err
    assert ran.err.count("\n") == 1


def test_a_damaged_store_is_a_sentence(call: Call, tmp_path: Path) -> None:
    (tmp_path / "exchanges.sqlite3").write_bytes(b"this is no database " * 100)
    for command in (["list"], ["stats"], ["show", "last"], ["prune", "--older-than", "1d", "--yes"]):
        ran = call(*command, "--data-dir", str(tmp_path))
        assert ran.code == 1
        assert str(tmp_path) in ran.err
        assert "Traceback" not in ran.err


def test_an_error_inside_is_a_sentence_and_debug_shows_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("out of \x1b[31mcheese")

    monkeypatch.setattr(reading, "store_exists", break_down)
    ran = call("list")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "gemini-proxy: Something went wrong inside: RuntimeError: out of ␛[31mcheese",
        "GEMINI_PROXY_DEBUG=1 shows where.",
    ]
    monkeypatch.setenv("GEMINI_PROXY_DEBUG", "1")
    with pytest.raises(RuntimeError, match="cheese"):
        main(["list"])


def test_a_reader_that_stops_reading_is_fine(recorded: Recorded) -> None:
    read, write = os.pipe()
    os.close(read)
    for command in (["list"], ["list", "--json"], ["show", str(recorded.plain.id), "--body", "request"]):
        done = subprocess.run(
            [sys.executable, "-m", "gemini_caching_proxy", *command, *recorded.where],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        assert done.stderr == b""
        assert done.returncode == 0
    os.close(write)


def test_it_starts_fast(recorded: Recorded) -> None:
    for command in (["--help"], ["list", *recorded.where]):
        took = []
        for _ in range(3):
            started = time.perf_counter()
            assert run_program(*command).code == 0
            took.append(time.perf_counter() - started)
        # Half a second on a quiet machine; tests share theirs with others.
        assert min(took) < 1.0


def test_a_list_loads_nothing_heavy(recorded: Recorded) -> None:
    code = (
        "import sys; from gemini_caching_proxy.cli import main; main(sys.argv[1:]);"
        "print([name for name in ('genai_prices', 'uvloop', 'httptools') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "list", *recorded.where], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
