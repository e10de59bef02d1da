"""A coding agent's session: 200 turns, each request repeating all before it, the last one over 400 KB.

What the tools return is real program text and differs from turn to turn; what the model says is invented words. The
store is measured against the bytes sent, after the program has ended, so that nothing hides in a write-ahead log.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from . import payloads, program
from .client import Connection, request_bytes
from .subjects import PROXY, AbsentError, Laboratory

TURNS = 200
TOOL_BYTES, ANSWER_BYTES, EVENTS = 1500, 560, 6
SYSTEM_BYTES, TOOLS = 8000, 12
TARGET = f"{payloads.STREAM_PATH}?{payloads.STREAM_QUERY}"


class Script:
    """What the model will say, turn by turn, and the upstream that says it."""

    def __init__(self, turns: int) -> None:
        self.answers = [payloads.words(10_000 + n, ANSWER_BYTES) for n in range(turns)]
        self.said = 0
        self.server = HTTPServer(("127.0.0.1", 0), self._handler())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                stream = script.next_stream()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for each in stream:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(each), each))
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler

    def next_stream(self) -> list[bytes]:
        """The events of the next answer."""
        text, number = self.answers[self.said], self.said
        self.said += 1
        step = -(-len(text) // EVENTS)
        pieces = [text[start : start + step] for start in range(0, len(text), step)]
        last = len(pieces) - 1
        return [
            payloads.event(
                payloads.answer_body(piece, response_id=f"turn-{number}", finish="STOP" if n == last else None)
            )
            for n, piece in enumerate(pieces)
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


def requests(script: Script) -> list[bytes]:
    """The bodies of all turns."""
    excerpts = payloads.source_text(TOOL_BYTES, len(script.answers))
    shell: dict[str, Any] = {
        "systemInstruction": payloads.turn("user", payloads.words(5, SYSTEM_BYTES)),
        "tools": [{"functionDeclarations": [declaration(n) for n in range(TOOLS)]}],
        "generationConfig": {"temperature": 1},
    }
    contents: list[dict[str, object]] = [payloads.turn("user", payloads.words(6, 400))]
    bodies = []
    for said, read in zip(script.answers, excerpts, strict=True):
        bodies.append(json.dumps({"contents": contents, **shell}).encode())
        contents.append(payloads.turn("model", said))
        response = {"name": "read_file", "response": {"output": read}}
        contents.append({"role": "user", "parts": [{"functionResponse": response}]})
    return bodies


def declaration(number: int) -> dict[str, object]:
    """A tool the agent offers."""
    properties = {f"argument_{n}": {"type": "STRING", "description": payloads.words(n, 80)} for n in range(3)}
    parameters = {"type": "OBJECT", "properties": properties, "required": ["argument_0"]}
    return {"name": f"tool_{number}", "description": payloads.words(50 + number, 250), "parameters": parameters}


def run(lab: Laboratory, *, turns: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Play the session through the running program; the result is ready for JSON. Raises: AbsentError."""
    script = Script(turns)
    bodies = requests(script)
    folder = lab.new_folder("session")
    try:
        subject = lab.start_proxy(PROXY, folder, script.url)
        threading.Thread(target=script.server.serve_forever, daemon=True).start()
        try:
            answered = play(subject.port, bodies)
        finally:
            script.server.shutdown()
    finally:
        script.server.server_close()
    data_dir = folder / "data"
    drained = program.wait_drained(lab.program, data_dir)
    running = program.store_bytes(data_dir)
    exact: bool | None = None
    with suppress(AbsentError, LookupError):
        exact = last_body(lab, data_dir) == bodies[-1]
    assert subject.process is not None
    lab.fleet.stop(subject.process)
    stored, sent = program.store_bytes(data_dir), sum(map(len, bodies))
    say(f"session: {sent / 1e6:.1f} MB sent, store {stored / 1e6:.2f} MB")
    return {
        "turns": turns,
        "final_request_bytes": len(bodies[-1]),
        "bytes_sent": sent,
        "bytes_answered": answered,
        "store_bytes": stored,
        "store_bytes_while_running": running,
        "store_percent": 100 * stored / sent,
        "drained_after_s": drained,
        "last_request_comes_back_exactly": exact,
    }


def play(port: int, bodies: list[bytes]) -> int:
    """Send the turns one after another; the number of bytes answered. Raises: ValueError for any other status."""
    answered = 0
    with Connection(port) as connection:
        for body in bodies:
            timing = connection.exchange(request_bytes(TARGET, body))
            if timing.status != 200:
                raise ValueError(f"a turn was answered {timing.status}")
            answered += len(connection.reader.body)
    return answered


def last_body(lab: Laboratory, data_dir: Any) -> bytes:
    """The newest request's body as the program gives it back."""
    newest = program.ask_json(lab.program, "list", "--limit", "1", data_dir=data_dir)[0]
    return program.ask(lab.program, "show", newest["id"], "--body", "request", data_dir=data_dir)
