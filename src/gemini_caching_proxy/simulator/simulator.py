"""The simulator: an API behind a listener, with faults on demand and a ledger of what was received.

A fault is chosen, in this order, by a script (`Simulator.script`), by the request header
`x-simulator-fault: NAME[:ARGUMENT]`, or by a model called `sim-NAME` or `sim-NAME--ARGUMENT`. An unknown fault in the
header is answered 400 and named.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from .api import Api
from .backend import Backend, Request, SimulatorOptions, encoded, problem_reply
from .bench import Bench
from .call import Call
from .connection import QuickReply
from .faults import FAULTS, Fault, Stage, UnknownFaultError, parse
from .faults.catalogue import DISTORTIONS, EARLY, REFUSALS, WIRE
from .ledger import Ledger
from .live import LiveSession, can_upgrade, is_live
from .problems import ApiProblem, invalid_argument
from .reply import Reply, body_writes, head_bytes
from .server import Server, ServerThread

Matcher = Callable[[Request], bool]


@dataclass(slots=True)
class _Cue:
    """A scripted play, for the next requests that match."""

    fault: Fault | None
    reply: Reply | None
    matches: Matcher
    left: int


class Simulator(Server):
    """A Gemini API that behaves, and misbehaves on demand."""

    def __init__(
        self,
        options: SimulatorOptions | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: tls.SSLContext | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(host=host, port=port, ssl=ssl, ledger=ledger)
        self.options = options or SimulatorOptions()
        self._backend = Backend(self.options)
        self.api = Api(self._backend)
        self._bench = Bench(self.options.seed)
        self._cues: deque[_Cue] = deque()

    async def start(self) -> None:
        await super().start()
        self._backend.url = self.url

    def script(self, fault: str, *, where: Matcher | str | None = None, times: int = 1) -> None:
        """Plays a fault for the next `times` requests that match.

        `where` is a predicate or a part of the target; None matches all. Cues are tried in the order they were given.

        Raises:
            UnknownFaultError: no fault has this name.
        """
        self._cues.append(_Cue(parse(fault), None, _matcher(where), times))

    def script_reply(self, reply: Reply, *, where: Matcher | str | None = None, times: int = 1) -> None:
        """Answers the next `times` requests that match with this reply, whose pieces must be in memory."""
        self._cues.append(_Cue(None, reply, _matcher(where), times))

    def quick_reply(self, target: bytes) -> QuickReply | None:
        return self._bench.reply(target)

    async def serve(self, call: Call) -> None:
        request = Request(call, self.options)
        cue = self._next_cue(request)
        try:
            fault = cue.fault if cue is not None else _asked_fault(request)
        except UnknownFaultError as error:
            problem = invalid_argument(f"{error}; the faults are {', '.join(FAULTS)}.")
            await self._send(request, problem_reply(request, problem))
            return
        call.received.fault = None if fault is None else str(fault)
        if fault is not None and fault.stage is Stage.EARLY:
            await EARLY[fault.name](call, fault.argument)
        elif is_live(request) and call.upgrade:
            await self._talk(request, fault)
        elif cue is not None and cue.reply is not None:
            await call.drain_body()
            await self._send(request, cue.reply)
        else:
            await self._answer(request, fault)

    async def _answer(self, request: Request, fault: Fault | None) -> None:
        if fault is not None and fault.stage is Stage.REFUSAL:
            await request.call.drain_body()
            reply = REFUSALS[fault.name](request, fault.argument)
        else:
            reply = await self.api.answer(request)
        if fault is not None and fault.stage is Stage.DISTORTION:
            reply = DISTORTIONS[fault.name](reply.in_memory(), fault.argument)
        else:
            reply = encoded(request, reply, allowed=self.options.gzip)
        if fault is not None and fault.stage is Stage.WIRE:
            # A cut answer has to be cut at its events, so it is looked at in memory.
            request.call.received.status = reply.status
            pacing = request.pacing(self.options.pacing)
            await WIRE[fault.name](request.call, reply.in_memory(), fault.argument, pacing)
            return
        # 204 and 304 are sent with the body they must not have only as a fault.
        await self._send(request, reply)

    async def _talk(self, request: Request, fault: Fault | None) -> None:
        try:
            self.api.check_credential(request)
            if not can_upgrade(request):
                raise invalid_argument("This is no WebSocket handshake of version 13.")
            if fault is not None and fault.stage is Stage.REFUSAL:
                await self._send(request, REFUSALS[fault.name](request, fault.argument), close=True)
                return
        except ApiProblem as problem:
            await self._send(request, problem_reply(request, problem), close=True)
            return
        play = (fault.name, fault.argument) if fault is not None and fault.stage is Stage.WEBSOCKET else None
        await LiveSession(self._backend, request, play).run()

    async def _send(self, request: Request, reply: Reply, *, close: bool = False) -> None:
        """Sends a reply correctly, in the asked-for portions and with the asked-for pauses."""
        call, pacing = request.call, request.pacing(self.options.pacing)
        call.received.status = reply.status
        must_close = close or reply.framing == "close" or not call.keep_alive or not call.received.body_complete
        if not call.received.body_complete and not close:
            await call.drain_body()
            must_close = reply.framing == "close" or not call.keep_alive
        call.keep_alive = not must_close
        await asyncio.sleep(pacing.first_byte_s)
        closing = ((b"Connection", b"close"),) if must_close and reply.framing != "close" else ()
        head = head_bytes(reply, *closing)
        if request.method == "HEAD":
            await call.write(head)
            return
        rng = Random(self.options.seed)
        for pause, wire in body_writes(reply, pacing, rng):
            if pause:
                await asyncio.sleep(pause)
            await call.write(head + wire)
            head = b""
        if head:
            await call.write(head)

    def _next_cue(self, request: Request) -> _Cue | None:
        for cue in list(self._cues):
            if cue.left > 0 and cue.matches(request):
                cue.left -= 1
                if cue.left == 0:
                    self._cues.remove(cue)
                return cue
        return None


class SimulatorThread(ServerThread[Simulator]):
    """`with SimulatorThread(seed=3) as simulator:` runs one in a thread; options go by name."""

    def __init__(
        self,
        options: SimulatorOptions | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: tls.SSLContext | None = None,
        **changes: object,
    ) -> None:
        # Typed loosely on purpose: `changes` are fields of SimulatorOptions, and `replace` checks their names.
        chosen = replace(options or SimulatorOptions(), **changes)  # type: ignore[arg-type]
        super().__init__(Simulator(chosen, host=host, port=port, ssl=ssl))


def _matcher(where: Matcher | str | None) -> Matcher:
    if where is None:
        return lambda request: True
    if isinstance(where, str):
        part = where.encode()
        return lambda request: part in request.call.target
    return where


def _asked_fault(request: Request) -> Fault | None:
    asked = request.header("x-simulator-fault")
    model = request.model
    if asked is None and model is not None and model.startswith("sim-"):
        name = model.removeprefix("sim-").replace("--", ":")
        try:
            return parse(name)
        except UnknownFaultError:
            # A `sim-` model that names no fault is just a model.
            return None
    return parse(asked) if asked else None
