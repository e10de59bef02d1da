"""The two bodies of an exchange -> `Decoded`."""

from __future__ import annotations

from gemini_caching_proxy.bodies import Split, member, read_json, split_request, split_response
from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.providers.answers import Answer
from gemini_caching_proxy.providers.base import Decoded
from gemini_caching_proxy.providers.blocks import answer_text, thought_text
from gemini_caching_proxy.providers.reading import Reading

from .dialects import read_body

_CONVERSATIONS = frozenset(
    (
        *("generate_content", "stream_generate_content", "create_interaction", "openai_chat_completions"),
        *("openai_responses", "raw_predict", "stream_raw_predict"),
    )
)
"""Operations whose requests carry a conversation that grows."""
_BYTES = frozenset(("upload_file", "upload_chunk", "upload_environment_file", "upload_to_file_search_store", "unknown"))
"""Operations whose request may rightly be no JSON."""


def decode(
    operation: str, request_body: bytes, status: int | None, response_headers: Headers, response_body: bytes
) -> Decoded:
    """What the bodies of an exchange say; never raises, and says what it could not read."""
    request = split_request(request_body)
    array_streams = operation.startswith("stream_")
    answer, reading = read_body(operation, response_headers, response_body, array_streams=array_streams)
    text = answer_text(reading.messages) or reading.error_message or reading.note or answer.text
    return Decoded(
        stream_shape=answer.shape,
        model=_text_member(request_body, "model"),
        model_version=reading.model_version,
        response_id=reading.response_id,
        previous_response_id=_previous(operation, request_body),
        finish_reason=reading.finish_reason,
        usage=reading.usage,
        complete=reading.complete,
        error_message=reading.error_message or _plain_error(status, answer),
        first_content_event=reading.first_content_event,
        request_pieces=request.pieces,
        response_pieces=split_response(response_body, thought_text(reading.messages)),
        conversation=request.conversation if operation in _CONVERSATIONS else (),
        response_text=text,
        error="; ".join(_problems(operation, request, answer, reading)) or None,
    )


def _text_member(body: bytes, name: str) -> str | None:
    """A string at the top of a request."""
    raw = member(body, name) if b'"' + name.encode() + b'"' in body else b""
    if raw[:1] != b'"':
        return None
    try:
        value = read_json(raw)
    except ValueError:
        return None
    return value.removeprefix("models/")[:200] if isinstance(value, str) and value else None


def _previous(operation: str, body: bytes) -> str | None:
    if operation == "create_interaction":
        return _text_member(body, "previous_interaction_id")
    return _text_member(body, "previous_response_id") if operation == "openai_responses" else None


def _plain_error(status: int | None, answer: Answer) -> str | None:
    """An error told in plain text or HTML, as front ends and captive portals do."""
    return answer.text[:300] or None if status is not None and status >= 400 else None


def _problems(operation: str, request: Split, answer: Answer, reading: Reading) -> list[str]:
    problems = []
    if request.pieces and not request.is_json and operation not in _BYTES:
        problems.append("the request body is not JSON")
    if answer.problem and operation not in ("unknown", "download_file", "get_environment_file"):
        problems.append(answer.problem)
    return problems
