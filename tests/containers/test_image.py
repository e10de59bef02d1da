"""The image without an engine: the Dockerfile's steps are run, then its command line as its user on a read-only tree.

What differs from the real thing is told in docs/docker.md: the base image's Python and system are this machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from e2e.serving import free_port, wait_for
from gemini_caching_proxy.simulator import SimulatorOptions, SimulatorThread
from mongod import fresh_database, shared_server
from wire import ask, get, post

from .compose import read_compose
from .dockerfile import read_stages
from .image import ROOT, Builder, Image, allowed_files, enter, namespaced, why_impossible

# The first test waits for the image: packages may have to be fetched.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

USER = "10001"
GRACE_SECONDS = 40
SAID = b'{"contents": [{"parts": [{"text": "Written by a container"}]}]}'


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """What the Dockerfile makes of the checkout."""
    if reason := why_impossible():
        pytest.skip(f"the image's steps cannot be run: {reason}")
    folder = tmp_path_factory.mktemp("image")
    _skip_without_packages(folder)
    context = folder / "context"
    for path in allowed_files(ROOT):
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, context / path)
    yield Builder(folder, context).build(read_stages(ROOT / "Dockerfile"))
    shutil.rmtree(folder)


def _skip_without_packages(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        "hatchling>=1.27",
    ]
    tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    if tried.returncode:
        pytest.skip(f"the image's steps cannot be run: pip finds no packages ({tried.stderr.strip()[-200:]})")


class Container:
    """The image's command as its user, without rights, as process 1 of its namespaces, on a read-only tree."""

    def __init__(self, image: Image, folder: Path, **variables: str) -> None:
        self._image = image
        self.port = free_port()
        self.data = folder / "data"
        self.tmp = folder / "tmp"
        # A new volume takes over mode and owner of the folder that it covers.
        made = (image.root / "data").stat()
        self.data.mkdir()
        os.chown(self.data, made.st_uid, made.st_gid)
        self.data.chmod(made.st_mode & 0o7777)
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        self.environment = image.environment | {"GEMINI_PROXY_PORT": str(self.port)} | variables
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def script(self, command: list[str]) -> str:
        """The shell script that becomes this command in the container."""
        user, _, group = self._last("USER").partition(":")
        rights = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        return enter(
            self._image.root,
            ["setpriv", "--reuid", user, "--regid", group, *rights, *command],
            environment=self.environment,
            workdir=self._last("WORKDIR"),
            read_only=True,
            writable={"/data": self.data, "/tmp": self.tmp},
        )

    def _last(self, word: str) -> str:
        found = self._image.stage.last(word)
        assert found is not None
        return found.text

    def main_command(self) -> list[str]:
        stage = self._image.stage
        return [word for name in ("ENTRYPOINT", "CMD") if (each := stage.last(name)) for word in each.words]

    def start(self, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                namespaced(self.script(command or self.main_command())),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        return self._process

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Another process of the same container, as `docker exec` starts one."""
        self.environment |= variables
        return subprocess.run(
            namespaced(self.script(list(command))), capture_output=True, text=True, check=False, timeout=60
        )

    def health(self) -> subprocess.CompletedProcess[str]:
        check = self._image.stage.last("HEALTHCHECK")
        assert check is not None
        assert check.text.startswith("CMD [")
        return self.run(*json.loads(check.text.removeprefix("CMD ")))

    def wait_healthy(self) -> None:
        try:
            wait_for(lambda: self.health().returncode == 0, timeout=30, what="health")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.log}") from None

    def first_process(self) -> psutil.Process:
        """The process that an engine would send its signals to."""
        assert self._process is not None
        (child,) = psutil.Process(self._process.pid).children()
        return child

    def stop(self) -> int:
        assert self._process is not None
        self.first_process().send_signal(signal.SIGTERM)
        return self._process.wait(GRACE_SECONDS)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Any]:
    with SimulatorThread(SimulatorOptions()) as running:
        yield running


@pytest.fixture
def container(image: Image, simulator: Any, tmp_path: Path) -> Iterator[Container]:
    made = Container(image, tmp_path, GEMINI_PROXY_ALLOW_REMOTE="true", GEMINI_PROXY_GEMINI_BASE_URL=simulator.url)
    yield made
    made.close()


def everything(root: Path) -> dict[str, tuple[int, int, int]]:
    """Size, mode and time of change of each file in a tree, links not followed."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder) / name
            about = path.lstat()
            found[str(path.relative_to(root))] = (about.st_size, about.st_mode, about.st_mtime_ns)
    return found


def test_it_serves_records_tells_its_health_and_ends_in_time(image: Image, container: Container) -> None:
    before = everything(image.root)
    assert container.health().returncode == 1
    container.start()
    container.wait_healthy()
    # As a client of the machine asks: the published port reaches the container with the Host of the client's URL.
    assert ask(container.port, post(body=SAID)).status == 200
    rebound = get().replace(b"Host: 127.0.0.1", b"Host: evil.example")
    assert b"evil.example" in rebound
    assert ask(container.port, rebound).status == 403

    first = container.first_process()
    assert first.uids().real == first.uids().effective == int(USER)
    status = Path(f"/proc/{first.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status

    def listed() -> list[dict[str, Any]]:
        done = container.run("gemini-proxy", "list", "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    (exchange,) = wait_for(listed, what="the exchange to be stored")
    assert exchange["status"] == 200
    assert container.stop() == 0, container.log
    assert everything(image.root) == before
    assert {each.lstat().st_uid for each in container.data.rglob("*")} == {int(USER)}
    assert "Read-only file system" not in container.log
    assert "Traceback" not in container.log


def test_it_refuses_to_be_reached_from_outside_unless_told(image: Image, tmp_path: Path) -> None:
    container = Container(image, tmp_path)
    assert container.start().wait(30) == 2
    assert "0.0.0.0" in container.log
    assert "allow_remote" in container.log


def test_it_holds_the_program_compiled_and_nothing_that_the_program_does_not_need(image: Image) -> None:
    installed = image.root / "opt" / "gemini-proxy"
    (packages,) = installed.glob("lib/python3.*/site-packages")
    modules = list((packages / "gemini_caching_proxy").rglob("*.py"))
    copied = image.root.parent / "context" / "src" / "gemini_caching_proxy"
    assert len(modules) == len(list(copied.rglob("*.py"))) > 50
    for module in modules:
        (compiled,) = (module.parent / "__pycache__").glob(f"{module.stem}.*.pyc")
        # Flags of PEP 552: a hash that is not checked.
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", module
    assert not list(packages.glob("pip*"))
    assert not (image.root / "build").exists()


def test_it_runs_with_mongodb_as_compose_sets_it(image: Image, simulator: Any, tmp_path: Path) -> None:
    service = read_compose("docker-compose.yml")["services"]["proxy"]
    settings = {name: value for name, value in service["environment"].items() if name != "GEMINI_PROXY_PORT"}
    with fresh_database(shared_server()) as database:
        assert settings["GEMINI_PROXY_STORE"] == "mongodb://mongo:27017/gemini_proxy"
        settings |= {"GEMINI_PROXY_STORE": database.uri, "GEMINI_PROXY_GEMINI_BASE_URL": simulator.url}
        container = Container(image, tmp_path, **settings)
        try:
            container.start()
            container.wait_healthy()
            assert ask(container.port, post(body=SAID)).status == 200
            assert container.stop() == 0, container.log
            with database.opened() as collections:
                assert collections.gemini_interactions.count_documents({}) == 1
        finally:
            container.close()
