"""The upstream where nginx is missing: the simulator's server, answering as the nginx upstream does.

`python -m benchmarks.simulated_upstream PORT`. It is a Python program on the load's core, so it sets the pace in most
workloads: rates with it say little about the proxy.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop

from gemini_caching_proxy.simulator.connection import Call
from gemini_caching_proxy.simulator.server import Server

from . import payloads

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNARY_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: %d\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class BenchServer(Server):
    """The three answers of `nginx.write_upstream`."""

    def __init__(self, port: int) -> None:
        super().__init__(port=port)
        self._answers = 0
        self._answer = payloads.unary_answer()
        self._events = [chunk(each) for each in payloads.stream_events()]
        self._slow_event = payloads.slow_event_template()

    async def serve(self, call: Call) -> None:
        await call.drain_body()
        path = call.target.partition(b"?")[0].decode()
        if path == payloads.STREAM_PATH:
            await call.write(STREAM_HEAD)
            for each in self._events:
                await call.write(each)
            await call.write(LAST_CHUNK)
        elif path == payloads.SLOW_PATH:
            await self._slow(call)
        else:
            await call.write(self._unary())

    def _unary(self) -> bytes:
        self._answers += 1
        body = self._answer.replace(payloads.ID_PLACE.encode(), b"%012d" % self._answers)
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def _slow(self, call: Call) -> None:
        events = int(call.header(b"x-bench-events") or 1)
        pause = int(call.header(b"x-bench-interval-ms") or 100) / 1000
        await call.write(STREAM_HEAD)
        for number in range(1, events + 1):
            await asyncio.sleep(pause)
            await call.write(chunk((self._slow_event % (number, time.monotonic_ns() // 1000)).encode()))
        await call.write(LAST_CHUNK)


async def serve_forever(port: int) -> None:
    async with BenchServer(port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve_forever(int(sys.argv[1])))
