"""What travels: requests and answers in the shapes of the Gemini API, the same in every run.

Sizes are those of the workloads: a small call is a 2 KB request with a 1 KB answer, an agent turn carries 200 KB, a
stream is 100 events of about 300 bytes in the framing Google uses (`data: {json}` and a blank line, both CRLF).
"""

from __future__ import annotations

import json
import random
import re
import sysconfig
from functools import cache
from itertools import accumulate
from pathlib import Path

UNARY_PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
STREAM_PATH = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
SLOW_PATH = "/v1beta/models/gemini-2.5-pro:streamGenerateContent"
STREAM_QUERY = "alt=sse"
CLIENT_KEY = "benchmark-client-key"
EVENTS_PER_STREAM = 100
ID_PLACE = "############"
NUMBER_PLACE = b"@" * 16
SMALL_BYTES, AGENT_BYTES, ANSWER_BYTES, EVENT_BYTES = 2048, 200 * 1024, 1024, 300

STAMP_PATTERN = rb'"responseId": "(\d+)-(\d+)"'
"""An event's number and the upstream's CLOCK_MONOTONIC in microseconds when it was sent."""


@cache
def _stock() -> tuple[list[str], list[float]]:
    chance = random.Random(0)
    stock = ["".join(chance.choices("aeioubcdfglmnprstv", k=chance.randint(2, 9))) for _ in range(1500)]
    return stock, list(accumulate(1 / rank for rank in range(1, len(stock) + 1)))


def words(seed: int, size: int) -> str:
    """At most `size` characters of invented words, common ones more often; another text for another seed."""
    stock, weights = _stock()
    picked = random.Random(seed).choices(stock, cum_weights=weights, k=size // 4)
    return " ".join(picked)[:size]


def turn(role: str, text: str) -> dict[str, object]:
    return {"role": role, "parts": [{"text": text}]}


def request_body(size: int, *, seed: int = 0, temperature: float = 0.7) -> bytes:
    """A `generateContent` request of exactly `size` bytes, in turns of about 4 KB; another one for another seed."""
    base = seed * 1000
    contents = [turn("model" if n % 2 else "user", words(base + n, 4000)) for n in range(1, size // 4096 + 1)]
    shell = {"contents": [*contents, turn("user", "")], "generationConfig": {"temperature": temperature}}
    missing = size - len(json.dumps(shell).encode())
    last = turn("user", words(base, missing).ljust(missing, "."))
    return json.dumps(shell | {"contents": [*contents, last]}).encode()


def numbered_body(size: int = SMALL_BYTES) -> bytes:
    """A request that may be answered from a recording, with a place for a number that makes it one of its own."""
    body = request_body(size, temperature=0)
    start = body.index(words(0, 40).encode())
    return body[:start] + NUMBER_PLACE + body[start + len(NUMBER_PLACE) :]


def with_number(body: bytes, number: int) -> bytes:
    """What `numbered_body` gave, with a number in its place."""
    return body.replace(NUMBER_PLACE, b"%0*d" % (len(NUMBER_PLACE), number))


def usage(prompt: int, answer: int) -> dict[str, int]:
    return {"promptTokenCount": prompt, "candidatesTokenCount": answer, "totalTokenCount": prompt + answer}


def answer_body(text: str, *, response_id: str = "bench", finish: str | None = "STOP") -> bytes:
    """A `GenerateContentResponse`; with `finish` None it is one of a stream that goes on."""
    candidate: dict[str, object] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    answer = {
        "candidates": [candidate],
        "usageMetadata": usage(512, len(text) // 4),
        "modelVersion": "gemini-2.5-flash",
        "responseId": response_id,
    }
    return json.dumps(answer).encode()


def unary_answer() -> bytes:
    """The answer to a small call; the upstream puts a number of its own in the place of `ID_PLACE`."""
    spare = ANSWER_BYTES - len(answer_body("", response_id=ID_PLACE))
    return answer_body(words(1, spare).ljust(spare, "."), response_id=ID_PLACE)


def without_ids(body: bytes) -> bytes:
    """A body without what differs between two answers to the same request."""
    return re.sub(rb'"responseId": "[^"]*"', b"", body)


def event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\r\n\r\n"


def stream_events(count: int = EVENTS_PER_STREAM) -> list[bytes]:
    """`count` events of one answer, the last one with the finish reason."""
    spare = EVENT_BYTES - len(event(answer_body("", finish=None)))
    texts = [words(n, spare).ljust(spare, ".") for n in range(count)]
    return [event(answer_body(text, finish="STOP" if n == count - 1 else None)) for n, text in enumerate(texts)]


def slow_event_template() -> str:
    """One event with two `%s`: its number and the time of sending (see `STAMP_PATTERN`)."""
    text = words(7, 90).ljust(90, ".")
    return event(answer_body(text, response_id="%s-%s", finish=None)).decode()


def source_text(size: int, count: int) -> list[str]:
    """`count` different excerpts of real program text, `size` characters each: what an agent's tools read.

    It is the standard library's own source, so it is on every machine and as compressible as code is.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    excerpts: list[str] = []
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        excerpts.extend(text[start : start + size] for start in range(0, len(text) - size, size))
        if len(excerpts) >= count:
            break
    return excerpts[:count]
