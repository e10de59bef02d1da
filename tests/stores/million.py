"""Fill a store with synthetic exchanges and time what it is asked: `python tests/stores/million.py --rows 1000000 --dir
D`, or `--store mongodb://…` in place of the folder.

Run it again on the same store to time the questions alone. It is no test: it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parents[1]))

from factories import (
    DAY_NS,
    HOUR_NS,
    NOW_NS,
    Prose,
    chain_of,
    content,
    digest,
    exchange,
    exchange_id,
    request_pieces,
    response,
    sse,
)
from gemini_caching_proxy.exchange import (
    CacheUse,
    Exchange,
    Failure,
    FailureKind,
    Price,
    Response,
    Timing,
    Usage,
    Verdict,
)
from gemini_caching_proxy.stores.base import EntryPage, EntryQuery, ExchangeStore, JournalPosition, Page, Query
from gemini_caching_proxy.stores.mongodb import MongoDBStore
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
LOOKUPS = 5000
FAILURE_EVERY = 200
"""Exchanges; one that failed has no entry."""


T = TypeVar("T")


def key_of(number: int) -> bytes:
    """Cache key of the exchange with this number."""
    return digest(b"key %d" % number)


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
        if number % FAILURE_EVERY == 0:
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
            cache=CacheUse(Verdict.BYPASS if number % 10 == 3 else Verdict.MISS, key_of(number)),
            entry_key=key_of(number) if isinstance(outcome, Response) else None,
            entry_kind="answer" if status == 200 else "error",
        )


async def fill(store: ExchangeStore, rows: int) -> None:
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
    count = (
        len(found.items) if isinstance(found, Page | EntryPage) else len(found) if hasattr(found, "__len__") else found
    )
    median = statistics.median(times[1:])
    verdict = "" if max(median, times[0]) <= limit_ms else f"  OVER {limit_ms:.0f}"
    print(f"{name:<44} first {times[0]:>8.1f} ms  then {median:>8.1f} ms  {str(count)[:40]}{verdict}", flush=True)


async def measure(store: ExchangeStore) -> None:
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
        "verdict": Query(verdict=Verdict.BYPASS),
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


async def measure_cache(store: ExchangeStore) -> None:
    page = (await store.entries(EntryQuery())).items
    choices = {
        "nothing": EntryQuery(),
        "model": EntryQuery(model="gemini-2.5-flash"),
        "model, rare": EntryQuery(model="gemini-rare-exp"),
        "model, none": EntryQuery(model="nothing"),
        "operation": EntryQuery(operation="count_tokens"),
        "conversation": EntryQuery(conversation=page[0].conversation),
        "exchange": EntryQuery(exchange=page[-1].exchange),
        "key": EntryQuery(key=page[-1].key),
        "errors": EntryQuery(kind="error"),
        "pinned": EntryQuery(pinned=True),
        "stored before": EntryQuery(stored_before_ns=NOW_NS - SPAN_NS // 2),
        "larger than any": EntryQuery(larger_than=10**9),
    }
    for name, query in choices.items():
        await report(f"cache list {name}", lambda query=query: store.entries(query), 200)
    await report("cache stats", store.cache_stats, 200)
    await report("cache resolve, key", lambda: store.resolve_entry(page[9].key.hex()[:9]), 200)
    await report("cache resolve, start of exchange", lambda: store.resolve_entry(page[9].exchange.hex[:20]), 200)
    await report("cache resolve, end of exchange", lambda: store.resolve_entry(page[9].exchange.hex[-9:]), 500)
    parts = [piece.digest for piece in (await store.get(page[9].exchange)).request_pieces if piece.digest]
    await report("cache owners of parts", lambda: store.part_owners(parts), 200)


async def look_up(store: ExchangeStore, rows: int) -> None:
    """Time lookups as a worker makes them: through a store of its own that only reads, each key once."""
    await store.open(read_only=True)
    rng = random.Random(3)
    numbers = [number for number in (rng.randrange(rows) for _ in range(LOOKUPS)) if number % FAILURE_EVERY]
    try:
        for name, offset in (("present", 0), ("absent", rows)):
            times = []
            for number in numbers:
                began = time.perf_counter()
                found = await store.find_cached([key_of(number + offset)])
                times.append((time.perf_counter() - began) * 1000)
                assert (found is None) == bool(offset)
            times.sort()
            median, slow = statistics.median(times), times[int(len(times) * 0.99)]
            print(f"cache lookup {name:<31} p50 {median:>10.3f} ms  p99 {slow:>9.3f} ms  {len(times)}", flush=True)
    finally:
        await store.aclose()


async def evict(store: ExchangeStore) -> None:
    """Evict half by use, then all, while a writer goes on."""
    half = (await store.cache_stats()).answer_bytes // 2
    for name, work in (("half", lambda: store.evict_to(half)), ("all", lambda: store.evict(EntryQuery()))):
        began = time.perf_counter()
        print(f"evicting {name}")
        evicted = await beside_a_writer(store, work())
        print(f"{evicted:,} entries evicted in {time.perf_counter() - began:.0f} s")


async def pages(store: ExchangeStore, query: Query, count: int) -> None:
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


async def prune(store: ExchangeStore, older_than_ns: int) -> None:
    began = time.perf_counter()
    result = await beside_a_writer(store, store.prune(older_than_ns=older_than_ns))
    print(result, f"in {time.perf_counter() - began:.0f} s", await store.size())


async def beside_a_writer(store: ExchangeStore, work: Coroutine[Any, Any, T]) -> T:
    """Do long work while batches keep coming in, and say how long they had to wait."""
    traffic = Traffic(1, seed=2)
    waits = []
    working = asyncio.ensure_future(work)
    while not working.done():
        batch = [traffic.one(number, NOW_NS + number) for number in range(BATCH)]
        asked = time.perf_counter()
        await store.add(batch)
        waits.append((time.perf_counter() - asked) * 1000)
        await asyncio.sleep(0.05)
    result = await working
    slow = sorted(waits)[int(len(waits) * 0.99)]
    print(
        f"meanwhile {len(waits)} batches of 64 came in, median {statistics.median(waits):.0f} ms,"
        f" p99 {slow:.0f} ms, worst {max(waits):.0f} ms"
    )
    return result


def make_store(options: argparse.Namespace) -> ExchangeStore:
    return MongoDBStore(options.store) if options.store else SQLiteStore(options.dir / "million.sqlite3")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dir", type=Path, help="folder of a SQLite store")
    where.add_argument("--store", help="URI of a MongoDB database")
    parser.add_argument("--skip-questions", action="store_true")
    parser.add_argument("--prune-days", type=float, help="at the end, prune all but so many days")
    parser.add_argument("--evict", action="store_true", help="at the end, evict half the entries and then all")
    options = parser.parse_args()
    store = make_store(options)
    await store.open()
    try:
        if not (await store.size()).exchanges:
            await fill(store, options.rows)
        size = await store.size()
        print(size)
        if not options.skip_questions:
            await measure(store)
            await measure_cache(store)
            await look_up(make_store(options), size.exchanges)
        await pages(store, Query(model="gemini-2.5-pro"), 40)
        if options.prune_days is not None:
            await prune(store, int(NOW_NS - options.prune_days * DAY_NS))
        if options.evict:
            await evict(store)
    finally:
        await store.aclose()


if __name__ == "__main__":
    asyncio.run(main())
