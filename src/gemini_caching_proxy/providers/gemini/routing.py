"""A request line -> where it goes and what it asks, for everything a Gemini client calls.

Runs in the worker: bytes only, no JSON, no state. Operations are named after the API's own methods in snake case; what
is not known is `unknown` and goes where it was going.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from gemini_caching_proxy.providers.base import Route

from .paths import recognise

NAME = "gemini"

_MODEL_VERBS = {
    b"generateContent": "generate_content",
    b"streamGenerateContent": "stream_generate_content",
    b"countTokens": "count_tokens",
    b"computeTokens": "compute_tokens",
    b"embedContent": "embed_content",
    b"batchEmbedContents": "batch_embed_contents",
    b"asyncBatchEmbedContent": "async_batch_embed_content",
    b"batchGenerateContent": "batch_generate_content",
    b"predict": "predict",
    b"predictLongRunning": "predict_long_running",
    b"fetchPredictOperation": "fetch_predict_operation",
    b"rawPredict": "raw_predict",
    b"streamRawPredict": "stream_raw_predict",
    b"generateAnswer": "generate_answer",
    b"generateText": "generate_text",
    b"generateMessage": "generate_message",
    b"embedText": "embed_text",
    b"batchEmbedText": "batch_embed_text",
    b"countTextTokens": "count_text_tokens",
    b"countMessageTokens": "count_message_tokens",
    b"transferOwnership": "transfer_ownership",
}
_VERBS = {
    b"register": "register_files",
    b"download": "download_file",
    b"importFile": "import_file",
    b"uploadToFileSearchStore": "upload_to_file_search_store",
    b"uploadToRagStore": "upload_to_rag_store",
    b"query": "query_corpus",
    b"updateGenerateContentBatch": "update_batch",
    b"updateEmbedContentBatch": "update_batch",
    b"ping": "ping_webhook",
    b"rotateSigningSecret": "rotate_signing_secret",
    b"wait": "wait_operation",
}
_CODE_ASSIST = {
    b"generateContent": "generate_content",
    b"streamGenerateContent": "stream_generate_content",
    b"countTokens": "count_tokens",
    b"loadCodeAssist": "load_code_assist",
    b"onboardUser": "onboard_user",
}
_NOUNS = {
    b"models": ("model", "models"),
    b"tunedModels": ("tuned_model", "tuned_models"),
    b"cachedContents": ("cached_content", "cached_contents"),
    b"files": ("file", "files"),
    b"generatedFiles": ("generated_file", "generated_files"),
    b"batches": ("batch", "batches"),
    b"operations": ("operation", "operations"),
    b"corpora": ("corpus", "corpora"),
    b"fileSearchStores": ("file_search_store", "file_search_stores"),
    b"ragStores": ("rag_store", "rag_stores"),
    b"documents": ("document", "documents"),
    b"chunks": ("chunk", "chunks"),
    b"permissions": ("permission", "permissions"),
    b"auth_tokens": ("auth_token", "auth_tokens"),
    b"interactions": ("interaction", "interactions"),
    b"agents": ("agent", "agents"),
    b"environments": ("environment", "environments"),
    b"credentials": ("credential", "credentials"),
    b"triggers": ("trigger", "triggers"),
    b"executions": ("trigger_execution", "trigger_executions"),
    b"voices": ("voice", "voices"),
    b"webhooks": ("webhook", "webhooks"),
    b"decisions": ("decision", "decisions"),
    b"tuningJobs": ("tuning_job", "tuning_jobs"),
    b"batchPredictionJobs": ("batch_prediction_job", "batch_prediction_jobs"),
    b"endpoints": ("endpoint", "endpoints"),
}
_OPENAI = {
    b"chat": "openai_chat_completions",
    b"completions": "openai_completions",
    b"embeddings": "openai_embeddings",
    b"models": "openai_models",
    b"images": "openai_images",
    b"batches": "openai_batches",
    b"files": "openai_files",
    b"responses": "openai_responses",
    b"videos": "openai_videos",
    b"audio": "openai_audio",
}
_SECRET_ANSWERS = frozenset(("create_auth_token", "create_credential", "create_webhook", "rotate_signing_secret"))
"""Their answers hold a secret that is shown once."""
_ON_ONE = {b"GET": "get", b"PATCH": "update", b"PUT": "update", b"DELETE": "delete"}
_ON_ALL = {b"GET": "list", b"POST": "create", b"DELETE": "delete"}
_COLON = re.compile(rb":|%3[Aa]")


def route(method: bytes, target: bytes) -> Route:
    """Where a request goes; the query is passed on as it is."""
    path, question, query = target.partition(b"?")
    api = recognise(path)
    if api is None:
        return Route(NAME, "unknown", None, target)
    segments = api.segments
    operation, model = _read(method, segments, query)
    clean = target if api.path == path else api.path + question + query
    return Route(
        NAME,
        operation,
        model,
        clean,
        api.prefix,
        credential_style="bearer" if b"openai" in segments[1:2] else "x-goog-api-key",
        needs_no_credential=_has(query, b"upload_id") or _has(query, b"access_token"),
        withhold_response=operation in _SECRET_ANSWERS,
    )


def _has(query: bytes, name: bytes) -> bool:
    return bool(query) and any(parameter.partition(b"=")[0] == name for parameter in query.split(b"&"))


def _read(method: bytes, segments: tuple[bytes, ...], query: bytes) -> tuple[str, str | None]:
    """Operation and model of a path that was put right."""
    head, rest = segments[0], segments[1:]
    if head == b"ws":
        return _read_socket(rest), None
    if head == b"upload":
        return _read_upload(rest[1:], query), None
    if head == b"download":
        return "download_file", None
    if head.startswith(b"v1internal:"):
        return _CODE_ASSIST.get(head.partition(b":")[2], "unknown"), None
    if rest[0] == b"openai":
        operation = _OPENAI.get(rest[1], "unknown") if len(rest) > 1 else "unknown"
        return operation, _openai_model(rest)
    if b"openapi" in rest[:-1]:
        return _OPENAI.get(rest[rest.index(b"openapi") + 1], "unknown"), None
    return _read_native(method, rest, query)


def _read_socket(rest: tuple[bytes, ...]) -> str:
    """A WebSocket: Live, Live with an ephemeral token, or music."""
    service = rest[-1].rpartition(b".")[2]
    if service == b"BidiGenerateMusic":
        return "live_music"
    return "live" if service in (b"BidiGenerateContent", b"BidiGenerateContentConstrained") else "unknown"


def _read_upload(rest: tuple[bytes, ...], query: bytes) -> str:
    """The start of an upload, or a call with its bytes (section 2)."""
    if _has(query, b"upload_id"):
        return "upload_chunk"
    if rest[0] == b"environments":
        return "upload_environment_file"
    verb = _split_verb(rest[-1])[1]
    return _VERBS.get(verb, "unknown") if verb else "upload_file"


def _openai_model(rest: tuple[bytes, ...]) -> str | None:
    return _model_name(rest[-1]) if rest[1:2] == (b"models",) and len(rest) > 2 else None


def _read_native(method: bytes, rest: tuple[bytes, ...], query: bytes) -> tuple[str, str | None]:
    name, verb = _split_verb(rest[-1])
    model = _model_in((*rest[:-1], name))
    if verb:
        return _read_verb(rest, verb), model
    collection, is_one = _collection_of(rest)
    if method == b"GET" and _has(query, b"alt") and is_one and b"alt=media" in query.split(b"&"):
        return "download_file", None
    if rest[0] == b"environments" and b"files" in rest[2:3]:
        return {b"GET": "get_environment_file", b"DELETE": "delete_environment_file"}.get(method, "unknown"), None
    if rest[0] == b"interactions" and rest[2:] == (b"cancel",):
        return "cancel_interaction", None
    noun = _NOUNS.get(collection)
    action = (_ON_ONE if is_one else _ON_ALL).get(method)
    if noun is None or action is None:
        return "unknown", model
    return f"{action}_{noun[1] if action == 'list' else noun[0]}", model


def _read_verb(rest: tuple[bytes, ...], verb: bytes) -> str:
    if verb in (b"cancel", b"run"):
        collection, _ = _collection_of(rest)
        noun = _NOUNS.get(collection)
        return f"{verb.decode()}_{noun[0]}" if noun else "unknown"
    return _MODEL_VERBS.get(verb) or _VERBS.get(verb, "unknown")


def _split_verb(segment: bytes) -> tuple[bytes, bytes]:
    name, verb = segment, b""
    for match in _COLON.finditer(segment):
        name, verb = segment[: match.start()], segment[match.end() :]
    return name, verb


def _collection_of(rest: tuple[bytes, ...]) -> tuple[bytes, bool]:
    """The innermost collection that a path names, and whether it names one thing in it."""
    if rest[0] in (b"projects", b"publishers"):
        known = [index for index, segment in enumerate(rest) if segment in _NOUNS]
        if not known:
            return b"", False
        rest = rest[known[0] :]
    if rest[2:3] == (b"upload",):
        rest = rest[:2] + rest[3:]
    if len(rest) % 2:
        return rest[-1], False
    return rest[-2], True


def _model_in(rest: tuple[bytes, ...]) -> str | None:
    """The id after `models/`; a tuned model keeps its collection, for ids of both kinds may be the same."""
    for index, segment in enumerate(rest[:-1]):
        if segment == b"models":
            return _model_name(rest[index + 1])
        if segment == b"tunedModels":
            return "tunedModels/" + (_model_name(rest[index + 1]) or "")
    return None


def _model_name(segment: bytes) -> str | None:
    return unquote(segment.decode("latin-1"), errors="replace") or None
