"""The entries of a store against a plain dict, through any course of events."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from kinds import COMMON_KINDS, Door

from factories import NOW_NS, exchange, exchange_id, recorded, response, served
from gemini_caching_proxy.exchange import Exchange, Failure, FailureKind, Timing, Verdict
from gemini_caching_proxy.stores.base import CacheEntry, CacheStats, EntryQuery

MS = 1_000_000
KEYS = [bytes([number]) * 16 for number in range(5)]
MODELS = ["gemini-2.5-flash", "gemini-2.5-pro"]
CONVERSATION = UUID(int=77)


@dataclass(frozen=True)
class Coming:
    """One exchange to add."""

    what: str
    key: bytes
    at_ms: int
    lasts_ms: int
    size: int
    model: str
    source: int
    verdict: Verdict
    saved: int | None


comings = st.builds(
    Coming,
    what=st.sampled_from(["answer", "answer", "error", "plain", "failure", "served", "served", "again"]),
    key=st.sampled_from(KEYS),
    at_ms=st.integers(0, 20),
    lasts_ms=st.integers(0, 20),
    size=st.sampled_from([0, 1, 30, 1500, 3000]),
    model=st.sampled_from(MODELS),
    source=st.integers(0, 40),
    verdict=st.sampled_from([Verdict.HIT, Verdict.HIT, Verdict.COLLAPSED, Verdict.MISS, Verdict.STALE]),
    saved=st.none() | st.integers(0, 1000),
)
times = st.integers(0, 40).map(lambda ms: NOW_NS + ms * MS)
queries = st.one_of(
    st.just(EntryQuery()),
    st.builds(EntryQuery, key=st.sampled_from(KEYS)),
    st.builds(EntryQuery, model=st.sampled_from([*MODELS, "gemini*"])),
    st.builds(EntryQuery, kind=st.sampled_from(["answer", "error"])),
    st.builds(EntryQuery, pinned=st.booleans()),
    st.builds(EntryQuery, stored_before_ns=times),
    st.builds(EntryQuery, larger_than=st.sampled_from([0, 1, 1499, 1500])),
    st.builds(EntryQuery, conversation=st.just(CONVERSATION), kind=st.none() | st.just("answer")),
)


class CacheModel(RuleBasedStateMachine):
    """`entries` is what the store must have; exchanges are kept whole, in the order they came in."""

    kind = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Door(self.kind, self.folder)
        self.exchanges: dict[UUID, Exchange] = {}
        self.entries: dict[bytes, CacheEntry] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    # Adding.

    @rule(coming=st.lists(comings, min_size=1, max_size=6), from_behind=st.booleans())
    def add(self, coming: list[Coming], from_behind: bool) -> None:
        batch: list[Exchange] = []
        for each in coming:
            batch.append(self._made(each, [*self.exchanges.values(), *batch]))
        if from_behind:
            batch.reverse()
        new = {each.id: each for each in batch if each.id not in self.exchanges}
        result = self.store.add(batch)
        assert (result.added, result.duplicates) == (len(new), len(batch) - len(new))
        self.exchanges |= new
        for each in new.values():
            self._enter(each, each.entry_key, each.entry_kind)
        for each in new.values():
            self._count(each)

    def _made(self, coming: Coming, known: Sequence[Exchange]) -> Exchange:
        if coming.what == "again" and known:
            return known[coming.source % len(known)]
        fields: dict[str, Any] = {
            "started_ns": NOW_NS + coming.at_ms * MS,
            "timing": Timing(last_byte_us=coming.lasts_ms * 1000),
            "outcome": response([bytes([coming.source]) * coming.size]),
            "model": coming.model,
            "conversation": CONVERSATION if coming.source % 3 == 0 else None,
            "id": exchange_id(),
        }
        if coming.what == "served":
            source = known[coming.source % len(known)] if known else exchange()
            key = source.entry_key if coming.lasts_ms % 2 else coming.key
            use = {"verdict": coming.verdict, "saved_nanousd": coming.saved, "saved_us": coming.saved, "key": key}
            return served(source, use=use, **{**fields, "outcome": source.outcome})
        if coming.what in ("answer", "error"):
            return recorded(coming.key, entry_kind=coming.what, **fields)
        if coming.what == "failure":
            return recorded(coming.key, **{**fields, "outcome": Failure(FailureKind.CLIENT_GONE, "", None, None)})
        return exchange(**fields)

    def _enter(self, each: Exchange, key: bytes | None, kind: Any) -> bool:
        if key is None or isinstance(each.outcome, Failure):
            return False
        stored_ns = each.started_ns + (each.timing.last_byte_us or 0) * 1000
        old = self.entries.get(key)
        if old is not None:
            if old.exchange == each.id:
                if not old.pinned:
                    self.entries[key] = replace(old, kind=kind)
                return True
            if old.pinned or (kind, old.kind) == ("error", "answer"):
                return False
            if kind == old.kind and stored_ns < old.stored_ns:
                return False
        made = (each.provider, each.operation, each.model, each.credential, each.conversation)
        self.entries[key] = CacheEntry(key, each.id, kind, stored_ns, *made, each.outcome.body.size)
        return True

    def _count(self, each: Exchange) -> None:
        use = each.cache
        if use is None or not use.served:
            return
        keys = sorted(key for key, entry in self.entries.items() if entry.exchange == use.source)
        if not keys:
            return
        key = use.key if use.key in keys else keys[0]
        assert key is not None
        entry = self.entries[key]
        self.entries[key] = replace(
            entry,
            hits=entry.hits + 1,
            last_hit_ns=max(entry.last_hit_ns or 0, each.started_ns),
            saved_nanousd=entry.saved_nanousd + (use.saved_nanousd or 0),
            saved_us=entry.saved_us + (use.saved_us or 0),
        )

    # Changing.

    @precondition(lambda self: self.exchanges)
    @rule(number=st.integers(0, 40), key=st.sampled_from(KEYS), kind=st.sampled_from(["answer", "error"]))
    def add_entry(self, number: int, key: bytes, kind: Any) -> None:
        each = list(self.exchanges.values())[number % len(self.exchanges)]
        assert self.store.add_entry(each.id, key, kind) == self._enter(each, key, kind)

    @precondition(lambda self: self.entries)
    @rule(number=st.integers(0, 9), pinned=st.booleans())
    def pin(self, number: int, pinned: bool) -> None:
        key = sorted(self.entries)[number % len(self.entries)]
        self.store.pin(key, pinned=pinned)
        self.entries[key] = replace(self.entries[key], pinned=pinned)

    @rule(query=queries)
    def evict(self, query: EntryQuery) -> None:
        named = query.key is not None or query.pinned is not None
        gone = [entry for entry in self.entries.values() if self._passes(entry, query) and (named or not entry.pinned)]
        assert self.store.evict(query) == len(gone)
        for entry in gone:
            del self.entries[entry.key]

    @staticmethod
    def _passes(entry: CacheEntry, query: EntryQuery) -> bool:
        model = query.model
        return (
            query.key in (None, entry.key)
            and query.kind in (None, entry.kind)
            and query.pinned in (None, entry.pinned)
            and query.conversation in (None, entry.conversation)
            and (
                model is None
                or entry.model == model
                or (model[-1] == "*" and (entry.model or "").startswith(model[:-1]))
            )
            and (query.stored_before_ns is None or entry.stored_ns < query.stored_before_ns)
            and (query.larger_than is None or entry.size > query.larger_than)
        )

    @rule(size=st.integers(0, 9000))
    def evict_to(self, size: int) -> None:
        """No more than needed goes, and nothing that was used later than what stays."""
        evicted = self.store.evict_to(size)
        left = {entry.key for entry in self.store.entries(EntryQuery()).items}
        gone = [entry for key, entry in self.entries.items() if key not in left]
        self.entries = {key: self.entries[key] for key in left}
        assert evicted == len(gone)
        assert not any(entry.pinned for entry in gone)
        loose = [self._used(entry) for entry in self.entries.values() if not entry.pinned]
        taken = sum(entry.size for entry in self.entries.values())
        assert taken <= size or not loose
        if gone:
            last = max(map(self._used, gone))
            assert all(last <= used for used in loose)
            assert any(taken + entry.size > size for entry in gone if self._used(entry) == last)

    @staticmethod
    def _used(entry: CacheEntry) -> int:
        return max(entry.stored_ns, entry.last_hit_ns or 0)

    @rule(before_ns=times)
    def prune(self, before_ns: int) -> None:
        pinned = {entry.exchange for entry in self.entries.values() if entry.pinned}
        gone = {each.id for each in self.exchanges.values() if each.started_ns < before_ns} - pinned
        assert self.store.prune(older_than_ns=before_ns).exchanges == len(gone)
        self.exchanges = {key: each for key, each in self.exchanges.items() if key not in gone}
        self.entries = {key: entry for key, entry in self.entries.items() if entry.exchange not in gone}

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Door(self.kind, self.folder)

    # What must hold.

    @invariant()
    def lists_are_right(self) -> None:
        listed = self.store.entries(EntryQuery(), limit=100).items
        assert [entry.stored_ns for entry in listed] == sorted((each.stored_ns for each in listed), reverse=True)
        assert {entry.key: entry for entry in listed} == self.entries
        assert len(listed) == len(self.entries)

    @invariant()
    def sums_are_right(self) -> None:
        entries = list(self.entries.values())
        names = ("size", "hits", "saved_nanousd", "saved_us")
        sums = [sum(getattr(entry, name) for entry in entries) for name in names]
        errors, pinned = sum(entry.kind == "error" for entry in entries), sum(entry.pinned for entry in entries)
        oldest = min((entry.stored_ns for entry in entries), default=None)
        assert self.store.cache_stats() == CacheStats(len(entries), errors, pinned, *sums, oldest)

    @invariant()
    def answers_are_right(self) -> None:
        for key in KEYS:
            found, entry = self.store.find_cached([key]), self.entries.get(key)
            assert (found and found.entry) == entry
            if entry is not None:
                each = self.exchanges[entry.exchange]
                assert (found.response, found.duration_us) == (each.outcome, each.timing.last_byte_us)

    @invariant()
    def exchanges_are_kept(self) -> None:
        assert self.store.size().exchanges == len(self.exchanges)
        for each in list(self.exchanges.values())[-3:]:
            assert self.store.get(each.id) == each


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "sqlite" else [pytest.mark.slow]) for kind in COMMON_KINDS],
)
@pytest.mark.timeout(300)
def test_entries_behave_as_a_plain_dict_does(kind: str) -> None:
    machine = type("Machine", (CacheModel,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))
