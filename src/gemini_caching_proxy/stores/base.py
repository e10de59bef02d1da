"""The contract of a store, and the words to ask it with.

Invariants every store keeps: adding is idempotent by exchange id and all-or-nothing per batch; the journal position of
a batch is committed with it; a part is kept once however often it is used; lists, filters and statistics never read a
body; joined pieces are the sent bytes. Values from users are only ever parameters, never query text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from gemini_caching_proxy.exchange import EntryKind, Exchange, FailureKind, Response, StreamShape, Verdict

StatsGroup = Literal["model", "day", "hour", "client", "operation", "status", "credential"]


@dataclass(frozen=True, slots=True)
class Query:
    """A filter; unset fields do not filter, set ones must all hold."""

    model: str | None = None
    """Model asked for or that answered; `*` at the end matches any rest."""
    operation: str | None = None
    provider: str | None = None
    status: int | None = None
    """Exact HTTP status."""
    status_class: int | None = None
    """1 to 5: 4 means 400 to 499."""
    errors: bool | None = None
    """True: only failures and statuses >= 400; False: only the others."""
    failure: FailureKind | None = None
    since_ns: int | None = None
    """Started at or after (Unix ns)."""
    until_ns: int | None = None
    """Started before (Unix ns)."""
    conversation: UUID | None = None
    contains: str | None = None
    """Words (whole, case and accents ignored) that one part of the request, or the rest of the exchange's text with the
    answer, holds: all of them. A part counts for the exchange that brought it in, not for each that repeats it. No word
    in it (only punctuation) finds nothing."""
    credential: str | None = None
    client: str | None = None
    """Start of the user agent, case-insensitive."""
    method: str | None = None
    verdict: Verdict | None = None
    """What the cache said."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One exchange as lists show it."""

    id: UUID
    sequence: int
    """Grows with every exchange a store takes in; a cursor for following it."""
    started_ns: int
    provider: str
    operation: str
    method: str
    target: str
    model: str | None
    model_version: str | None
    status: int | None
    failure: FailureKind | None
    finish_reason: str | None
    stream_shape: StreamShape
    client_address: str
    user_agent: str | None
    credential: str | None
    request_bytes: int
    response_bytes: int
    chunk_count: int
    ttfb_us: int | None
    ttft_us: int | None
    duration_us: int | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    thoughts_tokens: int | None
    total_tokens: int | None
    price_nanousd: int | None
    conversation: UUID | None
    parent: UUID | None
    preview: str
    """First 200 characters of what the model said, or of the last thing it was asked."""
    verdict: Verdict | None = None
    saved_nanousd: int | None = None
    """What the cache saved with it."""


@dataclass(frozen=True, slots=True)
class Page:
    """Summaries, newest first, and the cursor of what follows (None = the end)."""

    items: tuple[Summary, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result."""

    summary: Summary
    snippet: str
    """Text around the match, the match between U+0002 and U+0003."""


@dataclass(frozen=True, slots=True)
class StatsRow:
    """Sums over one group. `key` is the group's value; with no grouping it is empty, and there is exactly one row.

    Keys: the model asked for, else the one that answered; the day as `2026-01-31` and the hour as `2026-01-31T13:00Z`,
    UTC; the first word of the user agent up to its `/`; the operation; the HTTP status; the credential's fingerprint.
    What is unknown has the key "". Percentiles are by nearest rank and at most 5 % off.
    """

    key: str
    exchanges: int
    errors: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    thoughts_tokens: int
    total_tokens: int
    priced: int
    """Exchanges that have a price; the others are unpriced, which is not free."""
    total_nanousd: int
    request_bytes: int
    response_bytes: int
    duration_us_p50: int | None
    duration_us_p95: int | None
    duration_us_p99: int | None
    ttft_us_p50: int | None
    ttft_us_p95: int | None
    ttft_us_p99: int | None
    cache_hits: int = 0
    """Exchanges that were served without an upstream call of their own (hit or collapsed)."""
    saved_nanousd: int = 0
    """What those would have cost, as far as they can be priced."""
    saved_us: int = 0
    """Time that those saved."""


@dataclass(frozen=True, slots=True)
class JournalPosition:
    """How far a journal was taken in: everything before it is in the store or was damaged."""

    journal: str
    """Name of one worker's run."""
    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Exchanges that passed but could not be recorded."""

    exchanges: int
    first_ns: int
    """Unix time in nanoseconds of the first that is missing, or the best guess."""
    last_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class AddResult:
    added: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class PruneResult:
    exchanges: int
    parts: int
    bytes_freed: int


@dataclass(frozen=True, slots=True)
class StoreSize:
    exchanges: int
    parts: int
    file_bytes: int
    """All the store takes on disk."""
    body_bytes: int
    """Bytes of all bodies as they passed: `file_bytes / body_bytes` is the dedup ratio."""


@dataclass(frozen=True, slots=True)
class ChainMatch:
    """An exchange whose whole request chain ends in a given hash."""

    exchange: UUID
    conversation: UUID


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A recorded exchange whose answer can be served again. There is at most one per key.

    A newer answer takes the place of an older one, but for a pinned one; an error only takes the place of an error.
    Of two that ended at once the one taken in later is the newer. An entry that takes another's place starts with no
    hits.
    """

    key: bytes
    exchange: UUID
    kind: EntryKind
    stored_ns: int
    """When the exchange ended (Unix ns): its age counts from here."""
    provider: str
    operation: str
    """The exchange's own (`stream_generate_content`)."""
    model: str | None
    credential: str | None
    conversation: UUID | None
    size: int
    """Bytes of the answer's body."""
    pinned: bool = False
    """Never stale, never replaced by a newer answer."""
    hits: int = 0
    last_hit_ns: int | None = None
    saved_nanousd: int = 0
    saved_us: int = 0


class Claim(Protocol):
    """What decides which of two answers stands under a key: an entry has it, and an answer held in memory."""

    @property
    def kind(self) -> EntryKind: ...

    @property
    def pinned(self) -> bool: ...

    @property
    def stored_ns(self) -> int: ...


def replaces(new: Claim, known: Claim) -> bool:
    """Whether one answer takes the place of another of the same key, as `CacheEntry` has it."""
    if new.pinned != known.pinned:
        return new.pinned
    if new.kind != known.kind:
        return new.kind == "answer"
    return new.stored_ns >= known.stored_ns


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An entry with what is needed to serve it."""

    entry: CacheEntry
    response: Response
    stream_shape: StreamShape
    first_byte_us: int | None
    duration_us: int | None
    """What the exchange took."""


@dataclass(frozen=True, slots=True)
class EntryQuery:
    """A choice of entries; unset fields do not choose, set ones must all hold."""

    key: bytes | None = None
    exchange: UUID | None = None
    provider: str | None = None
    operation: str | None = None
    model: str | None = None
    """`*` at the end matches any rest."""
    credential: str | None = None
    conversation: UUID | None = None
    kind: EntryKind | None = None
    pinned: bool | None = None
    stored_before_ns: int | None = None
    larger_than: int | None = None
    """Bytes of the answer's body."""


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries, newest first, and the cursor of what follows (None = the end)."""

    items: tuple[CacheEntry, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Sums over all entries there are."""

    entries: int
    errors: int
    """Entries of kind `error` among them."""
    pinned: int
    answer_bytes: int
    hits: int
    saved_nanousd: int
    saved_us: int
    oldest_ns: int | None


class ExchangeStore(Protocol):
    """A place for exchanges. `open` first, `aclose` last; one event loop.

    Raises (all methods): StoreUnavailable, FormatTooNew (open), NotFound (get, pin).
    """

    async def open(self, *, read_only: bool = False) -> None: ...

    async def aclose(self) -> None: ...

    async def add(
        self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition] = (), *, more: bool = False
    ) -> AddResult:
        """Take in a batch and the positions that go with it: all of it or, when this raises, nothing.

        `more`: another batch follows at once, so what follows from exchanges (sums, entries) may be left for then.
        """
        ...

    async def settled(self, patience_s: float = 10.0) -> bool:
        """Wait until all that was added so far shows, with its entries, their hits and its sums; False if it does not.

        A store that does all of it within `add` need not wait.
        """
        ...

    async def add_gap(self, gap: Gap, positions: Sequence[JournalPosition] = ()) -> None:
        """Note a gap, once however often it is told, together with the positions that go with it."""
        ...

    async def gaps(self) -> tuple[Gap, ...]:
        """Every gap, oldest first."""
        ...

    async def positions(self) -> Mapping[str, JournalPosition]: ...

    async def forget_journal(self, journal: str) -> None:
        """Drop the position of a journal that is fully taken in and deleted."""
        ...

    async def get(self, exchange_id: UUID) -> Exchange:
        """The whole exchange, bodies joined."""
        ...

    async def known(self, ids: Sequence[UUID]) -> frozenset[UUID]:
        """Those of these exchanges that are stored."""
        ...

    async def resolve(self, prefix: str) -> UUID:
        """The one id that starts with (or ends in) these hex digits. Raises NotFound if none or several."""
        ...

    async def list(self, query: Query, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Newest first by start. With `contains` the order is that in which the store took them in, newest first.

        Paging on is stable: what is added meanwhile neither repeats nor hides an item. Raises ValueError for a cursor
        that this store did not give out for such a query.
        """
        ...

    async def after(self, sequence: int, query: Query, *, limit: int = 500) -> tuple[Summary, ...]:
        """What came in after `sequence`, oldest first: for following a store live."""
        ...

    async def last_sequence(self) -> int: ...

    async def search(self, text: str, query: Query, *, limit: int = 50) -> tuple[Hit, ...]:
        """As `Query.contains`, with the last word allowed to be the start of one; newest taken in first."""
        ...

    async def stats(self, query: Query, *, group: StatsGroup | None = None) -> tuple[StatsRow, ...]:
        """Sums per group: days and hours in order, other groups with the most exchanges first.

        Sums outlive pruning for whole hours and for filters that need no text and no conversation.
        """
        ...

    async def find_chain_tips(self, tips: Sequence[bytes], scope: str) -> Mapping[bytes, ChainMatch]:
        """For each hash the newest exchange of `scope` (a credential fingerprint or "") whose chain ends in it."""
        ...

    async def find_response_id(self, response_id: str) -> ChainMatch | None:
        """The exchange whose answer carried this id (Interactions: `previous_interaction_id`)."""
        ...

    async def prune(self, *, older_than_ns: int) -> PruneResult:
        """Delete exchanges that started before, then parts that nobody uses any more. Statistics stay.

        The exchange of a pinned entry stays, with its parts, until the entry is evicted or no longer pinned.
        """
        ...

    async def size(self) -> StoreSize: ...

    # The cache. `add` makes the entry of an exchange that has an `entry_key` and a complete response, and counts a hit
    # for the entry whose exchange a served one names as its source: of several entries of that exchange the one under
    # the key that was asked for, else the one with the lowest key. The entries of a batch are made before its hits are
    # counted. Deleting an exchange deletes its entries.

    async def find_cached(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        """The entry of the first of these keys that has one. Reads the answer, never the request."""
        ...

    async def entries(self, query: EntryQuery, *, limit: int = 50, cursor: str | None = None) -> EntryPage:
        """Newest first. Raises ValueError for a cursor that this store did not give out for entries."""
        ...

    async def resolve_entry(self, prefix: str) -> CacheEntry:
        """The one entry whose key starts with these hex digits, or whose exchange's id does (or ends in them).

        Raises NotFound if none or several.
        """
        ...

    async def add_entry(self, exchange_id: UUID, key: bytes, kind: EntryKind) -> bool:
        """Make the entry of a stored exchange anew, as if it had been added with this key; False if another stays.

        Also False for an exchange without a complete response. An entry that is this exchange's already keeps its
        counters. Raises NotFound for an exchange that is not stored.
        """
        ...

    async def pin(self, key: bytes, *, pinned: bool) -> None:
        """Raises NotFound."""
        ...

    async def evict(self, query: EntryQuery) -> int:
        """Delete entries, pinned ones only if the query names a key or an exchange or asks for `pinned`; how many.

        The exchanges stay.
        """
        ...

    async def evict_to(self, answer_bytes: int) -> int:
        """Delete entries, the longest unused first and never a pinned one, until the answers of the rest fit."""
        ...

    async def cache_stats(self) -> CacheStats: ...

    async def cache_changes(self) -> int:
        """A number that grows when entries were evicted, pinned or made by hand, on whichever machine.

        Always 0 for a store that only this machine can change, where `cache/changes.py` tells.
        """
        ...

    async def part_owners(self, digests: Sequence[bytes], *, limit: int = 100) -> tuple[UUID, ...]:
        """The oldest exchange that uses each of these parts, newest first: who sent them before."""
        ...
