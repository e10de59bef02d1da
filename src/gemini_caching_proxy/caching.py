"""What the passages of a worker share for being answered from the record.

The order: the hot answers in memory, then a flight of identical requests that is under way, then the store, then the
upstream. Requests whose mode serves nothing like them are turned away before a body is parsed, and wait for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from time import time, time_ns

from . import annotation
from .annotation import Note
from .cache.answers import HotAnswers, RecordedAnswer
from .cache.changes import last_change_ns
from .cache.directives import read_directives
from .cache.key import SHARED
from .cache.normalisers import Normalisers
from .cache.policy import NEVER, Policy, asks_plainly
from .coalescing import Flight, Member
from .content_coding import uncoded
from .credentials import Settlement
from .errors import NotRecorded
from .exchange import Verdict
from .lookup import Lookup
from .providers.base import Provider, Route
from .question import Identity, Plan, Question
from .relay.http1 import Field, FieldTable, Kind, Shape
from .relay.upstream import Answer


class Caching:
    """Answers from the record, for one worker."""

    def __init__(
        self,
        *,
        policy: Policy,
        normalisers: Normalisers,
        providers: Mapping[str, Provider],
        lookup: Lookup,
        hot: HotAnswers,
        fields: FieldTable,
        upstream: str,
        shared: bool,
        largest: int,
        data_dir: Path,
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        """`fields` is for the heads of answers; `shared` makes all recordings everybody's; `largest` in bytes."""
        self.policy = policy
        self.normalisers = normalisers
        self.lookup = lookup
        self.hot = hot
        self.upstream = upstream
        self.largest = largest
        self.spawn = spawn
        self.flights: dict[Identity, Flight] = {}
        self.too_large = annotation.bypass("the request is too large")
        self.not_json = annotation.bypass("not JSON")
        self._providers = providers
        self._fields = fields
        self._shared = shared
        self._data_dir = data_dir
        self._seen_change_ns = last_change_ns(data_dir)
        self._date = (0, b"")

    def __repr__(self) -> str:
        return f"<Caching {self.policy.mode} hot={self.hot!r} flights={len(self.flights)}>"

    def plan(self, route: Route, shape: Shape, settlement: Settlement, target: str) -> Plan:
        """Work out what requests of a shape are to the cache.

        Raises MalformedRequest: a directive of ours cannot be read.
        """
        provider = self._providers[route.provider]
        headers = [field.recorded for field in shape.fields]
        directives = read_directives((field.recorded[0], field.value) for field in shape.fields)
        kind = provider.cache_kind(route.operation)
        mode = self.policy.mode_for(route.operation, route.model, directives.mode)
        turned_away = None
        if kind is not None and not asks_plainly(shape.method_text, kind, (name for name, _ in headers)):
            kind = None
        if kind is None or shape.websocket:
            turned_away = annotation.bypass(NEVER)
        elif mode == "off":
            turned_away = annotation.bypass("the cache is off")
        own = SHARED if self._shared else settlement.fingerprint or SHARED
        namespaces = (own, SHARED) if mode == "replay" and own != SHARED else (own,)
        accepted = b",".join(value for name, value in headers if name.lower() == b"accept-encoding")
        return Plan(
            self.policy,
            self.normalisers,
            self.upstream,
            provider,
            route,
            mode,
            directives,
            kind,
            target,
            headers,
            namespaces,
            accepted,
            turned_away,
        )

    def consult(self, member: Member, plan: Plan, body: bytes) -> None:
        """Find out how a request is to be answered, and have `member` do it, now or later."""
        question = plan.question(body)
        if isinstance(question, Note):
            self.turn_away(member, plan, question)
            return
        member.question = question
        known = Verdict.MISS
        if not plan.wants_new:
            answer = self._hot(question)
            if answer is not None:
                if self.serve(member, answer):
                    return
                known = self.verdict(question, answer)
        elif plan.must_be_recorded:
            self.nothing_recorded(member, Verdict.STALE)
            return
        shared = plan.directives.may_share
        if shared and (flight := self.flights.get(question.identity)) is not None:
            flight.join(member)
            return
        Flight(self, question, shared=shared, known=known).begin(member)

    def turn_away(self, member: Member, plan: Plan, note: Note) -> None:
        """A request that the record is not asked about."""
        if plan.must_be_recorded:
            error = NotRecorded(f"Only a recorded answer is wanted here, and there can be none: {note.detail}.")
            member.refuse(error, annotation.bypass(note.detail, unserved=True))
        else:
            member.call_out(note)

    def verdict(self, question: Question, answer: RecordedAnswer) -> Verdict:
        """Whether an answer serves a question."""
        return self.policy.verdict(
            question.plan.mode,
            kind=answer.kind,
            pinned=answer.pinned,
            age_s=(time_ns() - answer.stored_ns) / 1e9,
            ttl_s=question.ttl_s,
            max_age_s=question.plan.directives.max_age_s,
        )

    def serve(self, member: Member, answer: RecordedAnswer) -> bool:
        """Have a member play an answer, if it serves the member's question."""
        question = member.question
        if self.verdict(question, answer) != Verdict.HIT:
            return False
        plan = question.plan
        wanted = answer.variant(
            question.shape,
            plan.accepts,
            lambda body, have, want: plan.provider.reshape(question.operation, body, have, want),
        )
        if wanted is None:
            return False
        member.play(wanted, self._hit_note(question, wanted))
        return True

    def _hit_note(self, question: Question, answer: RecordedAnswer) -> Note:
        age_s = max(0, (time_ns() - answer.stored_ns) // 1_000_000_000)
        endless = answer.pinned or question.plan.mode == "replay"
        ttl_s = None if endless else question.ttl_s - age_s
        return annotation.hit(answer, date=self._now_text(), age_s=age_s, ttl_s=ttl_s)

    def nothing_recorded(self, member: Member, verdict: Verdict) -> None:
        """A question that only a recording may answer, and none does."""
        question = member.question
        plan = question.plan
        what = f"{question.operation} of {plan.route.model}" if plan.route.model else question.operation
        why = "what is recorded is too old" if verdict == Verdict.STALE else "nothing is recorded that answers it"
        error = NotRecorded(
            f"Only a recorded answer is wanted for this {what}, and {why}: "
            "`gemini-proxy cache explain last` shows the nearest recording and where it differs."
        )
        member.refuse(error, annotation.nothing_recorded(verdict, question.keys[0], why))

    def wire_answer(self, answer: RecordedAnswer) -> Answer:
        """The head of a recorded answer, as if it had been read from an upstream; pieces are to be added."""
        wire = Answer()
        wire.status, wire.reason, wire.head_done = answer.status, answer.reason, True
        if answer.has_length:
            wire.length = sum(map(len, answer.chunks))
            self._add(wire, (b"Content-Length", b"%d" % wire.length))
        else:
            wire.chunked = True
        for pair in answer.headers:
            self._add(wire, pair)
        return wire

    def _add(self, wire: Answer, pair: tuple[bytes, bytes]) -> None:
        field: Field = self._fields[pair]
        wire.fields.append(field)
        if field.kind not in (Kind.PASS, Kind.DROP):
            wire.special.append(field)

    def keep(self, question: Question, answer: RecordedAnswer) -> None:
        """Hold a fresh answer for the next who asks, if it is one that may serve."""
        plan = question.plan
        plain = uncoded(answer.headers, b"".join(answer.chunks))
        if plan.directives.no_store or plain.error is not None:
            return
        endings = plan.provider.endings(plan.route.operation, answer.headers, plain.data)
        if self.policy.entry_kind(answer.status, question.kind, endings) == "answer":
            self._heed_changes()
            self.hot.put(answer)

    def _hot(self, question: Question) -> RecordedAnswer | None:
        self._heed_changes()
        for key in question.keys:
            answer = self.hot.get(key)
            if answer is not None:
                return answer
        return None

    def _heed_changes(self) -> None:
        """Drop what is held if entries were changed behind our back."""
        changed_ns = last_change_ns(self._data_dir)
        if changed_ns != self._seen_change_ns:
            self._seen_change_ns = changed_ns
            self.hot.clear()

    def _now_text(self) -> bytes:
        now = int(time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]
