"""Why a request is answered from the record, or is not: its key, the entry it finds, and the nearest one it misses.

The nearest entry is the one whose canonical request differs in the fewest values, and among those the one that is the
same for longest. Looked at are the entries of exchanges that sent the same parts before, and the newest of the same
operation; that is bounded in number and bytes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, AnyStr, Final
from uuid import UUID

from .bodies import read_json, split_request
from .cache.index import Index
from .cache.policy import Policy
from .content_coding import uncoded
from .errors import NotFound
from .exchange import Exchange, Verdict
from .providers.base import CacheSubject
from .settings import CacheMode
from .stores.base import CacheEntry, EntryQuery, ExchangeStore, Query

MOST_OWNERS: Final = 100
MOST_NEWEST: Final = 200
MOST_OTHER_MODELS: Final = 50
MOST_BYTES: Final = 64 * 1024 * 1024
"""Requests that are compared take no more than this together."""
MOST_CREDENTIALS: Final = 100
BEFORE: Final = 24
SHOWN: Final = 72
NOTHING: Final = "nothing"
MODEL, VARIANT, CREDENTIAL, UPSTREAM, KEY = "(model)", "(target)", "(credential)", "(upstream)", "(key)"
"""In place of a JSON path, for what is in a key besides the canonical body."""

Path = tuple[str | int, ...]
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """The first value in which two requests differ."""

    path: str
    """JSON path in the canonical body (`contents[3].parts[0].text`), or one of the words in brackets above."""
    here: str
    """The value as JSON, shortened around the difference; `nothing` where there is none."""
    there: str


@dataclass(frozen=True, slots=True)
class Nearest:
    """The entry whose request is most like the one that is explained."""

    entry: CacheEntry
    differences: int
    """Values that differ."""
    first: Difference


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the cache deals with a request."""

    exchange: Exchange
    mode: CacheMode
    verdict: Verdict
    subject: CacheSubject | None = None
    """What is asked for; None if it cannot be cached."""
    why: str = ""
    """Why it is not looked up, or why what is found is not served; empty for nothing."""
    key: bytes | None = None
    entry: CacheEntry | None = None
    ttl_s: float | None = None
    """How long answers of the operation are served."""
    nearest: Nearest | None = None
    """For a miss, and for an exchange that made the very entry it now finds; None if nothing is like it."""


class Explainer:
    """Explains requests against what is in a store."""

    def __init__(self, store: ExchangeStore, index: Index, policy: Policy, *, shared: bool) -> None:
        """`shared`: whether everybody is served everybody's recordings."""
        self._store = store
        self._index = index
        self._policy = policy
        self._shared = shared

    def __repr__(self) -> str:
        return f"<Explainer of {self._store!r}>"

    async def explain(
        self, exchange: Exchange, now_ns: int, *, asked: CacheMode | None = None, any_credential: bool = False
    ) -> Explanation:
        """Explain a recorded exchange, or a request in the form of one.

        Args:
            asked: the mode that the request asks for itself.
            any_credential: look among the recordings of every client, for a request that carries no key.

        Raises:
            StoreError
        """
        policy = self._policy
        mode = policy.mode_for(exchange.operation, exchange.model, asked)
        subject = self._index.subject(exchange)
        if isinstance(subject, str):
            return Explanation(exchange, mode, Verdict.BYPASS, why=subject)
        keys = [key async for key in self._keys(subject, exchange, mode, any_credential=any_credential)]
        entry = await self._find(keys)
        ttl = policy.ttl_s(exchange.operation, subject.kind)
        verdict, why = self._judge(mode, subject, entry, ttl, now_ns)
        own = entry is not None and entry.exchange == exchange.id
        nearest = await self._nearest(subject, exchange) if entry is None or own else None
        key = entry.key if entry is not None else keys[0]
        return Explanation(exchange, mode, verdict, subject, why, key, entry, ttl, nearest)

    def _judge(
        self, mode: CacheMode, subject: CacheSubject, entry: CacheEntry | None, ttl: float, now_ns: int
    ) -> tuple[Verdict, str]:
        why = self._policy.why_not(mode, subject)
        if why:
            return Verdict.BYPASS, why
        if entry is None:
            return Verdict.MISS, ""
        age = (now_ns - entry.stored_ns) / 1e9
        verdict = self._policy.verdict(mode, kind=entry.kind, pinned=entry.pinned, age_s=age, ttl_s=ttl, max_age_s=None)
        if verdict is Verdict.STALE:
            return verdict, f"it is {age_text(age)} old, and answers are served for {age_text(ttl)}"
        return verdict, "only an error is recorded" if verdict is Verdict.MISS else ""

    async def _keys(
        self, subject: CacheSubject, exchange: Exchange, mode: CacheMode, *, any_credential: bool
    ) -> AsyncIterator[bytes]:
        yield self._index.key(subject, exchange)
        if self._shared:
            return
        if mode == "replay" and exchange.credential is not None:
            yield self._index.key(subject, replace(exchange, credential=None))
        if any_credential:
            rows = await self._store.stats(Query(), group="credential")
            for row in rows[:MOST_CREDENTIALS]:
                yield self._index.key(subject, replace(exchange, credential=row.key or None))

    async def _find(self, keys: list[bytes]) -> CacheEntry | None:
        for key in dict.fromkeys(keys):
            page = await self._store.entries(EntryQuery(key=key), limit=1)
            if page.items:
                return page.items[0]
        return None

    async def _nearest(self, subject: CacheSubject, exchange: Exchange) -> Nearest | None:
        here = leaves(subject.body)
        best: Nearest | None = None
        best_rank = (0, 0)
        left = MOST_BYTES
        async for entry in self._candidates(subject, exchange):
            try:
                other = await self._store.get(entry.exchange)
            except NotFound:
                continue
            there = self._index.subject(other)
            if isinstance(there, str) or there.operation != subject.operation:
                continue
            nearest = self._compare(subject, here, exchange, there, other, entry)
            # Of equally many differences the latest one: agents change what they say at the end.
            rank = (nearest.differences, -common_length(subject.body, there.body))
            if best is None or rank < best_rank:
                best, best_rank = nearest, rank
            left -= len(there.body)
            if left < 0:
                break
        return best

    async def _candidates(self, subject: CacheSubject, exchange: Exchange) -> AsyncIterator[CacheEntry]:
        """Each once, most promising first; for a recorded exchange only what was there before it."""
        seen: set[UUID] = {exchange.id}
        async for entry in self._likely(subject, exchange):
            if entry.exchange not in seen and entry.stored_ns <= exchange.started_ns:
                seen.add(entry.exchange)
                yield entry

    async def _likely(self, subject: CacheSubject, exchange: Exchange) -> AsyncIterator[CacheEntry]:
        plain = uncoded(exchange.request_headers, exchange.request_body.data).data
        digests = [piece.digest for piece in split_request(plain).pieces if piece.digest is not None]
        if digests:
            for owner in await self._store.part_owners(digests, limit=MOST_OWNERS):
                for entry in (await self._store.entries(EntryQuery(exchange=owner), limit=1)).items:
                    yield entry
        for model, most in ((exchange.model, MOST_NEWEST), (None, MOST_OTHER_MODELS)):
            for operation in (subject.operation, f"stream_{subject.operation}"):
                query = EntryQuery(operation=operation, model=model)
                for entry in (await self._store.entries(query, limit=most)).items:
                    yield entry

    def _compare(
        self,
        subject: CacheSubject,
        here: Mapping[Path, Any],
        exchange: Exchange,
        there: CacheSubject,
        other: Exchange,
        entry: CacheEntry,
    ) -> Nearest:
        around = [
            Difference(path, repr_of(one), repr_of(another))
            for path, one, another in (
                (MODEL, subject.model, there.model),
                (VARIANT, subject.variant, there.variant),
            )
            if one != another
        ]
        count, first = compare(here, leaves(there.body))
        if not count and not around:
            around.append(self._other_key(exchange, other))
        found = around[0] if around else first
        assert found is not None, "equal requests differ in what else is in the key"
        return Nearest(entry, count + len(around), found)

    def _other_key(self, exchange: Exchange, other: Exchange) -> Difference:
        """What else is in a key, for requests that are the same."""
        if exchange.credential != other.credential and not self._shared:
            return Difference(CREDENTIAL, exchange.credential or NOTHING, other.credential or NOTHING)
        if exchange.upstream != other.upstream:
            return Difference(UPSTREAM, exchange.upstream, other.upstream)
        return Difference(KEY, "made with the settings given here", "made with other normalisers or by another version")


def age_text(seconds: float) -> str:
    """An age as settings write one, rounded: `5m`, `7d`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g}{unit}"
    return f"{seconds:.3g}s"


def leaves(body: bytes) -> dict[Path, Any]:
    """The values of canonical JSON that hold no others, by their paths, in order."""
    try:
        value = read_json(body)
    except ValueError:
        return {}
    found: dict[Path, Any] = {}
    # A stack of its own: Python's would overflow on what a JSON parser still takes.
    stack: list[tuple[Path, Any]] = [((), value)]
    while stack:
        path, inner = stack.pop()
        if isinstance(inner, dict) and inner:
            stack += [((*path, key), item) for key, item in reversed(inner.items())]
        elif isinstance(inner, list) and inner:
            stack += [((*path, index), item) for index, item in reversed(list(enumerate(inner)))]
        else:
            found[path] = inner
    return found


def compare(here: Mapping[Path, Any], there: Mapping[Path, Any]) -> tuple[int, Difference | None]:
    """How many values differ, and the first of them in the order of the document."""
    differing = [path for path, value in here.items() if not _same(value, there.get(path, _MISSING))]
    differing += [path for path in there if path not in here]
    if not differing:
        return 0, None
    first = min(differing, key=_order)
    one, another = here.get(first, _MISSING), there.get(first, _MISSING)
    return len(differing), Difference(path_text(first), *around_difference(one, another))


def _same(one: Any, another: Any) -> bool:
    return type(one) is type(another) and bool(one == another)


def _order(path: Path) -> tuple[tuple[bool, int, str], ...]:
    return tuple((True, 0, step) if isinstance(step, str) else (False, step, "") for step in path)


def path_text(path: Path) -> str:
    """`("contents", 3, "parts")` -> `contents[3].parts`; empty for the whole."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step, ensure_ascii=False)}]"
    return text


def around_difference(one: Any, another: Any) -> tuple[str, str]:
    """Two values as JSON, long texts cut to what stands around the first difference."""
    start = 0
    if isinstance(one, str) and isinstance(another, str):
        start = max(0, common_length(one, another) - BEFORE)
    return repr_of(one, start), repr_of(another, start)


def common_length(one: AnyStr, another: AnyStr) -> int:
    """How much two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(another))
    # Halving compares slices in C, which is many times faster than one character after the other.
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == another[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def repr_of(value: Any, start: int = 0) -> str:
    """A value as JSON of bounded length; `start` is where to begin in a text."""
    if value is _MISSING:
        return NOTHING
    if not isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= SHOWN else text[:SHOWN] + "…"
    shown = value[start : start + SHOWN]
    before = "…" if start else ""
    after = "…" if start + SHOWN < len(value) else ""
    return json.dumps(before + shown + after, ensure_ascii=False)
