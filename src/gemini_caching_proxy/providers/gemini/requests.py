"""Request bodies of each dialect -> what they ask for: the model, the canonical value, and what makes answers vary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gemini_caching_proxy.providers.exact import Refusal
from gemini_caching_proxy.providers.fields import pick, pick_list, pick_text

from .canonical import (
    BATCH_EMBEDDING,
    CODE_ASSIST,
    COUNTING,
    EMBEDDING,
    GENERATION,
    Table,
    bare_model,
    read_message,
)

NATIVE_TABLES: Final[dict[str, Table]] = {
    "generate_content": GENERATION,
    "count_tokens": COUNTING,
    "compute_tokens": COUNTING,
    "embed_content": EMBEDDING,
    "batch_embed_contents": BATCH_EMBEDDING,
}
_TRACKING: Final = ("userPromptId", "sessionId", "session_id")
"""Ids by which Code Assist's client counts its calls."""
_OWN_TOOLS: Final = frozenset(("functionDeclarations",))
_A_FILE: Final = "a file"
_EXPLICIT_CACHE: Final = "an explicit cache"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for."""

    model: str
    value: Any
    """Canonical, without the model."""
    zero_temperature: bool = False
    depends_on: str = ""
    streams: bool = False
    """Whether the body asks for server-sent events."""


def read_native(operation: str, model: str | None, value: Any) -> Asked:
    """A body of the API's own messages; the model is in the path, and a body may repeat it."""
    body = read_message(_object(value), NATIVE_TABLES[operation])
    model = model or _taken(body, "model")
    _drop_model(body, model)
    for each in pick_list(body, "requests"):
        _drop_model(each, model)
    if operation != "generate_content":
        return Asked(model, _counted(body, model), depends_on=_source(body))
    return Asked(model, body, _is_zero(pick(body.get("generationConfig"), "temperature")), _native_dependency(body))


def _counted(body: dict[str, Any], model: str) -> dict[str, Any]:
    """A request to count, out of its envelope: contents alone are the same with and without it."""
    inner = body.get("generateContentRequest")
    if not isinstance(inner, dict):
        return body
    _drop_model(inner, model)
    return inner if len(body) == 1 and inner.keys() <= {"contents"} else body


def read_code_assist(value: Any) -> Asked:
    """A request in Code Assist's envelope."""
    body = read_message(_object(value), CODE_ASSIST)
    request = _object(body.get("request"))
    for name in _TRACKING:
        body.pop(name, None)
        request.pop(name, None)
    model = _taken(body, "model") or _taken(request, "model")
    return Asked(
        model, body, _is_zero(pick(request.get("generationConfig"), "temperature")), _native_dependency(request)
    )


def read_openai(value: Any) -> Asked:
    """A body in the OpenAI dialect: its keys have one spelling, and null is absent."""
    body = _without_nulls(_object(value))
    model = bare_model(_taken(body, "model"))
    streams = body.get("stream") is True
    return Asked(model, body, _is_zero(body.get("temperature")), _openai_dependency(body), streams)


def read_interaction(value: Any) -> Asked:
    """A body that creates an interaction.

    Raises:
        Refusal: its answer is kept at the provider, or is made from one that is.
    """
    body = _without_nulls(_object(value))
    if body.pop("store", True) is not False:
        raise Refusal("a stored interaction")
    for name, why in (
        ("previous_interaction_id", "continues a stored interaction"),
        ("background", "works in the background"),
        ("agent", "asks an agent"),
    ):
        if body.get(name):
            raise Refusal(why)
        body.pop(name, None)
    model = bare_model(_taken(body, "model"))
    zero = _is_zero(pick(body.get("generation_config"), "temperature"))
    return Asked(model, body, zero, _interaction_dependency(body), body.get("stream") is True)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal("not a JSON object")
    return value


def _without_nulls(body: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in body.items() if item is not None and not (name == "stream" and item is False)}


def _taken(body: dict[str, Any], name: str) -> str:
    """A string that leaves the body."""
    value = body.get(name)
    if not isinstance(value, str):
        return ""
    del body[name]
    return value


def _drop_model(body: Any, model: str) -> None:
    if isinstance(body, dict) and body.get("model") == model:
        del body["model"]


def _is_zero(temperature: Any) -> bool:
    return type(temperature) is int and temperature == 0


def _native_dependency(body: dict[str, Any]) -> str:
    """What a generated answer depends on besides the request."""
    for tool in _listed(body.get("tools")):
        for name in tool if isinstance(tool, dict) else ("unknown",):
            if name not in _OWN_TOOLS:
                return f"tool {name}"
    return _source(body)


def _source(body: dict[str, Any]) -> str:
    """What a request takes its content from besides itself."""
    if body.get("cachedContent"):
        return _EXPLICIT_CACHE
    inner = body.get("generateContentRequest")
    if isinstance(inner, dict) and (source := _source(inner)):
        return source
    contents = [*pick_list(body, "contents"), body.get("content"), body.get("systemInstruction")]
    contents.extend(pick(each, "content") for each in pick_list(body, "requests"))
    if any("fileData" in part for content in contents for part in _parts(content)):
        return _A_FILE
    return ""


def _parts(content: Any) -> Iterator[dict[str, Any]]:
    """Parts of a content, with those that results of functions bring."""
    for part in pick_list(content, "parts"):
        if isinstance(part, dict):
            yield part
            if "functionResponse" in part:
                yield from (each for each in pick_list(part["functionResponse"], "parts") if isinstance(each, dict))


def _openai_dependency(body: dict[str, Any]) -> str:
    if tool := _typed_tool(body):
        return tool
    if "web_search_options" in body:
        return "tool web_search"
    for google in (pick(body.get("extra_body"), "google"), body.get("google")):
        if pick(google, "cached_content", "cachedContent"):
            return _EXPLICIT_CACHE
        if isinstance(google, dict) and "tools" in google:
            return "a tool"
    for message in pick_list(body, "messages"):
        for part in pick_list(message, "content"):
            if _is_remote(part):
                return _A_FILE
    return ""


def _typed_tool(body: dict[str, Any]) -> str:
    """The first tool that is no function, where tools have types."""
    for tool in _listed(body.get("tools")):
        if (kind := pick_text(tool, "type")) != "function":
            return f"tool {kind or 'unknown'}"
    return ""


def _listed(value: Any) -> list[Any]:
    """A list, or what is sent in place of one."""
    return value if isinstance(value, list) else [value] if value else []


def _is_remote(part: Any) -> bool:
    """Whether a part of a message's content lies somewhere else."""
    image = pick(part, "image_url", "video_url")
    url = image if isinstance(image, str) else pick_text(image, "url")
    if url and not url.startswith("data:"):
        return True
    return bool(pick_text(pick(part, "file"), "file_id") or pick_text(part, "file_id", "file_url"))


def _interaction_dependency(body: dict[str, Any]) -> str:
    if tool := _typed_tool(body):
        return tool
    if body.get("cached_content"):
        return _EXPLICIT_CACHE
    for name in ("environment", "webhook_config", "continuation_token"):
        if body.get(name):
            return name.replace("_", " ")
    return _A_FILE if _has_uri(body.get("input")) else ""


def _has_uri(value: Any) -> bool:
    """Whether a content, a step or a list of them names a file."""
    if isinstance(value, list):
        return any(map(_has_uri, value))
    if not isinstance(value, dict):
        return False
    uri = pick_text(value, "uri")
    return bool(uri and not uri.startswith("data:")) or any(
        _has_uri(value.get(name)) for name in ("content", "parts", "result")
    )
