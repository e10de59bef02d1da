"""A coding agent's session, recorded once and replayed with the upstream gone.

Three programs: one records the session; one on the same data folder answers it from the store, in mode `replay`; one
answers from a cassette alone. Every turn has to be a hit with the bytes that were answered at first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import agent_session, program
from .client import Connection, HeadReader, request_bytes
from .figures import percentile
from .subjects import PROXY, Laboratory, Subject


def run(lab: Laboratory, *, turns: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Record and replay; the result is ready for JSON. Raises: AbsentError."""
    folder = lab.new_folder("replay")
    script = agent_session.Script(turns)
    bodies = agent_session.requests(script)
    url = script.url
    recorded = record(lab, folder, script, bodies)
    cassette = folder / "session.cassette"
    began = time.monotonic()
    program.ask(lab.program, "export", "--cassette", str(cassette), data_dir=folder / "data")
    exported_s = time.monotonic() - began
    from_store = replay(
        lab, lambda: lab.start_proxy(PROXY, folder, url, arguments=("--cache", "replay")), bodies, recorded
    )
    from_cassette = replay(lab, lambda: lab.start_replay(folder, cassette), bodies, recorded)
    say(f"replay: {from_store['hits']} of {turns} turns from the store, {from_cassette['hits']} from the cassette")
    return {
        "turns": turns,
        "bytes_sent": sum(map(len, bodies)),
        "bytes_answered": sum(map(len, recorded)),
        "upstream_calls_while_replaying": script.said - turns,
        **{f"store_{name}": value for name, value in from_store.items()},
        **{f"cassette_{name}": value for name, value in from_cassette.items()},
        "cassette_bytes": cassette.stat().st_size,
        "exported_in_s": exported_s,
    }


def record(lab: Laboratory, folder: Path, script: agent_session.Script, bodies: Sequence[bytes]) -> list[bytes]:
    """Play the session with the upstream there; the answers. The upstream is gone afterwards."""
    subject = lab.start_proxy(PROXY, folder, script.url)
    serving = threading.Thread(target=script.server.serve_forever, daemon=True)
    serving.start()
    try:
        answers = [body for body, _, _ in play(subject, bodies)]
        program.wait_drained(lab.program, folder / "data")
    finally:
        assert subject.process is not None
        # First, because the server of a script ends only when the last connection to it does.
        lab.fleet.stop(subject.process)
        script.server.shutdown()
        serving.join()
        script.server.server_close()
    return answers


def replay(
    lab: Laboratory, start: Callable[[], Subject], bodies: Sequence[bytes], recorded: Sequence[bytes]
) -> dict[str, Any]:
    """Play the session once more; how many turns were hits with the recorded bytes, and how long they took."""
    subject = start()
    try:
        played = play(subject, bodies)
    finally:
        assert subject.process is not None
        lab.fleet.stop(subject.process)
    took = [took_us for _, _, took_us in played]
    hits = good_turns(played, recorded)
    return {"hits": hits, "turn_p50_ms": percentile(took, 50) / 1e3, "turn_p99_ms": percentile(took, 99) / 1e3}


def good_turns(played: Sequence[tuple[bytes, bool, float]], recorded: Sequence[bytes]) -> int:
    """How many turns were hits with the bytes of the first time."""
    return sum(is_hit and body == first for (body, is_hit, _), first in zip(played, recorded, strict=True))


def play(subject: Subject, bodies: Sequence[bytes]) -> list[tuple[bytes, bool, float]]:
    """Send the turns one after another: each one's answer, whether it is a hit, and its time in microseconds."""
    played = []
    reader = HeadReader()
    with Connection(subject.port, reader) as connection:
        for turn, body in enumerate(bodies, start=1):
            try:
                timing = connection.exchange(request_bytes(agent_session.TARGET, body))
            except OSError as error:
                raise ValueError(f"turn {turn} of {len(bodies)}: {error}") from None
            played.append((bytes(reader.body), timing.status == 200 and reader.is_hit, timing.last_byte_us))
    return played
