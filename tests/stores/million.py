"""Fill a store with synthetic exchanges and time what it is asked: `python tests/stores/million.py --rows 1000000 --dir
D`.

Run it again on the same folder to time the questions alone. It is no test: it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parents[1]))

from factories import (
    DAY_NS,
    HOUR_NS,
    NOW_NS,
    Prose,
    chain_of,
    content,
    exchange,
    exchange_id,
    request_pieces,
    response,
    sse,
)
from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind, Price, Timing, Usage
from gemini_caching_proxy.stores.base import JournalPosition, Page, Query
from gemini_caching_proxy.stores.sqlite import SQLiteStore

SPAN_NS = 30 * DAY_NS
MODELS = ["gemini-2.5-flash"] * 6 + ["gemini-2.5-pro"] * 3 + ["gemini-3-pro-preview", "gemini-2.5-flash-lite"]
CLIENTS = ["google-genai-sdk/1.55.0 gl-python/3.11.9"] * 3 + [
    "GeminiCLI/0.9.0 (linux; x64)",
    "continue/1.2.3",
    "OpenAI/JS 4.1",
]
CREDENTIALS = [f"fp:k1:{number:016x}" for number in range(4)]
STATUSES = [200] * 24 + [429, 429, 500, 400]
BATCH = 64


class Traffic:
    """Small exchanges, one conversation in five turns, spread evenly over 30 days."""

    def __init__(self, rows: int, seed: int = 1) -> None:
        self._rows = rows
        self._random = random.Random(seed)
        self._prose = Prose(seed)
        self._contents: list[Any] = []
        self._conversation: UUID | None = None

    def __iter__(self) -> Iterator[Exchange]:
        for number in range(self._rows):
            yield self.one(number, NOW_NS - SPAN_NS + SPAN_NS * number // self._rows)

    def one(self, number: int, started_ns: int) -> Exchange:
        rng, prose = self._random, self._prose
        current = exchange_id(started_ns)
        if number % 5 == 0:
            self._contents, self._conversation = [], current
        asked = prose.text(300) + (" zyzzyva" if number % 50_000 == 7 else "")
        self._contents = [*self._contents, content(asked)]
        model = "gemini-rare-exp" if number % 50_000 == 11 else rng.choice(MODELS)
        status = rng.choice(STATUSES)
        answer = prose.text(400) if status == 200 else ""
        outcome: Any = response(sse(answer, events=4) if answer else [b'{"error": {}}'], status=status)
        if number % 200 == 0:
            outcome = Failure(rng.choice(list(FailureKind)), "gone", None, outcome if number % 400 else None)
        pieces = request_pieces(self._contents)
        duration = int(rng.lognormvariate(14, 1))
        tokens = rng.randrange(2000)
        return exchange(
            id=current,
            started_ns=started_ns,
            request_pieces=pieces,
            outcome=outcome,
            response_text=answer,
            model=model,
            model_version=model,
            operation=rng.choice(
                ["generate_content", "stream_generate_content", "stream_generate_content", "count_tokens"]
            ),
            user_agent=rng.choice(CLIENTS),
            credential=rng.choice(CREDENTIALS),
            client_address=f"127.0.0.1:{rng.randrange(32768, 60000)}",
            conversation=self._conversation,
            chain=chain_of(self._contents),
            timing=Timing(900, 30_000, duration // 3, duration // 3 + 100, duration),
            usage=Usage(tokens, None, tokens // 4, 7, None, tokens * 5 // 4 + 7),
            price=Price(tokens * 300, tokens * 600, tokens * 900) if number % 10 else None,
        )


async def fill(store: SQLiteStore, rows: int) -> None:
    """Add `rows` exchanges in batches of 64 as the recorder does; only the time inside `add` is counted."""
    traffic = iter(Traffic(rows))
    spent = window = 0.0
    done = 0
    while batch := list(islice(traffic, BATCH)):
        began = time.perf_counter()
        await store.add(batch, [JournalPosition("journal", 0, done)])
        took = time.perf_counter() - began
        spent, window, done = spent + took, window + took, done + len(batch)
        if done % (BATCH * 1024) == 0:
            print(f"  {done:>9,} rows, {BATCH * 1024 / window:>7,.0f} exchanges/s in add", flush=True)
            window = 0.0
    print(f"filled {done:,} in {spent:.0f} s of add: {done / spent:,.0f} exchanges/s")


async def report(name: str, ask: Callable[[], Awaitable[Any]], limit_ms: float) -> None:
    """Time a question: the first time, and the median of five more."""
    times = []
    found: Any = None
    for _ in range(6):
        began = time.perf_counter()
        found = await ask()
        times.append((time.perf_counter() - began) * 1000)
    count = len(found.items) if isinstance(found, Page) else len(found) if hasattr(found, "__len__") else found
    median = statistics.median(times[1:])
    verdict = "" if max(median, times[0]) <= limit_ms else f"  OVER {limit_ms:.0f}"
    print(f"{name:<44} first {times[0]:>8.1f} ms  then {median:>8.1f} ms  {str(count)[:40]}{verdict}", flush=True)


async def measure(store: SQLiteStore) -> None:
    page = (await store.list(Query())).items
    middle = NOW_NS - SPAN_NS // 2
    lists = {
        "nothing": Query(),
        "model": Query(model="gemini-2.5-flash"),
        "model, prefix": Query(model="gemini-2.5*"),
        "model, rare": Query(model="gemini-rare-exp"),
        "model, none": Query(model="nothing"),
        "operation": Query(operation="count_tokens"),
        "provider": Query(provider="gemini"),
        "status": Query(status=429),
        "status class": Query(status_class=5),
        "errors": Query(errors=True),
        "no errors": Query(errors=False),
        "failure": Query(failure=FailureKind.CLIENT_GONE),
        "since": Query(since_ns=NOW_NS - HOUR_NS),
        "until": Query(until_ns=middle),
        "since and until": Query(since_ns=middle - 90_000_000_000, until_ns=middle),
        "conversation": Query(conversation=page[0].conversation),
        "credential": Query(credential=CREDENTIALS[1]),
        "client": Query(client="geminicli"),
        "method": Query(method="POST"),
        "contains a common word": Query(contains=Prose().words[3]),
        "contains a rare word": Query(contains="zyzzyva"),
        "contains no word there is": Query(contains="qqqqqqqqq"),
        "contains a common word, rare model": Query(contains=Prose().words[3], model="gemini-rare-exp"),
        "many at once": Query(model="gemini-2.5-pro", errors=True, client="GeminiCLI", since_ns=middle, status=429),
    }
    for name, query in lists.items():
        await report(f"list {name}", lambda query=query: store.list(query), 200)
    common, other, seldom = Prose().words[3], Prose().words[40], Prose().words[4000]
    for text in (common, f"{common} {other}", seldom, "zyzzyva", common[:2], f"{common} {seldom[:3]}", seldom[:2]):
        await report(f"search {text!r}", lambda text=text: store.search(text, Query()), 500)
    await report("search, other model", lambda: store.search(common, Query(model="gemini-3-pro-preview")), 500)
    groups: list[Any] = [None, "model", "day", "hour", "client", "operation", "status", "credential"]
    for group in groups:
        await report(f"stats by {group}", lambda group=group: store.stats(Query(), group=group), 200)
        await report(
            f"stats by {group}, one model",
            lambda group=group: store.stats(Query(model="gemini-2.5-pro"), group=group),
            200,
        )
    filtered = {**lists, "odd times": Query(since_ns=middle + 12345, until_ns=NOW_NS - 54321, model="gemini-2.5-pro")}
    for name, query in filtered.items():
        await report(f"stats {name}", lambda query=query: store.stats(query, group="model"), 200)
    await report("get", lambda: store.get(page[0].id), 200)
    await report("resolve, start", lambda: store.resolve(page[0].id.hex[:20]), 200)
    await report("resolve, end", lambda: store.resolve(page[0].id.hex[-9:]), 200)
    await report("find_chain_tips", lambda: store.find_chain_tips([bytes([n]) * 16 for n in range(200)], "x"), 200)
    await report("after", lambda: store.after(page[-1].sequence, Query()), 200)
    await report("size", store.size, 200)


async def pages(store: SQLiteStore, query: Query, count: int) -> None:
    """Time paging far into a list."""
    cursor, times = None, []
    for _ in range(count):
        began = time.perf_counter()
        page = await store.list(query, limit=500, cursor=cursor)
        times.append((time.perf_counter() - began) * 1000)
        cursor = page.next_cursor
        if cursor is None:
            break
    print(f"{count} pages of 500: median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms")


async def prune(store: SQLiteStore, older_than_ns: int) -> None:
    """Prune while batches keep coming in, and say how long they had to wait."""
    traffic = Traffic(1, seed=2)
    waits = []
    began = time.perf_counter()
    pruning = asyncio.ensure_future(store.prune(older_than_ns=older_than_ns))
    while not pruning.done():
        batch = [traffic.one(number, NOW_NS + number) for number in range(BATCH)]
        asked = time.perf_counter()
        await store.add(batch)
        waits.append((time.perf_counter() - asked) * 1000)
        await asyncio.sleep(0.05)
    print(await pruning, f"in {time.perf_counter() - began:.0f} s", await store.size())
    slow = sorted(waits)[int(len(waits) * 0.99)]
    print(
        f"meanwhile {len(waits)} batches of 64 came in, median {statistics.median(waits):.0f} ms,"
        f" p99 {slow:.0f} ms, worst {max(waits):.0f} ms"
    )


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--skip-questions", action="store_true")
    parser.add_argument("--prune-days", type=float, help="at the end, prune all but so many days")
    options = parser.parse_args()
    store = SQLiteStore(options.dir / "million.sqlite3")
    await store.open()
    try:
        if not (await store.size()).exchanges:
            await fill(store, options.rows)
        print(await store.size())
        if not options.skip_questions:
            await measure(store)
        await pages(store, Query(model="gemini-2.5-pro"), 40)
        if options.prune_days is not None:
            await prune(store, int(NOW_NS - options.prune_days * DAY_NS))
    finally:
        await store.aclose()


if __name__ == "__main__":
    asyncio.run(main())
