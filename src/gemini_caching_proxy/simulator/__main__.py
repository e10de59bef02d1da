"""`python -m gemini_caching_proxy.simulator`: a simulated Gemini API on a port."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

import uvloop

from .backend import SimulatorOptions
from .reply import Pacing
from .simulator import Simulator


def main(arguments: list[str] | None = None) -> int:
    """Serves until it is interrupted; prints the base URL on its first line. 1 when the address cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m gemini_caching_proxy.simulator", description="A simulated Gemini API."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one")
    parser.add_argument("--seed", type=int, default=0, help="same seed and same request: same answer")
    parser.add_argument("--fresh", action="store_true", help="another answer for each repetition of a request")
    parser.add_argument("--key", action="append", help="accept this credential only; may be repeated")
    parser.add_argument("--first-byte-ms", type=float, default=0, help="pause before an answer")
    parser.add_argument("--chunk-ms", type=float, default=0, help="pause between the pieces of a stream")
    parser.add_argument("--chunks", type=int, help="objects in a stream; by the answer's length if not given")
    parser.add_argument(
        "--writes", choices=("event", "split", "joined", "drip"), default="event", help="how bytes are cut"
    )
    parsed = parser.parse_args(arguments)
    options = SimulatorOptions(
        seed=parsed.seed,
        fresh=parsed.fresh,
        accepted_keys=frozenset(parsed.key) if parsed.key else None,
        pacing=Pacing(parsed.first_byte_ms / 1000, parsed.chunk_ms / 1000, parsed.writes),
        chunks=parsed.chunks,
    )
    try:
        uvloop.run(_serve(Simulator(options, host=parsed.host, port=parsed.port)))
    except OSError as error:
        print(f"Cannot listen on {parsed.host}:{parsed.port}: {error.strerror or error}.", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _serve(simulator: Simulator) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with simulator:
        print(simulator.url, flush=True)  # noqa: T201
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
