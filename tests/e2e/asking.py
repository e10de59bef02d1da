"""Requests as clients of the Gemini API send them, an upstream that numbers its answers, and what the cache said."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from wire import CHUNKED, Answered, Asked, Peer, Script, chunk, respond

MODEL = b"gemini-2.5-flash"
JSON = b"Content-Type: application/json; charset=UTF-8\r\n"
_PARAMETER = re.compile(r'; ([a-z-]+)(?:=("(?:[^"\\]|\\.)*"|[^;]*))?')


def generate(text: str = "Hello", temperature: float | None = 0, **more: Any) -> bytes:
    """The body of a generation."""
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": text}]}], **more}
    if temperature is not None:
        body["generationConfig"] = {"temperature": temperature, **more.get("generationConfig", {})}
    return json.dumps(body).encode()


def call(
    body: bytes = b"",
    method: bytes = b"generateContent",
    *headers: bytes,
    key: bytes = b"key-of-a-test-client",
    model: bytes = MODEL,
    version: bytes = b"1.1",
) -> bytes:
    """A request for a model's method, such as `streamGenerateContent?alt=sse`; `headers` are lines less their end."""
    lines = b"".join(line + b"\r\n" for line in headers)
    return (
        b"POST /v1beta/models/%b:%b HTTP/%b\r\nHost: 127.0.0.1\r\nx-goog-api-key: %b\r\n%b"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    ) % (model, method, version, key, lines, len(body), body)


SSE = b"streamGenerateContent?alt=sse"
ARRAY = b"streamGenerateContent"


def said(answered: Answered) -> dict[str, str]:
    """The parameters of `Cache-Status`, flags with the value `?1`; AssertionError if there is not one such field."""
    (value,) = answered.all(b"cache-status")
    name, semicolon, rest = value.decode().partition(";")
    assert name == "gemini-proxy", value
    found = {match[1]: (match[2] or "?1").strip('"') for match in _PARAMETER.finditer(semicolon + rest)}
    assert _PARAMETER.sub("", semicolon + rest) == "", value
    return found


def is_hit(answered: Answered) -> bool:
    return "hit" in said(answered)


def answer_object(text: str, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    """An answer, or an event of one."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 500, "totalTokenCount": 1500}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL.decode(), **more}


def event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\r\n\r\n"


def unary(text: str, finish: str | None = "STOP") -> bytes:
    return respond(json.dumps(answer_object(text, finish)).encode(), headers=JSON)


def events(text: str, count: int = 3, finish: str | None = "STOP") -> list[bytes]:
    """The events of a stream; the last one ends it."""
    return [event(answer_object(f"{text}/{n}", finish if n == count - 1 else None)) for n in range(count)]


def stream(pieces: list[bytes]) -> bytes:
    return CHUNKED + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


class Numbered:
    """A script that gives each answer a number of its own, in the shape that was asked for."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self, peer: Peer) -> None:
        while True:
            peer.send(self.answer(peer.request()))

    def answer(self, asked: Asked) -> bytes:
        text = f"answer {next(self._numbers)}"
        if b"alt=sse" in asked.target:
            return stream(events(text))
        if b":streamGenerateContent" in asked.target:
            pieces = [json.dumps(answer_object(f"{text}/{n}", "STOP" if n == 2 else None)).encode() for n in range(3)]
            return stream([b"[" + pieces[0], b",\n" + pieces[1], b",\n" + pieces[2], b"]"])
        if b":generateContent" in asked.target:
            return unary(text)
        return respond(json.dumps({"nonce": text, "totalTokens": 3}).encode(), headers=JSON)


def once(*answers: bytes) -> Script:
    """A script that gives these answers one after the other, over all connections, and the last one ever after."""
    left = list(answers)

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script
