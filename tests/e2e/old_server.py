"""A MongoDB that is too old, as far as a client gets to see: it says what it is, and refuses everything else."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Any, Self

import bson

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
HEADER = struct.Struct("<iiii")
"""Length, request id, response to, kind: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/."""


class OldServer:
    """Usable as a context manager.

    Args:
        version: such as "4.4.29".
        wire: the newest wire version that it speaks: 9 is MongoDB 4.4, 6 is 4.0.
    """

    def __init__(self, version: str, wire: int) -> None:
        self._version = version
        self._wire = wire
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.uri = f"mongodb://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer.makefile("rb") as stream:
                while header := stream.read(HEADER.size):
                    length, request, _, kind = HEADER.unpack(header)
                    peer.sendall(self._reply(request, kind, stream.read(length - HEADER.size)))
        except (OSError, struct.error):
            pass

    def _reply(self, request: int, kind: int, body: bytes) -> bytes:
        if kind == OP_QUERY:
            start = body.index(b"\0", 4) + 1 + 8  # after flags, the collection's name, and what to skip and return
            reply = struct.pack("<iqii", 8, 0, 0, 1)
        else:
            start, reply = 5, struct.pack("<ib", 0, 0)
        answer = reply + bson.encode(self._answer(next(iter(first_document(body[start:]))).lower()))
        return HEADER.pack(HEADER.size + len(answer), 0, request, OP_REPLY if kind == OP_QUERY else OP_MSG) + answer

    def _answer(self, command: str) -> dict[str, Any]:
        match command:
            case "hello" | "ismaster":
                return {
                    "ok": 1, "ismaster": True, "isWritablePrimary": True, "minWireVersion": 0,
                    "maxWireVersion": self._wire, "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48_000_000,
                    "maxWriteBatchSize": 100_000, "logicalSessionTimeoutMinutes": 30, "readOnly": False,
                }  # fmt: skip
            case "buildinfo":
                numbers = [*map(int, self._version.split(".")), 0]
                return {"ok": 1, "version": self._version, "versionArray": numbers}
            case "ping" | "endsessions":
                return {"ok": 1}
            case _:
                return {"ok": 0, "code": 59, "codeName": "CommandNotFound", "errmsg": f"no such command: '{command}'"}


def first_document(data: bytes) -> dict[str, Any]:
    """What the bytes begin with."""
    (length,) = struct.unpack_from("<i", data)
    return bson.decode(data[:length])
