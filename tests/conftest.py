"""Fixtures for every folder of tests; and `factories`, `fakes` and the others beside this file can be imported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mongod import Database, close_shared, fresh_database, shared_replica_set, shared_server


@pytest.fixture(scope="session", autouse=True)
def _shared_servers() -> Iterator[None]:
    yield
    close_shared()


@pytest.fixture
def mongod() -> Iterator[Database]:
    """A fresh database on the MongoDB server that all tests share."""
    with fresh_database(shared_server()) as database:
        yield database


@pytest.fixture
def replica_set() -> Iterator[Database]:
    """A fresh database on the MongoDB replica set that all tests share."""
    with fresh_database(shared_replica_set()) as database:
        yield database
