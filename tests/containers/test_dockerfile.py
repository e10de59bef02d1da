"""The Dockerfile and what reaches it: by a linter, and by what the documents promise."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemini_caching_proxy import __version__

from .dockerfile import read_stages
from .image import ROOT, allowed_files

FINAL = read_stages(ROOT / "Dockerfile")[-1]


def text_of(word: str) -> str:
    found = FINAL.last(word)
    assert found is not None, word
    return found.text


def test_the_linter_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed: its wheel is for x86-64 and ARM")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_base_is_the_same_tag_and_not_the_latest() -> None:
    stages = read_stages(ROOT / "Dockerfile")
    bases = {each.base for each in stages} - {each.name for each in stages}
    (base,) = bases
    name, _, tag = base.partition(":")
    assert name == "python"
    assert tag.startswith("3.")
    assert "slim" in tag
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert f"Programming Language :: Python :: {tag.partition('-')[0]}" in supported
    assert FINAL.name == ""


def test_it_runs_as_a_fixed_user_that_is_not_root() -> None:
    assert text_of("USER") == "10001:10001"
    words = [each.word for each in FINAL.instructions]
    # What makes files runs as root before it, so that the program cannot change itself.
    assert max(index for index, word in enumerate(words) if word in ("RUN", "COPY")) < words.index("USER")


def test_it_runs_the_program_itself_so_that_signals_reach_it() -> None:
    assert text_of("ENTRYPOINT") == '["gemini-proxy"]'
    assert text_of("CMD") == '["serve"]'
    assert text_of("STOPSIGNAL") == "SIGTERM"
    assert text_of("HEALTHCHECK").startswith('CMD ["python"')


def test_the_data_lies_in_a_volume() -> None:
    environment = FINAL.environment({"PATH": "/bin"})
    assert environment["GEMINI_PROXY_DATA_DIR"] == "/data"
    assert text_of("VOLUME") == '["/data"]'
    assert environment["PATH"] == "/opt/gemini-proxy/bin:/bin"
    assert text_of("EXPOSE") == environment["GEMINI_PROXY_PORT"] == "8000"


def test_it_does_not_say_for_people_that_others_may_reach_it() -> None:
    assert "GEMINI_PROXY_ALLOW_REMOTE" not in FINAL.environment({})


def test_its_labels_tell_the_version() -> None:
    labels = dict(
        word.split("=", 1) for word in next(each for each in FINAL.instructions if each.word == "LABEL").words
    )
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.base.name"] == f"docker.io/library/{FINAL.base}"


def test_no_step_is_given_a_secret() -> None:
    for stage in read_stages(ROOT / "Dockerfile"):
        assert not [name for name in stage.environment({}) if "KEY" in name or "PASSWORD" in name or "SECRET" in name]


def test_dependencies_are_installed_before_the_program_is_copied() -> None:
    dependencies, program, _ = read_stages(ROOT / "Dockerfile")
    assert [each.text for each in dependencies.instructions if each.word == "COPY"] == ["pyproject.toml ./"]
    assert program.base == dependencies.name
    froms = [each.flag("from") for each in FINAL.instructions if each.word == "COPY"]
    assert froms == [None, "dependencies", "program"]


def test_only_what_the_image_needs_reaches_the_builder(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    wanted = [
        "LICENSE",
        "README.md",
        "docker/health.py",
        "docker/initiate.py",
        "pyproject.toml",
        "src/package/module.py",
    ]
    unwanted = [
        *(".env", ".git/config", "data/exchanges.sqlite3", "docker/nginx.conf", "src/package/__pycache__/module.pyc"),
        *("src/.env", "src/.env.local", "src/a.egg-info/PKG-INFO", "tests/test_it.py", "src/package/left.pyc", "notes"),
    ]
    for name in (*wanted, *unwanted):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [str(path) for path in allowed_files(tmp_path)] == wanted


def test_everything_that_is_copied_reaches_the_builder() -> None:
    there = {str(path) for path in allowed_files(ROOT)}
    for stage in read_stages(ROOT / "Dockerfile"):
        for each in stage.instructions:
            if each.word == "COPY" and each.flag("from") is None:
                for source in each.words[:-1]:
                    assert source in there or any(path.startswith(f"{source}/") for path in there), source


class Readiness(http.server.BaseHTTPRequestHandler):
    """Answers as `serve` does, with the status that its server was given."""

    def do_GET(self) -> None:
        known = self.path == "/readyz" and self.headers["Host"].startswith("127.0.0.1:")
        self.send_response(self.server.status if known else 404)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b'{"status": "told"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def readiness() -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Readiness) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def check_health(port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(ROOT / "docker" / "health.py")]
    environment = {**os.environ, "GEMINI_PROXY_PORT": str(port)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_health_check_tells_whether_it_is_ready(readiness: http.server.HTTPServer, status: int, code: int) -> None:
    readiness.status = status  # type: ignore[attr-defined]
    done = check_health(readiness.server_port)
    assert (done.returncode, done.stdout) == (code, '{"status": "told"}\n')


def test_the_health_check_tells_that_nobody_answers(readiness: http.server.HTTPServer) -> None:
    readiness.shutdown()
    readiness.server_close()
    done = check_health(readiness.server_port)
    assert done.returncode == 1
    assert done.stdout.startswith("no answer on port")
    assert done.stderr == ""
