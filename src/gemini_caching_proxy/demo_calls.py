"""The demo's clients: a lively mix of calls to a simulated Gemini API, through the proxy.

Everything that the record can show is in it: models, streams of all shapes, thoughts, tools, pictures, embeddings, an
upload, a conversation that forks, the OpenAI-compatible path, Interactions, answers from the cache, errors, a broken
stream and a client that leaves.
"""

from __future__ import annotations

import http.client
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

from .simulator.content import png

KEY = "demo-key-of-nobody"
PYTHON_SDK = "google-genai-sdk/3.4.0 gl-python/3.11.7"
NODE_SDK = "google-genai-sdk/3.1.0 gl-node/v22.11.0"
EDITOR = "ai/7.0.173 ai-sdk/provider-utils/4.0.9 runtime/node.js/22"
CURL = "curl/8.11.0"
TIMEOUT_SECONDS = 30
FAST, CLEVER, SMALL = "gemini-3.8-flash", "gemini-2.5-pro", "gemini-2.5-flash-lite"

Call = Callable[["Caller"], None]


class Caller:
    """A client of the proxy at `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self.calls = 0
        """Requests sent."""

    def __repr__(self) -> str:
        return f"<Caller {self._address} calls={self.calls}>"

    def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        agent: str = PYTHON_SDK,
        leave_early: bool = False,
        **more: str,
    ) -> tuple[dict[str, str], bytes]:
        """One request; gives the answer's headers (names in lower case) and body, as far as it came."""
        headers = {"x-goog-api-key": KEY, "user-agent": agent, "content-type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_SECONDS)
        self.calls += 1
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            data = response.read(1) if leave_early else response.read()
            return {name.lower(): value for name, value in response.getheaders()}, data
        except (OSError, http.client.HTTPException):
            # The demo breaks streams on purpose; what the client saw of it is in the record.
            return {}, b""
        finally:
            connection.close()

    def ask(self, model: str, body: dict[str, Any], *, how: str = "generateContent", **more: Any) -> Any:
        """One call of a model; gives the answer's JSON, None if there is none."""
        _, data = self.send("POST", f"/v1beta/models/{model}:{how}", json.dumps(body).encode(), **more)
        try:
            return json.loads(data)
        except ValueError:
            return None


def user(text: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "parts": [{"text": text}, *parts]}


def play(caller: Caller) -> Iterator[str]:
    """Make all calls, telling what comes next."""
    for name, calls in PROGRAMME:
        yield name
        calls(caller)


def look_around(caller: Caller) -> None:
    caller.send("GET", "/v1beta/models?pageSize=5", agent=CURL)
    caller.send("GET", f"/v1beta/models/{FAST}", agent=CURL)
    caller.ask(FAST, {"contents": [user("How many tokens is this?")]}, how="countTokens")


def ask_and_stream(caller: Caller) -> None:
    question = {"contents": [user("Why is the sky blue?")], "generationConfig": {"temperature": 0}}
    caller.ask(FAST, question)
    thinking = {"thinkingConfig": {"includeThoughts": True}, "temperature": 0.7}
    caller.ask(
        CLEVER,
        {"contents": [user("Plan a week in Lisbon with simulate 12 sentences.")], "generationConfig": thinking},
        how="streamGenerateContent?alt=sse",
    )
    caller.ask(SMALL, {"contents": [user("Write a haiku about rain.")]}, how="streamGenerateContent", agent=NODE_SDK)


def converse(caller: Caller) -> None:
    """Four turns, and a second answer to the third question: a fork."""
    system = {"parts": [{"text": "You are a patient Python tutor. Answer briefly."}]}
    contents: list[dict[str, Any]] = []
    questions = ("What is a generator?", "And a coroutine?", "When do I use which?", "Show me one of each.")
    for number, question in enumerate(questions):
        contents.append(user(question))
        answer = caller.ask(FAST, {"systemInstruction": system, "contents": contents}, agent=EDITOR)
        if number == 2:
            fork = [*contents[:-1], user("Which of them is faster?")]
            caller.ask(FAST, {"systemInstruction": system, "contents": fork}, agent=EDITOR)
        if answer is None:
            return
        contents.append(answer["candidates"][0]["content"])


def use_a_tool(caller: Caller) -> None:
    weather = {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING", "enum": ["Lisbon"]}}},
    }
    tools = [{"functionDeclarations": [weather]}]
    contents = [user("What is the weather in Lisbon?")]
    answer = caller.ask(FAST, {"contents": contents, "tools": tools})
    if answer is None:
        return
    said = answer["candidates"][0]["content"]
    called = next((part["functionCall"] for part in said["parts"] if "functionCall" in part), None)
    if called is None:
        return
    result = {"functionResponse": {"name": called["name"], "response": {"celsius": 21, "sky": "clear"}}}
    if "id" in called:
        result["functionResponse"]["id"] = called["id"]
    caller.ask(FAST, {"contents": [*contents, said, {"role": "user", "parts": [result]}], "tools": tools})


def look_at_pictures(caller: Caller) -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": b64encode(png(Random(7), side=96)).decode()}}
    caller.ask(FAST, {"contents": [user("What is in this picture?", picture)]})
    wanted = {"contents": [user("Draw a lighthouse.")], "generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}
    caller.ask("gemini-2.5-flash-image", wanted)


def embed(caller: Caller) -> None:
    model = "gemini-embedding-001"
    texts = ("rain", "a roof of tin", "the sound of drops")
    requests = [{"model": f"models/{model}", "content": {"parts": [{"text": text}]}} for text in texts]
    caller.ask(model, {"requests": requests}, how="batchEmbedContents")


def upload(caller: Caller) -> None:
    data = b"Minutes of the garden club: the roses did well, the slugs did better.\n" * 200
    headers, _ = caller.send(
        "POST",
        "/upload/v1beta/files",
        b'{"file":{"display_name":"minutes"}}',
        x_goog_upload_protocol="resumable",
        x_goog_upload_command="start",
        x_goog_upload_header_content_length=str(len(data)),
        x_goog_upload_header_content_type="text/plain",
    )
    if "x-goog-upload-url" not in headers:
        return
    parts = urlsplit(headers["x-goog-upload-url"])
    _, answer = caller.send(
        "POST", f"{parts.path}?{parts.query}", data, x_goog_upload_command="upload, finalize", x_goog_upload_offset="0"
    )
    file = json.loads(answer)["file"]
    reference = {"fileData": {"mimeType": "text/plain", "fileUri": file["uri"]}}
    caller.ask(FAST, {"contents": [user("Sum up these minutes.", reference)]})
    caller.send("DELETE", f"/v1beta/{file['name']}")


def speak_openai(caller: Caller) -> None:
    body = {"model": FAST, "stream": True, "messages": [{"role": "user", "content": "Tell a short joke."}]}
    options = {"stream_options": {"include_usage": True}}
    caller.send(
        "POST", "/v1beta/openai/chat/completions", json.dumps(body | options).encode(), agent="OpenAI/Python 3.54.0"
    )


def interact(caller: Caller) -> None:
    first = {"model": FAST, "input": "Name three rivers."}
    _, answer = caller.send("POST", "/v1beta/interactions", json.dumps(first).encode())
    try:
        before = json.loads(answer)["id"]
    except (ValueError, KeyError):
        return
    second = {"model": FAST, "input": "Which is the longest?", "previous_interaction_id": before}
    caller.send("POST", "/v1beta/interactions", json.dumps(second).encode())


def go_wrong(caller: Caller) -> None:
    question = {"contents": [user("Will this work? Please simulate 20 sentences.")]}
    caller.ask("gemini-9-imaginary", question)
    caller.ask(FAST, question, x_simulator_fault="429")
    caller.ask(CLEVER, question, x_simulator_fault="503")
    caller.send("POST", f"/v1beta/models/{FAST}:generateContent", b'{"contents": oops', agent=CURL)
    stream = "streamGenerateContent?alt=sse"
    caller.ask(FAST, question, how=stream, x_simulator_fault="rst-at:2", x_simulator_options="chunks=8")
    slow = "chunks=40; chunk_ms=100"
    caller.ask(FAST, question, how=stream, leave_early=True, x_simulator_options=slow, agent=EDITOR)


def ask_again(caller: Caller) -> None:
    """What was asked before, partly written otherwise: answered from the record."""
    question = {"generation_config": {"temperature": 0.0}, "contents": [user("Why is the sky blue?")]}
    caller.ask(FAST, question, agent=NODE_SDK)
    caller.ask(FAST, question, how="streamGenerateContent?alt=sse", agent=NODE_SDK)
    embed(caller)
    poem = {"contents": [user("Write a haiku about rain.")]}
    caller.ask(SMALL, poem, how="streamGenerateContent", agent=NODE_SDK, x_cache_mode="all")


PROGRAMME: tuple[tuple[str, Call], ...] = (
    ("models and token counts", look_around),
    ("questions, a stream with thoughts, a JSON-array stream", ask_and_stream),
    ("a conversation that forks", converse),
    ("a tool call and its result", use_a_tool),
    ("a picture read and a picture drawn", look_at_pictures),
    ("embeddings", embed),
    ("a file upload", upload),
    ("the OpenAI-compatible path", speak_openai),
    ("two Interactions", interact),
    ("questions that were asked before", ask_again),
    ("errors, a broken stream and a client that leaves", go_wrong),
)
