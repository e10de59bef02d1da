"""The OpenAI-compatible path, `{v}/openai/…`: chat completions, embeddings, models.

As recorded: `completion_tokens` leaves the thoughts out while `total_tokens` counts them, tool call ids may be empty,
signatures ride in `extra_content.google`.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

from . import content, models
from .answers import Answer, Question, Tool, answer_for, cached_share
from .backend import Backend, Request, common_headers, json_reply
from .problems import invalid_argument, not_found, unknown_model
from .reply import Reply, compact

Json = dict[str, Any]
CREATED = 1748902365
_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}


class OpenAICompat:
    """Handlers of the compatible path."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def chat(self, request: Request) -> Reply:
        body = await request.json()
        options = self._backend.options
        name = str(body.get("model") or "").removeprefix("models/")
        model = models.find(name, options.extra_models)
        if model is None:
            raise unknown_model(name, "v1main", "generateContent")
        question = _question(body, name, thinks=model.thinks)
        answer = answer_for(question, options.seed, self._backend.nonce(request))
        if not body.get("stream"):
            return json_reply(request, _completion(question, answer))
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        events = _chunks(question, answer, request.chunks(options.chunks), with_usage=with_usage)
        pieces = tuple(f"data: {compact(event)}\n\n".encode() for event in events)
        headers = common_headers(request, content_type=b"text/event-stream")
        return Reply(200, headers, (*pieces, b"data: [DONE]\n\n"))

    async def embeddings(self, request: Request) -> Reply:
        body = await request.json()
        name = str(body.get("model") or "").removeprefix("models/")
        model = models.find(name, self._backend.options.extra_models)
        if model is None:
            raise unknown_model(name, "v1main", "embedContent")
        given = body.get("input")
        texts = given if isinstance(given, list) else [given]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise invalid_argument("The input must be a string or a list of strings.")
        data = []
        for index, text in enumerate(texts):
            vector: Any = content.embedding(
                self._backend.rng(name, text), int(body.get("dimensions") or model.dimensions)
            )
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "embedding": vector, "index": index})
        used = sum(content.tokens(str(text)) for text in texts)
        usage = {"prompt_tokens": used, "total_tokens": used}
        return json_reply(request, {"object": "list", "data": data, "model": name, "usage": usage})

    async def list_models(self, request: Request) -> Reply:
        data = [_model(model) for model in models.CATALOGUE]
        return json_reply(request, {"object": "list", "data": data})

    async def get_model(self, request: Request, name: str) -> Reply:
        model = models.find(name.removeprefix("models/"), self._backend.options.extra_models)
        if model is None:
            raise not_found(f"Model {name} was not found.")
        return json_reply(request, _model(model))


def _model(model: models.Model) -> Json:
    return {"id": f"models/{model.name}", "object": "model", "owned_by": "google", "display_name": model.title}


def _question(body: Json, name: str, *, thinks: bool) -> Question:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, Mapping) for message in messages):
        raise invalid_argument("* GenerateContentRequest.contents: contents is not specified\n")
    declared = [tool.get("function") or {} for tool in body.get("tools") or [] if isinstance(tool, Mapping)]
    tools = tuple(Tool(str(entry.get("name")), entry.get("parameters") or {"type": "object"}) for entry in declared)
    response_format = body.get("response_format") or {}
    google = ((body.get("extra_body") or {}).get("google")) or {}
    prompt = sum(content.tokens(_text(message)) for message in messages) + content.tokens(content.canonical(declared))
    ignored = ("stream", "stream_options", "temperature")
    return Question(
        model=name,
        key=content.canonical({key: value for key, value in body.items() if key not in ignored}),
        last_text=_text(messages[-1]),
        prompt_tokens={"TEXT": prompt},
        cached_tokens=cached_share(prompt, len(messages)),
        tools=() if body.get("tool_choice") == "none" else tools,
        after_tool_result=messages[-1].get("role") == "tool",
        json_output=response_format.get("type") in ("json_object", "json_schema"),
        schema=(response_format.get("json_schema") or {}).get("schema"),
        thinks=thinks and body.get("reasoning_effort") != "none",
        shows_thoughts=bool((google.get("thinking_config") or {}).get("include_thoughts")),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
    )


def _text(message: Mapping[str, Any]) -> str:
    given = message.get("content")
    if isinstance(given, list):
        return " ".join(str(part.get("text") or "") for part in given if isinstance(part, Mapping))
    return str(given or "")


def _finish(answer: Answer) -> str:
    if answer.block_reason is not None:
        return "content_filter"
    return "tool_calls" if answer.call else _FINISH[answer.finish]


def _calls(answer: Answer) -> Json:
    if answer.call is None:
        return {}
    function = {"arguments": json.dumps(answer.call.arguments), "name": answer.call.name}
    call: Json = {"function": function, "id": answer.call.id, "type": "function", "index": 0}
    if answer.signature:
        call["extra_content"] = {"google": {"thought_signature": answer.signature}}
    return {"tool_calls": [call]}


def _usage(question: Question, answer: Answer) -> Json:
    total = question.prompt_total + answer.output_tokens + answer.thought_tokens
    return {
        "completion_tokens": answer.output_tokens,
        "prompt_tokens": question.prompt_total,
        "total_tokens": total,
        **({"prompt_tokens_details": {"cached_tokens": question.cached_tokens}} if question.cached_tokens else {}),
    }


def _completion(question: Question, answer: Answer) -> Json:
    message: Json = {"role": "assistant"} | _calls(answer)
    shown = "".join(f"<thought>{text}</thought>" for text in answer.thoughts)
    if answer.call is None:
        message["content"] = shown + answer.text
    choice = {"finish_reason": _finish(answer), "index": 0, "message": message}
    return {
        "choices": [choice],
        "created": CREATED,
        "id": answer.id,
        "model": question.model,
        "object": "chat.completion",
        "usage": _usage(question, answer),
    }


def _chunks(question: Question, answer: Answer, wanted: int | None, *, with_usage: bool) -> list[Json]:
    deltas: list[Json]
    if answer.call is not None:
        deltas = [_calls(answer)]
    else:
        count = wanted or max(1, len(answer.text) // 120)
        pieces = content.split_text(answer.rng, answer.text, count) if answer.text else [""]
        deltas = [{"content": piece} for piece in pieces]
    events = []
    for number, delta in enumerate(deltas):
        choice: Json = {"delta": delta | {"role": "assistant"}, "index": 0}
        if number == len(deltas) - 1:
            choice["finish_reason"] = _finish(answer)
        events.append(_event(question, answer, [choice]))
    if with_usage:
        events.append(_event(question, answer, []) | {"usage": _usage(question, answer)})
    return events


def _event(question: Question, answer: Answer, choices: list[Json]) -> Json:
    return {
        "choices": choices,
        "created": CREATED,
        "id": answer.id,
        "model": question.model,
        "object": "chat.completion.chunk",
    }
