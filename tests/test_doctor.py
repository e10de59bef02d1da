from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemini_caching_proxy import doctor
from gemini_caching_proxy.doctor import Finding, base_url, examine
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.simulator import SimulatorOptions, SimulatorThread

KEY = "AQ.demo-doctor-key"


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("GEMINI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def settings(tmp_path: Path, port: int, **over: Any) -> Settings:
    return Settings(**{"data_dir": tmp_path / "data", "port": port, **over})


def findings(given: Settings, *, upstream: bool = False) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in asyncio.run(examine(given, upstream=upstream)):
        found.setdefault(finding.check, []).append(finding)
    return found


class Healthy(http.server.BaseHTTPRequestHandler):
    """A listener that answers as the proxy's health check does."""

    answer = json.dumps({"status": "live"}).encode()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def healthy() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_fresh_machine_has_no_problem_and_nothing_is_made(tmp_path: Path, free_port: int) -> None:
    given = settings(tmp_path, free_port)
    found = findings(given)
    assert {one.outcome for many in found.values() for one in many} == {"ok"}
    assert set(found) == {
        "python", "settings", "folder", "disk", "sqlite", "store", "recorder", "port", "key", "clock",
    }  # fmt: skip
    assert not given.data_dir.exists()


def test_changed_settings_are_named_and_the_key_never_shown(tmp_path: Path, free_port: int) -> None:
    found = findings(settings(tmp_path, free_port, gemini_api_key=KEY, workers=2))
    assert "workers" in found["settings"][0].text
    assert "is set" in found["key"][0].text
    assert KEY not in repr(found)


def test_a_placeholder_is_no_key(tmp_path: Path, free_port: int) -> None:
    assert findings(settings(tmp_path, free_port, gemini_api_key="your-api-key"))["key"][0].outcome == "problem"


def test_a_folder_open_to_others_is_noted(tmp_path: Path, free_port: int) -> None:
    given = settings(tmp_path, free_port)
    given.data_dir.mkdir()
    given.data_dir.chmod(0o755)
    (finding,) = findings(given)["folder"]
    assert (finding.outcome, finding.advice) == ("note", f"chmod 700 {given.data_dir}")


def test_a_file_in_the_folder_s_place_is_a_problem(tmp_path: Path, free_port: int) -> None:
    given = settings(tmp_path, free_port)
    given.data_dir.write_text("in the way")
    assert findings(given)["folder"][0].outcome == "problem"


def test_a_damaged_store_is_a_problem(tmp_path: Path, free_port: int) -> None:
    given = settings(tmp_path, free_port)
    given.data_dir.mkdir(mode=0o700)
    given.sqlite_path.write_bytes(b"no database" * 1000)
    assert findings(given)["store"][0].outcome == "problem"


def test_a_port_taken_by_something_else_is_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        given = settings(tmp_path, listener.getsockname()[1])
        (finding,) = findings(given)["port"]
    assert finding.outcome == "problem"
    assert "another program" in finding.text


def test_a_proxy_of_another_folder_is_noted(tmp_path: Path, healthy: int) -> None:
    (finding,) = findings(settings(tmp_path, healthy))["port"]
    assert (finding.outcome, "another data folder" in finding.text) == ("note", True)


def test_the_own_proxy_is_fine_and_its_address_is_used(tmp_path: Path, healthy: int) -> None:
    given = settings(tmp_path, healthy)
    given.data_dir.mkdir(mode=0o700)
    url = f"http://127.0.0.1:{healthy}"
    (given.data_dir / doctor.SERVE_FILE).write_text(json.dumps({"pid": os.getpid(), "url": url}))
    (finding,) = findings(given)["port"]
    assert finding.outcome == "ok"
    assert str(os.getpid()) in finding.text
    assert base_url(settings(tmp_path, 8000)) == url


def test_the_address_of_the_settings_without_a_running_proxy(tmp_path: Path) -> None:
    assert base_url(settings(tmp_path, 8000)) == "http://127.0.0.1:8000"
    assert base_url(settings(tmp_path, 8000, host="::1")) == "http://[::1]:8000"
    assert base_url(settings(tmp_path, 8000, public_url="https://x.example/p/")) == "https://x.example/p"


def test_the_upstream_is_asked_with_the_key(tmp_path: Path, free_port: int) -> None:
    with SimulatorThread(SimulatorOptions(accepted_keys=frozenset({KEY}))) as upstream:
        good = settings(tmp_path, free_port, gemini_api_key=KEY, gemini_base_url=upstream.url)
        found = findings(good, upstream=True)
        assert found["upstream"][0].outcome == "ok"
        assert [one.text for one in found["key"]][-1] == "the upstream takes it"
        bad = settings(tmp_path, free_port, gemini_api_key=KEY + "x", gemini_base_url=upstream.url)
        assert findings(bad, upstream=True)["key"][-1].outcome == "problem"
        assert KEY not in repr(findings(bad, upstream=True))


def test_an_upstream_that_cannot_be_reached_is_a_problem_with_its_step(tmp_path: Path, free_port: int) -> None:
    given = settings(tmp_path, free_port, gemini_base_url="http://no-such-host.invalid")
    (finding,) = findings(given, upstream=True)["upstream"]
    assert (finding.outcome, "step name" in finding.text) == ("problem", True)
