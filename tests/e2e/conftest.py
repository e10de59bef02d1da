"""Fixtures of the end-to-end tests: a scripted upstream and the running program, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wire import ScriptedUpstream, plain_answer

from .serving import ProxyProcess


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """Answers every request with `ok`, until a test sets another script."""
    with ScriptedUpstream(plain_answer) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """The program in front of `upstream`."""
    folder: Path = tmp_path_factory.mktemp("proxy")
    with ProxyProcess(folder, upstream=upstream.url) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _plain_script(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "upstream" in request.fixturenames:
        request.getfixturevalue("upstream").script = plain_answer
