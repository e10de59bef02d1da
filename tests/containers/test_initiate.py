"""The program that makes the replica set, on real servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mongod import Mongod

from .compose import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def servers() -> Iterator[list[Mongod]]:
    """Three that want to be members of a set named `gemini` and are of none yet."""
    with ExitStack() as stack:
        yield [stack.enter_context(Mongod(replica_set="gemini")) for _ in range(3)]


def initiate(name: str, *members: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docker" / "initiate.py"), name, *members]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


def test_it_makes_the_set_once_and_leaves_it_as_it_is(servers: list[Mongod]) -> None:
    addresses = [each.address for each in servers]
    made = initiate("gemini", *addresses)
    assert made.returncode == 0, made.stderr
    assert "is its primary" in made.stdout
    config = servers[0].command("replSetGetConfig")["config"]
    assert [each["host"] for each in config["members"]] == addresses

    again = initiate("gemini", *addresses)
    assert again.returncode == 0, again.stderr
    assert servers[0].command("replSetGetConfig")["config"]["version"] == config["version"]

    servers[2].kill()
    without = initiate("gemini", *addresses)
    assert without.returncode == 0, without.stderr

    other = initiate("another", *addresses)
    assert other.returncode == 1
    assert other.stderr == "A server belongs to another replica set already: gemini.\n"


def test_it_tells_how_it_is_called() -> None:
    done = initiate("gemini")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: initiate.py")
