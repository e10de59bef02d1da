"""WebSocket frames (RFC 6455), the server's side, without extensions: enough for the Live API and for its faults.

`FrameReader` is sans-I/O: bytes in, messages and control frames out.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_MESSAGE = 64 << 20


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class ProtocolViolationError(Exception):
    """The peer sent what RFC 6455 forbids; the connection is to be closed with 1002."""


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message or a control frame."""

    opcode: Opcode
    data: bytes


def accept_value(key: bytes) -> bytes:
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())  # noqa: S324 - the RFC's choice, not for security


def frame(opcode: Opcode, data: bytes, *, final: bool = True) -> bytes:
    """One unmasked frame, as servers send them (section 5.2)."""
    size = len(data)
    if size < 126:
        lengths = struct.pack(">B", size)
    elif size < 1 << 16:
        lengths = struct.pack(">BH", 126, size)
    else:
        lengths = struct.pack(">BQ", 127, size)
    return bytes([(0x80 if final else 0) | opcode]) + lengths + data


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(Opcode.CLOSE, struct.pack(">H", code) + reason.encode())


class FrameReader:
    """Puts a client's frames together to messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._message = bytearray()
        self._opcode: Opcode | None = None

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete now.

        Raises:
            ProtocolViolationError: an unmasked or ill-formed frame, or a message over `MAX_MESSAGE` bytes.
        """
        self._buffer += data
        while (frame_read := self._next_frame()) is not None:
            final, opcode, payload = frame_read
            if opcode >= Opcode.CLOSE:
                yield Message(opcode, payload)
                continue
            if opcode is not Opcode.CONTINUATION:
                self._opcode = opcode
                self._message.clear()
            if self._opcode is None:
                raise ProtocolViolationError("a continuation of nothing")
            self._message += payload
            if final:
                yield Message(self._opcode, bytes(self._message))
                self._message.clear()
                self._opcode = None

    def _next_frame(self) -> tuple[bool, Opcode, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if buffer[0] & 0x70 or not buffer[1] & 0x80:
            raise ProtocolViolationError("reserved bits are set, or a client's frame is not masked")
        size, start = buffer[1] & 0x7F, 2
        if size == 126:
            size, start = struct.unpack_from(">H", buffer, 2)[0] if len(buffer) >= 4 else MAX_MESSAGE, 4
        elif size == 127:
            size, start = struct.unpack_from(">Q", buffer, 2)[0] if len(buffer) >= 10 else MAX_MESSAGE, 10
        if size > MAX_MESSAGE:
            raise ProtocolViolationError("the message is too long")
        if len(buffer) < start + 4 + size:
            return None
        try:
            opcode = Opcode(buffer[0] & 0x0F)
        except ValueError:
            raise ProtocolViolationError("an unknown opcode") from None
        mask = bytes(buffer[start : start + 4])
        payload = _unmasked(bytes(buffer[start + 4 : start + 4 + size]), mask)
        final = bool(buffer[0] & 0x80)
        del buffer[: start + 4 + size]
        return final, opcode, payload


def _unmasked(data: bytes, mask: bytes) -> bytes:
    pad = mask * (len(data) // 4 + 1)
    mixed = int.from_bytes(data) ^ int.from_bytes(pad[: len(data)])
    return mixed.to_bytes(len(data))
