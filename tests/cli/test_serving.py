"""`serve` as a program: what it says when it cannot start, and that it starts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from .conftest import run_program


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port", "many"], "--port"),
        (["--port", "99999"], "--port"),
        (["--host", "0.0.0.0"], "allow_remote"),
        (["--store", "mongo://x"], "--store"),
        (["--tls-cert", "/nowhere.pem"], "tls_key"),
        (["--gemini-base-url", "ftp://x"], "--gemini-base-url"),
        (["--cache", "some"], "--cache"),
        (["--no-such-thing"], "--no-such-thing"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_exit_2(arguments: list[str], named: str) -> None:
    ran = run_program("serve", *arguments)
    assert ran.code == 2
    assert named in ran.err
    assert "Traceback" not in ran.err
    assert ran.err.startswith("gemini-proxy: ")


def test_a_taken_port_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ran = run_program("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert ran.code == 2
    assert f"127.0.0.1:{port} is taken" in ran.err


@pytest.mark.slow
def test_it_serves_refuses_a_second_and_stops(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    words = [sys.executable, "-m", "gemini_caching_proxy", "serve", "--port", "0", "--data-dir", str(folder)]
    words += ["--gemini-base-url", "http://127.0.0.1:1"]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, env={**os.environ, "GEMINI_PROXY_LOG_LEVEL": "warning"}
    ) as process:
        try:
            url = _url(folder, process)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{url}/healthz", timeout=10) as response:
                assert json.load(response) == {"status": "live"}
            with pytest.raises(urllib.error.HTTPError) as unreachable:
                opener.open(f"{url}/v1beta/models", timeout=10)
            assert unreachable.value.code == 502
            unreachable.value.close()
            look_on(folder)
            started = time.monotonic()
            second = run_program("serve", "--port", "0", "--data-dir", str(folder))
            assert time.monotonic() - started < 10
            assert second.code == 3
            assert str(process.pid) in second.err
            assert second.err.count("\n") == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def look_on(folder: Path) -> None:
    """The other commands beside a running proxy, those that write too."""
    where = ("--data-dir", str(folder))
    assert run_program("status", "--wait-drained", "--timeout", "30", *where).code == 0
    (listed,) = run_program("list", "--json", *where).records
    assert (listed["status"], listed["failure"], listed["operation"]) == (502, "connect_failed", "list_models")
    assert run_program("stats", "--json", *where).records[0]["errors"] == 1
    (status,) = run_program("status", "--json", *where).records
    assert (status["recorder_alive"], status["exchanges"]) == (True, 1)
    assert run_program("prune", "--older-than", "0s", "--yes", "--json", *where).records[0]["exchanges"] == 1
    assert run_program("list", "--json", *where).records == []


def _url(folder: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return str(json.loads((folder / "serve.json").read_text())["url"])
        except (OSError, ValueError):
            time.sleep(0.02)
    raise AssertionError("the proxy did not start")
