"""Recorded traffic, beside the checkout and never in it; tests that need it skip where it is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gemini_caching_proxy.exchange import Headers

FOLDER = Path(os.environ.get("GEMINI_PROXY_TRAFFIC", Path(__file__).parents[2] / "../shared/traffic"))
needs_traffic = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"recorded traffic is not at {FOLDER}")


@dataclass(frozen=True, slots=True)
class Recorded:
    source: str
    method: bytes
    target: bytes
    request: bytes
    status: int
    headers: Headers
    response: bytes


@cache
def recorded(name: str) -> tuple[Recorded, ...]:
    """The exchanges of one of the files."""
    return tuple(_read(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())


def _read(line: str) -> Recorded:
    exchange = json.loads(line)
    url = urlsplit(exchange["url"])
    return Recorded(
        source=exchange["source"],
        method=exchange["method"].encode(),
        target=(url.path + ("?" + url.query if url.query else "")).encode(),
        request=exchange["request_body"].encode(),
        status=exchange["status"],
        headers=tuple((name.encode(), value.encode()) for name, value in exchange["response_headers"]),
        response=exchange["response_body"].encode(),
    )


def request_lines() -> Iterator[tuple[str, bytes, bytes]]:
    """Client, method and target of every request that a client library was seen to send."""
    for file in sorted(FOLDER.glob("clients/*/*")):
        method, target = file.read_bytes().split(b"\n", 1)[0].split()[:2]
        yield file.parent.name, method, target
