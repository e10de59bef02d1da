"""A store as the first format had it, kept as a file, and what is in it.

`python tests/stores/first_format.py` made the file with the code of that format; run with later code it would make a
store of the later format, so it never needs to be run again.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))

from factories import DAY_NS, MINUTE_NS, NOW_NS, agent_session, exchange, response, sse
from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind
from gemini_caching_proxy.stores.base import Gap, JournalPosition
from gemini_caching_proxy.stores.sqlite import SQLiteStore

FILE = Path(__file__).parent / "first_format.zst"
POSITION = JournalPosition("worker-1", 2, 345)
GAP = Gap(3, NOW_NS, NOW_NS + MINUTE_NS, "the disk was full")


def _id(number: int) -> UUID:
    return UUID(int=0x0192_0000_0000_7000_8000 << 48 | number)


def kept() -> list[Exchange]:
    """The exchanges in the file: a session of four turns over two days, a failure, an error, a long answer."""
    session = [
        replace(each, id=_id(n + 1), conversation=_id(1), parent=_id(n) if n else None)
        for n, each in enumerate(agent_session(4, started_ns=NOW_NS - DAY_NS))
    ]
    others = [
        exchange(id=_id(11), outcome=Failure(FailureKind.READ_TIMEOUT, "no answer in time", 504), credential=None),
        exchange(id=_id(12), outcome=response([b'{"error": {"code": 429}}' * 100], status=429), model="gemini-2.5-pro"),
        exchange(id=_id(13), outcome=response(sse("long " * 1000)), response_text="long " * 1000, response_id="r13"),
    ]
    return [*session, *others]


async def _make() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite3"
        store = SQLiteStore(path)
        await store.open()
        await store.add(kept(), [POSITION])
        await store.add_gap(GAP)
        await store.aclose()
        FILE.write_bytes(zstandard.ZstdCompressor(level=19).compress(path.read_bytes()))


if __name__ == "__main__":
    asyncio.run(_make())
