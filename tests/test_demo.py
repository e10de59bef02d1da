"""The demo as people run it: everything real but the upstream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gemini_caching_proxy.demo import next_steps
from gemini_caching_proxy.demo_calls import PROGRAMME

pytestmark = pytest.mark.slow


def environment(tmp_path: Path) -> dict[str, str]:
    """Settings of the user that must not reach the demo."""
    return {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "GEMINI_PROXY_PORT": "1",
        "GEMINI_PROXY_DATA_DIR": str(tmp_path / "theirs"),
        "GEMINI_API_KEY": "their-own-demo-key",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gemini_caching_proxy", *arguments]


def records(tmp_path: Path, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    words = program(*arguments, "--json", "--data-dir", str(folder))
    plain = {name: value for name, value in environment(tmp_path).items() if not name.startswith("GEMINI_PROXY_")}
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, env=plain, cwd=tmp_path).stdout
    return [json.loads(line) for line in out.splitlines()]


def test_once_records_a_bit_of_everything(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    done = subprocess.run(
        program("demo", "--once", "--data-dir", str(folder)),
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    for step, _ in PROGRAMME:
        assert step in done.stdout
    assert "are recorded" in done.stdout
    assert str(folder) in done.stdout
    listed = records(tmp_path, folder, "list", "-n", "200")
    assert f"{len(listed)} calls went through" in done.stdout
    assert {one["stream_shape"] for one in listed} >= {"unary", "sse", "json_array"}
    assert {one["status"] for one in listed} >= {200, 400, 404, 429, 503}
    assert {one["failure"] for one in listed} >= {None, "client_gone", "incomplete_response"}
    operations = {one["operation"] for one in listed}
    assert operations >= {
        "generate_content",
        "stream_generate_content",
        "count_tokens",
        "batch_embed_contents",
        "upload_file",
    }
    threads = Counter(one["conversation"] for one in listed if one["conversation"])
    assert threads.most_common(1)[0][1] == 5
    children = Counter(one["parent"] for one in listed if one["parent"])
    assert max(children.values()) == 2, "the conversation forks"
    assert not (tmp_path / "theirs").exists()
    assert b"their-own-demo-key" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_it_serves_on_until_it_is_told_to_end(tmp_path: Path) -> None:
    with subprocess.Popen(program("demo"), stdout=subprocess.PIPE, text=True, env=environment(tmp_path)) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            url = first.split("the proxy in front of it on ")[1].strip().rstrip(".")
            for line in process.stdout:
                if "Ctrl-C ends the demo" in line:
                    break
            request = urllib.request.Request(
                f"{url}/v1beta/models?pageSize=1", headers={"x-goog-api-key": "any-demo-key"}
            )
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(request, timeout=10) as response:
                assert response.status == 200
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            assert process.wait(60) == 0
        finally:
            process.kill()
    folder = Path(rest.strip().rsplit("stays in ", 1)[1].rstrip("."))
    assert folder.parent == tmp_path
    assert not (folder / "serve.json").exists()
    assert records(tmp_path, folder, "list", "-n", "1")[0]["operation"] == "list_models"


def test_a_folder_in_use_is_exit_3(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    with subprocess.Popen(
        program("demo", "--data-dir", str(folder)), stdout=subprocess.PIPE, text=True, env=environment(tmp_path)
    ) as first:
        assert first.stdout is not None
        try:
            assert "simulated" in first.stdout.readline()
            words = program("demo", "--once", "--data-dir", str(folder))
            second = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment(tmp_path))
            assert second.returncode == 3
            assert "in use" in second.stderr
            assert second.stderr.count("\n") == 1
        finally:
            first.send_signal(signal.SIGINT)
            first.stdout.read()
            first.wait(60)


def test_the_next_steps_can_be_pasted() -> None:
    text = next_steps(Path("/tmp/a b"), "http://127.0.0.1:1", once=True)
    assert "--data-dir '/tmp/a b'" in text
    assert "another terminal" not in text
