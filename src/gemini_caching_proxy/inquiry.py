"""One request's search for its answer: the record is asked first where it may be, then the upstream.

A request that may be answered from the record waits here until its body is whole, which is needed to know what it asks.
What it is told then (`Member`) comes from the caching of its worker. The subclass is the passage, which takes the
answer, wherever it comes from, by `upstream_data`.
"""

from __future__ import annotations

import asyncio
import re

from .annotation import Note
from .cache.answers import RecordedAnswer
from .caching import Caching
from .call import Call
from .capture import Capture
from .coalescing import Flight
from .errors import WireError
from .exchange import FailureKind
from .playback import Playback
from .question import Question
from .relay.downstream import ClientConnection
from .relay.http1 import Request, Shape
from .relay.outbound import Outbound
from .relay.upstream import Answer, Pool

_JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*(?:[{\[\"]|\Z)")
"""What a body begins with that can be JSON: only such a body is waited for."""


class Inquiry(Outbound):
    """A request on its way to an answer."""

    __slots__ = (
        "_call",
        "_capture",
        "_client",
        "_flight",
        "_held",
        "_note",
        "_playback",
        "at_once",
        "paused",
        "question",
    )

    def __init__(self, client: ClientConnection, request: Request, shape: Shape, call: Call, pool: Pool) -> None:
        super().__init__(request, shape, pool)
        self._client: ClientConnection | None = client
        self._call = call
        self._capture: Capture | None = None
        self._held: list[bytes] | None = None
        """The body so far, while it is not known where the request goes."""
        self._flight: Flight | None = None
        self._note: Note | None = None
        self._playback: Playback | None = None
        self.at_once = False
        """Whether a recorded answer is given as a whole: it is then recorded as one piece."""
        self.paused = False
        self.question: Question

    @property
    def exchange_id(self) -> bytes:
        return self._capture.id_bytes if self._capture is not None else b""

    @property
    def redacted(self) -> bool:
        return self._capture is None or self._capture.redacted

    @property
    def left(self) -> bool:
        return self._client is None

    @property
    def calling(self) -> bool:
        """Whether an upstream call of its own is under way."""
        return self._upstream is not None or self._connecting is not None

    def inquire(self, pieces: list[bytes]) -> None:
        """Begin, with what is there of the body."""
        plan = self._call.plan
        if plan is None:
            self._dispatch(pieces)
        elif plan.turned_away is not None:
            self._held = pieces
            plan_caching(self._call).turn_away(self, plan, plan.turned_away)
        else:
            self._held = []
            self.continue_body(pieces)

    def continue_body(self, pieces: list[bytes]) -> None:
        """More of the body, or its end."""
        held, plan = self._held, self._call.plan
        if held is None or plan is None:
            self.forward(pieces)
            return
        held += pieces
        caching = plan_caching(self._call)
        if self._flight is not None or self._note is not None:
            return
        announced = self._request.announced_size or 0
        if max(announced, sum(map(len, held))) > caching.largest:
            caching.turn_away(self, plan, caching.too_large)
        elif held and _JSON_START.match(held[0]) is None and not plan.coded:
            caching.turn_away(self, plan, caching.not_json)
        elif self._request.complete:
            caching.consult(self, plan, held[0] if len(held) == 1 else b"".join(held))

    # What the caching of the worker tells (`Member`)

    def take_flight(self, flight: Flight | None) -> None:
        self._flight = flight

    def call_out(self, note: Note) -> None:
        self._take_note(note)
        held, self._held = self._held, None
        self._dispatch(held or [])

    def follow(self, note: Note) -> None:
        self._take_note(note)

    def play(self, answer: RecordedAnswer, note: Note) -> None:
        self._take_note(note)
        caching, plan = plan_caching(self._call), self._call.plan
        assert plan is not None
        wire = caching.wire_answer(answer)
        speed = plan.directives.speed
        if speed and answer.chunks:

            def give(chunk: bytes, last: bool) -> None:
                wire.pieces, wire.complete = [chunk], last
                self.upstream_data(wire)

            loop = asyncio.get_running_loop()
            self._playback = Playback(loop, answer.chunks, answer.offsets_us, speed, give)
            return
        self.at_once = True
        wire.pieces, wire.complete = list(answer.chunks), True
        self.upstream_data(wire)

    def refuse(self, error: WireError, note: Note) -> None:
        self._take_note(note)
        self.fail(error, FailureKind.NOT_RECORDED)

    def pause_upstream(self, paused: bool) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading(paused)

    # What the passage is for

    def fail(self, error: WireError, kind: FailureKind) -> None:
        """Answer with an error of ours, or break off an answer that began."""
        raise NotImplementedError

    def client_gone(self) -> None:
        raise NotImplementedError

    def upstream_data(self, answer: Answer) -> None:
        raise NotImplementedError

    # What the passage asks

    def own_lines(self, status: int) -> bytes:
        """The lines of an answer's head that are this one's alone."""
        capture, note = self._capture, self._note
        assert capture is not None
        if note is None:
            return capture.id_line
        return capture.id_line + (note.stored_line if status == 200 else note.line)

    def client_paused(self, paused: bool) -> None:
        """The client reads slower than we write (or caught up): whoever gives the answer holds back."""
        self.paused = paused
        if self._playback is not None:
            self._playback.pause(paused)
        elif self._flight is not None:
            self._flight.press()
        else:
            self.pause_upstream(paused)

    def stop_inquiry(self) -> None:
        """Nothing more is to come: of the upstream, of a playback, of others' calls."""
        self.drop_upstream()
        if self._playback is not None:
            self._playback.stop()
        if self._flight is not None:
            self._flight.stopped(self)

    def _dispatch(self, pieces: list[bytes]) -> None:
        upstream = self._pool.get()
        if upstream is not None:
            self.connected()
        self.dispatch(upstream, pieces, self._call.spawn)

    def _take_note(self, note: Note) -> None:
        self._note = note
        plan = self._call.plan
        if self._capture is not None and plan is not None and plan.has_a_say:
            self._capture.cached(note.verdict, note.key, note.source, note.source_us, note.detail)


def plan_caching(call: Call) -> Caching:
    """The caching of the worker, where a call has a plan."""
    assert call.caching is not None
    return call.caching
