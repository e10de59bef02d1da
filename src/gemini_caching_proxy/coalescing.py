"""Identical requests in flight share one upstream call.

A flight looks into the record once for all its members. If nothing there serves, the first member calls the upstream
and the others follow: who joins late gets the chunks so far, then the live tail. A call that fails before its answer
began, or answers with an error, is nobody else's: the followers then call out themselves, all at once, so none waits
in line. A caller whose client leaves goes on calling for those that follow.
"""

from __future__ import annotations

from collections.abc import Coroutine
from time import monotonic_ns, time_ns
from typing import Any, Protocol

from .annotation import Note, collapsed, miss, refetch
from .cache.answers import HotAnswers, RecordedAnswer, lasting
from .content_coding import content_codings
from .errors import UpstreamError, WireError
from .exchange import Verdict
from .lookup import Lookup
from .question import Identity, Question
from .relay.upstream import Answer


class Member(Protocol):
    """A passage as its flight sees it."""

    question: Question
    """What it asks; set before anything else."""

    @property
    def exchange_id(self) -> bytes:
        """Of its record; empty without one."""

    @property
    def redacted(self) -> bool:
        """Whether a credential was found in its bodies: then they serve nobody else."""

    @property
    def paused(self) -> bool:
        """Whether its client reads slower than we write."""

    @property
    def left(self) -> bool:
        """Whether its client is gone."""

    def take_flight(self, flight: Flight | None) -> None:
        """It is in this flight now, or in none."""

    def call_out(self, note: Note) -> None:
        """Call the upstream."""

    def follow(self, note: Note) -> None:
        """Another member's answer comes by `upstream_data`."""

    def play(self, answer: RecordedAnswer, note: Note) -> None:
        """Give the client a recorded answer."""

    def refuse(self, error: WireError, note: Note) -> None:
        """Give the client an error of ours."""

    def upstream_data(self, answer: Answer) -> None: ...

    def upstream_failed(self, error: UpstreamError) -> None: ...

    def client_gone(self) -> None: ...

    def pause_upstream(self, paused: bool) -> None: ...


class Answers(Protocol):
    """What a flight needs of the cache."""

    flights: dict[Identity, Flight]
    """Those that may be joined, by the identity of what they ask."""
    hot: HotAnswers
    lookup: Lookup
    largest: int
    """Bytes of the largest answer that is held."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> Any: ...

    def verdict(self, question: Question, answer: RecordedAnswer) -> Verdict: ...

    def serve(self, member: Member, answer: RecordedAnswer) -> bool:
        """Have a member play an answer, if it serves."""

    def nothing_recorded(self, member: Member, verdict: Verdict) -> None:
        """Only a recording would have done for this member."""

    def keep(self, question: Question, answer: RecordedAnswer) -> None:
        """Hold a fresh answer for the next who asks."""


class Flight:
    """Members that ask the same, and the one call that answers them."""

    def __init__(self, caching: Answers, question: Question, *, shared: bool, known: Verdict = Verdict.MISS) -> None:
        """`shared`: whether others may join. `known`: why what is in memory does not serve."""
        self._caching = caching
        self._question = question
        self._shared = shared
        self._known = known
        self._members: list[Member] = []
        """While the record is asked: all; then those that follow the caller."""
        self._caller: Member | None = None
        self._copies: dict[int, Answer] = {}
        """By `id` of the follower: the answer as that one sees it."""
        self._answer: Answer | None = None
        self._pieces: list[bytes] = []
        self._offsets_us: list[int] = []
        self._size = 0
        self._kept_whole = True
        self._began_ns = self._first_ns = 0
        self._over = False

    def __repr__(self) -> str:
        return f"<Flight of {len(self._members)} {'calling' if self._caller else 'looking'}>"

    def begin(self, member: Member) -> None:
        """With its first member: ask the record, unless that one wants a new answer."""
        self._members.append(member)
        member.take_flight(self)
        if self._shared:
            self._caching.flights[self._question.identity] = self
        if self._question.plan.wants_new:
            self._depart(refetch(self._question.keys[0], self._question.kept_s))
        else:
            self._caching.spawn(self._look())

    def go(self, member: Member) -> None:
        """With its only member: call at once."""
        self._members.append(member)
        member.take_flight(self)
        self._depart(miss(Verdict.MISS, self._question.keys[0], self._question.kept_s))

    def join(self, member: Member) -> None:
        """Another one asks the same."""
        self._members.append(member)
        member.take_flight(self)
        if self._caller is not None:
            self._lead(member)

    def leave(self, member: Member) -> bool:
        """A member's client is gone. Whether the member must go on calling, for others."""
        if member is self._caller:
            return bool(self._members)
        self._forget(member)
        if not self._members and self._caller is None:
            self._close()
        elif not self._members and self._caller is not None and self._caller.left:
            self._caller.client_gone()
        self.press()
        return False

    def stopped(self, member: Member) -> None:
        """A member does not wait or call any more."""
        if member is self._caller:
            self._release()
        else:
            self._forget(member)

    def _forget(self, member: Member) -> None:
        if member in self._members:
            self._drop(member)

    def press(self) -> None:
        """Pass back-pressure on: one slow client does not hold up the others, as long as all of it can be held."""
        if self._caller is None:
            return
        members = [self._caller, *self._members]
        alone = not self._members or not self._kept_whole
        self._caller.pause_upstream(alone and any(each.paused for each in members))

    async def _look(self) -> None:
        hot = self._caching.hot
        clearings = hot.clearings
        question = self._question
        found = await self._caching.lookup.find(question.keys, patient=question.plan.must_be_recorded)
        if self._over:
            return
        verdict = self._known
        if found is not None:
            if hot.clearings == clearings:
                hot.put(found)
            verdict = self._caching.verdict(self._question, found)
        if found is not None:
            members, self._members = self._members, []
            for member in members:
                member.take_flight(None)
                if not self._caching.serve(member, found):
                    member.take_flight(self)
                    self._members.append(member)
        if not self._members:
            self._close()
        elif self._question.plan.must_be_recorded:
            for member in list(self._members):
                self._drop(member)
                self._caching.nothing_recorded(member, verdict)
            self._close()
        else:
            verdict = Verdict.STALE if verdict == Verdict.STALE else Verdict.MISS
            self._depart(miss(verdict, self._question.keys[0], self._question.kept_s))

    def _depart(self, note: Note) -> None:
        caller = self._caller = self._members.pop(0)
        self._began_ns = monotonic_ns()
        caller.call_out(note)
        for member in list(self._members):
            self._lead(member)

    def _lead(self, follower: Member) -> None:
        """Make a member follow the call, with what came of it so far."""
        assert self._caller is not None
        question = self._question
        follower.follow(collapsed(question.keys[0], question.ttl_s, self._caller.exchange_id))
        if self._answer is not None:
            self._pass_on(follower, list(self._pieces))
        self.press()

    # What the caller tells

    def came(self, member: Member, answer: Answer, pieces: list[bytes]) -> None:
        """More of the answer: its head at the first time, pieces, its end when it is complete."""
        if self._over or member is not self._caller:
            return
        if self._answer is None:
            self._answer, self._first_ns = answer, monotonic_ns()
            if answer.status != 200:
                self._release()
                return
        self._size += sum(map(len, pieces))
        if self._kept_whole:
            now_us = (monotonic_ns() - self._first_ns) // 1000
            self._pieces += pieces
            self._offsets_us += [now_us] * len(pieces)
            if self._size > self._caching.largest:
                self._grow_too_large()
        for follower in list(self._members):
            self._pass_on(follower, list(pieces))
        if answer.complete:
            self._end(answer)

    def failed(self, member: Member, error: UpstreamError) -> None:
        """The call broke off. Who has part of the answer breaks off too; the others call out themselves."""
        if member is not self._caller:
            return
        if self._answer is None:
            self._release()
            return
        followers, self._members = self._members, []
        self._close()
        for follower in followers:
            follower.take_flight(None)
            follower.upstream_failed(error)

    def _pass_on(self, follower: Member, pieces: list[bytes]) -> None:
        answer = self._answer
        assert answer is not None
        copy = self._copies.get(id(follower))
        if copy is None:
            copy = self._copies[id(follower)] = Answer()
            copy.status, copy.reason, copy.fields, copy.special = (
                answer.status,
                answer.reason,
                answer.fields,
                answer.special,
            )
            copy.length, copy.chunked, copy.head_done = answer.length, answer.chunked, True
        copy.pieces, copy.complete, copy.trailers = pieces, answer.complete, answer.trailers
        if answer.complete:
            self._drop(follower)
        follower.upstream_data(copy)

    def _release(self) -> None:
        """Let the followers go their own ways."""
        followers, self._members = self._members, []
        self._close()
        for follower in followers:
            Flight(self._caching, follower.question, shared=False).go(follower)

    def _grow_too_large(self) -> None:
        self._kept_whole = False
        self._unlist()
        self._pieces, self._offsets_us = [], []

    def _end(self, answer: Answer) -> None:
        caller = self._caller
        assert caller is not None
        self._close()
        if self._kept_whole and not caller.redacted and caller.exchange_id:
            self._caching.keep(self._question, self._recorded(answer, caller))

    def _recorded(self, answer: Answer, caller: Member) -> RecordedAnswer:
        headers = tuple(field.recorded for field in answer.fields)
        return RecordedAnswer(
            self._question.keys[0],
            caller.exchange_id,
            "answer",
            False,
            time_ns(),
            answer.status,
            answer.reason,
            lasting(headers),
            tuple(self._pieces),
            tuple(self._offsets_us),
            self._question.shape,
            answer.length is not None and not answer.chunked,
            (monotonic_ns() - self._began_ns) // 1000,
            content_codings(headers),
        )

    def _drop(self, member: Member) -> None:
        self._members.remove(member)
        self._copies.pop(id(member), None)
        member.take_flight(None)

    def _close(self) -> None:
        self._over = True
        self._unlist()
        if self._caller is not None:
            self._caller.take_flight(None)

    def _unlist(self) -> None:
        if self._caching.flights.get(self._question.identity) is self:
            del self._caching.flights[self._question.identity]
