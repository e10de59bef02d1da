"""The running cache against a model: asks, failures, evictions and restarts in any order, with one client at a time."""

from __future__ import annotations

import itertools
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gemini_caching_proxy.cli import main
from wire import CHUNKED, Answered, Asked, Peer, ScriptedUpstream, ask, chunk, respond

from .asking import SSE, call, events, generate, said, stream, unary
from .serving import ProxyProcess

TEXTS = ("one", "two")
METHODS = (b"generateContent", SSE)
WISHES = {
    "plain": (),
    "no-cache": (b"Cache-Control: no-cache",),
    "no-store": (b"Cache-Control: no-store",),
    "only": (b"Cache-Control: only-if-cached",),
    "replay": (b"X-Cache-Mode: replay",),
    "off": (b"X-Cache-Mode: off",),
}
CALLS_NEVER = ("only", "replay")


class RunningCache(RuleBasedStateMachine):
    """What must be served is known at any time: the last good answer, once it is recorded or still in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.upstream = self.stack.enter_context(ScriptedUpstream(self.script))
        self.numbers = itertools.count(1)
        self.outcome = "good"
        self.model: dict[str, list[str]] = {}
        """Text asked -> nonces that may be served, the newest last: memory may still hold an older one."""
        self.errors: set[str] = set()
        """Texts for which a recorded error may be replayed."""
        self.last = ""
        self.start()

    def start(self) -> None:
        self.proxy = ProxyProcess(self.folder, upstream=self.upstream.url, cache_lookup_ms=5000).start()

    def teardown(self) -> None:
        self.proxy.stop()
        self.stack.close()

    def script(self, peer: Peer) -> None:
        while True:
            peer.send(self.answer(peer.request(), peer))

    def answer(self, asked: Asked, peer: Peer) -> bytes:
        self.last = f"nonce {next(self.numbers)} "
        streamed = b"alt=sse" in asked.target
        if self.outcome == "error":
            return respond(json.dumps({"error": {"code": 500, "message": self.last}}).encode(), status=b"500 No")
        if self.outcome == "partial" and streamed:
            peer.send(CHUNKED + chunk(events(self.last)[0]))
            peer.fin()
            return b""
        finish = "SAFETY" if self.outcome == "safety" else "STOP"
        return stream(events(self.last, 2, finish)) if streamed else unary(self.last, finish)

    @rule(
        text=st.sampled_from(TEXTS),
        method=st.sampled_from(METHODS),
        wish=st.sampled_from(sorted(WISHES)),
        outcome=st.sampled_from(["good", "good", "good", "error", "partial", "safety"]),
    )
    def ask(self, text: str, method: bytes, wish: str, outcome: str) -> None:
        self.outcome = outcome
        calls = len(self.upstream.requests)
        answered = ask(self.proxy.port, call(generate(text), method, *WISHES[wish]))
        called = len(self.upstream.requests) - calls
        served = self.model.get(text)
        if served is not None and wish not in ("no-cache", "off"):
            assert called == 0
            assert any(nonce.encode() in answered.body for nonce in served)
            assert "hit" in said(answered)
        elif wish in CALLS_NEVER:
            assert called == 0
            assert answered.status == 504 or (wish == "replay" and text in self.errors)
        else:
            assert called == 1
            self.learn(text, method, wish, answered)

    def learn(self, text: str, method: bytes, wish: str, answered: Answered) -> None:
        assert "hit" not in said(answered)
        partial = self.outcome == "partial" and method == SSE
        assert answered.complete != partial
        if partial or wish == "no-store":
            return
        if self.outcome in ("error", "safety"):
            self.errors.add(text)
            return
        if wish != "off":
            self.model[text] = [self.last]
            return
        # In mode off the worker learns nothing: others' questions find it once it is recorded.
        self.model.setdefault(text, []).append(self.last)
        self.recorded()

    @rule()
    def recorded(self) -> None:
        self.proxy.exchanges()
        assert main(["cache", "list", "--data-dir", str(self.proxy.data_dir), "--json"]) in (0, 1)

    @rule(text=st.sampled_from(TEXTS))
    def evict_all(self, text: str) -> None:
        self.proxy.exchanges()
        main(["cache", "evict", "--all", "--yes", "--data-dir", str(self.proxy.data_dir)])
        self.model.clear()
        self.errors.clear()

    @rule(how=st.sampled_from(["stop", "kill"]))
    def restart(self, how: str) -> None:
        self.proxy.exchanges()
        self.proxy.stop() if how == "stop" else self.proxy.kill()
        self.start()
        self.model = {text: nonces[-1:] for text, nonces in self.model.items()}

    @invariant()
    def the_upstream_is_well(self) -> None:
        assert not self.upstream.errors


TestRunningCache = pytest.mark.slow(RunningCache.TestCase)
TestRunningCache.settings = settings(
    max_examples=3, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
