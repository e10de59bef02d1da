"""The Live API over WebSocket: setup, turns, and the ways such a connection can end badly.

Server messages are pretty-printed JSON in binary frames. Audio and video are counted, not understood. Saying
"simulate close CODE" in a turn closes the connection with that code.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
from typing import Any

from . import content, models
from .answers import Answer, Question, Tool, answer_for
from .backend import Backend, Request
from .call import Call, ClientGoneError
from .generation import field
from .reply import pretty
from .websocket import FrameReader, Message, Opcode, ProtocolViolationError, accept_value, close_frame, frame

Json = dict[str, Any]
METHODS = ("BidiGenerateContent", "BidiGenerateContentConstrained", "BidiGenerateMusic")
_CLOSE = re.compile(r"simulate close (\d{4})")
MIB = 1 << 20


def is_live(request: Request) -> bool:
    """Whether the target is one of the Live API's."""
    return request.area == "ws" and request.resource.replace("/", ".").rsplit(".", 1)[-1] in METHODS


def can_upgrade(request: Request) -> bool:
    """Whether the request is a WebSocket handshake of version 13."""
    return (
        request.call.upgrade
        and (request.header("upgrade") or "").lower() == "websocket"
        and request.header("sec-websocket-version") == "13"
        and request.header("sec-websocket-key") is not None
    )


class LiveSession:
    """One connection, from handshake to close."""

    def __init__(self, backend: Backend, request: Request, fault: tuple[str, str] | None = None) -> None:
        self._backend = backend
        self._request = request
        self._call: Call = request.call
        self._reader = FrameReader()
        self._fault = fault
        self._model = ""
        self._tools: tuple[Tool, ...] = ()
        self._turn = 0

    async def run(self) -> None:
        """Until either side closes."""
        await self._accept()
        if self._fault is not None and await self._misbehave(*self._fault):
            return
        while True:
            data = await self._call.read_raw()
            if not data:
                raise ClientGoneError
            try:
                for message in self._reader.feed(data):
                    if await self._handle(message):
                        return
            except ProtocolViolationError as error:
                await self._close(1002, str(error))
                return

    async def _accept(self) -> None:
        key = self._call.header(b"sec-websocket-key") or b""
        self._call.start_raw()
        self._call.received.status = 101
        await self._call.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\nServer: scaffolding on HTTPServer2\r\n\r\n" % accept_value(key)
        )

    async def _handle(self, message: Message) -> bool:
        """Answers one message; true when the connection is over."""
        if message.opcode is Opcode.CLOSE:
            code = struct.unpack(">H", message.data[:2])[0] if len(message.data) >= 2 else 1000
            await self._close(code)
            return True
        if message.opcode is Opcode.PING:
            await self._call.write(frame(Opcode.PONG, message.data))
        if message.opcode not in (Opcode.TEXT, Opcode.BINARY):
            return False
        try:
            said = json.loads(message.data)
        except ValueError:
            await self._close(1007, "Request contains an invalid JSON payload.")
            return True
        return await self._hear(said if isinstance(said, dict) else {})

    async def _hear(self, said: Json) -> bool:
        if setup := field(said, "setup"):
            return await self._set_up(setup)
        if turns := field(said, "clientContent"):
            text = _text_of(field(turns, "turns") or [])
            if close := _CLOSE.search(text):
                await self._close(int(close[1]), "As you wish.")
                return True
            if field(turns, "turnComplete", True):
                await self._answer(text, after_tool=False)
        elif field(said, "toolResponse") is not None:
            await self._answer("the tool's result", after_tool=True)
        elif heard := (field(said, "realtimeInput") or {}).get("text"):
            await self._answer(str(heard), after_tool=False)
        return False

    async def _set_up(self, setup: Json) -> bool:
        self._model = str(setup.get("model", "")).removeprefix("models/")
        if models.find(self._model, self._backend.options.extra_models) is None:
            await self._close(1008, f"models/{self._model} is not found for API version {self._request.version}")
            return True
        self._tools = tuple(
            Tool(str(declared.get("name")), declared.get("parameters") or {"type": "object"})
            for tool in field(setup, "tools") or []
            for declared in field(tool, "functionDeclarations") or []
        )
        await self._send({"setupComplete": {}})
        if field(setup, "sessionResumption") is not None:
            handle = self._backend.rng("handle", self._model).randbytes(16).hex()
            await self._send({"sessionResumptionUpdate": {"newHandle": handle, "resumable": True}})
        return False

    async def _answer(self, text: str, *, after_tool: bool) -> None:
        self._turn += 1
        question = Question(
            model=self._model,
            key=f"{self._turn}:{text}",
            last_text=text,
            prompt_tokens={"TEXT": content.tokens(text)},
            tools=self._tools,
            after_tool_result=after_tool,
            thinks=False,
        )
        answer = answer_for(question, self._backend.options.seed)
        if answer.call is not None:
            call = {"id": answer.call.id, "name": answer.call.name, "args": dict(answer.call.arguments)}
            await self._send({"toolCall": {"functionCalls": [call]}} | _usage(question, answer))
            return
        pieces = content.split_text(answer.rng, answer.text, 4) if answer.text else [""]
        for piece in pieces:
            await asyncio.sleep(self._request.pacing(self._backend.options.pacing).chunk_s)
            await self._send({"serverContent": {"modelTurn": {"parts": [{"text": piece}], "role": "model"}}})
        await self._send({"serverContent": {"generationComplete": True}})
        await self._send({"serverContent": {"turnComplete": True}} | _usage(question, answer))

    async def _send(self, value: Json) -> None:
        await self._call.write(frame(Opcode.BINARY, (pretty(value) + "\n").encode()))

    async def _close(self, code: int, reason: str = "") -> None:
        # 1005, 1006 and 1015 must not be sent: 1006 is what a peer sees when nothing is sent.
        if code != 1006:
            await self._call.write(frame(Opcode.CLOSE, b"") if code == 1005 else close_frame(code, reason))
        await self._call.finish()

    async def _misbehave(self, name: str, argument: str) -> bool:
        """Plays a fault right after the handshake; true when it ends the connection."""
        if name == "ws-close":
            await self._close(int(argument or 1011), "simulated")
            return True
        if name == "ws-reset":
            self._call.reset()
            return True
        if name == "ws-huge":
            await self._call.write(frame(Opcode.BINARY, b"\0" * (int(argument or 16) * MIB)))
        if name == "ws-pings":
            for number in range(int(argument or 1000)):
                await self._call.write(frame(Opcode.PING, b"%d" % number))
        return False


def _text_of(turns: Any) -> str:
    parts = [part for turn in turns for part in field(turn, "parts") or []]
    return " ".join(str(part.get("text") or "") for part in parts).strip()


def _usage(question: Question, answer: Answer) -> Json:
    """The Live API's spelling: `response…`, not `candidates…`."""
    said, asked = answer.output_tokens, question.prompt_total
    return {"usageMetadata": {"promptTokenCount": asked, "responseTokenCount": said, "totalTokenCount": asked + said}}
