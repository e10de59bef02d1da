"""Stores of each kind, for every test of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kinds import COMMON_KINDS, Door, drop_databases


@pytest.fixture(autouse=True)
def _databases_dropped(tmp_path: Path) -> Iterator[None]:
    yield
    drop_databases(tmp_path)


@pytest.fixture(params=COMMON_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[Door]:
    with Door(kind, tmp_path) as door:
        yield door


@pytest.fixture(params=COMMON_KINDS, scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One store for many examples."""
    with Door(str(request.param), tmp_path_factory.mktemp("lasting")) as door:
        yield door
