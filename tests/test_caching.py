"""The worker's cache against a model: in whatever order things happen, only what may serve does, and nobody hangs."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gemini_caching_proxy.cache.changes import CHANGED_FILE
from gemini_caching_proxy.cache.directives import PLAIN, Directives
from gemini_caching_proxy.cache.policy import Policy
from gemini_caching_proxy.settings import CacheMode
from inflight import (
    Caller,
    HandLookup,
    consult,
    make_answer,
    make_body,
    make_caching,
    make_plan,
    recorded_answer,
)

TTL_S = 1000.0
TEXTS = ("one", "two")
WISHES: dict[str, tuple[CacheMode, Directives]] = {
    "plain": ("all", PLAIN),
    "safe": ("safe", PLAIN),
    "replay": ("replay", PLAIN),
    "no-cache": ("all", Directives(no_cache=True)),
    "no-store": ("all", Directives(no_store=True)),
    "max-age": ("all", Directives(max_age_s=300)),
    "only": ("all", Directives(only_if_cached=True)),
}


@dataclass
class Known:
    """An answer that came whole and well, and what may still be done with it."""

    text: str
    body: bytes
    age_s: float = 0.0
    pinned: bool = False
    evicted: bool = False


class CacheModel(RuleBasedStateMachine):
    """The model knows every good answer by its nonce. The store is the model's, memory and flights the program's."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cache-model-"))
        self.policy = Policy(mode="all", ttls={"generation": TTL_S})
        self.lookup = HandLookup()
        self.caching = make_caching(self.folder, self.lookup, self.policy, largest=2000)
        self.nonces = 0
        self.known: dict[bytes, Known] = {}
        self.stored: dict[str, bytes] = {}
        """What the store serves, by text."""
        self.unrecorded: list[Known] = []
        """What the recorder has yet to store."""
        self.callers: list[tuple[Caller, str, str, frozenset[bytes]]] = []
        """Caller, text, wish, and what had been evicted or replaced by then."""
        self.looked_at: set[Caller] = set()
        self.remembered: dict[str, bytes | None] = dict.fromkeys(TEXTS)
        """What is certainly in memory."""

    def teardown(self) -> None:
        self.lookup.answer_all()
        for caller, *_ in self.callers:
            if caller.calling:
                caller.comes(make_answer("the end"), complete=True)
        self.lookup.answer_all()
        for caller, *_ in self.callers:
            if caller.calling:
                caller.comes(make_answer("the end"), complete=True)
        assert all(caller.over for caller, *_ in self.callers), "nobody is left waiting"
        assert not self.caching.flights
        shutil.rmtree(self.folder)

    # What clients do

    @rule(text=st.sampled_from(TEXTS), wish=st.sampled_from(sorted(WISHES)))
    def ask(self, text: str, wish: str) -> None:
        mode, directives = WISHES[wish]
        gone = frozenset(body for body, known in self.known.items() if known.evicted)
        caller = consult(self.caching, make_plan(self.caching, mode, directives), text)
        self.callers.append((caller, text, wish, gone))
        body = self.remembered[text]
        if body is not None and self.serves(self.known[body], wish):
            assert caller.played is not None, f"{wish} is served what was answered a moment ago"
            assert caller.body == body

    @rule(text=st.sampled_from(TEXTS), wish=st.sampled_from(sorted(WISHES)))
    def ask_and_look(self, text: str, wish: str) -> None:
        """Ask when the store answers at once."""
        self.lookup.answer_all()
        flights = dict(self.caching.flights)
        self.ask(text, wish)
        caller = self.callers[-1][0]
        self.lookup.answer_all()
        joined = caller.flight is not None and caller.flight in flights.values()
        stored = self.stored.get(text)
        if caller.whole or joined or stored is None or not self.serves(self.known[stored], wish):
            return
        raise AssertionError(f"{wish} is served what the store has")

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.live())).client_gone()

    # What the upstream does

    @precondition(lambda self: self.calling())
    @rule(data=st.data(), how=st.sampled_from(["whole", "halves", "whole", "bad end", "no end", "large"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        caller, text, wish = data.draw(st.sampled_from(self.calling()))
        self.nonces += 1
        nonce = f"nonce {self.nonces}" + ("x" * 3000 if how == "large" else "")
        finish = {"bad end": "SAFETY", "no end": None}.get(how, "STOP")
        body = make_answer(nonce, finish)
        begun = caller.body
        if begun:
            # What began is ended: its nonce is the beginning's.
            body = begun + b"]}"
            finish = "STOP"
        if how == "halves" and not begun:
            caller.comes(body[:10])
            caller.comes(body[10:], complete=True)
        else:
            caller.comes(body[len(begun) :], complete=True)
        assert caller.body == body
        if finish == "STOP" and not begun and wish != "no-store":
            self.succeeded(Known(text, body), how == "large")

    @rule(text=st.sampled_from(TEXTS), again=st.sampled_from(sorted(WISHES)), seconds=st.sampled_from([0, 400, 1100]))
    def ask_answer_and_ask_again(self, text: str, again: str, seconds: int) -> None:
        """The commonest story, which chance alone seldom tells."""
        self.ask_and_look(text, "plain")
        caller = self.callers[-1][0]
        if caller.calling:
            self.nonces += 1
            body = make_answer(f"nonce {self.nonces}")
            caller.comes(body, complete=True)
            self.succeeded(Known(text, body), large=False)
        if seconds:
            self.time_passes(seconds)
        self.ask_and_look(text, again)

    @precondition(lambda self: self.calling())
    @rule(data=st.data(), status=st.sampled_from([429, 500]))
    def refuse(self, data: st.DataObject, status: int) -> None:
        caller, *_ = data.draw(st.sampled_from(self.calling()))
        if not caller.body:
            caller.comes(b'{"error": {}}', complete=True, status=status)

    @precondition(lambda self: self.calling())
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        caller, *_ = data.draw(st.sampled_from(self.calling()))
        if not caller.body:
            self.nonces += 1
            caller.comes(b'{"begun": %d, "candidates": [' % self.nonces)

    @precondition(lambda self: self.calling())
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.calling()))[0].breaks()

    # What the store, the recorder and time do

    @precondition(lambda self: self.lookup.asked)
    @rule(late=st.booleans())
    def look(self, late: bool) -> None:
        self.lookup.answer(late=late)

    @rule()
    def record(self) -> None:
        for known in self.unrecorded:
            current = self.stored.get(known.text)
            if current is None or not self.known[current].pinned:
                self.stored[known.text] = known.body
        self.unrecorded.clear()
        self.fill_store()

    # Never exactly a limit: real time passes too.
    @rule(seconds=st.sampled_from([11, 400, 1100]))
    def time_passes(self, seconds: int) -> None:
        self.only_what_may_serve_serves()
        for known in self.known.values():
            known.age_s += seconds
        for answer in [*self.lookup.entries.values(), *(each for each, _ in self.caching.hot._answers.values())]:
            answer.stored_ns -= seconds * 10**9

    @rule(text=st.sampled_from(TEXTS))
    def evict(self, text: str) -> None:
        body = self.stored.pop(text, None)
        if body is None:
            return
        self.known[body].evicted = True
        self.known[body].pinned = False
        self.changed()

    @rule(text=st.sampled_from(TEXTS), pinned=st.booleans())
    def pin(self, text: str, pinned: bool) -> None:
        if text in self.stored:
            self.known[self.stored[text]].pinned = pinned
            self.changed()

    @rule()
    def restart(self) -> None:
        self.lookup.answer_all()
        if not self.calling():
            self.caching = make_caching(self.folder, self.lookup, self.policy, largest=2000)
            self.remembered = dict.fromkeys(TEXTS)
            self.callers = [each for each in self.callers if not each[0].over]

    # What must hold

    @invariant()
    def only_what_may_serve_serves(self) -> None:
        for caller, text, wish, gone in self.callers:
            if caller.played is None or caller in self.looked_at:
                continue
            self.looked_at.add(caller)
            known = self.known[caller.body]
            assert known.text == text
            assert caller.body not in gone, "what was evicted before the question is not served"
            assert self.serves(known, wish)

    @invariant()
    def who_wants_a_recording_never_calls(self) -> None:
        assert not any(caller.calls for caller, _, wish, _ in self.callers if wish in ("replay", "only"))

    @invariant()
    def nobody_calls_twice(self) -> None:
        assert all(caller.calls <= 1 for caller, *_ in self.callers)

    @invariant()
    def only_members_of_flights_wait(self) -> None:
        for caller, *_ in self.callers:
            assert not caller.waits or caller.flight is not None

    # Its own affairs

    def serves(self, known: Known, wish: str) -> bool:
        if wish == "no-cache":
            return False
        if wish == "replay":
            return True
        if wish == "max-age" and known.age_s > 300:
            return False
        return known.pinned or known.age_s < TTL_S

    def succeeded(self, known: Known, large: bool) -> None:
        self.known[known.body] = known
        if large:
            # Neither memory nor recorder take it.
            return
        self.unrecorded.append(known)
        pinned = self.stored.get(known.text)
        if pinned is None or not self.known[pinned].pinned:
            self.remembered[known.text] = known.body

    def changed(self) -> None:
        """What the commands do: the store is changed, and workers get a sign."""
        self.fill_store()
        self.nonces += 1
        path = self.folder / CHANGED_FILE
        path.touch()
        os.utime(path, ns=(self.nonces, self.nonces))
        self.remembered = dict.fromkeys(TEXTS)

    def fill_store(self) -> None:
        self.lookup.entries.clear()
        plan = make_plan(self.caching)
        for text, body in self.stored.items():
            known = self.known[body]
            key = consult_key(plan, text)
            answer = recorded_answer(key, body, pinned=known.pinned, age_s=known.age_s)
            self.lookup.entries[key] = answer

    def live(self) -> list[Caller]:
        return [caller for caller, *_ in self.callers if not caller.over and not caller.left]

    def calling(self) -> list[tuple[Caller, str, str]]:
        return [(caller, text, wish) for caller, text, wish, _ in self.callers if caller.calling]


def consult_key(plan: Any, text: str) -> bytes:
    question = plan.question(make_body(text))
    return bytes(question.keys[0])


TestCacheModel = pytest.mark.slow(CacheModel.TestCase)
TestCacheModel.settings = settings(
    max_examples=600, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
