"""Requests of the API's own messages -> one way to write them.

Keys become camel case where they belong to the API's messages, and nowhere else: arguments and results of functions,
names of schema properties, JSON schemas, labels and everything unknown are the user's and stay as they are. The
spellings that real clients use are in the reference of the API's JSON mapping (protobuf ProtoJSON): base64 in either
alphabet, numbers as strings, absent for empty. Values are those of `exact.read_exact`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from gemini_caching_proxy.providers.exact import Refusal

Rule = Callable[[Any], Any]
"""A value of the API -> its canonical form, or `_GONE` where that is to leave it out."""
Table = Mapping[str, tuple[str, Rule | None, bool]]
"""Key as sent -> its canonical name, how its value is read (None: the user's), and whether null is a value of it."""

_GONE: Final = object()
_DIGITS = re.compile(r"-?(?:0|[1-9]\d{0,18})")
_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")


def snake(name: str) -> str:
    """`thinkingBudget` -> `thinking_budget`."""
    return _CAPITAL.sub(r"_\1", name).lower()


def read_message(value: Any, table: Table) -> Any:
    """A message of the API; what is no object stays as it is.

    Raises:
        Refusal: a key stands twice, once in each spelling.
    """
    if type(value) is not dict:
        return value
    result: dict[str, Any] = {}
    for key, item in value.items():
        known = table.get(key)
        if known is None:
            name = key
        else:
            name, rule, nullable = known
            if item is None and not nullable:
                continue
            if rule is not None and (item := rule(item)) is _GONE:
                continue
        if name in result:
            raise Refusal("duplicate keys")
        result[name] = item
    return result


def _table(*plain: str, values: tuple[str, ...] = (), **rules: Rule) -> Table:
    """`plain` fields have no rule, `values` may be null (`google.protobuf.Value`)."""
    table: dict[str, tuple[str, Rule | None, bool]] = {}
    for name, rule in [*((name, None) for name in (*plain, *values)), *rules.items()]:
        table[name] = table[snake(name)] = (name, rule, name in values)
    return table


def _one(table: Table) -> Rule:
    return lambda value: read_message(value, table)


def _setting(table: Table) -> Rule:
    """A message that is left out when it says nothing."""
    return lambda value: read_message(value, table) or _GONE


def _many(table: Table) -> Rule:
    """A repeated message; empty is the same as absent."""

    def rule(value: Any) -> Any:
        if type(value) is not list:
            return value
        return [read_message(each, table) for each in value] or _GONE

    return rule


def _lone_or_many(read: Rule) -> Rule:
    """A repeated message that clients also send as a single object."""

    def rule(value: Any) -> Any:
        if type(value) is dict:
            return [read(value)]
        if type(value) is not list:
            return value
        return [read(each) for each in value] or _GONE

    return rule


def _listed(value: Any) -> Any:
    """A repeated scalar."""
    return _GONE if value == [] else value


def _number(value: Any) -> Any:
    """64-bit numbers may come as strings."""
    return int(value) if type(value) is str and _DIGITS.fullmatch(value) is not None else value


def _base64(value: Any) -> Any:
    """Bytes: the standard alphabet, without padding. Padding that is wrong stays."""
    if type(value) is not str:
        return value
    bare = value.rstrip("=")
    padding = len(value) - len(bare)
    if padding and (padding > 2 or len(value) % 4):
        return value
    return bare.replace("-", "+").replace("_", "/")


def bare_model(value: Any) -> Any:
    """A model's name without its collection."""
    return value.removeprefix("models/") if type(value) is str else value


def read_content(value: Any) -> Any:
    content = read_message(value, _CONTENT)
    if type(content) is dict:
        content.setdefault("role", "user")
    return content


def _read_system(value: Any) -> Any:
    """A system instruction; its role has no meaning, and a bare string is its text."""
    if type(value) is str:
        return {"parts": [{"text": value}]}
    content = read_message(value, _CONTENT)
    if type(content) is dict:
        content.pop("role", None)
    return content


def _read_schema(value: Any) -> Any:
    return read_message(value, _SCHEMA)


def _read_schemas(value: Any) -> Any:
    return [_read_schema(each) for each in value] if type(value) is list else value


def _read_properties(value: Any) -> Any:
    """Schemas by names that the user gave."""
    return {name: _read_schema(schema) for name, schema in value.items()} if type(value) is dict else value


def _read_generation(value: Any) -> Any:
    """The request inside a request to count tokens, or inside Code Assist's envelope."""
    return read_message(value, GENERATION)


def _read_part(value: Any) -> Any:
    return read_message(value, _PART)


_SCHEMA: Final = _table(
    *("type", "format", "title", "description", "nullable", "enum", "required", "propertyOrdering", "pattern"),
    *("minimum", "maximum"),
    values=("default", "example"),
    maxItems=_number,
    minItems=_number,
    maxLength=_number,
    minLength=_number,
    maxProperties=_number,
    minProperties=_number,
    anyOf=_read_schemas,
    items=_read_schema,
    properties=_read_properties,
)
_BLOB: Final = _table("mimeType", "displayName", data=_base64)
_FILE: Final = _table("mimeType", "fileUri", "displayName")
_MEDIUM: Final = _table(inlineData=_one(_BLOB), fileData=_one(_FILE))
_PART: Final = _table(
    *("text", "thought", "partMetadata"),
    thoughtSignature=_base64,
    inlineData=_one(_BLOB),
    fileData=_one(_FILE),
    functionCall=_one(_table("id", "name", "args", "partialArgs", "willContinue")),
    functionResponse=_one(_table("id", "name", "response", "willContinue", "scheduling", parts=_many(_MEDIUM))),
    executableCode=_one(_table("id", "language", "code")),
    codeExecutionResult=_one(_table("id", "outcome", "output")),
    toolCall=_one(_table("id", "toolType", "toolName", "args")),
    toolResponse=_one(_table("id", "toolType", "toolName", "response")),
    videoMetadata=_one(_table("startOffset", "endOffset", "fps")),
    mediaResolution=_one(_table("level", numTokens=_number)),
)
_CONTENT: Final = _table("role", parts=_lone_or_many(_read_part))
_FUNCTION: Final = _table(
    *("name", "description", "behavior"),
    values=("parametersJsonSchema", "responseJsonSchema"),
    parameters=_read_schema,
    response=_read_schema,
)
_TOOL: Final = _table(
    *("googleSearch", "googleSearchRetrieval", "googleMaps", "urlContext", "codeExecution", "fileSearch"),
    *("computerUse", "mcpServers", "enterpriseWebSearch", "retrieval"),
    functionDeclarations=_many(_FUNCTION),
)
_CALLING: Final = _table("mode", "streamFunctionCallArguments", allowedFunctionNames=_listed)
_TOOL_CONFIG: Final = _table(
    "includeServerSideToolInvocations",
    functionCallingConfig=_one(_CALLING),
    retrievalConfig=_one(_table("languageCode", latLng=_one(_table("latitude", "longitude")))),
)
_VOICE: Final = _table(prebuiltVoiceConfig=_one(_table("voiceName")))
_SPEAKER: Final = _table("speaker", voiceConfig=_one(_VOICE))
_SPEECH: Final = _table(
    "languageCode",
    voiceConfig=_one(_VOICE),
    multiSpeakerVoiceConfig=_one(_table(speakerVoiceConfigs=_many(_SPEAKER))),
)
_GENERATION_CONFIG: Final = _table(
    *("topP", "presencePenalty", "frequencyPenalty", "responseMimeType", "responseLogprobs"),
    *("mediaResolution", "audioTimestamp", "enableEnhancedCivicAnswers", "enableAffectiveDialog"),
    values=("responseJsonSchema", "_responseJsonSchema"),
    temperature=_number,
    topK=_number,
    candidateCount=_number,
    maxOutputTokens=_number,
    seed=_number,
    logprobs=_number,
    stopSequences=_listed,
    responseModalities=_listed,
    responseSchema=_read_schema,
    thinkingConfig=_one(_table("includeThoughts", "thinkingLevel", thinkingBudget=_number)),
    speechConfig=_one(_SPEECH),
    imageConfig=_one(_table("aspectRatio", "imageSize")),
)
GENERATION: Final = _table(
    *("cachedContent", "labels", "serviceTier", "store", "continuationToken"),
    model=bare_model,
    contents=_lone_or_many(read_content),
    systemInstruction=_read_system,
    tools=_lone_or_many(_one(_TOOL)),
    toolConfig=_setting(_TOOL_CONFIG),
    safetySettings=_many(_table("category", "threshold", "method")),
    generationConfig=_setting(_GENERATION_CONFIG),
)
"""GenerateContentRequest."""
COUNTING: Final = {**GENERATION, **_table(generateContentRequest=_read_generation)}
"""CountTokensRequest; Vertex takes the fields of a generation beside `contents`."""
EMBEDDING: Final = _table("taskType", "title", model=bare_model, content=read_content, outputDimensionality=_number)
"""EmbedContentRequest."""
BATCH_EMBEDDING: Final = _table(requests=_many(EMBEDDING))
"""BatchEmbedContentsRequest."""
CODE_ASSIST: Final = _table("project", "userPromptId", model=bare_model, request=_read_generation)
"""The envelope around requests to Code Assist."""
