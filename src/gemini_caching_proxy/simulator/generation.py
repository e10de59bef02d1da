"""The `generateContent` dialect: requests to questions, answers to response objects and streams of them.

Facts about shapes (usage in every chunk, its odd first chunk, where `finishReason` and signatures stand) are those of
recorded traffic of the Gemini API. Keys are read in camelCase and snake_case, as the API does.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import content
from .answers import INPUT_MEDIA_TOKENS, Answer, Question, Tool, answer_for, cached_share
from .problems import invalid_argument

Json = dict[str, Any]
SKIP_SIGNATURE = "skip_thought_signature_validator"
ENUM_NUMBERS: dict[str, dict[str, int]] = {
    "finishReason": {"STOP": 1, "MAX_TOKENS": 2, "SAFETY": 3, "RECITATION": 4, "OTHER": 5},
    "modality": {"TEXT": 1, "IMAGE": 2, "VIDEO": 3, "AUDIO": 4, "DOCUMENT": 5},
    "blockReason": {"SAFETY": 1, "OTHER": 2, "BLOCKLIST": 3, "PROHIBITED_CONTENT": 4},
    "category": {"HARM_CATEGORY_HARASSMENT": 7, "HARM_CATEGORY_HATE_SPEECH": 8, "HARM_CATEGORY_SEXUALLY_EXPLICIT": 9,
                 "HARM_CATEGORY_DANGEROUS_CONTENT": 10},
    "probability": {"NEGLIGIBLE": 1, "LOW": 2, "MEDIUM": 3, "HIGH": 4},
    "state": {"PROCESSING": 1, "ACTIVE": 2, "FAILED": 10},
    "serviceTier": {"standard": 1, "flex": 2, "priority": 3},
}  # fmt: skip
"""Numbers of the enum values under `enum-encoding=int`, from the API's protocol buffers."""


def field(value: Any, name: str, default: Any = None) -> Any:
    """A field of a request object by its camelCase name, in either spelling."""
    if not isinstance(value, Mapping):
        return default
    if name in value:
        return value[name]
    return value.get(re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name), default)


def question_from(model: str, body: Json, *, thinks: bool) -> Question:
    """What a `generateContent` body asks.

    Raises:
        ApiProblem: 400, in the API's words.
    """
    contents = _contents(body)
    config = field(body, "generationConfig") or {}
    thinking = field(config, "thinkingConfig") or {}
    tools, searches = _tools(body)
    prompt = _prompt_tokens(body, contents)
    last = field(contents[-1], "parts") or []
    schema = field(config, "responseSchema") or field(config, "responseJsonSchema")
    mime_type = field(config, "responseMimeType") or ""
    cached = 2048 if field(body, "cachedContent") else cached_share(sum(prompt.values()), len(contents))
    if field(body, "cachedContent"):
        prompt["TEXT"] = prompt.get("TEXT", 0) + cached
    return Question(
        model=model,
        key=content.canonical(_what_counts(body)),
        last_text=" ".join(str(part.get("text") or "") for part in last if isinstance(part, Mapping)).strip(),
        prompt_tokens=prompt,
        cached_tokens=cached,
        tools=tools,
        after_tool_result=any(field(part, "functionResponse") is not None for part in last),
        searches=searches,
        json_output=bool(schema) or mime_type == "application/json",
        schema=schema,
        thinks=thinks and field(thinking, "thinkingBudget") != 0,
        shows_thoughts=bool(field(thinking, "includeThoughts")),
        max_tokens=field(config, "maxOutputTokens"),
        modalities=tuple(field(config, "responseModalities") or ("TEXT",)),
        candidates=int(field(config, "candidateCount") or 1),
    )


def check_signatures(model: str, body: Json) -> None:
    """Gemini 3 refuses replayed function calls of the current turn that lost their thought signature."""
    if not model.startswith("gemini-3"):
        return
    for position, turn in reversed(list(enumerate(_contents(body), 1))):
        parts = [part for part in field(turn, "parts") or [] if isinstance(part, Mapping)]
        if turn.get("role", "user") == "user" and any("text" in part for part in parts):
            return
        calls = [part for part in parts if field(part, "functionCall") is not None]
        if calls and not field(calls[0], "thoughtSignature"):
            name = field(calls[0], "functionCall").get("name")
            raise invalid_argument(
                f"Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                f"work correctly. Function call `default_api:{name}`, position {position}."
            )


def chunks_of(question: Question, answer: Answer, *, version: str, seed: int, wanted: int | None) -> list[Json]:
    """The objects of a stream; `wanted` is how many, as far as there is enough to say."""
    if answer.block_reason is not None:
        blocked = {"promptFeedback": {"blockReason": answer.block_reason}}
        return [blocked | _tail(question, answer, version, 0, 0)]
    parts = _stream_parts(answer, wanted)
    objects: list[Json] = []
    said = thought = 0
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part.get("thought"):
            thought += answer.thought_tokens // max(1, len(answer.thoughts))
        else:
            thought = answer.thought_tokens
            said += content.tokens(part.get("text") or "")
        said = answer.output_tokens if last or "functionCall" in part else min(said, answer.output_tokens)
        candidate = _candidate([part], answer, question, last=last)
        shown = 0 if number == 0 and not last and answer.rng.random() < 0.57 else said
        objects.append({"candidates": [candidate]} | _tail(question, answer, version, shown, thought))
    objects[-1]["candidates"] += _more_candidates(question, seed)
    return objects


def whole_of(question: Question, answer: Answer, *, version: str, seed: int) -> Json:
    """The unary response."""
    if answer.block_reason is not None:
        return chunks_of(question, answer, version=version, seed=seed, wanted=1)[0]
    candidates = [_candidate(_whole_parts(answer), answer, question, last=True), *_more_candidates(question, seed)]
    return {"candidates": candidates} | _tail(question, answer, version, answer.output_tokens, answer.thought_tokens)


def with_int_enums(value: Any) -> Any:
    """The same with the numbers of enum values instead of their names (`$alt=json;enum-encoding=int`)."""
    if isinstance(value, list):
        return [with_int_enums(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: item
        if name == "args"
        else ENUM_NUMBERS[name].get(item, 0)
        if name in ENUM_NUMBERS and isinstance(item, str)
        else with_int_enums(item)
        for name, item in value.items()
    }


def prompt_tokens(body: Json) -> dict[str, int]:
    """Tokens by modality of everything a body sends."""
    return _prompt_tokens(body, _contents(body))


def _contents(body: Json) -> list[Json]:
    contents = field(body, "contents")
    contents = [contents] if isinstance(contents, Mapping) else contents
    if not isinstance(contents, list) or not contents or not all(isinstance(turn, Mapping) for turn in contents):
        raise invalid_argument("* GenerateContentRequest.contents: contents is not specified\n")
    return [dict(turn) for turn in contents]


def _what_counts(body: Json) -> Json:
    """The body without what must not change an answer: temperature and the spelling of the model."""
    config = {name: value for name, value in (field(body, "generationConfig") or {}).items() if name != "temperature"}
    ignored = ("generationConfig", "generation_config", "model")
    return {name: value for name, value in body.items() if name not in ignored} | {"generationConfig": config}


def _tools(body: Json) -> tuple[tuple[Tool, ...], bool]:
    calling = field(field(body, "toolConfig") or {}, "functionCallingConfig") or {}
    allowed = field(calling, "allowedFunctionNames")
    tools, searches = [], False
    for entry in field(body, "tools") or []:
        searches = searches or field(entry, "googleSearch") is not None
        for declared in field(entry, "functionDeclarations") or []:
            schema = field(declared, "parametersJsonSchema") or field(declared, "parameters") or {"type": "object"}
            if not allowed or declared.get("name") in allowed:
                tools.append(Tool(str(declared.get("name")), schema))
    return (() if field(calling, "mode") == "NONE" else tuple(tools)), searches


def _prompt_tokens(body: Json, contents: Sequence[Json]) -> dict[str, int]:
    counts = {"TEXT": 0}
    for turn in (*contents, field(body, "systemInstruction") or {}):
        parts = [turn] if isinstance(turn, str) else field(turn, "parts") or []
        for part in [parts] if isinstance(parts, Mapping) else parts:
            modality, count = _part_tokens(part)
            counts[modality] = counts.get(modality, 0) + count
    if field(body, "tools"):
        counts["TEXT"] += content.tokens(content.canonical(field(body, "tools")))
    return {name: count for name, count in counts.items() if count or name == "TEXT"}


def _part_tokens(part: Any) -> tuple[str, int]:
    if isinstance(part, str):
        return "TEXT", content.tokens(part)
    media = field(part, "inlineData") or field(part, "fileData")
    if media:
        kind = str(field(media, "mimeType") or "").split("/")[0].upper()
        modality = kind if kind in INPUT_MEDIA_TOKENS else "DOCUMENT"
        return modality, INPUT_MEDIA_TOKENS[modality]
    text = part.get("text") if isinstance(part, Mapping) else None
    return "TEXT", content.tokens(text if isinstance(text, str) else content.canonical(part))


def _stream_parts(answer: Answer, wanted: int | None) -> list[Json]:
    parts: list[Json] = [{"text": text, "thought": True} for text in answer.thoughts]
    if answer.call is not None:
        # The recorded shape: the call in a chunk of its own, then an empty text that carries the end.
        return [*parts, _call_part(answer), {"text": ""}]
    if answer.media is not None:
        parts.append(_media_part(answer))
    room = wanted - len(parts) if wanted else answer.rng.randint(1, max(1, min(24, len(answer.text) // 60)))
    parts += [{"text": piece} for piece in content.split_text(answer.rng, answer.text, room) if piece]
    if not parts:
        parts.append({"text": ""})
    if answer.signature and not wanted and answer.rng.random() < 0.4:
        parts.append({"text": "", "thoughtSignature": answer.signature})
    elif answer.signature:
        parts[-1] = parts[-1] | {"thoughtSignature": answer.signature}
    return parts


def _whole_parts(answer: Answer) -> list[Json]:
    parts: list[Json] = [{"text": "".join(answer.thoughts), "thought": True}] if answer.thoughts else []
    if answer.call is not None:
        return [*parts, _call_part(answer)]
    if answer.text:
        signed = {"thoughtSignature": answer.signature} if answer.signature else {}
        parts.append({"text": answer.text} | signed)
    if answer.media is not None:
        parts.append(_media_part(answer))
    return parts


def _call_part(answer: Answer) -> Json:
    assert answer.call is not None
    call = {"name": answer.call.name, "args": answer.call.arguments, "id": answer.call.id}
    return {"functionCall": call, "thoughtSignature": answer.signature or SKIP_SIGNATURE}


def _media_part(answer: Answer) -> Json:
    assert answer.media is not None
    data = base64.b64encode(answer.media.data).decode()
    return {"inlineData": {"mimeType": answer.media.mime_type, "data": data}}


def _candidate(parts: list[Json], answer: Answer, question: Question, *, last: bool) -> Json:
    candidate: Json = {"content": {"parts": parts, "role": "model"}}
    if last:
        candidate["finishReason"] = answer.finish
    candidate["index"] = 0
    if last and answer.call is not None:
        candidate["finishMessage"] = "Model generated function call(s)."
    if last and answer.finish == "SAFETY":
        candidate["safetyRatings"] = [
            {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}
        ]
    if last and question.searches and answer.call is None:
        candidate["groundingMetadata"] = {
            "webSearchQueries": [question.last_text[:60]],
            "groundingChunks": [{"web": {"uri": "https://example.com/article", "title": "example.com"}}],
        }
    return candidate


def _more_candidates(question: Question, seed: int) -> list[Json]:
    more = []
    for index in range(1, question.candidates):
        other = answer_for(question, seed, nonce=-index)
        parts = [{"text": other.text}]
        more.append({"content": {"parts": parts, "role": "model"}, "finishReason": other.finish, "index": index})
    return more


def _tail(question: Question, answer: Answer, version: str, said: int, thought: int) -> Json:
    return {
        "usageMetadata": usage(question, said=said, thought=thought, tool=answer.tool_tokens),
        "modelVersion": version,
        "responseId": answer.id,
    }


def usage(question: Question, *, said: int, thought: int, tool: int = 0) -> Json:
    """`usageMetadata`; values of 0 are left out, and the total is the sum of its addends."""
    details = [{"modality": name, "tokenCount": count} for name, count in question.prompt_tokens.items()]
    full: Json = {
        "promptTokenCount": question.prompt_total,
        "candidatesTokenCount": said,
        "totalTokenCount": question.prompt_total + said + thought + tool,
        "cachedContentTokenCount": question.cached_tokens,
        "promptTokensDetails": details,
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": question.cached_tokens}]
        if question.cached_tokens
        else 0,
        "toolUsePromptTokenCount": tool,
        "thoughtsTokenCount": thought,
        "serviceTier": "standard",
    }
    return {name: value for name, value in full.items() if value}
