"""A worker's cache with fakes at its edges: members without connections, a lookup and an upstream worked by hand."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time_ns
from typing import Any
from uuid import UUID, uuid4

from gemini_caching_proxy.annotation import Note
from gemini_caching_proxy.cache.answers import HotAnswers, RecordedAnswer
from gemini_caching_proxy.cache.directives import PLAIN, Directives
from gemini_caching_proxy.cache.normalisers import Normalisers
from gemini_caching_proxy.cache.policy import Policy
from gemini_caching_proxy.caching import Caching
from gemini_caching_proxy.coalescing import Flight, Member
from gemini_caching_proxy.errors import IncompleteResponse, UpstreamError, WireError
from gemini_caching_proxy.exchange import EntryKind
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.question import Plan, Question
from gemini_caching_proxy.relay.http1 import RESPONSE_KINDS, FieldTable
from gemini_caching_proxy.relay.upstream import Answer
from gemini_caching_proxy.settings import CacheMode

TARGET = "/v1beta/models/gemini-2.5-flash:generateContent"
JSON = (b"Content-Type", b"application/json")
FIELDS = FieldTable(RESPONSE_KINDS, lambda name, value: value)


class HandLookup:
    """Lookups that wait until `answer` is called. `entries` is the store."""

    def __init__(self) -> None:
        self.entries: dict[bytes, RecordedAnswer] = {}
        self.asked: list[_Waiting] = []
        self.patient: list[bool] = []

    async def find(self, keys: Sequence[bytes], *, patient: bool = False) -> RecordedAnswer | None:
        self.patient.append(patient)
        waiting = _Waiting(tuple(keys))
        self.asked.append(waiting)
        found: RecordedAnswer | None = await waiting
        return found

    async def aclose(self) -> None:
        pass

    def answer(self, *, late: bool = False) -> None:
        """Answer the lookup that waits longest; a late one finds nothing."""
        waiting = self.asked.pop(0)
        found = None if late else next((self.entries[key] for key in waiting.keys if key in self.entries), None)
        assert waiting.task is not None
        waiting.task.step(copy_of(found) if found is not None else None)

    def answer_all(self) -> None:
        while self.asked:
            self.answer()


@dataclass
class _Waiting:
    keys: tuple[bytes, ...]
    task: Task | None = None

    def __await__(self) -> Generator[_Waiting, Any, Any]:
        return (yield self)


class Task:
    """A coroutine that is stepped by hand."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self.step(None)

    def step(self, value: Any) -> None:
        try:
            waiting = self._work.send(value)
        except StopIteration:
            return
        waiting.task = self


@dataclass(eq=False)
class Caller:
    """A member as its flight sees it: what it was told, and what its client has by now."""

    caching: Caching
    question: Question = field(init=False)
    exchange_id: bytes = field(default_factory=lambda: uuid4().bytes)
    redacted: bool = False
    paused: bool = False
    left: bool = False
    flight: Flight | None = None
    note: Note | None = None
    played: RecordedAnswer | None = None
    refused: WireError | None = None
    broken: WireError | None = None
    body: bytes = b""
    status: int | None = None
    whole: bool = False
    calls: int = 0
    calling: bool = False
    upstream_paused: bool = False
    answer: Answer | None = None
    """Of its own call."""

    def take_flight(self, flight: Flight | None) -> None:
        self.flight = flight

    def call_out(self, note: Note) -> None:
        assert not self.over
        assert not self.calling
        self.note, self.calling = note, True
        self.calls += 1

    def follow(self, note: Note) -> None:
        assert not self.over
        self.note = note

    def play(self, answer: RecordedAnswer, note: Note) -> None:
        assert not self.over
        self.played, self.note, self.whole = answer, note, True
        self.body, self.status = b"".join(answer.chunks), answer.status

    def refuse(self, error: WireError, note: Note) -> None:
        assert not self.over
        self.refused, self.note = error, note

    def upstream_data(self, answer: Answer) -> None:
        assert not self.whole
        assert self.broken is None
        pieces, answer.pieces = answer.pieces, []
        self.body += b"".join(pieces)
        self.status, self.whole = answer.status, answer.complete
        if answer.complete:
            self.calling = False
        if self.flight is not None:
            self.flight.came(self, answer, pieces)

    def upstream_failed(self, error: UpstreamError) -> None:
        assert not self.whole
        self.broken, self.calling = error, False
        if self.flight is not None:
            self.flight.failed(self, error)

    def client_gone(self) -> None:
        """As the passage does it: others may need the call."""
        self.left = True
        if self.over or (self.flight is not None and self.flight.leave(self)):
            return
        self.calling = False
        self.broken = self.broken or UpstreamError("The client left.")
        if self.flight is not None:
            self.flight.stopped(self)

    def pause_upstream(self, paused: bool) -> None:
        self.upstream_paused = paused

    @property
    def over(self) -> bool:
        return self.whole or self.refused is not None or self.broken is not None

    @property
    def waits(self) -> bool:
        """Whether its client waits for something that is not in its own hands."""
        return not self.over and not self.calling

    # The upstream of its call

    def comes(self, *pieces: bytes, complete: bool = False, status: int = 200) -> None:
        """More of the answer to its call."""
        assert self.calling
        if self.answer is None:
            self.answer = Answer()
            self.answer.status, self.answer.reason, self.answer.chunked = status, b"OK", True
            self.answer.fields.append(FIELDS[JSON])
        self.answer.pieces, self.answer.complete = list(pieces), complete
        self.upstream_data(self.answer)

    def breaks(self) -> None:
        """Its call fails."""
        assert self.calling
        self.upstream_failed(IncompleteResponse("It broke off."))


_MEMBER: type[Member] = Caller


def make_caching(folder: Path, lookup: HandLookup, policy: Policy | None = None, **more: Any) -> Caching:
    return Caching(
        policy=policy or Policy(mode="all"),
        normalisers=Normalisers.of((), ()),
        providers=providers(),
        lookup=lookup,
        hot=HotAnswers(more.pop("hot_bytes", 1 << 20)),
        fields=FIELDS,
        upstream="https://upstream.test",
        shared=False,
        largest=more.pop("largest", 10_000),
        data_dir=folder,
        spawn=lambda work: Task(work),  # type: ignore[arg-type, return-value]
    )


def make_plan(caching: Caching, mode: CacheMode = "all", directives: Directives = PLAIN, target: str = TARGET) -> Plan:
    provider = providers()["gemini"]
    route = provider.route(b"POST", target.encode())
    kind = provider.cache_kind(route.operation)
    return Plan(
        caching.policy,
        caching.normalisers,
        caching.upstream,
        provider,
        route,
        mode,
        directives,
        kind,
        target,
        [JSON],
        ("tenant", "") if mode == "replay" else ("tenant",),
        b"",
        None,
    )


def make_body(text: str) -> bytes:
    return json.dumps({"contents": [{"parts": [{"text": text}]}], "generationConfig": {"temperature": 0}}).encode()


def make_answer(text: str, finish: str | None = "STOP") -> bytes:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}}
    if finish:
        candidate["finishReason"] = finish
    return json.dumps({"candidates": [candidate]}).encode()


def recorded_answer(
    key: bytes, body: bytes, *, kind: EntryKind = "answer", pinned: bool = False, age_s: float = 0, **over: Any
) -> RecordedAnswer:
    stored_ns = time_ns() - int(age_s * 1e9)
    headers = over.pop("headers", (JSON,))
    chunks = over.pop("chunks", (body,))
    offsets = over.pop("offsets_us", tuple(range(0, 1000 * len(chunks), 1000)))
    defaults: dict[str, Any] = {"status": 200, "reason": b"OK", "shape": "unary", "has_length": True, "duration_us": 9}
    values = defaults | over
    return RecordedAnswer(
        key, uuid4().bytes, kind, pinned, stored_ns, values["status"], values["reason"], headers, chunks, offsets,
        values["shape"], values["has_length"], values["duration_us"], values.get("coding", ()),
    )  # fmt: skip


def copy_of(answer: RecordedAnswer) -> RecordedAnswer:
    """As a store gives it: an object of its own."""
    return RecordedAnswer(
        answer.key, answer.exchange, answer.kind, answer.pinned, answer.stored_ns, answer.status, answer.reason,
        answer.headers, answer.chunks, answer.offsets_us, answer.shape, answer.has_length, answer.duration_us,
        answer.coding,
    )  # fmt: skip


def consult(caching: Caching, plan: Plan, text: str = "hello") -> Caller:
    """Someone asks."""
    caller = Caller(caching)
    caching.consult(caller, plan, make_body(text))
    return caller


def exchange_of(answer: RecordedAnswer) -> UUID:
    return UUID(bytes=answer.exchange)
