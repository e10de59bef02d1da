"""The Interactions API: snake_case bodies, events with `event:` lines and line feeds, `[DONE]` at the end.

Stored interactions (`store` is true unless told otherwise) can be read, cancelled, deleted and continued by
`previous_interaction_id`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import content, models
from .answers import Answer, Question, Tool, answer_for
from .backend import Backend, Request, common_headers
from .problems import invalid_argument, not_found, unknown_model
from .reply import Reply, compact

Json = dict[str, Any]


class Interactions:
    """`{v}/interactions`"""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._stored: dict[str, Json] = {}

    async def create(self, request: Request) -> Reply:
        body = await request.json()
        options = self._backend.options
        name = str(body.get("model") or body.get("agent") or "").removeprefix("models/")
        model = models.find(name, options.extra_models)
        if model is None and not body.get("agent"):
            raise unknown_model(name, request.version, "interactions")
        question = self._question(body, name, thinks=model is None or model.thinks)
        answer = answer_for(question, options.seed, self._backend.nonce(request))
        interaction = _interaction(body, question, answer)
        if body.get("store", True):
            self._stored[interaction["id"]] = interaction
        if body.get("stream"):
            return self._stream(request, interaction, answer)
        if body.get("background"):
            interaction = {key: interaction[key] for key in ("id", "object", "model")} | {"status": "in_progress"}
        return _json(request, interaction)

    async def get(self, request: Request, name: str) -> Reply:
        """An interaction; `?stream=true&last_event_id=` plays its events after that one again."""
        interaction = self._existing(name)
        if request.query.get("stream", "").lower() != "true":
            return _json(request, interaction)
        reply = self._stream(request, interaction, None)
        seen = request.query.get("last_event_id", "0")
        return replace(reply, pieces=tuple(reply.pieces)[int(seen) if seen.isdigit() else 0 :])

    async def delete(self, request: Request, name: str) -> Reply:
        self._existing(name)
        del self._stored[name]
        return _json(request, {})

    async def cancel(self, request: Request, name: str) -> Reply:
        interaction = self._existing(name)
        interaction["status"] = "cancelled"
        return _json(request, interaction)

    def _existing(self, name: str) -> Json:
        if name not in self._stored:
            raise not_found(f"Interaction {name} was not found.")
        return self._stored[name]

    def _question(self, body: Json, name: str, *, thinks: bool) -> Question:
        if "input" not in body:
            raise invalid_argument("The request must have an `input`.")
        config = body.get("generation_config") or {}
        before = body.get("previous_interaction_id")
        history = content.tokens(content.canonical(self._existing(before)["steps"])) if before else 0
        text, tool_result = _input_text(body["input"])
        tools = tuple(
            Tool(str(tool.get("name")), tool.get("parameters") or {"type": "object"})
            for tool in body.get("tools") or []
            if tool.get("type") == "function"
        )
        said = content.tokens(text) + content.tokens(str(body.get("system_instruction") or ""))
        counted = {key: value for key, value in body.items() if key not in ("stream", "store", "background")}
        return Question(
            model=name,
            key=content.canonical(counted),
            last_text=text,
            prompt_tokens={"TEXT": said + history},
            tools=tools,
            after_tool_result=tool_result,
            json_output=body.get("response_mime_type") == "application/json" or bool(body.get("response_format")),
            schema=body.get("response_format") if isinstance(body.get("response_format"), Mapping) else None,
            thinks=thinks,
            shows_thoughts=config.get("thinking_summaries") in ("auto", "detailed"),
            max_tokens=config.get("max_output_tokens"),
        )

    def _stream(self, request: Request, interaction: Json, answer: Answer | None) -> Reply:
        started = {key: interaction[key] for key in ("id", "object", "model")} | {"status": "in_progress"}
        events: list[Json] = [
            {"interaction": started, "event_type": "interaction.created"},
            {"interaction_id": interaction["id"], "status": "in_progress", "event_type": "interaction.status_update"},
        ]
        for index, step in enumerate(interaction["steps"]):
            kept = ("type", "name", "id") if step["type"] == "function_call" else ("type",)
            opening = {key: step[key] for key in kept}
            events.append({"index": index, "step": opening, "event_type": "step.start"})
            deltas = _deltas(step, answer, request.chunks(self._backend.options.chunks))
            events += [{"index": index, "delta": delta, "event_type": "step.delta"} for delta in deltas]
            events.append({"index": index, "event_type": "step.stop"})
        completed = {key: value for key, value in interaction.items() if key != "steps"}
        events.append({"interaction": completed, "event_type": "interaction.completed"})
        pieces = [f"event: {event['event_type']}\ndata: {compact(event)}\n\n".encode() for event in events]
        headers = common_headers(request, content_type=b"text/event-stream")
        return Reply(200, headers, (*pieces, b"event: done\ndata: [DONE]\n\n"))


def _json(request: Request, value: Json) -> Reply:
    return Reply(200, common_headers(request, content_type=b"application/json"), (compact(value).encode(),))


def _input_text(given: Any) -> tuple[str, bool]:
    """The text of an input (string, content parts or steps) and whether it brings a function's result."""
    if isinstance(given, str):
        return given, False
    items = given if isinstance(given, Sequence) else [given]
    texts, tool_result = [], False
    for item in items:
        if not isinstance(item, Mapping):
            continue
        tool_result = tool_result or item.get("type") == "function_result"
        if isinstance(item.get("text"), str):
            texts.append(item["text"])
        elif "content" in item:
            texts.append(_input_text(item["content"])[0])
    return " ".join(texts), tool_result


def _interaction(body: Json, question: Question, answer: Answer) -> Json:
    identity = "v1_" + base64.urlsafe_b64encode(answer.id.encode() * 2).decode().rstrip("=")
    status = "requires_action" if answer.call else "incomplete" if answer.finish != "STOP" else "completed"
    interaction: Json = {
        "id": identity,
        "status": status,
        "usage": _usage(question, answer),
        "created": "2026-05-13T19:57:25Z",
        "updated": "2026-05-13T19:57:25Z",
        "service_tier": "standard",
        "steps": _steps(answer),
        "object": "interaction",
        "model": question.model,
    }
    if body.get("previous_interaction_id"):
        interaction["previous_interaction_id"] = body["previous_interaction_id"]
    return interaction


def _steps(answer: Answer) -> list[Json]:
    steps: list[Json] = []
    if answer.thought_tokens:
        summary = [{"text": text, "type": "text"} for text in answer.thoughts]
        steps.append(({"summary": summary} if summary else {}) | {"signature": answer.signature, "type": "thought"})
    if answer.call is not None:
        call = answer.call
        steps.append({"type": "function_call", "id": call.id, "name": call.name, "arguments": dict(call.arguments)})
    else:
        steps.append({"content": [{"text": answer.text, "type": "text"}], "type": "model_output"})
    return steps


def _deltas(step: Json, answer: Answer | None, wanted: int | None) -> list[Json]:
    if step["type"] == "thought":
        summaries = [{"content": part, "type": "thought_summary"} for part in step.get("summary", [])]
        return [*summaries, {"signature": step["signature"], "type": "thought_signature"}]
    if step["type"] == "function_call":
        return [{"arguments": compact(step["arguments"]), "type": "arguments_delta"}]
    text = step["content"][0]["text"]
    rng = content.rng_for(0, text) if answer is None else answer.rng
    pieces = content.split_text(rng, text, wanted or max(1, len(text) // 120)) if text else [""]
    return [{"text": piece, "type": "text"} for piece in pieces]


def _usage(question: Question, answer: Answer) -> Json:
    total = question.prompt_total + answer.output_tokens + answer.thought_tokens + answer.tool_tokens
    modalities = [{"modality": name.lower(), "tokens": count} for name, count in question.prompt_tokens.items()]
    return {
        "total_tokens": total,
        "total_input_tokens": question.prompt_total,
        "input_tokens_by_modality": modalities,
        "total_cached_tokens": question.cached_tokens,
        "total_output_tokens": answer.output_tokens,
        "total_tool_use_tokens": answer.tool_tokens,
        "total_thought_tokens": answer.thought_tokens,
    }
